//! The index of one shard: an extendible hash table with one writer and any number of readers.
//!
//! The problem: reads are the product, so a reader must find a key without a lock, a message or a
//! retry, while one writer inserts, removes, splits and merges.
//!
//! ```text
//! root ──▶ array of 2^b words ──▶ segment                            partitions share it
//!                             ──▶ segment                            a partition's own
//!                             ──▶ array of 2^k words ──▶ segments    a large partition's own
//!
//! segment = head │ 56 home buckets │ 7 stash buckets      4 KiB, one cache line each
//! bucket  = header │ 7 slots                              slot = tag 16 │ pointer to an entry 48
//! ```
//!
//! A key's *path* is its partition's number within this core and then the other bits of its hash.
//! The path's first bits lead through the arrays; a segment of depth d holds all keys that share
//! its first d bits. Other bits of the hash choose the home bucket and the tag.
//!
//! Three rules make it correct:
//!
//! - **No displacement.** An entry keeps its slot until it is removed or its segment is replaced: a
//!   reader that scans the bucket at that time cannot miss it. If the home bucket has no room, the
//!   entry goes to the stash, and the home bucket's header counts in which bucket of it.
//! - **Replacement in place.** Tag and pointer share a word, so insert, replace and remove are one
//!   store each.
//! - **Split by copy.** Two new segments are filled, then published, then the old one is retired. A
//!   reader that is still in the old one finds what was current when its call began. Merging two
//!   halves is the same.
//!
//! Keys that were crafted to share more bits of the path than a split can spread go to a [`tree`]
//! that only the writer sees. Readers find a bit for it in the bucket's header and ask the owner.
//!
//! Sources: extendible hashing is Fagin et al., TODS 1979; small segments that split alone, Nam et
//! al., "Write-optimized dynamic hashing for persistent memory" (CCEH), FAST '19, and Lu et al.,
//! "Dash", VLDB 2020; one writer and lock-free readers, Li et al., "MICA", NSDI '14. None of them
//! has readers without locks in a segment that splits, which is what the three rules are for.
//!
//! | file | what | knows |
//! |---|---|---|
//! | [`nodes`] | segments, buckets, arrays: layout, and memory by address | none of these |
//! | [`tree`] | what no bucket has room for | none of these |
//! | [`view`] | readers: [`View`], [`Views`], [`Pinned`] | nodes |
//! | this one | the writer: [`Table`] | all three |
//! | [`resize`] | the writer's splits and merges | all four |

mod nodes;
mod resize;
mod tree;
mod view;

use std::ops::ControlFlow;
use std::sync::Arc;

use self::nodes::{FEW, Garbage, IN_TREE, SEQUENCE_GRAIN, Segment, segment_bytes};
use self::tree::{InTree, Tree};
pub(crate) use self::tree::{Sought, TablePosition};
use self::view::change_state;
pub(crate) use self::view::{Local, Pinned, View, Views};
use super::charge;
use super::reclaim::{Readers, Retired};
use crate::entry::{Entry, EntryRef};
use crate::prefetch;
use crate::sync::{Ordering, lock};
use crate::types::{ClusterHash, CoreId, Cores, KeyHash, Partition};

/// What is to become of a key.
pub(crate) enum Change {
    Keep,
    Put(Entry),
    Remove,
}

/// The writer's side.
pub(crate) struct Table {
    view: Arc<View>,
    tree: Tree,
    /// How many partitions this core has, and of how many of them this node answers for.
    owned: usize,
    served: usize,
    retired: Retired<Garbage>,
    len: usize,
    /// What segments and arrays take.
    bytes: usize,
}

impl Table {
    pub(crate) fn new(
        cluster: ClusterHash,
        core: CoreId,
        cores: Cores,
        readers: Arc<Readers>,
    ) -> Self {
        let view = Arc::new(View::new(cluster, cores, readers.clone()));
        let owned = Partition::all().filter(|partition| cores.place(*partition).0 == core).count();
        Self {
            view,
            tree: Tree::default(),
            // The models have one state for all.
            owned: if cfg!(gridkv_loom) { 1 } else { owned },
            served: 0,
            retired: Retired::new(readers),
            len: 0,
            bytes: segment_bytes(),
        }
    }

    pub(crate) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// How many entries there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many of them are in the tree.
    #[cfg(test)]
    pub(crate) fn tree_len(&self) -> usize {
        self.tree.len()
    }

