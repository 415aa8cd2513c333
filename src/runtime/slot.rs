//! A slot carries one answer from the thread that has it to the one that waits for it.
//!
//! A slot is used for one call after another and never freed, so that an answer which comes late
//! finds memory to write to. One word says to which end the slot belongs:
//!
//! ```text
//! OPEN       the answerer may write; the waiter looks at the word
//! PARKED     as before, and the waiter sleeps
//! ANSWERED   the waiter takes the answer, and has the slot
//! ABANDONED  the answerer drops the answer, and has the slot
//! ```
//!
//! A waiter that gives up leaves the slot to the answerer. No other call can be given the slot
//! before the answer has come, so a late answer meets no other call. The rejected alternative is a
//! number of the call in the slot, which the answerer compares. It gives the waiter its slot back
//! at once; but then two answerers can be at one slot, and the answer itself would have to be
//! written under a lock. The cost of this way is that a slot stays out for as long as its answerer
//! does.
//!
//! That a waiter is told at all is not this module's duty: an [`Answerer`] that is dropped says
//! nothing, so it belongs into something that answers when *it* is dropped.
//!
//! A waiter that is woken too often, by the answer to an earlier call of the same slot, looks at
//! the word and sleeps on.

use std::mem::ManuallyDrop;
use std::time::Instant;

use super::parker::Parker;
use crate::mutants::{OrderingMutant, is_left_out, ordering};
use crate::sync::{AtomicU8, Ordering, UnsafeCell, has_failed};

const OPEN: u8 = 0;
const PARKED: u8 = 1;
const ANSWERED: u8 = 2;
const ABANDONED: u8 = 3;

/// A slot that no call uses. If it is dropped, its memory is lost: it belongs into a pool.
#[must_use = "a slot is never freed"]
pub(crate) struct Slot<T: 'static> {
    shared: &'static SlotMemory<T>,
}

/// The end that takes the answer. If it is dropped before the answer came, it leaves the slot to
/// the answerer; after that, the slot is lost, and [`give_up`](Self::give_up) is better.
#[must_use = "somebody is to wait for the answer"]
pub(crate) struct Waiter<T: 'static> {
    shared: &'static SlotMemory<T>,
}

/// The end that gives the answer. If it is dropped, its waiter goes on waiting: it belongs into
/// something that answers in any case.
#[must_use = "somebody waits for the answer"]
pub(crate) struct Answerer<T: 'static> {
    shared: &'static SlotMemory<T>,
}

/// No answer came in time. The answerer has the slot when it answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimedOut;

/// Alone in its cache lines, since the threads at both ends run at the same time; a small answer
/// lies in the first, with the word.
#[repr(C, align(128))]
struct SlotMemory<T> {
    word: AtomicU8,
    answer: UnsafeCell<Option<T>>,
    parker: Parker,
}

// SAFETY: an answer goes from one thread to another, which `T: Send` allows. The cell is the
// answerer's until it changes the word, to `ANSWERED`, and then the waiter's, or its own again if
// the waiter has changed the word to `ABANDONED` before. Both changes are swaps that release and
// acquire.
unsafe impl<T: Send> Sync for SlotMemory<T> {}

impl<T> Slot<T> {
    pub(crate) fn new() -> Self {
        Self {
            shared: Box::leak(Box::new(SlotMemory {
                word: AtomicU8::new(ANSWERED),
                answer: UnsafeCell::new(None),
                parker: Parker::default(),
            })),
        }
    }

    /// Opens the slot for another call.
    pub(crate) fn open(self) -> (Waiter<T>, Answerer<T>) {
        // The answerer gets the slot by another way, which orders this before anything that it
        // does.
        self.shared.word.store(OPEN, Ordering::Relaxed);
        (Waiter { shared: self.shared }, Answerer { shared: self.shared })
    }
}

impl<T> Answerer<T> {
    /// Gives the answer. If the waiter has gone, the answer is dropped, and the slot is the
    /// caller's.
    pub(crate) fn answer(self, answer: T) -> Option<Slot<T>> {
        let shared = self.shared;
        // SAFETY: the word is `OPEN`, `PARKED` or `ABANDONED`: the cell is the answerer's.
        shared.answer.with_mut(|cell| unsafe { *cell = Some(answer) });
        let order = ordering(OrderingMutant::RelaxedAnswer, Ordering::AcqRel);
        match shared.word.swap(ANSWERED, order) {
            // SAFETY: the waiter has gone, and left the cell here.
            ABANDONED => drop(shared.answer.with_mut(|cell| unsafe { (*cell).take() })),
            // From here on the slot may be in use for another call, whose waiter is woken then: it
            // sleeps on.
            PARKED if !is_left_out(OrderingMutant::SilentAnswer) => {
                shared.parker.unpark();
                return None;
            }
            _ => return None,
        }
        Some(Slot { shared })
    }
}

impl<T> Waiter<T> {
    /// Waits for the answer, which comes with the slot.
    ///
    /// It looks for the answer for as long as `spin` returns true, then calls `before_park`, and
    /// sleeps until the answer comes or the time is up.
    pub(crate) fn wait(
        self,
        mut spin: impl FnMut() -> bool,
        before_park: impl FnOnce(),
        deadline: impl Into<Option<Instant>>,
    ) -> Result<(T, Slot<T>), TimedOut> {
        while !self.is_answered() {
            if !spin() {
                before_park();
                self.sleep(deadline.into());
                break;
            }
        }
        self.give_up().ok_or(TimedOut)
    }

    /// Takes the answer and the slot if the answer is there. Otherwise the slot is the answerer's,
    /// which gets it by answering.
    pub(crate) fn give_up(self) -> Option<(T, Slot<T>)> {
        ManuallyDrop::new(self).end()
    }

