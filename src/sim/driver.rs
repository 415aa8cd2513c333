//! Acts as the threads of a node do: delivers events, carries out actions, keeps the deadline.
//!
//! ```text
//! event ──▶ Control or Shard ──▶ actions ──▶ frames and datagrams, for the network
//!                                        └─▶ orders and reports, for the node's other threads
//! ```
//!
//! This is `runtime::control_thread` and `runtime::core_thread` without threads. It decides
//! nothing: everything that a node does, its machines told it to do.

use std::time::Duration;

use super::event::{ConnectionKey, SimEvent};
use super::node::{Node, Part};
use super::{CallId, CallResult, Death, SimCluster};
use crate::clock::Instant;
use crate::control::{ControlAction, ControlEvent, Link};
use crate::entry::Entry;
use crate::events::Event as AppEvent;
use crate::shard::{Action, Event as ShardEvent, Outcome as ShardOutcome};
use crate::types::{CoreId, Partition};
use crate::wire::message::{Channel, Frame, Message};

/// How long a message between two threads of one node takes.
const HOP: Duration = Duration::from_micros(5);

impl SimCluster {
    /// Handles an event; one that happens at a node, or a part of it, that stands still, when that
    /// is over.
    pub(super) fn handle(&mut self, event: SimEvent) {
        if let Some((node, part)) = self.place_of(&event)
            && let Some(until) = self.still_until(node, part)
        {
            return self.schedule(until.since(self.now), event);
        }
        match event {
            SimEvent::Wake { node, life, at } => {
                // Another wake-up than the one that is waited for was superseded.
                if self.nodes[node].life == life && self.nodes[node].wake_at == Some(at) {
                    self.nodes[node].wake_at = None;
                    self.nodes[node].wake(self.now);
                    self.act(node);
                }
            }
            SimEvent::Order { node, life, core, event } => {
                if self.nodes[node].life == life {
                    let now = self.now_of(node);
                    self.nodes[node].shard(now, core, *event);
                    self.act(node);
                }
            }
            SimEvent::Report { node, life, event } => {
                if self.nodes[node].life == life {
                    self.control(node, event);
                }
            }
            SimEvent::Call { node, life, core, call, id } => {
                if self.nodes[node].life == life {
                    let now = self.now_of(node);
                    self.nodes[node].call(now, core, *call, id);
                    self.act(node);
                }
            }
            on_the_network => self.network_event(on_the_network),
        }
    }

    /// Hands an event to a node's control thread, and carries out what that wants.
    pub(super) fn control(&mut self, node: usize, event: ControlEvent) {
        let now = self.now_of(node).instant;
        self.nodes[node].control(now, event);
        self.act(node);
    }

    /// Until when a node stands still, or the part of it that an event is for.
    fn still_until(&self, node: usize, part: Option<Part>) -> Option<Instant> {
        match part {
            Some(part) => self.nodes[node].still_until(part, self.now),
            None => self.nodes[node].paused_until.filter(|until| *until > self.now),
        }
    }

    /// Returns the node at which an event happens, and which part of it handles the event; `None`
    /// for each that can.
    fn place_of(&self, event: &SimEvent) -> Option<(usize, Option<Part>)> {
        let (node, part) = match event {
            SimEvent::Wake { node, .. } => return Some((*node, None)),
            SimEvent::Order { node, .. } | SimEvent::Call { node, .. } => (*node, Part::Cores),
            SimEvent::Report { node, .. } => (*node, Part::Control),
            SimEvent::Datagram { to, .. } => (self.node_at(*to)?, Part::Control),
            // The control thread accepts the connections of the cores too.
            SimEvent::Dial { key, .. } => (self.node_at(key.addr)?, Part::Control),
            SimEvent::ToAcceptor { key, .. } | SimEvent::Resumed { key, is_there: true, .. } => {
                (self.connections.get(key)?.acceptor?.0, part_of(key.to))
            }
            SimEvent::Welcomed { key, .. }
            | SimEvent::ToOpener { key, .. }
            | SimEvent::Broken { key, .. }
            | SimEvent::Resumed { key, .. }
            | SimEvent::GivenUp { key, .. } => (key.opener, part_of(key.from)),
        };
        Some((node, Some(part)))
    }

