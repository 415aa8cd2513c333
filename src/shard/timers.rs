//! When what is due: one table for all parts of a shard.

use std::collections::{BTreeMap, BTreeSet};

use super::caller::{ForwardId, OpId};
use crate::clock::Instant;
use crate::types::Partition;

/// What a timer is for. Those that are due at one time fire in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Timer {
    /// An operation asks again, or has waited long enough.
    Op(OpId),
    /// A handoff goes on, or starts again.
    Handoff(Partition),
    /// Members that have something to do about a list are told it again.
    Remind(Partition),
    /// Other replicas are compared with.
    Compare,
    /// Tombstones are forgotten.
    Purge,
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

/// Each timer with the one time at which it fires next.
#[derive(Default)]
pub(super) struct Timers {
    due: BTreeSet<(Instant, Timer)>,
    set: BTreeMap<Timer, Instant>,
}

impl Timers {
    /// Fires at `at`, and no longer at the time that was set before.
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        let old = self.set.insert(timer, at);
        if old != Some(at) {
            self.due.insert((at, timer));
            old.map(|old| self.due.remove(&(old, timer)));
        }
    }

    /// [`set`](Self::set) or [`stop`](Self::stop): a machine that has nothing to wait for has no
    /// deadline.
    pub(super) fn set_to(&mut self, timer: Timer, deadline: Option<Instant>) {
        match deadline {
            Some(at) => self.set(timer, at),
            None => self.stop(timer),
        }
    }

    /// Fires at `at` if it is not set yet.
    pub(super) fn set_once(&mut self, timer: Timer, at: Instant) {
        if !self.set.contains_key(&timer) {
            self.set(timer, at);
        }
    }

    /// Fires at `at` if it would not fire sooner.
    pub(super) fn set_no_later(&mut self, timer: Timer, at: Instant) {
        if self.set.get(&timer).is_none_or(|set| at < *set) {
            self.set(timer, at);
        }
    }

    /// Does not fire.
    pub(super) fn stop(&mut self, timer: Timer) {
        if let Some(at) = self.set.remove(&timer) {
            self.due.remove(&(at, timer));
        }
    }

    /// Takes the first timer that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let timer = self.due.first().filter(|(at, _)| *at <= now)?.1;
        self.due.pop_first();
        self.set.remove(&timer);
        Some(timer)
    }

    /// When the first timer fires.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }
}
