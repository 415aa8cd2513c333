//! Handoffs: joins [`Handoff`], which moves one partition, with store and lists.

use std::collections::{BTreeMap, VecDeque};

use super::Replica;
use crate::placement::ListRef;
use crate::replication::handoff::{Handoff, HandoffAction, ListRules, Mine, ToMerge};
use crate::shard::interface::Action;
use crate::shard::node::Node;
use crate::shard::requests::ReplicaAsker;
use crate::shard::timers::Timer;
use crate::shard::turn::Turn;
use crate::types::{Identity, Partition};
use crate::wire::message::{Answer, Fetch, Request};

/// How many partitions one core hands over at a time, those left out that rest: enough to hide
/// round trips, few enough that foreground requests, which share the connections, hardly wait.
const MAX_HANDOFFS: usize = 64;

impl Replica {
    /// Wants to merge what these replicas hold. This replica stays in the list; they might leave
    /// it, or might hold what this one missed.
    pub(super) fn queue_merge(
        &mut self,
        node: &Node,
        partition: Partition,
        sources: Vec<Identity>,
    ) {
        if !sources.is_empty() && !self.copies.lacking.put_off(partition, &sources) {
            let is_far = sources.iter().any(|source| node.in_other_data_center(source.node));
            self.copies.partition_mut(partition).merges_other_data_center |= is_far;
            self.copies.merges.entry(partition).or_default().extend(sources);
            self.may_hand_over = true;
        }
    }

    /// Starts again a handoff that waits for a member that is gone, or that aims at members that
    /// are not wanted any more.
    pub(super) fn review_handoff<C>(&mut self, turn: &mut Turn<'_, C>, partition: Partition) {
        let node = turn.node;
        let copy = self.copies.partition(partition);
        let Some(handoff) = &copy.handoff else { return };
        let gone = |member: &Identity| *member != node.me && !node.placement.is_alive(member);
        let is_off_target = match handoff.target() {
            Some(target) => {
                self.change_wanted(node, partition).is_none_or(|wanted| wanted != target)
            }
            None => false,
        };
        if !is_off_target && !handoff.involves(gone) {
            if let Some(handoff) = &mut self.copies.partition_mut(partition).handoff
                && handoff.is_resting()
            {
                // What it waits for might have come with the new members.
                handoff.wake(turn.now.instant);
                turn.timers.set_to(Timer::Handoff(partition), handoff.deadline());
            }
            return;
        }
        // What is left of a merge, or of a change that is over except for the receipts.
        let is_merge = handoff.target().is_none() || copy.is_synced();
        let remaining = handoff.open_sources().into_iter().filter(|source| !gone(source)).collect();
        self.take_handoff(turn, partition);
        self.forget_handoff_requests(turn, partition);
        if is_merge {
            self.queue_merge(node, partition, remaining);
        }
    }

    /// Starts the handoffs that are wanted, as far as there is room: changes of lists first.
    pub(super) fn start_handoffs<C>(&mut self, turn: &mut Turn<'_, C>) {
        self.start_rested(turn);
        self.start_changes(turn);
        self.start_merges(turn);
    }

    fn start_changes<C>(&mut self, turn: &mut Turn<'_, C>) {
        while self.handoffs < MAX_HANDOFFS
            && let Some(partition) = self.wanted.pop_first()
        {
            if self.copies.partition(partition).has_handoff() {
                // When that ends it is seen whether another one is wanted.
                continue;
            }
            let Some(target) = self.change_wanted(turn.node, partition) else { continue };
            self.note_data_brought(partition);
            let mine = self.mine(turn.node, partition);
            let mut todo = Vec::new();
            let (me, others) = (turn.node.me, turn.node.others());
            let handoff = Handoff::change(
                me,
                list_rules(turn.node),
                target,
                others,
                &mine,
                turn.now.instant,
                &mut todo,
            );
            self.drive(turn, partition, Box::new(handoff), todo);
        }
    }

