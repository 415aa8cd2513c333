//! What this node's replicas hold, beside what others hold: joins [`AntiEntropy`] with store and lists.

use std::collections::BTreeSet;
use std::mem;

use super::{Action, Asker, Shard, Stage, Timer};
use crate::clock::Now;
use crate::placement::ListRef;
use crate::replication::anti_entropy::{self, AntiEntropy, AntiEntropyAction, Copies, Pair};
use crate::simulated::{Planted, is_planted};
use crate::types::{Identity, KeyHash, Partition};
use crate::wire::frame::CHUNK_BYTES;
use crate::wire::message::{Answer, Compare, Compared, Held, Request, Seen, Survey, Surveyed};

/// What is compared: partitions that this node and the peer serve, synced, in one list or in two data centers.
impl<C> Copies for Shard<C> {
    fn pairs(&self) -> Vec<Pair> {
        self.partitions().flat_map(|partition| self.pairs_of(partition)).collect()
    }

    fn pairs_of(&self, partition: Partition) -> Vec<Pair> {
        let is_other = |peer: &Identity| *peer != self.me && self.held(peer, partition).is_some();
        let here = self.placement.replicas(partition);
        let others = here.chain(self.firsts_elsewhere(partition));
        others
            .filter(|member| is_other(&member.identity))
            .map(|member| Pair { peer: member.identity, core: partition.core(member.cores), partition })
            .collect()
    }

    fn asks(&self, peer: &Identity) -> bool {
        self.me < *peer
    }

    fn held(&self, peer: &Identity, partition: Partition) -> Option<Held> {
        let list = self.common_list(peer, partition)?;
        let is_comparable = self.is_quiet(partition) && self.placement.is_alive(peer);
        let (digest, has_gaps) = (self.store.digest(partition), self.store.has_gaps(partition));
        is_comparable.then_some(Held { partition, list, digest, has_gaps })
    }
}

impl<C> Shard<C> {
    /// The list in which this node and the peer are to hold the same. Copies in different data centers, each of which has
    /// lists of its own, are compared as if they were in one.
    fn common_list(&self, peer: &Identity, partition: Partition) -> Option<ListRef> {
        if self.placement.is_elsewhere(peer.node) {
            return Some(ListRef::default());
        }
        self.replica(partition).list().filter(|list| list.contains(peer)).map(|list| list.reference())
    }

    /// Whether this node serves the partition, synced, and merges nothing now.
    fn is_quiet(&self, partition: Partition) -> bool {
        let replica = self.replica(partition);
        self.stage != Stage::Forming
            && replica.serves_synced(&self.me)
            && !replica.hands_over()
            && !self.merges.contains_key(&partition)
    }

    /// The same, and the list is to stay.
    pub(super) fn is_settled(&self, partition: Partition) -> bool {
        let target = self.placement.replicas(partition).map(|member| &member.identity);
        let list = self.replica(partition).list();
        self.is_quiet(partition) && list.is_some_and(|list| target.eq(list.members()))
    }

    /// The peer is compared with soon: a connection to it broke, or a list changed.
    pub(super) fn hurry_to_compare(&mut self, now: Now, peer: Identity) {
        if peer != self.me {
            self.anti_entropy.hurry(peer, now.instant);
        }
    }

    /// Compares what is due.
    pub(super) fn compare(&mut self, now: Now, actions: &mut Vec<Action<C>>) {
        self.compare_at = None;
        self.with_anti_entropy(now, actions, |machine, shard, todo| {
            machine.handle_timers(now.instant, shard, todo);
        });
    }

    pub(super) fn compared(&mut self, now: Now, round: u64, answer: Answer, actions: &mut Vec<Action<C>>) {
        let Answer::Compared(answer) = answer else { return self.anti_entropy.lost(round, now.instant) };
        self.with_anti_entropy(now, actions, |machine, shard, todo| {
            machine.answered(round, &answer, now.instant, shard, todo);
        });
    }

    /// The partition holds what another replica held.
    pub(super) fn merged(&mut self, now: Now, partition: Partition, actions: &mut Vec<Action<C>>) {
        let Some(list) = self.replica(partition).list().cloned() else { return };
        if std::mem::take(&mut self.replica_mut(partition).merged_elsewhere) {
            // Only this replica asks other data centers.
            let (me, others) = (self.me, list.members().iter().copied());
            for other in others.filter(|other| *other != me) {
                let request = Request::Repair { list: list.reference() };
                self.ask(other, partition, request, Asker::List(partition), actions);
            }
        }
        self.with_anti_entropy(now, actions, |machine, shard, todo| {
            machine.merged(partition, now.instant, shard, todo);
        });
    }

    /// Lets the machine look at this shard, and carries out what it wants.
    fn with_anti_entropy(
        &mut self,
        now: Now,
        actions: &mut Vec<Action<C>>,
        work: impl FnOnce(&mut AntiEntropy, &Self, &mut Vec<AntiEntropyAction>),
    ) {
        let mut todo = Vec::new();
        let mut machine = mem::take(&mut self.anti_entropy);
        work(&mut machine, self, &mut todo);
        self.anti_entropy = machine;
        for action in todo {
            match action {
                AntiEntropyAction::Compare { round, to, partitions, digest } => {
                    let Some(&first) = partitions.first() else { continue };
                    let request = Request::Compare(Compare { partitions, digest });
                    if self.ask(to, first, request, Asker::Compare(round), actions).is_none() {
                        self.anti_entropy.lost(round, now.instant);
                    }
                }
                AntiEntropyAction::Merge { partition, from } => self.queue_merge(partition, vec![from]),
                AntiEntropyAction::Meet { partition, to } => {
                    if let Some(list) = self.replica(partition).list().cloned() {
                        self.ask(to, partition, Request::adopt(list), Asker::List(partition), actions);
                    }
                }
                AntiEntropyAction::Tell { partition, to } => {
                    if let Some(list) = self.common_list(&to, partition) {
                        self.ask(to, partition, Request::Repair { list }, Asker::List(partition), actions);
                    }
                }
                AntiEntropyAction::Survey { round, to, partition, after } => {
                    let asked = self.part_to_survey(&to, partition, after).and_then(|survey| {
                        let asker = Asker::Survey { round, partition, after };
                        self.ask(to, partition, Request::Survey(survey), asker, actions)
                    });
                    if asked.is_none() {
                        self.anti_entropy.lost(round, now.instant);
                    }
                }
            }
        }
    }

