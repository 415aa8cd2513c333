//! Anti-entropy: joins [`AntiEntropy`], which compares copies in the background, with store and
//! lists.

use std::collections::BTreeSet;
use std::mem;

use super::Replica;
use super::copies::LocalCopies;
use crate::clock::Instant;
use crate::entry::Entry;
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::{ListRef, Member};
use crate::replication::anti_entropy::{self, AntiEntropy, AntiEntropyAction, Copies, Pair};
use crate::shard::node::Node;
use crate::shard::requests::ReplicaAsker;
use crate::shard::turn::Turn;
use crate::types::{Identity, KeyHash, Partition};
use crate::wire::frame::CHUNK_BYTES;
use crate::wire::message::{Answer, Compare, Compared, Held, Request, Seen, Survey, Surveyed};

/// What is compared: partitions that this node and the peer serve as synced replicas, in one list
/// or in two data centers.
struct Comparable<'a> {
    node: &'a Node,
    copies: &'a LocalCopies,
}

impl Copies for Comparable<'_> {
    fn pairs(&self) -> Vec<Pair> {
        self.node.partitions().flat_map(|partition| self.pairs_of(partition)).collect()
    }

    fn pairs_of(&self, partition: Partition) -> Vec<Pair> {
        let is_other =
            |peer: &Identity| *peer != self.node.me && self.held(peer, partition).is_some();
        let here = self.node.placement.replicas(partition);
        let others = here.chain(first_of_other_data_centers(self.node, partition));
        others
            .filter(|member| is_other(&member.identity))
            .map(|member| Pair {
                peer: member.identity,
                core: partition.core(member.cores),
                partition,
            })
            .collect()
    }

    fn asks(&self, peer: &Identity) -> bool {
        self.node.me < *peer
    }

    fn held(&self, peer: &Identity, partition: Partition) -> Option<Held> {
        self.copies.held(self.node, peer, partition)
    }

    fn is_behind(&self, peer: &Identity, partition: Partition) -> bool {
        self.node.in_other_data_center(peer.node) && self.copies.behind.contains(partition)
    }
}

/// Returns the first replica of the partition in each other data center, if this node is the first
/// one here.
fn first_of_other_data_centers(node: &Node, partition: Partition) -> impl Iterator<Item = &Member> {
    let first = node.placement.replicas(partition).next();
    let is_first = first.is_some_and(|first| first.identity == node.me);
    let is_first = rule(ProtocolMutant::FarNotCompared, is_first);
    let others = node.placement.other_data_centers().values().filter(move |_| is_first);
    others.filter_map(move |other| other.replicas(partition).next())
}

impl LocalCopies {
    /// Returns the list in which this node and the peer should hold the same. Copies in different
    /// data centers, each of which has lists of its own, are compared as if they were in one.
    fn common_list(&self, node: &Node, peer: &Identity, partition: Partition) -> Option<ListRef> {
        if node.in_other_data_center(peer.node) {
            return Some(ListRef::default());
        }
        let list = self.partition(partition).list();
        list.filter(|list| list.contains(peer)).map(|list| list.reference())
    }

    /// Returns what this node holds of the partition, if it can be compared with what the peer
    /// holds.
    fn held(&self, node: &Node, peer: &Identity, partition: Partition) -> Option<Held> {
        let list = self.common_list(node, peer, partition)?;
        let is_comparable = self.is_comparable(node, partition) && node.placement.is_alive(peer);
        let last_gap = self.store.last_gap(partition);
        // What one data center evicts, another one keeps: their copies stay different.
        let is_covered = !node.in_other_data_center(peer.node)
            && self.surveyed.covers((partition, *peer), last_gap);
        let is_early = self.is_early_for(partition, peer);
        let has_gaps = self.lacking.has(partition) || last_gap > 0 && !is_covered || is_early;
        let digest = self.store.digest(partition);
        is_comparable.then_some(Held { partition, list, digest, has_gaps })
    }

