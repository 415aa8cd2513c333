//! The control thread: one [`Control`], one poll, the listener and the datagram socket.
//! [`ControlLoop`] has the loop.
//!
//! It accepts every connection, has `Control` judge it, and hands it to the core that its opener
//! wants.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpListener;
use mio::{Events, Poll, Token};

use super::bell::Bell;
use super::clock::Clock;
use super::discovery_thread::DiscoveryRequests;
use super::heartbeat::{Heartbeats, LOOKS_AT_CORES_EVERY, Watch};
use super::mailbox::{Inbox, ThreadOutbox};
use super::messages::{Order, ToControl};
use super::net::complaints::Complaints;
use super::net::datagram::Datagrams;
use super::net::{ConnectionId, Destination, LossCause, Net, NetEvent};
use super::ring::Pop;
#[cfg(feature = "security")]
use super::secured::Secured;
use super::shared::Shared;
use super::tokens::{DATAGRAMS, FIRST_CONNECTION, LISTENER, WAKE};
use crate::clock::{Instant, Now};
use crate::control::{Control, ControlAction, ControlEvent, Link, LinkEnd};
use crate::events::Event;
use crate::logging;
use crate::types::{Identity, Partition};
use crate::wire::message::{Channel, Frame, Message};

/// How many datagrams one pass takes: more than a cluster's gossip brings. A flood of them leaves
/// the connections and timers their share.
const DATAGRAMS_PER_PASS: usize = 256;

/// What the control thread is made of.
pub(crate) struct ControlThread {
    pub(crate) poll: Poll,
    pub(crate) bell: Arc<Bell>,
    pub(crate) clock: Clock,
    pub(crate) control: Control,
    pub(crate) net: Net,
    pub(crate) listener: TcpListener,
    pub(crate) datagrams: Datagrams,
    pub(crate) messages: Inbox<ToControl>,
    /// `None` if there is nothing to look up.
    pub(crate) discovery: Option<DiscoveryRequests>,
    pub(crate) cores: Vec<ThreadOutbox<Order>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) heartbeats: Arc<Heartbeats>,
    /// The bell of the core that looks at this thread.
    pub(crate) watcher: Arc<Bell>,
}

/// The loop of the control thread.
pub(crate) struct ControlLoop {
    thread: ControlThread,
    /// Looks at the cores. While one of them is stuck this thread does nothing else.
    watch: Watch,
    /// Whether the listener has something.
    must_accept: bool,
    /// Whether the datagram socket may have something.
    must_receive: bool,
    actions: Vec<ControlAction>,
    net_events: Vec<NetEvent>,
    /// Who said HELLO over the connections that this thread serves.
    peers: BTreeMap<ConnectionId, Identity>,
    next_request: u64,
    /// Peers that sent what is not for this thread.
    complaints: Complaints,
}

/// Begins the loop: gives every core its first placement, so that the first call finds one.
pub(crate) fn begin(thread: ControlThread) -> ControlLoop {
    let now = thread.clock.instant();
    let watch = Watch::new(&thread.heartbeats.cores, LOOKS_AT_CORES_EVERY, now);
    let mut control_loop = ControlLoop {
        thread,
        watch,
        must_accept: false,
        must_receive: true,
        actions: Vec::new(),
        net_events: Vec::new(),
        peers: BTreeMap::new(),
        next_request: 1,
        complaints: Complaints::default(),
    };
    control_loop.thread.control.start(now, &mut control_loop.actions);
    control_loop.perform(now);
    control_loop
}

/// Runs until it is told to stop.
///
/// # Errors
///
/// The poll's, which end the thread.
pub(crate) fn run(mut control_loop: ControlLoop) -> io::Result<()> {
    let mut events = Events::with_capacity(256);
    let mut is_behind = true;
    while !control_loop.thread.shared.is_closed() {
        control_loop.poll(&mut events, is_behind)?;
        if !is_behind && control_loop.only_looks(&events) {
            control_loop.look_at_cores(control_loop.thread.clock.instant());
            continue;
        }
        if control_loop.thread.heartbeats.control.begin(0) {
            control_loop.thread.watcher.ring();
        }
        is_behind = control_loop.run(&events);
        control_loop.thread.heartbeats.control.end(0);
    }
    control_loop.stop();
    Ok(())
}

impl ControlLoop {
    /// Whether there is nothing to do but to look at the cores, if that.
    fn only_looks(&self, events: &Events) -> bool {
        let ControlThread { messages, control, net, clock, .. } = &self.thread;
        let due = control.deadline().into_iter().chain(net.deadline()).min();
        events.iter().all(|event| event.token() == WAKE)
            && self.vouches()
            && !messages.has_item()
            && due.is_none_or(|at| at > clock.instant())
    }

