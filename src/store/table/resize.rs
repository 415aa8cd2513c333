//! How the table grows and shrinks: segments split and merge, arrays double and go.
//!
//! Every change here makes new nodes, fills them, publishes them by one store each, and retires the
//! old ones: readers that are still in an old node find what was current when their calls began.
//!
//! ```text
//! split, deepest segment            array ──▶ array of twice the words ──▶ two halves      (grow)
//! split, any other, and merge       the same array, some of its words changed              (link)
//! merge of the last two             array ──▶ segment
//! ```
//!
//! Only the writer runs this, which frees nothing in between.

use std::ptr;

use super::Table;
use super::nodes::{
    CAPACITY, FEW, Garbage, Segment, array_bytes, lead, new_array, node_bits, segment_bytes,
    segments_below, word,
};
use super::tree::InTree;
use crate::entry::Entry;
use crate::mutants::{OrderingMutant, is_left_out};
use crate::sync::{AtomicU64, Ordering};
use crate::types::KeyHash;

/// How many words a partition's own array may have for each of its segments: random keys need no
/// more than four, crafted ones are not given more than this.
const WORDS_PER_SEGMENT: usize = 16;

/// The most bits that a partition's own array decides.
const MAX_PAGE_BITS: u32 = 16;

/// An array as it is found: the word that leads to it, how many bits it decides, after how many
/// others.
struct Level<'a> {
    holder: &'a AtomicU64,
    node: u64,
    bits: u32,
    base: u32,
}

impl Table {
    /// Replaces the segment that covers `path` by two. Returns `false` if its keys share more bits
    /// than are worth more room.
    pub(super) fn split(&mut self, path: u64) -> bool {
        // SAFETY: this is the writer, and nothing below collects.
        let old = unsafe { self.view.segment(path) };
        let level = self.level(path, old.depth);
        let is_deepest = old.depth - level.base == level.bits;
        if old.in_tree() as usize > CAPACITY || (is_deepest && !self.may_grow(&level)) {
            return false;
        }
        let halves = [Segment::new(old.depth + 1), Segment::new(old.depth + 1)];
        let half_of = |path: u64| (path >> (63 - old.depth)) as usize & 1;
        for (_, bits, sequence) in old.words() {
            // SAFETY: the entry's handle is in the old segment's slot, and in the new one's from
            // now on.
            let entry = unsafe { Entry::borrow_bits(bits) };
            let hash = KeyHash::of(self.view.cluster, entry.key());
            let fits = halves[half_of(self.view.path(hash))].insert(hash, bits, sequence);
            assert!(fits, "a half has as many slots as the whole");
        }
        if old.in_tree() > 0 {
            self.split_tree(path, old, &halves, half_of);
        }
        if is_left_out(OrderingMutant::SplitInPlace) {
            old.buckets
                .iter()
                .flat_map(|bucket| &bucket.slots)
                .for_each(|slot| slot.store(0, Ordering::Release));
        }
        let nodes = halves.map(Segment::into_node);
        self.bytes += 2 * segment_bytes();
        if is_deepest {
            self.grow(&level, path, nodes);
        } else {
            self.link(&level, path, old.depth, |half| nodes[half]);
        }
        self.retire_segment(old.node());
        true
    }

    /// Merges the segment that covers `path` with its other half while both are nearly empty. Looks
    /// only now and then, as the other half is far away in memory.
    pub(super) fn shrink(&mut self, path: u64) {
        loop {
            // SAFETY: this is the writer, and nothing below collects.
            let one = unsafe { self.view.segment(path) };
            if one.depth == 0
                || one.used() > FEW
                || !one.used().is_multiple_of(8)
                || one.in_tree() > 0
            {
                return;
            }
            // SAFETY: as above.
            let other = unsafe { self.view.segment(path ^ 1 << (64 - one.depth)) };
            if other.depth != one.depth || other.used() > FEW || other.in_tree() > 0 {
                return;
            }
            if !self.merge(path, one, other) {
                return;
            }
        }
    }

