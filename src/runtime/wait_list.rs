//! A wait list: the app threads that wait for room in a full queue, the longest-waiting first.
//!
//! ```text
//! waiter                            consumer
//! enter the list                    take messages
//! fence                             fence
//! try to push                       look whether the list has a waiter
//! sleep
//! ```
//!
//! One of the fences comes first: either the push finds the room, or the consumer finds the waiter.
//! The consumer pays one fence and one load for a whole batch of messages, and a lock if a caller
//! waits.
//!
//! # Why no caller waits for ever while there is room
//!
//! Each time the consumer has taken messages, it wakes as many waiters as there is room for: all of
//! them, if the queue is empty. After each wake a caller tries to push. It is the one that was
//! woken, even if its time is up by then. If that one had pushed already and was only about to
//! leave the list, it hands the wake on to the next one. Either the push succeeds, and the consumer
//! will come for the message; or the queue is full, and the consumer will come for what is in it.
//! So while any caller waits, the consumer is to come again.
//!
//! A newcomer might take the room before the waiter that was woken gets there, since no place in
//! the queue is kept. The waiter then goes back to the front of the list.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::parker::Parker;
use crate::mutants::{OrderingMutant, is_left_out};
use crate::sync::{AtomicBool, Fences, Mutex, Ordering, Padded, lock};

#[derive(Default)]
pub(crate) struct WaitList {
    /// Whether any caller is in the list. Changed under its lock.
    is_wanted: Padded<AtomicBool>,
    waiting: Mutex<VecDeque<Arc<Parker>>>,
    fences: Fences,
}

/// A caller's position in the list. It ends when the caller leaves, or when a wake takes it off.
pub(crate) struct WaitPosition<'a> {
    wait_list: &'a WaitList,
    parker: Arc<Parker>,
}

impl WaitList {
    /// Enters the list, before a push that is the last one before a sleep.
    pub(crate) fn enter(&self) -> WaitPosition<'_> {
        let position = WaitPosition { wait_list: self, parker: Arc::default() };
        self.change(|waiting| waiting.push_back(position.parker.clone()));
        self.fences.fence_unless(OrderingMutant::UnfencedEntry);
        position
    }

    /// Wakes as many callers as there is room for. Called after messages were taken.
    pub(crate) fn admit(&self, free: impl FnOnce() -> usize) {
        self.fences.fence_unless(OrderingMutant::UnfencedAdmit);
        if self.is_wanted.0.load(Ordering::Relaxed) && !is_left_out(OrderingMutant::SkippedAdmit) {
            self.change(|waiting| {
                let count = free().min(waiting.len());
                waiting.drain(..count).for_each(|parker| parker.unpark());
            });
        }
    }

    /// Wakes all callers: the queue is closed, and tells them so. A caller that comes later finds
    /// that out before it sleeps, as the lock orders its entry behind this.
    pub(crate) fn close(&self) {
        if !is_left_out(OrderingMutant::SilentClose) {
            self.change(|waiting| waiting.drain(..).for_each(|parker| parker.unpark()));
        }
    }

    /// Whether any caller is in the list, as far as can be seen without the lock.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_wanted.0.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.waiting).len()
    }

    fn change(&self, change: impl FnOnce(&mut VecDeque<Arc<Parker>>)) {
        let mut waiting = lock(&self.waiting);
        change(&mut waiting);
        self.is_wanted.0.store(!waiting.is_empty(), Ordering::Relaxed);
    }
}

impl WaitPosition<'_> {
    /// Sleeps until there may be room. `false` if the time was up first: then no wake has come, and
    /// the caller is in the list no more.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        self.parker.park(deadline) || self.was_woken()
    }

    /// Whether a wake came at the last moment, when the time was up. The wake is taken then;
    /// otherwise the next sleep would end by it, with a position in the list.
    fn was_woken(&self) -> bool {
        !self.leave() && !is_left_out(OrderingMutant::LostWake) && self.parker.park(None)
    }

    /// Enters the list again, before all others, after a wake and before another push.
    pub(crate) fn enter_again(&self) {
        self.wait_list.change(|waiting| waiting.push_front(self.parker.clone()));
        self.wait_list.fences.fence_unless(OrderingMutant::UnfencedEntry);
    }

    /// Leaves with the message sent. A wake that was on its way is for the next caller.
    pub(crate) fn done(self) {
        if !self.leave() && !is_left_out(OrderingMutant::KeptWake) {
            self.wait_list.change(|waiting| {
                if let Some(next) = waiting.pop_front() {
                    next.unpark();
                }
            });
        }
    }

    /// Leaves the list. Returns whether the caller was still in it.
    fn leave(&self) -> bool {
        let mut was_there = false;
        self.wait_list.change(|waiting| {
            let at = waiting.iter().position(|parker| Arc::ptr_eq(parker, &self.parker));
            was_there = at.and_then(|at| waiting.remove(at)).is_some();
        });
        was_there
    }
}

#[cfg(all(test, not(gridkv_loom)))]
#[expect(clippy::disallowed_methods, reason = "a test's deadline")]
mod tests {
    use super::*;

    /// A wake that came when the time was up stayed with the waiter. Its next sleep ended at once,
    /// while it was in the list, and it entered that twice: one of the places took a wake that was
    /// another's.
    #[test]
    fn a_wake_at_the_last_moment_is_taken() {
        let wait_list = WaitList::default();
        let position = wait_list.enter();
        let past = Some(Instant::now());
        assert!(!position.parker.park(past), "nobody has woken it");
        wait_list.admit(|| 1);
        assert!(position.was_woken());
        position.enter_again();
        assert!(!position.parker.park(past), "once is enough");
        assert_eq!(wait_list.waiting(), 1);
        position.done();
        assert_eq!(wait_list.waiting(), 0);
    }
}