    /// Carries out all actions of a node, and schedules its next wake-up.
    pub(super) fn act(&mut self, number: usize) {
        loop {
            let Some(running) = self.nodes[number].running() else { return };
            let control_actions = std::mem::take(&mut running.control_actions);
            let shard_actions = std::mem::take(&mut running.shard_actions);
            if control_actions.is_empty() && shard_actions.is_empty() {
                break;
            }
            for action in control_actions {
                self.control_action(number, action);
            }
            for (core, action) in shard_actions {
                self.shard_action(number, core, action);
            }
        }
        let (deadline, life) = (self.nodes[number].deadline(self.now), self.nodes[number].life);
        if let Some(at) = deadline
            && self.nodes[number].wake_at.is_none_or(|wake| at < wake)
        {
            self.nodes[number].wake_at = Some(at);
            self.schedule(at.since(self.now), SimEvent::Wake { node: number, life, at });
        }
    }

    fn control_action(&mut self, number: usize, action: ControlAction) {
        match action {
            ControlAction::Datagram { to, receiver, bytes } => {
                let wall = self.now_of(number).wall;
                let Some(running) = self.nodes[number].running() else { return };
                if let Some(bytes) = running.control.close_datagram(receiver, bytes, wall) {
                    self.send_datagram(number, to, bytes);
                }
            }
            ControlAction::Open(link) => self.open(control_key(number, link)),
            ControlAction::Close(link) => self.forget_connection(&control_key(number, link)),
            ControlAction::Ask { link, message } => {
                let Some(running) = self.nodes[number].running() else { return };
                let request_id = running.next_request;
                running.next_request += 1;
                self.send_frame(
                    control_key(number, link),
                    &control_frame(request_id, Message::Control(message)),
                );
            }
            ControlAction::Welcome { via, welcome, peer } => {
                self.welcome(via, Message::Welcome(welcome), Some(peer))
            }
            ControlAction::Refuse { via, refusal } => {
                self.welcome(via, Message::Refused(refusal), None)
            }
            ControlAction::Answer { via, request_id, message } => {
                self.answer(via, &control_frame(request_id, Message::Control(message)));
            }
            ControlAction::Publish { placement, stage } => {
                self.order_cores(number, || ShardEvent::Placement {
                    placement: placement.clone(),
                    stage,
                });
            }
            ControlAction::AskDebt { question } => {
                self.order_cores(number, || ShardEvent::AskDebt { question });
            }
            ControlAction::Returned { identity, is_same_life } => {
                if let Some(running) = self.nodes[number].running() {
                    running.identity = identity;
                }
                // A new life opens new connections.
                self.break_where(|key, _| {
                    key.opener == number && (key.from == Channel::Control || !is_same_life)
                });
                if !is_same_life {
                    self.order_cores(number, || ShardEvent::NewLife { me: identity });
                }
            }
            ControlAction::Risks(risks) => self.note(|| format!("risks n{number} {risks:?}")),
            ControlAction::Notify(event) => {
                self.told(number, &event);
                if let Some(running) = self.nodes[number].running() {
                    running.add_event(event);
                }
            }
            ControlAction::Left => {
                self.note(|| format!("left n{number}"));
                self.nodes[number].crash();
                self.end_connections_of(number);
            }
            // Seeds are given.
            ControlAction::Discover => {}
            // Cores compare keys in TLS, which is not simulated.
            ControlAction::Keys(_) => {}
            ControlAction::Members(_)
            | ControlAction::Safe { .. }
            | ControlAction::Drain
            | ControlAction::Readiness(_) => self.note_control_state(number, action),
        }
    }

    /// Keeps what the checkers must know of what a node tells its app.
    fn told(&mut self, number: usize, event: &AppEvent) {
        self.note(|| format!("event n{number} {event:?}"));
        if let AppEvent::Died { node } = event {
            let is_it = |it: &Node| it.id() == *node;
            if let Some(of) = self.nodes.iter().rposition(is_it) {
                let is_false = self.nodes[of].is_running();
                let death = Death { at: self.elapsed(), by: number, of, is_false };
                self.deaths.push(death);
            }
        }
    }

    /// Notes in the node what its app would be told.
    fn note_control_state(&mut self, number: usize, action: ControlAction) {
        let Some(running) = self.nodes[number].running() else { return };
        match action {
            ControlAction::Members(members) => running.set_members(members),
            ControlAction::Safe { ticket } => running.safe = running.safe.max(ticket),
            ControlAction::Drain => running.is_draining = true,
            ControlAction::Readiness(readiness) => running.set_hint(readiness.hint),
            _ => {}
        }
    }

    /// Sends an order from the control thread to each core.
    fn order_cores(&mut self, node: usize, event: impl Fn() -> ShardEvent<CallId>) {
        let life = self.nodes[node].life;
        for core in (0..self.options.cores).map(CoreId) {
            self.schedule(HOP, SimEvent::Order { node, life, core, event: Box::new(event()) });
        }
    }

