//! An operation's life.
//!
//! ```text
//!   begin ─▶ enter the partition's list ─▶ ask replicas ─▶ enough answers ─▶ reply ─▶ end
//!                 ▲                          │    ▲                            │
//!                 └── another list counts ───┤    └── lost · due again         │ a write that some
//!                                            │                                 ▼ replica lacks
//!                                      deadline: reply an error            hint, until all have it
//!                                                                          or the window ends
//! ```
//!
//! A caller is answered once. A write that was acknowledged is a hint from then on: it is offered
//! to the replicas that lack it, in each list that follows. A replica that is taken for dead may
//! return into its list with what it held: the hint is kept for it, and this node's reads find the
//! write there, until the window ends or a later life of that node is seen. No call waits for such
//! a hint.

use std::sync::Arc;
use std::time::Duration;

use super::op::{Begin, Machine, Op, unread, write_error, written};
use super::read_order::read_order;
use super::writes::terms;
use super::{Coordinator, SelfRequest};
use crate::entry::Entry;
use crate::error::{NotApplied, ReadError};
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::{List, Stage};
use crate::replication::quorum::{QuorumAction, QuorumMachine};
use crate::replication::write::Write;
use crate::shard::caller::{Caller, OpId};
use crate::shard::calls::{Outcome, StoppedBy};
use crate::shard::effects::Effect;
use crate::shard::replica::Replica;
use crate::shard::requests::{Asker, ReplicaAsker};
use crate::shard::timers::Timer;
use crate::shard::turn::Turn;
use crate::types::{Identity, KeyHash, Partition};
use crate::wire::message::{Answer, Request};
use crate::wire::timing::{HINT_WINDOW, RELAY_TRIES_FOR};

/// How soon a call that knows no list, or only one that seems outdated, asks for it again. It
/// doubles each time, up to eight times as long.
const LOCATE_PERIOD: Duration = Duration::from_millis(50);
const LOCATE_DOUBLINGS: u8 = 3;

impl<C> Coordinator<C> {
    pub(super) fn begin(&mut self, turn: &mut Turn<'_, C>, replica: &mut Replica, begin: Begin<C>) {
        let Begin { hash, machine, touch, deadline, caller } = begin;
        let id = OpId(turn.requests.new_id());
        let partition = hash.partition();
        let op = Op {
            partition,
            hash,
            caller: Some(caller),
            list: None,
            machine,
            touch,
            requests: Vec::new(),
            supersedes: None,
            deadline,
            locate_at: turn.now.instant,
            located: 0,
        };
        self.ops.add(id, partition);
        match replica.copies.partition(partition).list().cloned() {
            Some(list) => self.enter(turn, replica, id, op, list),
            None => self.finish_step(turn, replica, id, op),
        }
    }

    /// Begins to store a write here that another data center has acknowledged.
    pub(in crate::shard) fn store_relayed(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        hash: KeyHash,
        entry: Entry,
        caller: Caller<C>,
    ) {
        let terms = terms(turn.node, turn.node.config.quorums.write, false);
        let machine = Machine::Write(Write::relayed(entry, terms));
        let deadline = turn.now.instant + RELAY_TRIES_FOR;
        self.begin(turn, replica, Begin { hash, machine, touch: None, deadline, caller });
    }

    /// Lets an operation count in `list`, and forgets what it asked before.
    fn enter(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        id: OpId,
        mut op: Op<C>,
        list: Arc<List>,
    ) {
        turn.requests.forget(&mut op.requests);
        op.list = Some(list.clone());
        if let Machine::Read(read) = &mut op.machine {
            let own = self.ops.own_write(op.hash);
            let order = read_order(turn.node, &list, op.hash, own);
            let forgotten = replica.copies.partition(op.partition).purge_horizon;
            let own = own.map(Write::entry).filter(|entry| entry.version() > forgotten).cloned();
            read.prefer(order, own);
        }
        // A member that is not linked yet is asked again until it is.
        let placement = &turn.node.placement;
        let alive = |member: &Identity| !placement.is_dead(member);
        let mut todo = Vec::new();
        op.machine.as_mut().entered(list, &alive, turn.now, &mut todo);
        self.perform(turn, replica, id, &mut op, todo);
        self.finish_step(turn, replica, id, op);
    }

