//! A core thread: one shard, one poll. [`CoreLoop`] has the loop.
//!
//! Each pass of the loop takes messages and frames within a budget, lets the shard work on them,
//! carries out what it asks for, and writes each connection once.

use std::collections::BTreeMap;
use std::io;
use std::mem::ManuallyDrop;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Poll};

use super::bell::Bell;
use super::clock::{Clock, TurnClock};
use super::engine_thread::message;
use super::heartbeat::{Heartbeats, LOOKS_AT_CONTROL_EVERY, Noticed, Watch};
use super::idle::{CoreCount, Patience, look, spare_processors};
use super::mailbox::{Inbox, SendError, Sender};
use super::messages::{CallMessage, Order, ToControl};
use super::net::complaints::Complaints;
use super::net::{ConnectionId, Destination, Net, NetEvent};
use super::reply::ReplyTo;
use super::ring::Pop;
use super::shared::Shared;
use super::tokens::{FIRST_CONNECTION, WAKE};
use crate::clock::{Instant, Now};
use crate::logging;
use crate::options::IdleStrategy;
use crate::shard::{Action, Event, Shard};
use crate::types::{CoreId, Identity};
use crate::wire::message::{Channel, Frame, Message};

/// How many operations one pass takes, so that sockets and timers get their share under a flood of
/// calls.
const OPERATIONS_PER_PASS: usize = 256;

/// After how many operations the sockets are looked at if there are calls all the time: some ten
/// microseconds.
const OPERATIONS_PER_POLL: usize = 64;

/// What a core thread is made of.
pub(crate) struct CoreThread {
    pub(crate) core: CoreId,
    pub(crate) poll: Poll,
    pub(crate) bell: Arc<Bell>,
    pub(crate) clock: Clock,
    pub(crate) idle: IdleStrategy,
    pub(crate) shard: Shard<ReplyTo>,
    pub(crate) calls: Inbox<CallMessage>,
    pub(crate) orders: Inbox<Order>,
    pub(crate) shared: Arc<Shared>,
    /// Both are `None` if the engine is standalone.
    pub(crate) net: Option<Net>,
    pub(crate) control: Option<Sender<ToControl>>,
    pub(crate) heartbeats: Arc<Heartbeats>,
    /// Wakes the thread that looks at the cores.
    pub(crate) wake_watcher: Box<dyn Fn() + Send>,
}

/// The loop of a core thread.
struct CoreLoop {
    thread: CoreThread,
    clock: TurnClock,
    /// When the current pass began.
    now: Now,
    patience: Patience,
    /// Looks at the control thread. Only the first core has it.
    watch: Option<Watch>,
    /// Operations since the sockets were last looked at.
    unpolled: usize,
    /// The node at the other end of each accepted connection.
    peers: BTreeMap<ConnectionId, Identity>,
    actions: Vec<Action<ReplyTo>>,
    net_events: Vec<NetEvent>,
    /// Requests that did not fit into their connection's queue.
    unsent: Vec<u64>,
    /// What the control thread has not been told yet, because its queue was full.
    unreported: Report,
    /// Peers that sent what a core does not take.
    complaints: Complaints,
}

/// The latest of what a core tells the control thread: anything older does not matter any more.
#[derive(Default)]
struct Report {
    progress: Option<ToControl>,
    debt: Option<ToControl>,
    partitions_at_risk: usize,
}

/// Runs until the engine is closed. If it panics, the engine is closed before any caller is told.
///
/// # Errors
///
/// The poll's, which end the thread.
pub(crate) fn run(thread: CoreThread) -> io::Result<()> {
    let _is_core = CoreCount::new();
    let mut core_loop = CoreLoop::new(thread);
    match panic::catch_unwind(AssertUnwindSafe(|| core_loop.run_until_closed())) {
        Ok(outcome) => {
            if let Err(error) = &outcome {
                core_loop.thread.shared.fail(&format!("polling failed: {error}"));
            }
            core_loop.stop();
            outcome
        }
        Err(payload) => {
            core_loop.abandon(message(&*payload));
            panic::resume_unwind(payload)
        }
    }
}

