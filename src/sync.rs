//! The atomics and locks of the lock-free parts: the standard library's, or loom's where the models run.
//!
//! The models (`loom-tests/`) compile the source that ships. For each of them there is a [`Mutant`]: one
//! ordering weakened, one fence or check left out. A model that does not reject its mutant proves nothing,
//! so each is run with it too. In every other build [`planted`] is a constant `false`.

#[cfg(gridkv_loom)]
pub(crate) use loom::cell::UnsafeCell;
#[cfg(gridkv_loom)]
pub(crate) use loom::hint::spin_loop;
#[cfg(gridkv_loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(gridkv_loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(gridkv_loom)]
pub(crate) use loom::thread::yield_now;
#[cfg(not(gridkv_loom))]
pub(crate) use std::hint::spin_loop;
#[cfg(not(gridkv_loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(gridkv_loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(gridkv_loom))]
pub(crate) use std::thread::yield_now;

/// What a model must reject.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mutant {
    /// An entry is published without [`Ordering::Release`].
    RelaxedPublish,
    /// A handle is dropped without [`Ordering::Release`].
    RelaxedDrop,
    /// A reader reads on without a fence behind its announcement.
    UnfencedPin,
    /// The writer looks at the readers without a fence behind its unlinking.
    UnfencedCollect,
    /// An epoch ends without [`Ordering::Release`].
    RelaxedEpoch,
    /// A reader that pins again does not say that it is done with what it saw before.
    RelaxedRepin,
    /// A reader's place is given back without [`Ordering::Release`].
    RelaxedExit,
    /// A tag that matches is taken for a key that matches.
    TagIsKey,
    /// A key that leaves the stash takes along the mark of another that stays.
    ClearedHint,
    /// Keys leave the old segment before the new ones are published.
    SplitInPlace,
    /// New segments or a new array are published without [`Ordering::Release`].
    RelaxedDirectory,
    /// What is evicted is freed at once.
    FreeAtOnce,
    /// A miss is believed without looking at the partition's state again.
    TrustedMiss,
    /// A message is put into its slot of the ring without [`Ordering::Release`].
    RelaxedPush,
    /// A slot of the ring is given back without [`Ordering::Release`].
    RelaxedPop,
    /// A ring is closed only when what was in it has been dropped.
    LateClose,
    /// Whoever rings looks at the word without a fence behind the message.
    UnfencedRing,
    /// A thread looks at its work without a fence behind the word.
    UnfencedPark,
    /// A thread sleeps without another look at its work.
    UncheckedPark,
    /// Whoever is about to wait does not ring again.
    RungOnce,
    /// A wake that failed is taken for one that came.
    ForgottenFailure,
    /// Whoever waits for room tries without a fence behind its entry in the list.
    UnfencedEntry,
    /// The inbox looks at the list without a fence behind the room that it made.
    UnfencedAdmit,
    /// The inbox makes room and tells nobody.
    SkippedAdmit,
    /// Whoever waits for room does not try again behind its entry in the list.
    UntriedEntry,
    /// Whoever is woken when it has its room already keeps that to itself.
    KeptWake,
    /// Whoever is woken when its time is up goes without a try.
    LostWake,
    /// An inbox closes and tells nobody who waits for room.
    SilentClose,
    /// An answer is told without [`Ordering::Release`].
    RelaxedAnswer,
    /// An answer is told, and who sleeps for it is not woken.
    SilentAnswer,
    /// Whoever gives up takes the slot along, to which the answer is still to come.
    #[cfg(gridkv_loom)]
    StolenSlot,
}

/// Alone in its cache lines, and in their neighbours that processors fetch along.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

/// What several threads reach, one at a time, as something else sees to; in the models it is checked.
#[cfg(not(gridkv_loom))]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(gridkv_loom))]
impl<T> UnsafeCell<T> {
    pub(crate) const fn new(content: T) -> Self {
        Self(std::cell::UnsafeCell::new(content))
    }

