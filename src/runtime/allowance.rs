//! How many bytes of large values may be on their way to the cores at a time, so that a queue full of them does
//! not break the memory limit.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

pub(crate) struct Allowance {
    most: usize,
    used: Mutex<usize>,
    freed: Condvar,
}

/// Gives its bytes back when it is dropped.
pub(crate) struct Permit<'a> {
    allowance: &'a Allowance,
    bytes: usize,
}

impl Allowance {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, used: Mutex::new(0), freed: Condvar::new() }
    }

    /// Waits until so many bytes are free, or all of them where it takes more. `None` when the deadline came
    /// first.
    pub(crate) fn take(&self, bytes: usize, deadline: Instant) -> Option<Permit<'_>> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while *used > 0 && *used + bytes > self.most {
            let wait = deadline.checked_duration_since(now()).filter(|wait| !wait.is_zero())?;
            used = self.freed.wait_timeout(used, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        *used += bytes;
        Some(Permit { allowance: self, bytes })
    }
}

#[expect(clippy::disallowed_methods, reason = "the deadline of an app's thread")]
fn now() -> Instant {
    Instant::now()
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.allowance.used.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.allowance.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_taken_waits_for_what_is_given_back() {
        let allowance = Allowance::new(100);
        let soon = now() + Duration::from_millis(5);
        let late = now() + Duration::from_secs(60);
        let first = allowance.take(60, late).unwrap();
        let second = allowance.take(40, late).unwrap();
        assert!(allowance.take(1, soon).is_none());
        std::thread::scope(|scope| {
            scope.spawn(|| drop(allowance.take(500, late).expect("alone, as much as it wants")));
            drop((first, second));
        });
        assert!(allowance.take(100, late).is_some());
    }
}
