//! When the writer may free what a reader could still look at: epochs.
//!
//! A reader *pins*: it announces the epoch it saw, in a slot of its thread, and only then looks at
//! the table. The writer unlinks something, hands it to [`Retired`], and goes on; now and then it
//! ends the epoch and frees what was unlinked in epochs older than any that is announced.
//!
//! ```text
//! reader                            writer
//! announce the epoch                unlink
//! fence                             end the epoch
//! load the pointer                  fence
//!                                   look at the announcements
//! ```
//!
//! The invariant: with both fences, either the writer sees the announcement or the reader sees the
//! unlinking. Only the writer frees, and it never waits: what a stalled reader holds up is counted,
//! and the store bounds it by refusing writes.
//!
//! The reader's fence is most of what a short read costs. Where the system can run a fence on every
//! processor for us (`membarrier` on Linux), the writer does both, once for a whole batch, and the
//! reader only keeps the compiler from moving its loads.
//!
//! That fence may be lost while the engine runs, for a filter of system calls that the app installs
//! late. Then readers run their own for good, as if there had been none:
//!
//! ```text
//! reader                            writer
//! announce the epoch                tell the readers to fence
//! told? then fence                  fence
//! load the pointer                  free nothing for a tenth of a second
//! ```
//!
//! After that time, each reader that was not told yet has its announcement in memory. No processor
//! keeps a store to itself for that long: its buffer holds some dozens of them, and each interrupt
//! and each switch of threads empties it. A reader that is stopped half way was stopped by one of
//! these. Rejected: changing the protection of a page, for which some processors interrupt all
//! others that run the process. ARM has a page forgotten without an interrupt, and so has AMD by
//! INVLPGB, which Linux uses from 6.15 on. Neither is a fence.
//!
//! Epochs as such: Fraser, "Practical lock-freedom", 2004. Asymmetric fences: Desnoyers et al.,
//! "User-level implementations of read-copy update", 2012. How long stores stay hidden: Morrison &
//! Afek, "Temporally bounding TSO for fence-free asymmetric synchronization", 2015.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool as StdAtomicBool, AtomicU64 as StdAtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::mutants::{OrderingMutant, is_left_out, ordering};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Fences, Mutex, Ordering, Padded, lock};

/// The system's fence on every processor that runs a thread of this process.
#[derive(Clone, Copy)]
pub(crate) struct HeavyFence {
    /// Runs the fence. Returns whether it was done; if not, it is not tried again.
    pub(crate) run: fn() -> bool,
    /// Returns the time since some moment, by a clock that does not stand still while threads run.
    pub(crate) time: fn() -> Duration,
}

/// For how long nothing is freed after readers were told to run fences of their own. Many times as
/// long as a processor keeps a store to itself, which takes less than a millisecond.
const UNTIL_TOLD: Duration = Duration::from_millis(100);

/// The announcement of a reader that looks at nothing.
const IDLE: u64 = 0;

/// The readers of one engine, and its epoch.
pub(crate) struct Readers {
    head: Padded<Head>,
    epoch: Padded<AtomicU64>,
    /// Grows only: a slot is used again by another thread.
    slots: Mutex<Vec<Arc<Slot>>>,
    heavy_fence: Option<HeavyFence>,
    /// When a writer first saw that readers had been told to, if there was a heavy fence before.
    told_at: OnceLock<Duration>,
    fences: Fences,
}

/// What each reader looks at and hardly any writer changes, in one cache line.
struct Head {
    /// Never used again by another engine of this process.
    id: u64,
    /// Whether readers run a fence when they pin, because there is no heavy fence, or no more. Then
    /// it stays so. (Not loom's: in the models there is none from the beginning.)
    readers_fence: StdAtomicBool,
}

/// One thread's announcements.
#[repr(align(128))]
struct Slot {
    announced: AtomicU64,
    /// How many guards the thread has.
    depth: AtomicU32,
    is_taken: AtomicBool,
}

/// While it lives, nothing that its thread can find is freed.
pub(crate) struct Guard<'a> {
    slot: &'a Slot,
    /// It belongs to its thread.
    not_send: PhantomData<*const ()>,
}

/// A thread's place among the readers of one engine, given back when it is dropped.
pub(crate) struct Reader {
    slot: Arc<Slot>,
}

thread_local! {
    /// The engine whose reader this thread was last, and its slot: valid as long as that engine's
    /// [`Readers`] live.
    static LAST: Cell<(u64, *const Slot)> = const { Cell::new((0, std::ptr::null())) };
    static PLACES: Places = const { Places(RefCell::new(Vec::new())) };
}

/// This thread's place in each engine that it has read from.
struct Places(RefCell<Vec<(u64, Reader)>>);

impl Drop for Places {
    fn drop(&mut self) {
        LAST.set((0, std::ptr::null()));
    }
}

