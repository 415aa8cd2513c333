//! What passes between this data center and the others: joins [`Relays`](crate::replication::relay::Relays) with store and calls.
//!
//! Nothing here counts in a list: lists, and quorums in them, are each data center's own. Writes are relayed, reads
//! that find nothing may be forwarded, and whole partitions are compared and copied between the first replicas of each.

use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use super::coordinate::Machine;
use super::groups::Caller;
use super::{Action, Asker, Call, Outcome, ReadCall, Shard, Timer};
use crate::clock::{Instant, Now};
use crate::entry::Entry;
use crate::error::ReadError;
use crate::placement::{Member, Placement};
use crate::replication::relay::{Candidate, RelayAction};
use crate::replication::write::Write;
use crate::simulated::{Planted, is_planted};
use crate::types::{Identity, KeyHash, Partition};
use crate::wire::message::{Answer, Found, Request};

/// How long a relay tries to write, and a read is tried for another data center.
const TRY_FOR: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct RelayId(u64);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ForwardId(u64);

/// Whom to answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    via: u64,
    partition: Partition,
    request_id: u64,
}

/// A batch of another data center's writes that are being written here.
pub(super) struct Relayed {
    peer: Peer,
    /// How many have no outcome yet, and one more while they are begun.
    open: usize,
    written: Vec<u16>,
}

/// A read that other data centers are asked for where this one has nothing.
pub(super) struct Forward<C> {
    caller: Caller<C>,
    key: Box<[u8]>,
    partition: Partition,
    deadline: Instant,
    /// What this data center has said.
    here: Option<Outcome>,
    to_ask: Vec<Identity>,
    /// How many of those have not answered.
    open: usize,
}

impl<C> Forward<C> {
    /// This data center has nothing, or no answer.
    pub(super) fn is_asking_others(&self) -> bool {
        self.here.is_some()
    }
}

impl<C> Shard<C> {
    /// Takes up which other data centers there are.
    pub(super) fn placed_elsewhere(&mut self, now: Now, old: &Placement) {
        let others = self.placement.elsewhere().iter();
        let others = others.map(|(name, other)| (name.clone(), self.candidates(other))).collect();
        self.relays.placed(now.instant, others);
        let placement = self.placement.clone();
        for other in placement.elsewhere().values() {
            for member in other.members().iter().filter(|member| !old.is_alive(&member.identity)) {
                // It may have been out of reach.
                self.hurry_to_compare(now, member.identity);
            }
        }
    }

    /// Who of another data center may relay this core's writes: each core prefers another one.
    fn candidates(&self, other: &Placement) -> Vec<Candidate> {
        let mut members: Vec<&Member> = other.members().iter().collect();
        let (me, core) = (self.me.node.0.to_le_bytes(), self.config.core.0.to_le_bytes());
        members.sort_by_cached_key(|member| {
            let node = member.identity.node.0.to_le_bytes();
            (member.leaving, xxh3_64(&[&node[..], &me[..], &core[..]].concat()))
        });
        members.into_iter().map(|member| (member.identity, member.cores)).collect()
    }

    /// The first replica of the partition in each other data center, where this node is the first one here.
    pub(super) fn firsts_elsewhere(&self, partition: Partition) -> impl Iterator<Item = &Member> {
        let first = self.placement.replicas(partition).next();
        let is_first = first.is_some_and(|first| first.identity == self.me);
        let is_first = is_first && !is_planted(Planted::FarNotCompared);
        let others = self.placement.elsewhere().values().filter(move |_| is_first);
        others.filter_map(move |other| other.replicas(partition).next())
    }

    /// A write was acknowledged here: the other data centers are to have it.
    pub(super) fn relay(&mut self, now: Now, hash: KeyHash, entry: &Entry) {
        if self.relays.is_wanted() {
            self.relays.add(now.instant, hash, entry);
        }
    }

    /// Sends what is due to be relayed.
    pub(super) fn send_relays(&mut self, now: Now, actions: &mut Vec<Action<C>>) {
        self.relay_at = None;
        let mut todo = Vec::new();
        let Self { relays, replicas, cores, .. } = self;
        let horizon = |hash: KeyHash| replicas[usize::from(cores.local(hash.partition()))].purge_horizon;
        relays.handle_timers(now.instant, |hash, version| version <= horizon(hash), &mut todo);
        for RelayAction::Send { batch, to, entries } in todo {
            let Some(partition) = entries.first().map(|entry| self.hash(entry.key()).partition()) else {
                continue;
            };
            let asked = self.ask(to, partition, Request::Relay { entries }, Asker::Relay(batch), actions);
            if asked.is_none() {
                self.relays.failed(batch, now.instant);
            }
        }
    }

