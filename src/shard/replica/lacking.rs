//! What this node's copies lack because there was no room for it, and when to try again.
//!
//! **Problem.** If nothing may be evicted, a full node declines what others hand to it. Such a copy
//! is incomplete: it must not be covered by a receipt, and it counts as redundancy debt. Trying
//! again at once would transfer the same partition again and again, for nothing.
//!
//! | state of a partition | what it is |
//! |---|---|
//! | not in the table | the copy lacks nothing that was declined |
//! | waiting | the copy declined something; nothing is fetched for it until there is room |
//! | tried | there was room, and a handoff fetches it now, or did and a source was silent |
//!
//! ```text
//!   declined ──▶ waiting ── room for it, or RETRY_ANYWAY is over ──▶ tried ── all merged ──▶ gone
//!                   ▲                                                  │
//!                   └──────── declined again, or some were silent ─────┘
//! ```
//!
//! **Invariant.** A synced replica that lacks something is whole only when it has merged, since
//! there was room, every living replica that might hold it. A handoff goes on without silent ones;
//! what these hold is still lacking. A newcomer is whole when it opens its list, as it has merged
//! enough others for that.
//!
//! A copy that lacks something is no obstacle to others. It gives what it has, it is compared key
//! by key, and it takes no place among the handoffs while it waits. A replica that was synced stays
//! so, as it only lacks what it would have merged; a newcomer stays pending.
//!
//! A write that finds no room is not noted here. Its coordinator owes it as a hint if it is
//! acknowledged, and counts it as debt; then a comparison finds the difference, and what it brings
//! is declined. If it is refused, nothing is lacking.
//!
//! **Rejected:** counting what is declined as if it had been evicted. That is right if something is
//! evicted, as a miss is then part of the promise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Replica;
use crate::clock::Instant;
use crate::logging;
use crate::mutants::{ProtocolMutant, rule};
use crate::replication::handoff::Handoff;
use crate::shard::interface::Shortage;
use crate::shard::timers::Timer;
use crate::shard::turn::Turn;
use crate::types::{Identity, Partition};

/// How often it is looked whether there is room for what waits.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// After what time a partition is tried without room for all that was declined. Its source might
/// have deleted most of that since.
const RETRY_ANYWAY: Duration = Duration::from_secs(300);

/// How long after a try the next one follows if a replica was silent. Long compared with the second
/// that a handoff waits for it; short, as the cluster is not safe until then.
const TRY_PERIOD: Duration = Duration::from_secs(3);

/// If this part of the memory limit is free, one in sixteen, a partition is tried even if it lacks
/// more than that.
const WORTH_A_TRY: usize = 16;

/// The partitions that lack something for want of room.
#[derive(Default)]
pub(super) struct Lacking {
    partitions: BTreeMap<Partition, Lack>,
    /// The sum over them.
    bytes: usize,
}

#[derive(Default)]
struct Lack {
    /// How many bytes found no room when it was merged last.
    bytes: usize,
    /// The replicas that a synced replica is to merge when there is room, those that were merged
    /// since left out.
    sources: BTreeSet<Identity>,
    /// When it is tried though there is no room; `None` while it is tried.
    waits_until: Option<Instant>,
    /// When it was tried last.
    tried_at: Instant,
}

impl Lacking {
    pub(super) fn has(&self, partition: Partition) -> bool {
        self.partitions.contains_key(&partition)
    }

    /// Whether nothing is fetched for the partition now, because there is no room.
    pub(super) fn waits(&self, partition: Partition) -> bool {
        self.partitions.get(&partition).is_some_and(|lack| lack.waits_until.is_some())
    }

    /// Notes further replicas to merge when there is room. Whether the partition waits for that.
    pub(super) fn put_off(&mut self, partition: Partition, sources: &[Identity]) -> bool {
        let waiting = self.partitions.get_mut(&partition);
        let Some(lack) = waiting.filter(|lack| lack.waits_until.is_some()) else { return false };
        lack.sources.extend(sources);
        true
    }

    /// Returns how much is missing in all. It is asked for in every turn.
    pub(super) fn shortage(&self) -> Shortage {
        Shortage { partitions: self.partitions.len(), bytes: self.bytes }
    }

    /// Notes that this many bytes are missing, and that nothing is tried before `until` unless
    /// there is room.
    fn wait(&mut self, partition: Partition, bytes: usize, until: Instant) -> &mut Lack {
        let lack = self.partitions.entry(partition).or_default();
        // While it waits, what it declines is only a part of what it lacks.
        let missing = if lack.waits_until.is_some() { lack.bytes.max(bytes) } else { bytes };
        self.bytes = self.bytes - lack.bytes + missing;
        (lack.bytes, lack.waits_until) = (missing, Some(until));
        lack
    }

    /// Forgets what the partition lacks.
    pub(super) fn remove(&mut self, partition: Partition) {
        self.bytes -= self.partitions.remove(&partition).map_or(0, |lack| lack.bytes);
    }

    /// Forgets what the partition lacks, unless that waits for room.
    pub(super) fn remove_tried(&mut self, partition: Partition) {
        if !self.waits(partition) {
            self.remove(partition);
        }
    }