impl CoreLoop {
    fn new(thread: CoreThread) -> Self {
        let mut clock = TurnClock::new(thread.clock);
        let now = clock.now();
        let watches = thread.core == CoreId(0) && thread.control.is_some();
        Self {
            now,
            watch: watches.then(|| {
                Watch::new(&thread.heartbeats.control, LOOKS_AT_CONTROL_EVERY, now.instant)
            }),
            clock,
            patience: Patience::new(match thread.idle {
                IdleStrategy::Adaptive { max_spin } => max_spin,
                IdleStrategy::Park | IdleStrategy::Busy => Duration::ZERO,
            }),
            thread,
            unpolled: 0,
            peers: BTreeMap::new(),
            actions: Vec::new(),
            net_events: Vec::new(),
            unsent: Vec::new(),
            unreported: Report::default(),
            complaints: Complaints::default(),
        }
    }

    fn run_until_closed(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        let mut is_behind = false;
        let place = usize::from(self.thread.core.0);
        while !self.thread.shared.is_closed() {
            self.wait(&mut events, is_behind)?;
            if !is_behind && self.only_looks(&events) {
                self.look_at_control();
                continue;
            }
            if self.thread.heartbeats.cores.begin(place) {
                (self.thread.wake_watcher)();
            }
            is_behind = self.run(&events);
            self.thread.heartbeats.cores.end(place);
        }
        Ok(())
    }

    /// Whether there is nothing to do but to look at the control thread, if that.
    fn only_looks(&mut self, events: &Events) -> bool {
        if self.watch.is_none()
            || !events.iter().all(|event| event.token() == WAKE)
            || self.has_messages()
        {
            return false;
        }
        self.now = self.clock.now();
        self.deadline().is_none_or(|at| at > self.now.instant)
    }

    /// Waits as the idle strategy says, unless there is something to do.
    fn wait(&mut self, events: &mut Events, is_behind: bool) -> io::Result<()> {
        events.clear();
        let is_due = self.deadline().is_some_and(|at| at <= self.now.instant);
        if !is_behind && !is_due && !self.has_messages() && !self.spin(events)? {
            return self.sleep(events);
        }
        // The poll has not reported anything yet: what it reports it does not report again.
        if self.thread.net.is_some() && self.unpolled >= OPERATIONS_PER_POLL && events.is_empty() {
            self.unpolled = 0;
            poll_for(&mut self.thread.poll, events, Duration::ZERO)?;
        }
        Ok(())
    }

    /// Whether a message or the end has come.
    fn has_messages(&self) -> bool {
        self.thread.calls.has_item()
            || self.thread.orders.has_item()
            || self.thread.shared.is_closed()
    }

    /// Looks for messages and at the sockets, for as long as the strategy allows and until
    /// something is due. Returns whether something is there.
    fn spin(&mut self, events: &mut Events) -> io::Result<bool> {
        let until = match self.thread.idle {
            IdleStrategy::Park => return Ok(false),
            IdleStrategy::Adaptive { .. } if spare_processors() == 0 => return Ok(false),
            IdleStrategy::Adaptive { .. } => {
                let expects_answers = self.thread.shard.expects_answers();
                Some(self.now.instant + self.patience.spin(expects_answers))
            }
            IdleStrategy::Busy => None,
        };
        let looks_at = self.watch.as_ref().and_then(Watch::deadline);
        let until = until.into_iter().chain(self.deadline()).chain(looks_at).min();
        let CoreThread { poll, clock, calls, orders, shared, net, heartbeats, .. } =
            &mut self.thread;
        let watch = self.watch.as_ref();
        let is_woken = || watch.is_some_and(|watch| watch.is_woken(&heartbeats.control));
        let has_messages =
            || calls.has_item() || orders.has_item() || shared.is_closed() || is_woken();
        let unpolled = &mut self.unpolled;
        let has_events = || {
            if net.is_some() {
                *unpolled = 0;
                poll_for(poll, events, Duration::ZERO)?;
            }
            Ok(!events.is_empty())
        };
        let found = look(clock, until, has_messages, has_events)?;
        if found {
            self.patience.learn(Duration::ZERO);
        }
        // What is due is work, too.
        Ok(found || self.thread.idle == IdleStrategy::Busy)
    }