    /// The partition has a new list: its operations count in that from now on.
    pub(in crate::shard) fn list_changed(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        partition: Partition,
    ) {
        let Some(list) = replica.copies.partition(partition).list().cloned() else { return };
        for id in self.ops.ids_of(partition) {
            if let Some(op) = self.ops.take(id) {
                self.enter(turn, replica, id, op, list.clone());
            }
        }
    }

    /// The members changed.
    pub(in crate::shard) fn members_changed(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
    ) {
        let placement = turn.node.placement.clone();
        let alive = |member: &Identity| !placement.is_dead(member);
        self.late.retain(|late| {
            placement.member(late.node).is_some_and(|member| member.identity == *late)
        });
        for id in self.ops.ids() {
            self.step(turn, replica, id, |machine, now, todo| {
                machine.members_changed(&alive, now, todo)
            });
        }
    }

    /// A replica has answered what an operation asked.
    pub(in crate::shard) fn answered(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        id: OpId,
        request_id: u64,
        from: Identity,
        answer: Answer,
    ) {
        if matches!(answer, Answer::Written { .. }) {
            self.late.retain(|late| *late != from);
        }
        let Some(op) = self.ops.get_mut(id) else { return };
        op.requests.retain(|request| *request != request_id);
        let (partition, mine) = (op.partition, op.list.clone());
        let Answer::OtherList { list, .. } = answer else {
            return self.step(turn, replica, id, |machine, now, todo| {
                machine.answered(from, answer, now, todo);
            });
        };
        let is_behind =
            mine.is_some_and(|mine| list.as_ref().is_none_or(|theirs| mine.is_above(theirs)));
        let is_learned = list.is_some_and(|list| replica.learn(turn, partition, list));
        if is_learned {
            // The operation is about to enter that list.
        } else if is_behind {
            self.step(turn, replica, id, |machine, now, todo| machine.behind(from, now, todo));
        } else {
            // It is sealed, or is not in the list as it sees itself: ask it again later.
            self.unanswered(turn, replica, id, request_id, from);
        }
    }

    /// What an operation asked will have no answer.
    pub(in crate::shard) fn unanswered(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        id: OpId,
        request_id: u64,
        from: Identity,
    ) {
        if let Some(op) = self.ops.get_mut(id) {
            op.requests.retain(|request| *request != request_id);
        }
        self.step(turn, replica, id, |machine, now, todo| machine.lost(from, now, todo));
    }

    /// An operation is due.
    pub(in crate::shard) fn handle_timer(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        id: OpId,
    ) {
        self.step(turn, replica, id, |machine, now, todo| machine.handle_timers(now, todo));
    }

    /// Takes an operation, lets `change` work on its machine, carries out what that asks for, and
    /// puts the operation back.
    fn step(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        id: OpId,
        change: impl FnOnce(&mut dyn QuorumMachine, crate::clock::Now, &mut Vec<QuorumAction>),
    ) {
        let Some(mut op) = self.ops.take(id) else { return };
        let mut todo = Vec::new();
        if let Machine::Read(read) = &mut op.machine {
            read.purged(replica.copies.partition(op.partition).purge_horizon);
        }
        change(op.machine.as_mut(), turn.now, &mut todo);
        self.perform(turn, replica, id, &mut op, todo);
        self.finish_step(turn, replica, id, op);
    }

    pub(super) fn perform(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        id: OpId,
        op: &mut Op<C>,
        todo: Vec<QuorumAction>,
    ) {
        for action in todo {
            match action {
                QuorumAction::Ask { to, request } => self.ask(turn, replica, id, op, to, request),
                QuorumAction::TellList { to } => {
                    if let Some(list) = op.list.clone() {
                        let request = replica.copies.tell_list(op.partition, list);
                        turn.ask(to, op.partition, request, ReplicaAsker::List(op.partition));
                    }
                }
                QuorumAction::Stamp { above } => self.stamp(turn, replica, id, op, above),
                QuorumAction::Found(found) => {
                    let live = found.filter(|entry| entry.live_value(turn.now.wall).is_some());
                    let outcome = match op.touch {
                        None => Outcome::Read(Ok(live)),
                        Some(touch) => match live.as_ref().and_then(|held| touch.retime(held)) {
                            Some(entry) => {
                                return self.write_retimed(turn, replica, id, op, entry);
                            }
                            None => Outcome::Touched(Ok(false)),
                        },
                    };
                    if let Some(caller) = op.caller.take() {
                        self.reply(turn, caller, outcome);
                    }
                }
            }
        }
    }

