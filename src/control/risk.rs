//! When the app is told that acknowledged writes might be lost: at once, and once for many
//! partitions.
//!
//! A death concerns hundreds of partitions, on all cores. What they say within a moment is one
//! event, and so is what follows in the seconds after it.

use std::time::Duration;

use crate::clock::Instant;

/// How long the app is told after the first partition, with all that is heard of until then.
const TOGETHER: Duration = Duration::from_millis(100);

/// How long after one event the next one comes.
const APART: Duration = Duration::from_secs(10);

/// The partitions of which the app has not heard yet.
#[derive(Default)]
pub(super) struct AtRisk {
    partitions: usize,
    tell_at: Option<Instant>,
    told_at: Option<Instant>,
}

impl AtRisk {
    pub(super) fn add(&mut self, now: Instant, partitions: usize) {
        self.partitions += partitions;
        let earliest = self.told_at.map(|at| at + APART);
        self.tell_at.get_or_insert((now + TOGETHER).max(earliest.unwrap_or(now)));
    }

    /// Returns how many partitions the app is to be told of now.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<usize> {
        self.tell_at.take_if(|at| *at <= now)?;
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.partitions))
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.tell_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_partitions_say_is_one_event_and_the_next_comes_later() {
        let at = |millis| Instant::from_nanos(1) + Duration::from_millis(millis);
        let mut risk = AtRisk::default();
        assert_eq!(risk.deadline(), None);
        risk.add(at(0), 3);
        risk.add(at(90), 4);
        assert_eq!(risk.deadline(), Some(at(100)));
        assert_eq!(risk.take_due(at(99)), None);
        assert_eq!(risk.take_due(at(100)), Some(7));
        assert_eq!(risk.take_due(at(200)), None);
        risk.add(at(1000), 1);
        risk.add(at(9000), 1);
        assert_eq!(risk.take_due(at(10_099)), None);
        assert_eq!(risk.take_due(at(10_100)), Some(2));
        // Much later it is told at once again.
        risk.add(at(60_000), 5);
        assert_eq!(risk.take_due(at(60_100)), Some(5));
    }
}