    /// Waits for something to do, unless there is.
    fn poll(&mut self, events: &mut Events, is_behind: bool) -> io::Result<()> {
        let timeout = if is_behind { Some(Duration::ZERO) } else { self.until_deadline() };
        let (vouches, watch) = (self.vouches(), &self.watch);
        let ControlThread { poll, bell, messages, shared, heartbeats, .. } = &mut self.thread;
        let has_work = || {
            let has_messages = vouches && messages.has_item();
            is_behind || has_messages || watch.is_woken(&heartbeats.cores) || shared.is_closed()
        };
        let polled = bell.park(has_work, || poll.poll(events, timeout));
        let polled = polled.unwrap_or_else(|| poll.poll(events, Some(Duration::ZERO)));
        match polled {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            Err(_) => {
                // Interrupted, it has not filled in any events.
                events.clear();
                self.must_receive = true;
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn until_deadline(&self) -> Option<Duration> {
        let now = self.thread.clock.instant();
        let of_work = self.thread.control.deadline().into_iter().chain(self.thread.net.deadline());
        let of_work = of_work.min().filter(|_| self.vouches());
        // A look waits for work that is due soon.
        let looks_at = self.watch.deadline().map(|at| match of_work {
            Some(work) if work <= at + LOOKS_AT_CORES_EVERY / 2 => work,
            _ => at,
        });
        of_work.into_iter().chain(looks_at).min().map(|at| at.since(now))
    }

    /// Whether this node answers probes: all of its cores answer requests.
    fn vouches(&self) -> bool {
        !self.watch.any_is_stuck()
    }

    /// Does one pass. Returns whether there is more to do at once.
    fn run(&mut self, events: &Events) -> bool {
        // Both clocks at one moment: that they go apart is how a clock that was set is noticed.
        let clocks = Now { instant: self.thread.clock.instant(), wall: self.thread.clock.wall() };
        let now = clocks.instant;
        self.look_at_cores(now);
        self.note_ready(now, events);
        if !self.vouches() {
            // All waits, in sockets and queues, as it does while a process stands still. A thread
            // that took up some of it, and not the answers to its own pings, would take others for
            // dead.
            return false;
        }
        self.take_messages(now);
        let mut is_behind = self.read_datagrams(clocks);
        is_behind |= self.read_sockets(now);
        if self.thread.control.deadline().is_some_and(|at| at <= now) {
            self.thread.control.handle_timers(now, &mut self.actions);
        }
        self.perform(now);
        self.thread.net.flush(&mut self.net_events);
        is_behind |= !self.net_events.is_empty();
        for core in &mut self.thread.cores {
            is_behind |= core.flush();
        }
        is_behind
    }

    fn look_at_cores(&mut self, now: Instant) {
        for (core, noticed) in self.watch.look(now, &self.thread.heartbeats.cores) {
            self.notify(&noticed.of_core(core));
        }
    }

    /// Says farewell if the other nodes are to be told. A frame that is read from here on could
    /// only be answered wrongly.
    fn stop(mut self) {
        let now = self.thread.clock.instant();
        if !self.thread.shared.is_silent() {
            self.tell(now, ControlEvent::Stop);
            self.thread.net.flush(&mut self.net_events);
        }
        let ControlThread { net, datagrams, .. } = &self.thread;
        logging::debug!(
            "the control thread stops: {:?}, {:?}",
            net.counters(),
            datagrams.counters()
        );
    }

    fn take_messages(&mut self, now: Instant) {
        while let Pop::Item(message) = self.thread.messages.pop() {
            let event = match message {
                ToControl::Progress { core, generation, pending, giving, shortage } => {
                    self.thread.shared.update(|state| {
                        if let Some(held) = state.giving.get_mut(core) {
                            *held = giving;
                        }
                    });
                    ControlEvent::Progress { core, generation, pending, giving, shortage }
                }
                ToControl::DataAtRisk { partitions } => ControlEvent::DataAtRisk { partitions },
                ToControl::CoreOwes { core, question, debt } => {
                    if let Some(held) = self.thread.shared.lock().unfinished.get_mut(core) {
                        *held = debt.unfinished;
                    }
                    ControlEvent::CoreOwes { core, question, debt }
                }
                ToControl::WatchSafety { ticket, until } => {
                    ControlEvent::WatchSafety { ticket, until }
                }
                ToControl::Found(found) => ControlEvent::Found(*found),
                ToControl::Leave => ControlEvent::Leave,
                #[cfg(feature = "security")]
                ToControl::ForgetIdentity { node } => ControlEvent::ForgetIdentity { node },
                #[cfg(feature = "security")]
                ToControl::Secure(secured) => {
                    self.secure(now, secured);
                    continue;
                }
            };
            self.tell(now, event);
        }
        self.thread.messages.admit();
    }

    /// Secures all traffic with this from now on. The cores are told before the app is.
    #[cfg(feature = "security")]
    fn secure(&mut self, now: Instant, secured: Secured) {
        let Secured { node, net } = secured;
        for core in &mut self.thread.cores {
            core.send(Order::Secure(net.clone()));
        }
        self.thread.net.secure(now, net);
        self.thread.control.use_security(now, node, &mut self.actions);
        self.perform(now);
    }

    /// Reads datagrams if the poll told of some, or if something is due: this thread may have stood
    /// still since the poll, and what came then is to be known before members are accused.
    fn read_datagrams(&mut self, now: Now) -> bool {
        let is_due = |at: Instant| at <= now.instant;
        if !self.must_receive && !self.thread.control.deadline().is_some_and(is_due) {
            return false;
        }
        let (control, actions) = (&mut self.thread.control, &mut self.actions);
        self.must_receive = self.thread.datagrams.receive(DATAGRAMS_PER_PASS, |from, bytes| {
            if let Err(error) = control.handle_datagram(now, from, bytes, actions) {
                logging::debug!("a datagram from {from} was dropped: {error}");
            }
        });
        self.must_receive
    }

    /// Keeps what the poll said, which it says once.
    fn note_ready(&mut self, now: Instant, events: &Events) {
        for event in events {
            match event.token() {
                LISTENER => self.must_accept = true,
                DATAGRAMS => self.must_receive = true,
                Token(number) if number >= FIRST_CONNECTION => {
                    self.thread.net.ready(now, event, &mut self.net_events);
                }
                _ => {}
            }
        }
    }

    fn read_sockets(&mut self, now: Instant) -> bool {
        // Those that said HELLO go first: a flood of others must not push them out unheard.
        let is_behind = self.thread.net.read_pending(now, &mut self.net_events);
        self.thread.net.handle_timers(now, &mut self.net_events);
        for event in std::mem::take(&mut self.net_events) {
            if let Some(event) = self.thread.net.admit(event) {
                self.network(now, event);
            }
        }
        if std::mem::take(&mut self.must_accept) || self.thread.net.must_accept(now) {
            self.thread.net.accept_some(now, &self.thread.listener);
        }
        is_behind || self.thread.net.must_accept(now)
    }

    fn network(&mut self, now: Instant, event: NetEvent) {
        match event {
            NetEvent::Opened { target, welcome, proved } => {
                self.tell(now, ControlEvent::LinkUp { link: link(&target), welcome, proved });
            }
            NetEvent::Lost { target, cause } => {
                let end = match cause {
                    LossCause::ConnectRefused => LinkEnd::ConnectRefused,
                    LossCause::Unreachable(_) => LinkEnd::Unreachable,
                    LossCause::Refused(refusal) => LinkEnd::Refused(refusal),
                    LossCause::Ended => LinkEnd::Ended,
                    LossCause::PutOff => LinkEnd::PutOff,
                };
                self.tell(now, ControlEvent::LinkDown { link: link(&target), end });
            }
            #[cfg(feature = "security")]
            NetEvent::NotSecured { peer: address, reason, others } => {
                self.notify(&Event::SecurityRefused { address, reason, others });
            }
            #[cfg(feature = "security")]
            NetEvent::Denied { target, key } => {
                self.tell(now, ControlEvent::DeniedKey { link: link(&target), key });
            }
            NetEvent::Answer { target, frame } => match frame.message {
                Message::Control(message) => {
                    self.tell(now, ControlEvent::Answer { link: link(&target), message });
                }
                _ => {
                    if let Some(silent) = self.complaints.add(now) {
                        logging::warn!(
                            "{}: its control thread answered with something else, closing (as \
                             {silent} others since the last such line)",
                            target.addr
                        );
                    }
                    self.thread.net.close(target);
                    self.tell(
                        now,
                        ControlEvent::LinkDown { link: link(&target), end: LinkEnd::Ended },
                    );
                }
            },
            NetEvent::Greeted { connection, hello, proved } => {
                let via = connection.number();
                self.tell(now, ControlEvent::Greeted { via, hello, proved });
            }
            NetEvent::Request { connection, frame } => match frame.message {
                Message::Control(message) => {
                    let Some(peer) = self.peers.get(&connection).copied() else { return };
                    let (via, request_id) = (connection.number(), frame.request_id);
                    self.tell(now, ControlEvent::Request { via, peer, request_id, message });
                }
                _ => {
                    if let Some(silent) = self.complaints.add(now) {
                        logging::warn!(
                            "closing a connection: not a request for the control thread (as \
                             {silent} others since the last such line)"
                        );
                    }
                    self.peers.remove(&connection);
                    self.thread.net.close_accepted(connection);
                }
            },
            NetEvent::Closed { connection } => {
                self.peers.remove(&connection);
            }
        }
    }

    fn tell(&mut self, now: Instant, event: ControlEvent) {
        self.thread.control.handle(now, event, &mut self.actions);
        self.perform(now);
    }

    fn perform(&mut self, now: Instant) {
        let mut happened = Vec::new();
        for action in std::mem::take(&mut self.actions) {
            match action {
                ControlAction::Datagram { to, receiver, bytes } => {
                    let wall = self.thread.clock.wall();
                    let closed = self.thread.control.close_datagram(receiver, bytes, wall);
                    if let Some(bytes) = closed {
                        self.thread.datagrams.send_to(&bytes, to);
                    }
                }
                ControlAction::Open(link) => self.thread.net.open(now, target(link)),
                ControlAction::Close(link) => self.thread.net.close(target(link)),
                ControlAction::Ask { link, message } => {
                    let request_id = self.next_request;
                    self.next_request += 1;
                    let frame = control_frame(request_id, Message::Control(message));
                    // If it does not fit: a status or a question is sent again anyway.
                    let _ = self.thread.net.send(now, target(link), &frame);
                }
                ControlAction::Answer { via, request_id, message } => {
                    let frame = control_frame(request_id, Message::Control(message));
                    self.thread.net.answer(ConnectionId::from_number(via), &frame);
                }
                ControlAction::Welcome { via, welcome, peer } => {
                    let connection = ConnectionId::from_number(via);
                    match welcome.channel {
                        Channel::Control => {
                            self.peers.insert(connection, peer);
                            self.thread.net.welcome(connection, welcome);
                        }
                        Channel::Core(core) => {
                            if let Some(handover) = self.thread.net.hand_over(connection, welcome) {
                                let order = Order::Adopt { handover: Box::new(handover), peer };
                                self.thread.cores[usize::from(core.0)].send(order);
                            }
                        }
                    }
                }
                ControlAction::Refuse { via, refusal } => {
                    self.thread.net.refuse(ConnectionId::from_number(via), refusal);
                }
                ControlAction::Publish { placement, stage } => {
                    for core in &mut self.thread.cores {
                        core.send(Order::Place { placement: placement.clone(), stage });
                    }
                }
                #[cfg(feature = "security")]
                ControlAction::Keys(keys) => {
                    self.thread.net.know_keys(now, keys.clone());
                    for core in &mut self.thread.cores {
                        core.send(Order::Keys(keys.clone()));
                    }
                }
                ControlAction::Returned { identity, is_same_life } => {
                    self.thread.net.set_identity(identity);
                    if is_same_life {
                        logging::warn!("the other nodes took this one for dead; it is back");
                    } else {
                        logging::warn!(
                            "this node goes on as a later life: it was started with its clock \
                             behind that of its last start, or was taken for dead 65,535 times"
                        );
                        for core in &mut self.thread.cores {
                            core.send(Order::NewLife { identity });
                        }
                    }
                }
                ControlAction::Discover => {
                    if let Some(discovery) = &self.thread.discovery {
                        discovery.look();
                    }
                }
                ControlAction::Notify(event) => happened.push(event),
                ControlAction::Members(members) => {
                    self.thread.shared.update(|state| state.members = members);
                }
                ControlAction::Readiness(readiness) => {
                    self.thread.shared.update(|state| state.readiness = readiness);
                }
                ControlAction::AskDebt { question } => {
                    for core in &mut self.thread.cores {
                        core.send(Order::AskDebt { question });
                    }
                }
                ControlAction::Safe { ticket } => self.thread.shared.update(|state| {
                    state.safe_up_to = state.safe_up_to.max(ticket);
                    state.risks.clear();
                }),
                ControlAction::Risks(risks) => self.thread.shared.lock().risks = risks,
                ControlAction::Drain => self.thread.shared.drain(),
                ControlAction::Left => self.thread.shared.update(|state| state.has_left = true),
            }
        }
        // Last, so that an app that hears of it finds the members as it says.
        for event in happened {
            self.notify(&event);
        }
    }

    fn notify(&self, event: &Event) {
        self.thread.shared.notify(event);
    }
}

fn control_frame(request_id: u64, message: Message) -> Frame {
    Frame { partition: Partition::default(), request_id, message }
}

fn target(link: Link) -> Destination {
    Destination { addr: link.addr, expects: link.expects, channel: Channel::Control }
}

fn link(target: &Destination) -> Link {
    Link { addr: target.addr, expects: target.expects }
}
