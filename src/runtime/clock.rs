//! Reads the operating system's clocks; no other file does.
//!
//! - Time that passes is that of `CLOCK_BOOTTIME`, which goes on while the host is suspended. So
//!   a laptop that slept, or a virtual machine that was stopped, finds its timeouts over, as after
//!   any other pause.
//! - Wall time is the system's, as it is now. Where the system's clock is slewed or stepped, expiry
//!   follows it. Versions still grow: see [`HybridClock`](crate::clock::HybridClock).

use std::time::{Duration, Instant as OsInstant, SystemTime, UNIX_EPOCH};

use crate::clock::{Instant, Now, WallTime};

/// One engine's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Moment,
}

#[cfg(target_os = "linux")]
type Moment = Duration;
#[cfg(not(target_os = "linux"))]
type Moment = OsInstant;

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: moment() }
    }

    pub(crate) fn now(&self) -> Now {
        Now { instant: self.instant(), wall: wall() }
    }

    /// Returns wall time as of the system's last timer tick, at most some milliseconds ago, at a
    /// fraction of the cost of [`now`](Self::now).
    #[cfg(target_os = "linux")]
    #[inline(never)]
    pub(crate) fn coarse_wall(&self) -> WallTime {
        let ticked = read(rustix::time::ClockId::RealtimeCoarse);
        WallTime::from_micros(ticked.as_micros() as u64)
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn coarse_wall(&self) -> WallTime {
        wall()
    }

    pub(crate) fn instant(&self) -> Instant {
        Instant::from_nanos(elapsed(self.start).as_nanos() as u64)
    }

    /// Returns about the same moment on the scale of the standard library, which stands still while
    /// the host is suspended.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub(crate) fn to_os(self, instant: Instant) -> OsInstant {
        OsInstant::now() + instant.since(self.instant())
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
fn wall() -> WallTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime::from_micros(since_epoch.as_micros() as u64)
}

/// Returns the time since the host was started, suspended or not.
#[cfg(target_os = "linux")]
fn moment() -> Moment {
    read(rustix::time::ClockId::Boottime)
}

#[cfg(target_os = "linux")]
fn elapsed(since: Moment) -> Duration {
    moment().saturating_sub(since)
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
fn moment() -> Moment {
    OsInstant::now()
}

#[cfg(not(target_os = "linux"))]
fn elapsed(since: Moment) -> Duration {
    since.elapsed()
}

#[cfg(target_os = "linux")]
fn read(clock: rustix::time::ClockId) -> Duration {
    let now = rustix::time::clock_gettime(clock);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}
