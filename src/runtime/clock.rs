//! Reads the operating system's clocks; no other file does.
//!
//! | what for | clock | its steps | while the host is suspended |
//! |---|---|---|---|
//! | deadlines and timers | `CLOCK_BOOTTIME` on Linux | none | goes on |
//! | the same, on other systems | that of [`std::time::Instant`] | none | as the system has it |
//! | expiry and versions | the system's wall time | take effect | goes on |
//!
//! So a laptop that slept, or a virtual machine that was stopped, finds its timeouts over, as after
//! any other pause. And if the system's clock is slewed or stepped, expiry follows it. Versions
//! still grow: see [`HybridClock`](crate::clock::HybridClock).
//!
//! A thread that is about to sleep has a deadline on the scale of the standard library
//! ([`OsDeadline`]). On Linux that scale stands still while the host is suspended: a sleep ends
//! later by the time of a suspension in its midst.

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

    /// Returns the system's wall time.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub(crate) fn wall(&self) -> WallTime {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallTime::from_micros(since_epoch.as_micros() as u64)
    }

    /// Returns wall time as of the system's last timer tick, at most some milliseconds ago, at a
    /// fraction of the cost of [`wall`](Self::wall).
    #[cfg(target_os = "linux")]
    #[inline(never)]
    pub(crate) fn coarse_wall(&self) -> WallTime {
        let ticked = read(rustix::time::ClockId::RealtimeCoarse);
        WallTime::from_micros(ticked.as_micros() as u64)
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn coarse_wall(&self) -> WallTime {
        self.wall()
    }

    pub(crate) fn instant(&self) -> Instant {
        Instant::from_nanos(elapsed(self.start).as_nanos() as u64)
    }

    /// Returns the same moment on the operating system's scale, for a thread that waits.
    pub(crate) fn to_os(self, instant: Instant) -> OsDeadline {
        OsDeadline { clock: self, instant }
    }
}

/// A deadline for a thread that might sleep. Only one that does asks what it is on the scale of the
/// standard library, which takes two looks at clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OsDeadline {
    clock: Clock,
    instant: Instant,
}

impl From<OsDeadline> for Option<OsInstant> {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    fn from(OsDeadline { clock, instant }: OsDeadline) -> Self {
        OsInstant::now().checked_add(instant.since(clock.instant()))
    }
}

/// Both clocks, for the turns of a loop. Turns may follow each other within microseconds, so wall
/// time is read once in [`WALL_PERIOD`], and goes on with the other clock in between.
#[derive(Debug)]
pub(crate) struct TurnClock {
    clock: Clock,
    read: Now,
}

/// For how long a loop goes on with the wall time that it has read.
const WALL_PERIOD: Duration = Duration::from_millis(1);

impl TurnClock {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, read: Now { instant: clock.instant(), wall: clock.wall() } }
    }

    pub(crate) fn now(&mut self) -> Now {
        let instant = self.clock.instant();
        let since = instant.since(self.read.instant);
        if since >= WALL_PERIOD {
            self.read = Now { instant, wall: self.clock.wall() };
            return self.read;
        }
        let micros = self.read.wall.micros() + since.as_micros() as u64;
        Now { instant, wall: WallTime::from_micros(micros) }
    }
}

/// Returns the time since the host was started, suspended or not.
#[cfg(target_os = "linux")]
pub(crate) fn time_since_boot() -> Duration {
    moment()
}

#[cfg(target_os = "linux")]
#[inline]
fn moment() -> Moment {
    read(rustix::time::ClockId::Boottime)
}

#[cfg(target_os = "linux")]
#[inline]
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

/// Reads a clock of the system. One that shows a time before 1970 counts as one of 1970.
#[cfg(target_os = "linux")]
#[inline]
fn read(clock: rustix::time::ClockId) -> Duration {
    let now = rustix::time::clock_gettime(clock);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or_default(), now.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_is_read_again_while_time_goes_on() {
        let clock = Clock::start();
        let mut turns = TurnClock::new(clock);
        // What a step of the system's clock leaves: it was an hour ahead when it was read.
        let ahead = Duration::from_secs(3600).as_micros() as u64;
        turns.read.wall = WallTime::from_micros(clock.wall().micros() + ahead);
        let mut last = turns.read.instant;
        loop {
            let before = clock.wall();
            let now = turns.now();
            assert!(now.instant >= last);
            last = now.instant;
            if now.wall.micros() < before.micros() + ahead / 2 {
                assert!(turns.read.instant.since(Instant::default()) >= WALL_PERIOD);
                break;
            }
        }
        let coarse = clock.coarse_wall().micros();
        assert!(clock.wall().micros().abs_diff(coarse) < 10_000_000, "both are wall time");
    }

    #[test]
    fn a_deadline_is_as_far_away_on_both_scales() {
        let clock = Clock::start();
        let wait = Duration::from_secs(100);
        let deadline = clock.to_os(clock.instant() + wait);
        let now = Option::<OsInstant>::from(clock.to_os(Instant::default())).expect("now");
        let at = Option::<OsInstant>::from(deadline).expect("it is not that far away");
        let left = at - now;
        assert!(left <= wait + Duration::from_secs(1) && left > wait / 2, "{left:?}");
    }
}