    pub(super) fn relay_answered(&mut self, now: Now, batch: u64, answer: &Answer) {
        match answer {
            Answer::Relayed { places } => self.relays.relayed(batch, places, now.instant),
            _ => self.relays.failed(batch, now.instant),
        }
    }

    /// Keeps the timer for what is to be sent next.
    pub(super) fn schedule_relays(&mut self) {
        let wake = self.relays.deadline();
        if wake != self.relay_at {
            let old = std::mem::replace(&mut self.relay_at, wake);
            old.map(|at| self.timers.remove(&(at, Timer::Relay)));
            self.timers.extend(wake.map(|at| (at, Timer::Relay)));
        }
    }

    /// Answers what another data center asks, which knows nothing of this one's lists; at once, where that can be.
    pub(super) fn serve_elsewhere(
        &mut self,
        now: Now,
        from: Identity,
        peer: (u64, Partition, u64),
        request: Request,
        actions: &mut Vec<Action<C>>,
    ) -> Option<Answer> {
        let (via, partition, request_id) = peer;
        let peer = Peer { via, partition, request_id };
        match request {
            Request::Relay { entries } => {
                self.write_relayed(now, peer, entries, actions);
                None
            }
            Request::Forward { key } => {
                let hash = self.hash(&key);
                let (quorum, deadline) = (self.config.read_quorum, now.instant + TRY_FOR);
                let call = ReadCall { key, hash, quorum, local: false, anywhere: false, deadline };
                self.call(now, Call::Read(Box::new(call)), Caller::Peer(peer), actions);
                None
            }
            // What this node has is not given away, so nobody need confirm that it has it.
            Request::Receipt { .. } => Some(Answer::Received { covered: true }),
            Request::Fetch(_)
            | Request::Compare(_)
            | Request::Repair { .. }
            | Request::Purge { .. }
            | Request::Purged { .. }
            | Request::Survey(_) => Some(self.serve(now, from, partition, request, actions)),
            Request::Write { .. } | Request::Read { .. } | Request::AskList | Request::Adopt { .. } => {
                Some(Answer::Declined)
            }
        }
    }

    /// Writes what another data center has acknowledged, as a coordinator of this one.
    fn write_relayed(&mut self, now: Now, peer: Peer, entries: Vec<Entry>, actions: &mut Vec<Action<C>>) {
        let id = RelayId(self.new_id());
        let (quorum, deadline) = (self.config.write_quorum, now.instant + TRY_FOR);
        let can_write = self.check_alive(now, quorum).is_ok();
        self.relayed.insert(id, Relayed { peer, open: entries.len() + 1, written: Vec::new() });
        for (place, entry) in (0..).zip(entries) {
            let (hash, caller) = (self.hash(entry.key()), Caller::Relay(id, place));
            if !can_write {
                self.relay_written(id, place, false, actions);
                continue;
            }
            let machine = Machine::Write(Write::relayed(entry, quorum));
            self.begin(now, hash, machine, None, deadline, caller, actions);
            self.answer_self(now, actions);
        }
        self.end_relayed(id, actions);
    }

    /// How writing the relayed entry at this place ended.
    pub(super) fn relay_written(
        &mut self,
        id: RelayId,
        place: u16,
        is_written: bool,
        actions: &mut Vec<Action<C>>,
    ) {
        if let Some(relayed) = self.relayed.get_mut(&id) {
            relayed.written.extend(is_written.then_some(place));
            self.end_relayed(id, actions);
        }
    }

    fn end_relayed(&mut self, id: RelayId, actions: &mut Vec<Action<C>>) {
        let Some(relayed) = self.relayed.get_mut(&id) else { return };
        relayed.open -= 1;
        if relayed.open == 0
            && let Some(Relayed { peer, written: mut places, .. }) = self.relayed.remove(&id)
        {
            places.sort_unstable();
            answer(peer, Answer::Relayed { places }, actions);
        }
    }

