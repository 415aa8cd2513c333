//! A bell wakes a thread that sleeps in its poll when another thread has put work into its inbox.
//!
//! Waking is a system call, and a thread that works needs none. So each thread has a word:
//!
//! ```text
//! AWAKE      it works, and will look for work before it sleeps
//! PARKED     it sleeps, or is about to
//! NOTIFIED   it sleeps, and another thread is about to wake it
//! ```
//!
//! Only the thread itself returns to `AWAKE`. Only the sender that changes `PARKED` to `NOTIFIED`
//! makes the system call.
//!
//! # Why no message is forgotten
//!
//! ```text
//! sender                            thread
//! put the message                   the word is PARKED
//! fence                             fence
//! look at the word                  look for messages
//!                                   sleep
//! ```
//!
//! One of the fences comes first. If it is the sender's, the thread sees the message and does not
//! sleep. If it is the thread's, the sender sees `PARKED` or what came after it. `NOTIFIED` means
//! that another sender has the wake in hand; `AWAKE` means that the thread looks again before it
//! sleeps. (Dekker's algorithm, in effect.) The word orders nothing else: messages have their own
//! words, so every access to it is relaxed.
//!
//! # Who rings again
//!
//! The sender that has the wake in hand might be preempted before its system call, by the very
//! threads that wait for the answers. A caller that is about to wait and still sees `NOTIFIED`
//! therefore wakes the thread as well: a wake too many does no harm. Without that, all of them
//! would wait for a thread that does not run, with nothing else wrong. (A message behind a slot
//! that its producer has claimed and not filled waits for that producer in any case.)

use std::io;

use crate::logging;
use crate::mutants::{OrderingMutant, is_left_out};
use crate::sync::{AtomicU8, Fences, Ordering, Padded};

const AWAKE: u8 = 0;
const PARKED: u8 = 1;
const NOTIFIED: u8 = 2;

/// The waker of an engine's threads. The models bring their own.
#[cfg(not(gridkv_loom))]
pub(crate) type SystemWaker = mio::Waker;
#[cfg(gridkv_loom)]
pub(crate) type SystemWaker = std::convert::Infallible;

/// Ends a thread's sleep: the one that goes on, or else the next one.
pub(crate) trait Wake {
    fn wake(&self) -> io::Result<()>;
}

#[cfg(not(gridkv_loom))]
impl Wake for mio::Waker {
    fn wake(&self) -> io::Result<()> {
        match Self::wake(self) {
            // The waker's pipe is full: the thread is about to wake anyway.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            outcome => outcome,
        }
    }
}

/// One thread's bell, which all threads that send it something share.
pub(crate) struct Bell<W = SystemWaker> {
    word: Padded<AtomicU8>,
    fences: Fences,
    waker: W,
}

impl<W: Wake> Bell<W> {
    /// Makes the bell of a thread that works.
    pub(crate) fn new(waker: W) -> Self {
        Self { word: Padded(AtomicU8::new(AWAKE)), fences: Fences::default(), waker }
    }

    /// Says that there is work. It makes a system call only if the thread sleeps and no other
    /// sender is about to wake it.
    pub(crate) fn ring(&self) {
        self.fences.fence_unless(OrderingMutant::UnfencedRing);
        if self.word.0.load(Ordering::Relaxed) == PARKED && self.change(PARKED, NOTIFIED) {
            self.wake();
        }
    }

    /// Wakes the thread if a wake is still to come. A caller that has rung calls it before it waits
    /// for the answer: the sender that has the wake in hand might have been preempted.
    pub(crate) fn ring_again(&self) {
        if self.word.0.load(Ordering::Relaxed) == NOTIFIED && !is_left_out(OrderingMutant::RungOnce)
        {
            self.wake();
        }
    }

    /// Calls `block` unless there is work, and returns `None` if there was. Only the thread itself
    /// calls it.
    ///
    /// `block` may return for any other reason as well.
    pub(crate) fn park<R>(
        &self,
        has_work: impl FnOnce() -> bool,
        block: impl FnOnce() -> R,
    ) -> Option<R> {
        self.word.0.store(PARKED, Ordering::Relaxed);
        self.fences.fence_unless(OrderingMutant::UnfencedPark);
        let has_work = !is_left_out(OrderingMutant::UncheckedPark) && has_work();
        let blocked = (!has_work).then(block);
        self.word.0.store(AWAKE, Ordering::Relaxed);
        blocked
    }

    fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            // The next one to ring tries it again.
            if !is_left_out(OrderingMutant::ForgottenFailure) {
                self.change(NOTIFIED, PARKED);
            }
            logging::error!("an engine's thread could not be woken: {error}");
        }
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.word.0.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Counts its wakes, and fails for as long as it is told to.
    #[derive(Default)]
    struct Counting {
        wakes: Cell<usize>,
        fails: Cell<bool>,
    }

    impl Wake for Counting {
        fn wake(&self) -> io::Result<()> {
            self.wakes.set(self.wakes.get() + 1);
            if self.fails.get() { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
        }
    }

    fn wakes(bell: &Bell<Counting>) -> usize {
        bell.waker.wakes.get()
    }

    #[test]
    fn only_the_first_to_ring_wakes_and_only_one_that_sleeps() {
        let bell = Bell::new(Counting::default());
        bell.ring();
        bell.ring_again();
        assert_eq!(wakes(&bell), 0);
        bell.park(|| false, || (0..3).for_each(|_| bell.ring())).unwrap();
        assert_eq!(wakes(&bell), 1);
        bell.ring();
        bell.ring_again();
        assert_eq!(wakes(&bell), 1);
    }

    #[test]
    fn who_rings_again_wakes_again_until_the_thread_is_up() {
        let bell = Bell::new(Counting::default());
        bell.park(
            || false,
            || {
                bell.ring_again();
                assert_eq!(wakes(&bell), 0, "nobody has rung");
                bell.ring();
                bell.ring_again();
            },
        );
        bell.ring_again();
        assert_eq!(wakes(&bell), 2);
    }

    #[test]
    fn a_thread_with_work_does_not_sleep() {
        let bell = Bell::new(Counting::default());
        assert!(bell.park(|| true, || ()).is_none());
        bell.ring();
        assert_eq!(wakes(&bell), 0);
    }

    #[test]
    fn a_wake_that_failed_is_tried_again() {
        let bell = Bell::new(Counting::default());
        bell.waker.fails.set(true);
        bell.park(
            || false,
            || {
                bell.ring();
                bell.waker.fails.set(false);
                bell.ring();
                bell.ring();
            },
        );
        assert_eq!(wakes(&bell), 2);
    }
}