    /// Adds replicas to merge, and returns all of them.
    fn also_from(&mut self, partition: Partition, others: Vec<Identity>) -> Vec<Identity> {
        let Some(lack) = self.partitions.get_mut(&partition) else { return others };
        lack.sources.extend(others);
        lack.sources.iter().copied().collect()
    }

    /// Keeps only the sources that are still to be merged, and returns whether there are any.
    fn keep_sources(&mut self, partition: Partition, is_kept: impl Fn(&Identity) -> bool) -> bool {
        let Some(lack) = self.partitions.get_mut(&partition) else { return false };
        lack.sources.retain(is_kept);
        !lack.sources.is_empty()
    }

    /// Takes the partitions that are to be tried now. `room` is for how many bytes there is room,
    /// of `limit`.
    fn take_due(&mut self, now: Instant, mut room: usize, limit: usize) -> Vec<Partition> {
        let is_worth_it = room >= limit / WORTH_A_TRY;
        let mut due = Vec::new();
        for (&partition, lack) in &mut self.partitions {
            let Some(until) = lack.waits_until else { continue };
            let has_room = lack.bytes <= room || is_worth_it && room > 0;
            if has_room || until <= now {
                room = room.saturating_sub(lack.bytes);
                (lack.waits_until, lack.tried_at) = (None, now);
                due.push(partition);
            }
        }
        due
    }
}

impl Replica {
    /// Notes that this many bytes of a partition found no room here, and waits until there is some.
    /// A synced replica then merges `sources`; another one begins its handoff again.
    pub(super) fn lack_room<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        partition: Partition,
        bytes: usize,
        sources: &[Identity],
    ) {
        logging::debug!(
            "partition {}: {bytes} bytes of other replicas find no room here",
            partition.index()
        );
        let lack = self.copies.lacking.wait(partition, bytes, turn.now.instant + RETRY_ANYWAY);
        lack.sources.extend(sources.iter().filter(|source| **source != turn.node.me));
        lack.sources.extend(self.copies.merges.remove(&partition).unwrap_or_default());
        turn.timers.set_once(Timer::Refill, turn.now.instant + LOOK_PERIOD);
        self.update_wants(turn, partition);
        self.recount(turn.node, partition);
    }

    /// Notes that a handoff is over, and has merged all that it was to merge except for what silent
    /// replicas hold. What waits for room since it began still waits.
    pub(super) fn tried_to_fill<C>(
        &mut self,
        turn: &Turn<'_, C>,
        partition: Partition,
        handoff: &Handoff,
    ) {
        let lacking = &mut self.copies.lacking;
        // What is to be merged next has not been merged since there was room.
        let is_tried_again = self.copies.merges.contains_key(&partition);
        if !lacking.has(partition) || lacking.waits(partition) || is_tried_again {
            return;
        }
        let placement = &turn.node.placement;
        let is_left = |it: &Identity| placement.is_alive(it) && !handoff.has_merged(it);
        if !rule(ProtocolMutant::SilentForgotten, lacking.keep_sources(partition, is_left)) {
            lacking.remove(partition);
            self.recount(turn.node, partition);
        }
    }

    /// Tries again what waits for room, as far as there is some.
    pub(in crate::shard) fn refill<C>(&mut self, turn: &mut Turn<'_, C>) {
        self.review_lacking(turn);
        let limit = turn.node.config.memory.unwrap_or(usize::MAX);
        let room = self.copies.store.room().unwrap_or(usize::MAX);
        for partition in self.copies.lacking.take_due(turn.now.instant, room, limit) {
            if self.copies.partition(partition).is_synced() {
                // Also the other replicas of the list, which hold what came since.
                let others = self.living_others(turn.node, partition);
                let sources = self.copies.lacking.also_from(partition, others);
                self.queue_merge(turn.node, partition, sources);
            }
            self.update_wants(turn, partition);
        }
        if !self.copies.lacking.partitions.is_empty() {
            turn.timers.set_once(Timer::Refill, turn.now.instant + LOOK_PERIOD);
        }
    }

    /// Lets those wait again whose handoff was given up, or went on without silent replicas, and
    /// forgets what no living replica holds: it came from a node that is gone, and this one is
    /// synced without it.
    fn review_lacking<C>(&mut self, turn: &mut Turn<'_, C>) {
        let partitions: Vec<Partition> = self.copies.lacking.partitions.keys().copied().collect();
        for partition in partitions {
            let copy = self.copies.partition(partition);
            let is_tried = copy.has_handoff()
                || self.copies.merges.contains_key(&partition)
                || self.wanted.contains(&partition);
            let others: Vec<Identity> =
                copy.list().map(|list| list.members().to_vec()).unwrap_or_default();
            let Some(lack) = self.copies.lacking.partitions.get(&partition) else { continue };
            let mut sources = lack.sources.iter().copied().chain(others);
            let is_source =
                |source: Identity| source != turn.node.me && turn.node.placement.is_alive(&source);
            if copy.is_synced() && !sources.any(is_source) {
                self.copies.lacking.remove(partition);
                self.recount(turn.node, partition);
            } else if lack.waits_until.is_none()
                && !is_tried
                && turn.now.instant.since(lack.tried_at) >= TRY_PERIOD
            {
                let bytes = lack.bytes;
                self.copies.lacking.wait(partition, bytes, turn.now.instant);
            }
        }
    }
}
