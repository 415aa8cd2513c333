//! The index of one shard: an extendible hash table with one writer and any number of readers.
//!
//! Extendible hashing is Fagin et al., TODS 1979; small segments that split alone, Nam et al., "Write-optimized
//! dynamic hashing for persistent memory" (CCEH), FAST '19, and Lu et al., "Dash", VLDB 2020; one writer beside
//! lock-free readers, Li et al., "MICA", NSDI '14. None of them has readers without locks beside a segment that
//! splits, which makes the three rules below.
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
//! A key's *path* is its partition's number within this core and then the other bits of its hash. The path's
//! first bits lead through the arrays; a segment of depth d holds all keys that share its first d bits. Other
//! bits of the hash choose the home bucket and the tag.
//!
//! **No displacement.** An entry keeps its slot until it is removed or its segment is replaced: a reader that
//! scans the bucket meanwhile cannot miss it. What the home bucket has no room for goes to the stash; the home
//! bucket's header counts where.
//!
//! **Replacement in place.** Tag and pointer share a word, so insert, replace and remove are one store each.
//!
//! **Split by copy.** Two new segments are filled, then published, then the old one is retired. A reader that is
//! still in the old one finds what was current when its call began. Merging two halves again is the same.
//!
//! What no more bits of the path can spread, because keys were crafted to share them, goes to a tree beside
//! the table, ordered by path and key, so that nothing is searched linearly. Readers find a mark that it
//! exists in the bucket's header and ask the owner.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::ptr;
use std::sync::Arc;

use super::charge;
#[cfg(gridkv_loom)]
use super::reclaim::Reader;
use super::reclaim::{Guard, Readers, Retired};
use crate::entry::{Entry, EntryRef, NO_TIMER};
use crate::mutants::{OrderingMutant, is_left_out, ordering};
use crate::prefetch;
#[cfg(gridkv_loom)]
use crate::sync::has_failed;
use crate::sync::{AtomicU32, AtomicU64, Life, Mutex, Ordering, lock};
use crate::types::{ClusterHash, CoreId, Cores, KeyHash, PARTITIONS, Partition};

/// Smaller in the models, which try every interleaving.
const SLOTS: usize = if cfg!(gridkv_loom) { 2 } else { 7 };
const HOMES: usize = if cfg!(gridkv_loom) { 1 } else { 56 };
const STASHES: usize = if cfg!(gridkv_loom) { 1 } else { 7 };

/// How many keys fit into one segment at the most.
const CAPACITY: usize = (HOMES + STASHES) * SLOTS;

/// Two segments that both have no more are merged.
const FEW: u32 = CAPACITY as u32 / 4;

/// The words of one cache line.
const LINE: usize = 8;

/// A partition's own array may have so many words for each of its segments: random keys need four at the
/// most, crafted ones are not given more.
const WORDS_PER_SEGMENT: usize = 16;
const MAX_PAGE_BITS: u32 = 16;

/// A slot's pointer, below its tag.
const POINTER: u64 = (1 << 48) - 1;

/// A node's word is the address of a segment, or that of an array of 2^b words with 64 − b in its low six bits:
/// by so many bits a path is shifted to the right to number one of them.
const NODE_SHIFT: u64 = 63;

/// In a bucket's header: for each stash bucket, how many keys of this home are there (three bits each);
/// whether some are in the tree; when anything in the bucket was last put, as a sequence number.
const STASH_COUNT: u64 = 7;
const IN_TREE: u64 = 1 << 21;
const SEQUENCE_SHIFT: u32 = 22;

/// Sequence numbers are kept by the 256, so that 42 bits last for decades.
const SEQUENCE_GRAIN: u32 = 8;

#[repr(C, align(64))]
struct Bucket {
    header: AtomicU64,
    slots: [AtomicU64; SLOTS],
}

#[repr(C, align(64))]
struct Segment {
    depth: u32,
    /// How many entries are in the buckets, and how many more of this segment's are in the tree. Only the
    /// writer looks at them.
    used: AtomicU32,
    in_tree: AtomicU32,
    buckets: [Bucket; HOMES + STASHES],
    life: Life,
}

#[cfg(not(gridkv_loom))]
const _: () = assert!(size_of::<Segment>() == 4096);

#[repr(C, align(64))]
struct Line([AtomicU64; LINE], Life);

/// What readers share with the writer.
pub(crate) struct View {
    root: AtomicU64,
    /// For each partition of this core: whether this node answers for it (the lowest bit), and a count of
    /// the changes of that.
    states: Box<[AtomicU32]>,
    /// The same for all of them together: where this node answers for each, one word is looked at instead of
    /// thousands.
    state_of_all: AtomicU32,
    cluster: ClusterHash,
    cores: Cores,
    partition_bits: u32,
    readers: Arc<Readers>,
    /// What the writer could not free before it ended.
    leftover: Mutex<Vec<Retired<Garbage>>>,
}

/// What a look at this node's own copy of a key found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Local<T> {
    /// This, of an entry that was current during the call.
    Found(T),
    /// The key was not here at some moment of the call, while this node answered for its partition.
    Absent,
    /// This node does not answer for the partition, or only the owner can tell.
    AskOwner,
}

/// Tells one entry from the others of its hash.
pub(crate) trait Sought {
    fn is(&self, held: &Entry) -> bool;

    /// The key, where it is that.
    fn key(&self) -> Option<&[u8]> {
        None
    }

