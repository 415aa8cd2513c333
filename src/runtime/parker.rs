//! A parker is one thread's sleep, until another thread ends it or its time is up.
//!
//! It is not `std::thread::park`, whose token belongs to the app: what the app leaves there, or
//! takes, would confuse the engine or the app. It is not `crossbeam`'s, which the models cannot
//! run.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, lock};

#[derive(Default, Debug)]
pub(crate) struct Parker {
    /// Whether a thread has come since the last sleep.
    has_come: Mutex<bool>,
    comes: Condvar,
}

impl Parker {
    /// Sleeps until another thread comes, unless one has come already. `false` if the time was up
    /// first.
    ///
    /// The other may have come for an earlier sleep: the caller must look again at what it waits
    /// for.
    pub(crate) fn park(&self, deadline: Option<Instant>) -> bool {
        let mut has_come = lock(&self.has_come);
        while !*has_come {
            has_come = match deadline.map(until) {
                None => self.comes.wait(has_come).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return false,
                Some(left) => {
                    let waited = self.comes.wait_timeout(has_come, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        *has_come = false;
        true
    }

    pub(crate) fn unpark(&self) {
        *lock(&self.has_come) = true;
        self.comes.notify_one();
    }
}

/// Returns how long it is until the deadline.
#[allow(clippy::disallowed_methods, reason = "the app thread's own wait")]
fn until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