    /// Returns how many partitions are behind of which another data center has a first replica that
    /// `is_reached`. Only the first replica here compares them, so only it counts them.
    pub(in crate::shard) fn behind(
        &self,
        node: &Node,
        now: Instant,
        is_reached: impl Fn(&Identity) -> bool,
    ) -> usize {
        let is_reached = |first: &Member| {
            node.placement.is_alive(&first.identity) && is_reached(&first.identity)
        };
        let can_catch_up = |it: &Partition| first_of_other_data_centers(node, *it).any(is_reached);
        self.behind.partitions(now).filter(can_catch_up).count()
    }

    /// Returns what this node has of the partition behind `after`, as far as one question goes.
    fn part_to_survey(
        &self,
        node: &Node,
        peer: &Identity,
        partition: Partition,
        after: Option<KeyHash>,
    ) -> Option<Survey> {
        let list = self.held(node, peer, partition)?.list;
        let part = self.store.part(partition, after, 0, CHUNK_BYTES);
        let seen = part.entries.iter().map(|entry| {
            let hash = node.hash(entry.key());
            Seen { hash, version: entry.version(), digest: entry.exact_digest(hash) }
        });
        let (eviction_watermark, seen) = (self.store.eviction_watermark(partition), seen.collect());
        Some(Survey { list, after, until: part.next, eviction_watermark, seen })
    }
}

impl Replica {
    /// Compares soon with a peer: a connection to it broke, or a list changed.
    pub(in crate::shard) fn hurry_to_compare<C>(&mut self, turn: &Turn<'_, C>, peer: Identity) {
        if peer != turn.node.me {
            self.anti_entropy.hurry(peer, turn.now.instant);
        }
    }

    /// Has partitions compared key by key in which keys expired before their time.
    pub(super) fn look_for_early_husks<C>(&mut self, turn: &mut Turn<'_, C>) {
        let (now, store) = (turn.now, &mut self.copies.store);
        let is_early = |it: &Partition| store.find_early_husks(*it, now.wall);
        let early: Vec<Partition> = turn.node.partitions().filter(is_early).collect();
        if !early.is_empty() {
            self.with_anti_entropy(turn, |machine, copies, todo| {
                machine.survey_soon(&early, now.instant, copies, todo);
            });
        }
    }

    /// Compares what is due.
    pub(in crate::shard) fn compare<C>(&mut self, turn: &mut Turn<'_, C>) {
        let now = turn.now.instant;
        self.look_for_early_husks(turn);
        self.with_anti_entropy(turn, |machine, copies, todo| {
            machine.handle_timers(now, copies, todo)
        });
    }

    pub(super) fn compared<C>(&mut self, turn: &mut Turn<'_, C>, round: u64, answer: Answer) {
        let now = turn.now.instant;
        let Answer::Compared(answer) = answer else { return self.anti_entropy.lost(round, now) };
        self.with_anti_entropy(turn, |machine, copies, todo| {
            machine.answered(round, &answer, now, copies, todo);
        });
    }

    /// The partition holds what another replica held.
    pub(super) fn merged<C>(&mut self, turn: &mut Turn<'_, C>, partition: Partition) {
        let copy = self.copies.partition_mut(partition);
        let Some(list) = copy.list().cloned() else { return };
        if mem::take(&mut copy.merges_other_data_center) {
            self.copies.behind.caught_up(partition, turn.now.instant);
            // Only this replica asks other data centers.
            let me = turn.node.me;
            for other in list.members().iter().copied().filter(|other| *other != me) {
                let request = Request::Repair { list: list.reference(), wants_receipt: false };
                turn.ask(other, partition, request, ReplicaAsker::List(partition));
            }
        }
        let now = turn.now.instant;
        self.with_anti_entropy(turn, |machine, copies, todo| {
            machine.merged(partition, now, copies, todo);
        });
    }

