//! [`Shard`]: one core's share of a node. It is told an [`Event`] and returns [`Action`]s; it has
//! no thread, socket or clock. This file joins its three parts: it hands each event, answer, timer
//! and effect to the part that it is for.
//!
//! ```text
//!   ┌──────────────────────────┐   effects   ┌──────────────────────────┐
//!   │ coordinator              │◀───────────▶│ data centers             │
//!   │ calls and their quorums  │             │ relays, forwarded reads  │
//!   └────┬─────────────────▲───┘             └────────────┬─────────────┘
//!        │ uses            │ effects                      │ uses
//!        ▼                 │                              ▼
//!   ┌──────────────────────┴────────────────────────────────────────────┐
//!   │ replica: copies, lists, handoffs, anti-entropy, purge             │
//!   └───────────────────────────────────────────────────────────────────┘
//! ```
//!
//! - [`coordinator`] runs the calls. It asks the replicas of the key's list, its own node's among
//!   them if that is in the list.
//! - [`data_centers`] passes writes and reads to other data centers, and serves theirs.
//! - [`replica`] keeps the copies and answers requests. It knows no coordinator.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | turn | one call of [`Shard::handle`] or [`Shard::handle_timers`]; [`Turn`] is what parts use |
//! | action | what the threads should do after the turn |
//! | effect | what one part did that another must know; this file delivers it within the turn |
//! | caller | the maker of a call: an app's `C`, a group, a closure, or the data centers' part |
//! | list | a partition's replicas in order, numbered; quorums are counted inside one list |
//! | hint | a write that was acknowledged and that some replica lacks |
//! | life | one run of a node's process: its node hash and boot number |
//! | W, R | how many replicas must apply a write before it is acknowledged, or answer a read |
//! | handoff | copying a partition to the replicas of a new list |
//! | anti-entropy | comparing the copies of two replicas, and repairing what differs |
//! | purge, horizon | forgetting tombstones that all have; the version up to which that was done |
//! | relay, forward | passing a write, or a read, to another data center |
//!
//! # A write, from the call to the last replica
//!
//! 1. [`Event::Call`] goes to the coordinator. It begins an operation, enters the partition's list
//!    and asks the other replicas ([`Action::Ask`]). It asks its own replica in the same turn,
//!    without an action or event (`ask_own_replica`).
//! 2. Each [`Event::Answer`] is matched with its request (`Parts::answered`) and counted.
//! 3. When W replicas of the list have applied the write, the coordinator replies
//!    ([`Action::Reply`]). If there are other data centers it also leaves an
//!    [`Effect::WriteAcknowledged`], and the data centers' part queues the write for them.
//! 4. If a replica lacks the write, the operation lives on as a hint: [`Timer::Op`] asks again, in
//!    every list that follows, until all have it or the hint window ends. Hints are in memory only;
//!    what a lost hint leaves behind, anti-entropy ([`Timer::Compare`]) repairs.
//!
//! A replica that will not answer ([`Event::Lost`], [`Event::Unsent`], an answer that does not fit)
//! is asked again after a moment. One that is merely silent is not: its request stays open until
//! the answer comes or the connection is given up, which is an [`Event::Lost`]. (A read asks the
//! next replica as a hedge.) If fewer than W have applied the write at the call's deadline, the
//! caller is told so: `NotApplied` if no replica can have it, else `Indeterminate`. The operation
//! ends there and leaves no hint; what some replicas applied, anti-entropy spreads.
//!
//! Two ways are shorter, for speed. A reader on any thread reads the copies without an event
//! ([`local_read`]). A write that this node decides alone (it is the only replica of the list, and
//! W and R are one) is stored and answered at once, and no operation is kept
//! (`Coordinator::write_alone`). It too leaves an [`Effect::WriteAcknowledged`] for other data
//! centers.
//!
//! # A request of another node
//!
//! [`Event::Request`] is checked first; one that no correct node sends is not answered but reported
//! ([`Action::Violation`]). A node of this data center is answered by the replica, at
//! once. A node of another data center is answered by the data centers' part: at once, or when the
//! call that it had the coordinator begin ([`Effect::BeginCall`], [`Effect::StoreRelayed`]) has
//! ended ([`Effect::CallEnded`]).
//!
//! A request that names a [`Route`] is for a node that its asker does not reach. It is passed on to
//! that node, and its answer back (`pass_on`).
//!
//! # Where to add what
//!
//! - a timer: a variant in [`timers`] and an arm in `Parts::fire`. The coordinator sets its timers
//!   as it works on an operation, the other parts in their `finish_turn`;
//! - an effect: a variant in [`effects`] and an arm in `Parts::deliver_effects`;
//! - a request: `wire/message` and its family in `wire/codec`, `Expects` in [`requests`],
//!   `check_request` and an arm in `Replica::serve` or `DataCenters::serve`; for a new kind of
//!   asker also `Asker`, `Parts::answered` and `Parts::tell_unanswered`.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::clock::{Instant, Now};
#[cfg(feature = "sim")]
use crate::entry::Entry;
use crate::logging;
use crate::mutants::{ProtocolMutant, rule};
#[cfg(feature = "sim")]
use crate::placement::List;
pub(crate) use crate::placement::Stage;
use crate::store::{Readers, View};
use crate::types::{Boot, Identity, NodeHash};
#[cfg(feature = "sim")]
use crate::types::{KeyHash, Partition};
use crate::wire::message::{Answer, Listed, Request, Route};

