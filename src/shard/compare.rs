//! What this node's replicas hold, beside what others hold: joins [`AntiEntropy`] with store and lists.

use std::mem;

use super::{Action, Asker, Shard, Stage, Timer};
use crate::clock::Now;
use crate::placement::ListRef;
use crate::replication::anti_entropy::{self, AntiEntropy, AntiEntropyAction, Copies, Pair};
use crate::simulated::{Planted, is_planted};
use crate::types::{Identity, Partition};
use crate::wire::message::{Answer, Compare, Compared, Held, Request};

/// What is compared: partitions that this node and the peer serve, synced, in a list that is to stay.
impl<C> Copies for Shard<C> {
    fn pairs(&self) -> Vec<Pair> {
        let mut pairs = Vec::new();
        for partition in self.partitions() {
            for member in self.placement.replicas(partition) {
                let peer = member.identity;
                if self.asks(&peer) && self.held(&peer, partition).is_some() {
                    pairs.push(Pair { peer, core: partition.core(member.cores), partition });
                }
            }
        }
        pairs
    }

    fn held(&self, peer: &Identity, partition: Partition) -> Option<Held> {
        let list = self.replica(partition).list()?;
        // What was evicted here must not come back, and its absence says nothing.
        let is_comparable = self.is_settled(partition)
            && list.contains(peer)
            && self.placement.is_alive(peer)
            && !self.store.has_evicted(partition);
        let digest = self.store.digest(partition);
        is_comparable.then(|| Held { partition, list: list.reference(), digest })
    }
}

impl<C> Shard<C> {
    /// Whether this node serves the partition, synced, in a list that is to stay, and merges nothing now.
    pub(super) fn is_settled(&self, partition: Partition) -> bool {
        let replica = self.replica(partition);
        let target = self.placement.replicas(partition).map(|member| &member.identity);
        self.stage != Stage::Forming
            && replica.serves_synced(&self.me)
            && !replica.hands_over()
            && !self.merges.contains_key(&partition)
            && replica.list().is_some_and(|list| target.eq(list.members()))
    }

    /// Whether this node compares with the peer, or the peer with this node: one of two does.
    fn asks(&self, peer: &Identity) -> bool {
        self.me < *peer
    }

    /// The peer is compared with soon: a connection to it broke, or a list changed.
    pub(super) fn hurry_to_compare(&mut self, now: Now, peer: Identity) {
        if self.asks(&peer) {
            self.anti_entropy.hurry(peer, now.instant);
        }
    }

    /// Compares what is due.
    pub(super) fn compare(&mut self, now: Now, actions: &mut Vec<Action<C>>) {
        self.compare_at = None;
        self.with_anti_entropy(now, actions, |machine, shard, todo| {
            machine.resume(now.instant, shard, todo);
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
        let Some(list) = self.replica(partition).list().map(|list| list.reference()) else { return };
        self.with_anti_entropy(now, actions, |machine, _, todo| machine.merged(partition, list, todo));
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
                AntiEntropyAction::Tell { partition, to, list } => {
                    self.ask(to, partition, Request::Repair { list }, Asker::List(partition), actions);
                }
            }
        }
    }

    /// Keeps the timer for what is to be compared next.
    pub(super) fn schedule_compare(&mut self) {
        let wake = self.anti_entropy.wake().filter(|_| !is_planted(Planted::NothingCompared));
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