    /// The timer, where it is that.
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

/// What is to become of a key.
pub(crate) enum Change {
    Keep,
    Put(Entry),
    Remove,
}

/// The writer's side.
pub(crate) struct Table {
    view: Arc<View>,
    tree: BTreeMap<TablePosition, InTree>,
    /// Where in the tree what has a timer is: many keys may have one hash, which is all that a timer knows.
    tree_timers: BTreeMap<u32, TablePosition>,
    /// Where eviction goes on in the tree.
    tree_hand: TablePosition,
    /// How many partitions this core has, and of how many of them this node answers for.
    owned: usize,
    served: usize,
    /// The values that have left the tree for a bucket, by hash and generation.
    left_tree: Vec<(KeyHash, u8)>,
    retired: Retired<Garbage>,
    len: usize,
    /// What segments, arrays and the tree's own nodes take.
    bytes: usize,
}

/// A position in the order of the table: by path, then by key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct TablePosition {
    path: u64,
    key: Box<[u8]>,
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
}

struct InTree {
    entry: Entry,
    hash: KeyHash,
    sequence: u64,
}

/// Dropped, it is free.
#[expect(dead_code, reason = "kept to be dropped")]
enum Garbage {
    Entry(Entry),
    Node(Unlinked),
}

/// A node that nobody finds any more. Not a box before it is freed: readers may still look at it.
struct Unlinked(u64);

impl Drop for Unlinked {
    fn drop(&mut self) {
        // SAFETY: it was made of a node that was unlinked, once, and is dropped when no reader is left.
        unsafe {
            match node_bits(self.0) {
                0 => drop(take_segment(self.0)),
                _ => drop(take_array(self.0)),
            }
        }
    }
}

/// What a key in the tree costs beside its entry: its node's share, and its key again.
const TREE_NODE_BYTES: usize = 96;

/// What a position in the tree takes.
fn position_bytes(position: &TablePosition) -> usize {
    TREE_NODE_BYTES + charge::size_class(position.key.len())
}

/// What it takes to find it by this timer.
fn timer_bytes(position: &TablePosition, timer: u32) -> usize {
    if timer == NO_TIMER { 0 } else { position_bytes(position) }
}

/// Where an entry is in a segment.
#[derive(Clone, Copy)]
struct Spot {
    bucket: usize,
    slot: usize,
}

/// An array as it is found: where its word is, how many bits it decides, after how many others.
struct Level<'a> {
    holder: &'a AtomicU64,
    node: u64,
    bits: u32,
    base: u32,
}

impl Segment {
    fn new(depth: u32) -> Box<Self> {
        #[cfg(not(gridkv_loom))]
        {
            // SAFETY: all of its fields are integers, for which zeroes are valid, or nothing.
            let mut segment = unsafe { Box::<Self>::new_zeroed().assume_init() };
            segment.depth = depth;
            segment
        }
        #[cfg(gridkv_loom)]
        Box::new(Self {
            depth,
            used: AtomicU32::new(0),
            in_tree: AtomicU32::new(0),
            buckets: std::array::from_fn(|_| Bucket {
                header: AtomicU64::new(0),
                slots: std::array::from_fn(|_| AtomicU64::new(0)),
            }),
            life: Life::new(),
        })
    }

    fn into_node(self: Box<Self>) -> u64 {
        Box::into_raw(self).expose_provenance() as u64
    }

    #[inline]
    fn home(hash: KeyHash) -> usize {
        (((hash.0 >> 7) as u32 as u64 * HOMES as u64) >> 32) as usize
    }

    #[inline]
    fn tag(hash: KeyHash) -> u64 {
        (hash.0 >> 7) & 0xffff
    }