// What goes in and out: events and actions, calls and outcomes, makers of calls.
mod caller;
mod calls;
mod interface;
mod local_shard;

// What every part may use: the node as it sees itself, requests, timers, effects, the turn.
mod effects;
mod node;
mod requests;
mod timers;
mod turn;

// The parts, and what is counted over all of them.
mod coordinator;
mod data_centers;
mod debt;
mod replica;

// The short way of reads, on the reader's own thread.
mod local_read;

use self::caller::{Caller, ReturnAddress};
pub(crate) use self::calls::{
    Call, Counts, KeysCall, Outcome, ReadCall, RunCall, StoppedBy, TouchCall, WriteCall,
    WriteRules, check_lengths, expires_at_ms,
};
use self::coordinator::Coordinator;
use self::data_centers::DataCenters;
use self::effects::Effect;
pub(crate) use self::interface::{Action, Debt, Event, ShardConfig, Shortage};
pub(crate) use self::local_read::{LocalAnswer, LocalRules, read_local};
pub use self::local_shard::LocalShard;
#[cfg(feature = "sim")]
pub(crate) use self::local_shard::Returned;
use self::node::Node;
use self::replica::Replica;
use self::requests::{Asker, Outstanding, Requests};
use self::timers::{Timer, Timers};
use self::turn::Turn;

/// How many timers one turn fires; the rest are due in the next.
const TIMERS_PER_TURN: usize = 256;

/// For how many effects memory is kept between turns. A batch of another data center can make tens
/// of thousands.
const MAX_EFFECTS_KEPT: usize = 1024;

/// One core's share of a node.
pub(crate) struct Shard<C> {
    coordinator: Coordinator<C>,
    data_centers: DataCenters<C>,
    replica: Replica,
    node: Node,
    requests: Requests,
    timers: Timers,
    /// Empty between two turns.
    effects: VecDeque<Effect<C>>,
}

/// The three parts, for the time of one turn.
struct Parts<'a, C> {
    coordinator: &'a mut Coordinator<C>,
    data_centers: &'a mut DataCenters<C>,
    replica: &'a mut Replica,
}

impl<C> Shard<C> {
    /// Makes an empty shard. `readers` are the threads that read its copies directly.
    pub(crate) fn new(config: ShardConfig, readers: Arc<Readers>) -> Self {
        Self {
            coordinator: Coordinator::new(),
            data_centers: DataCenters::new(&config),
            replica: Replica::new(&config, readers),
            requests: Requests::new(),
            timers: Timers::default(),
            effects: VecDeque::new(),
            // Last, as it takes the config.
            node: Node::new(config),
        }
    }

