//! Lanes: what waits for one core of a relay, or for a partition that goes apart.

use std::collections::BTreeMap;
use std::time::Duration;

use super::limits::{MAX_OPEN, MAX_SLOW, MAX_WRITES};
use crate::clock::Instant;
use crate::entry::Entry;
use crate::types::{CoreId, KeyHash, Partition};
use crate::wire::frame::CHUNK_BYTES;
use crate::wire::timing::{RELAY_TRIES_FOR, is_longer};

/// After what time the next batch follows one that has no answer, though it is not full. Far more
/// than most round trips, and far less than a relay tries to write what it cannot.
pub(super) const NEXT_AFTER: Duration = Duration::from_millis(250);

// While a relay tries to write what it cannot, there is always a next batch.
const _: () = assert!(is_longer(NEXT_AFTER.saturating_mul(MAX_SLOW as u32 - 1), RELAY_TRIES_FOR));

/// How many bytes a write takes in addition to those of its entry.
pub(super) const OVERHEAD: usize = 64;

/// What a lane serves. Partitions that go apart come last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum LaneId {
    /// For one core of the relay.
    Core(CoreId),
    /// For a partition that the other data center does not write, or did not when it was tried
    /// last.
    Apart(Partition),
}

impl LaneId {
    pub(super) fn is_apart(self) -> bool {
        matches!(self, Self::Apart(_))
    }
}

/// A write that waits, or is on its way.
pub(super) struct Item {
    pub(super) hash: KeyHash,
    pub(super) entry: Entry,
    /// Whether a relay has confirmed it while it was on its way again.
    pub(super) is_confirmed: bool,
}

impl Item {
    pub(super) fn bytes(&self) -> usize {
        self.entry.bytes() + OVERHEAD
    }
}

/// The writes of one lane that wait.
#[derive(Default)]
pub(super) struct Lane {
    /// The items that wait, by number: the order in which they came.
    pub(super) waiting: BTreeMap<u64, Item>,
    /// How many batches are on their way.
    pub(super) open: usize,
    /// When the first of those that wait is sent, whether the batch is full or not.
    pub(super) due: Option<Instant>,
    /// When the last batch was sent.
    pub(super) sent_at: Instant,
    /// How many batches in a row came to nothing.
    pub(super) failures: u32,
    /// Until when no batch is sent.
    pub(super) paused_until: Option<Instant>,
}

impl Lane {
    /// Returns when the next batch is to be sent. Batches have up to `batch_bytes`: if that is less
    /// than a whole chunk, batches get lost, and one at a time is sent.
    pub(super) fn due(&self, batch_bytes: usize) -> Option<Instant> {
        if self.waiting.is_empty() {
            return None;
        }
        let is_full = self.waiting.len() >= MAX_WRITES;
        let due = match self.open {
            0 if is_full => Some(Instant::default()),
            0 => self.due,
            1.. if batch_bytes < CHUNK_BYTES => None,
            1..MAX_OPEN if is_full => Some(Instant::default()),
            1..MAX_SLOW => self.due.map(|due| due.max(self.sent_at + NEXT_AFTER)),
            _ => None,
        };
        due.map(|due| self.paused_until.map_or(due, |until| due.max(until)))
    }

    /// Notes that a batch came to nothing: none is sent before `until`.
    pub(super) fn fail(&mut self, until: Instant) {
        self.failures += 1;
        self.paused_until = self.paused_until.max(Some(until));
    }

    /// Notes that a batch was confirmed.
    pub(super) fn succeed(&mut self) {
        (self.failures, self.paused_until) = (0, None);
    }

    /// Takes the oldest items, as many as fit into one batch of `batch_bytes`.
    pub(super) fn take_batch(&mut self, now: Instant, batch_bytes: usize) -> Vec<(u64, Item)> {
        let (mut items, mut bytes) = (Vec::new(), 0);
        while items.len() < MAX_WRITES
            && bytes < batch_bytes
            && let Some((number, item)) = self.waiting.pop_first()
        {
            bytes += item.entry.bytes();
            items.push((number, item));
        }
        // What is left has waited.
        self.due = (!self.waiting.is_empty()).then_some(Instant::default());
        self.sent_at = now;
        items
    }
}
