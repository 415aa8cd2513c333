//! A core thread: one shard, one poll. One turn of its loop takes messages and frames within a budget,
//! lets the shard work on them, carries out what it asks for, and writes each connection once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Receiver;
use mio::{Events, Poll, Token};

use super::clock::Clock;
use super::control_thread::ToControl;
use super::mailbox::Outbox;
use super::net::{ConnectionId, Handover, Net, NetEvent, Target};
use super::reply::ReplyTo;
use crate::clock::Now;
use crate::error::{NotApplied, ReadError};
use crate::placement::Placement;
use crate::shard::{Action, Call, Event, Outcome, Shard, Stage};
use crate::types::{CoreId, Identity};
use crate::wire::message::{Channel, Frame, Message};

/// How many messages of apps may wait for a core. A caller beyond that waits for room.
pub(crate) const CALLS_CAPACITY: usize = 4096;

/// How many messages of the control thread may wait; it keeps what does not fit.
pub(crate) const ORDERS_CAPACITY: usize = 256;

/// How many calls one turn takes, so that sockets and timers get theirs under a flood of calls.
const CALLS_PER_TURN: usize = 256;

pub(crate) const WAKE: Token = Token(0);
/// Below this, tokens belong to the thread; from here on to its connections.
pub(crate) const FIRST_CONNECTION: usize = 16;

/// From an app.
pub(crate) struct CallMessage {
    pub(crate) call: Call,
    pub(crate) reply_to: ReplyTo,
}

/// From the control thread, or the engine's handle.
pub(crate) enum Order {
    Place {
        placement: Arc<Placement>,
        stage: Stage,
    },
    Returned {
        identity: Identity,
    },
    /// An accepted connection whose opener wants this core.
    Adopt {
        handover: Box<Handover>,
        peer: Identity,
    },
    Stop,
}

pub(crate) struct CoreThread {
    pub(crate) core: CoreId,
    pub(crate) poll: Poll,
    pub(crate) clock: Clock,
    pub(crate) shard: Shard<ReplyTo>,
    pub(crate) calls: Receiver<CallMessage>,
    pub(crate) orders: Receiver<Order>,
    /// Both `None` where the engine is standalone.
    pub(crate) net: Option<Net>,
    pub(crate) control: Option<Outbox<ToControl>>,
}

/// The state of the loop.
struct Turn {
    thread: CoreThread,
    peers: BTreeMap<ConnectionId, Identity>,
    actions: Vec<Action<ReplyTo>>,
    net_events: Vec<NetEvent>,
    stopping: bool,
}

/// Runs until it is told to stop.
pub(crate) fn run(thread: CoreThread) {
    let mut events = Events::with_capacity(256);
    let mut turn =
        Turn { thread, peers: BTreeMap::new(), actions: Vec::new(), net_events: Vec::new(), stopping: false };
    let mut is_behind = false;
    while !turn.stopping {
        let timeout = if is_behind { Some(Duration::ZERO) } else { turn.until_deadline() };
        if let Err(error) = turn.thread.poll.poll(&mut events, timeout)
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            log::error!("core {}: poll failed, the core stops: {error}", turn.thread.core.0);
            break;
        }
        is_behind = turn.run(&events);
    }
    turn.stop();
}

impl Turn {
    fn until_deadline(&self) -> Option<Duration> {
        let now = self.thread.clock.instant();
        let net = self.thread.net.as_ref().and_then(Net::deadline);
        self.thread.shard.deadline().into_iter().chain(net).min().map(|at| at.since(now))
    }

    /// One turn. Whether there is more to do at once.
    fn run(&mut self, events: &Events) -> bool {
        let now = self.thread.clock.now();
        let mut is_behind = self.take_orders(now);
        is_behind |= self.read_sockets(now, events);
        is_behind |= self.take_calls(now);
        if self.thread.shard.deadline().is_some_and(|at| at <= now.instant) {
            self.thread.shard.handle_timers(now, &mut self.actions);
        }
        self.perform(now);
        if let Some(net) = &mut self.thread.net {
            net.flush(&mut self.net_events);
            // What the flush lost is handled in the next turn.
            is_behind |= !self.net_events.is_empty();
        }
        if let Some(control) = &mut self.thread.control {
            is_behind |= control.flush();
        }
        is_behind
    }

    fn take_orders(&mut self, now: Now) -> bool {
        while let Ok(order) = self.thread.orders.try_recv() {
            match order {
                Order::Place { placement, stage } => self.tell(now, Event::Placement { placement, stage }),
                Order::Returned { identity } => {
                    if let Some(net) = &mut self.thread.net {
                        net.set_identity(identity);
                    }
                    self.tell(now, Event::Returned { me: identity });
                }
                Order::Adopt { handover, peer } => {
                    if let Some(net) = &mut self.thread.net {
                        let connection = net.adopt(now.instant, *handover, &mut self.net_events);
                        self.peers.insert(connection, peer);
                    }
                }
                Order::Stop => self.stopping = true,
            }
        }
        false
    }