    /// Returns the copies as other threads read them (see [`local_read`]).
    pub(crate) fn view(&self) -> &Arc<View> {
        self.replica.copies.store.view()
    }

    /// Handles an event, and appends to `actions` what the threads should do.
    pub(crate) fn handle(&mut self, now: Now, event: Event<C>, actions: &mut Vec<Action<C>>) {
        match event {
            // The next two change the node, which a turn borrows.
            Event::Placement { placement, stage } => {
                let is_birth =
                    matches!(stage, Stage::Born { .. }) && self.node.stage == Stage::Forming;
                let old = self.node.place(placement, stage);
                let (parts, mut turn) = self.split(now, actions);
                parts.replica.placed(&mut turn, &old, is_birth);
                parts.data_centers.relaying.placed(&turn);
                // From now on the coordinator leaves `WriteAcknowledged`, or does not.
                self.node.relays_writes = self.data_centers.relaying.has_destinations();
                let (mut parts, mut turn) = self.split(now, actions);
                // New lists first: operations judge the members of the list that they count in.
                parts.deliver_effects(&mut turn);
                parts.coordinator.members_changed(&mut turn, parts.replica);
                parts.end_turn(&mut turn);
            }
            Event::NewLife { me } => {
                self.node.start_new_life(me.life());
                let (mut parts, mut turn) = self.split(now, actions);
                parts.replica.start_new_life(&mut turn);
                parts.end_turn(&mut turn);
            }
            Event::Stop(by) => self.stop(now, by, actions),
            event => {
                let (mut parts, mut turn) = self.split(now, actions);
                parts.handle(&mut turn, event);
                parts.end_turn(&mut turn);
            }
        }
    }

    /// Fires at most [`TIMERS_PER_TURN`] timers that are due. If more are due,
    /// [`deadline`](Self::deadline) returns a time that has passed, so that the core comes back at
    /// once.
    pub(crate) fn handle_timers(&mut self, now: Now, actions: &mut Vec<Action<C>>) {
        let (mut parts, mut turn) = self.split(now, actions);
        for _ in 0..TIMERS_PER_TURN {
            let Some(timer) = turn.timers.pop_due(now.instant) else { break };
            parts.fire(&mut turn, timer);
            parts.deliver_effects(&mut turn);
        }
        parts.end_turn(&mut turn);
    }

    /// When [`handle_timers`](Self::handle_timers) should be called next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }

    /// Whether another node has been asked and has not answered.
    pub(crate) fn expects_answers(&self) -> bool {
        !self.requests.is_empty()
    }

    // Two ways to end: `stop` answers every caller, `abandon` drops every caller. Between turns,
    // callers are only with the coordinator and with the data centers' part. A turn that panics can
    // leave some in effects; those on the stack are dropped as it unwinds, and those in `actions`
    // belong to the core.

    /// Answers every call. The core hands over nothing after this, and no new work begins: no
    /// effect of a call that ends here begins another one, and the turn starts no handoff and sets
    /// no timer.
    fn stop(&mut self, now: Now, by: StoppedBy, actions: &mut Vec<Action<C>>) {
        let (mut parts, mut turn) = self.split(now, actions);
        // A forwarded read that fails now must not ask another data center.
        parts.data_centers.forwards.ask_no_more();
        // Ends all calls: apps get a reply, the data centers' part gets a `CallEnded`, …
        parts.coordinator.stop(&mut turn, by);
        parts.deliver_effects(&mut turn);
        // … and then ends the reads for which it still waits for other data centers.
        parts.data_centers.stop(&mut turn);
        parts.deliver_effects(&mut turn);
    }