    /// Sleeps until another thread rings, a socket has something, or something is due.
    fn sleep(&mut self, events: &mut Events) -> io::Result<()> {
        let looks_at = self.watch.as_ref().and_then(Watch::deadline);
        let until = self.deadline().into_iter().chain(looks_at).min();
        let timeout = until.map(|at| at.since(self.thread.clock.instant()));
        let CoreThread { poll, bell, calls, orders, shared, heartbeats, .. } = &mut self.thread;
        let watch = self.watch.as_ref();
        let is_woken = || watch.is_some_and(|watch| watch.is_woken(&heartbeats.control));
        let has_messages =
            || calls.has_item() || orders.has_item() || shared.is_closed() || is_woken();
        if let Some(polled) = bell.park(has_messages, || poll.poll(events, timeout)) {
            self.unpolled = 0;
            interrupted_is_nothing(polled, events)?;
        }
        if !events.is_empty() || self.has_messages() {
            self.patience.learn(self.thread.clock.instant().since(self.now.instant));
        }
        Ok(())
    }

    /// Returns when something is due.
    fn deadline(&self) -> Option<Instant> {
        let net = self.thread.net.as_ref().and_then(Net::deadline);
        self.thread.shard.deadline().into_iter().chain(net).min()
    }

    /// Does one pass. Returns whether there is more to do at once.
    fn run(&mut self, events: &Events) -> bool {
        let now = self.clock.now();
        self.now = now;
        self.take_orders(now);
        let mut is_behind = self.read_sockets(now, events);
        is_behind |= self.take_calls(now);
        if self.thread.shard.deadline().is_some_and(|at| at <= now.instant) {
            self.thread.shard.handle_timers(now, &mut self.actions);
            // It may have gone on with as many operations of batches as a pass takes.
            self.unpolled += OPERATIONS_PER_POLL;
        }
        self.perform(now);
        if let Some(net) = &mut self.thread.net {
            net.flush(&mut self.net_events);
            // What the flush lost is handled in the next pass.
            is_behind |= !self.net_events.is_empty();
        }
        while let Some(request_id) = self.unsent.pop() {
            self.tell(now, Event::Unsent { request_id });
        }
        is_behind |= !self.actions.is_empty();
        self.look_at_control();
        is_behind | self.report()
    }

    /// Says so if the control thread stands still. The other nodes find out by themselves.
    fn look_at_control(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        for (_, noticed) in watch.look(self.now.instant, &self.thread.heartbeats.control) {
            match noticed {
                Noticed::IsStuck => logging::error!(
                    "the control thread has stood still for a second, as it gets no processor: \
                     the other nodes take this one for dead if that goes on"
                ),
                Noticed::GoesOn { after } => {
                    logging::warn!("the control thread goes on after {after:?}");
                }
            }
        }
    }

    fn take_orders(&mut self, now: Now) {
        while self.thread.orders.has_item()
            && let Pop::Item(order) = self.thread.orders.pop()
        {
            match order {
                Order::Place { placement, stage } => {
                    self.tell(now, Event::Placement { placement, stage })
                }
                Order::NewLife { identity } => {
                    if let Some(net) = &mut self.thread.net {
                        net.set_identity(identity);
                    }
                    self.tell(now, Event::NewLife { me: identity });
                }
                Order::AskDebt { question } => self.tell(now, Event::AskDebt { question }),
                Order::Adopt { handover, peer } => {
                    if let Some(net) = &mut self.thread.net {
                        let connection = net.adopt(now.instant, *handover, &mut self.net_events);
                        self.peers.insert(connection, peer);
                    }
                }
                #[cfg(feature = "security")]
                Order::Secure(security) => {
                    if let Some(net) = &mut self.thread.net {
                        net.secure(now.instant, security);
                    }
                }
                #[cfg(feature = "security")]
                Order::Keys(keys) => {
                    if let Some(net) = &mut self.thread.net {
                        net.know_keys(now.instant, keys);
                    }
                }
            }
        }
    }

