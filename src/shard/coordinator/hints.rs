//! [`Hints`]: acknowledged writes that some replica lacks, which are offered to it for a while.

use std::collections::BTreeSet;

use crate::shard::caller::OpId;
use crate::wire::waiting::max_waiting_bytes;

/// How many hints one core keeps. Beyond it, or beyond [`max_waiting_bytes`], the oldest is
/// dropped; a read, anti-entropy or the next change of members heals what it leaves behind.
const MAX_HINTS: usize = 10_000;

/// The hints of one core, oldest first.
#[derive(Default)]
pub(super) struct Hints {
    ids: BTreeSet<OpId>,
    bytes: usize,
}

impl Hints {
    /// Adds a hint of this size, if it is not one already.
    pub(super) fn add(&mut self, id: OpId, bytes: usize) {
        if self.ids.insert(id) {
            self.bytes += bytes;
        }
    }

    /// Removes what might be a hint, and is of this size.
    pub(super) fn remove(&mut self, id: OpId, bytes: usize) {
        if self.ids.remove(&id) {
            self.bytes -= bytes;
        }
    }

    /// Returns the oldest hint if there are more than a core with this much memory keeps.
    pub(super) fn oldest_beyond(&self, memory: Option<usize>) -> Option<OpId> {
        let is_full = self.ids.len() > MAX_HINTS || self.bytes > max_waiting_bytes(memory);
        self.ids.first().filter(|_| is_full).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = OpId> {
        self.ids.iter().copied()
    }
}
