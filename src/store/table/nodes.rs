//! What the table is made of: segments of buckets, and the arrays of words that lead to them.
//!
//! A *node* is one word: the address of a segment, or that of an array with its size in the low
//! bits. The writer makes nodes and publishes them; readers follow them; [`Garbage`] frees them
//! when no reader is left. Everything that turns a word into memory is in this file, and each of
//! these functions states what its caller promises.
//!
//! Nothing here knows the writer, the readers or the tree of crafted keys.

use std::ptr;

use crate::entry::{Entry, EntryRef};
use crate::mutants::{OrderingMutant, is_left_out, ordering};
use crate::store::charge;
#[cfg(gridkv_loom)]
use crate::sync::has_failed;
use crate::sync::{AtomicU32, AtomicU64, Life, Ordering};
use crate::types::KeyHash;

/// Smaller in the models, which try every interleaving.
const SLOTS: usize = if cfg!(gridkv_loom) { 2 } else { 7 };
pub(super) const HOMES: usize = if cfg!(gridkv_loom) { 1 } else { 56 };
const STASHES: usize = if cfg!(gridkv_loom) { 1 } else { 7 };

/// How many keys fit into one segment.
pub(super) const CAPACITY: usize = (HOMES + STASHES) * SLOTS;

/// Two segments that both have no more than this are merged.
pub(super) const FEW: u32 = CAPACITY as u32 / 4;

/// The words of one cache line.
const LINE: usize = 8;

/// A slot's pointer, below its tag.
pub(super) const POINTER: u64 = (1 << 48) - 1;

/// A node's word is the address of a segment, or that of an array of 2^b words with 64 − b in its
/// low six bits: a path is shifted to the right by that number to give the index of a word.
pub(super) const NODE_SHIFT: u64 = 63;

/// In a bucket's header: for each stash bucket, how many keys of this home are there (three bits
/// each); whether some are in the tree; when anything in the bucket was last put, as a sequence
/// number.
const STASH_COUNT: u64 = 7;
pub(super) const IN_TREE: u64 = 1 << 21;
const SEQUENCE_SHIFT: u32 = 22;

/// Sequence numbers are kept in units of 256, so that 42 bits last for decades.
pub(super) const SEQUENCE_GRAIN: u32 = 8;

#[repr(C, align(64))]
pub(super) struct Bucket {
    pub(super) header: AtomicU64,
    pub(super) slots: [AtomicU64; SLOTS],
}

/// All keys that share the first `depth` bits of their paths.
#[repr(C, align(64))]
pub(super) struct Segment {
    pub(super) depth: u32,
    /// How many entries are in the buckets, and how many more of this segment's are in the tree.
    /// Only the writer looks at them.
    used: AtomicU32,
    in_tree: AtomicU32,
    pub(super) buckets: [Bucket; HOMES + STASHES],
    life: Life,
}

#[cfg(not(gridkv_loom))]
const _: () = assert!(size_of::<Segment>() == 4096);

/// One cache line of an array.
#[repr(C, align(64))]
pub(super) struct Line([AtomicU64; LINE], Life);

/// Where an entry is in a segment.
#[derive(Clone, Copy)]
pub(super) struct Spot {
    pub(super) bucket: usize,
    slot: usize,
}

/// What was unlinked. Dropping it frees it.
#[expect(dead_code, reason = "kept to be dropped")]
pub(super) enum Garbage {
    Entry(Entry),
    Node(Unlinked),
}

/// A node that no word leads to any more. Not a box before it is freed: readers may still look at
/// it.
pub(super) struct Unlinked(u64);

impl Garbage {
    /// Takes a node that was unlinked, once.
    pub(super) fn node(node: u64) -> Self {
        Self::Node(Unlinked(node))
    }
}