    /// The entry of this hash that `is_it`, where it is in a bucket.
    ///
    /// # Safety
    ///
    /// For all of `'a`, no entry that is in this segment now is freed.
    #[inline]
    unsafe fn find<'a>(
        &self,
        hash: KeyHash,
        is_it: impl Fn(&Entry) -> bool,
    ) -> Result<(Spot, EntryRef<'a>), u64> {
        let home = Self::home(hash);
        // SAFETY: the caller's promise.
        if let Some((slot, entry)) = unsafe { self.buckets[home].find(hash, &is_it) } {
            return Ok((Spot { bucket: home, slot }, entry));
        }
        // After the home slots: see the module's rule of no displacement.
        let header = self.buckets[home].header.load(Ordering::Acquire);
        if header & (IN_TREE - 1) == 0 {
            return Err(header);
        }
        // SAFETY: the caller's promise.
        unsafe { self.find_in_stash(hash, header, &is_it) }
    }

    /// # Safety
    ///
    /// As [`find`](Self::find).
    #[cold]
    unsafe fn find_in_stash<'a>(
        &self,
        hash: KeyHash,
        header: u64,
        is_it: &impl Fn(&Entry) -> bool,
    ) -> Result<(Spot, EntryRef<'a>), u64> {
        let mut counts = header & (IN_TREE - 1);
        while counts != 0 {
            let stash = counts.trailing_zeros() / 3;
            counts &= !(STASH_COUNT << (3 * stash));
            let bucket = HOMES + stash as usize;
            // SAFETY: the caller's promise.
            if let Some((slot, entry)) = unsafe { self.buckets[bucket].find(hash, is_it) } {
                return Ok((Spot { bucket, slot }, entry));
            }
        }
        Err(header)
    }

    fn slot(&self, spot: Spot) -> &AtomicU64 {
        &self.buckets[spot.bucket].slots[spot.slot]
    }

    /// Puts an entry that is not here yet into a free slot of its home bucket or the stash.
    fn insert(&self, hash: KeyHash, bits: u64, sequence: u64) -> bool {
        let home = Self::home(hash);
        let word = Self::tag(hash) << 48 | bits;
        let buckets = std::iter::once(home).chain(HOMES..HOMES + STASHES);
        for bucket in buckets {
            let Some(free) = self.buckets[bucket].slots.iter().find(|slot| slot.load(Ordering::Relaxed) == 0)
            else {
                continue;
            };
            free.store(word, publish());
            self.buckets[bucket].put_at(sequence);
            if bucket >= HOMES {
                self.count_stash(home, bucket, 1);
            }
            self.used.store(self.used() + 1, Ordering::Relaxed);
            return true;
        }
        false
    }

    /// Frees the slot; the entry's handle is the caller's.
    fn remove(&self, hash: KeyHash, spot: Spot) {
        debug_assert!(spot.bucket >= HOMES || spot.bucket == Self::home(hash), "the key's own hash");
        self.slot(spot).store(0, Ordering::Release);
        if spot.bucket >= HOMES {
            self.count_stash(Self::home(hash), spot.bucket, -1);
        }
        self.used.store(self.used() - 1, Ordering::Relaxed);
    }

    fn count_stash(&self, home: usize, bucket: usize, by: i64) {
        let header = &self.buckets[home].header;
        let shift = 3 * (bucket - HOMES);
        let mut counts = header.load(Ordering::Relaxed).wrapping_add_signed(by << shift);
        if by < 0 && is_left_out(OrderingMutant::ClearedHint) {
            counts &= !(STASH_COUNT << shift);
        }
        header.store(counts, Ordering::Release);
    }

    fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    fn in_tree(&self) -> u32 {
        self.in_tree.load(Ordering::Relaxed)
    }

    /// Counts one key more or less of this home in the tree.
    fn count_in_tree(&self, home: usize, more: bool) {
        let count = if more { self.in_tree() + 1 } else { self.in_tree() - 1 };
        self.in_tree.store(count, Ordering::Relaxed);
        let header = |bucket: &Bucket| bucket.header.load(Ordering::Relaxed);
        if more {
            let bucket = &self.buckets[home];
            bucket.header.store(header(bucket) | IN_TREE, Ordering::Release);
        } else if count == 0 {
            for bucket in &self.buckets[..HOMES] {
                bucket.header.store(header(bucket) & !IN_TREE, Ordering::Release);
            }
        }
    }

    /// Every occupied slot's word with its bucket's sequence.
    fn words(&self) -> impl Iterator<Item = (Spot, u64, u64)> {
        self.buckets.iter().enumerate().flat_map(|(at, bucket)| {
            let sequence = bucket.header.load(Ordering::Relaxed) >> SEQUENCE_SHIFT << SEQUENCE_GRAIN;
            bucket.slots.iter().enumerate().filter_map(move |(slot, word)| {
                let word = word.load(Ordering::Acquire);
                (word != 0).then_some((Spot { bucket: at, slot }, word & POINTER, sequence))
            })
        })
    }

    /// The first path that it covers.
    fn first(&self, path: u64) -> u64 {
        path & !u64::MAX.checked_shr(self.depth).unwrap_or(0)
    }

    /// The first path behind those that it covers; `None` behind the last.
    fn end(&self, path: u64) -> Option<u64> {
        let low = u64::MAX.checked_shr(self.depth).unwrap_or(0);
        (path | low).checked_add(1)
    }
}

/// Every use of the atomics comes before this too.
#[cfg(gridkv_loom)]
impl Drop for Segment {
    fn drop(&mut self) {
        self.life.end();
        for bucket in self.buckets.iter_mut().filter(|_| !has_failed()) {
            bucket.header.with_mut(|_| ());
            bucket.slots.iter_mut().for_each(|slot| slot.with_mut(|_| ()));
        }
    }
}

#[cfg(gridkv_loom)]
impl Drop for Line {
    fn drop(&mut self) {
        self.1.end();
        self.0.iter_mut().filter(|_| !has_failed()).for_each(|word| word.with_mut(|_| ()));
    }
}

