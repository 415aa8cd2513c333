//! Memory that a link makes others wait for: that of a large frame.
//!
//! A receive buffer grows beyond its usual size only for a frame that does not fit. If the buffers
//! of the engine take all the bytes that they may, reading of such frames pauses, and the smallest
//! of them goes on first when there is room. One frame of each thread always goes on, and small
//! ones need no room: so no two nodes can wait for each other. Answers are always read. What they
//! take counts, and their number is bounded by the connections that this node opened.
//!
//! A peer that sends a byte now and then keeps its frame, and its memory, as long as no other link
//! waits for that.

#![forbid(unsafe_code)]

use std::io;
use std::time::Duration;

use super::patience::STALL_TIMEOUT;
use super::{LinkStage, Net, NetEvent};

/// How often links that wait for memory look whether there is some: another thread may have given
/// it back.
const MEMORY_AGAIN_AFTER: Duration = Duration::from_millis(20);

impl Net {
    /// Whether a link may be read: it needs no more memory, or may have it. If not, it waits.
    pub(super) fn may_fill(&mut self, id: u64) -> bool {
        let Some(link) = self.links.get(&id) else { return false };
        if matches!(link.stage, LinkStage::Outgoing(_)) || link.connection.has_memory() {
            return true;
        }
        let has_excess =
            |id| self.links.get(&id).is_some_and(|it| it.connection.excess_bytes() > 0);
        if self.exempt.is_none_or(|exempt| exempt == id || !has_excess(exempt)) {
            self.exempt = Some(id);
            return true;
        }
        if self.starved.is_empty() {
            self.memory_at = Some(self.now + MEMORY_AGAIN_AFTER);
        }
        self.starved.insert(id);
        self.counters.reads_paused += 1;
        false
    }

    /// Reads the links that waited for memory, as far as there is some now: the one that holds
    /// least first. If there is none, the peer that has been in its large frame for too long goes.
    pub(super) fn look_for_memory(&mut self, events: &mut Vec<NetEvent>) {
        if self.memory_at.is_none_or(|at| at > self.now) {
            return;
        }
        self.memory_at = None;
        self.end_slowest(events);
        let excess_bytes =
            |id: &u64| self.links.get(id).map_or(0, |link| link.connection.excess_bytes());
        let mut waiting: Vec<(usize, u64)> =
            self.starved.iter().map(|id| (excess_bytes(id), *id)).collect();
        waiting.sort_unstable();
        self.starved.clear();
        for (_, id) in waiting {
            self.read_link(id, events);
        }
    }

    /// Ends the link that holds the most memory, of those whose large frame began long ago and
    /// which do not wait for memory themselves.
    fn end_slowest(&mut self, events: &mut Vec<NetEvent>) {
        let is_slow = |since| self.now.since(since) >= STALL_TIMEOUT;
        let slow = self.links.iter().filter(|(id, link)| {
            let is_outgoing = matches!(link.stage, LinkStage::Outgoing(_));
            !is_outgoing && link.large_since.is_some_and(is_slow) && !self.starved.contains(id)
        });
        let slowest = slow.max_by_key(|(_, link)| link.connection.excess_bytes());
        if let Some(id) = slowest.map(|(id, _)| *id) {
            self.stalled(id, "takes long for a large frame while others wait for memory");
            self.end(id, io::ErrorKind::TimedOut, events);
        }
    }
}