    /// What the index takes on top of the entries.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.tree.bytes()
    }

    /// The bytes of what was unlinked and may still be looked at.
    pub(crate) fn retired_bytes(&self) -> usize {
        self.retired.bytes()
    }

    /// Frees what no reader can hold any more, up to about `limit` pieces.
    pub(crate) fn collect(&mut self, limit: usize) {
        self.retired.collect(limit);
    }

    /// Whether nothing is freed for a moment that no reader prolongs.
    pub(crate) fn is_freeing_paused(&self) -> bool {
        self.retired.is_paused()
    }

    /// Says whether this node answers for a partition, before anything follows from it.
    pub(crate) fn serve(&mut self, partition: Partition, serves: bool) {
        let view = &self.view;
        let state = view.own_state(view.cores.local(partition));
        if (state.load(Ordering::Relaxed) & 1 == 1) == serves {
            return;
        }
        if serves {
            self.served += 1;
            change_state(state, true);
            if self.served == self.owned {
                change_state(&view.state_of_all, true);
            }
        } else {
            if self.served == self.owned {
                change_state(&view.state_of_all, false);
            }
            self.served -= 1;
            change_state(state, false);
        }
    }

    pub(crate) fn get(&self, hash: KeyHash, key: &[u8]) -> Option<EntryRef<'_>> {
        let path = self.view.path(hash);
        // SAFETY: this is the writer, which collects only through `&mut self`: the entry's handle
        // stays in its slot, or in the retire list, for as long as `self` is borrowed.
        match unsafe { self.view.segment(path).find(hash, |entry| entry.has_key(key)) } {
            Ok((_, entry)) => Some(entry),
            Err(header) if header & IN_TREE != 0 => {
                self.tree.get(&TablePosition::new(path, key)).map(|held| held.entry.borrow())
            }
            Err(_) => None,
        }
    }

    /// Prefetches the cache line that looking for this key begins with.
    #[inline]
    pub(crate) fn prefetch(&self, hash: KeyHash) {
        // SAFETY: this is the writer, and nothing below collects.
        let segment = unsafe { self.view.segment(self.view.path(hash)) };
        prefetch::to_write(&segment.buckets[Segment::home(hash)]);
    }

    /// Lets `decide` see the entry of this hash that is sought, and say what is to become of it.
    /// Returns what else `decide` says. `sequence` numbers the change.
    pub(crate) fn update<S: Sought, T>(
        &mut self,
        hash: KeyHash,
        sought: S,
        sequence: u64,
        decide: impl FnOnce(S, Option<&Entry>) -> (Change, T),
    ) -> T {
        let path = self.view.path(hash);
        // SAFETY: this is the writer, and nothing below collects.
        let segment = unsafe { self.view.segment(path) };
        // SAFETY: as above.
        match unsafe { segment.find(hash, |entry| sought.is(entry)) } {
            Ok((spot, entry)) => {
                let (change, outcome) = decide(sought, Some(&entry));
                let mut bytes = charge::entry(&entry);
                match change {
                    Change::Keep => return outcome,
                    Change::Put(new) => {
                        bytes = charge::beside(&entry, &new);
                        segment.replace(hash, spot, new, sequence);
                    }
                    Change::Remove => {
                        segment.remove(hash, spot);
                        self.len -= 1;
                    }
                }
                // SAFETY: its slot's handle, which no reader finds there any more.
                self.retire(unsafe { entry.into_handle() }, bytes);
                if segment.used() <= FEW {
                    self.shrink(path);
                }
                outcome
            }
            Err(header) => {
                let position =
                    if header & IN_TREE != 0 { self.tree.find(path, &sought) } else { None };
                match position {
                    Some(position) => {
                        self.update_tree(position, sequence, |held| decide(sought, Some(held)))
                    }
                    None => {
                        let (change, outcome) = decide(sought, None);
                        if let Change::Put(new) = change {
                            self.insert(path, hash, new, sequence);
                        }
                        outcome
                    }
                }
            }
        }
    }

    fn update_tree<T>(
        &mut self,
        position: TablePosition,
        sequence: u64,
        decide: impl FnOnce(&Entry) -> (Change, T),
    ) -> T {
        let held = self.tree.get(&position).expect("found just now");
        let (change, outcome) = decide(&held.entry);
        match change {
            Change::Keep => {}
            Change::Put(new) => self.tree.replace(position, new, sequence),
            Change::Remove => self.remove_from_tree(&position),
        }
        outcome
    }

    fn remove_from_tree(&mut self, position: &TablePosition) {
        if let Some(held) = self.tree.remove(position) {
            self.len -= 1;
            // SAFETY: this is the writer, and nothing below collects.
            let segment = unsafe { self.view.segment(position.path) };
            segment.count_in_tree(Segment::home(held.hash), false);
            if segment.in_tree() == 0 {
                self.shrink(position.path);
            }
        }
    }

    fn insert(&mut self, path: u64, hash: KeyHash, entry: Entry, sequence: u64) {
        self.len += 1;
        let bits = entry.into_bits();
        loop {
            // SAFETY: this is the writer, and nothing below collects.
            let segment = unsafe { self.view.segment(path) };
            if segment.insert(hash, bits, sequence) {
                return;
            }
            if !self.split(path) {
                // SAFETY: made above, and no slot has it.
                let entry = unsafe { Entry::from_bits(bits) };
                let position = TablePosition::new(path, entry.key());
                self.tree.insert(position, InTree { entry, hash, sequence });
                return segment.count_in_tree(Segment::home(hash), true);
            }
        }
    }

    fn retire(&mut self, entry: Entry, bytes: usize) {
        self.retired.retire(Garbage::Entry(entry), bytes);
    }

    /// Removes every entry of a partition, showing each to `gone`.
    pub(crate) fn clear(&mut self, partition: Partition, mut gone: impl FnMut(KeyHash, &Entry)) {
        let (start, end) = self.paths(partition);
        for position in self.tree.positions(start, end) {
            if let Some(held) = self.tree.get(&position) {
                gone(held.hash, &held.entry);
            }
            self.remove_from_tree(&position);
        }
        let mut path = Some(start);
        while let Some(at) = path.filter(|at| end.is_none_or(|end| *at < end)) {
            // SAFETY: this is the writer, and nothing below collects.
            let segment = unsafe { self.view.segment(at) };
            path = segment.end(at);
            for (spot, bits, _) in segment.words() {
                // SAFETY: as above.
                let entry = unsafe { Entry::borrow_bits(bits) };
                let hash = KeyHash::of(self.view.cluster, entry.key());
                if hash.partition() == partition {
                    gone(hash, &entry);
                    segment.remove(hash, spot);
                    self.len -= 1;
                    let bytes = charge::entry(&entry);
                    // SAFETY: its slot's handle, which no reader finds there any more.
                    self.retire(unsafe { entry.into_handle() }, bytes);
                }
            }
            self.shrink(at);
        }
    }

    /// Returns the values that have left the tree for a bucket since the last call. The eviction
    /// queue does not find what is in the tree, so it may have dropped their lines.
    pub(crate) fn left_tree(&mut self) -> impl Iterator<Item = (KeyHash, u8)> {
        self.tree.take_left()
    }

    /// Takes the next value out of the tree, looking at a few entries: what a delete left stays.
    pub(crate) fn evict_from_tree(&mut self) -> Option<(KeyHash, Entry)> {
        let (position, hash, entry) = self.tree.next_to_evict()?;
        self.remove_from_tree(&position);
        Some((hash, entry))
    }

    /// Whether a slot has an entry of this hash that is sought.
    pub(crate) fn has(&self, hash: KeyHash, sought: &impl Sought) -> bool {
        // SAFETY: this is the writer, which collects only through `&mut self`.
        unsafe { self.view.segment(self.view.path(hash)).find(hash, |entry| sought.is(entry)) }
            .is_ok()
    }

    /// Whether a slot or the tree has an entry of this hash that is sought.
    pub(crate) fn holds(&self, hash: KeyHash, sought: &impl Sought) -> bool {
        let path = self.view.path(hash);
        // SAFETY: this is the writer, which collects only through `&mut self`.
        match unsafe { self.view.segment(path).find(hash, |entry| sought.is(entry)) } {
            Ok(_) => true,
            Err(header) => header & IN_TREE != 0 && self.tree.find(path, sought).is_some(),
        }
    }

    /// Rounds a sequence down to what the table keeps of it.
    pub(crate) fn grain(&self, sequence: u64) -> u64 {
        sequence >> SEQUENCE_GRAIN << SEQUENCE_GRAIN
    }

    /// Shows the entries of the segment that covers the path of `from` to `visit`, with path, hash
    /// and sequence, and whether they are in the tree. First come those in buckets, in no order.
    /// Then come those of the tree from that position on, in their order, until `visit` breaks off.
    /// Returns the first path of the next segment.
    pub(crate) fn walk<'a>(
        &'a self,
        from: &TablePosition,
        mut visit: impl FnMut(u64, KeyHash, u64, EntryRef<'a>, bool) -> ControlFlow<()>,
    ) -> Option<u64> {
        // SAFETY: this is the writer, which collects only through `&mut self`.
        let segment: &'a Segment = unsafe { self.view.segment(from.path) };
        for (_, bits, sequence) in segment.words() {
            // SAFETY: as above.
            let entry = unsafe { Entry::borrow_bits(bits) };
            let hash = KeyHash::of(self.view.cluster, entry.key());
            let _ = visit(self.view.path(hash), hash, sequence, entry, false);
        }
        let end = segment.end(from.path);
        if segment.in_tree() > 0 {
            for (at, held) in self.tree.range(from, end) {
                if visit(at.path, held.hash, held.sequence, held.entry.borrow(), true).is_break() {
                    break;
                }
            }
        }
        end
    }

    /// The paths of a partition: the first, and the first behind the last.
    pub(crate) fn paths(&self, partition: Partition) -> (u64, Option<u64>) {
        let start = self.view.start(partition);
        (start, start.checked_add(1 << (64 - self.view.partition_bits)))
    }

    /// The path of a hash: a walk that has come to it goes on there.
    pub(crate) fn path(&self, hash: KeyHash) -> u64 {
        self.view.path(hash)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let retired = std::mem::replace(&mut self.retired, Retired::new(self.view.readers.clone()));
        lock(&self.view.leftover).push(retired);
    }
}
