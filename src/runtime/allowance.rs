//! How many bytes of large values may be on their way through the cores at a time, so that a queue full of them
//! does not break the memory limit. First come, first served: a large one is not overtaken for ever.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub(crate) struct Allowance {
    most: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    used: usize,
    /// Who waits, in the order of coming.
    waiting: VecDeque<u64>,
    next_ticket: u64,
}

/// Gives its bytes back when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    allowance: Arc<Allowance>,
    bytes: usize,
}

impl Allowance {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Waits until so many bytes are free, or all of them where it takes more. `None` when the deadline came
    /// first.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize, deadline: Instant) -> Option<Permit> {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back(ticket);
        let is_served = loop {
            let fits = state.used == 0 || state.used + bytes <= self.most;
            if fits && state.waiting.front() == Some(&ticket) {
                break true;
            }
            let wait = deadline.saturating_duration_since(now());
            if wait.is_zero() {
                break false;
            }
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        };
        state.waiting.retain(|other| *other != ticket);
        self.changed.notify_all();
        if !is_served {
            return None;
        }
        state.used += bytes;
        Some(Permit { allowance: self.clone(), bytes })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Allowance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Allowance").field("most", &self.most).finish_non_exhaustive()
    }
}

#[expect(clippy::disallowed_methods, reason = "the deadline of an app's thread")]
fn now() -> Instant {
    Instant::now()
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.allowance.lock().used -= self.bytes;
        self.allowance.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_taken_waits_for_what_is_given_back() {
        let allowance = Allowance::new(100);
        let soon = || now() + Duration::from_millis(5);
        let late = now() + Duration::from_secs(60);
        let first = allowance.take(60, late).unwrap();
        let second = allowance.take(40, late).unwrap();
        assert!(allowance.take(1, soon()).is_none());
        std::thread::scope(|scope| {
            scope.spawn(|| drop(allowance.take(500, late).expect("alone, as much as it wants")));
            drop((first, second));
        });
        assert!(allowance.take(100, late).is_some());
    }

    #[test]
    fn a_large_value_is_not_overtaken() {
        let allowance = Allowance::new(100);
        let late = now() + Duration::from_secs(60);
        let first = allowance.take(60, late).unwrap();
        std::thread::scope(|scope| {
            let large = scope.spawn(|| allowance.take(100, late).is_some());
            while allowance.lock().waiting.is_empty() {
                std::thread::yield_now();
            }
            let overtakes = allowance.take(1, now() + Duration::from_millis(5)).is_some();
            assert!(!overtakes, "there is room, and somebody waits for more");
            drop(first);
            assert!(large.join().unwrap());
        });
    }
}