    /// The array that decides about a segment of this depth, or would.
    fn level(&self, path: u64, depth: u32) -> Level<'static> {
        // SAFETY: this is the writer, and none that uses the level collects before it is done with
        // it.
        let root: &'static AtomicU64 = unsafe { &*ptr::from_ref(&self.view.root) };
        let node = root.load(Ordering::Relaxed);
        let (holder, base) = if depth < self.view.partition_bits {
            (root, 0)
        } else {
            // A segment of that depth is behind a root that has all the words there can be.
            let index = (path >> (64 - self.view.partition_bits)) as usize;
            // SAFETY: as above.
            (unsafe { word(node, index) }, self.view.partition_bits)
        };
        let node = holder.load(Ordering::Relaxed);
        Level { holder, node, bits: node_bits(node), base }
    }

    /// Whether an array may have twice its words.
    fn may_grow(&self, level: &Level<'_>) -> bool {
        if level.base == 0 {
            return level.bits < self.view.partition_bits;
        }
        // SAFETY: this is the writer, and the node is of the last level: it leads to segments
        // alone.
        let segments = || unsafe { segments_below(level.node) };
        level.bits < MAX_PAGE_BITS && 1usize << level.bits <= WORDS_PER_SEGMENT * segments()
    }

    /// Moves what now fits from the tree into the halves, and counts what does not.
    fn split_tree(
        &mut self,
        path: u64,
        old: &Segment,
        halves: &[Box<Segment>; 2],
        half_of: impl Fn(u64) -> usize,
    ) {
        for position in self.tree.positions(old.first(path), old.end(path)) {
            let half = &halves[half_of(position.path)];
            let Some(InTree { entry, hash, sequence }) = self.tree.remove(&position) else {
                continue;
            };
            let in_queue = entry.value().is_some().then_some(entry.generation());
            let bits = entry.into_bits();
            if half.insert(hash, bits, sequence) {
                if let Some(generation) = in_queue {
                    self.tree.note_left(hash, generation);
                }
            } else {
                // SAFETY: taken out above, and no slot has it.
                let entry = unsafe { Entry::from_bits(bits) };
                half.count_in_tree(Segment::home(hash), true);
                self.tree.insert(position, InTree { entry, hash, sequence });
            }
        }
    }

    /// Publishes an array of twice the words, with `nodes` for the segment of `path`, the deepest
    /// there is.
    fn grow(&mut self, level: &Level<'_>, path: u64, nodes: [u64; 2]) {
        let bits = level.bits + 1;
        let index = (path << level.base >> (64 - bits)) as usize;
        let array = new_array(bits, |at| {
            if at >> 1 == index >> 1 {
                nodes[at & 1]
            } else {
                // SAFETY: it has a word for every two, as this is not the only segment.
                unsafe { word(level.node, at >> 1) }.load(Ordering::Relaxed)
            }
        });
        self.bytes += array_bytes(bits);
        level.holder.store(array, lead());
        if level.bits > 0 {
            self.retire_array(level.node);
        }
    }

    /// Changes the words that led to the segment of `path` and `depth`: each now leads to what
    /// `node` says for its half.
    fn link(&self, level: &Level<'_>, path: u64, depth: u32, node: impl Fn(usize) -> u64) {
        let (own, words) = (depth - level.base, 1usize << (level.bits + level.base - depth));
        let prefix = if own == 0 { 0 } else { (path << level.base >> (64 - own)) as usize };
        for at in 0..words {
            // SAFETY: the array has `words` of them for each prefix.
            unsafe { word(level.node, prefix * words + at) }
                .store(node(usize::from(at >= words / 2)), lead());
        }
    }

    fn merge(&mut self, path: u64, one: &Segment, other: &Segment) -> bool {
        let depth = one.depth - 1;
        let whole = Segment::new(depth);
        for (_, bits, sequence) in one.words().chain(other.words()) {
            // SAFETY: the entry's handle is in the old segment's slot, and in the new one's from
            // now on.
            let entry = unsafe { Entry::borrow_bits(bits) };
            if !whole.insert(KeyHash::of(self.view.cluster, entry.key()), bits, sequence) {
                // Too many keys of one home: the halves stay apart.
                return false;
            }
        }
        let olds = [one.node(), other.node()];
        let level = self.level(path, depth);
        let node = whole.into_node();
        self.bytes += segment_bytes();
        if depth == level.base {
            // The array has nothing left to decide.
            level.holder.store(node, lead());
            self.retire_array(level.node);
        } else {
            self.link(&level, path, depth, |_| node);
        }
        olds.into_iter().for_each(|old| self.retire_segment(old));
        true
    }

    /// Takes a segment that was unlinked, once; its entries are in other segments by now.
    fn retire_segment(&mut self, node: u64) {
        self.bytes -= segment_bytes();
        self.retired.retire(Garbage::node(node), segment_bytes());
    }

    fn retire_array(&mut self, node: u64) {
        let bytes = array_bytes(node_bits(node));
        self.bytes -= bytes;
        self.retired.retire(Garbage::node(node), bytes);
    }
}
