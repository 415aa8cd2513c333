//! The app's calls, from the message that brings one to its reply. Any node can coordinate a call: the
//! core that owns the key's partition there does it, whether or not it holds a replica.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::elsewhere::ForwardId;
use super::groups::{Group, OPS_PER_TURN};
use super::{
    Action, Asker, Call, Caller, Counts, Debt, Outcome, ReadCall, Shard, Stage, StoppedBy, Timer, TouchCall,
    WriteCall, not_enough,
};
use crate::clock::{Instant, Now, Version};
use crate::entry::Entry;
use crate::error::{NotApplied, ReadError, WriteError};
use crate::placement::{List, Placement};
use crate::replication::read::{Read, ReadAction, Rules};
use crate::replication::write::{Write, WriteAction};
use crate::simulated::{Planted, is_planted};
use crate::store::Room;
use crate::types::{Identity, KeyHash, Partition, quorum_of};
use crate::wire::message::{Answer, Request};

/// How often a call that knows no list, or only one that seems outdated, asks for it.
const LOCATE_PERIOD: Duration = Duration::from_millis(50);

/// How long an acknowledged write is offered to the replicas that have not acknowledged it.
pub(super) const OWED_FOR: Duration = Duration::from_secs(30);

/// How many acknowledged writes, and how many bytes of them, one core remembers for replicas that lack
/// them; no more than a sixteenth of its memory, where that is limited. Beyond it the oldest is forgotten;
/// a read, anti-entropy or the next change of members heals what it leaves behind.
const MAX_OWED: usize = 10_000;
const MAX_OWED_BYTES: usize = 64 << 20;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct OpId(u64);

/// How many keys one step of a walk looks at.
const KEYS_STEP: usize = 1000;

/// A call under way.
pub(super) struct Op<C> {
    partition: Partition,
    hash: KeyHash,
    /// Gone once it was answered.
    caller: Option<Caller<C>>,
    /// The list it counts in.
    list: Option<Arc<List>>,
    machine: Machine,
    /// What it reads is to be written with another expiry.
    touch: Option<Touch>,
    requests: Vec<u64>,
    /// The write of the same key that this node stamped before this one.
    follows: Option<OpId>,
    /// Until when the caller waits; then, of a write, until when it is owed to the replicas without it.
    deadline: Instant,
    locate_at: Instant,
    wake: Instant,
}

impl<C> Op<C> {
    /// Of a write that is owed: until when it is.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// How much memory it keeps for those who lack it.
    fn bytes(&self) -> usize {
        match &self.machine {
            Machine::Write(write) => write.entry().bytes(),
            Machine::Read(_) => 0,
        }
    }
}

pub(super) enum Machine {
    Write(Write),
    Read(Read),
}

/// When a key is to expire; `None` for never.
#[derive(Clone, Copy)]
pub(super) struct Touch(Option<NonZeroU64>);

/// How a write ended, or the write of a touch.
fn written(touch: Option<Touch>, result: Result<(), WriteError>) -> Outcome {
    match touch {
        Some(_) => Outcome::Touched(result.map(|()| true)),
        None => Outcome::Written(result),
    }
}

/// How a read ended without an answer, or that of a touch, which then has written nothing.
fn unread(touch: Option<Touch>, read: ReadError, write: NotApplied) -> Outcome {
    match touch {
        Some(_) => Outcome::Touched(Err(write.into())),
        None => Outcome::Read(Err(read)),
    }
}

impl<C> Shard<C> {
    pub(super) fn call(&mut self, now: Now, call: Call, caller: Caller<C>, actions: &mut Vec<Action<C>>) {
        if call.is_late(now.instant) {
            return self.reply(caller, call.overdue(), actions);
        }
        match call {
            Call::Write(call) => self.write(now, call, caller, actions),
            Call::Touch(call) => self.touch(now, *call, caller, actions),
            Call::Read(call) => self.read(now, *call, caller, actions),
            Call::Keys(call) => {
                let mut found = self.store.keys(&call.from, call.end, now.wall, KEYS_STEP);
                found.keys.retain(|key| key.starts_with(&call.prefix));
                self.reply(caller, Outcome::Keys(Box::new(found)), actions);
            }
            Call::Counts => {
                let Debt { copies, writes, .. } = self.debt(now);
                let counts = Counts { redundancy_debt: copies + writes, ..self.counts() };
                let outcome = Outcome::Counts(Box::new(counts));
                self.reply(caller, outcome, actions);
            }
            Call::Many(calls) => self.group(now, calls, caller, actions),
            Call::Run(call) => self.run(now, call, caller, actions),
            #[cfg(test)]
            Call::Panic => panic!("on purpose"),
        }
    }