impl Readers {
    /// Makes an engine's readers. With `heavy_fence`, they save their own fences while it works.
    pub(crate) fn new(heavy_fence: Option<HeavyFence>) -> Self {
        static NEXT_ID: StdAtomicU64 = StdAtomicU64::new(1);
        let head = Head {
            id: NEXT_ID.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            readers_fence: heavy_fence.is_none().into(),
        };
        Self {
            head: Padded(head),
            epoch: Padded(AtomicU64::new(IDLE + 1)),
            slots: Mutex::new(Vec::new()),
            heavy_fence,
            told_at: OnceLock::new(),
            fences: Fences::default(),
        }
    }

    /// Keeps what this thread finds from being freed. `None` if the thread is ending and cannot
    /// have a place any more.
    #[inline]
    pub(crate) fn pin(&self) -> Option<Guard<'_>> {
        let (id, slot) = LAST.get();
        let slot = if id == self.head.0.id { slot } else { self.find_place()? };
        // SAFETY: the slot is one of this engine's, as the id says, which keeps it as long as
        // `self` lives.
        Some(self.pin_slot(unsafe { &*slot }))
    }

    #[cold]
    fn find_place(&self) -> Option<*const Slot> {
        let find = |places: &Places| {
            let mut places = places.0.borrow_mut();
            // An engine that is gone has left the slot to this thread alone.
            places.retain(|(_, reader)| Arc::strong_count(&reader.slot) > 1);
            if let Some((_, reader)) = places.iter().find(|(id, _)| *id == self.head.0.id) {
                return Arc::as_ptr(&reader.slot);
            }
            let reader = self.register();
            let slot = Arc::as_ptr(&reader.slot);
            places.push((self.head.0.id, reader));
            slot
        };
        let slot = PLACES.try_with(find).ok()?;
        LAST.set((self.head.0.id, slot));
        Some(slot)
    }

    /// Gives one thread a place.
    pub(crate) fn register(&self) -> Reader {
        let mut slots = lock(&self.slots);
        let free = slots.iter().find(|slot| !slot.is_taken.load(Ordering::Acquire));
        let slot = free.cloned().unwrap_or_else(|| {
            let slot = Arc::new(Slot::new());
            slots.push(slot.clone());
            slot
        });
        slot.is_taken.store(true, Ordering::Relaxed);
        Reader { slot }
    }

    #[inline]
    fn pin_slot<'a>(&self, slot: &'a Slot) -> Guard<'a> {
        let depth = slot.depth.load(Ordering::Relaxed);
        slot.depth.store(depth + 1, Ordering::Relaxed);
        if depth == 0 {
            // Acquire: what was unlinked before this epoch began is not found by this reader.
            let epoch = self.epoch.0.load(Ordering::Acquire);
            // Release: a writer that sees this announcement knows that the one before is over, and
            // all its loads.
            let order = ordering(OrderingMutant::RelaxedRepin, Ordering::Release);
            slot.announced.store(epoch, order);
            // The announcement comes first: a reader that was not told yet has announced before.
            std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
            if self.head.0.readers_fence.load(std::sync::atomic::Ordering::Relaxed) {
                self.fences.fence_unless(OrderingMutant::UnfencedPin);
            }
            std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
        }
        Guard { slot, not_send: PhantomData }
    }

    /// Ends the epoch and returns its number. What was unlinked before is not found by readers that
    /// announce a later one.
    fn end_epoch(&self) -> u64 {
        let order = ordering(OrderingMutant::RelaxedEpoch, Ordering::AcqRel);
        self.epoch.0.fetch_add(1, order)
    }

    /// The oldest epoch that a reader has announced; `None` if that cannot be told now.
    fn oldest(&self) -> Option<u64> {
        if !self.fence() {
            return None;
        }
        // A thread is registering just now: the next call will see it.
        let slots = self.slots.try_lock().ok()?;
        let announced = slots.iter().map(|slot| slot.announced.load(Ordering::Acquire));
        Some(announced.filter(|epoch| *epoch != IDLE).min().unwrap_or(u64::MAX))
    }

    /// Runs the fence between an end of an epoch and a look at the announcements. Returns whether
    /// the look tells of all readers.
    fn fence(&self) -> bool {
        let Some(heavy_fence) = self.heavy_fence else {
            self.fences.fence_unless(OrderingMutant::UnfencedCollect);
            return true;
        };
        if !self.head.0.readers_fence.load(std::sync::atomic::Ordering::Relaxed)
            && (heavy_fence.run)()
        {
            return true;
        }
        self.head.0.readers_fence.store(true, std::sync::atomic::Ordering::Relaxed);
        self.fences.fence();
        // Taken after the readers were told, by this writer or by one that was first.
        self.told_at.get_or_init(heavy_fence.time);
        !self.is_telling()
    }

    /// Whether nothing is freed for a moment, as readers were just told to run fences of their own.
    fn is_telling(&self) -> bool {
        let Some((heavy_fence, told_at)) = self.heavy_fence.zip(self.told_at.get()) else {
            return false;
        };
        (heavy_fence.time)().saturating_sub(*told_at) < UNTIL_TOLD
    }
}

