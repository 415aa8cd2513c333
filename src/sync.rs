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
    /// A reader reads on without a fence behind its announcement.
    UnfencedPin,
    /// The writer looks at the readers without a fence behind its unlinking.
    UnfencedCollect,
    /// A reader that pins again does not say that it is done with what it saw before.
    RelaxedRepin,
    /// A tag that matches is taken for a key that matches.
    TagIsKey,
    /// A key that leaves the stash takes along the mark of another that stays.
    ClearedHint,
    /// Keys leave the old segment before the new ones are published.
    SplitInPlace,
    /// A larger array is published without [`Ordering::Release`].
    RelaxedDirectory,
    /// What is evicted is freed at once.
    FreeAtOnce,
    /// A miss is believed without looking at the partition's state again.
    TrustedMiss,
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
