//! Purge: joins [`Purge`], which agrees with the others on which tombstones to forget, with store
//! and lists.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Replica;
use super::copies::LocalCopies;
use crate::clock::Version;
use crate::logging;
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::{List, ListRef, Member};
use crate::replication::purge::{Graveyard, Purge, PurgeAction, PurgeView};
use crate::shard::node::Node;
use crate::shard::requests::{ReplicaAsker, Requests};
use crate::shard::turn::Turn;
use crate::types::{Identity, KeyHash, Partition};
use crate::wire::message::{Answer, Dead, MAX_DEAD_KEYS, Request, Route};
use crate::wire::retention::{Agreed, PurgeMark};

/// What can be purged, as this node sees it.
struct Purgeable<'a> {
    node: &'a Node,
    requests: &'a Requests,
    copies: &'a LocalCopies,
}

impl Graveyard for Purgeable<'_> {
    fn with_dead(&self) -> Vec<Partition> {
        let is_ours = |partition: &Partition| {
            self.copies.store.has_dead(*partition)
                && self.copies.partition(*partition).serves_synced(&self.node.me)
        };
        self.node.partitions().filter(is_ours).collect()
    }

    fn purge_view(&self, partition: Partition) -> Option<PurgeView> {
        let node = self.node;
        let is_settled = self.copies.is_settled(node, partition)
            && !gives(self.requests, partition)
            && sees_all(node);
        let list = self.copies.partition(partition).list().filter(|_| is_settled)?;
        // The holders there drop it at the same time, or would bring it back.
        let far = node.placement.other_data_centers().values().flat_map(|other| other.members());
        let far = far.map(|member| member.identity);
        let is_asked = |it: &&Member| {
            rule(ProtocolMutant::FarNotAsked, true) || !node.in_other_data_center(it.identity.node)
        };
        let others = |members: &mut dyn Iterator<Item = Identity>| {
            members.filter(|member| *member != node.me).collect::<Vec<_>>()
        };
        Some(PurgeView {
            list: list.reference(),
            place: list.members().iter().position(|member| *member == node.me)?,
            replicas: others(&mut list.members().iter().copied().chain(far)),
            alive: others(
                &mut node.placement.everybody().filter(is_asked).map(|member| member.identity),
            ),
            members_digest: node.placement.digest_of_all(),
        })
    }

    fn dead(
        &self,
        partition: Partition,
        after: Option<KeyHash>,
        most: Version,
    ) -> (Vec<Dead>, Option<KeyHash>) {
        let (mut dead, next) = self.copies.store.dead(partition, after, MAX_DEAD_KEYS / 2);
        dead.truncate(MAX_DEAD_KEYS);
        dead.retain(|(_, version)| *version <= most);
        (dead, next)
    }
}

/// Whether every node that might hold something is here and known.
fn sees_all(node: &Node) -> bool {
    node.placement.is_complete()
        && !node.is_dead
        && !rule(ProtocolMutant::AbsentIgnored, node.placement.has_absent())
}

/// Whether entries are under way that will be merged, also below the purge horizon. An older state
/// of a purged key might be among them.
fn gives(requests: &Requests, partition: Partition) -> bool {
    rule(ProtocolMutant::GivenUnseen, requests.gives(partition))
}

impl Replica {
    fn raise_purge_horizon_to(&mut self, partition: Partition, dead: &[Dead]) {
        let newest = dead.iter().map(|(_, version)| *version).max();
        self.copies.raise_purge_horizon(partition, newest.unwrap_or_default());
    }