    /// Drops every caller, which tells each that the engine failed, and does nothing else: for a
    /// shard that has panicked. Its state means nothing any more, except its configuration, which
    /// never changes.
    pub(crate) fn abandon(&mut self) {
        // The parts are replaced whole, so that a new field with callers cannot be overlooked here.
        self.coordinator = Coordinator::new();
        self.data_centers = DataCenters::new(&self.node.config);
        self.effects.clear();
    }

    fn split<'a>(
        &'a mut self,
        now: Now,
        actions: &'a mut Vec<Action<C>>,
    ) -> (Parts<'a, C>, Turn<'a, C>) {
        let Self { node, replica, coordinator, data_centers, requests, timers, effects } = self;
        let turn = Turn { now, node, requests, timers, effects, actions };
        (Parts { coordinator, data_centers, replica }, turn)
    }
}

/// How many questions this core asks on behalf of other nodes at a time. More are turned down: the
/// asker asks again a little later.
const MAX_PASSED_ON: usize = 256;

/// Returns the way of a request that may have to be passed on.
fn route_of(request: &Request) -> Option<Route> {
    match request {
        Request::Purge { route, .. }
        | Request::Purged { route, .. }
        | Request::Relay { route, .. } => *route,
        _ => None,
    }
}

/// Passes a request on to the node that it is for, as it came from its asker: over one helper, not
/// over several.
fn pass_on<C>(
    turn: &mut Turn<'_, C>,
    (from, address): (Identity, ReturnAddress),
    route: Route,
    request: Request,
) {
    if turn.requests.passed_on() >= MAX_PASSED_ON {
        // That says nothing of the node that it is for.
        return turn.answer(address, Answer::Busy);
    }
    let is_of_asker = from == route.asker.life();
    let asker = Asker::PassedOn(address);
    let asked =
        is_of_asker.then(|| turn.ask(route.to, address.partition, request, asker)).flatten();
    if asked.is_none() {
        turn.answer(address, Answer::Unreached);
    }
}