impl Bucket {
    /// # Safety
    ///
    /// As [`Segment::find`].
    #[inline]
    unsafe fn find<'a>(
        &self,
        hash: KeyHash,
        is_it: &impl Fn(&Entry) -> bool,
    ) -> Option<(usize, EntryRef<'a>)> {
        let mut matches = self.matches(Segment::tag(hash) as u16);
        while matches != 0 {
            let slot = (matches.trailing_zeros() / 2) as usize;
            matches &= matches - 1;
            // The word may be another by now: what counts is what this load finds.
            let word = self.slots[slot].load(Ordering::Acquire);
            if word == 0 {
                continue;
            }
            // SAFETY: a slot's word has a handle's bits, and the caller promises that the handle stays.
            let entry = unsafe { Entry::borrow_bits(word & POINTER) };
            if is_left_out(OrderingMutant::TagIsKey) || is_it(&entry) {
                return Some((slot, entry));
            }
        }
        None
    }

    /// The slots that have this tag, every second bit; some may be empty. Without a branch: they are one cache
    /// line.
    #[cfg(not(all(target_arch = "x86_64", not(gridkv_loom), not(miri))))]
    #[inline]
    fn matches(&self, tag: u16) -> u32 {
        let words: [u64; SLOTS] = std::array::from_fn(|slot| self.slots[slot].load(Ordering::Acquire));
        words
            .iter()
            .enumerate()
            .fold(0, |matches, (slot, word)| matches | u32::from((word >> 48) as u16 == tag) << (2 * slot))
    }

    #[cfg(all(target_arch = "x86_64", not(gridkv_loom), not(miri)))]
    #[inline]
    fn matches(&self, tag: u16) -> u32 {
        use std::arch::x86_64::{
            __m128i, _mm_castps_si128, _mm_castsi128_ps, _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi32,
            _mm_set1_epi16, _mm_shuffle_ps, _mm_srai_epi32,
        };

        let (a, b, c, d): (__m128i, __m128i, __m128i, __m128i);
        // SAFETY: it reads this bucket, which is 64 bytes and aligned to that. The assembly stands for eight
        // atomic loads with Acquire, which is what the processor does: it loads aligned words whole, and in
        // their order.
        unsafe {
            std::arch::asm!(
                "movdqa {a}, xmmword ptr [{bucket}]",
                "movdqa {b}, xmmword ptr [{bucket} + 16]",
                "movdqa {c}, xmmword ptr [{bucket} + 32]",
                "movdqa {d}, xmmword ptr [{bucket} + 48]",
                bucket = in(reg) ptr::from_ref(self),
                a = out(xmm_reg) a,
                b = out(xmm_reg) b,
                c = out(xmm_reg) c,
                d = out(xmm_reg) d,
                options(nostack, preserves_flags),
            );
        }
        // SAFETY: SSE2 is part of every x86-64 processor.
        let matches = unsafe {
            // The upper halves of all words, of these the upper halves: eight tags, the header's place first.
            let upper = |a, b| {
                _mm_castps_si128(_mm_shuffle_ps::<0b11_01_11_01>(_mm_castsi128_ps(a), _mm_castsi128_ps(b)))
            };
            let tags = _mm_packs_epi32(_mm_srai_epi32::<16>(upper(a, b)), _mm_srai_epi32::<16>(upper(c, d)));
            _mm_movemask_epi8(_mm_cmpeq_epi16(tags, _mm_set1_epi16(tag as i16))) as u32
        };
        (matches & 0x5555) >> 2
    }

    /// Notes that something was put here now.
    fn put_at(&self, sequence: u64) {
        let header = self.header.load(Ordering::Relaxed);
        let sequence = (sequence >> SEQUENCE_GRAIN).max(header >> SEQUENCE_SHIFT);
        let counts = header & ((1 << SEQUENCE_SHIFT) - 1);
        self.header.store(sequence << SEQUENCE_SHIFT | counts, Ordering::Release);
    }
}

/// A new generation of a state, so that whoever has slept over two changes sees that there were some.
fn change_state(state: &AtomicU32, serves: bool) {
    let old = state.load(Ordering::Relaxed);
    state.store((old & !1).wrapping_add(2) | u32::from(serves), Ordering::Release);
}

/// How an entry's slot is written: what was written of the entry before is seen by whoever finds it.
fn publish() -> Ordering {
    ordering(OrderingMutant::RelaxedPublish, Ordering::Release)
}

/// How a word that leads to segments is written: all that is in them is seen by whoever finds them.
fn lead() -> Ordering {
    ordering(OrderingMutant::RelaxedDirectory, Ordering::Release)
}

fn new_array(bits: u32, word: impl Fn(usize) -> u64) -> Box<[Line]> {
    let words = 1usize << bits;
    let line = |at: usize| {
        let word = |i| AtomicU64::new(if at * LINE + i < words { word(at * LINE + i) } else { 0 });
        Line(std::array::from_fn(word), Life::new())
    };
    (0..words.div_ceil(LINE)).map(line).collect()
}

fn array_bytes(bits: u32) -> usize {
    charge::size_class((1usize << bits).div_ceil(LINE) * size_of::<Line>())
}

fn segment_bytes() -> usize {
    charge::size_class(size_of::<Segment>())
}

fn array_node(array: Box<[Line]>, bits: u32) -> u64 {
    Box::into_raw(array).cast::<Line>().expose_provenance() as u64 | u64::from(64 - bits)
}

/// How many bits of a path an array decides; none, where it is a segment.
fn node_bits(node: u64) -> u32 {
    match (node & NODE_SHIFT) as u32 {
        0 => 0,
        shift => 64 - shift,
    }
}

/// # Safety
///
/// `node` is an array's, which is not freed for all of `'a`; `index` is less than its words.
#[inline]
unsafe fn word<'a>(node: u64, index: usize) -> &'a AtomicU64 {
    let lines: *const Line = ptr::with_exposed_provenance((node & !NODE_SHIFT) as usize);
    #[cfg(gridkv_loom)]
    {
        assert!(index < LINE, "the arrays of the models have one line");
        // SAFETY: the caller's promise.
        unsafe { &*lines }.1.read();
    }
    // SAFETY: the caller's promise; a line is its words and nothing else.
    unsafe { &*lines.cast::<AtomicU64>().add(index) }
}

/// # Safety
///
/// `node` is a segment's, which is not freed for all of `'a`.
#[inline]
unsafe fn segment<'a>(node: u64) -> &'a Segment {
    // SAFETY: the caller's promise.
    let segment: &'a Segment = unsafe { &*ptr::with_exposed_provenance(node as usize) };
    segment.life.read();
    segment
}

/// # Safety
///
/// `node` is a segment's that nobody finds any more, and this is the only time it is taken.
unsafe fn take_segment(node: u64) -> Box<Segment> {
    // SAFETY: the caller's promise; it was made by `into_node`.
    unsafe { Box::from_raw(ptr::with_exposed_provenance_mut(node as usize)) }
}

/// # Safety
///
/// As [`take_segment`], for an array's node.
unsafe fn take_array(node: u64) -> Box<[Line]> {
    let lines = (1usize << node_bits(node)).div_ceil(LINE);
    let start = ptr::with_exposed_provenance_mut((node & !NODE_SHIFT) as usize);
    // SAFETY: the caller's promise; `new_array` made that many lines.
    unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(start, lines)) }
}