    /// A write waits behind those that wait for room, so that none of them is overtaken: by a later one of its key
    /// least of all.
    fn write(&mut self, now: Now, call: WriteCall, caller: Caller<C>, actions: &mut Vec<Action<C>>) {
        if self.waiting.is_empty() {
            self.write_now(now, call, caller, actions);
        } else {
            self.waiting.push_back((call, caller));
        }
    }

    fn write_now(&mut self, now: Now, call: WriteCall, caller: Caller<C>, actions: &mut Vec<Action<C>>) {
        if let Err(why) = self.check_alive(now, call.quorum) {
            return self.reply(caller, Outcome::Written(Err(why.into())), actions);
        }
        match self.room_for(&call) {
            Room::Enough => self.begin_write(now, call, caller, actions),
            Room::Later => {
                self.waiting.push_back((call, caller));
                self.soon(now, Timer::Room);
            }
            room => {
                let outcome = Outcome::Written(Err(self.no_room(room).into()));
                self.reply(caller, outcome, actions);
            }
        }
    }

    /// Whether so many replicas can acknowledge a write, and this node may.
    pub(super) fn check_alive(&self, now: Now, quorum: usize) -> Result<(), NotApplied> {
        if let Some(nodes) = self.lacks_majority(now) {
            return Err(NotApplied::NoMajority { nodes });
        }
        let alive = self.placement.replicas_per_partition();
        let quorum = quorum_of(quorum, alive);
        if alive >= quorum {
            return Ok(());
        }
        Err(NotApplied::NotEnoughReplicas { alive: self.members_for_errors(alive), needed: quorum })
    }

    /// Makes room for a write, as far as one turn allows, where this node is to hold it.
    pub(super) fn room_for(&mut self, call: &WriteCall) -> Room {
        let replica = self.replica(call.hash.partition());
        if replica.is_alone() || replica.list().is_some_and(|list| list.contains(&self.me)) {
            self.store.make_room(call.hash, &call.entry)
        } else {
            Room::Enough
        }
    }

    /// Why a write is not applied for which there is no room.
    pub(super) fn no_room(&self, room: Room) -> NotApplied {
        let config = &self.config;
        let max_memory = config.memory.map_or(0, |memory| memory * usize::from(config.cores));
        match room {
            Room::OutOfMemory => NotApplied::OutOfMemory { max_memory },
            _ => NotApplied::Overloaded,
        }
    }

    /// Begins a write for which there is room.
    pub(super) fn begin_write(
        &mut self,
        now: Now,
        call: WriteCall,
        caller: Caller<C>,
        actions: &mut Vec<Action<C>>,
    ) {
        if self.is_decided_alone(&call) {
            self.write_alone(now, call, actions);
            return self.reply(caller, Outcome::Written(Ok(())), actions);
        }
        let strong = self.config.read_quorum >= 2;
        let versions_needed = if strong { self.config.read_quorum.max(self.tolerated() + 1) } else { 0 };
        let machine = Machine::Write(Write::new(call.entry, call.quorum, versions_needed));
        self.begin(now, call.hash, machine, None, call.deadline, caller, actions);
    }

    /// Whether what this node says of the key is the whole truth, and all that the write asks for.
    pub(super) fn is_decided_alone(&self, call: &WriteCall) -> bool {
        quorum_of(call.quorum, 1) == 1 && self.decides_alone(call.hash.partition())
    }

    fn decides_alone(&self, partition: Partition) -> bool {
        self.replica(partition).is_alone() && self.config.read_quorum == 1 && !self.is_dead
    }