    /// Lets the machine look at the copies, and carries out what it wants.
    fn with_anti_entropy<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        work: impl FnOnce(&mut AntiEntropy, &Comparable<'_>, &mut Vec<AntiEntropyAction>),
    ) {
        let mut todo = Vec::new();
        let copies = Comparable { node: turn.node, copies: &self.copies };
        work(&mut self.anti_entropy, &copies, &mut todo);
        for action in todo {
            match action {
                AntiEntropyAction::Compare { round, to, partitions, digest } => {
                    let Some(&first) = partitions.first() else { continue };
                    let request = Request::Compare(Compare { partitions, digest });
                    if turn.ask(to, first, request, ReplicaAsker::Compare(round)).is_none() {
                        self.anti_entropy.lost(round, turn.now.instant);
                    }
                }
                AntiEntropyAction::Merge { partition, from } => {
                    self.queue_merge(turn.node, partition, vec![from]);
                }
                AntiEntropyAction::CaughtUp { partition } => {
                    self.copies.behind.caught_up(partition, turn.now.instant);
                }
                AntiEntropyAction::Meet { partition, to } => {
                    if let Some(list) = self.copies.partition(partition).list().cloned() {
                        let request = self.copies.tell_list(partition, list);
                        turn.ask(to, partition, request, ReplicaAsker::List(partition));
                    }
                }
                AntiEntropyAction::Tell { partition, to } => {
                    if let Some(list) = self.copies.common_list(turn.node, &to, partition) {
                        let request = Request::Repair { list, wants_receipt: false };
                        turn.ask(to, partition, request, ReplicaAsker::List(partition));
                    }
                }
                AntiEntropyAction::Survey { round, to, partition, after } => {
                    if after.is_none() {
                        self.copies.surveyed.begin((partition, to), &self.copies.store);
                    }
                    let survey = self.copies.part_to_survey(turn.node, &to, partition, after);
                    let asker = ReplicaAsker::Survey { round, partition, after };
                    let asked = survey
                        .and_then(|survey| turn.ask(to, partition, Request::Survey(survey), asker));
                    if asked.is_none() {
                        self.anti_entropy.lost(round, turn.now.instant);
                    }
                }
            }
        }
    }

    /// Returns the answer to a peer that tells what it has of a part of the partition. What the
    /// peer might have evicted, this node evicts too.
    pub(super) fn answer_survey(
        &mut self,
        (node, now): (&Node, Instant),
        from: &Identity,
        partition: Partition,
        asked: &Survey,
    ) -> Answer {
        let copies = &mut self.copies;
        if copies.held(node, from, partition).is_none_or(|held| held.list != asked.list) {
            return copies.other_list(partition);
        }
        let part = copies.store.part(partition, asked.after, 0, CHUNK_BYTES);
        let next = asked.until.into_iter().chain(part.next).min();
        let mine = part.entries.into_iter().map(|entry| (node.hash(entry.key()), entry)).collect();
        let found = anti_entropy::survey(asked, mine, next);
        // As it was when these were missing.
        let eviction_watermark = copies.store.eviction_watermark(partition);
        let (pair, before) = ((partition, *from), copies.store.last_gap(partition));
        if asked.after.is_none() {
            copies.surveyed.begin(pair, &copies.store);
        }
        if !node.in_other_data_center(from.node) {
            found.evict.into_iter().for_each(|(hash, value)| copies.store.evict_value(hash, value));
            copies.surveyed.evicted(pair, before, copies.store.last_gap(partition));
        }
        if next.is_none() {
            copies.surveyed.complete(pair);
            if node.in_other_data_center(from.node) {
                let gets_more = !found.missing.is_empty() || !found.outdated.is_empty();
                copies.behind.was_surveyed(partition, gets_more, now);
            }
            let copies = Comparable { node, copies: &self.copies };
            self.anti_entropy.was_surveyed_by(from, partition, &copies);
        }
        let (entries, missing, outdated) = (found.give, found.missing, found.outdated);
        Answer::Surveyed(Surveyed { entries, missing, eviction_watermark, outdated, next })
    }

