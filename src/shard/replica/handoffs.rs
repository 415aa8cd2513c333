//! Handoffs: joins [`Handoff`], which moves one partition, with store and lists.

use std::collections::{BTreeMap, VecDeque};

use super::Replica;
use super::copies::{Seal, Standing};
use crate::clock::Instant;
use crate::mutants::{ProtocolMutant, rule};
use crate::options::OnPartition;
use crate::placement::ListRef;
use crate::replication::handoff::{Handoff, HandoffAction, Mine, Terms, ToMerge};
use crate::shard::node::Node;
use crate::shard::requests::{HandoffKind, ReplicaAsker};
use crate::shard::timers::Timer;
use crate::shard::turn::Turn;
use crate::types::{Identity, Partition};
use crate::wire::message::{Answer, Fetch, Request};

/// How many partitions one core hands over at a time, those left out that rest: enough to hide
/// round trips, few enough that foreground requests, which share the connections, hardly wait.
const MAX_HANDOFFS: usize = 64;

/// A partition's handoff of one kind.
pub(super) type Job = (Partition, HandoffKind);

impl Replica {
    /// Wants to merge what these replicas hold. This replica stays in the list; they might leave
    /// it, or might hold what this one missed. If it lacks what was acknowledged before the list
    /// and none of these lives, those that came in are what is left.
    pub(super) fn queue_merge(
        &mut self,
        node: &Node,
        partition: Partition,
        sources: Vec<Identity>,
    ) {
        let is_wanted = !sources.is_empty() || self.lacks_sources(node, partition);
        if is_wanted && !self.copies.lacking.put_off(partition, &sources) {
            let is_far = sources.iter().any(|source| node.in_other_data_center(source.node));
            self.copies.partition_mut(partition).merges_other_data_center |= is_far;
            self.copies.merges.entry(partition).or_default().extend(sources);
            self.may_hand_over = true;
        }
    }

    /// Whether this synced replica lacks what was acknowledged before its list, so that it merges
    /// until it is whole, though no member of the list before lives.
    fn lacks_sources(&self, node: &Node, partition: Partition) -> bool {
        let copy = self.copies.partition(partition);
        copy.is_synced()
            && rule(ProtocolMutant::LastAlone, copy.lacks_before(&node.me))
            && self.copies.has_others(node, partition)
    }

    /// Starts again a handoff that waits for a member that is gone, or that aims at members that
    /// are not wanted any more.
    pub(super) fn review_handoffs<C>(&mut self, turn: &mut Turn<'_, C>, partition: Partition) {
        HandoffKind::ALL.into_iter().for_each(|kind| self.review_handoff(turn, (partition, kind)));
    }

    fn review_handoff<C>(&mut self, turn: &mut Turn<'_, C>, job: Job) {
        let (node, (partition, kind)) = (turn.node, job);
        let copy = self.copies.partition(partition);
        let Some(handoff) = &copy.slot(kind).handoff else { return };
        if handoff.is_deciding() {
            return;
        }
        let gone = |member: &Identity| *member != node.me && !node.placement.is_alive(member);
        let is_off_target = !self.is_still_wanted(node, partition, handoff);
        if !is_off_target && !handoff.involves(gone) {
            // What it waits for might have come with the new members. Or the wish is the same, and
            // must not wait any more: a member died that should not stay anyway.
            let delay = self.change_wanted(node, partition).map(|(_, delay)| delay);
            let delay = delay.filter(|_| self.pause_before_change(turn, partition).is_zero());
            return self.wake_handoff(turn, job, |handoff, now| match delay {
                Some(delay) => handoff.wake_by(now, delay),
                None => handoff.wake(now),
            });
        }
        // What is left of a merge, or of a change that is over except for the receipts.
        let is_merge = handoff.wish().is_none() || copy.is_synced();
        let remaining = handoff.open_sources().into_iter().filter(|source| !gone(source)).collect();
        self.take_handoff(turn, job);
        self.forget_handoff_requests(turn, job);
        if is_merge {
            self.queue_merge(node, partition, remaining);
        }
    }