    /// Reads here, and elsewhere where there is nothing.
    pub(super) fn read_anywhere(
        &mut self,
        now: Now,
        call: ReadCall,
        caller: Caller<C>,
        actions: &mut Vec<Action<C>>,
    ) {
        let id = ForwardId(self.new_id());
        let partition = call.hash.partition();
        let firsts = self.placement.elsewhere().values().filter_map(|other| other.replicas(partition).next());
        let forward = Forward {
            caller,
            key: call.key.clone(),
            partition,
            deadline: call.deadline,
            here: None,
            to_ask: firsts.map(|member| member.identity).collect(),
            open: 0,
        };
        self.timers.insert((call.deadline, Timer::Forward(id)));
        self.forwards.insert(id, forward);
        // Half of the time is for the others.
        let deadline = now.instant + call.deadline.since(now.instant) / 2;
        let call = ReadCall { anywhere: false, deadline, ..call };
        self.call(now, Call::Read(Box::new(call)), Caller::Forward(id), actions);
    }

    /// This data center has answered a read.
    pub(super) fn forward_read_here(
        &mut self,
        id: ForwardId,
        outcome: Outcome,
        actions: &mut Vec<Action<C>>,
    ) {
        let Some(forward) = self.forwards.get_mut(&id) else { return };
        let is_found = matches!(outcome, Outcome::Read(Ok(Some(_))));
        forward.here = Some(outcome);
        if is_found {
            self.end_forward(id, actions);
        } else {
            self.ask_others(id, actions);
        }
    }

    /// Asks all the others at once; where there is none, what this one said is the answer.
    fn ask_others(&mut self, id: ForwardId, actions: &mut Vec<Action<C>>) {
        let Some(forward) = self.forwards.get_mut(&id) else { return };
        let (partition, key) = (forward.partition, forward.key.clone());
        let mut open = 0;
        for to in std::mem::take(&mut forward.to_ask) {
            let request = Request::Forward { key: key.clone() };
            open += usize::from(self.ask(to, partition, request, Asker::Forward(id), actions).is_some());
        }
        if let Some(forward) = self.forwards.get_mut(&id).filter(|_| open > 0) {
            forward.open = open;
        } else {
            self.end_forward(id, actions);
        }
    }

    pub(super) fn forward_answered(
        &mut self,
        now: Now,
        id: ForwardId,
        answer: Option<Answer>,
        actions: &mut Vec<Action<C>>,
    ) {
        let Some(forward) = self.forwards.get_mut(&id) else { return };
        match answer {
            Some(Answer::Found { found: Found::Entry(entry), .. })
                if entry.live_value(now.wall).is_some() =>
            {
                (forward.here, forward.open) = (Some(Outcome::Read(Ok(Some(entry)))), 0);
                self.end_forward(id, actions);
            }
            _ => {
                forward.open = forward.open.saturating_sub(1);
                if forward.open == 0 {
                    self.end_forward(id, actions);
                }
            }
        }
    }

    /// Nobody else is asked any more.
    pub(super) fn stop_forwards(&mut self) {
        self.forwards.values_mut().for_each(|forward| forward.to_ask.clear());
    }

    /// Replies what is known, which is that there is nothing, or why nothing is known.
    pub(super) fn end_forward(&mut self, id: ForwardId, actions: &mut Vec<Action<C>>) {
        let is_answered = self.forwards.get(&id).is_some_and(|forward| forward.here.is_some());
        if is_answered
            && let Some(Forward { caller, deadline, open, here: Some(outcome), .. }) =
                self.forwards.remove(&id)
        {
            self.timers.remove(&(deadline, Timer::Forward(id)));
            // One that has not answered may have what this one has not.
            let outcome = match outcome {
                Outcome::Read(Ok(None)) if open > 0 => {
                    Outcome::Read(Err(ReadError::TimedOut { answered: 1, needed: 1 + open }))
                }
                outcome => outcome,
            };
            self.reply(caller, outcome, actions);
        }
    }
}

/// The answer to a read that another data center has forwarded.
pub(super) fn answer_forwarded<C>(peer: Peer, outcome: Outcome, actions: &mut Vec<Action<C>>) {
    let found = match outcome {
        Outcome::Read(Ok(Some(entry))) => Found::Entry(entry),
        Outcome::Read(Ok(None)) => Found::Absent { mark: Default::default() },
        _ => return answer(peer, Answer::Declined, actions),
    };
    answer(peer, Answer::Found { found, synced: true }, actions);
}

fn answer<C>(peer: Peer, answer: Answer, actions: &mut Vec<Action<C>>) {
    let Peer { via, partition, request_id } = peer;
    actions.push(Action::Answer { via, partition, request_id, answer });
}