impl Drop for Unlinked {
    fn drop(&mut self) {
        // SAFETY: it was made of a node that was unlinked, once, and is dropped when no reader is
        // left.
        unsafe {
            match node_bits(self.0) {
                0 => drop(take_segment(self.0)),
                _ => drop(take_array(self.0)),
            }
        }
    }
}

impl Segment {
    pub(super) fn new(depth: u32) -> Box<Self> {
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

    pub(super) fn into_node(self: Box<Self>) -> u64 {
        Box::into_raw(self).expose_provenance() as u64
    }

    /// The node that leads to this segment.
    pub(super) fn node(&self) -> u64 {
        ptr::from_ref(self).expose_provenance() as u64
    }

    #[inline]
    pub(super) fn home(hash: KeyHash) -> usize {
        (((hash.0 >> 7) as u32 as u64 * HOMES as u64) >> 32) as usize
    }

    #[inline]
    pub(super) fn tag(hash: KeyHash) -> u64 {
        (hash.0 >> 7) & 0xffff
    }

    /// Finds the entry of this hash that `is_it`, if a bucket has it. Otherwise returns the home
    /// bucket's header.
    ///
    /// # Safety
    ///
    /// For all of `'a`, no entry that is in this segment now is freed.
    #[inline]
    pub(super) unsafe fn find<'a>(
        &self,
        hash: KeyHash,
        is_it: impl Fn(&Entry) -> bool,
    ) -> Result<(Spot, EntryRef<'a>), u64> {
        let home = Self::home(hash);
        // SAFETY: the caller's promise.
        if let Some((slot, entry)) = unsafe { self.buckets[home].find(hash, &is_it) } {
            return Ok((Spot { bucket: home, slot }, entry));
        }
        // After the home slots: see the table's rule of no displacement.
        let header = self.buckets[home].header.load(Ordering::Acquire);
        if header & (IN_TREE - 1) == 0 {
            return Err(header);
        }
        // SAFETY: the caller's promise.
        unsafe { self.find_in_stash(hash, header, &is_it) }
    }

    /// Finds the entry in those stash buckets that the header counts some in.
    ///
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

