//! Waiting for a condition.

use std::time::{Duration, Instant};

/// Longer than anything takes, on a machine that is busy with other tests too. A test that passes
/// never waits this long; one that fails ends.
pub(crate) const LATE: Duration = Duration::from_secs(30);

/// Waits until a condition holds, looking every few milliseconds. Fails the test if it never does.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LATE, "still not so after {LATE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