    /// Takes up a peer's answer to a survey. What the peer lacks, or has an older state of, is
    /// evicted here or given to it; what this node lacks is merged.
    pub(super) fn surveyed<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        from: Identity,
        (round, partition, after): (u64, Partition, Option<KeyHash>),
        answer: Answer,
    ) {
        let now = turn.now.instant;
        let answer = match answer {
            Answer::Surveyed(answer) => answer,
            _ => return self.anti_entropy.put_off(round, now),
        };
        let Some(list) = self.copies.held(turn.node, &from, partition).map(|held| held.list) else {
            return self.anti_entropy.put_off(round, now);
        };
        let difference = Difference {
            missing: answer.missing.into_iter().collect(),
            outdated: answer.outdated.into_iter().collect(),
            evicted_up_to: answer.eviction_watermark,
        };
        if !difference.missing.is_empty() || !difference.outdated.is_empty() {
            self.repair_peer(turn, from, (partition, list, after), &difference);
        }
        self.take(turn, from, partition, answer.entries);
        if answer.next.is_none() {
            self.copies.surveyed.complete((partition, from));
        }
        self.with_anti_entropy(turn, |machine, copies, todo| {
            machine.surveyed(round, answer.next, now, copies, todo);
        });
    }

    fn repair_peer<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        to: Identity,
        (partition, list, after): (Partition, ListRef, Option<KeyHash>),
        difference: &Difference,
    ) {
        // Another data center might have room for what one has none for.
        let is_far = turn.node.in_other_data_center(to.node);
        let LocalCopies { store, surveyed, .. } = &mut self.copies;
        let before = store.last_gap(partition);
        let mut to_give = Vec::new();
        for entry in store.part(partition, after, 0, CHUNK_BYTES).entries {
            let hash = turn.node.hash(entry.key());
            let is_missing = difference.missing.contains(&hash);
            if is_missing && entry.value().is_some() && entry.version() <= difference.evicted_up_to
            {
                if !is_far {
                    store.evict_value(hash, entry);
                }
            } else if is_missing || difference.outdated.contains(&hash) {
                to_give.push(entry);
            }
        }
        surveyed.evicted((partition, to), before, store.last_gap(partition));
        if !to_give.is_empty() {
            let request = Request::Give { list, entries: to_give };
            turn.ask(to, partition, request, ReplicaAsker::Give(partition));
        }
    }

    /// A peer that has surveyed this copy gives what it lacks.
    pub(super) fn given<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        from: Identity,
        partition: Partition,
        (list, entries): (ListRef, Vec<Entry>),
    ) {
        let held = self.copies.held(turn.node, &from, partition);
        if held.is_some_and(|held| held.list == list) {
            self.take(turn, from, partition, entries);
            if turn.node.in_other_data_center(from.node) {
                self.copies.behind.was_given(partition, turn.now.instant);
            }
        }
    }

    /// Merges what a survey found this node to lack. What comes from another data center, the other
    /// replicas here get too, as no other node here has compared it.
    fn take<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        from: Identity,
        partition: Partition,
        entries: Vec<Entry>,
    ) {
        let is_far = turn.node.in_other_data_center(from.node);
        if is_far
            && !entries.is_empty()
            && let Some(list) = self.copies.partition(partition).list().cloned()
        {
            let me = turn.node.me;
            for other in list.members().iter().copied().filter(|other| *other != me) {
                let request = Request::Give { list: list.reference(), entries: entries.clone() };
                turn.ask(other, partition, request, ReplicaAsker::Give(partition));
            }
        }
        let missing_bytes = self.copies.merge(turn.node, turn.now, partition, entries);
        if missing_bytes > 0 {
            self.lack_room(turn, partition, missing_bytes, &[from]);
        }
    }

    /// Returns the answer to a peer that compares.
    pub(super) fn answer_compare(&self, node: &Node, from: &Identity, asked: &Compare) -> Compared {
        let held = |partition: &Partition| self.copies.held(node, from, *partition);
        anti_entropy::compare(asked.digest, asked.partitions.iter().filter_map(held).collect())
    }

    /// Returns the answer to a peer that differed and has merged what this node holds.
    pub(super) fn repair(
        &mut self,
        node: &Node,
        from: Identity,
        partition: Partition,
        (list, wants_receipt): (ListRef, bool),
    ) -> Answer {
        if self.copies.held(node, &from, partition).is_some_and(|held| held.list == list) {
            if wants_receipt {
                self.copies.receipts_wanted.insert((partition, from));
            }
            self.queue_merge(node, partition, vec![from]);
        }
        Answer::Listed(self.copies.listed(node, partition))
    }
}

/// How a peer's part of a partition differs from this node's.
struct Difference {
    missing: BTreeSet<KeyHash>,
    outdated: BTreeSet<KeyHash>,
    /// The peer's eviction watermark: what it lacks up to there it might have evicted.
    evicted_up_to: crate::clock::Version,
}