impl<C> Parts<'_, C> {
    /// Ends a turn: delivers effects and starts handoffs until there is nothing left of either,
    /// then sets the timers of the replica and the data centers' part. (The coordinator sets a
    /// timer for each operation as it works on it.)
    fn end_turn(&mut self, turn: &mut Turn<'_, C>) {
        loop {
            self.deliver_effects(turn);
            if !self.replica.start_wanted_handoffs(turn) {
                break;
            }
        }
        self.replica.finish_turn(turn);
        self.data_centers.finish_turn(turn);
        debug_assert!(turn.effects.is_empty(), "an effect that no part will know of");
        if turn.effects.capacity() > MAX_EFFECTS_KEPT {
            turn.effects.shrink_to(MAX_EFFECTS_KEPT);
        }
    }

    /// Lets the node's own replica answer what the coordinator asked of it, then delivers the
    /// oldest effect, until there is nothing left of either.
    fn deliver_effects(&mut self, turn: &mut Turn<'_, C>) {
        loop {
            self.coordinator.ask_own_replica(turn, self.replica);
            let Some(effect) = turn.effects.pop_front() else { break };
            match effect {
                Effect::ListChanged { partition } => {
                    self.coordinator.list_changed(turn, self.replica, partition);
                }
                Effect::WriteAcknowledged { hash, entry } => {
                    self.data_centers.relaying.add(turn, hash, &entry);
                }
                Effect::CallEnded { caller, outcome } => {
                    self.data_centers.call_ended(turn, caller, outcome);
                }
                Effect::ReadAnywhere { call, caller } => {
                    self.data_centers.read_anywhere(turn, call, caller);
                }
                Effect::BeginCall { call, caller } => {
                    self.coordinator.call(turn, self.replica, call, caller);
                }
                Effect::StoreRelayed { hash, entry, caller } => {
                    self.coordinator.store_relayed(turn, self.replica, hash, entry, caller);
                }
                Effect::ReplyToCaller { caller, outcome } => {
                    self.coordinator.reply(turn, caller, outcome);
                }
                Effect::CountWanted { caller } => {
                    let Debt { copies, behind, writes, .. } = self.debt(turn);
                    let counts =
                        debt::counts(turn.node, self.replica, self.coordinator, self.data_centers);
                    let counts = Counts { redundancy_debt: copies + behind + writes, ..counts };
                    self.coordinator.reply(turn, caller, Outcome::Counts(Box::new(counts)));
                }
            }
        }
    }

    /// Hands an event to the part that it is for.
    fn handle(&mut self, turn: &mut Turn<'_, C>, event: Event<C>) {
        match event {
            Event::Call { call, caller } => {
                self.coordinator.call(turn, self.replica, call, Caller::App(caller));
            }
            Event::Request { via, from, partition, request_id, request } => {
                if let Err(why) = replica::check_request(turn.node, partition, &request) {
                    turn.actions.push(Action::Violation { via, why });
                    return;
                }
                let mut life = from.life();
                let address = ReturnAddress { via, partition, request_id };
                if let Some(route) = route_of(&request) {
                    let is_for_another = route.to != turn.node.me;
                    if rule(ProtocolMutant::HelperVouches, is_for_another) {
                        return pass_on(turn, (life, address), route, request);
                    }
                    life = route.asker.life();
                }
                let answer = if turn.node.in_other_data_center(life.node) {
                    self.data_centers.serve(turn, self.replica, life, address, request)
                } else {
                    Some(self.replica.serve(turn, life, partition, request))
                };
                if let Some(answer) = answer {
                    turn.answer(address, answer);
                }
            }
            Event::Answer { from, request_id, answer } => {
                self.answered(turn, from, request_id, answer);
            }
            Event::Lost { node, boot } => {
                self.replica.connection_lost(turn, (node, boot));
                for request_id in turn.requests.to_life((node, boot)) {
                    self.unanswered(turn, request_id);
                }
                // It might have missed writes that this node sent: compare copies soon.
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
            Event::Placement { .. } | Event::NewLife { .. } | Event::Stop(_) => {
                unreachable!("Shard::handle takes these itself")
            }
        }
    }

    /// Matches an answer with its request, and hands it to the part that asked. Of an answer to a
    /// request that nothing waits for any more only this counts: the node that sent it is reached.
    fn answered(
        &mut self,
        turn: &mut Turn<'_, C>,
        from: Option<(NodeHash, Boot)>,
        request_id: u64,
        mut answer: Answer,
    ) {
        let request = turn.requests.take(request_id);
        // Or a node that is slower than requests are waited for would stay unreached, and for that
        // reason be waited for less long.
        let counts = rule(ProtocolMutant::LateAnswerUnheard, true) || request.is_some();
        if let Some(life) = from.filter(|_| counts) {
            self.replica.reached(turn, life);
        }
        let Some(request) = request else { return };
        let Outstanding { to, in_other_data_center, partition, asker, expects } = request;
        if !expects.fits(&answer) {
            // Not the answer itself: it holds what apps store.
            if turn.requests.is_first_misfit(to.node) {
                logging::error!(
                    "{} answered a request with something else than {expects:?}: does it run \
                     another version of gridkv? The request is made again (said once for a node)",
                    to.addr
                );
            }
            return self.tell_unanswered(turn, asker, request_id, to);
        }
        if let Answer::Chunk(chunk) = &answer {
            // It was asked about the list that this node knows: no other answer is waited for.
            self.replica.heard_mark(turn, partition, true, chunk.purged);
            if !in_other_data_center {
                self.replica.heard_behind(turn, partition, chunk);
            }
        }
        if let Answer::Listed(Listed { list, purged, .. }) | Answer::OtherList { list, purged } =
            &mut answer
        {
            if rule(ProtocolMutant::FarListsCount, in_other_data_center) {
                // The lists of another data center mean nothing here. (Its purge horizon does: all
                // data centers purge together.)
                *list = None;
            }
            // First of all: by the list below this node might become a replica, and must not serve
            // before it knows what the others have purged.
            let is_of_line =
                list.as_ref().is_some_and(|list| self.replica.copies.is_of_line(partition, list));
            self.replica.heard_mark(turn, partition, is_of_line, *purged);
        }
        match asker {
            Asker::Op(op) => {
                self.coordinator.answered(turn, self.replica, op, request_id, to, answer);
            }
            Asker::Relay(batch) => self.data_centers.relaying.answered(turn, batch, Some(&answer)),
            Asker::Forward(id) => self.data_centers.forwards.answered(turn, id, Some(answer)),
            Asker::PassedOn(address) => turn.answer(address, answer),
            Asker::Replica(asker) => self.replica.answered(turn, asker, request_id, to, answer),
        }
    }

    /// Notes that a request will have no answer. Does nothing if the request is gone: an earlier
    /// loss might have ended the operation, which then gave up its other requests.
    fn unanswered(&mut self, turn: &mut Turn<'_, C>, request_id: u64) {
        if let Some(Outstanding { to, asker, .. }) = turn.requests.take(request_id) {
            self.tell_unanswered(turn, asker, request_id, to);
        }
    }

    fn tell_unanswered(
        &mut self,
        turn: &mut Turn<'_, C>,
        asker: Asker,
        request_id: u64,
        to: Identity,
    ) {
        match asker {
            Asker::Op(op) => self.coordinator.unanswered(turn, self.replica, op, request_id, to),
            Asker::Relay(batch) => self.data_centers.relaying.answered(turn, batch, None),
            Asker::Forward(id) => self.data_centers.forwards.answered(turn, id, None),
            Asker::PassedOn(address) => turn.answer(address, Answer::Unreached),
            Asker::Replica(asker) => self.replica.unanswered(turn, asker, to),
        }
    }

    /// Hands a timer that is due to the part that set it.
    fn fire(&mut self, turn: &mut Turn<'_, C>, timer: Timer) {
        match timer {
            Timer::Op(op) => self.coordinator.handle_timer(turn, self.replica, op),
            Timer::Room => self.coordinator.resume_waiting_writes(turn, self.replica),
            Timer::Groups => self.coordinator.resume_groups(turn, self.replica),
            Timer::Relay => self.data_centers.relaying.send(turn, &self.replica.copies),
            Timer::Forward(id) => self.data_centers.end_forward(turn, id),
            Timer::Handoff(partition, kind) => self.replica.resume_handoff(turn, (partition, kind)),
            Timer::Remind(partition) => self.replica.remind(turn, partition),
            Timer::RemindNext => self.replica.remind_next(turn),
            Timer::Seal(partition) => self.replica.seal_is_overdue(turn, partition),
            Timer::Compare => self.replica.compare(turn),
            Timer::Purge => self.replica.purge(turn),
            Timer::Refill => self.replica.refill(turn),
            Timer::Expire => self.replica.expire(turn),
            Timer::Collect => self.replica.copies.store.collect(),
            #[cfg(feature = "sim")]
            Timer::PutOff => self.replica.apply_put_off(turn),
        }
    }

    fn debt(&self, turn: &Turn<'_, C>) -> Debt {
        let now = turn.now.instant;
        debt::debt(turn.node, now, self.replica, self.coordinator, self.data_centers)
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

    /// Returns the list that this node knows of the partition.
    pub(crate) fn list(&self, partition: Partition) -> Option<&Arc<List>> {
        self.replica.copies.partition(partition).list()
    }

    /// Returns how much found no room on this core.
    pub(crate) fn shortage(&self) -> Shortage {
        self.replica.shortage()
    }

    /// Returns what this core has still to do before no copy is missing.
    pub(crate) fn owes(&self, now: Instant) -> Debt {
        debt::debt(&self.node, now, &self.replica, &self.coordinator, &self.data_centers)
    }

    /// Returns what this core holds and does, without its redundancy debt.
    pub(crate) fn counts(&self) -> Counts {
        debt::counts(&self.node, &self.replica, &self.coordinator, &self.data_centers)
    }
}

#[cfg(test)]
mod tests;
