//! How long a link is waited for: an answer, the rest of a frame that it began, the taking of what
//! waits for it.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::{DialStep, LinkStage, Net, Outgoing, SILENCE};
use crate::clock::Instant;
use crate::logging;

/// How long a peer may say nothing in the middle of a frame, or take none of the answers that wait
/// for it. Then its connection ends.
///
/// Frames are written whole, as fast as the connection takes them, and a host that vanished is
/// noticed earlier. A peer that begins a frame and does not end it holds memory.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a peer may take none of its answers while those of all peers take more memory than they
/// may; and how often that is looked at. A peer that takes some is left alone: it is not to blame.
pub(super) const FULL_TIMEOUT: Duration = Duration::from_secs(1);

impl Net {
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
            self.set_deadline(id, Some(link.taken_at + FULL_TIMEOUT));
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
        let is_full = link.connection.has_too_many_answers();
        let patience = if is_full { FULL_TIMEOUT } else { STALL_TIMEOUT };
        let answers_end_at = has_answers.then_some(link.taken_at + patience);
        // What this node does not read cannot come.
        let is_read = !matches!(link.stage, LinkStage::Serving { paused: true })
            && !self.unread.contains(&id)
            && !self.starved.contains(&id);
        let heard_at = if is_read { link.heard_at } else { self.now };
        let frame_ends_at = link.connection.is_in_frame().then_some(heard_at + STALL_TIMEOUT);
        let next = [silence_ends_at, answers_end_at, frame_ends_at].into_iter().flatten().min();
        if next.is_none_or(|at| at > self.now) {
            let look_at = has_answers.then_some(self.now + FULL_TIMEOUT);
            self.set_deadline(id, next.into_iter().chain(look_at).min());
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

    /// Counts a peer that holds what others may need, and says so.
    pub(super) fn stalled(&mut self, id: u64, what: &str) {
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
