//! [`Shard`]: what one core owns. This file is the joint: it alone knows all parts.
//!
//! A shard is told an [`Event`] and returns [`Action`]s; it has no thread, socket or clock. It is
//! made of three persons, each with state of its own:
//!
//! ```text
//!   ┌──────────────┐  effects  ┌──────────────┐
//!   │ data centers │◀─────────▶│ coordinator  │   relays, forwarded reads │ calls and their quorums
//!   └──────┬───────┘           └──────┬───────┘
//!          │ uses                     │ uses
//!          ▼                          ▼
//!   ┌─────────────────────────────────────────┐
//!   │ replica                                 │   copies, lists, handoffs, anti-entropy, purge
//!   └─────────────────────────────────────────┘
//! ```
//!
//! - [`coordinator`] runs the calls. It asks replicas, of which its own node's is one.
//! - [`replica`] keeps the copies and answers requests. It knows no coordinator.
//! - [`data_centers`] passes writes and reads to other sites, and serves theirs.
//!
//! All of them may use a [`Turn`]: the time, what this node sees ([`node`]), the requests
//! without an answer ([`requests`]), the timers ([`timers`]), and two lists to which they add.
//! *Actions* are what the threads should do. *Effects* are what another part must know; a part never
//! calls one above it. So every event takes one way:
//!
//! ```text
//!   event ─▶ the part that it is for ─▶ effects, each to its part ─▶ own replica's answers ─▶ actions
//!              ▲                                                            │
//!              └────────────── until there are no effects left ─────────────┘
//! ```
//!
//! For example, a write that three replicas hold: [`Event::Call`] goes to the coordinator, which
//! begins an operation and asks all replicas ([`Action::Ask`]), its own too. Each answer comes as an
//! [`Event::Answer`], is matched with its request, and counts. With the W-th the coordinator replies
//! to the caller ([`Action::Reply`]). If there are other data centers, it leaves an
//! [`Effect::Acknowledged`], for which the joint lets the data centers' part queue the write. The
//! operation lives on as a hint until every replica has the write.
//!
//! Two ways are shorter, for speed: a reader on any thread reads the copies without an event
//! ([`local_read`]), and a write that its node decides alone is stored and answered in one step.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::clock::{Instant, Now};
#[cfg(feature = "sim")]
use crate::entry::Entry;
use crate::replication::write::Write;
use crate::simulated::{Planted, is_planted};
use crate::store::{Readers, View};
#[cfg(feature = "sim")]
use crate::types::{KeyHash, Partition};
use crate::wire::message::{Answer, Listed};
use crate::wire::timing::RELAY_TRIES_FOR;

mod caller;
mod calls;
mod coordinator;
mod data_centers;
mod debt;
mod effects;
mod interface;
mod local_read;
mod local_shard;
mod node;
mod replica;
mod requests;
mod timers;
mod turn;

use self::caller::{Caller, ReturnAddress};
pub(crate) use self::calls::{
    Call, Counts, KeysCall, Outcome, ReadCall, RunCall, StoppedBy, TouchCall, WriteCall,
    WriteRules, check_lengths, expires_at_ms,
};
use self::coordinator::Coordinator;
use self::data_centers::DataCenters;
use self::effects::Effect;
pub(crate) use self::interface::{Action, Debt, Event, Lease, ShardConfig};
pub(crate) use self::local_read::{LocalAnswer, LocalRules, read_local};
pub use self::local_shard::LocalShard;
use self::node::Node;
use self::replica::Replica;
use self::requests::{Asker, Outstanding, Requests};
use self::timers::{Timer, Timers};
use self::turn::Turn;
pub(crate) use crate::placement::Stage;

/// How many timers one turn fires; the rest are due in the next.
const TIMERS_PER_TURN: usize = 256;

/// One core's share of a node.
pub(crate) struct Shard<C> {
    node: Node,
    replica: Replica,
    coordinator: Coordinator<C>,
    data_centers: DataCenters<C>,
    requests: Requests,
    timers: Timers,
    /// Empty between two events.
    effects: VecDeque<Effect<C>>,
}

/// The three persons, for the time of one event.
struct Parts<'a, C> {
    replica: &'a mut Replica,
    coordinator: &'a mut Coordinator<C>,
    data_centers: &'a mut DataCenters<C>,
}