    /// Sends a report from a core to the control thread.
    fn report(&mut self, node: usize, event: ControlEvent) {
        let life = self.nodes[node].life;
        self.schedule(HOP, SimEvent::Report { node, life, event });
    }

    fn shard_action(&mut self, number: usize, core: CoreId, action: Action<CallId>) {
        match action {
            Action::Ask { to, core: remote, partition, request_id, request } => {
                self.hear_request(partition, &request);
                let key = ConnectionKey {
                    opener: number,
                    from: Channel::Core(core),
                    addr: to.addr,
                    expects: Some((to.node, to.boot)),
                    to: Channel::Core(remote),
                };
                let frame = Frame { partition, request_id, message: Message::Request(request) };
                self.send_frame(key, &frame);
            }
            Action::Answer { via, partition, request_id, answer } => {
                self.hear_answer(partition, &answer);
                self.answer(
                    via,
                    &Frame { partition, request_id, message: Message::Answer(answer) },
                );
            }
            Action::Reply { caller, outcome } => self.reply(number, caller, outcome),
            Action::Progress { generation, pending, giving, shortage } => {
                if let Some(running) = self.nodes[number].running() {
                    running.set_progress(core, pending, giving);
                }
                let core = Self::index(core);
                let event = ControlEvent::Progress { core, generation, pending, giving, shortage };
                self.report(number, event);
            }
            Action::DataAtRisk { partition } => {
                self.note(|| format!("data at risk n{number} {partition:?}"));
                self.report(number, ControlEvent::DataAtRisk { partitions: 1 });
            }
            Action::WentOn { partition } => {
                self.note(|| format!("n{number} goes on with what is left of {partition:?}"));
                self.hear_of_risk(partition);
            }
            Action::Debt { question, debt } => {
                let core = Self::index(core);
                self.report(number, ControlEvent::CoreOwes { core, question, debt });
            }
            Action::Violation { via, why } => {
                panic!("a real node broke the protocol over {via}: {why}")
            }
        }
    }

    /// Keeps how a call ended, for the test that made it.
    pub(super) fn reply(&mut self, number: usize, caller: CallId, outcome: ShardOutcome) {
        if let ShardOutcome::Many(outcomes) = outcome {
            let callers = self.groups.remove(&caller).unwrap_or_default();
            for (caller, outcome) in callers.into_iter().zip(outcomes) {
                self.reply(number, caller, outcome);
            }
            return;
        }
        let value_of = |entry: Entry| entry.value().map(<[u8]>::to_vec);
        let result = match outcome {
            ShardOutcome::Written(result) => CallResult::Written(result),
            ShardOutcome::Read(result) => {
                CallResult::Read(result.map(|found| found.and_then(value_of)))
            }
            ShardOutcome::Touched(result) => CallResult::Touched(result),
            ShardOutcome::Ran(result) => return self.ran(number, caller, result),
            ShardOutcome::Keys(_) | ShardOutcome::Counts(_) | ShardOutcome::Many(_) => return,
        };
        self.note(|| format!("reply n{number} {caller:?} {result:?}"));
        self.hash_result(caller, &result);
        self.outcomes.insert(caller, (self.now, result));
    }

    fn hash_result(&mut self, call: CallId, result: &CallResult) {
        let (kind, bytes): (u64, &[u8]) = match result {
            CallResult::Written(Ok(())) => (11, &[]),
            CallResult::Written(Err(_)) => (12, &[]),
            CallResult::Touched(Ok(is_changed)) => (13, &[*is_changed as u8]),
            CallResult::Touched(Err(_)) => (14, &[]),
            CallResult::Read(Ok(Some(value))) => (15, value),
            CallResult::Read(Ok(None)) => (16, &[]),
            CallResult::Read(Err(_)) => (17, &[]),
        };
        self.add_to_hash(kind, call.0, bytes);
    }
}

/// Returns the threads that handle what comes over this channel.
fn part_of(channel: Channel) -> Part {
    match channel {
        Channel::Control => Part::Control,
        Channel::Core(_) => Part::Cores,
    }
}

fn control_key(opener: usize, link: Link) -> ConnectionKey {
    let Link { addr, expects } = link;
    ConnectionKey { opener, from: Channel::Control, addr, expects, to: Channel::Control }
}

fn control_frame(request_id: u64, message: Message) -> Frame {
    Frame { partition: Partition::default(), request_id, message }
}
