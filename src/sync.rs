//! The atomics of the lock-free parts: the standard library's, or loom's where the models run.
//!
//! The models (`loom-tests/`) compile the source that ships. For each of them there is a [`Mutant`]: one
//! ordering weakened, one fence or check left out. A model that does not reject its mutant proves nothing,
//! so each is run with it too. In every other build [`planted`] is a constant `false`.

#[cfg(gridkv_loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(gridkv_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(not(gridkv_loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(gridkv_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};

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