    fn read_sockets(&mut self, now: Now, events: &Events) -> bool {
        let Some(net) = &mut self.thread.net else { return false };
        for event in events.iter().filter(|event| event.token().0 >= FIRST_CONNECTION) {
            net.ready(now.instant, event, &mut self.net_events);
        }
        let is_behind = net.read_pending(now.instant, &mut self.net_events);
        net.handle_timers(now.instant, &mut self.net_events);
        for event in std::mem::take(&mut self.net_events) {
            // The answer to one request decides whether the next one is admitted.
            if let Some(net) = &mut self.thread.net
                && let Some(event) = net.admit(event)
            {
                self.network(now, event);
                self.perform(now);
            }
        }
        is_behind
    }

    fn network(&mut self, now: Now, event: NetEvent) {
        match event {
            NetEvent::Answer { target, frame: Frame { request_id, message, .. } } => {
                match message {
                    Message::Answer(answer) => {
                        let from = target.expects;
                        self.tell(now, Event::Answer { from, request_id, answer });
                    }
                    _ => {
                        if let Some(silent) = self.complaints.add(now.instant) {
                            logging::warn!(
                                "{}: a core answered with something else, closing (as {silent} \
                                 others since the last such line)",
                                target.addr
                            );
                        }
                        self.close(now, target);
                    }
                }
            }
            NetEvent::Lost { target, cause } => {
                logging::debug!(
                    "{}: connection of core {} lost: {cause:?}",
                    target.addr,
                    self.thread.core.0
                );
                if let Some((node, boot)) = target.expects {
                    self.tell(now, Event::Lost { node, boot });
                }
            }
            NetEvent::Request { connection, frame: Frame { partition, request_id, message } } => {
                match (message, self.peers.get(&connection)) {
                    (Message::Request(request), Some(&from)) => {
                        let via = connection.number();
                        self.tell(
                            now,
                            Event::Request { via, from, partition, request_id, request },
                        );
                    }
                    _ => self.close_accepted(connection, "not a request for a core"),
                }
            }
            NetEvent::Closed { connection } => {
                self.peers.remove(&connection);
            }
            // The control thread hears of it, too; a core accepts no connections.
            #[cfg(feature = "security")]
            NetEvent::Denied { .. } | NetEvent::NotSecured { .. } => {}
            // Opening needs nothing here; greetings come to the control thread alone.
            NetEvent::Opened { .. } | NetEvent::Greeted { .. } => {}
        }
    }

    /// Takes calls within the budget of a pass. Returns whether there are more.
    fn take_calls(&mut self, now: Now) -> bool {
        let mut operations = 0;
        while operations < OPERATIONS_PER_PASS
            // Cheaper to look at than to pop in vain, which would take the producers' line from
            // them.
            && self.thread.calls.has_item()
            && let Pop::Item(message) = self.thread.calls.pop()
        {
            // The caller may have been told of a change that this core has not looked at yet.
            self.take_orders(now);
            if let Some((call, caller)) = message.take() {
                operations += call.weight();
                self.tell(now, Event::Call { call, caller });
                self.perform(now);
            }
        }
        if operations > 0 {
            self.thread.calls.admit();
        }
        // A pass without any counts, too: there are other reasons to be busy.
        self.unpolled += operations.max(OPERATIONS_PER_POLL / 4);
        self.thread.calls.has_item()
    }

    fn tell(&mut self, now: Now, event: Event<ReplyTo>) {
        self.thread.shard.handle(now, event, &mut self.actions);
    }

