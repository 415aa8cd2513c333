//! The entries that no bucket has room for: keys that were crafted to share so much of their paths
//! that no split can spread them.
//!
//! They are in a tree, ordered by path and key, so that nothing is searched linearly: crafted keys
//! cost what others do. Only the owner looks here. Readers find a bit in the home bucket's header
//! and ask the owner.
//!
//! ```text
//! entries: position (path, key) ──▶ entry, hash, sequence
//! timers:  timer ──▶ position        many keys may have one hash, which is all that a timer knows
//! ```

use std::collections::BTreeMap;

use crate::entry::{Entry, NO_TIMER};
use crate::store::charge;
use crate::types::KeyHash;

/// What a key in the tree costs on top of its entry: its node's share, and its key again.
const TREE_NODE_BYTES: usize = 96;

/// How many entries one step of eviction looks at.
const EVICT_LOOKS: usize = 8;

/// A position in the order of the table: by path, then by key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct TablePosition {
    pub(super) path: u64,
    key: Box<[u8]>,
}

/// Tells one entry from the others of its hash.
pub(crate) trait Sought {
    fn is(&self, held: &Entry) -> bool;

    /// The key, if the entry is sought by it.
    fn key(&self) -> Option<&[u8]> {
        None
    }

    /// The timer, if the entry is sought by it.
    fn timer(&self) -> Option<u32> {
        None
    }
}

impl Sought for Entry {
    #[inline]
    fn is(&self, held: &Entry) -> bool {
        held.has_key(self.key())
    }

    fn key(&self) -> Option<&[u8]> {
        Some(Entry::key(self))
    }
}

/// An entry of the tree.
pub(super) struct InTree {
    pub(super) entry: Entry,
    pub(super) hash: KeyHash,
    pub(super) sequence: u64,
}

/// The entries of one shard that are in no bucket.
#[derive(Default)]
pub(super) struct Tree {
    entries: BTreeMap<TablePosition, InTree>,
    timers: BTreeMap<u32, TablePosition>,
    /// Where eviction goes on.
    hand: TablePosition,
    /// The values that have left for a bucket, by hash and generation.
    left: Vec<(KeyHash, u8)>,
    bytes: usize,
}

impl TablePosition {
    pub(crate) fn new(path: u64, key: &[u8]) -> Self {
        Self { path, key: key.into() }
    }

    /// The first position of a path: before every key.
    pub(crate) fn first(path: u64) -> Self {
        Self { path, key: Box::default() }
    }

    pub(crate) fn is_at_or_before(&self, path: u64, key: &[u8]) -> bool {
        (self.path, &*self.key) <= (path, key)
    }

    /// What a position takes in the tree.
    fn bytes(&self) -> usize {
        TREE_NODE_BYTES + charge::size_class(self.key.len())
    }

    /// What it takes to find it by this timer.
    fn timer_bytes(&self, timer: u32) -> usize {
        if timer == NO_TIMER { 0 } else { self.bytes() }
    }
}

impl Tree {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What the tree takes on top of its entries.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, position: &TablePosition) -> Option<&InTree> {
        self.entries.get(position)
    }

    /// Finds the entry of this path that is sought.
    pub(super) fn find(&self, path: u64, sought: &impl Sought) -> Option<TablePosition> {
        if let Some(key) = sought.key() {
            return Some(TablePosition::new(path, key))
                .filter(|position| self.entries.contains_key(position));
        }
        if let Some(timer) = sought.timer() {
            return self.timers.get(&timer).filter(|position| position.path == path).cloned();
        }
        let of_path =
            self.entries.range(TablePosition::first(path)..).take_while(|(at, _)| at.path == path);
        of_path
            .into_iter()
            .find(|(_, held)| sought.is(&held.entry))
            .map(|(position, _)| position.clone())
    }

    /// Puts an entry that is not here yet.
    pub(super) fn insert(&mut self, position: TablePosition, held: InTree) {
        let timer = held.entry.timer();
        self.bytes += position.bytes() + position.timer_bytes(timer);
        if timer != NO_TIMER {
            self.timers.insert(timer, position.clone());
        }
        self.entries.insert(position, held);
    }

    /// Puts an entry in the place of the one that is here.
    pub(super) fn replace(&mut self, position: TablePosition, entry: Entry, sequence: u64) {
        let Some(held) = self.entries.get_mut(&position) else { return };
        let (old, new) = (held.entry.timer(), entry.timer());
        // As for buckets: what says nothing new keeps its number.
        held.sequence = held.sequence.max(sequence);
        held.entry = entry;
        if old != new {
            self.bytes -= position.timer_bytes(old);
            self.bytes += position.timer_bytes(new);
            self.timers.remove(&old);
            if new != NO_TIMER {
                self.timers.insert(new, position);
            }
        }
    }

    pub(super) fn remove(&mut self, position: &TablePosition) -> Option<InTree> {
        let held = self.entries.remove(position)?;
        let timer = held.entry.timer();
        self.timers.remove(&timer);
        self.bytes -= position.bytes() + position.timer_bytes(timer);
        Some(held)
    }

    /// Notes that a value has left for a bucket.
    pub(super) fn note_left(&mut self, hash: KeyHash, generation: u8) {
        self.left.push((hash, generation));
    }

    /// Returns the values that have left for a bucket since the last call.
    pub(super) fn take_left(&mut self) -> impl Iterator<Item = (KeyHash, u8)> {
        std::mem::take(&mut self.left).into_iter()
    }

    /// The next value that eviction takes; `None` if the few entries that were looked at have none.
    pub(super) fn next_to_evict(&mut self) -> Option<(TablePosition, KeyHash, Entry)> {
        let from = std::mem::take(&mut self.hand);
        let mut range = self.entries.range(from..);
        let found = range.by_ref().take(EVICT_LOOKS).find(|(_, held)| held.entry.value().is_some());
        let found = found.map(|(position, held)| (position.clone(), held.hash, held.entry.clone()));
        self.hand = range.next().map(|(position, _)| position.clone()).unwrap_or_default();
        found
    }

    /// The entries from a position on to before the path `end`, in the order of positions.
    pub(super) fn range(
        &self,
        from: &TablePosition,
        end: Option<u64>,
    ) -> impl Iterator<Item = (&TablePosition, &InTree)> {
        let rest = self.entries.range::<TablePosition, _>(from..);
        rest.take_while(move |(at, _)| end.is_none_or(|end| at.path < end))
    }

    /// The positions of the paths from `start` to before `end`.
    pub(super) fn positions(&self, start: u64, end: Option<u64>) -> Vec<TablePosition> {
        self.range(&TablePosition::first(start), end)
            .map(|(position, _)| position.clone())
            .collect()
    }
}
