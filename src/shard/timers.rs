//! When what is due: one table for all parts of a shard.

use std::collections::{BTreeMap, BTreeSet};

use super::caller::{ForwardId, OpId};
use super::requests::HandoffKind;
use crate::clock::Instant;
use crate::types::Partition;

/// What a timer is for. Those that are due at one time fire in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Timer {
    /// An operation asks again, or has waited long enough.
    Op(OpId),
    /// A handoff goes on, or starts again.
    Handoff(Partition, HandoffKind),
    /// Members that have something to do about a list are told it again.
    Remind(Partition),
    /// More of these reminders are sent.
    RemindNext,
    /// A list should have been decided that this node accepted.
    Seal(Partition),
    /// Other replicas are compared with.
    Compare,
    /// Tombstones are forgotten.
    Purge,
    /// Copies that lacked room for something are tried again.
    Refill,
    /// Keys have expired.
    Expire,
    /// Writes are sent to other data centers.
    Relay,
    /// A read of other data centers is over.
    Forward(ForwardId),
    /// Memory that no reader sees any more is freed.
    Collect,
    /// More room is made for the writes that wait for it.
    Room,
    /// More calls of groups are begun.
    Groups,
    /// The mutant that acknowledges before it applies does apply.
    #[cfg(feature = "sim")]
    PutOff,
}

/// How many timers there is only one of.
const SINGLE_TIMERS: usize = 8;

impl Timer {
    /// Returns the index of a timer that there is only one of on a core. They are looked at in
    /// every turn.
    fn single(self) -> Option<usize> {
        match self {
            Self::Compare => Some(0),
            Self::Purge => Some(1),
            Self::Expire => Some(2),
            Self::Relay => Some(3),
            Self::Collect => Some(4),
            Self::Room => Some(5),
            Self::Groups => Some(6),
            #[cfg(feature = "sim")]
            Self::PutOff => Some(7),
            Self::Op(_)
            | Self::Handoff(..)
            | Self::Remind(_)
            | Self::RemindNext
            | Self::Seal(_)
            | Self::Refill
            | Self::Forward(_) => None,
        }
    }
}

/// Each timer with the one time at which it fires next.
#[derive(Default)]
pub(super) struct Timers {
    due: BTreeSet<(Instant, Timer)>,
    single: [Option<Instant>; SINGLE_TIMERS],
    others: BTreeMap<Timer, Instant>,
}

impl Timers {
    fn at(&self, timer: Timer) -> Option<Instant> {
        match timer.single() {
            Some(index) => self.single[index],
            None => self.others.get(&timer).copied(),
        }
    }

    /// Notes the time at which a timer fires, or that it does not, and returns what was noted
    /// before.
    fn note(&mut self, timer: Timer, at: Option<Instant>) -> Option<Instant> {
        match (timer.single(), at) {
            (Some(index), at) => std::mem::replace(&mut self.single[index], at),
            (None, Some(at)) => self.others.insert(timer, at),
            (None, None) => self.others.remove(&timer),
        }
    }

    /// Sets or stops a timer: a machine that has nothing to wait for has no deadline.
    pub(super) fn set_to(&mut self, timer: Timer, deadline: Option<Instant>) {
        let old = self.note(timer, deadline);
        if old != deadline {
            old.map(|at| self.due.remove(&(at, timer)));
            self.due.extend(deadline.map(|at| (at, timer)));
        }
    }

    /// Sets a timer. It does not fire at the time that was set before.
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.set_to(timer, Some(at));
    }

    /// Sets a timer that is not set yet.
    pub(super) fn set_once(&mut self, timer: Timer, at: Instant) {
        if self.at(timer).is_none() {
            self.set(timer, at);
        }
    }

    /// Sets a timer that would not fire sooner.
    pub(super) fn set_no_later(&mut self, timer: Timer, at: Instant) {
        if self.at(timer).is_none_or(|set| at < set) {
            self.set(timer, at);
        }
    }

    /// Stops a timer: it does not fire.
    pub(super) fn stop(&mut self, timer: Timer) {
        self.set_to(timer, None);
    }

    /// Takes the first timer that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let timer = self.due.first().filter(|(at, _)| *at <= now)?.1;
        self.due.pop_first();
        self.note(timer, None);
        Some(timer)
    }

    /// When the first timer fires.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    fn fired(timers: &mut Timers, now: u64) -> Vec<Timer> {
        std::iter::from_fn(|| timers.pop_due(at(now))).collect()
    }

    #[test]
    fn a_timer_fires_once_at_the_time_that_was_set_last() {
        for timer in [Timer::Compare, Timer::Op(OpId(7))] {
            let mut timers = Timers::default();
            timers.set(timer, at(5));
            timers.set(timer, at(9));
            assert_eq!((fired(&mut timers, 8), timers.deadline()), (vec![], Some(at(9))));
            assert_eq!((fired(&mut timers, 9), timers.deadline()), (vec![timer], None));
            timers.set_to(timer, Some(at(20)));
            timers.set_to(timer, None);
            timers.stop(timer);
            assert_eq!((fired(&mut timers, 99), timers.deadline()), (vec![], None));
        }
    }

    #[test]
    fn once_keeps_an_earlier_setting_and_no_later_takes_the_sooner_one() {
        for timer in [Timer::Room, Timer::Remind(Partition::default())] {
            let mut timers = Timers::default();
            timers.set_once(timer, at(5));
            timers.set_once(timer, at(3));
            assert_eq!(timers.deadline(), Some(at(5)));
            timers.set_no_later(timer, at(8));
            assert_eq!(timers.deadline(), Some(at(5)));
            timers.set_no_later(timer, at(2));
            assert_eq!(timers.deadline(), Some(at(2)));
            assert_eq!(fired(&mut timers, 9), [timer]);
            timers.set_once(timer, at(3));
            assert_eq!(timers.deadline(), Some(at(3)), "it has fired: it can be set again");
        }
    }

    #[test]
    fn timers_of_one_time_fire_in_their_order() {
        let order = [Timer::Op(OpId(1)), Timer::Op(OpId(2)), Timer::Compare, Timer::Groups];
        let mut timers = Timers::default();
        order.iter().rev().for_each(|timer| timers.set(*timer, at(4)));
        timers.set(Timer::Collect, at(3));
        assert_eq!(timers.pop_due(at(4)), Some(Timer::Collect));
        assert_eq!(fired(&mut timers, 4), order);
    }
}