    fn ask(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        id: OpId,
        op: &mut Op<C>,
        to: Identity,
        request: Request,
    ) {
        if to == turn.node.me {
            let (request_id, partition) = (turn.requests.new_id(), op.partition);
            op.requests.push(request_id);
            self.to_self.push_back(SelfRequest { op: id, request_id, partition, request });
            return;
        }
        match turn.ask(to, op.partition, request, Asker::Op(id)) {
            Some(request_id) => op.requests.push(request_id),
            None => {
                // A read asks the next at once; that ends when all wait for their time.
                let mut todo = Vec::new();
                op.machine.as_mut().lost(to, turn.now, &mut todo);
                self.perform(turn, replica, id, op, todo);
            }
        }
    }

    /// Lets this node's own replica answer what it was asked.
    pub(in crate::shard) fn ask_own_replica(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
    ) {
        while let Some(SelfRequest { op, request_id, partition, request }) =
            self.to_self.pop_front()
        {
            let me = turn.node.me;
            let answer = replica.serve(turn, me, partition, request);
            let is_awaited = |op: &Op<C>| op.requests.contains(&request_id);
            if self.ops.get(op).is_some_and(is_awaited) {
                self.answered(turn, replica, op, request_id, me, answer);
            }
        }
    }

    /// Replies if it is time to, then puts the operation back, or ends it.
    fn finish_step(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        id: OpId,
        mut op: Op<C>,
    ) {
        let is_over = match &op.machine {
            Machine::Write(_) => self.finish_write(turn, &mut op),
            Machine::Read(_) => self.finish_read(turn, &mut op),
        };
        if is_over {
            return self.ops.end(turn, id, op);
        }
        self.locate(turn, replica, &mut op);
        turn.timers.set(Timer::Op(id), op.due());
        if op.is_hint() {
            self.ops.hints.add(id, op.bytes());
        }
        self.ops.put(id, op);
        self.drop_oldest_hints(turn);
    }

    /// Replies to a write that is acknowledged or late. Whether the operation is over.
    fn finish_write(&mut self, turn: &mut Turn<'_, C>, op: &mut Op<C>) -> bool {
        let now = turn.now.instant;
        let is_late = now >= op.deadline;
        let is_hint = op.is_hint();
        let Machine::Write(write) = &mut op.machine else { return false };
        // At its deadline a write that W replicas have waits for no other.
        let is_acknowledged = write.is_acknowledged() || is_late && write.has_quorum();
        // What was acknowledged once is a hint, even if it counts again in a later list.
        if !is_hint && !is_acknowledged {
            // Another data center tries again and again: it is kept waiting.
            let is_far = matches!(op.caller, Some(Caller::DataCenters(_)));
            let is_stopped = !is_far && !write.has_quorum() && !write.stopped_by().is_empty();
            if is_stopped {
                self.full.note(now, write);
            }
            let is_over = is_late || is_stopped;
            if let Some(caller) = op.caller.take_if(|_| is_over) {
                let outcome = written(op.touch, Err(write_error(write)));
                self.reply(turn, caller, outcome);
            }
            return is_over;
        }
        if let Some(caller) = op.caller.take() {
            for replica in write.outwaited() {
                if !self.late.contains(&replica) {
                    self.late.push(replica);
                }
            }
            write.told(now);
            if write.is_covered() {
                // The write behind it is relayed, and offered to the replicas that lack both.
                self.reply(turn, caller, written(op.touch, Ok(())));
                return true;
            }
            if !matches!(caller, Caller::DataCenters(_)) && turn.node.relays_writes {
                let entry = write.entry().clone();
                turn.effects.push_back(Effect::WriteAcknowledged { hash: op.hash, entry });
            }
            op.deadline = now + HINT_WINDOW;
            let (before, quorum) = (op.supersedes.take(), write.needed());
            self.reply(turn, caller, written(op.touch, Ok(())));
            self.complete_predecessors(turn, before, quorum);
        }
        let Machine::Write(write) = &op.machine else { return false };
        let placement = &turn.node.placement;
        let might_return =
            |member: &Identity| rule(ProtocolMutant::DeathEndsHint, !placement.is_over(member));
        let is_owed = write.is_owed(might_return) && now < op.deadline;
        !rule(ProtocolMutant::NothingOwed, is_owed)
    }