    /// What the steps of a [`Write`] come to where this node alone has to make them: none of it can fail, wait
    /// or be asked for again.
    pub(super) fn write_alone(&mut self, now: Now, call: WriteCall, actions: &mut Vec<Action<C>>) {
        let WriteCall { entry, hash, quorum, .. } = call;
        let key: Option<Box<[u8]>> = self.relays.is_wanted().then(|| entry.key().into());
        self.may_expire |= entry.expires_at_ms().is_some();
        let clock = &mut self.clock;
        self.store.write(hash, entry, |held| {
            let version = clock.stamp_above(held, now.wall);
            clock.witness(version, now.wall);
            version
        });
        let written = key.and_then(|key| self.store.get(hash, &key).map(|entry| Entry::clone(&entry)));
        written.into_iter().for_each(|entry| self.relay(now, hash, &entry));
        // As the latest write it ends whatever was owed before.
        let before = self.recent_writes.remove(&hash);
        self.follow(before);
        self.cover(before, quorum_of(quorum, 1), actions);
    }

    /// A write that was its key's latest is not any more. Returns what the next one is to be stamped above.
    fn follow(&mut self, before: Option<OpId>) -> Version {
        match before.and_then(|id| self.ops.get_mut(&id)).map(|op| &mut op.machine) {
            Some(Machine::Write(write)) => write.followed(),
            _ => Version::ZERO,
        }
    }

    /// A write was acknowledged by so many: the one that it follows is done, just before it, and so are those that
    /// that one follows. None of them is owed any more.
    fn cover(&mut self, mut before: Option<OpId>, quorum: usize, actions: &mut Vec<Action<C>>) {
        while let Some(id) = before
            && let Some(mut op) = self.ops.remove(&id)
        {
            before = op.follows;
            let is_covered = matches!(&op.machine, Machine::Write(write) if write.needed() <= quorum);
            match op.caller.take_if(|_| is_covered) {
                Some(caller) => {
                    self.reply(caller, written(op.touch, Ok(())), actions);
                    self.end(id, op);
                }
                None => {
                    if op.caller.is_none() {
                        // Acknowledged before, and with it those before it.
                        before = None;
                    }
                    self.ops.insert(id, op);
                }
            }
        }
    }

    /// Goes on making room for the writes that wait for it, one after the other.
    pub(super) fn go_on_waiting(&mut self, now: Now, actions: &mut Vec<Action<C>>) {
        for _ in 0..OPS_PER_TURN {
            let Some((call, caller)) = self.waiting.pop_front() else { return };
            let is_late = call.deadline <= now.instant;
            if !is_late && self.room_for(&call) == Room::Later {
                self.waiting.push_front((call, caller));
                break;
            }
            let group = if let Caller::Group(id, _) = caller { Some(id) } else { None };
            if is_late {
                self.reply(caller, Call::Write(call).overdue(), actions);
            } else {
                // With what was found just now: there is room, or there is none.
                self.write_now(now, call, caller, actions);
            }
            self.answer_self(now, actions);
            if let Some(id) = group.filter(|id| !self.is_parked_last(*id)) {
                self.queue_group(now, id);
            }
        }
        if !self.waiting.is_empty() {
            self.soon(now, Timer::Room);
        }
    }

    /// Reads the newest state of the key that was acknowledged, then writes it with another expiry.
    fn touch(&mut self, now: Now, call: TouchCall, caller: Caller<C>, actions: &mut Vec<Action<C>>) {
        let partition = call.hash.partition();
        if let Err(why) = self.check_alive(now, self.config.write_quorum) {
            return self.reply(caller, Outcome::Touched(Err(why.into())), actions);
        }
        if quorum_of(self.config.write_quorum, 1) == 1 && self.decides_alone(partition) {
            let outcome = Outcome::Touched(self.touch_alone(now, &call));
            return self.reply(caller, outcome, actions);
        }
        let TouchCall { key, hash, expires_at_ms, deadline } = call;
        let rules = Rules { confirms_hits: true, ..self.rules(self.config.read_quorum) };
        let machine = Machine::Read(Read::new(key, rules));
        self.begin(now, hash, machine, Some(Touch(expires_at_ms)), deadline, caller, actions);
    }

    /// A key as it is to be with another expiry, if that changes anything. Merging prefers it to what was read, and
    /// whatever was stamped above that to both (`replication/write` says why).
    fn retimed(&mut self, now: Now, held: &Entry, Touch(expires_at_ms): Touch) -> Option<Entry> {
        let before = held.expires_at_ms();
        if before.is_none() && expires_at_ms.is_none() {
            return None;
        }
        let end = |at_ms: Option<NonZeroU64>| at_ms.map_or(u64::MAX, NonZeroU64::get);
        let version = if end(expires_at_ms) >= end(before) {
            held.version()
        } else {
            // Shortened for the 64th time without another write between, it is one.
            let stamp = || self.clock.stamp_above(held.version(), now.wall);
            held.version().shortened().unwrap_or_else(stamp)
        };
        Some(held.copy(version, expires_at_ms))
    }

