//! Time as the protocol sees it: always an argument, never asked for.
//!
//! Three notions, three types. [`Instant`] is monotonic and private to a node: deadlines and
//! timeouts. [`WallTime`] is what the calendar says: expiry, because replicas must agree on it.
//! [`Version`] orders the writes to a key across nodes: a hybrid logical clock (Kulkarni et al.,
//! "Logical Physical Clocks", OPODIS '14), so that a write which saw another is always the newer
//! one, and so that versions stay close to wall time without trusting it.

use std::fmt;
use std::time::Duration;

use crate::mutants::{ProtocolMutant, rule};

/// Monotonic time since some fixed moment of this process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Instant {
    nanos: u64,
}

impl Instant {
    pub(crate) const fn from_nanos(nanos: u64) -> Self {
        Self { nanos }
    }

    pub(crate) fn nanos(self) -> u64 {
        self.nanos
    }

    /// Time since `earlier`; zero when `earlier` is later.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        Self { nanos: self.nanos.saturating_add(nanos) }
    }
}

/// Wall time in microseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct WallTime {
    micros: u64,
}

impl WallTime {
    pub(crate) const fn from_micros(micros: u64) -> Self {
        Self { micros }
    }

    pub(crate) fn micros(self) -> u64 {
        self.micros
    }

    pub(crate) fn millis(self) -> u64 {
        self.micros / 1000
    }
}

/// Both clocks, read together, once per turn of a loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) wall: WallTime,
}

/// When an entry was written, as a hybrid logical timestamp: 52 bits of microseconds (enough until
/// the year 2112) and 12 bits of counter. No clock gives out the lowest six bits: they count how
/// often the same write was given a shorter time to live. That makes it newer than itself, and not
/// newer than another write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Version(pub(crate) u64);

const COUNTER_BITS: u32 = 12;

/// The part of a version that no clock gives out.
const SHORTENED: u64 = (1 << 6) - 1;

impl Version {
    /// Older than every write.
    pub(crate) const ZERO: Self = Self(0);

    fn at(wall: WallTime) -> Self {
        Self(wall.micros << COUNTER_BITS)
    }

    /// The next version that another write may have, ignoring every clock.
    pub(crate) fn next(self) -> Self {
        Self((self.0 | SHORTENED).saturating_add(1))
    }

    /// The version of the same write with a shorter time to live.
    ///
    /// The 64th in a row, with no other write between, is the lowest version that another write may
    /// have. A write at the same time has that one only if its node's clock is behind the version
    /// of the one that is shortened. Never is it taken from a clock: the old value would then
    /// replace whatever was written while it was read.
    pub(crate) fn shortened(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}", self.0 >> COUNTER_BITS, self.0 & ((1 << COUNTER_BITS) - 1))
    }
}

/// Hands out versions that only grow, even if the wall clock goes back. One per core: a key has one
/// core.
#[derive(Debug)]
pub(crate) struct HybridClock {
    last: Version,
    max_skew: Duration,
}

impl HybridClock {
    /// `max_skew` bounds how far ahead of this node's wall clock a received version may pull it.
    pub(crate) fn new(max_skew: Duration) -> Self {
        Self { last: Version::ZERO, max_skew }
    }

    /// Returns a version above every one handed out or witnessed, and above `floor`.
    pub(crate) fn stamp_above(&mut self, floor: Version, wall: WallTime) -> Version {
        if !rule(ProtocolMutant::WallClock, true) {
            return Version::at(wall);
        }
        self.last = self.last.next().max(Version::at(wall));
        self.last.max(floor.next())
    }

    /// The clock's reading: no version that it hands out from here on is lower.
    pub(crate) fn reading(&self, wall: WallTime) -> Version {
        self.last.max(Version::at(wall))
    }

    /// Learns a received version, so that what is written next here is newer. A version too far in
    /// the future is not learned: one node with a clock of next year must not drag the cluster with
    /// it. (The entry still merges, and a write to that very key is stamped above it.)
    pub(crate) fn witness(&mut self, version: Version, wall: WallTime) {
        let limit =
            WallTime { micros: wall.micros.saturating_add(self.max_skew.as_micros() as u64) };
        if version <= Version::at(limit) {
            self.last = self.last.max(version);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn versions_grow_whatever_the_wall_clock_does(
            steps in prop::collection::vec((0u64..1 << 40, prop::option::of(0u64..1 << 52)), 1..200)
        ) {
            let mut clock = HybridClock::new(Duration::from_secs(60));
            let mut last = Version::ZERO;
            for (wall, seen) in steps {
                let wall = WallTime::from_micros(wall);
                if let Some(seen) = seen {
                    clock.witness(Version(seen), wall);
                }
                let next = clock.stamp_above(Version::ZERO, wall);
                prop_assert!(next > last);
                last = next;
            }
        }

        #[test]
        fn a_stamp_is_above_what_was_witnessed_within_the_skew(
            wall in 1u64 << 30..1 << 50,
            ahead in 0u64..60_000_000,
        ) {
            let mut clock = HybridClock::new(Duration::from_secs(60));
            let seen = Version::at(WallTime::from_micros(wall + ahead));
            clock.witness(seen, WallTime::from_micros(wall));
            prop_assert!(clock.stamp_above(Version::ZERO, WallTime::from_micros(wall)) > seen);
        }
    }

    #[test]
    fn a_shortened_write_is_newer_than_itself_and_older_than_whatever_is_stamped_above() {
        let wall = WallTime::from_micros(1 << 50);
        let mut clock = HybridClock::new(Duration::from_secs(60));
        let version = clock.stamp_above(Version::ZERO, wall);
        let next = clock.stamp_above(version, wall);
        let mut shortened = version;
        for _ in 0..SHORTENED {
            let newer = shortened.shortened();
            assert!(newer > shortened && newer < next);
            shortened = newer;
        }
        assert_eq!(
            HybridClock::new(Duration::ZERO).stamp_above(shortened, WallTime::default()),
            next
        );
        // A write a microsecond later is still above it.
        let later = clock.stamp_above(version, WallTime::from_micros((1 << 50) + 1));
        assert!(shortened.shortened() > shortened && shortened.shortened() < later);
        assert_eq!(Version(u64::MAX).next(), Version(u64::MAX), "it never wraps around");
    }

    #[test]
    fn a_version_from_next_year_is_not_learned_but_can_be_stamped_above() {
        let wall = WallTime::from_micros(1 << 50);
        let future = Version::at(WallTime::from_micros((1 << 50) + 400 * 86_400_000_000));
        let mut clock = HybridClock::new(Duration::from_secs(60));
        clock.witness(future, wall);
        assert!(clock.stamp_above(Version::ZERO, wall) < future);
        assert!(clock.stamp_above(future, wall) > future);
        assert!(
            clock.stamp_above(Version::ZERO, wall) < future,
            "the floor of one key is not learned"
        );
    }
}