impl<C> Shard<C> {
    /// Makes a shard that these readers can read.
    pub(crate) fn new(config: ShardConfig, readers: Arc<Readers>) -> Self {
        Self {
            replica: Replica::new(&config, readers),
            coordinator: Coordinator::new(),
            data_centers: DataCenters::new(&config),
            requests: Requests::new(),
            timers: Timers::default(),
            effects: VecDeque::new(),
            node: Node::new(config),
        }
    }

    /// Returns what other threads read from.
    pub(crate) fn view(&self) -> &Arc<View> {
        self.replica.copies.store.view()
    }

    /// Takes up an event. What is to be done is added to `actions`.
    pub(crate) fn handle(&mut self, now: Now, event: Event<C>, actions: &mut Vec<Action<C>>) {
        match event {
            Event::Placement { placement, stage } => {
                let is_birth =
                    matches!(stage, Stage::Born { .. }) && self.node.stage == Stage::Forming;
                let old = self.node.place(placement, stage);
                let (parts, mut turn) = self.split(now, actions);
                parts.replica.placed(&mut turn, &old, is_birth);
                parts.data_centers.relaying.placed(&turn);
                self.node.relays_writes = self.data_centers.relaying.is_wanted();
                let (mut parts, mut turn) = self.split(now, actions);
                parts.finish_effects(&mut turn);
                parts.coordinator.members_changed(&mut turn, parts.replica);
                parts.settle(&mut turn);
            }
            Event::NewLife { me } => {
                self.node.start_new_life(me.life());
                let (mut parts, mut turn) = self.split(now, actions);
                parts.replica.start_new_life(&mut turn);
                parts.settle(&mut turn);
            }
            Event::Lease(lease) => {
                self.node.lease = Some(lease);
                let (mut parts, mut turn) = self.split(now, actions);
                parts.settle(&mut turn);
            }
            Event::Stop(by) => {
                let (mut parts, mut turn) = self.split(now, actions);
                parts.data_centers.forwards.ask_no_more();
                parts.coordinator.stop(&mut turn, by);
                parts.finish_effects(&mut turn);
                parts.data_centers.stop(&mut turn);
                parts.finish_effects(&mut turn);
            }
            event => {
                let (mut parts, mut turn) = self.split(now, actions);
                parts.handle(&mut turn, event);
                parts.settle(&mut turn);
            }
        }
    }

    /// Fires what is due, as much of it as one turn allows. If there is more,
    /// [`deadline`](Self::deadline) has passed.
    pub(crate) fn handle_timers(&mut self, now: Now, actions: &mut Vec<Action<C>>) {
        let (mut parts, mut turn) = self.split(now, actions);
        for _ in 0..TIMERS_PER_TURN {
            let Some(timer) = turn.timers.pop_due(now.instant) else { break };
            parts.fire(&mut turn, timer);
            parts.finish_effects(&mut turn);
        }
        parts.settle(&mut turn);
    }

    /// When [`handle_timers`](Self::handle_timers) should be called next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }

    /// Whether another node has been asked and has not answered.
    pub(crate) fn expects_answers(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Lets go of every caller, and does nothing else: for a shard that has panicked, whose state
    /// means nothing any more.
    pub(crate) fn abandon(&mut self) {
        // Both parts are replaced whole, so that no list of their fields can miss a caller.
        drop(std::mem::replace(&mut self.coordinator, Coordinator::new()));
        drop(std::mem::replace(&mut self.data_centers, DataCenters::new(&self.node.config)));
        self.effects.clear();
    }

    fn split<'a>(
        &'a mut self,
        now: Now,
        actions: &'a mut Vec<Action<C>>,
    ) -> (Parts<'a, C>, Turn<'a, C>) {
        let Self { node, replica, coordinator, data_centers, requests, timers, effects } = self;
        let turn = Turn { now, node, requests, timers, effects, actions };
        (Parts { replica, coordinator, data_centers }, turn)
    }
}

