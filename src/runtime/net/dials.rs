//! How often connections are opened: not at once again where a dial failed, and not too many at a
//! time.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Instant;

/// How many connections to cores are being opened at a time by one thread.
///
/// Each takes a descriptor of the app, and a list of members may be long, or wrong. Further ones
/// are opened when they are asked for again.
pub(super) const MOST_DIALS: usize = 64;

/// How many to control threads. The control has limits of its own for each reason to open one,
/// which leave some to seeds.
pub(super) const MOST_CONTROL_DIALS: usize = 128;

/// How long a core waits until it dials again where a dial failed; twice as long after each further
/// failure.
const FIRST_WAIT: Duration = Duration::from_millis(5);

/// The longest wait, so that a node that starts again is found soon.
const LONGEST_WAIT: Duration = Duration::from_millis(320);

/// How many failures are remembered. Beyond it those are forgotten whose wait is over.
const MOST_FAILURES: usize = 1024;

/// The dials that failed since the last welcome at their destination, which `D` names.
#[derive(Debug)]
pub(super) struct FailedDials<D> {
    failures: BTreeMap<D, Failure>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    /// The wait without its jitter.
    wait: Duration,
    until: Instant,
}

impl<D> Default for FailedDials<D> {
    fn default() -> Self {
        Self { failures: BTreeMap::new() }
    }
}

impl<D: Ord> FailedDials<D> {
    /// Whether it is too early to dial there again.
    pub(super) fn must_wait(&self, now: Instant, target: &D) -> bool {
        self.failures.get(target).is_some_and(|failure| failure.until > now)
    }

    /// Notes that a dial failed.
    pub(super) fn failed(&mut self, now: Instant, target: D) {
        if self.failures.len() >= MOST_FAILURES {
            self.failures.retain(|_, failure| failure.until > now);
        }
        let before = self.failures.get(&target).map(|failure| failure.wait);
        let wait = before.map_or(FIRST_WAIT, |before| LONGEST_WAIT.min(before * 2));
        self.failures.insert(target, Failure { wait, until: now + jittered(now, wait) });
    }

    /// Notes that there is a node that welcomes.
    pub(super) fn welcomed(&mut self, target: &D) {
        self.failures.remove(target);
    }
}

/// Returns half of a wait to all of it, so that cores that failed at the same moment do not dial at
/// the same moment again. The clock's nanoseconds are the chance.
fn jittered(now: Instant, wait: Duration) -> Duration {
    let chance = (now.nanos().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u32;
    wait / 2 + (wait / 2).mul_f64(f64::from(chance) / f64::from(1 << 24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_end_with_a_welcome() {
        let mut dials = FailedDials::default();
        let mut now = Instant::from_nanos(77);
        for wait in [5, 10, 20, 40, 80, 160, 320, 320, 320] {
            assert!(!dials.must_wait(now, &"b"));
            dials.failed(now, "b");
            let wait = Duration::from_millis(wait);
            assert!(dials.must_wait(now + wait.mul_f64(0.49), &"b"));
            now = now + wait;
        }
        dials.failed(now, "b");
        dials.welcomed(&"b");
        assert!(!dials.must_wait(now, &"b"));
        dials.failed(now, "b");
        assert!(!dials.must_wait(now + FIRST_WAIT, &"b"));
    }

    #[test]
    fn failures_are_forgotten_when_there_are_many() {
        let mut dials = FailedDials::default();
        for second in 0..2 * MOST_FAILURES as u64 {
            dials.failed(Instant::from_nanos(second * 1_000_000_000), second);
        }
        assert!(dials.failures.len() <= MOST_FAILURES);
    }
}