    fn start_merges<C>(&mut self, turn: &mut Turn<'_, C>) {
        let mut waiting = BTreeMap::new();
        while self.handoffs < MAX_HANDOFFS
            && let Some((partition, sources)) = self.copies.merges.pop_first()
        {
            let copy = self.copies.partition(partition);
            if copy.has_handoff() {
                waiting.insert(partition, sources);
                continue;
            }
            let is_alive = |source: &Identity| turn.node.placement.is_alive(source);
            let sources: Vec<Identity> = sources.into_iter().filter(is_alive).collect();
            if let Some(list) = copy.list.clone()
                && copy.is_synced()
                && !sources.is_empty()
            {
                let (me, rules) = (turn.node.me, list_rules(turn.node));
                let wanted = &mut self.copies.receipts_wanted;
                let with_receipt = |source: &Identity| wanted.remove(&(partition, *source));
                let receipts = sources.iter().copied().filter(with_receipt).collect();
                let sources = ToMerge { sources, receipts };
                let mut todo = Vec::new();
                let handoff = Handoff::merge(me, rules, list, sources, turn.now.instant, &mut todo);
                self.drive(turn, partition, Box::new(handoff), todo);
            }
        }
        self.copies.merges.append(&mut waiting);
    }

    pub(super) fn take_handoff<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        partition: Partition,
    ) -> Option<Box<Handoff>> {
        let handoff = self.copies.partition_mut(partition).handoff.take();
        self.handoffs -= usize::from(handoff.as_ref().is_some_and(|it| !it.is_resting()));
        self.may_hand_over |= handoff.is_some();
        self.rested.remove(&partition);
        turn.timers.stop(Timer::Handoff(partition));
        handoff
    }

    fn put_handoff<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        partition: Partition,
        handoff: Box<Handoff>,
    ) {
        // One that rests waits for nothing but time, and takes no other's place.
        self.handoffs += usize::from(!handoff.is_resting());
        turn.timers.set_to(Timer::Handoff(partition), handoff.deadline());
        self.copies.partition_mut(partition).handoff = Some(handoff);
    }

    pub(super) fn forget_handoff_requests<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        partition: Partition,
    ) {
        turn.requests.forget(&mut self.copies.partition_mut(partition).requests);
    }

    /// Carries out what a handoff asks for, then puts it back, or ends it.
    fn drive<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        partition: Partition,
        mut handoff: Box<Handoff>,
        todo: Vec<HandoffAction>,
    ) {
        let mut is_finished = false;
        let mut todo = VecDeque::from(todo);
        while let Some(action) = todo.pop_front() {
            match action {
                HandoffAction::Ask { to, request } => {
                    self.ask_for_handoff(turn, partition, &mut handoff, to, request);
                }
                HandoffAction::Tell { to, list } => {
                    let request = self.copies.tell_list(partition, list);
                    self.ask_for_handoff(turn, partition, &mut handoff, to, request);
                }
                HandoffAction::Fetch { to, after, since } => {
                    let digest = self.copies.store.digest(partition);
                    let request = Request::Fetch(Fetch { after, since, digest });
                    self.ask_for_handoff(turn, partition, &mut handoff, to, request);
                }
                HandoffAction::Apply(entries) => {
                    let missing = self.copies.merge(turn.node, turn.now, partition, entries);
                    let mut next = Vec::new();
                    handoff.applied(missing, turn.now.instant, &mut next);
                    todo.extend(next);
                }
                HandoffAction::NoRoom { missing_bytes } => {
                    self.forget_handoff_requests(turn, partition);
                    return self.lack_room(turn, partition, missing_bytes, &handoff.sources());
                }
                HandoffAction::Adopt(list) => {
                    self.learn(turn, partition, list);
                }
                HandoffAction::Synced(list) => self.synced(turn, partition, &list),
                HandoffAction::AtRisk => turn.actions.push(Action::DataAtRisk { partition }),
                HandoffAction::Finished => is_finished = true,
            }
        }
        if is_finished {
            self.forget_handoff_requests(turn, partition);
            // A node that still has the other list of this number says so again.
            self.copies.partition_mut(partition).is_disputed = false;
            self.update_wants(turn, partition);
            self.merged(turn, partition);
            // Behind that, which has it surveyed if it lacked something: its peers hear of it.
            self.lacks_no_more(turn, partition);
        } else {
            if handoff.is_resting() {
                // It starts again; an answer that comes late belongs to the attempt before.
                self.forget_handoff_requests(turn, partition);
            }
            self.put_handoff(turn, partition, handoff);
        }
    }

    /// Returns what this node itself knows, for its handoff.
    fn mine<'a>(&self, node: &'a Node, partition: Partition) -> Mine<'a> {
        Mine { listed: self.copies.listed(node, partition), placement: &node.placement }
    }

    fn ask_for_handoff<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        partition: Partition,
        handoff: &mut Handoff,
        to: Identity,
        request: Request,
    ) {
        match turn.ask(to, partition, request, ReplicaAsker::Handoff(partition)) {
            Some(request_id) => self.copies.partition_mut(partition).requests.push(request_id),
            None => handoff.lost(to, turn.now.instant),
        }
    }

    pub(super) fn handoff_answered<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        partition: Partition,
        request_id: u64,
        from: Identity,
        answer: Answer,
    ) {
        self.copies.partition_mut(partition).requests.retain(|request| *request != request_id);
        let list = match &answer {
            Answer::OtherList { list, .. } => list.clone(),
            Answer::Listed(listed) => listed.list.clone(),
            _ => None,
        };
        if let Some(mut handoff) = self.take_handoff(turn, partition) {
            let mine = self.mine(turn.node, partition);
            let mut todo = Vec::new();
            handoff.answered(from, answer, &mine, turn.now.instant, &mut todo);
            self.drive(turn, partition, handoff, todo);
        }
        // A higher list than is known here counts, independent of the handoff.
        if let Some(list) = list {
            self.learn(turn, partition, list);
        }
    }

    pub(super) fn handoff_lost<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        partition: Partition,
        from: Identity,
    ) {
        if let Some(mut handoff) = self.take_handoff(turn, partition) {
            handoff.lost(from, turn.now.instant);
            self.put_handoff(turn, partition, handoff);
        }
    }

    /// Goes on with a handoff that is due. One whose pause is over starts again when there is room.
    pub(in crate::shard) fn resume_handoff<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        partition: Partition,
    ) {
        let handoff = self.copies.partition(partition).handoff.as_ref();
        if handoff.is_some_and(|handoff| handoff.is_resting()) {
            self.rested.insert(partition);
            self.may_hand_over = true;
        } else {
            self.go_on_with_handoff(turn, partition);
        }
    }

    /// Starts those again whose pause is over.
    fn start_rested<C>(&mut self, turn: &mut Turn<'_, C>) {
        while self.handoffs < MAX_HANDOFFS
            && let Some(partition) = self.rested.pop_first()
        {
            self.go_on_with_handoff(turn, partition);
        }
    }

    fn go_on_with_handoff<C>(&mut self, turn: &mut Turn<'_, C>, partition: Partition) {
        let Some(mut handoff) = self.take_handoff(turn, partition) else { return };
        // What was asked is not waited for any more: a late answer does not belong to what is asked
        // next.
        self.forget_handoff_requests(turn, partition);
        let mine = self.mine(turn.node, partition);
        let mut todo = Vec::new();
        handoff.handle_timers(turn.node.others(), &mine, turn.now.instant, &mut todo);
        self.drive(turn, partition, handoff, todo);
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
        match &mut copy.handoff {
            Some(handoff) if handoff.target().is_some() => handoff.also_from(from),
            _ => self.queue_merge(node, partition, vec![from]),
        }
    }
}

/// Returns what the lists of this node's data center go by.
fn list_rules(node: &Node) -> ListRules {
    ListRules { quorums: node.config.quorums, on_partition: node.config.on_partition }
}
