//! Reads the operating system's clocks; no other file does.

use std::time::{Duration, Instant as OsInstant, SystemTime, UNIX_EPOCH};

use crate::clock::{Instant, Now, WallTime};

/// One engine's clock.
///
/// Wall time is read once, at the start, and then advances with the monotonic clock. So a step of
/// the system's clock expires no key, and stops no version from growing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: OsInstant,
    wall_at_start: WallTime,
    /// The start on the scale of the system's monotonic clocks, in microseconds.
    #[cfg(target_os = "linux")]
    monotonic_at_start: u64,
}

impl Clock {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub(crate) fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            start: OsInstant::now(),
            wall_at_start: WallTime::from_micros(since_epoch.as_micros() as u64),
            #[cfg(target_os = "linux")]
            monotonic_at_start: monotonic(rustix::time::ClockId::Monotonic),
        }
    }

    pub(crate) fn now(&self) -> Now {
        let elapsed = self.start.elapsed();
        Now {
            instant: Instant::from_nanos(elapsed.as_nanos() as u64),
            wall: WallTime::from_micros(self.wall_at_start.micros() + elapsed.as_micros() as u64),
        }
    }

    /// Returns wall time as of the system's last timer tick, at most some milliseconds ago, at a
    /// fraction of the cost of [`now`](Self::now).
    #[cfg(target_os = "linux")]
    #[inline(never)]
    pub(crate) fn coarse_wall(&self) -> WallTime {
        let ticked = monotonic(rustix::time::ClockId::MonotonicCoarse);
        WallTime::from_micros(
            self.wall_at_start.micros() + ticked.saturating_sub(self.monotonic_at_start),
        )
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn coarse_wall(&self) -> WallTime {
        self.now().wall
    }

    pub(crate) fn instant(&self) -> Instant {
        Instant::from_nanos(self.start.elapsed().as_nanos() as u64)
    }

    /// Returns the same moment on the operating system's scale.
    pub(crate) fn to_os(self, instant: Instant) -> OsInstant {
        self.start + Duration::from_nanos(instant.nanos())
    }
}

/// Reads one of the system's monotonic clocks, in microseconds.
#[cfg(target_os = "linux")]
fn monotonic(clock: rustix::time::ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}
