//! Limits how many bytes of large values may be on their way through the cores at a time.
//!
//! Without it, a queue full of large values would break the memory limit. Callers are served in the
//! order in which they come, so that smaller values never overtake a large one for ever.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The bytes that may be on their way, and the callers that wait for some of them.
pub(crate) struct Allowance {
    most: usize,
    state: Mutex<Usage>,
    changed: Condvar,
}

#[derive(Default)]
struct Usage {
    used: usize,
    /// The tickets of the callers that wait, in the order in which they came.
    waiting: VecDeque<u64>,
    next_ticket: u64,
}

/// The right to send a value of some length. It gives its bytes back when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    allowance: Arc<Allowance>,
    bytes: usize,
}

impl Allowance {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Waits until this many bytes are free, or all of them if the value is longer than the limit.
    /// `None` if the time is up first.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize, timeout: Duration) -> Option<Permit> {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back(ticket);
        let has_to_wait = |state: &mut Usage| {
            let fits = state.used == 0 || state.used + bytes <= self.most;
            !fits || state.waiting.front() != Some(&ticket)
        };
        let waited = self.changed.wait_timeout_while(state, timeout, has_to_wait);
        let (mut state, outcome) = waited.unwrap_or_else(PoisonError::into_inner);
        state.waiting.retain(|other| *other != ticket);
        self.changed.notify_all();
        if outcome.timed_out() {
            return None;
        }
        state.used += bytes;
        Some(Permit { allowance: self.clone(), bytes })
    }

    fn lock(&self) -> MutexGuard<'_, Usage> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Allowance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Allowance").field("most", &self.most).finish_non_exhaustive()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.allowance.lock().used -= self.bytes;
        self.allowance.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(5);
    const LATE: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_taken_waits_for_what_is_given_back() {
        let allowance = Allowance::new(100);
        let first = allowance.take(60, LATE).unwrap();
        let second = allowance.take(40, LATE).unwrap();
        assert!(allowance.take(1, SOON).is_none());
        std::thread::scope(|scope| {
            scope.spawn(|| drop(allowance.take(500, LATE).expect("alone, as much as it wants")));
            drop((first, second));
        });
        assert!(allowance.take(100, LATE).is_some());
    }

    #[test]
    fn a_large_value_is_not_overtaken() {
        let allowance = Allowance::new(100);
        let first = allowance.take(60, LATE).unwrap();
        std::thread::scope(|scope| {
            let large = scope.spawn(|| allowance.take(100, LATE).is_some());
            while allowance.lock().waiting.is_empty() {
                std::thread::yield_now();
            }
            let overtakes = allowance.take(1, SOON).is_some();
            assert!(!overtakes, "there is room, and somebody waits for more");
            drop(first);
            assert!(large.join().unwrap());
        });
    }
}