    fn read_sockets(&mut self, now: Now, events: &Events) -> bool {
        let Some(net) = &mut self.thread.net else { return false };
        for event in events.iter().filter(|event| event.token().0 >= FIRST_CONNECTION) {
            net.ready(now.instant, event, &mut self.net_events);
        }
        let is_behind = net.resume(now.instant, &mut self.net_events);
        net.handle_timers(now.instant, &mut self.net_events);
        for event in std::mem::take(&mut self.net_events) {
            self.network(now, event);
        }
        is_behind
    }

    fn network(&mut self, now: Now, event: NetEvent) {
        match event {
            NetEvent::Answer { target, frame: Frame { request_id, message, .. } } => match message {
                Message::Answer(answer) => self.tell(now, Event::Answer { request_id, answer }),
                _ => {
                    log::warn!("{}: a core answered with something else, closing", target.addr);
                    self.close(now, target);
                }
            },
            NetEvent::Lost { target, cause } => {
                log::debug!("{}: connection of core {} lost: {cause:?}", target.addr, self.thread.core.0);
                if let Some((node, boot)) = target.expects {
                    self.tell(now, Event::Lost { node, boot });
                }
            }
            NetEvent::Request { connection, frame: Frame { partition, request_id, message } } => {
                match (message, self.peers.get(&connection)) {
                    (Message::Request(request), Some(&from)) => {
                        let via = connection.number();
                        self.tell(now, Event::Request { via, from, partition, request_id, request });
                    }
                    _ => self.close_accepted(connection, "not a request for a core"),
                }
            }
            NetEvent::Closed { connection } => {
                self.peers.remove(&connection);
            }
            // Opening needs nothing here; greetings come to the control thread alone.
            NetEvent::Opened { .. } | NetEvent::Greeted { .. } => {}
        }
    }

    fn take_calls(&mut self, now: Now) -> bool {
        for _ in 0..CALLS_PER_TURN {
            let Ok(CallMessage { call, reply_to }) = self.thread.calls.try_recv() else { return false };
            self.tell(now, Event::Call { call, caller: reply_to });
        }
        !self.thread.calls.is_empty()
    }

    fn tell(&mut self, now: Now, event: Event<ReplyTo>) {
        self.thread.shard.handle(now, event, &mut self.actions);
    }

    fn perform(&mut self, now: Now) {
        for action in std::mem::take(&mut self.actions) {
            match action {
                Action::Reply { caller, outcome } => caller.send(outcome),
                Action::Ask { to, core, partition, request_id, request } => {
                    let target = Target {
                        addr: to.addr,
                        expects: Some((to.node, to.boot)),
                        channel: Channel::Core(core),
                    };
                    let frame = Frame { partition, request_id, message: Message::Request(request) };
                    if let Some(net) = &mut self.thread.net {
                        net.send(now.instant, target, &frame);
                    }
                }
                Action::Answer { via, partition, request_id, answer } => {
                    let frame = Frame { partition, request_id, message: Message::Answer(answer) };
                    if let Some(net) = &mut self.thread.net {
                        net.answer(ConnectionId::from_number(via), &frame);
                    }
                }
                Action::Violation { via, why } => self.close_accepted(ConnectionId::from_number(via), why),
                Action::Progress { generation, giving, .. } => {
                    let core = usize::from(self.thread.core.0);
                    self.report(ToControl::Progress { core, generation, giving });
                }
                Action::DataLost { partition } => {
                    log::error!("partition {}: every replica died, its keys are gone", partition.index());
                    self.report(ToControl::DataLost { partitions: 1 });
                }
            }
        }
    }

    fn report(&mut self, message: ToControl) {
        if let Some(control) = &mut self.thread.control {
            control.send(message);
        }
    }

    fn close(&mut self, now: Now, target: Target) {
        if let Some(net) = &mut self.thread.net {
            net.close(target);
        }
        if let Some((node, boot)) = target.expects {
            self.tell(now, Event::Lost { node, boot });
        }
    }

    fn close_accepted(&mut self, connection: ConnectionId, why: &str) {
        let peer = self.peers.remove(&connection);
        log::warn!("closing a connection from {peer:?}: {why}");
        if let Some(net) = &mut self.thread.net {
            net.close_accepted(connection);
        }
    }

    /// Answers whoever waits, those in the queue included.
    fn stop(mut self) {
        let now = self.thread.clock.now();
        self.tell(now, Event::Stop);
        self.perform(now);
        while let Ok(CallMessage { call, reply_to }) = self.thread.calls.try_recv() {
            reply_to.send(match call {
                Call::Write(_) => Outcome::Written(Err(NotApplied::ShutDown.into())),
                _ => Outcome::Read(Err(ReadError::ShutDown)),
            });
        }
    }
}
