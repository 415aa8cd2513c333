//! The readers' side of the table: any thread, without locks, messages or waiting.
//!
//! A [`View`] is what the writer of one shard shares. [`Views`] joins those of all cores of an
//! engine. A reader pins itself ([`Views::pin`]): as long as its [`Pinned`] lives, nothing that it
//! finds is freed.
//!
//! This file reads nodes and writes none; what the writer alone may do is in the table's own file.

use std::ptr;
use std::sync::Arc;

use super::nodes::{
    Garbage, HOMES, IN_TREE, NODE_SHIFT, POINTER, Segment, free_all, segment, word,
};
use crate::entry::{Entry, EntryRef};
use crate::mutants::{OrderingMutant, is_left_out};
use crate::prefetch;
#[cfg(gridkv_loom)]
use crate::store::reclaim::Reader;
use crate::store::reclaim::{Guard, Readers, Retired};
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering};
use crate::types::{ClusterHash, CoreId, Cores, KeyHash, PARTITIONS, Partition};

/// What readers share with the writer.
pub(crate) struct View {
    pub(super) root: AtomicU64,
    /// For each partition of this core: whether this node answers for it (the lowest bit), and how
    /// often that changed.
    states: Box<[AtomicU32]>,
    /// The state of all of them together: if this node answers for each, readers look at one word
    /// instead of thousands.
    pub(super) state_of_all: AtomicU32,
    pub(super) cluster: ClusterHash,
    pub(super) cores: Cores,
    pub(super) partition_bits: u32,
    pub(super) readers: Arc<Readers>,
    /// What the writer could not free before it ended.
    pub(super) leftover: Mutex<Vec<Retired<Garbage>>>,
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
    /// Joins the views of all cores, in the order of the cores.
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

    /// Keeps what the calling thread finds from being freed. `None` if the thread is ending.
    #[inline]
    pub(crate) fn pin(&self) -> Option<Pinned<'_>> {
        Some(Pinned { _guard: self.readers.pin()?, views: self })
    }
}

#[cfg(gridkv_loom)]
impl Views {
    /// Pins as [`pin`](Self::pin) does, in a place of [`Readers::register`]'s that the caller
    /// keeps.
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
        // SAFETY: the guard pins this thread among the readers of every view, as `Views::new` has
        // checked.
        unsafe { view.segment(view.path_at(local, hash)) }
    }

    /// Looks at this node's own copy of a key, on the caller's thread, without waiting for another
    /// one. What it finds was current during the call: a value, expired or not, or what a delete
    /// left.
    #[inline]
    pub(crate) fn get(&self, hash: KeyHash, key: &[u8]) -> Local<EntryRef<'_>> {
        let (view, local) = self.view(hash);
        // SAFETY: pinned, as above.
        unsafe { view.get(local, hash, key) }
    }

    /// Prefetches the index's cache line that a [`get`](Self::get) of this key will need.
    #[inline]
    pub(crate) fn prefetch_bucket(&self, hash: KeyHash) {
        let segment = self.segment(hash);
        prefetch::to_read(&segment.buckets[Segment::home(hash)]);
    }

    /// Prefetches the entry's cache lines, when the index's may have come.
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

    /// Shows every entry of the segment of `core` that covers `path` to `visit`, with its path.
    /// Returns the first path of the next segment, and whether there may be more of this one that
    /// only the owner sees.
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
        let mut headers =
            segment.buckets[..HOMES].iter().map(|bucket| bucket.header.load(Ordering::Acquire));
        (segment.end(path), headers.any(|header| header & IN_TREE != 0))
    }
}

impl View {
    pub(super) fn new(cluster: ClusterHash, cores: Cores, readers: Arc<Readers>) -> Self {
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
    pub(super) fn path(&self, hash: KeyHash) -> u64 {
        self.path_at(self.cores.local(hash.partition()), hash)
    }

    #[inline]
    fn path_at(&self, local: u16, hash: KeyHash) -> u64 {
        if self.partition_bits == PARTITIONS.trailing_zeros() {
            return hash.0;
        }
        u64::from(local) << (64 - self.partition_bits) | hash.0 << 12 >> self.partition_bits
    }

    /// The first path of a partition.
    pub(super) fn start(&self, partition: Partition) -> u64 {
        u64::from(self.cores.local(partition)) << (64 - self.partition_bits)
    }

    /// The segment that covers a path.
    ///
    /// # Safety
    ///
    /// For all of `'a`, the caller is pinned, or is the writer and collects nothing.
    #[inline]
    pub(super) unsafe fn segment<'a>(&self, path: u64) -> &'a Segment {
        let root = self.root.load(Ordering::Acquire);
        let shift = root & NODE_SHIFT;
        // SAFETY: what the arrays lead to is freed only after it was unlinked and every reader that
        // was pinned then has gone. An index has as many bits as its array. There are no more than
        // two levels of arrays.
        unsafe {
            if shift == 0 {
                return segment(root);
            }
            let node = word(root, (path >> shift) as usize).load(Ordering::Acquire);
            let next_shift = node & NODE_SHIFT;
            if next_shift == 0 {
                return segment(node);
            }
            segment(
                word(node, (path << (64 - shift) >> next_shift) as usize).load(Ordering::Acquire),
            )
        }
    }

    #[inline]
    fn state(&self, local: u16) -> &AtomicU32 {
        if self.state_of_all.load(Ordering::Relaxed) & 1 == 1 {
            return &self.state_of_all;
        }
        self.own_state(local)
    }

    /// The state of one partition; the models have one for all.
    #[inline]
    pub(super) fn own_state(&self, local: u16) -> &AtomicU32 {
        &self.states[if cfg!(gridkv_loom) { 0 } else { usize::from(local) }]
    }

    /// Looks at the copy of a key, whose partition has this number within the core.
    ///
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
        let found = unsafe {
            self.segment(self.path_at(local, hash)).find(hash, |entry| entry.has_key(key))
        };
        // The reader may have slept while the partition was given away, emptied, even taken back:
        // what it found, and that it found nothing, counts only if this node answered for it all
        // along.
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

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: the writer and every reader had a share of this view, and have dropped it.
        unsafe { free_all(self.root.load(Ordering::Acquire)) };
    }
}

/// Begins a new generation of a state, so that a reader that has slept over two changes sees that
/// there were some.
pub(super) fn change_state(state: &AtomicU32, serves: bool) {
    let old = state.load(Ordering::Relaxed);
    state.store((old & !1).wrapping_add(2) | u32::from(serves), Ordering::Release);
}