impl Slot {
    fn new() -> Self {
        Self {
            announced: AtomicU64::new(IDLE),
            depth: AtomicU32::new(0),
            is_taken: AtomicBool::new(false),
        }
    }
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        let slot = self.slot;
        let depth = slot.depth.load(Ordering::Relaxed) - 1;
        slot.depth.store(depth, Ordering::Relaxed);
        if depth == 0 {
            // Release: the loads under this guard come before all that the writer does when it sees
            // this.
            slot.announced.store(IDLE, Ordering::Release);
        }
    }
}

#[cfg(any(test, gridkv_loom))]
impl Reader {
    /// Pins as [`Readers::pin`] does, in a place that the caller keeps.
    pub(crate) fn pin<'a>(&'a self, readers: &Readers) -> Guard<'a> {
        readers.pin_slot(&self.slot)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Release: the thread that has the place next announces in it after all that was announced
        // before.
        let order = ordering(OrderingMutant::RelaxedExit, Ordering::Release);
        self.slot.is_taken.store(false, order);
    }
}

/// What one writer has unlinked and not freed. Dropping a `T` frees it.
pub(crate) struct Retired<T> {
    readers: Arc<Readers>,
    /// Unlinked in this epoch.
    fresh: Vec<(T, usize)>,
    /// Unlinked in the epoch of this number or before, oldest first.
    waiting: VecDeque<(u64, Vec<(T, usize)>)>,
    bytes: usize,
}

impl<T> Retired<T> {
    pub(crate) fn new(readers: Arc<Readers>) -> Self {
        Self { readers, fresh: Vec::new(), waiting: VecDeque::new(), bytes: 0 }
    }

    /// Takes what readers cannot find any more, `bytes` large.
    pub(crate) fn retire(&mut self, garbage: T, bytes: usize) {
        if is_left_out(OrderingMutant::FreeAtOnce) {
            return drop(garbage);
        }
        self.bytes += bytes;
        self.fresh.push((garbage, bytes));
    }

    /// How many bytes are unlinked and not freed.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is freed for a moment that no reader prolongs.
    pub(crate) fn is_paused(&self) -> bool {
        self.readers.is_telling()
    }

    /// Ends the epoch and frees what no reader can hold any more, up to about `limit` pieces.
    pub(crate) fn collect(&mut self, limit: usize) {
        if !self.fresh.is_empty() {
            let epoch = self.readers.end_epoch();
            self.waiting.push_back((epoch, std::mem::take(&mut self.fresh)));
        }
        if self.waiting.is_empty() {
            return;
        }
        let Some(oldest) = self.readers.oldest() else { return };
        let mut freed = 0;
        while let Some((epoch, garbage)) = self.waiting.front_mut()
            && *epoch < oldest
        {
            while freed < limit
                && let Some((piece, bytes)) = garbage.pop()
            {
                freed += 1;
                self.bytes -= bytes;
                drop(piece);
            }
            if !garbage.is_empty() {
                return;
            }
            self.waiting.pop_front();
        }
    }
}

#[cfg(all(test, not(gridkv_loom)))]
mod tests {
    use super::*;

    /// A fence that works until it is taken away, and a clock.
    static WORKS: StdAtomicBool = StdAtomicBool::new(true);
    static CLOCK_MS: StdAtomicU64 = StdAtomicU64::new(1000);

    #[test]
    fn without_the_heavy_fence_nothing_is_freed_for_a_moment_and_then_readers_fence() {
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        let run = || WORKS.load(std::sync::atomic::Ordering::Relaxed);
        let time = || Duration::from_millis(CLOCK_MS.load(std::sync::atomic::Ordering::Relaxed));
        let readers = Arc::new(Readers::new(Some(HeavyFence { run, time })));
        let mut retired = Retired::new(readers.clone());
        let retire_one = |retired: &mut Retired<()>| {
            retired.retire((), 1);
            retired.collect(10);
            retired.bytes()
        };
        assert_eq!(retire_one(&mut retired), 0);

        WORKS.store(false, relaxed);
        assert_eq!(retire_one(&mut retired), 1);
        assert!(retired.is_paused() && readers.head.0.readers_fence.load(relaxed));
        CLOCK_MS.fetch_add(UNTIL_TOLD.as_millis() as u64 - 1, relaxed);
        assert_eq!(retire_one(&mut retired), 2);

        // The fence is back: readers run theirs all the same.
        WORKS.store(true, relaxed);
        CLOCK_MS.fetch_add(1, relaxed);
        assert!(!retired.is_paused());
        let (place, other) = (readers.register(), readers.register());
        let guard = place.pin(&readers);
        assert_eq!(retire_one(&mut retired), 1, "what was there before is freed, and no more");
        drop(guard);
        let _guard = other.pin(&readers);
        assert_eq!(retire_one(&mut retired), 1, "the other one came between");
        assert!(readers.head.0.readers_fence.load(relaxed));
    }
}