    /// Returns which of these keys can be purged, for all that this node holds.
    pub(super) fn answer_purge<C>(
        &mut self,
        turn: &Turn<'_, C>,
        from: Identity,
        partition: Partition,
        (list, members_digest): (ListRef, u64),
        dead: &[Dead],
    ) -> Answer {
        let node = turn.node;
        let is_far = node.in_other_data_center(from.node);
        let copies = &self.copies;
        let copy = copies.partition(partition);
        let known = copy.list();
        let is_of_list =
            |known: &Arc<List>| known.contains(&node.me) && (is_far || known.reference() == list);
        let is_replica = known.is_some_and(is_of_list);
        let agrees = if is_replica {
            copies.is_settled(node, partition)
        } else {
            known.is_none_or(|known| is_far || known.number() <= list.number)
                && copies.store.is_empty(partition)
                && !copy.has_handoff()
                && !copies.merges.contains_key(&partition)
        };
        let agrees = agrees && !gives(turn.requests, partition);
        if !agrees || !sees_all(node) || node.placement.digest_of_all() != members_digest {
            return Answer::Declined;
        }
        self.raise_purge_horizon_to(partition, dead);
        let knows_list = self.copies.knows(partition, list) || is_far && is_replica;
        if knows_list && dead.is_empty() {
            // All agreed before they were asked again. A node outside the list tells it, too.
            self.note_agreed(partition);
        }
        let copies = &self.copies;
        let can_go = |(_, (hash, version)): &(u16, &Dead)| !copies.store.has_older(*hash, *version);
        let places = (0..).zip(dead).filter(can_go).map(|(place, _)| place).collect();
        Answer::Purgeable { merges: copies.partition(partition).merges, places }
    }

