//! App threads that wait for room in a queue that is full, the longest-waiting first.
//!
//! ```text
//! waiter                            consumer
//! enter the list                    take messages
//! fence                             fence
//! try to push                       look whether anybody is in the list
//! sleep
//! ```
//!
//! One of the fences comes first: either the push finds the room, or the consumer finds the waiter. What the
//! consumer pays is one fence and one load for a whole batch of messages, and a lock where somebody waits.
//!
//! # Why nobody waits beside free room for ever
//!
//! Each time the consumer has taken messages, it wakes as many as there is room for: all of them, where the queue
//! is empty. And after each wake somebody tries to push: whoever was woken, even if its time is up by then; or, if
//! it had pushed already and was only about to leave the list, the next one, to whom it hands the wake on. Either
//! the push succeeds, and the consumer will come for the message; or the queue is full, and the consumer will come
//! for what is in it. So as long as anybody waits, the consumer is to come again.
//!
//! Somebody who comes just then may take the room before who was woken gets there, since no place in the queue is
//! kept for anybody. It goes back to the front of the list then.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::parker::Parker;
use crate::sync::{AtomicBool, Fences, Mutant, Mutex, Ordering, Padded, lock, planted};

#[derive(Default)]
pub(crate) struct WaitList {
    /// Whether anybody is in the list. Changed under its lock.
    is_wanted: Padded<AtomicBool>,
    waiting: Mutex<VecDeque<Arc<Parker>>>,
    fences: Fences,
}

/// A place in the list. It is left, or was taken off it by a wake.
pub(crate) struct WaitPosition<'a> {
    wait_list: &'a WaitList,
    parker: Arc<Parker>,
}

impl WaitList {
    /// Before a push that is the last one before a sleep.
    pub(crate) fn enter(&self) -> WaitPosition<'_> {
        let position = WaitPosition { wait_list: self, parker: Arc::default() };
        self.change(|waiting| waiting.push_back(position.parker.clone()));
        self.fences.fence_unless(Mutant::UnfencedEntry);
        position
    }

    /// After messages were taken: wakes as many as there is room for.
    pub(crate) fn admit(&self, free: impl FnOnce() -> usize) {
        self.fences.fence_unless(Mutant::UnfencedAdmit);
        if self.is_wanted.0.load(Ordering::Relaxed) && !planted(Mutant::SkippedAdmit) {
            self.change(|waiting| {
                let count = free().min(waiting.len());
                waiting.drain(..count).for_each(|parker| parker.unpark());
            });
        }
    }

    /// The queue is closed: whoever waits will hear so from it. Who comes later does before it sleeps, as the lock
    /// orders its entry behind this.
    pub(crate) fn close(&self) {
        if !planted(Mutant::SilentClose) {
            self.change(|waiting| waiting.drain(..).for_each(|parker| parker.unpark()));
        }
    }

    /// Whether anybody is in the list, as far as can be seen without the lock.
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
    /// Sleeps until there may be room. `false` when the time was up first: then nobody has woken it, and it is in
    /// the list no more.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        self.parker.park(deadline) || self.was_woken()
    }

    /// Whether it was woken at the last moment, its time being up. The wake is taken then, or the next sleep would end
    /// by it, with a place in the list.
    fn was_woken(&self) -> bool {
        !self.leave() && !planted(Mutant::LostWake) && self.parker.park(None)
    }

    /// Back in the list, before all others, after a wake and before another push.
    pub(crate) fn enter_again(&self) {
        self.wait_list.change(|waiting| waiting.push_front(self.parker.clone()));
        self.wait_list.fences.fence_unless(Mutant::UnfencedEntry);
    }

    /// With its message sent. A wake that was on its way is for the next one.
    pub(crate) fn done(self) {
        if !self.leave() && !planted(Mutant::KeptWake) {
            self.wait_list.change(|waiting| {
                if let Some(next) = waiting.pop_front() {
                    next.unpark();
                }
            });
        }
    }

    /// Whether it was still in the list.
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

    /// A wake that came when the time was up stayed with the waiter. Its next sleep ended at once, while it was in
    /// the list, and it entered that twice: one of the places took a wake that was another's.
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
