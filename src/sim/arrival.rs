//! Stops time just before a message arrives, for tests that choose what happens then.

use std::cmp::Reverse;
use std::time::Duration;

use super::SimCluster;
use super::event::{SimEvent, decode};
use crate::wire::frame::FrameBuffer;
use crate::wire::message::{Message, Request};

/// What one node asks of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestKind {
    /// To promise that nothing older is accepted as the next list.
    Prepare,
    /// To accept a next list.
    Accept,
    /// To count in a list from now on.
    Adopt,
    /// To send what it holds.
    Fetch,
    /// To apply a write.
    Write,
}

impl SimCluster {
    /// Lets time pass until the next event of all is that such a request about the partition of
    /// `key` arrives, on a way `from` one node `to` another that is chosen, but no longer than
    /// `limit`. Returns the way; `None` if there was no such request.
    pub fn run_until_arrival(
        &mut self,
        limit: Duration,
        key: &str,
        kind: RequestKind,
        is_chosen: impl Fn(usize, usize) -> bool,
    ) -> Option<(usize, usize)> {
        let until = self.now + limit;
        loop {
            if let Some((from, to)) = self.next_arrival(key, kind)
                && is_chosen(from, to)
            {
                return Some((from, to));
            }
            if !self.step(until) {
                self.now = until;
                return None;
            }
        }
    }

    /// Returns the way of the request that arrives next, if it is such a one.
    fn next_arrival(&self, key: &str, kind: RequestKind) -> Option<(usize, usize)> {
        let Reverse((_, _, place)) = self.queue.peek()?;
        let SimEvent::ToAcceptor { key: connection, bytes, .. } = self.events[*place].as_ref()?
        else {
            return None;
        };
        let (to, _) = self.connections.get(connection)?.acceptor?;
        let frame = decode(&mut FrameBuffer::new(), bytes)?;
        let Message::Request(request) = frame.message else { return None };
        let arrives = match request {
            Request::Prepare { .. } => RequestKind::Prepare,
            Request::Accept { .. } => RequestKind::Accept,
            Request::Adopt { .. } => RequestKind::Adopt,
            Request::Fetch(_) => RequestKind::Fetch,
            Request::Write { .. } => RequestKind::Write,
            _ => return None,
        };
        let is_it = arrives == kind && frame.partition == self.place(key.as_bytes()).1.partition();
        is_it.then_some((connection.opener, to))
    }
}