    fn perform(&mut self, now: Now) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                Action::Reply { caller, outcome } => caller.send(outcome),
                Action::Ask { to, core, partition, request_id, request } => {
                    let target = Destination {
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
                Action::Violation { via, why } => {
                    self.close_accepted(ConnectionId::from_number(via), why)
                }
                Action::Progress { generation, pending, giving, shortage } => {
                    let core = usize::from(self.thread.core.0);
                    let progress =
                        ToControl::Progress { core, generation, pending, giving, shortage };
                    self.unreported.progress = Some(progress);
                }
                Action::Debt { question, mut debt } => {
                    // Calls that it has not looked at have no answer, either.
                    debt.unfinished += usize::from(self.thread.calls.has_item());
                    let core = usize::from(self.thread.core.0);
                    self.unreported.debt = Some(ToControl::CoreOwes { core, question, debt });
                }
                Action::DataAtRisk { partition } => {
                    logging::debug!("partition {}: W of its replicas are dead", partition.index());
                    self.unreported.partitions_at_risk += 1;
                }
                Action::WentOn { partition } => {
                    logging::debug!("partition {} goes on with what is left", partition.index());
                }
            }
        }
        // It is empty, and has room for the next ones.
        self.actions = actions;
    }

    /// Tells the control thread what is new, as far as it has room. Returns whether something is
    /// left to tell.
    fn report(&mut self) -> bool {
        let (Some(control), Report { progress, debt, partitions_at_risk }) =
            (&self.thread.control, &mut self.unreported)
        else {
            return false;
        };
        for latest in [&mut *progress, &mut *debt] {
            if let Some(message) = latest.take()
                && let Err(SendError::Full(message)) = control.try_send(message)
            {
                *latest = Some(message);
            }
        }
        let at_risk = ToControl::DataAtRisk { partitions: *partitions_at_risk };
        if *partitions_at_risk > 0 && !matches!(control.try_send(at_risk), Err(SendError::Full(_)))
        {
            *partitions_at_risk = 0;
        }
        progress.is_some() || debt.is_some() || *partitions_at_risk > 0
    }

    fn close(&mut self, now: Now, target: Destination) {
        if let Some(net) = &mut self.thread.net {
            net.close(target);
        }
        if let Some((node, boot)) = target.expects {
            self.tell(now, Event::Lost { node, boot });
        }
    }

    fn close_accepted(&mut self, connection: ConnectionId, why: &str) {
        let peer = self.peers.remove(&connection);
        if let Some(silent) = self.complaints.add(self.now.instant) {
            logging::warn!(
                "closing a connection from {peer:?}: {why} (as {silent} others since the last such \
                 line)"
            );
        }
        if let Some(net) = &mut self.thread.net {
            net.close_accepted(connection);
        }
    }

    /// Answers every caller that the shard knows. A caller in the queue is answered when the queue
    /// is dropped.
    fn stop(mut self) {
        let now = self.clock.now();
        self.tell(now, Event::Stop(self.thread.shared.stopped_by()));
        self.perform(now);
        if let Some(net) = &self.thread.net {
            logging::debug!("core {} stops: {:?}", self.thread.core.0, net.counters());
        }
    }

    /// Closes the engine after a panic, and lets go of every caller that waits.
    ///
    /// The rest of the shard may be in any state, so nothing looks at it again: its memory is never
    /// freed.
    fn abandon(self, why: &str) {
        self.thread.shared.fail(why);
        let mut shard = ManuallyDrop::new(self.thread.shard);
        let _ = panic::catch_unwind(AssertUnwindSafe(|| shard.abandon()));
    }
}

fn poll_for(poll: &mut Poll, events: &mut Events, timeout: Duration) -> io::Result<()> {
    interrupted_is_nothing(poll.poll(events, Some(timeout)), events)
}

fn interrupted_is_nothing(polled: io::Result<()>, events: &mut Events) -> io::Result<()> {
    match polled {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            // It has not filled in any events.
            events.clear();
            Ok(())
        }
        other => other,
    }
}
