//! Writes and changes of expiry: how they begin, and the ones that this node decides alone.

use std::time::Duration;

use super::Coordinator;
use super::op::{Begin, Machine, Op, Touch};
use crate::clock::Version;
use crate::entry::Entry;
use crate::error::WriteError;
use crate::options::Quorum;
use crate::quorums::Count;
use crate::replication::quorum::QuorumMachine;
use crate::replication::read::{Read, ReadRules};
use crate::replication::write::{Write, WriteTerms};
use crate::shard::caller::{Caller, OpId};
use crate::shard::calls::{Outcome, TouchCall, WriteCall};
use crate::shard::effects::Effect;
use crate::shard::interface::ShardConfig;
use crate::shard::node::Node;
use crate::shard::replica::Replica;
use crate::shard::turn::Turn;
use crate::store::Admission;
use crate::types::{Identity, Partition};

impl<C> Coordinator<C> {
    /// Begins a write for which there is room.
    pub(super) fn begin_write(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        call: WriteCall,
        caller: Caller<C>,
    ) {
        if is_decided_alone(turn.node, replica, &call) {
            self.write_alone(turn, replica, call);
            return self.reply(turn, caller, Outcome::Written(Ok(())));
        }
        let WriteCall { entry, hash, quorum, every_live, deadline } = call;
        let write = Write::new(entry, terms(turn.node, quorum, every_live)).with_late(&self.late);
        let machine = Machine::Write(write);
        self.begin(turn, replica, Begin { hash, machine, touch: None, deadline, caller });
    }

    /// Makes all steps of a [`Write`] at once, which this node alone has to make: none of them can
    /// fail, wait or be asked for again.
    pub(super) fn write_alone(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        call: WriteCall,
    ) {
        let WriteCall { entry, hash, quorum, .. } = call;
        let wall = turn.now.wall;
        let copies = &mut replica.copies;
        let key: Option<Box<[u8]>> = turn.node.relays_writes.then(|| entry.key().into());
        copies.may_expire |= entry.expires_at_ms().is_some();
        let clock = &mut copies.clock;
        copies.store.write(hash, entry, |held| {
            let version = clock.stamp_above(held, wall);
            clock.witness(version, wall);
            version
        });
        let written =
            key.and_then(|key| copies.store.get(hash, &key).map(|entry| Entry::clone(&entry)));
        turn.effects.extend(written.map(|entry| Effect::WriteAcknowledged { hash, entry }));
        // As the latest write it ends every hint before.
        let before = self.ops.take_latest_write(hash);
        self.ops.supersede(before);
        self.complete_predecessors(turn, before, quorum.count(1));
    }

    /// Gives a write the version that it asks for: above what its replicas hold, what this node
    /// holds, and what this node wrote before.
    pub(super) fn stamp(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        id: OpId,
        op: &mut Op<C>,
        above: Version,
    ) {
        turn.requests.forget(&mut op.requests);
        let Machine::Write(write) = &mut op.machine else { return };
        let copies = &mut replica.copies;
        let forgotten = copies.partition(op.partition).purge_horizon;
        let held = copies.store.get(op.hash, write.entry().key());
        let held = held.map_or(forgotten, |held| held.version());
        let before = self.ops.set_latest_write(op.hash, id).filter(|before| *before != id);
        let above = above.max(self.ops.supersede(before));
        op.supersedes = op.supersedes.or(before);
        copies.clock.witness(above, turn.now.wall);
        let version = copies.clock.stamp_above(above.max(held), turn.now.wall);
        let mut todo = Vec::new();
        write.stamped(version, &mut todo);
        self.perform(turn, replica, id, op, todo);
    }

    /// Reads the newest state of the key that was acknowledged, then writes it with another expiry.
    pub(super) fn touch(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        call: TouchCall,
        caller: Caller<C>,
    ) {
        let node = turn.node;
        let quorums = node.config.quorums;
        let list = || replica.copies.partition(call.hash.partition()).list();
        if let Err(why) = node.check_alive(quorums.write, list) {
            return self.reply(turn, caller, Outcome::Touched(Err(why.into())));
        }
        if quorums.write.count(1) == 1 && decides_alone(node, replica, call.hash.partition()) {
            let outcome = Outcome::Touched(touch_alone(turn, replica, &call));
            return self.reply(turn, caller, outcome);
        }
        let TouchCall { key, hash, expires_at_ms, deadline } = call;
        let rules = super::reads::rules(node, quorums.read);
        let rules = ReadRules { confirms_hits: true, ..rules };
        let machine = Machine::Read(Read::new(key, rules));
        let touch = Some(Touch(expires_at_ms));
        self.begin(turn, replica, Begin { hash, machine, touch, deadline, caller });
    }

    /// The read of a touch is over: from here on it is a write, in the same list.
    pub(super) fn write_retimed(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        id: OpId,
        op: &mut Op<C>,
        entry: Entry,
    ) {
        turn.requests.forget(&mut op.requests);
        let Some(list) = op.list.clone() else { return };
        let placement = turn.node.placement.clone();
        let alive = |member: &Identity| !placement.is_dead(member);
        let rules = &turn.node.write_rules;
        let waits = rules.quorums.waits_for_every_live(Quorum::Configured, rules.every_live);
        let terms = terms(turn.node, rules.quorums.write, waits);
        let mut write = Write::retimed(entry, terms).with_late(&self.late);
        let mut todo = Vec::new();
        write.entered(list, &alive, turn.now, &mut todo);
        op.machine = Machine::Write(write);
        self.perform(turn, replica, id, op, todo);
    }
}

/// Returns what a write waits for that needs this quorum, and `waits` for the others.
pub(super) fn terms(node: &Node, quorum: Count, waits: bool) -> WriteTerms {
    let ShardConfig { quorums, every_live_patience, .. } = node.config;
    WriteTerms {
        quorum,
        versions_needed: quorums.versions_needed(),
        all_writes: quorums.all_writes(),
        patience: if waits { every_live_patience } else { Duration::ZERO },
    }
}

/// Whether what this node says of the key is the whole truth, and all that the write asks for.
pub(super) fn is_decided_alone(node: &Node, replica: &Replica, call: &WriteCall) -> bool {
    call.quorum.count(1) == 1 && decides_alone(node, replica, call.hash.partition())
}

fn decides_alone(node: &Node, replica: &Replica, partition: Partition) -> bool {
    replica.copies.partition(partition).is_alone()
        && node.config.quorums.one_answers()
        && !node.is_dead
}

fn touch_alone<C>(
    turn: &mut Turn<'_, C>,
    replica: &mut Replica,
    call: &TouchCall,
) -> Result<bool, WriteError> {
    let copies = &mut replica.copies;
    let held = copies.store.get(call.hash, &call.key).map(|held| Entry::clone(&held));
    let live = held.filter(|held| held.live_value(turn.now.wall).is_some());
    let touch = Touch(call.expires_at_ms);
    let entry = live.and_then(|held| touch.retime(&held));
    let Some(entry) = entry else { return Ok(false) };
    match copies.store.make_room(call.hash, &entry) {
        Admission::Enough => {}
        room => return Err(super::room::no_room(turn.node, room).into()),
    }
    if turn.node.relays_writes {
        turn.effects.push_back(Effect::WriteAcknowledged { hash: call.hash, entry: entry.clone() });
    }
    copies.apply(call.hash, entry);
    Ok(true)
}
