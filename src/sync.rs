//! The atomics and locks of the lock-free parts: the standard library's, or loom's when the models
//! run.
//!
//! The models (`loom-tests/`) compile the source that ships; what each of them must reject is in
//! [`mutants`](crate::mutants).

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

use crate::mutants::{OrderingMutant, is_left_out};

/// A value that is alone in its cache lines, and in their neighbours that processors fetch along.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

/// A cell that several threads reach, one at a time: the code around it sees to that, and the
/// models check it.
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

/// A point that loom is to try in every order although it would miss some: for each word, it
/// compares an access only with the last one, so a thread that loads and then stores hides
/// another's load from itself.
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

/// Fences that come in pairs, of which one comes first.
#[derive(Default)]
pub(crate) struct Fences {
    /// Loom tries both orders of two fences only if something next to them depends on the order.
    crossing: Crossing,
}

impl Fences {
    #[inline]
    pub(crate) fn fence(&self) {
        self.crossing.pass();
        fence(Ordering::SeqCst);
    }

    /// Runs the fence, which a mutant leaves out.
    #[inline]
    pub(crate) fn fence_unless(&self, mutant: OrderingMutant) {
        if !is_left_out(mutant) {
            self.fence();
        }
    }
}

/// Part of memory that readers share and the writer frees. In the models it checks that every use
/// comes before the end, and that the end comes; in every other build it is nothing.
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
            assert!(
                !self.is_over.load(std::sync::atomic::Ordering::Relaxed),
                "used after it was freed"
            );
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

/// Orders all that other threads did before they counted down, now that `count` was seen to be at
/// its end.
pub(crate) fn acquire(count: &AtomicU32) {
    if cfg!(gridkv_tsan) {
        // ThreadSanitizer does not understand fences.
        count.load(Ordering::Acquire);
    } else {
        fence(Ordering::Acquire);
    }
}

/// Takes the lock, even if a thread has panicked under it. For data that no thread leaves half
/// done, which is sound then.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