    /// Puts an entry that is not here yet into a free slot of its home bucket or the stash. Returns
    /// `false` if neither has one.
    pub(super) fn insert(&self, hash: KeyHash, bits: u64, sequence: u64) -> bool {
        let home = Self::home(hash);
        let word = Self::tag(hash) << 48 | bits;
        let buckets = std::iter::once(home).chain(HOMES..HOMES + STASHES);
        for bucket in buckets {
            let Some(free) =
                self.buckets[bucket].slots.iter().find(|slot| slot.load(Ordering::Relaxed) == 0)
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

    /// Puts an entry in the place of the one in this slot, whose handle is the caller's then.
    #[inline]
    pub(super) fn replace(&self, hash: KeyHash, spot: Spot, entry: Entry, sequence: u64) {
        self.slot(spot).store(Self::tag(hash) << 48 | entry.into_bits(), publish());
        self.buckets[spot.bucket].put_at(sequence);
    }

    /// Frees the slot; the entry's handle is the caller's then.
    pub(super) fn remove(&self, hash: KeyHash, spot: Spot) {
        debug_assert!(
            spot.bucket >= HOMES || spot.bucket == Self::home(hash),
            "the key's own hash"
        );
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

    #[inline]
    pub(super) fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn in_tree(&self) -> u32 {
        self.in_tree.load(Ordering::Relaxed)
    }

    /// Counts one key of this home that enters or leaves the tree.
    pub(super) fn count_in_tree(&self, home: usize, more: bool) {
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

    /// Every occupied slot's entry, as a number, with its bucket's sequence.
    pub(super) fn words(&self) -> impl Iterator<Item = (Spot, u64, u64)> {
        self.buckets.iter().enumerate().flat_map(|(at, bucket)| {
            let sequence =
                bucket.header.load(Ordering::Relaxed) >> SEQUENCE_SHIFT << SEQUENCE_GRAIN;
            bucket.slots.iter().enumerate().filter_map(move |(slot, word)| {
                let word = word.load(Ordering::Acquire);
                (word != 0).then_some((Spot { bucket: at, slot }, word & POINTER, sequence))
            })
        })
    }

    /// The first path that this segment covers, given any of them.
    pub(super) fn first(&self, path: u64) -> u64 {
        path & !u64::MAX.checked_shr(self.depth).unwrap_or(0)
    }

    /// The first path behind those that this segment covers; `None` behind the last.
    pub(super) fn end(&self, path: u64) -> Option<u64> {
        let low = u64::MAX.checked_shr(self.depth).unwrap_or(0);
        (path | low).checked_add(1)
    }
}

/// Every use of the atomics must come before this too.
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
    /// Finds the entry in this bucket, with the number of its slot.
    ///
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
            // The word may have changed since: what counts is what this load finds.
            let word = self.slots[slot].load(Ordering::Acquire);
            if word == 0 {
                continue;
            }
            // SAFETY: a slot's word has a handle's bits, and the caller promises that the handle
            // stays.
            let entry = unsafe { Entry::borrow_bits(word & POINTER) };
            if is_left_out(OrderingMutant::TagIsKey) || is_it(&entry) {
                return Some((slot, entry));
            }
        }
        None
    }

    /// The slots that have this tag, as every second bit; some may be empty. Without a branch: the
    /// slots are one cache line.
    #[cfg(not(all(target_arch = "x86_64", not(gridkv_loom), not(miri))))]
    #[inline]
    fn matches(&self, tag: u16) -> u32 {
        let words: [u64; SLOTS] =
            std::array::from_fn(|slot| self.slots[slot].load(Ordering::Acquire));
        words.iter().enumerate().fold(0, |matches, (slot, word)| {
            matches | u32::from((word >> 48) as u16 == tag) << (2 * slot)
        })
    }

    #[cfg(all(target_arch = "x86_64", not(gridkv_loom), not(miri)))]
    #[inline]
    fn matches(&self, tag: u16) -> u32 {
        use std::arch::x86_64::{
            __m128i, _mm_castps_si128, _mm_castsi128_ps, _mm_cmpeq_epi16, _mm_movemask_epi8,
            _mm_packs_epi32, _mm_set1_epi16, _mm_shuffle_ps, _mm_srai_epi32,
        };

        let (a, b, c, d): (__m128i, __m128i, __m128i, __m128i);
        // SAFETY: it reads this bucket, which is 64 bytes and aligned to that. The assembly stands
        // for eight atomic loads with Acquire, which is what the processor does: it loads aligned
        // words whole, and in their order.
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
            // The upper halves of all words, and the upper halves of these: eight tags, that of the
            // header first.
            let upper = |a, b| {
                _mm_castps_si128(_mm_shuffle_ps::<0b11_01_11_01>(
                    _mm_castsi128_ps(a),
                    _mm_castsi128_ps(b),
                ))
            };
            let tags = _mm_packs_epi32(
                _mm_srai_epi32::<16>(upper(a, b)),
                _mm_srai_epi32::<16>(upper(c, d)),
            );
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

/// How an entry's slot is written: a reader that finds the entry sees all that was written of it
/// before.
#[inline]
fn publish() -> Ordering {
    ordering(OrderingMutant::RelaxedPublish, Ordering::Release)
}

/// How a word that leads to segments is written: a reader that finds the segments sees all that is
/// in them.
#[inline]
pub(super) fn lead() -> Ordering {
    ordering(OrderingMutant::RelaxedDirectory, Ordering::Release)
}

/// Makes an array of 2^`bits` words, each of which `word` gives by its index. Returns its node.
pub(super) fn new_array(bits: u32, word: impl Fn(usize) -> u64) -> u64 {
    let words = 1usize << bits;
    let line = |at: usize| {
        let word = |i| AtomicU64::new(if at * LINE + i < words { word(at * LINE + i) } else { 0 });
        Line(std::array::from_fn(word), Life::new())
    };
    let array: Box<[Line]> = (0..words.div_ceil(LINE)).map(line).collect();
    Box::into_raw(array).cast::<Line>().expose_provenance() as u64 | u64::from(64 - bits)
}

/// The memory of an array of 2^`bits` words.
pub(super) fn array_bytes(bits: u32) -> usize {
    charge::size_class((1usize << bits).div_ceil(LINE) * size_of::<Line>())
}

/// The memory of a segment.
pub(super) fn segment_bytes() -> usize {
    charge::size_class(size_of::<Segment>())
}

/// How many bits of a path a node decides; zero for a segment.
pub(super) fn node_bits(node: u64) -> u32 {
    match (node & NODE_SHIFT) as u32 {
        0 => 0,
        shift => 64 - shift,
    }
}

/// A word of an array.
///
/// # Safety
///
/// `node` is an array's, which is not freed for all of `'a`; `index` is less than its words.
#[inline]
pub(super) unsafe fn word<'a>(node: u64, index: usize) -> &'a AtomicU64 {
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

/// The segment that a node leads to.
///
/// # Safety
///
/// `node` is a segment's, which is not freed for all of `'a`.
#[inline]
pub(super) unsafe fn segment<'a>(node: u64) -> &'a Segment {
    // SAFETY: the caller's promise.
    let segment: &'a Segment = unsafe { &*ptr::with_exposed_provenance(node as usize) };
    segment.life.read();
    segment
}

/// How many segments a node leads to.
///
/// # Safety
///
/// The caller is the writer, and `node` is its own, which it does not free now. An array leads to
/// segments alone.
pub(super) unsafe fn segments_below(node: u64) -> usize {
    let bits = node_bits(node);
    if bits == 0 {
        return 1;
    }
    // SAFETY: the caller's promise.
    let children = (0..1usize << bits).map(|at| unsafe { word(node, at) }.load(Ordering::Relaxed));
    let mut last = 0;
    children.filter(|child| std::mem::replace(&mut last, *child) != *child).count()
}

/// Takes a segment back as a box.
///
/// # Safety
///
/// `node` is a segment's that no reader finds any more, and this is the only time it is taken.
unsafe fn take_segment(node: u64) -> Box<Segment> {
    // SAFETY: the caller's promise; it was made by `into_node`.
    unsafe { Box::from_raw(ptr::with_exposed_provenance_mut(node as usize)) }
}

/// Takes an array back as a box.
///
/// # Safety
///
/// As [`take_segment`], for an array's node.
unsafe fn take_array(node: u64) -> Box<[Line]> {
    let lines = (1usize << node_bits(node)).div_ceil(LINE);
    let start = ptr::with_exposed_provenance_mut((node & !NODE_SHIFT) as usize);
    // SAFETY: the caller's promise; `new_array` made that many lines.
    unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(start, lines)) }
}

/// Frees everything below a node, entries too.
///
/// # Safety
///
/// The table that the node is of is used by no thread any more, and this is the only time the node
/// comes here.
pub(super) unsafe fn free_all(node: u64) {
    let bits = node_bits(node);
    if bits == 0 {
        // SAFETY: the caller's promise.
        let segment = unsafe { take_segment(node) };
        for (_, bits, _) in segment.words() {
            // SAFETY: the slot's handle, taken once.
            drop(unsafe { Entry::from_bits(bits) });
        }
        return;
    }
    // SAFETY: the caller's promise; an array has one word that leads to it.
    let array = unsafe { take_array(node) };
    let mut last = 0;
    for word in array.iter().flat_map(|line| &line.0).take(1 << bits) {
        let child = word.load(Ordering::Relaxed);
        // The words that lead to one segment are neighbours: each child comes here once.
        if child != last {
            // SAFETY: as above.
            unsafe { free_all(child) };
        }
        last = child;
    }
}