impl<C> Parts<'_, C> {
    /// Hands an event to the part that it is for.
    fn handle(&mut self, turn: &mut Turn<'_, C>, event: Event<C>) {
        match event {
            Event::Call { call, caller } => {
                self.coordinator.call(turn, self.replica, call, Caller::App(caller));
            }
            Event::Request { via, from, partition, request_id, request } => {
                if let Err(why) = replica::check(turn.node, partition, &request) {
                    return turn.actions.push(Action::Violation { via, why });
                }
                let from = from.life();
                let address = ReturnAddress { via, partition, request_id };
                let answer = if turn.node.in_other_data_center(from.node) {
                    self.data_centers.serve(turn, self.replica, from, address, request)
                } else {
                    Some(self.replica.serve(turn, from, partition, request))
                };
                if let Some(answer) = answer {
                    turn.answer(address, answer);
                }
            }
            Event::Answer { request_id, answer } => self.answered(turn, request_id, answer),
            Event::Lost { node, boot } => {
                for request_id in turn.requests.to_life((node, boot)) {
                    self.unanswered(turn, request_id);
                }
                // Writes might have been lost with it.
                let peer = turn.node.placement.member(node).map(|member| member.identity);
                if let Some(peer) = peer.filter(|peer| peer.boot == boot) {
                    self.replica.hurry_to_compare(turn, peer);
                }
            }
            Event::Unsent { request_id } => self.unanswered(turn, request_id),
            Event::AskDebt { question } => {
                let debt = self.debt(turn);
                turn.actions.push(Action::Debt { question, debt });
            }
            Event::Placement { .. } | Event::Lease(_) | Event::NewLife { .. } | Event::Stop(_) => {
                unreachable!("the shard handles what changes its node")
            }
        }
    }

    /// Matches an answer with its request, and hands it to the part that asked.
    fn answered(&mut self, turn: &mut Turn<'_, C>, request_id: u64, mut answer: Answer) {
        let Some(request) = turn.requests.take(request_id) else { return };
        let Outstanding { to, in_other_data_center, partition, asker, expects } = request;
        if !expects.fits(&answer) {
            log::error!(
                "node {:?} answered a request of partition {} with {answer:?}, but {expects:?} was \
                 expected: is it of another version?",
                to.addr,
                partition.index()
            );
            return self.no_answer(turn, asker, request_id, to);
        }
        if let Answer::Listed(Listed { list, purge_horizon, .. })
        | Answer::OtherList { list, purge_horizon } = &mut answer
        {
            if in_other_data_center && !is_planted(Planted::FarListsCount) {
                // The lists of another data center mean nothing here.
                *list = None;
            }
            // Before the list is served that makes this node a replica.
            self.replica.copies.raise_purge_horizon(partition, *purge_horizon);
        }
        match asker {
            Asker::Op(op) => {
                self.coordinator.answered(turn, self.replica, op, request_id, to, answer);
            }
            Asker::Relay(batch) => self.data_centers.relaying.answered(turn, batch, Some(&answer)),
            Asker::Forward(id) => self.data_centers.forwards.answered(turn, id, Some(answer)),
            asker => self.replica.answered(turn, asker, request_id, to, answer),
        }
    }

    /// A request will have no answer. (One before it might have made it moot.)
    fn unanswered(&mut self, turn: &mut Turn<'_, C>, request_id: u64) {
        if let Some(Outstanding { to, asker, .. }) = turn.requests.take(request_id) {
            self.no_answer(turn, asker, request_id, to);
        }
    }

    fn no_answer(
        &mut self,
        turn: &mut Turn<'_, C>,
        asker: Asker,
        request_id: u64,
        to: crate::types::Identity,
    ) {
        match asker {
            Asker::Op(op) => self.coordinator.lost(turn, self.replica, op, request_id, to),
            Asker::Relay(batch) => self.data_centers.relaying.answered(turn, batch, None),
            Asker::Forward(id) => self.data_centers.forwards.answered(turn, id, None),
            asker => self.replica.unanswered(turn, asker, to),
        }
    }

    /// Hands a timer that is due to the part that set it.
    fn fire(&mut self, turn: &mut Turn<'_, C>, timer: Timer) {
        match timer {
            Timer::Op(op) => self.coordinator.handle_timer(turn, self.replica, op),
            Timer::Room => self.coordinator.go_on_waiting(turn, self.replica),
            Timer::Groups => self.coordinator.go_on_groups(turn, self.replica),
            Timer::Handoff(partition) => self.replica.resume_handoff(turn, partition),
            Timer::Remind(partition) => self.replica.remind(turn, partition),
            Timer::Compare => self.replica.compare(turn),
            Timer::Purge => self.replica.purge(turn),
            Timer::Expire => self.replica.expire(turn),
            Timer::Collect => self.replica.copies.store.collect(),
            Timer::Relay => self.data_centers.relaying.send(turn, &self.replica.copies),
            Timer::Forward(id) => self.data_centers.end_forward(turn, id),
            #[cfg(feature = "sim")]
            Timer::PutOff => self.replica.apply_put_off(turn),
        }
    }

    /// Hands each effect to the part that must know it, and lets the node's own replica answer, until
    /// there is nothing left of either.
    fn finish_effects(&mut self, turn: &mut Turn<'_, C>) {
        loop {
            self.coordinator.ask_own_replica(turn, self.replica);
            let Some(effect) = turn.effects.pop_front() else { break };
            match effect {
                Effect::Listed { partition, list } => {
                    self.coordinator.relisted(turn, self.replica, partition, &list);
                }
                Effect::Acknowledged { hash, entry } => {
                    self.data_centers.relaying.add(turn, hash, &entry);
                }
                Effect::Ended { caller, outcome } => self.data_centers.ended(turn, caller, outcome),
                Effect::ReadAnywhere { call, caller } => {
                    self.data_centers.read_anywhere(turn, call, caller);
                }
                Effect::Call { call, caller } => {
                    self.coordinator.call(turn, self.replica, call, caller);
                }
                Effect::WriteRelayed { hash, entry, caller } => {
                    let write = Write::relayed(entry, turn.node.config.write_quorum);
                    let deadline = turn.now.instant + RELAY_TRIES_FOR;
                    self.coordinator.write_relayed(
                        turn,
                        self.replica,
                        write,
                        hash,
                        deadline,
                        caller,
                    );
                }
                Effect::Reply { caller, outcome } => self.coordinator.reply(turn, caller, outcome),
                Effect::Count { caller } => {
                    let Debt { copies, writes, .. } = self.debt(turn);
                    let Self { replica, coordinator, data_centers } = self;
                    let counts = debt::counts(turn.node, replica, coordinator, data_centers);
                    let counts = Counts { redundancy_debt: copies + writes, ..counts };
                    self.coordinator.reply(turn, caller, Outcome::Counts(Box::new(counts)));
                }
            }
        }
    }

    fn debt(&self, turn: &Turn<'_, C>) -> Debt {
        let now = turn.now.instant;
        debt::debt(turn.node, now, self.replica, self.coordinator, self.data_centers)
    }

    /// Finishes a turn: effects first, then the handoffs that can start now, then each part's timers
    /// and reports.
    fn settle(&mut self, turn: &mut Turn<'_, C>) {
        loop {
            self.finish_effects(turn);
            if !self.replica.start_what_is_wanted(turn) {
                break;
            }
        }
        self.replica.finish_turn(turn);
        self.data_centers.finish_turn(turn);
    }
}

