//! How copies are kept: one file per operation, each a state machine without a store, clock or socket.
//!
//! A machine is given answers and times and returns what to ask of whom; the [`Shard`](crate::shard::Shard)
//! carries it out and is itself asked like any other replica. All of them count inside one
//! [`List`](crate::placement::List): an answer from a replica that serves another list never reaches them.

use std::time::Duration;

use crate::clock::Instant;
use crate::types::Identity;

pub(crate) mod anti_entropy;
pub(crate) mod handoff;
mod mismatch;
pub(crate) mod purge;
pub(crate) mod read;
pub(crate) mod relay;
pub(crate) mod write;

/// How long after a failed or uncountable answer a replica is asked again. Long enough for a list to be
/// adopted or a connection to be dialled, short enough not to show in a request's timeout.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(20);

/// What a coordinator knows of one replica of the list it counts in.
#[derive(Debug)]
struct Asked<T> {
    replica: Identity,
    state: AskState<T>,
}

#[derive(Debug, PartialEq, Eq)]
enum AskState<T> {
    Idle,
    Waiting,
    Answered(T),
    /// No answer, or one that cannot be counted; asked again from then on.
    RetryAt(Instant),
    /// Not asked: it is not a member any more.
    Dead,
}

impl<T> Asked<T> {
    fn new(replica: Identity, alive: bool) -> Self {
        Self { replica, state: if alive { AskState::Idle } else { AskState::Dead } }
    }

    fn answer(&self) -> Option<&T> {
        match &self.state {
            AskState::Answered(answer) => Some(answer),
            _ => None,
        }
    }

    fn retry_at(&self) -> Option<Instant> {
        match self.state {
            AskState::RetryAt(at) => Some(at),
            _ => None,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.retry_at().is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Arc;

    use crate::placement::List;
    use crate::types::{Boot, Identity, NodeHash};

    pub(super) fn node(number: u64) -> Identity {
        Identity { node: NodeHash(number), boot: Boot(1), returns: 0, addr: ([127, 0, 0, 1], 1).into() }
    }

    pub(super) fn list(number: u64, members: Range<u64>) -> Arc<List> {
        List::new(number, members.map(node), None)
    }
}
