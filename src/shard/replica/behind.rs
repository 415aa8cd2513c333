//! [`Behind`]: the partitions that began empty in this life, and might lack what other data centers
//! hold.
//!
//! **Problem.** If all nodes of a data center start again, its partitions are born again, synced
//! and empty. All copies are complete as far as this data center can tell, and other data centers
//! hold everything. The last node of another data center must not be stopped now.
//!
//! | a partition is behind | |
//! |---|---|
//! | from | its birth in this life, or when it is handed over by a replica that is behind |
//! | until | it has what one other data center had, or merged a copy that has |
//! | counts as missing while | the first replica of another data center is reached |
//! | at most for | [`BEHIND_FOR`] after the last change: the others might have no copies |
//!
//! One data center is enough. Two spokes of a hub do not reach each other, and what the hub has,
//! the others have soon.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Instant;
use crate::mutants::{ProtocolMutant, rule};
use crate::types::Partition;

/// For how long partitions count as behind at most while none catches up: ten cycles of comparison.
const BEHIND_FOR: Duration = Duration::from_secs(600);

/// How far a partition has come that is behind.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// Whether another data center has surveyed it to its end, and gives what it lacks.
    is_surveyed: bool,
}

/// The partitions of a core that began empty, and were not compared with another data center yet.
#[derive(Default)]
pub(super) struct Behind {
    partitions: BTreeMap<Partition, Progress>,
    /// When the last one was born, was handed over, or caught up.
    since: Instant,
}

impl Behind {
    /// Notes that a partition is born, empty, or comes from a replica that is behind with it.
    pub(super) fn mark(&mut self, partition: Partition, now: Instant) {
        // What a copy before this one was given says nothing of it.
        if self.partitions.insert(partition, Progress::default()).is_none() {
            self.since = now;
        }
    }

    /// Notes that this node has no copy of the partition any more.
    pub(super) fn dropped(&mut self, partition: Partition) {
        self.partitions.remove(&partition);
    }

    /// Whether the partition is behind, and still counts as such.
    pub(super) fn is_counted(&self, partition: Partition, now: Instant) -> bool {
        self.contains(partition) && self.counts(now)
    }

    pub(super) fn contains(&self, partition: Partition) -> bool {
        self.partitions.contains_key(&partition)
    }

    /// Notes that the partition has what another data center had.
    pub(super) fn caught_up(&mut self, partition: Partition, now: Instant) {
        if self.partitions.remove(&partition).is_some() {
            self.since = now;
        }
    }

    /// Notes that another data center has surveyed the partition to its end. If `gets_more`, what
    /// that found missing in the last part is still to come.
    pub(super) fn was_surveyed(&mut self, partition: Partition, gets_more: bool, now: Instant) {
        if !gets_more {
            self.caught_up(partition, now);
        } else if let Some(progress) = self.partitions.get_mut(&partition) {
            progress.is_surveyed = true;
        }
    }

    /// Notes that another data center has given what the partition lacked.
    pub(super) fn was_given(&mut self, partition: Partition, now: Instant) {
        if self.partitions.get(&partition).is_some_and(|progress| progress.is_surveyed) {
            self.caught_up(partition, now);
        }
    }

    /// Returns the partitions that are behind, unless none of them has caught up for long.
    pub(super) fn partitions(&self, now: Instant) -> impl Iterator<Item = Partition> {
        let counts = self.counts(now);
        self.partitions.keys().copied().filter(move |_| counts)
    }

    fn counts(&self, now: Instant) -> bool {
        rule(ProtocolMutant::BehindUncounted, now.since(self.since) < BEHIND_FOR)
    }
}
