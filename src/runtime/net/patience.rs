//! What a link may make others wait for: the rest of a frame that it began, and the memory that a
//! large one takes.
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

use super::{DialStep, LinkStage, Net, NetEvent, Outgoing, SILENCE};
use crate::clock::Instant;
use crate::logging;

/// How long a peer may say nothing in the middle of a frame, or take none of the answers that wait
/// for it. Then its connection ends.
///
/// Frames are written whole, as fast as the connection takes them, and a host that vanished is
/// noticed earlier. A peer that begins a frame and does not end it holds memory.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(10);

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

    /// A part of a frame has come: the rest must not be long in coming.
    pub(super) fn watch_frame(&mut self, id: u64) {
        if let Some(link) = self.links.get(&id)
            && link.connection.is_in_frame()
            && link.deadline.is_none()
        {
            self.set_deadline(id, Some(self.now + STALL_TIMEOUT));
        }
    }

    /// Some answers could not be written: the peer must take some of them soon.
    pub(super) fn watch_answers(&mut self, id: u64) {
        if let Some(link) = self.links.get(&id)
            && matches!(link.stage, LinkStage::Serving { .. })
            && link.deadline.is_none()
        {
            self.set_deadline(id, Some(link.taken_at + STALL_TIMEOUT));
        }
    }

    /// Whether the timer of this link was for a silence that is over. If another one has begun, it
    /// waits for the end of that.
    pub(super) fn is_heard_again(&mut self, id: u64) -> bool {
        let Some(link) = self.links.get(&id) else { return false };
        let silence_ends_at = match &link.stage {
            LinkStage::Outgoing(Outgoing {
                step: DialStep::Open | DialStep::Broken,
                silent_since,
                ..
            }) => silent_since.map(|at| at + SILENCE),
            LinkStage::Serving { .. } => None,
            _ => return false,
        };
        let is_serving = matches!(link.stage, LinkStage::Serving { .. });
        let has_answers = is_serving && link.connection.queued_bytes() > 0;
        let answers_end_at = has_answers.then_some(link.taken_at + STALL_TIMEOUT);
        // What this node does not read cannot come.
        let is_read = !matches!(link.stage, LinkStage::Serving { paused: true })
            && !self.unread.contains(&id)
            && !self.starved.contains(&id);
        let heard_at = if is_read { link.heard_at } else { self.now };
        let frame_ends_at = link.connection.is_in_frame().then_some(heard_at + STALL_TIMEOUT);
        let next = [silence_ends_at, answers_end_at, frame_ends_at].into_iter().flatten().min();
        if next.is_none_or(|at| at > self.now) {
            self.set_deadline(id, next);
            return true;
        }
        let is_over = |at: Option<Instant>| at.is_some_and(|at| at <= self.now);
        if is_over(answers_end_at) {
            self.stalled(id, "takes none of its answers");
        } else if is_over(frame_ends_at) {
            self.stalled(id, "began a frame and does not go on with it");
        } else {
            self.was_silent(id);
        }
        false
    }

    fn stalled(&mut self, id: u64, what: &str) {
        self.counters.stalled += 1;
        let Some(peer) = self.links.get(&id).map(|link| link.connection.peer()) else { return };
        if let Some(silent) = self.stalls.add(self.now) {
            logging::warn!(
                "{peer} {what}: its connection is ended, as {silent} others were since the last \
                 such line"
            );
        }
    }

    fn was_silent(&mut self, id: u64) {
        let Some(peer) = self.links.get(&id).map(|link| link.connection.peer()) else { return };
        if let Some(silent) = self.silence.add(self.now) {
            logging::warn!(
                "{peer} has answered nothing for {SILENCE:?}: its thread stands still, or what is \
                 in between takes what it does not deliver. The connection is opened again, as \
                 {silent} others were since the last such line"
            );
        }
    }
}