    fn is_answered(&self) -> bool {
        self.shared.word.load(Ordering::Acquire) == ANSWERED
    }

    /// Sleeps until the answer is there or the time is up.
    fn sleep(&self, deadline: Option<Instant>) {
        let SlotMemory { word, parker, .. } = self.shared;
        let may_sleep =
            word.compare_exchange(OPEN, PARKED, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        while may_sleep && !self.is_answered() && parker.park(deadline) {}
    }

    /// Ends the wait: the slot goes to the end that comes last.
    fn end(&self) -> Option<(T, Slot<T>)> {
        let shared = self.shared;
        let has_answer =
            self.is_answered() || shared.word.swap(ABANDONED, Ordering::AcqRel) == ANSWERED;
        // SAFETY: it has been answered, which the cell came along with.
        let answer = has_answer.then(|| shared.answer.with_mut(|cell| unsafe { (*cell).take() }));
        answer.flatten().map(|answer| (answer, Slot { shared }))
    }

    /// Returns the slot, which is not the waiter's: for a mutant.
    #[cfg(gridkv_loom)]
    pub(crate) fn steal(&self) -> Slot<T> {
        Slot { shared: self.shared }
    }
}

impl<T> Drop for Waiter<T> {
    fn drop(&mut self) {
        if !has_failed() {
            drop(self.end());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::{Arc, Mutex, mpsc};
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Never in a test's time.
    fn late() -> Option<Instant> {
        after(Duration::from_secs(60))
    }

    #[expect(clippy::disallowed_methods, reason = "a test's deadline")]
    fn after(wait: Duration) -> Option<Instant> {
        Some(Instant::now() + wait)
    }

    #[test]
    fn an_answer_that_is_there_is_taken_without_a_sleep() {
        let (waiter, answerer) = Slot::new().open();
        assert!(answerer.answer(7).is_none());
        let (answer, slot) =
            waiter.wait(|| panic!("spins"), || panic!("sleeps"), None).ok().unwrap();
        assert_eq!(answer, 7);
        let (waiter, answerer) = slot.open();
        assert!(!waiter.is_answered(), "the last call's answer");
        let last = Cell::new(Some(answerer));
        let spin = || last.take().unwrap().answer(8).is_none();
        assert_eq!(waiter.wait(spin, || panic!("sleeps"), None).ok().unwrap().0, 8);
    }

    #[test]
    fn one_that_sleeps_is_woken() {
        let mut slot = Slot::new();
        for round in 0..1000 {
            let (waiter, answerer) = slot.open();
            let (parks, parked) = mpsc::channel();
            slot = thread::scope(|scope| {
                scope.spawn(move || {
                    parked.recv().unwrap();
                    assert!(answerer.answer(round).is_none());
                });
                let answered = waiter.wait(|| false, || parks.send(()).unwrap(), late());
                let (answer, slot) = answered.ok().unwrap();
                assert_eq!(answer, round);
                slot
            });
        }
    }

    #[test]
    fn a_late_answer_is_dropped_and_the_slot_is_the_answerers() {
        let answer = Arc::new(());
        let (waiter, answerer) = Slot::new().open();
        let waited = waiter.wait(|| false, || (), after(Duration::from_millis(1)));
        assert!(matches!(waited, Err(TimedOut)));
        let slot = answerer.answer(answer.clone()).unwrap();
        assert_eq!(Arc::strong_count(&answer), 1);
        let (waiter, answerer) = slot.open();
        assert!(answerer.answer(answer.clone()).is_none());
        assert!(waiter.give_up().is_some(), "it came before");
    }

    #[test]
    fn a_waiter_that_unwinds_leaves_the_slot_to_the_answerer() {
        let (waiter, answerer) = Slot::<u8>::new().open();
        let wait = std::panic::AssertUnwindSafe(|| {
            waiter.wait(|| false, || panic!("on purpose"), None).is_ok()
        });
        assert!(std::panic::catch_unwind(wait).is_err());
        assert!(answerer.answer(1).is_some());
    }

    #[test]
    fn calls_that_share_slots_hear_their_own_answers() {
        const CALLS: usize = 4000;
        let pool = Mutex::new(Vec::new());
        let (calls, called) = mpsc::channel::<(usize, Answerer<usize>)>();
        thread::scope(|scope| {
            let pool = &pool;
            scope.spawn(move || {
                for (call, answerer) in called {
                    pool.lock().unwrap().extend(answerer.answer(call));
                }
            });
            for first in 0..4 {
                let calls = calls.clone();
                scope.spawn(move || {
                    for call in (first..4 * CALLS).step_by(4) {
                        let slot = pool.lock().unwrap().pop();
                        let (waiter, answerer) = slot.unwrap_or_else(Slot::new).open();
                        calls.send((call, answerer)).unwrap();
                        let mut spins = call % 50;
                        let spin = || {
                            spins = spins.saturating_sub(1);
                            spins > 0
                        };
                        let deadline = if call % 3 == 0 { after(Duration::ZERO) } else { late() };
                        if let Ok((answer, slot)) = waiter.wait(spin, || (), deadline) {
                            assert_eq!(answer, call);
                            pool.lock().unwrap().push(slot);
                        }
                    }
                });
            }
            drop(calls);
        });
        // Every slot came back, from one end or the other.
        let slots = pool.into_inner().unwrap();
        for slot in &slots {
            assert_eq!(
                slots.iter().filter(|other| std::ptr::eq(other.shared, slot.shared)).count(),
                1
            );
        }
    }
}