    /// Replies to a read that is late, or whose miss cannot be confirmed. Whether the operation is
    /// over.
    fn finish_read(&mut self, turn: &mut Turn<'_, C>, op: &mut Op<C>) -> bool {
        let Machine::Read(read) = &op.machine else { return op.caller.is_none() };
        // With the members that are alive, no list that could follow confirms a miss either.
        let (alive, all) = turn.node.alive(|| op.list.as_ref());
        let least = turn.node.config.quorums.miss_confirmed_by(all);
        let is_hopeless = read.is_unconfirmed() && alive < least;
        let is_late = turn.now.instant >= op.deadline;
        if let Some(caller) = op.caller.take_if(|_| is_late || is_hopeless) {
            let (answered, needed) = (read.answers(), read.needed());
            let error = match read.is_unconfirmed() {
                true => ReadError::Unconfirmed { answered, needed },
                false => ReadError::TimedOut { answered, needed },
            };
            let unwritten = match is_hopeless {
                true => NotApplied::NotEnoughReplicas { alive, needed },
                false => NotApplied::Unavailable,
            };
            self.reply(turn, caller, unread(op.touch, error, unwritten));
        }
        op.caller.is_none()
    }

    /// A write was acknowledged by a quorum of this size. The write that it supersedes is done,
    /// just before it, and so are those that that one supersedes: none of them is a hint any more.
    /// One that still waits for every live replica is done when these have answered, or its
    /// patience is over.
    pub(super) fn complete_predecessors(
        &mut self,
        turn: &mut Turn<'_, C>,
        mut before: Option<OpId>,
        quorum: usize,
    ) {
        while let Some(id) = before
            && let Some(mut op) = self.ops.take(id)
        {
            before = op.supersedes;
            let is_done = match &mut op.machine {
                Machine::Write(write) if write.needed() <= quorum => {
                    write.cover(turn.now);
                    write.is_acknowledged()
                }
                _ => false,
            };
            match op.caller.take_if(|_| is_done) {
                Some(caller) => {
                    self.reply(turn, caller, written(op.touch, Ok(())));
                    self.ops.end(turn, id, op);
                }
                None => {
                    if op.is_hint() {
                        // Acknowledged before, and with it those before it.
                        before = None;
                    }
                    turn.timers.set(Timer::Op(id), op.due());
                    self.ops.put(id, op);
                }
            }
        }
    }

    fn drop_oldest_hints(&mut self, turn: &mut Turn<'_, C>) {
        while let Some(id) = self.ops.hints.oldest_beyond(turn.node.config.memory)
            && let Some(op) = self.ops.take(id)
        {
            self.ops.end(turn, id, op);
        }
    }

    /// A call that knows no list, or one that this node is not in and whose members are not the
    /// ones that should hold the partition, asks those for theirs.
    fn locate(&mut self, turn: &mut Turn<'_, C>, replica: &Replica, op: &mut Op<C>) {
        if op.caller.is_none() || turn.now.instant < op.locate_at {
            return;
        }
        let doublings = op.located.min(LOCATE_DOUBLINGS);
        op.locate_at = turn.now.instant + LOCATE_PERIOD.saturating_mul(1 << doublings);
        let (me, target) = (turn.node.me, turn.node.target(op.partition));
        let is_known =
            op.list.as_ref().is_some_and(|list| list.contains(&me) || list.has_members(&target));
        if is_known || turn.node.stage == Stage::Forming {
            return;
        }
        op.located = op.located.saturating_add(1);
        debug_assert!(
            replica.copies.partition(op.partition).list().map(|list| list.reference())
                == op.list.as_ref().map(|list| list.reference()),
            "an operation counts in the list that its node knows"
        );
        for to in target.into_iter().filter(|member| *member != me) {
            // The answer's list is learned, which makes the partition's calls enter it.
            turn.ask(to, op.partition, Request::AskList, ReplicaAsker::List(op.partition));
        }
    }

    /// Answers every operation that is under way.
    pub(super) fn stop_ops(&mut self, turn: &mut Turn<'_, C>, by: StoppedBy) {
        for mut op in self.ops.take_all() {
            let outcome = match &op.machine {
                // It waits for more replicas than it needs.
                Machine::Write(write) if write.has_quorum() => written(op.touch, Ok(())),
                Machine::Write(write) if write.may_have_happened() => {
                    written(op.touch, Err(write_error(write)))
                }
                Machine::Write(_) => written(op.touch, Err(NotApplied::from(by).into())),
                Machine::Read(_) => unread(op.touch, by.into(), by.into()),
            };
            if let Some(caller) = op.caller.take() {
                self.reply(turn, caller, outcome);
            }
        }
    }
}