    fn touch_alone(&mut self, now: Now, call: &TouchCall) -> Result<bool, WriteError> {
        let held = self.store.get(call.hash, &call.key).map(|held| Entry::clone(&held));
        let live = held.filter(|held| held.live_value(now.wall).is_some());
        let Some(entry) = live.and_then(|held| self.retimed(now, &held, Touch(call.expires_at_ms))) else {
            return Ok(false);
        };
        match self.store.make_room(call.hash, &entry) {
            Room::Enough => {}
            room => return Err(self.no_room(room).into()),
        }
        self.relay(now, call.hash, &entry);
        self.apply(call.hash, entry);
        Ok(true)
    }

    fn read(&mut self, now: Now, call: ReadCall, caller: Caller<C>, actions: &mut Vec<Action<C>>) {
        if call.anywhere && !self.placement.elsewhere().is_empty() {
            return self.read_anywhere(now, call, caller, actions);
        }
        let partition = call.hash.partition();
        let replica = self.replica(partition);
        let is_local = replica.serves_synced(&self.me);
        if is_local && (call.quorum == 1 || call.local) {
            let held = self.store.get(call.hash, &call.key);
            let live = held.filter(|entry| entry.live_value(now.wall).is_some()).map(|entry| {
                entry.visit();
                Entry::clone(&entry)
            });
            if live.is_some() || call.local {
                return self.reply(caller, Outcome::Read(Ok(live)), actions);
            }
        }
        let alive = self.placement.replicas_per_partition();
        let quorum = quorum_of(call.quorum, alive);
        let error = if call.local {
            Some(ReadError::NotLocal)
        } else if alive < quorum {
            Some(not_enough(self.members_for_errors(alive), quorum).1)
        } else if quorum >= 2
            && let Some(nodes) = self.lacks_majority(now)
        {
            Some(ReadError::NoMajority { nodes })
        } else {
            None
        };
        if let Some(error) = error {
            return self.reply(caller, Outcome::Read(Err(error)), actions);
        }
        let machine = Machine::Read(Read::new(call.key, self.rules(call.quorum)));
        self.begin(now, call.hash, machine, None, call.deadline, caller, actions);
    }

    /// A node that has not heard of anybody still counts itself.
    fn members_for_errors(&self, alive: usize) -> usize {
        if self.placement.members().is_empty() { 1 } else { alive }
    }

    #[expect(clippy::too_many_arguments, reason = "what an op is made of")]
    pub(super) fn begin(
        &mut self,
        now: Now,
        hash: KeyHash,
        machine: Machine,
        touch: Option<Touch>,
        deadline: Instant,
        caller: Caller<C>,
        actions: &mut Vec<Action<C>>,
    ) {
        let id = OpId(self.new_id());
        let partition = hash.partition();
        let op = Op {
            partition,
            hash,
            caller: Some(caller),
            list: None,
            machine,
            touch,
            requests: Vec::new(),
            follows: None,
            deadline,
            locate_at: now.instant,
            wake: deadline,
        };
        self.ops_of.insert((partition, id));
        match self.replica(partition).list().cloned() {
            Some(list) => self.enter(now, id, op, list, actions),
            None => self.finish_step(now, id, op, actions),
        }
    }

    /// Lets an op count in `list`, forgetting what it asked before.
    fn enter(&mut self, now: Now, id: OpId, mut op: Op<C>, list: Arc<List>, actions: &mut Vec<Action<C>>) {
        self.forget_requests(&mut op);
        op.list = Some(list.clone());
        let placement = self.placement.clone();
        // One that is not linked yet is asked again until it is.
        let alive = |member: &Identity| !placement.is_dead(member);
        match &mut op.machine {
            Machine::Write(write) => {
                let mut todo = Vec::new();
                write.enter(list, alive, &mut todo);
                self.perform_write(now, id, &mut op, todo, actions);
            }
            Machine::Read(read) => {
                let own = self.own_write(op.hash);
                let order = read_order(self.me, &placement, &list, op.hash, own);
                let forgotten = self.replica(op.partition).purge_horizon;
                let own = own.map(Write::entry).filter(|entry| entry.version() > forgotten).cloned();
                let mut todo = Vec::new();
                read.enter(list, order, alive, own, now, &mut todo);
                self.perform_read(now, id, &mut op, todo, actions);
            }
        }
        self.finish_step(now, id, op, actions);
    }