impl View {
    fn new(cluster: ClusterHash, cores: Cores, readers: Arc<Readers>) -> Self {
        let owned = PARTITIONS.div_ceil(cores.count());
        let states = if cfg!(gridkv_loom) { 1 } else { usize::from(owned) };
        Self {
            root: AtomicU64::new(Segment::new(0).into_node()),
            states: (0..states).map(|_| AtomicU32::new(0)).collect(),
            state_of_all: AtomicU32::new(0),
            cluster,
            cores,
            partition_bits: u32::from(owned).next_power_of_two().trailing_zeros(),
            readers,
            leftover: Mutex::new(Vec::new()),
        }
    }

    /// The partition's number within this core, then the other bits of the hash.
    #[inline]
    fn path(&self, hash: KeyHash) -> u64 {
        self.path_at(self.cores.local(hash.partition()), hash)
    }

    #[inline]
    fn path_at(&self, local: u16, hash: KeyHash) -> u64 {
        if self.partition_bits == PARTITIONS.trailing_zeros() {
            return hash.0;
        }
        u64::from(local) << (64 - self.partition_bits) | hash.0 << 12 >> self.partition_bits
    }

    /// Where the paths of a partition begin.
    fn start(&self, partition: Partition) -> u64 {
        u64::from(self.cores.local(partition)) << (64 - self.partition_bits)
    }

    /// # Safety
    ///
    /// For all of `'a`, the caller is pinned, or is the writer and collects nothing.
    #[inline]
    unsafe fn segment<'a>(&self, path: u64) -> &'a Segment {
        let root = self.root.load(Ordering::Acquire);
        let shift = root & NODE_SHIFT;
        // SAFETY: what the arrays lead to is freed only after it was unlinked and every reader that was pinned
        // then has gone. An index has as many bits as its array. There are two levels of arrays at the most.
        unsafe {
            if shift == 0 {
                return segment(root);
            }
            let node = word(root, (path >> shift) as usize).load(Ordering::Acquire);
            let next_shift = node & NODE_SHIFT;
            if next_shift == 0 {
                return segment(node);
            }
            segment(word(node, (path << (64 - shift) >> next_shift) as usize).load(Ordering::Acquire))
        }
    }

    #[inline]
    fn state(&self, local: u16) -> &AtomicU32 {
        if self.state_of_all.load(Ordering::Relaxed) & 1 == 1 {
            return &self.state_of_all;
        }
        self.own_state(local)
    }

    /// Of one partition; the models have one for all.
    #[inline]
    fn own_state(&self, local: u16) -> &AtomicU32 {
        &self.states[if cfg!(gridkv_loom) { 0 } else { usize::from(local) }]
    }

    /// # Safety
    ///
    /// For all of `'a`, the caller is pinned.
    #[inline]
    unsafe fn get<'a>(&self, local: u16, hash: KeyHash, key: &[u8]) -> Local<EntryRef<'a>> {
        let state = self.state(local);
        let before = state.load(Ordering::Acquire);
        if before & 1 == 0 {
            return Local::AskOwner;
        }
        // SAFETY: the caller's promise.
        let found = unsafe { self.segment(self.path_at(local, hash)).find(hash, |entry| entry.has_key(key)) };
        // The reader may have slept while the partition was given away, emptied, even taken back: what it
        // found, and that it found nothing, counts only if this node answered for it all along.
        if state.load(Ordering::Acquire) != before && !is_left_out(OrderingMutant::TrustedMiss) {
            return Local::AskOwner;
        }
        match found {
            Ok((_, entry)) => {
                entry.visit();
                Local::Found(entry)
            }
            Err(header) if header & IN_TREE != 0 => Local::AskOwner,
            Err(_) => Local::Absent,
        }
    }
}

/// What the cores of one engine let others read.
pub(crate) struct Views {
    views: Box<[Arc<View>]>,
    cores: Cores,
    readers: Arc<Readers>,
}

/// A look at an engine's data: as long as it lives, nothing that it finds is freed.
pub(crate) struct Pinned<'a> {
    views: &'a Views,
    _guard: Guard<'a>,
}

impl Views {
    /// Of every core, in their order.
    ///
    /// # Panics
    ///
    /// When they do not have the same readers.
    pub(crate) fn new(views: impl IntoIterator<Item = Arc<View>>, readers: Arc<Readers>) -> Self {
        let views: Box<[Arc<View>]> = views.into_iter().collect();
        assert!(
            views.iter().all(|view| Arc::ptr_eq(&view.readers, &readers)),
            "one engine, one set of readers"
        );
        Self { cores: Cores::new(views.len() as u16), views, readers }
    }

    /// `None` where the calling thread is ending.
    #[inline]
    pub(crate) fn pin(&self) -> Option<Pinned<'_>> {
        Some(Pinned { _guard: self.readers.pin()?, views: self })
    }
}

#[cfg(gridkv_loom)]
impl Views {
    /// As [`pin`](Self::pin), in a place of [`Readers::register`]'s that the caller keeps.
    pub(crate) fn pin_in<'a>(&'a self, reader: &'a Reader) -> Pinned<'a> {
        Pinned { _guard: reader.pin(&self.readers), views: self }
    }
}

