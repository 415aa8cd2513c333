//! What is missing before any node may be stopped, as this core knows it.
//!
//! Nothing is counted while calls are made: whoever asks has the core look at each of its partitions once, some
//! hundred microseconds. All nodes' debts together are the cluster's, as every copy that is missing is counted by
//! the node that should hold it, or, where there are fewer members than copies, by the first of those that hold the
//! partition.

use std::time::Duration;

use super::coordinate::OWED_FOR;
use super::{Shard, Stage};
use crate::clock::Now;
use crate::types::{ALL, Partition};

/// A write that was acknowledged longer ago and is not everywhere is missing where it is not. Sooner it is under way,
/// as some write always is.
const LATE_AFTER: Duration = Duration::from_millis(100);

/// What a core, or a node, has still to do before no copy is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Debt {
    /// Copies of partitions that it should hold and may lack something of, that it holds and has yet to give away,
    /// or for which there is no member.
    pub(crate) copies: usize,
    /// Writes that it has acknowledged and some replica has not, for longer than one takes.
    pub(crate) writes: usize,
    /// Calls without an answer, and writes that not all replicas have acknowledged, however short ago.
    pub(crate) unfinished: usize,
}

impl Debt {
    pub(crate) fn add(&mut self, other: &Self) {
        self.copies += other.copies;
        self.writes += other.writes;
        self.unfinished += other.unfinished;
    }
}

impl<C> Shard<C> {
    pub(super) fn debt(&self, now: Now) -> Debt {
        let late_from = now.instant + (OWED_FOR - LATE_AFTER);
        let is_late = |deadline| deadline <= late_from;
        let owed = self.owed.iter().filter_map(|id| self.ops.get(id));
        let counts = self.counts();
        Debt {
            copies: self.partitions().map(|partition| self.missing(partition)).sum(),
            writes: owed.filter(|op| is_late(op.deadline())).count(),
            unfinished: counts.calls_in_flight + counts.writes_owed + self.relays.waiting_for_reachable(),
        }
    }

    /// How many copies of a partition are missing, or one too many, by this node's count.
    fn missing(&self, partition: Partition) -> usize {
        let replica = self.replica(partition);
        let is_listed = replica.list().is_some_and(|list| list.contains(&self.me));
        let target = || self.placement.replicas(partition).map(|member| member.identity);
        let is_mine = if target().any(|member| member == self.me) {
            let is_whole = self.stage != Stage::Forming
                && replica.serves_synced(&self.me)
                && !replica.hands_over()
                && !self.merges.contains_key(&partition)
                && replica.list().is_some_and(|list| target().eq(list.members().iter().copied()));
            !is_whole
        } else {
            is_listed || !self.store.is_empty(partition)
        };
        let is_first = target().next() == Some(self.me);
        // Where every node has a copy, one more than may miss a write.
        let wanted = if self.config.replicas == ALL { self.tolerated() + 1 } else { self.config.replicas };
        let homeless = if is_first { wanted.saturating_sub(target().len()) } else { 0 };
        usize::from(is_mine) + homeless
    }
}