    /// Takes up what another node says of what was forgotten; `is_of_line` says whether its list is
    /// of the line of this node's.
    ///
    /// If this node is not in the list that it knows, and holds something, and all replicas of that
    /// list have agreed to forget something since it heard of an agreement last, it was not asked:
    /// see [`forget_what_was_purged`](Self::forget_what_was_purged).
    pub(in crate::shard) fn heard_mark<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        partition: Partition,
        is_of_line: bool,
        told: PurgeMark,
    ) {
        self.copies.raise_purge_horizon(partition, told.horizon);
        let copy = self.copies.partition_mut(partition);
        if !is_of_line || told.agreed <= copy.agreed {
            return;
        }
        copy.agreed = told.agreed;
        let Some(list) = copy.list().cloned() else { return };
        let is_outside = !list.contains(&turn.node.me) && !copy.is_of_fork;
        if list.number() == told.agreed.list && is_outside && self.drop_purged(partition) {
            // What it has fetched might have gone with the rest.
            self.take_handoffs(turn, partition);
            self.update_wants(turn, partition);
        }
    }

    /// This node has learned of a list after `old`. If all replicas of a list between them agreed
    /// to forget something, this node was not asked: it was away, and not waited for any more. They
    /// had all that was acknowledged in `old`. So what is as old as what they forgot, and this node
    /// alone holds, was deleted, and would come back.
    ///
    /// Not if a list of another branch is learned: what was written on one side of a network
    /// partition is nowhere else. Nor if this node is in the list that follows: those replicas had
    /// to ask it.
    pub(super) fn forget_what_was_purged(
        &mut self,
        node: &Node,
        partition: Partition,
        old: &List,
        list: &List,
    ) {
        let holds = !self.copies.store.is_empty(partition);
        let copy = self.copies.partition_mut(partition);
        if !list.is_of_line(old) {
            copy.agreed = Agreed::default();
            copy.is_of_fork = rule(ProtocolMutant::ForkDropped, holds);
            return;
        }
        let stays = list.base() == Some(old.reference()) && list.contains(&node.me);
        if copy.agreed.list > old.number() && !stays && !copy.is_of_fork {
            self.drop_purged(partition);
        }
    }

    /// Returns whether there was anything to drop.
    fn drop_purged(&mut self, partition: Partition) -> bool {
        if !rule(ProtocolMutant::LateReturnBelieved, true) {
            return false;
        }
        let horizon = self.copies.partition(partition).purge_horizon;
        let count = self.copies.store.forget(partition, horizon);
        if count > 0 {
            logging::debug!(
                "partition {}: this node was away for long, and drops {count} old keys",
                partition.index()
            );
        }
        count > 0
    }

    /// Notes that all replicas of the list that this node knows have agreed to forget something.
    fn note_agreed(&mut self, partition: Partition) {
        let copy = self.copies.partition_mut(partition);
        let list = copy.list().map_or(0, |list| list.number());
        copy.agreed = copy.agreed.max(Agreed { list, horizon: copy.purge_horizon });
        if copy.is_synced() && copy.unshared.is_none() {
            // All others have what this one brought.
            copy.is_of_fork = false;
        }
    }

    /// Forgets these tombstones: no node holds anything older of their keys.
    pub(super) fn drop_dead(&mut self, partition: Partition, dead: &[Dead]) {
        self.raise_purge_horizon_to(partition, dead);
        dead.iter().for_each(|(hash, version)| self.copies.store.purge(*hash, *version));
    }

    /// Begins or repeats what is due.
    pub(in crate::shard) fn purge<C>(&mut self, turn: &mut Turn<'_, C>) {
        let (now, reading) = (turn.now.instant, self.copies.clock.reading(turn.now.wall));
        self.with_purge(turn, |machine, copies, todo| {
            machine.handle_timers(now, reading, copies, todo)
        });
    }

    pub(super) fn purge_answered<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        question: u64,
        answer: &Answer,
    ) {
        let now = turn.now.instant;
        self.with_purge(turn, |machine, copies, todo| match answer {
            Answer::Purgeable { merges, places } => {
                machine.agreed(question, *merges, places, copies, todo);
            }
            Answer::Purged => machine.dropped(question, copies, todo),
            Answer::Unreached => machine.lost(question, now, todo),
            Answer::Busy => machine.was_busy(question, now),
            _ => machine.declined(question, now),
        });
    }

    pub(super) fn purge_unanswered<C>(&mut self, turn: &mut Turn<'_, C>, question: u64) {
        let now = turn.now.instant;
        self.with_purge(turn, |machine, _, todo| machine.lost(question, now, todo));
    }

    /// Lets the machine look at the copies, and carries out what it wants.
    fn with_purge<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        work: impl FnOnce(&mut Purge, &Purgeable<'_>, &mut Vec<PurgeAction>),
    ) {
        let mut todo = Vec::new();
        let Turn { node, requests, .. } = &*turn;
        let copies = Purgeable { node, requests, copies: &self.copies };
        work(&mut self.purge, &copies, &mut todo);
        let mut todo = VecDeque::from(todo);
        while let Some(action) = todo.pop_front() {
            match action {
                PurgeAction::Ask { question, to, helper, partition, request } => {
                    if let Request::Purge { dead, .. } = &request {
                        self.raise_purge_horizon_to(partition, dead);
                    }
                    let request = with_route(request, helper.map(|_| (turn.node.me, to)));
                    let receiver = helper.unwrap_or(to);
                    let asker = ReplicaAsker::Purge(question);
                    if turn.ask(receiver, partition, request, asker).is_none() {
                        let mut more = Vec::new();
                        self.purge.lost(question, turn.now.instant, &mut more);
                        todo.extend(more);
                    }
                }
                PurgeAction::Drop { partition, dead } => {
                    self.note_agreed(partition);
                    self.drop_dead(partition, &dead);
                }
            }
        }
    }
}

/// Returns a question for a helper, which passes it on by this route; without one, the question
/// itself.
fn with_route(request: Request, way: Option<(Identity, Identity)>) -> Request {
    let route = way.map(|(asker, to)| Route { asker, to });
    match request {
        Request::Purge { list, members_digest, dead, .. } => {
            Request::Purge { list, members_digest, dead, route }
        }
        Request::Purged { dead, .. } => Request::Purged { dead, route },
        other => other,
    }
}