impl Pinned<'_> {
    #[inline]
    fn view(&self, hash: KeyHash) -> (&View, u16) {
        let (core, local) = self.views.cores.place(hash.partition());
        (&self.views.views[usize::from(core.0)], local)
    }

    #[inline]
    fn segment(&self, hash: KeyHash) -> &Segment {
        let (view, local) = self.view(hash);
        // SAFETY: the guard pins this thread among the readers of every view, as `Views::new` has checked.
        unsafe { view.segment(view.path_at(local, hash)) }
    }

    /// Looks at this node's own copy of a key, on the caller's thread, without waiting for anybody: an entry
    /// that was current during the call, be it a value, expired or not, or what a delete left.
    #[inline]
    pub(crate) fn get(&self, hash: KeyHash, key: &[u8]) -> Local<EntryRef<'_>> {
        let (view, local) = self.view(hash);
        // SAFETY: pinned, as above.
        unsafe { view.get(local, hash, key) }
    }

    /// Brings the lines closer that a [`get`](Self::get) of this key will need, first the index's.
    #[inline]
    pub(crate) fn prefetch_bucket(&self, hash: KeyHash) {
        let segment = self.segment(hash);
        prefetch::to_read(&segment.buckets[Segment::home(hash)]);
    }

    /// Then, when those may have come, the entry's.
    #[inline]
    pub(crate) fn prefetch_entry(&self, hash: KeyHash) {
        let segment = self.segment(hash);
        let tag = Segment::tag(hash);
        for slot in &segment.buckets[Segment::home(hash)].slots {
            let word = slot.load(Ordering::Relaxed);
            if word >> 48 == tag && word != 0 {
                let entry: *const u8 = ptr::with_exposed_provenance((word & POINTER) as usize);
                (0..3).for_each(|line| prefetch::to_read(entry.wrapping_add(64 * line)));
            }
        }
    }

    /// Shows every entry of a segment of `core` that covers `path` to `visit`, with its path. Returns where the
    /// next segment begins, and whether there may be more of this one that only the owner sees.
    pub(crate) fn walk(
        &self,
        core: CoreId,
        path: u64,
        mut visit: impl FnMut(u64, &Entry),
    ) -> (Option<u64>, bool) {
        let view = &self.views.views[usize::from(core.0)];
        // SAFETY: pinned, as above.
        let segment = unsafe { view.segment(path) };
        for (_, bits, _) in segment.words() {
            // SAFETY: pinned, as above.
            let entry = unsafe { Entry::borrow_bits(bits) };
            visit(view.path(KeyHash::of(view.cluster, entry.key())), &entry);
        }
        let mut headers = segment.buckets[..HOMES].iter().map(|bucket| bucket.header.load(Ordering::Acquire));
        (segment.end(path), headers.any(|header| header & IN_TREE != 0))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        free_tree(self.root.load(Ordering::Acquire));
    }
}

/// Frees everything below a node. For a table that nobody looks at any more.
fn free_tree(node: u64) {
    let bits = node_bits(node);
    if bits == 0 {
        // SAFETY: nobody else has the table, and each segment comes here once: see below.
        let segment = unsafe { take_segment(node) };
        for (_, bits, _) in segment.words() {
            // SAFETY: the slot's handle, taken once.
            drop(unsafe { Entry::from_bits(bits) });
        }
        return;
    }
    // SAFETY: nobody else has the table; an array has one word that leads to it.
    let array = unsafe { take_array(node) };
    let mut last = 0;
    for word in array.iter().flat_map(|line| &line.0).take(1 << bits) {
        let child = word.load(Ordering::Relaxed);
        // The words that lead to one segment are neighbours.
        if child != last {
            free_tree(child);
        }
        last = child;
    }
}

