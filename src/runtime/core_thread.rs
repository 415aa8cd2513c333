//! A core thread: one shard, one poll. One turn of its loop takes messages and frames within a budget,
//! lets the shard work on them, carries out what it asks for, and writes each connection once.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Poll, Token};

use super::clock::Clock;
use super::control_thread::{Shared, ToControl};
use super::mailbox::{Inbox, SendError, Sender};
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

/// From an app. Dropped before a core took it, it answers that the engine has stopped: whatever becomes
/// of the queue, its caller is told.
pub(crate) struct CallMessage {
    /// `None` once it was taken.
    content: Option<(Call, ReplyTo)>,
}

impl CallMessage {
    pub(crate) fn new(call: Call, reply_to: ReplyTo) -> Self {
        Self { content: Some((call, reply_to)) }
    }

    fn take(mut self) -> Option<(Call, ReplyTo)> {
        self.content.take()
    }
}

impl Drop for CallMessage {
    fn drop(&mut self) {
        if let Some((call, reply_to)) = self.content.take() {
            reply_to.send(match call {
                Call::Write(_) => Outcome::Written(Err(NotApplied::ShutDown.into())),
                Call::Touch(_) => Outcome::Touched(Err(NotApplied::ShutDown.into())),
                Call::Read(_) | Call::Keys(_) | Call::Counts => Outcome::Read(Err(ReadError::ShutDown)),
            });
        }
    }
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
    pub(crate) calls: Inbox<CallMessage>,
    pub(crate) orders: Inbox<Order>,
    pub(crate) shared: Arc<Shared>,
    /// Both `None` where the engine is standalone.
    pub(crate) net: Option<Net>,
    pub(crate) control: Option<Sender<ToControl>>,
}

/// The state of the loop.
struct Turn {
    thread: CoreThread,
    /// Who is at the other end of the accepted connections.
    peers: BTreeMap<ConnectionId, Identity>,
    actions: Vec<Action<ReplyTo>>,
    net_events: Vec<NetEvent>,
    /// Requests that their peer's connection had no room for.
    unsent: Vec<u64>,
    /// What the control thread has not been told yet, because its queue was full.
    unreported: Report,
    stopping: bool,
}

/// The latest of what a core tells the control thread: what is older does not matter any more.
#[derive(Default)]
struct Report {
    progress: Option<ToControl>,
    partitions_lost: usize,
}

/// Runs until it is told to stop.
///
/// # Errors
///
/// The poll's, which end the thread.
pub(crate) fn run(thread: CoreThread) -> io::Result<()> {
    let mut events = Events::with_capacity(256);
    let mut turn = Turn {
        thread,
        peers: BTreeMap::new(),
        actions: Vec::new(),
        net_events: Vec::new(),
        unsent: Vec::new(),
        unreported: Report::default(),
        stopping: false,
    };
    let mut is_behind = false;
    // Whoever stops the engine closes it first: the order to stop is only there to wake this thread.
    while !turn.stopping && !turn.thread.shared.is_closed() {
        let timeout = if is_behind { Some(Duration::ZERO) } else { turn.until_deadline() };
        match turn.thread.poll.poll(&mut events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            // Interrupted, it has not filled in any events.
            Err(_) => events.clear(),
            Ok(()) => {}
        }
        is_behind = turn.run(&events);
    }
    turn.stop();
    Ok(())
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
        self.take_orders(now);
        let mut is_behind = self.read_sockets(now, events);
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
        for request_id in std::mem::take(&mut self.unsent) {
            self.tell(now, Event::Unsent { request_id });
        }
        is_behind |= !self.actions.is_empty();
        is_behind | self.report()
    }

    fn take_orders(&mut self, now: Now) {
        while let Some(order) = self.thread.orders.try_recv() {
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
            let Some(message) = self.thread.calls.try_recv() else { return false };
            // The caller may have been told of a change that this core has not looked at yet.
            self.take_orders(now);
            match message.take() {
                Some((Call::Write(call), caller)) if call.deadline <= now.instant => {
                    caller.send(Outcome::Written(Err(NotApplied::Overloaded.into())));
                }
                Some((Call::Touch(call), caller)) if call.deadline <= now.instant => {
                    caller.send(Outcome::Touched(Err(NotApplied::Overloaded.into())));
                }
                Some((Call::Read(call), caller)) if call.deadline <= now.instant => {
                    caller.send(Outcome::Read(Err(ReadError::Overloaded)));
                }
                Some((call, caller)) => self.tell(now, Event::Call { call, caller }),
                None => {}
            }
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
                    if let Some(net) = &mut self.thread.net
                        && !net.send(now.instant, target, &frame)
                    {
                        self.unsent.push(request_id);
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
                    let progress = ToControl::Progress { core, generation, giving };
                    self.unreported.progress = Some(progress);
                }
                Action::DataLost { partition } => {
                    log::debug!("partition {}: every replica died, its keys are gone", partition.index());
                    self.unreported.partitions_lost += 1;
                }
            }
        }
    }

    /// Tells the control thread what is new, as far as it has room. Whether something is left to tell.
    fn report(&mut self) -> bool {
        let (Some(control), Report { progress, partitions_lost }) =
            (&self.thread.control, &mut self.unreported)
        else {
            return false;
        };
        if let Some(message) = progress.take()
            && let Err(SendError::Full(message)) = control.try_send(message)
        {
            *progress = Some(message);
        }
        let lost = ToControl::DataLost { partitions: *partitions_lost };
        if *partitions_lost > 0 && !matches!(control.try_send(lost), Err(SendError::Full(_))) {
            *partitions_lost = 0;
        }
        progress.is_some() || *partitions_lost > 0
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

    /// Answers whoever waits. Who waits in the queue is answered when that is dropped.
    fn stop(mut self) {
        let now = self.thread.clock.now();
        self.tell(now, Event::Stop);
        self.perform(now);
        if let Some(net) = &self.thread.net {
            log::debug!("core {} stops: {:?}", self.thread.core.0, net.counters());
        }
    }
}