    #[inline]
    pub(crate) fn with_mut<R>(&self, use_it: impl FnOnce(*mut T) -> R) -> R {
        use_it(self.0.get())
    }
}

/// What loom is to try in every order, where it would miss some by itself: of each word, it compares an access only
/// with the last one, so a thread that loads and then stores hides another's load from itself.
#[derive(Default)]
pub(crate) struct Crossing {
    #[cfg(gridkv_loom)]
    count: AtomicU32,
}

impl Crossing {
    #[inline]
    pub(crate) fn pass(&self) {
        #[cfg(gridkv_loom)]
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where fences come in pairs, of which one comes first.
#[derive(Default)]
pub(crate) struct Fences {
    /// Loom tries both orders of two fences only where something else that depends on the order is beside them.
    crossing: Crossing,
}

impl Fences {
    #[inline]
    pub(crate) fn fence(&self) {
        self.crossing.pass();
        fence(Ordering::SeqCst);
    }

    /// A fence that a mutant leaves out.
    #[inline]
    pub(crate) fn fence_unless(&self, mutant: Mutant) {
        if !planted(mutant) {
            self.fence();
        }
    }
}

/// Part of memory that readers share and the writer frees. In the models it checks that every use comes before
/// the end, and that the end comes; in every other build it is nothing.
pub(crate) struct Life {
    #[cfg(gridkv_loom)]
    uses: loom::cell::UnsafeCell<()>,
    #[cfg(gridkv_loom)]
    is_over: std::sync::atomic::AtomicBool,
    #[cfg(gridkv_loom)]
    _has_end: loom::alloc::Track<()>,
}

#[cfg(not(gridkv_loom))]
impl Life {
    pub(crate) const fn new() -> Self {
        Self {}
    }

    #[inline]
    pub(crate) fn read(&self) {}

    #[inline]
    pub(crate) fn write(&self) {}

    #[inline]
    pub(crate) fn end(&self) {}
}

#[cfg(gridkv_loom)]
impl Life {
    pub(crate) fn new() -> Self {
        Self {
            uses: loom::cell::UnsafeCell::new(()),
            is_over: false.into(),
            _has_end: loom::alloc::Track::new(()),
        }
    }

    /// What is not atomic is read.
    pub(crate) fn read(&self) {
        self.check(|uses| uses.with(|_| ()));
    }

    /// What is not atomic is written, by its only user.
    pub(crate) fn write(&self) {
        self.check(|uses| uses.with_mut(|_| ()));
    }

    /// It is about to be freed.
    pub(crate) fn end(&self) {
        self.write();
        self.is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    fn check(&self, use_it: impl FnOnce(&loom::cell::UnsafeCell<()>)) {
        if !has_failed() {
            use_it(&self.uses);
            assert!(!self.is_over.load(std::sync::atomic::Ordering::Relaxed), "used after it was freed");
        }
    }
}

/// Whether the model is failing already: what else it comes upon then would end the process.
#[cfg(gridkv_loom)]
pub(crate) fn has_failed() -> bool {
    std::thread::panicking()
}

#[cfg(not(gridkv_loom))]
pub(crate) const fn has_failed() -> bool {
    false
}

/// Orders whatever others did before they counted down, now that `count` was seen to be at its end.
pub(crate) fn acquire(count: &AtomicU32) {
    if cfg!(gridkv_tsan) {
        // ThreadSanitizer does not understand fences.
        count.load(Ordering::Acquire);
    } else {
        fence(Ordering::Acquire);
    }
}

/// What nobody leaves half done under the lock is sound, even if somebody panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whether the model that runs now has this mutant planted.
#[cfg(not(gridkv_loom))]
pub(crate) const fn planted(_: Mutant) -> bool {
    false
}

#[cfg(gridkv_loom)]
std::thread_local! {
    /// Loom runs all threads of a model on one thread of the system.
    pub(crate) static PLANTED: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

#[cfg(gridkv_loom)]
pub(crate) fn planted(mutant: Mutant) -> bool {
    PLANTED.get() == Some(mutant)
}