impl Table {
    pub(crate) fn new(cluster: ClusterHash, core: CoreId, cores: Cores, readers: Arc<Readers>) -> Self {
        let view = Arc::new(View::new(cluster, cores, readers.clone()));
        let owned = Partition::all().filter(|partition| cores.place(*partition).0 == core).count();
        Self {
            view,
            tree: BTreeMap::new(),
            tree_timers: BTreeMap::new(),
            tree_hand: TablePosition::default(),
            // The models have one state for all.
            owned: if cfg!(gridkv_loom) { 1 } else { owned },
            served: 0,
            left_tree: Vec::new(),
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

    /// What the index takes beside the entries.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What was unlinked and may still be looked at.
    pub(crate) fn retired_bytes(&self) -> usize {
        self.retired.bytes()
    }

    /// Frees what no reader can hold any more.
    pub(crate) fn collect(&mut self, limit: usize) {
        self.retired.collect(limit);
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
        // SAFETY: this is the writer, which collects only through `&mut self`: the entry's handle stays in its
        // slot, or in the retire list, for as long as `self` is borrowed.
        match unsafe { self.view.segment(path).find(hash, |entry| entry.has_key(key)) } {
            Ok((_, entry)) => Some(entry),
            Err(header) if header & IN_TREE != 0 => {
                self.tree.get(&TablePosition::new(path, key)).map(|held| held.entry.borrow())
            }
            Err(_) => None,
        }
    }

    /// Brings the line closer that looking for this key begins with.
    #[inline]
    pub(crate) fn prefetch(&self, hash: KeyHash) {
        // SAFETY: this is the writer, and nothing below collects.
        let segment = unsafe { self.view.segment(self.view.path(hash)) };
        prefetch::to_write(&segment.buckets[Segment::home(hash)]);
    }

    /// Lets `decide` see the entry of this hash that is sought, and say what becomes of it, with anything else.
    /// `sequence` numbers the change.
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
                        segment.slot(spot).store(Segment::tag(hash) << 48 | new.into_bits(), publish());
                        segment.buckets[spot.bucket].put_at(sequence);
                    }
                    Change::Remove => {
                        segment.remove(hash, spot);
                        self.len -= 1;
                    }
                }
                // SAFETY: its slot's handle, which nobody finds there any more.
                self.retire(unsafe { entry.into_handle() }, bytes);
                if segment.used() <= FEW {
                    self.shrink(path);
                }
                outcome
            }
            Err(header) => {
                let position = if header & IN_TREE != 0 { self.find_in_tree(path, &sought) } else { None };
                match position {
                    Some(position) => self.update_tree(position, sequence, |held| decide(sought, Some(held))),
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

    fn find_in_tree(&self, path: u64, sought: &impl Sought) -> Option<TablePosition> {
        if let Some(key) = sought.key() {
            return Some(TablePosition::new(path, key)).filter(|position| self.tree.contains_key(position));
        }
        if let Some(timer) = sought.timer() {
            return self.tree_timers.get(&timer).filter(|position| position.path == path).cloned();
        }
        let of_path = self.tree.range(TablePosition::first(path)..).take_while(|(at, _)| at.path == path);
        of_path.into_iter().find(|(_, held)| sought.is(&held.entry)).map(|(position, _)| position.clone())
    }

    fn update_tree<T>(
        &mut self,
        position: TablePosition,
        sequence: u64,
        decide: impl FnOnce(&Entry) -> (Change, T),
    ) -> T {
        let held = self.tree.get_mut(&position).expect("found just now");
        let (change, outcome) = decide(&held.entry);
        match change {
            Change::Keep => {}
            Change::Put(new) => {
                let (old, timer) = (held.entry.timer(), new.timer());
                if old != timer {
                    self.bytes -= timer_bytes(&position, old);
                    self.bytes += timer_bytes(&position, timer);
                    self.tree_timers.remove(&old);
                    if timer != NO_TIMER {
                        self.tree_timers.insert(timer, position);
                    }
                }
                // As for buckets: what says nothing new keeps its number.
                held.sequence = held.sequence.max(sequence);
                held.entry = new;
            }
            Change::Remove => self.remove_from_tree(&position),
        }
        outcome
    }

    fn remove_from_tree(&mut self, position: &TablePosition) {
        if let Some(held) = self.tree.remove(position) {
            self.len -= 1;
            self.tree_timers.remove(&held.entry.timer());
            self.bytes -= position_bytes(position) + timer_bytes(position, held.entry.timer());
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
                self.bytes += position_bytes(&position) + timer_bytes(&position, entry.timer());
                if entry.timer() != NO_TIMER {
                    self.tree_timers.insert(entry.timer(), position.clone());
                }
                self.tree.insert(position, InTree { entry, hash, sequence });
                return segment.count_in_tree(Segment::home(hash), true);
            }
        }
    }

    fn retire(&mut self, entry: Entry, bytes: usize) {
        self.retired.retire(Garbage::Entry(entry), bytes);
    }

    /// Takes a segment that was unlinked, once; its entries are others' by now.
    fn retire_segment(&mut self, node: u64) {
        self.bytes -= segment_bytes();
        self.retired.retire(Garbage::Node(Unlinked(node)), segment_bytes());
    }

    fn retire_array(&mut self, node: u64) {
        let bytes = array_bytes(node_bits(node));
        self.bytes -= bytes;
        self.retired.retire(Garbage::Node(Unlinked(node)), bytes);
    }

    /// The array that decides about a segment of this depth, or would.
    fn level(&self, path: u64, depth: u32) -> Level<'static> {
        // SAFETY: this is the writer, and whoever uses the level does not collect meanwhile.
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

    /// Replaces the segment that covers `path` by two. `false` where keys that share so many bits are not
    /// given more room.
    fn split(&mut self, path: u64) -> bool {
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
            // SAFETY: the entry's handle is in the old segment's slot, and in the new one's from now on.
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
        let old_node = ptr::from_ref(old).expose_provenance() as u64;
        let nodes = halves.map(Segment::into_node);
        self.bytes += 2 * segment_bytes();
        if is_deepest {
            self.grow(&level, path, nodes);
        } else {
            self.link(&level, path, old.depth, |half| nodes[half]);
        }
        self.retire_segment(old_node);
        true
    }

    /// Whether an array may have twice its words.
    fn may_grow(&self, level: &Level<'_>) -> bool {
        if level.base == 0 {
            return level.bits < self.view.partition_bits;
        }
        level.bits < MAX_PAGE_BITS && 1usize << level.bits <= WORDS_PER_SEGMENT * segments_below(level.node)
    }

    /// Moves what now fits from the tree into the halves, and counts what does not.
    fn split_tree(
        &mut self,
        path: u64,
        old: &Segment,
        halves: &[Box<Segment>; 2],
        half_of: impl Fn(u64) -> usize,
    ) {
        for position in self.tree_positions(old.first(path), old.end(path)) {
            let half = &halves[half_of(position.path)];
            let Some(held) = self.tree.remove(&position) else { continue };
            let (hash, sequence) = (held.hash, held.sequence);
            let in_queue = held.entry.value().is_some().then_some((hash, held.entry.generation()));
            let timer = held.entry.timer();
            let bits = held.entry.into_bits();
            if half.insert(hash, bits, sequence) {
                self.left_tree.extend(in_queue);
                self.tree_timers.remove(&timer);
                self.bytes -= position_bytes(&position) + timer_bytes(&position, timer);
            } else {
                // SAFETY: taken out above, and no slot has it.
                let entry = unsafe { Entry::from_bits(bits) };
                half.count_in_tree(Segment::home(hash), true);
                self.tree.insert(position, InTree { entry, hash, sequence });
            }
        }
    }

    /// The positions in the tree of the paths from `start` to before `end`.
    fn tree_positions(&self, start: u64, end: Option<u64>) -> Vec<TablePosition> {
        let from = self.tree.range(TablePosition::first(start)..);
        from.map(|(position, _)| position)
            .take_while(|position| end.is_none_or(|end| position.path < end))
            .cloned()
            .collect()
    }

    /// Publishes an array of twice the words, with `nodes` for the segment of `path`, the deepest there is.
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
        level.holder.store(array_node(array, bits), lead());
        if level.bits > 0 {
            self.retire_array(level.node);
        }
    }

    /// Lets the words that led to the segment of `path` and `depth` lead to what `node` says for its halves.
    fn link(&self, level: &Level<'_>, path: u64, depth: u32, node: impl Fn(usize) -> u64) {
        let (own, words) = (depth - level.base, 1usize << (level.bits + level.base - depth));
        let prefix = if own == 0 { 0 } else { (path << level.base >> (64 - own)) as usize };
        for at in 0..words {
            // SAFETY: the array has `words` of them for each prefix.
            unsafe { word(level.node, prefix * words + at) }
                .store(node(usize::from(at >= words / 2)), lead());
        }
    }

    /// Merges the segment that covers `path` with its other half while both are nearly empty. Looks only now
    /// and then, as the other half is elsewhere in memory.
    fn shrink(&mut self, path: u64) {
        loop {
            // SAFETY: this is the writer, and nothing below collects.
            let one = unsafe { self.view.segment(path) };
            if one.depth == 0 || one.used() > FEW || !one.used().is_multiple_of(8) || one.in_tree() > 0 {
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

    fn merge(&mut self, path: u64, one: &Segment, other: &Segment) -> bool {
        let depth = one.depth - 1;
        let whole = Segment::new(depth);
        for (_, bits, sequence) in one.words().chain(other.words()) {
            // SAFETY: the entry's handle is in the old segment's slot, and in the new one's from now on.
            let entry = unsafe { Entry::borrow_bits(bits) };
            if !whole.insert(KeyHash::of(self.view.cluster, entry.key()), bits, sequence) {
                // So many keys of one home: they stay apart.
                return false;
            }
        }
        let olds = [one, other].map(|segment| ptr::from_ref(segment).expose_provenance() as u64);
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

    /// Removes every entry of a partition, showing each to `gone`.
    pub(crate) fn clear(&mut self, partition: Partition, mut gone: impl FnMut(KeyHash, &Entry)) {
        let (start, end) = self.paths(partition);
        for position in self.tree_positions(start, end) {
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
                    // SAFETY: its slot's handle, which nobody finds there any more.
                    self.retire(unsafe { entry.into_handle() }, bytes);
                }
            }
            self.shrink(at);
        }
    }

    /// The values that have left the tree for a bucket since the last call: the eviction queue, which does not
    /// find what is in the tree, may have dropped their lines.
    pub(crate) fn left_tree(&mut self) -> impl Iterator<Item = (KeyHash, u8)> {
        std::mem::take(&mut self.left_tree).into_iter()
    }

    /// Takes the next value out of the tree, looking at a few entries: what a delete left stays.
    pub(crate) fn evict_from_tree(&mut self) -> Option<(KeyHash, Entry)> {
        let from = std::mem::take(&mut self.tree_hand);
        let mut range = self.tree.range(from..);
        let found = range.by_ref().take(8).find(|(_, held)| held.entry.value().is_some());
        let found = found.map(|(position, held)| (position.clone(), held.hash, held.entry.clone()));
        self.tree_hand = range.next().map(|(position, _)| position.clone()).unwrap_or_default();
        found.map(|(position, hash, entry)| {
            self.remove_from_tree(&position);
            (hash, entry)
        })
    }

    /// Whether a slot has an entry of this hash that is sought.
    pub(crate) fn has(&self, hash: KeyHash, sought: &impl Sought) -> bool {
        // SAFETY: this is the writer, which collects only through `&mut self`.
        unsafe { self.view.segment(self.view.path(hash)).find(hash, |entry| sought.is(entry)) }.is_ok()
    }

    /// The same, wherever it is.
    pub(crate) fn holds(&self, hash: KeyHash, sought: &impl Sought) -> bool {
        let path = self.view.path(hash);
        // SAFETY: this is the writer, which collects only through `&mut self`.
        match unsafe { self.view.segment(path).find(hash, |entry| sought.is(entry)) } {
            Ok(_) => true,
            Err(header) => header & IN_TREE != 0 && self.find_in_tree(path, sought).is_some(),
        }
    }

    /// A sequence as exactly as it is kept.
    pub(crate) fn grain(&self, sequence: u64) -> u64 {
        sequence >> SEQUENCE_GRAIN << SEQUENCE_GRAIN
    }

    /// Shows the entries of the segment that covers the path of `from` to `visit`, with path, hash and sequence:
    /// those in buckets in no order, then those of the tree from that position on in theirs, until it breaks off.
    /// Returns where the next segment begins.
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
            let rest = self.tree.range::<TablePosition, _>(from..);
            for (at, held) in rest.take_while(|(at, _)| end.is_none_or(|end| at.path < end)) {
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

    /// Where a walk that has come to this hash goes on.
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

/// How many segments an array leads to.
fn segments_below(node: u64) -> usize {
    let bits = node_bits(node);
    if bits == 0 {
        return 1;
    }
    // SAFETY: the writer's own array, which it does not free now.
    let children = (0..1usize << bits).map(|at| unsafe { word(node, at) }.load(Ordering::Relaxed));
    let mut last = 0;
    children.filter(|child| std::mem::replace(&mut last, *child) != *child).count()
}