    /// Ends the pause of a handoff, if it rests.
    pub(super) fn wake_handoff<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        (partition, kind): Job,
        wake: impl FnOnce(&mut Handoff, Instant),
    ) {
        if let Some(handoff) = &mut self.copies.partition_mut(partition).slot_mut(kind).handoff {
            wake(handoff, turn.now.instant);
            turn.timers.set_to(Timer::Handoff(partition, kind), handoff.deadline());
        }
    }

    /// Whether what a handoff aims at is what this node should bring about.
    fn is_still_wanted(&self, node: &Node, partition: Partition, handoff: &Handoff) -> bool {
        handoff.wish().is_none_or(|wish| {
            self.change_wanted(node, partition).is_some_and(|(wanted, _)| wanted == *wish)
        })
    }

    /// Ends a handoff whose aim is not wanted any more.
    fn drop_if_unwanted<C>(&mut self, turn: &mut Turn<'_, C>, partition: Partition) {
        let slot = self.copies.partition(partition).slot(HandoffKind::Change);
        let Some(handoff) = &slot.handoff else { return };
        if !self.is_still_wanted(turn.node, partition, handoff) {
            self.take_handoff(turn, (partition, HandoffKind::Change));
            self.update_wants(turn, partition);
        }
    }

    /// Starts the handoffs that are wanted, as far as there is room: changes of lists first.
    pub(super) fn start_handoffs<C>(&mut self, turn: &mut Turn<'_, C>) {
        self.start_changes(turn);
        self.start_merges(turn);
        self.start_rested(turn);
    }

    fn start_changes<C>(&mut self, turn: &mut Turn<'_, C>) {
        while self.handoffs < MAX_HANDOFFS
            && let Some(partition) = self.wanted.pop_first()
        {
            let kind = HandoffKind::Change;
            if self.copies.partition(partition).slot(kind).handoff.is_some() {
                // When that ends it is seen whether another one is wanted.
                continue;
            }
            let Some((wish, delay)) = self.change_wanted(turn.node, partition) else { continue };
            let wanted = (wish, delay + self.pause_before_change(turn, partition));
            if self.copies.partition(partition).standing == Standing::Outside {
                self.note_data_brought(partition);
            }
            let (terms, mine) = (terms(turn.node), self.mine(turn.node, partition));
            let mut todo = Vec::new();
            let handoff = Handoff::change(terms, wanted, &mine, turn.now.instant, &mut todo);
            self.drive(turn, (partition, kind), Box::new(handoff), todo);
        }
    }

    fn start_merges<C>(&mut self, turn: &mut Turn<'_, C>) {
        let mut waiting = BTreeMap::new();
        while self.handoffs < MAX_HANDOFFS
            && let Some((partition, sources)) = self.copies.merges.pop_first()
        {
            let kind = HandoffKind::Merge;
            let slot = self.copies.partition(partition).slot(kind);
            if slot.handoff.as_ref().is_some_and(|merge| !merge.is_resting()) {
                waiting.insert(partition, sources);
                continue;
            }
            let rested = self.take_handoff(turn, (partition, kind));
            let copy = self.copies.partition(partition);
            let is_alive = |source: &Identity| turn.node.placement.is_alive(source);
            let sources: Vec<Identity> = sources.into_iter().filter(is_alive).collect();
            if let Some(list) = copy.list.clone()
                && copy.is_synced()
                && (!sources.is_empty() || self.lacks_sources(turn.node, partition))
            {
                let wanted = &mut self.copies.receipts_wanted;
                let with_receipt = |source: &Identity| wanted.remove(&(partition, *source));
                let receipts = sources.iter().copied().filter(with_receipt).collect();
                let sources = ToMerge { sources, receipts };
                let mut todo = Vec::new();
                let (terms, mine) = (terms(turn.node), self.mine(turn.node, partition));
                let now = turn.now.instant;
                let handoff = match rested {
                    // It knows who is silent, and for how long.
                    Some(mut merge) => {
                        merge.merge_also(sources, &mine, now, &mut todo);
                        merge
                    }
                    None => Box::new(Handoff::merge(terms, list, sources, &mine, now, &mut todo)),
                };
                self.drive(turn, (partition, kind), handoff, todo);
            }
        }
        self.copies.merges.append(&mut waiting);
    }

    /// Ends the handoffs of the partition.
    pub(super) fn take_handoffs<C>(&mut self, turn: &mut Turn<'_, C>, partition: Partition) {
        for kind in HandoffKind::ALL {
            self.take_handoff(turn, (partition, kind));
            self.forget_handoff_requests(turn, (partition, kind));
        }
    }

    fn take_handoff<C>(&mut self, turn: &mut Turn<'_, C>, job: Job) -> Option<Box<Handoff>> {
        let (partition, kind) = job;
        let handoff = self.copies.partition_mut(partition).slot_mut(kind).handoff.take();
        self.handoffs -= usize::from(handoff.as_ref().is_some_and(|it| !it.is_resting()));
        self.may_hand_over |= handoff.is_some();
        self.rested.remove(&job);
        turn.timers.stop(Timer::Handoff(partition, kind));
        handoff
    }

    fn put_handoff<C>(&mut self, turn: &mut Turn<'_, C>, job: Job, mut handoff: Box<Handoff>) {
        let (partition, kind) = job;
        handoff.hurry(|member| {
            let since = self.unreached.since(member);
            since.filter(|_| rule(ProtocolMutant::UnreachedAwaited, true))
        });
        // One that rests waits for nothing but time, and takes no other's place.
        self.handoffs += usize::from(!handoff.is_resting());
        turn.timers.set_to(Timer::Handoff(partition, kind), handoff.deadline());
        self.copies.partition_mut(partition).slot_mut(kind).handoff = Some(handoff);
    }

    fn forget_handoff_requests<C>(&mut self, turn: &mut Turn<'_, C>, (partition, kind): Job) {
        turn.requests.forget(&mut self.copies.partition_mut(partition).slot_mut(kind).requests);
    }

    /// Carries out what a handoff asks for, then puts it back, or ends it.
    fn drive<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        job: Job,
        mut handoff: Box<Handoff>,
        todo: Vec<HandoffAction>,
    ) {
        let (partition, _) = job;
        let mut is_finished = false;
        let mut todo = VecDeque::from(todo);
        while let Some(action) = todo.pop_front() {
            match action {
                HandoffAction::Ask { to, request } if to == turn.node.me => {
                    let answer = self.serve(turn, to, partition, request);
                    let mine = self.mine(turn.node, partition);
                    let mut next = Vec::new();
                    handoff.answered(to, answer, &mine, turn.now.instant, &mut next);
                    todo.extend(next);
                }
                HandoffAction::Ask { to, request } => {
                    self.ask_for_handoff(turn, job, &mut handoff, to, request);
                }
                HandoffAction::Tell { to, list } => {
                    let request = self.copies.tell_list(partition, list);
                    self.ask_for_handoff(turn, job, &mut handoff, to, request);
                }
                HandoffAction::Fetch { to, list, after, since } => {
                    let digest = self.copies.fetch_digest(partition, &to, turn.now);
                    let request = Request::Fetch(Fetch { list, after, since, digest });
                    self.ask_for_handoff(turn, job, &mut handoff, to, request);
                }
                HandoffAction::Apply(entries) => {
                    let missing = self.copies.merge(turn.node, turn.now, partition, entries);
                    let mine = self.mine(turn.node, partition);
                    let mut next = Vec::new();
                    handoff.applied(missing, &mine, turn.now.instant, &mut next);
                    todo.extend(next);
                }
                HandoffAction::NoRoom { missing_bytes } => {
                    self.forget_handoff_requests(turn, job);
                    return self.lack_room(turn, partition, missing_bytes, &handoff.sources());
                }
                HandoffAction::Learn(list) => {
                    // What it copied for this list is not what it brings.
                    let brings_data = self.copies.partition(partition).brings_data;
                    self.learn(turn, partition, list.clone());
                    self.copies.partition_mut(partition).brings_data = brings_data;
                    let mine = self.mine(turn.node, partition);
                    let mut next = Vec::new();
                    handoff.learned(&list, &mine, turn.now.instant, &mut next);
                    todo.extend(next);
                }
                HandoffAction::Whole(list) => self.is_whole(turn, partition, &list),
                HandoffAction::AtRisk => self.went_on(turn, partition),
                HandoffAction::Finished => is_finished = true,
            }
        }
        if is_finished {
            self.forget_handoff_requests(turn, job);
            self.update_wants(turn, partition);
            self.merged(turn, partition);
            // Behind that, which has it surveyed if it lacked something: its peers hear of it.
            self.tried_to_fill(turn, partition, &handoff);
        } else {
            let is_resting = handoff.is_resting();
            if is_resting {
                // It starts again; an answer that comes late belongs to the attempt before.
                self.forget_handoff_requests(turn, job);
            }
            self.put_handoff(turn, job, handoff);
            if is_resting {
                // Another list might be wanted by now.
                self.drop_if_unwanted(turn, partition);
            }
        }
    }

    /// Returns what this node itself knows, for its handoff.
    fn mine<'a>(&self, node: &'a Node, partition: Partition) -> Mine<'a> {
        let copy = self.copies.partition(partition);
        Mine {
            list: copy.list().cloned(),
            is_open: copy.is_synced(),
            extent: copy.extent(),
            must_finish: copy.seal == Seal::Overdue,
            placement: &node.placement,
        }
    }

    fn ask_for_handoff<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        (partition, kind): Job,
        handoff: &mut Handoff,
        to: Identity,
        request: Request,
    ) {
        match turn.ask(to, partition, request, ReplicaAsker::Handoff(partition, kind)) {
            Some(request_id) => {
                let slot = self.copies.partition_mut(partition).slot_mut(kind);
                slot.requests.push(request_id);
            }
            None => handoff.lost(to, turn.now.instant),
        }
    }

    pub(super) fn handoff_answered<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        job: Job,
        request_id: u64,
        from: Identity,
        answer: Answer,
    ) {
        let (partition, kind) = job;
        let slot = self.copies.partition_mut(partition).slot_mut(kind);
        slot.requests.retain(|request| *request != request_id);
        let list = match &answer {
            Answer::OtherList { list, .. } => list.clone(),
            Answer::Listed(listed) => listed.list.clone(),
            _ => None,
        };
        if let Some(mut handoff) = self.take_handoff(turn, job) {
            let mine = self.mine(turn.node, partition);
            let mut todo = Vec::new();
            handoff.answered(from, answer, &mine, turn.now.instant, &mut todo);
            self.drive(turn, job, handoff, todo);
        }
        // A higher list than is known here counts, independent of the handoff.
        if let Some(list) = list {
            self.learn(turn, partition, list);
        }
    }

    pub(super) fn handoff_lost<C>(&mut self, turn: &mut Turn<'_, C>, job: Job, from: Identity) {
        if let Some(mut handoff) = self.take_handoff(turn, job) {
            handoff.lost(from, turn.now.instant);
            self.put_handoff(turn, job, handoff);
        }
    }

    /// Goes on with a handoff that is due. One whose pause is over starts again when there is room.
    pub(in crate::shard) fn resume_handoff<C>(&mut self, turn: &mut Turn<'_, C>, job: Job) {
        let (partition, kind) = job;
        let handoff = self.copies.partition(partition).slot(kind).handoff.as_ref();
        if handoff.is_some_and(|handoff| handoff.is_resting()) {
            self.rested.insert(job);
            self.may_hand_over = true;
        } else {
            self.go_on_with_handoff(turn, job);
        }
    }

    /// Starts those again whose pause is over.
    fn start_rested<C>(&mut self, turn: &mut Turn<'_, C>) {
        while self.handoffs < MAX_HANDOFFS
            && let Some(job) = self.rested.pop_first()
        {
            self.go_on_with_handoff(turn, job);
        }
    }

    fn go_on_with_handoff<C>(&mut self, turn: &mut Turn<'_, C>, job: Job) {
        let Some(mut handoff) = self.take_handoff(turn, job) else { return };
        // What was asked is not waited for any more: a late answer does not belong to what is asked
        // next.
        self.forget_handoff_requests(turn, job);
        let mine = self.mine(turn.node, job.0);
        let mut todo = Vec::new();
        handoff.handle_timers(&mine, turn.now.instant, &mut todo);
        self.drive(turn, job, handoff, todo);
    }

    /// A node that is not in the list told the list to this node: it holds data and wants to give
    /// it away.
    pub(super) fn offer_from_giver(
        &mut self,
        node: &Node,
        partition: Partition,
        from: Identity,
        list: ListRef,
    ) {
        if !self.copies.knows(partition, list) {
            return;
        }
        let copy = self.copies.partition_mut(partition);
        let is_of_list = |member| copy.list.as_ref().is_some_and(|list| list.contains(member));
        if is_of_list(&from) || !is_of_list(&node.me) {
            return;
        }
        if copy.is_synced() {
            self.queue_merge(node, partition, vec![from]);
        } else if let Some(change) = &mut copy.slot_mut(HandoffKind::Change).handoff {
            change.also_from(from);
        }
    }
}

/// Returns what this node's handoffs go by.
fn terms(node: &Node) -> Terms {
    let waits = node.config.on_partition == OnPartition::Majority;
    let serves = !rule(ProtocolMutant::DeadExcused, waits);
    Terms { me: node.me, quorums: node.config.quorums, serves }
}