    /// This node's own latest acknowledged write of a key, while some replica lacks it.
    fn own_write(&self, hash: KeyHash) -> Option<&Write> {
        let mut latest = *self.recent_writes.get(&hash)?;
        loop {
            let op = self.ops.get(&latest)?;
            match &op.machine {
                Machine::Write(write) if op.caller.is_none() => return Some(write),
                _ => latest = op.follows?,
            }
        }
    }

    pub(super) fn op_answered(
        &mut self,
        now: Now,
        id: OpId,
        request_id: u64,
        from: Identity,
        answer: Answer,
        actions: &mut Vec<Action<C>>,
    ) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.requests.retain(|request| *request != request_id);
        let (partition, mine) = (op.partition, op.list.as_ref().map(|list| list.reference()));
        let (list, is_other) = match &answer {
            Answer::OtherList { list, .. } => (list.clone(), true),
            Answer::Listed(listed) => (listed.list.clone(), true),
            _ => (None, false),
        };
        if is_other {
            let theirs = list.as_ref().map_or(0, |list| list.number());
            if let Some(list) = list {
                self.learn(now, partition, list, actions);
            }
            let entered = self.ops.get(&id).and_then(|op| op.list.as_ref()).map(|list| list.reference());
            if entered != mine {
                // Learning a higher list made the op enter that.
            } else if mine.is_some_and(|mine| theirs < mine.number) {
                self.step(now, id, actions, |op, todo, now| match (&mut op.machine, todo) {
                    (Machine::Write(write), Todo::Write(todo)) => write.behind(from, now.instant, todo),
                    (Machine::Read(read), Todo::Read(todo)) => read.behind(from, now, todo),
                    _ => {}
                });
            } else {
                // It serves another list of that number, or is not in it as it sees itself: ask again later.
                self.op_lost(now, id, request_id, from, actions);
            }
            return;
        }
        self.step(now, id, actions, |op, todo, now| match (&mut op.machine, todo) {
            (Machine::Write(write), Todo::Write(todo)) => write.answered(from, answer, now.instant, todo),
            (Machine::Read(read), Todo::Read(todo)) => read.answered(from, answer, now, todo),
            _ => {}
        });
    }

    pub(super) fn op_lost(
        &mut self,
        now: Now,
        id: OpId,
        request_id: u64,
        from: Identity,
        actions: &mut Vec<Action<C>>,
    ) {
        self.step(now, id, actions, |op, todo, now| {
            op.requests.retain(|request| *request != request_id);
            match (&mut op.machine, todo) {
                (Machine::Write(write), _) => write.lost(from, now.instant),
                (Machine::Read(read), Todo::Read(todo)) => read.lost(from, now, todo),
                _ => {}
            }
        });
    }

    pub(super) fn wake_op(&mut self, now: Now, id: OpId, actions: &mut Vec<Action<C>>) {
        if self.ops.get(&id).is_none_or(|op| op.wake > now.instant) {
            return;
        }
        self.step(now, id, actions, |op, todo, now| match (&mut op.machine, todo) {
            (Machine::Write(write), Todo::Write(todo)) => write.ask_due(now.instant, todo),
            (Machine::Read(read), Todo::Read(todo)) => read.ask_due(now, todo),
            _ => {}
        });
    }

    /// The members changed.
    pub(super) fn ops_placed(&mut self, now: Now, actions: &mut Vec<Action<C>>) {
        let placement = self.placement.clone();
        let alive = |member: &Identity| !placement.is_dead(member);
        let ids: Vec<OpId> = self.ops.keys().copied().collect();
        for id in ids {
            self.step(now, id, actions, |op, todo, now| match (&mut op.machine, todo) {
                (Machine::Write(write), _) => write.members_changed(alive),
                (Machine::Read(read), Todo::Read(todo)) => read.members_changed(alive, now, todo),
                _ => {}
            });
        }
    }

    /// The partition has a new list: its calls count in that from now on.
    pub(super) fn ops_relisted(
        &mut self,
        now: Now,
        list: &Arc<List>,
        partition: Partition,
        actions: &mut Vec<Action<C>>,
    ) {
        let of_partition = (partition, OpId(0))..=(partition, OpId(u64::MAX));
        let ids: Vec<OpId> = self.ops_of.range(of_partition).map(|&(_, id)| id).collect();
        for id in ids {
            // Not there: the op that is being worked on, which enters the list itself.
            if let Some(op) = self.ops.remove(&id) {
                self.enter(now, id, op, list.clone(), actions);
            }
        }
    }

    /// Takes an op, lets `change` work on it, carries out what that asks for, and puts it back.
    fn step(
        &mut self,
        now: Now,
        id: OpId,
        actions: &mut Vec<Action<C>>,
        change: impl FnOnce(&mut Op<C>, Todo<'_>, Now),
    ) {
        let Some(mut op) = self.ops.remove(&id) else { return };
        if let Machine::Write(_) = op.machine {
            let mut todo = Vec::new();
            change(&mut op, Todo::Write(&mut todo), now);
            self.perform_write(now, id, &mut op, todo, actions);
        } else {
            let mut todo = Vec::new();
            change(&mut op, Todo::Read(&mut todo), now);
            self.perform_read(now, id, &mut op, todo, actions);
        }
        self.finish_step(now, id, op, actions);
    }

    fn perform_write(
        &mut self,
        now: Now,
        id: OpId,
        op: &mut Op<C>,
        todo: Vec<WriteAction>,
        actions: &mut Vec<Action<C>>,
    ) {
        for action in todo {
            match action {
                WriteAction::Ask { to, request } => self.ask_for(now, id, op, to, request, actions),
                WriteAction::Stamp { above } => {
                    self.forget_requests(op);
                    let Machine::Write(write) = &mut op.machine else { return };
                    let held = self.store.get(op.hash, write.entry().key());
                    let forgotten = self.replica(op.partition).purge_horizon;
                    let held = held.map_or(forgotten, |held| held.version());
                    let before = self.recent_writes.insert(op.hash, id).filter(|before| *before != id);
                    let above = above.max(self.follow(before));
                    op.follows = op.follows.or(before);
                    self.clock.witness(above, now.wall);
                    let version = self.clock.stamp_above(above.max(held), now.wall);
                    let mut todo = Vec::new();
                    write.stamped(version, &mut todo);
                    self.perform_write(now, id, op, todo, actions);
                }
            }
        }
    }

    fn perform_read(
        &mut self,
        now: Now,
        id: OpId,
        op: &mut Op<C>,
        todo: Vec<ReadAction>,
        actions: &mut Vec<Action<C>>,
    ) {
        for action in todo {
            match action {
                ReadAction::Ask { to, request } => self.ask_for(now, id, op, to, request, actions),
                ReadAction::Done(found) => {
                    let live = found.filter(|entry| entry.live_value(now.wall).is_some());
                    let outcome = match op.touch {
                        None => Outcome::Read(Ok(live)),
                        Some(touch) => match live.and_then(|held| self.retimed(now, &held, touch)) {
                            Some(entry) => return self.write_retimed(now, id, op, entry, actions),
                            None => Outcome::Touched(Ok(false)),
                        },
                    };
                    if let Some(caller) = op.caller.take() {
                        self.reply(caller, outcome, actions);
                    }
                }
            }
        }
    }

    /// The read of a touch is over: from here on it is a write, in the same list.
    fn write_retimed(
        &mut self,
        now: Now,
        id: OpId,
        op: &mut Op<C>,
        entry: Entry,
        actions: &mut Vec<Action<C>>,
    ) {
        self.forget_requests(op);
        let Some(list) = op.list.clone() else { return };
        let placement = self.placement.clone();
        let mut write = Write::retimed(entry, self.config.write_quorum);
        let mut todo = Vec::new();
        write.enter(list, |member| !placement.is_dead(member), &mut todo);
        op.machine = Machine::Write(write);
        self.perform_write(now, id, op, todo, actions);
    }

    fn ask_for(
        &mut self,
        now: Now,
        id: OpId,
        op: &mut Op<C>,
        to: Identity,
        request: Request,
        actions: &mut Vec<Action<C>>,
    ) {
        let is_courtesy = matches!(request, Request::Adopt { .. });
        let asker = if is_courtesy { Asker::List(op.partition) } else { Asker::Op(id) };
        match self.ask(to, op.partition, request, asker, actions) {
            Some(request_id) if !is_courtesy => op.requests.push(request_id),
            Some(_) => {}
            None => match &mut op.machine {
                Machine::Write(write) => write.lost(to, now.instant),
                // Asks the next at once; the ring of retries ends where all wait for their time.
                Machine::Read(read) => {
                    let mut todo = Vec::new();
                    read.lost(to, now, &mut todo);
                    self.perform_read(now, id, op, todo, actions);
                }
            },
        }
    }

    fn forget_requests(&mut self, op: &mut Op<C>) {
        for request in op.requests.drain(..) {
            self.outstanding.remove(&request);
        }
    }

    /// Replies where it is time to, then puts the op back, or ends it.
    fn finish_step(&mut self, now: Now, id: OpId, mut op: Op<C>, actions: &mut Vec<Action<C>>) {
        let is_late = now.instant >= op.deadline;
        let may_acknowledge = self.lacks_majority(now).is_none();
        let is_over = match &mut op.machine {
            Machine::Write(write) => {
                // What was acknowledged once is owed, even where it counts anew in a later list.
                if op.caller.is_none() || write.is_acknowledged() && may_acknowledge {
                    if let Some(caller) = op.caller.take() {
                        if !matches!(caller, Caller::Relay(..)) {
                            self.relay(now, op.hash, write.entry());
                        }
                        op.deadline = now.instant + OWED_FOR;
                        let (before, quorum) = (op.follows.take(), write.needed());
                        let outcome = written(op.touch, Ok(()));
                        self.reply(caller, outcome, actions);
                        self.cover(before, quorum, actions);
                    }
                    let is_over = write.is_everywhere() || now.instant >= op.deadline;
                    is_over || is_planted(Planted::NothingOwed)
                } else {
                    if is_late && let Some(caller) = op.caller.take() {
                        let error = write_error(write);
                        let outcome = written(op.touch, Err(error));
                        self.reply(caller, outcome, actions);
                    }
                    is_late
                }
            }
            Machine::Read(read) => {
                if is_late && let Some(caller) = op.caller.take() {
                    let (answered, needed) = (read.answers(), read.needed());
                    let error = ReadError::TimedOut { answered, needed };
                    let outcome = unread(op.touch, error, NotApplied::Unavailable);
                    self.reply(caller, outcome, actions);
                }
                op.caller.is_none()
            }
        };
        if is_over {
            return self.end(id, op);
        }
        self.locate(now, &mut op, actions);
        let retry = match &op.machine {
            Machine::Write(write) => write.next_retry(),
            Machine::Read(read) => read.next_wake(),
        };
        let locate = op.caller.is_some().then_some(op.locate_at);
        self.timers.remove(&(op.wake, Timer::Op(id)));
        op.wake = retry.into_iter().chain(locate).fold(op.deadline, Instant::min);
        self.timers.insert((op.wake, Timer::Op(id)));
        if op.caller.is_none() && self.owed.insert(id) {
            self.owed_bytes += op.bytes();
        }
        self.ops.insert(id, op);
        self.forget_oldest_owed();
    }

    fn end(&mut self, id: OpId, mut op: Op<C>) {
        self.forget_requests(&mut op);
        self.ops_of.remove(&(op.partition, id));
        if self.owed.remove(&id) {
            self.owed_bytes -= op.bytes();
        }
        self.timers.remove(&(op.wake, Timer::Op(id)));
        // The one that it followed may be owed still.
        let before = op.follows.filter(|before| self.ops.contains_key(before));
        if self.recent_writes.get(&op.hash) == Some(&id) {
            match before {
                Some(before) => self.recent_writes.insert(op.hash, before),
                None => self.recent_writes.remove(&op.hash),
            };
        } else if before.is_some() {
            let of_partition = (op.partition, OpId(0))..=(op.partition, OpId(u64::MAX));
            for (_, other) in self.ops_of.range(of_partition) {
                if let Some(next) = self.ops.get_mut(other).filter(|next| next.follows == Some(id)) {
                    next.follows = before;
                }
            }
        }
    }

    fn forget_oldest_owed(&mut self) {
        let most = self.config.memory.map_or(MAX_OWED_BYTES, |memory| MAX_OWED_BYTES.min(memory / 16));
        while self.owed.len() > MAX_OWED || self.owed_bytes > most {
            let Some(op) = self.owed.first().copied().and_then(|id| Some((id, self.ops.remove(&id)?))) else {
                return;
            };
            self.end(op.0, op.1);
        }
    }

    /// A call that knows no list, or one that this node is not in and whose members are not who should
    /// hold the partition, asks those for theirs.
    fn locate(&mut self, now: Now, op: &mut Op<C>, actions: &mut Vec<Action<C>>) {
        if op.caller.is_none() || now.instant < op.locate_at {
            return;
        }
        op.locate_at = now.instant + LOCATE_PERIOD;
        let target = self.target(op.partition);
        let is_known =
            op.list.as_ref().is_some_and(|list| list.contains(&self.me) || list.has_members(&target));
        if is_known || self.stage == Stage::Forming {
            return;
        }
        let me = self.me;
        for to in target.into_iter().filter(|member| *member != me) {
            // The answer's list is learned, which makes the partition's calls enter it.
            self.ask(to, op.partition, Request::AskList, Asker::List(op.partition), actions);
        }
    }

    /// Answers every call that is under way.
    pub(super) fn stop(&mut self, by: StoppedBy, actions: &mut Vec<Action<C>>) {
        self.stop_groups(by, actions);
        self.stop_forwards();
        for (_, caller) in std::mem::take(&mut self.waiting) {
            let outcome = Outcome::Written(Err(NotApplied::from(by).into()));
            self.reply(caller, outcome, actions);
        }
        for (_, mut op) in std::mem::take(&mut self.ops) {
            let outcome = match &op.machine {
                Machine::Write(write) if write.may_have_happened() => {
                    written(op.touch, Err(write_error(write)))
                }
                Machine::Write(_) => written(op.touch, Err(NotApplied::from(by).into())),
                Machine::Read(_) => unread(op.touch, by.into(), by.into()),
            };
            if let Some(caller) = op.caller.take() {
                self.reply(caller, outcome, actions);
            }
        }
        let forwards: Vec<ForwardId> = self.forwards.keys().copied().collect();
        forwards.into_iter().for_each(|id| self.end_forward(id, actions));
    }

    /// All but the redundancy debt.
    pub(crate) fn counts(&self) -> Counts {
        let not_begun = self.waiting.len() + self.groups.values().map(Group::not_begun).sum::<usize>();
        let not_begun =
            not_begun + self.forwards.values().filter(|forward| forward.is_asking_others()).count();
        let in_flight = not_begun + self.ops.values().filter(|op| op.caller.is_some()).count();
        Counts {
            keys: self.store.live(),
            bytes: self.store.bytes(),
            held_bytes: self.store.retired_bytes(),
            synced_partitions: self.synced_partitions(),
            pending_partitions: self.pending,
            giving_partitions: self.giving,
            calls_in_flight: in_flight,
            writes_owed: self.owed.len(),
            writes_to_relay: self.relays.waiting(),
            writes_not_relayed: self.relays.given_up(),
            partitions_repaired: self.anti_entropy.repaired(),
            redundancy_debt: 0,
        }
    }
}

/// This node first, then whoever acknowledged this node's own latest write of the key, then those of this node's zone, then
/// the others, a different one first for different keys.
fn read_order(
    me: Identity,
    placement: &Placement,
    list: &List,
    hash: KeyHash,
    own: Option<&Write>,
) -> Vec<Identity> {
    let has_own_write = |member: &Identity| own.is_some_and(|write| write.is_held_by(member));
    let mut order = list.members().to_vec();
    if !order.is_empty() {
        let shift = (hash.0 % order.len() as u64) as usize;
        order.rotate_left(shift);
    }
    let zone = |node: &Identity| placement.member(node.node).map(|member| &member.site.zone);
    let mine = zone(&me);
    order.sort_by_cached_key(|member| (*member != me, !has_own_write(member), zone(member) != mine));
    order
}

/// Where a machine's wishes go.
enum Todo<'a> {
    Write(&'a mut Vec<WriteAction>),
    Read(&'a mut Vec<ReadAction>),
}

fn write_error(write: &Write) -> WriteError {
    if write.may_have_happened() {
        WriteError::Indeterminate { acked: write.acked(), needed: write.needed() }
    } else {
        WriteError::NotApplied(NotApplied::Unavailable)
    }
}