    /// What this node has of the partition behind `after`, as far as one question goes.
    fn part_to_survey(
        &self,
        peer: &Identity,
        partition: Partition,
        after: Option<KeyHash>,
    ) -> Option<Survey> {
        let list = self.held(peer, partition)?.list;
        let part = self.store.part(partition, after, 0, CHUNK_BYTES);
        let seen = part.entries.iter().map(|entry| {
            let hash = self.hash(entry.key());
            Seen { hash, version: entry.version(), digest: entry.digest(hash) }
        });
        let (mark, seen) = (self.store.mark(partition), seen.collect());
        Some(Survey { list, after, until: part.next, mark, seen })
    }

    /// The answer to a peer that tells what it has of a part of the partition. What the peer may have evicted this
    /// node evicts too.
    pub(super) fn answer_survey(&mut self, from: &Identity, partition: Partition, asked: &Survey) -> Answer {
        if self.held(from, partition).is_none_or(|held| held.list != asked.list) {
            let replica = self.replica(partition);
            return Answer::OtherList { list: replica.list().cloned(), horizon: replica.purge_horizon };
        }
        let part = self.store.part(partition, asked.after, 0, CHUNK_BYTES);
        let next = asked.until.into_iter().chain(part.next).min();
        let mine = part.entries.into_iter().map(|entry| (self.hash(entry.key()), entry)).collect();
        let found = anti_entropy::survey(asked, mine, next);
        // As it was when these were missing.
        let mark = self.store.mark(partition);
        if !self.placement.is_elsewhere(from.node) {
            found.evict.into_iter().for_each(|(hash, value)| self.store.evict_value(hash, value));
        }
        let (entries, missing, outdated) = (found.give, found.missing, found.outdated);
        Answer::Surveyed(Surveyed { entries, missing, mark, outdated, next })
    }

    /// What a peer lacks, or has an older state of, is evicted here or written there; what this node lacks is merged.
    pub(super) fn surveyed(
        &mut self,
        now: Now,
        from: Identity,
        (round, partition, after): (u64, Partition, Option<KeyHash>),
        answer: Answer,
        actions: &mut Vec<Action<C>>,
    ) {
        let answer = match answer {
            Answer::Surveyed(answer) => answer,
            _ => return self.anti_entropy.put_off(round, now.instant),
        };
        let Some(list) = self.held(&from, partition).map(|held| held.list) else {
            return self.anti_entropy.put_off(round, now.instant);
        };
        // What one data center has no room for another may have.
        let is_elsewhere = self.placement.is_elsewhere(from.node);
        let (missing, outdated): (BTreeSet<_>, BTreeSet<_>) =
            (answer.missing.into_iter().collect(), answer.outdated.into_iter().collect());
        if !missing.is_empty() || !outdated.is_empty() {
            let mut to_write = Vec::new();
            for entry in self.store.part(partition, after, 0, CHUNK_BYTES).entries {
                let hash = self.hash(entry.key());
                let is_missing = missing.contains(&hash);
                if is_missing && entry.value().is_some() && entry.version() <= answer.mark {
                    if !is_elsewhere {
                        self.store.evict_value(hash, entry);
                    }
                } else if is_missing || outdated.contains(&hash) {
                    to_write.push(entry);
                }
            }
            if is_elsewhere {
                let request = Request::Relay { entries: to_write };
                self.ask(from, partition, request, Asker::List(partition), actions);
            } else {
                for entry in to_write {
                    let request = Request::Write { list, entry };
                    self.ask(from, partition, request, Asker::List(partition), actions);
                }
            }
        }
        self.merge(now, partition, answer.entries);
        self.with_anti_entropy(now, actions, |machine, shard, todo| {
            machine.surveyed(round, answer.next, now.instant, shard, todo);
        });
    }

    /// Keeps the timer for what is to be compared next.
    pub(super) fn schedule_compare(&mut self) {
        let wake = self.anti_entropy.deadline().filter(|_| !is_planted(Planted::NothingCompared));
        if wake != self.compare_at {
            let old = mem::replace(&mut self.compare_at, wake);
            old.map(|at| self.timers.remove(&(at, Timer::Compare)));
            self.timers.extend(wake.map(|at| (at, Timer::Compare)));
        }
    }

    /// The answer to a peer that compares.
    pub(super) fn answer_compare(&self, from: &Identity, asked: &Compare) -> Compared {
        let held = asked.partitions.iter().filter_map(|partition| self.held(from, *partition));
        anti_entropy::compare(asked.digest, held.collect())
    }

    /// The answer to a peer that differed and has merged what this node holds.
    pub(super) fn repair(&mut self, from: Identity, partition: Partition, list: ListRef) -> Answer {
        if self.held(&from, partition).is_some_and(|held| held.list == list) {
            self.queue_merge(partition, vec![from]);
        }
        Answer::Listed(self.listed(partition))
    }
}