/// What the simulator looks at.
#[cfg(feature = "sim")]
impl<C> Shard<C> {
    /// Returns the value that this node would answer as a synced replica.
    pub(crate) fn peek(&self, now: Now, hash: KeyHash, key: &[u8]) -> Option<Vec<u8>> {
        let copies = &self.replica.copies;
        let is_synced = copies.partition(hash.partition()).serves_synced(&self.node.me);
        let entry = copies.store.get(hash, key).filter(|_| is_synced)?;
        entry.live_value(now.wall).map(<[u8]>::to_vec)
    }

    /// Returns what this node stores for the key, in any state, and whether as a synced replica.
    pub(crate) fn stored(&self, hash: KeyHash, key: &[u8]) -> Option<(Entry, bool)> {
        let copies = &self.replica.copies;
        let is_synced = copies.partition(hash.partition()).serves_synced(&self.node.me);
        copies.store.get(hash, key).map(|entry| (Entry::clone(&entry), is_synced))
    }

    /// Returns the number of the list that this node serves of the partition as a synced replica.
    pub(crate) fn serves(&self, partition: Partition) -> Option<u64> {
        let copy = self.replica.copies.partition(partition);
        copy.list().filter(|_| copy.serves_synced(&self.node.me)).map(|list| list.number())
    }

    /// Returns what this core holds and does, without its redundancy debt.
    pub(crate) fn counts(&self) -> Counts {
        debt::counts(&self.node, &self.replica, &self.coordinator, &self.data_centers)
    }
}

#[cfg(test)]
mod tests;
