//! Virtual network: datagrams that may be lost, and connections that deliver in order until they break.
//!
//! A connection behaves as TCP does where the way is [blocked](SimCluster::block): what was sent waits, in order,
//! and arrives when the way is free again; or the connection breaks, after [`SIMULATED_USER_TIMEOUT`].

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;

use super::node::Node;
use super::{CallId, Outcome, SimCluster, node};
use crate::clock::Instant;
use crate::control::{ControlAction, ControlEvent, Link, LinkEnd};
use crate::shard::{Action, Event as ShardEvent, Outcome as ShardOutcome};
use crate::types::{Boot, CoreId, Identity, NodeHash, Partition};
use crate::wire::codec;
use crate::wire::frame::{Encoded, FrameBuffer};
use crate::wire::message::{Answer, Channel, Frame, Hello, Message, Request};
use crate::wire::timing::{OPEN_TIMEOUT, SIMULATED_USER_TIMEOUT};

/// An opener's end: which node, which of its threads, and whom it opens to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ConnectionKey {
    opener: usize,
    from: Channel,
    addr: SocketAddr,
    expects: Option<(NodeHash, Boot)>,
    to: Channel,
}

pub(super) struct Connection {
    id: u64,
    opener_life: u32,
    /// The acceptor, once it was reached, and what the opener said of itself.
    acceptor: Option<(usize, u32)>,
    peer: Option<Identity>,
    is_open: bool,
    /// Frames that wait for it to open.
    waiting: Vec<Encoded>,
    there: Way,
    back: Way,
}

/// One direction of a connection.
struct Way {
    /// Nothing is delivered before what was sent before it.
    last: Instant,
    /// What waits for the way to be free again, and since when.
    stalled: Vec<Encoded>,
    stalled_since: Instant,
}

impl Way {
    fn new(now: Instant) -> Self {
        Self { last: now, stalled: Vec::new(), stalled_since: now }
    }
}

/// What is scheduled.
pub(super) enum Event {
    Wake {
        node: usize,
        life: u32,
        at: Instant,
    },
    Datagram {
        to: SocketAddr,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    Dial {
        key: ConnectionKey,
        id: u64,
    },
    Welcomed {
        key: ConnectionKey,
        id: u64,
        bytes: Encoded,
    },
    ToAcceptor {
        key: ConnectionKey,
        id: u64,
        bytes: Encoded,
    },
    ToOpener {
        key: ConnectionKey,
        id: u64,
        bytes: Encoded,
    },
    Broken {
        key: ConnectionKey,
        id: u64,
        end: LinkEnd,
    },
    /// The way is free again for what waited.
    Resumed {
        key: ConnectionKey,
        id: u64,
        is_there: bool,
    },
    /// What waits since then, for the way to be free, has waited for too long.
    GivenUp {
        key: ConnectionKey,
        id: u64,
        since: Instant,
    },
    /// The control thread's word to a core, and a core's to the control thread.
    Order {
        node: usize,
        life: u32,
        core: CoreId,
        event: Box<ShardEvent<CallId>>,
    },
    Report {
        node: usize,
        life: u32,
        event: ControlEvent,
    },
}

impl Event {
    /// What the trace hash is made of: a kind, a number, and what is carried.
    pub(super) fn fingerprint(&self) -> (u64, u64, &[u8]) {
        match self {
            Self::Wake { node, .. } => (0, *node as u64, &[]),
            Self::Datagram { bytes, .. } => (1, 0, bytes),
            Self::Dial { id, .. } => (2, *id, &[]),
            Self::Welcomed { id, bytes, .. } => (3, *id, bytes),
            Self::ToAcceptor { id, bytes, .. } => (4, *id, bytes),
            Self::ToOpener { id, bytes, .. } => (5, *id, bytes),
            Self::Broken { id, .. } => (6, *id, &[]),
            Self::Resumed { id, .. } => (7, *id, &[]),
            Self::GivenUp { id, .. } => (8, *id, &[]),
            Self::Order { node, core, .. } => (9, (*node as u64) << 16 | u64::from(core.0), &[]),
            Self::Report { node, .. } => (10, *node as u64, &[]),
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = |bytes: &[u8]| xxhash_rust::xxh3::xxh3_64(bytes) as u32;
        match self {
            Self::Wake { node, .. } => write!(f, "wake n{node}"),
            Self::Datagram { to, from, bytes } => write!(f, "datagram {from}->{to} {:08x}", hash(bytes)),
            Self::Dial { key, id } => write!(f, "dial {key:?} #{id}"),
            Self::Welcomed { id, .. } => write!(f, "welcomed #{id}"),
            Self::ToAcceptor { id, bytes, .. } => write!(f, "frame #{id} ->  {}", describe(bytes)),
            Self::ToOpener { id, bytes, .. } => write!(f, "frame #{id} <-  {}", describe(bytes)),
            Self::Broken { id, end, .. } => write!(f, "broken #{id} {end:?}"),
            Self::Resumed { id, .. } => write!(f, "resumed #{id}"),
            Self::GivenUp { id, .. } => write!(f, "given up #{id}"),
            Self::Order { node, core, event, .. } => match &**event {
                ShardEvent::Placement { placement, stage } => {
                    write!(f, "order n{node}/{} {placement:?} {stage:?}", core.0)
                }
                ShardEvent::AskDebt { question } => write!(f, "order n{node}/{} owes? {question}", core.0),
                _ => write!(f, "order n{node}/{}", core.0),
            },
            Self::Report { node, event, .. } => write!(f, "report n{node} {event:?}"),
        }
    }
}

fn describe(bytes: &[u8]) -> String {
    match decode(&mut FrameBuffer::new(), bytes) {
        Some(Frame { partition, request_id, message }) => {
            format!("p{} r{request_id} {message:?}", partition.index())
        }
        None => "undecodable".into(),
    }
}

/// Through the production receive buffer and decoding.
fn decode(buffer: &mut FrameBuffer, bytes: &[u8]) -> Option<Frame> {
    buffer.raise_limit();
    let mut rest = bytes;
    while !rest.is_empty() {
        let space = buffer.space();
        let count = space.len().min(rest.len());
        space[..count].copy_from_slice(&rest[..count]);
        buffer.received(count);
        rest = &rest[count..];
    }
    let (header, body) = buffer.next().ok()??;
    codec::decode(header, body).ok()
}

/// How long a message between two threads of one node takes.
const HOP: Duration = Duration::from_micros(5);

/// How often the end of a connection tries to get through where the way is blocked.
const RETRANSMIT: Duration = Duration::from_millis(200);

impl SimCluster {
    /// Carries out what a node wants done, and sees to its next wake-up.
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
        let (deadline, life) = (self.nodes[number].deadline(), self.nodes[number].life);
        if let Some(at) = deadline
            && self.nodes[number].wake_at.is_none_or(|wake| at < wake)
        {
            self.nodes[number].wake_at = Some(at);
            self.schedule(at.since(self.now), Event::Wake { node: number, life, at });
        }
    }

    fn control_action(&mut self, number: usize, action: ControlAction) {
        let life = self.nodes[number].life;
        match action {
            ControlAction::Datagram { to, bytes } => self.send_datagram(number, to, bytes),
            ControlAction::Open(link) => self.open(control_key(number, link)),
            ControlAction::Close(link) => {
                self.forget_connection(&control_key(number, link));
            }
            ControlAction::Ask { link, message } => {
                let Some(running) = self.nodes[number].running() else { return };
                let request_id = running.next_request;
                running.next_request += 1;
                let frame =
                    Frame { partition: Partition::default(), request_id, message: Message::Control(message) };
                self.send_frame(control_key(number, link), &frame);
            }
            ControlAction::Welcome { via, welcome, peer } => {
                self.welcome(via, Message::Welcome(welcome), Some(peer))
            }
            ControlAction::Refuse { via, refusal } => self.welcome(via, Message::Refused(refusal), None),
            ControlAction::Answer { via, request_id, message } => {
                let message = Message::Control(message);
                self.answer(via, &Frame { partition: Partition::default(), request_id, message });
            }
            ControlAction::Publish { placement, stage } => {
                for core in (0..self.options.cores).map(CoreId) {
                    let event = ShardEvent::Placement { placement: placement.clone(), stage };
                    self.schedule(HOP, Event::Order { node: number, life, core, event: Box::new(event) });
                }
            }
            ControlAction::Lease(lease) => {
                for core in (0..self.options.cores).map(CoreId) {
                    let event = Box::new(ShardEvent::Lease(lease));
                    self.schedule(HOP, Event::Order { node: number, life, core, event });
                }
            }
            ControlAction::Returned { identity, is_same_life } => {
                if let Some(running) = self.nodes[number].running() {
                    running.identity = identity;
                }
                // As somebody else it opens connections anew.
                self.break_where(|key, _| {
                    key.opener == number && (key.from == Channel::Control || !is_same_life)
                });
                for core in (0..self.options.cores).map(CoreId).filter(|_| !is_same_life) {
                    let event = ShardEvent::NewLife { me: identity };
                    self.schedule(HOP, Event::Order { node: number, life, core, event: Box::new(event) });
                }
            }
            ControlAction::Members(members) => {
                if let Some(running) = self.nodes[number].running() {
                    running.set_members(members);
                }
            }
            ControlAction::AskDebt { question } => {
                for core in (0..self.options.cores).map(CoreId) {
                    let event = Box::new(ShardEvent::AskDebt { question });
                    self.schedule(HOP, Event::Order { node: number, life, core, event });
                }
            }
            ControlAction::Safe { ticket } => {
                if let Some(running) = self.nodes[number].running() {
                    running.safe = running.safe.max(ticket);
                }
            }
            ControlAction::Risks(risks) => self.note(|| format!("risks n{number} {risks:?}")),
            ControlAction::Drain => {
                if let Some(running) = self.nodes[number].running() {
                    running.is_draining = true;
                }
            }
            ControlAction::Notify(event) => self.note(|| format!("event n{number} {event:?}")),
            ControlAction::Readiness(readiness) => {
                if let Some(running) = self.nodes[number].running() {
                    running.set_hint(readiness.hint);
                }
            }
            // Seeds are given.
            ControlAction::Discover => {}
            ControlAction::Left => {
                self.note(|| format!("left n{number}"));
                self.nodes[number].crash();
                self.end_connections_of(number);
            }
        }
    }

    fn hash_outcome(&mut self, call: CallId, outcome: &Outcome) {
        let (kind, bytes): (u64, &[u8]) = match outcome {
            Outcome::Written(Ok(())) => (11, &[]),
            Outcome::Written(Err(_)) => (12, &[]),
            Outcome::Touched(Ok(is_changed)) => (13, &[*is_changed as u8]),
            Outcome::Touched(Err(_)) => (14, &[]),
            Outcome::Read(Ok(Some(value))) => (15, value),
            Outcome::Read(Ok(None)) => (16, &[]),
            Outcome::Read(Err(_)) => (17, &[]),
        };
        self.add_to_hash(kind, call.0, bytes);
    }

    fn shard_action(&mut self, number: usize, core: CoreId, action: Action<CallId>) {
        let life = self.nodes[number].life;
        match action {
            Action::Ask { to, core: remote, partition, request_id, request } => {
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
                self.answer(via, &Frame { partition, request_id, message: Message::Answer(answer) });
            }
            Action::Reply { caller, outcome } => {
                let outcome = match outcome {
                    ShardOutcome::Written(result) => Outcome::Written(result),
                    ShardOutcome::Read(result) => Outcome::Read(
                        result.map(|found| found.and_then(|entry| entry.value().map(<[u8]>::to_vec))),
                    ),
                    ShardOutcome::Touched(result) => Outcome::Touched(result),
                    ShardOutcome::Keys(_)
                    | ShardOutcome::Counts(_)
                    | ShardOutcome::Many(_)
                    | ShardOutcome::Ran(_) => return,
                };
                self.note(|| format!("reply n{number} {caller:?} {outcome:?}"));
                self.hash_outcome(caller, &outcome);
                self.outcomes.insert(caller, (self.now, outcome));
            }
            Action::Progress { generation, pending, giving } => {
                if let Some(running) = self.nodes[number].running() {
                    running.set_progress(core, pending, giving);
                }
                let event = ControlEvent::Progress { core: Self::index(core), generation, pending, giving };
                self.schedule(HOP, Event::Report { node: number, life, event });
            }
            Action::DataAtRisk { .. } => {
                self.note(|| format!("data at risk n{number}"));
                let event = ControlEvent::DataAtRisk { partitions: 1 };
                self.schedule(HOP, Event::Report { node: number, life, event });
            }
            Action::Debt { question, debt } => {
                let event = ControlEvent::CoreOwes { core: Self::index(core), question, debt };
                self.schedule(HOP, Event::Report { node: number, life, event });
            }
            Action::Violation { via, why } => panic!("a real node broke the protocol over {via}: {why}"),
        }
    }

    /// The node that an event happens at.
    fn place_of(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Wake { node, .. } | Event::Order { node, .. } | Event::Report { node, .. } => Some(*node),
            Event::Datagram { to, .. } => self.node_at(*to),
            Event::Dial { key, .. } => self.node_at(key.addr),
            Event::ToAcceptor { key, .. } | Event::Resumed { key, is_there: true, .. } => {
                self.connections.get(key)?.acceptor.map(|(node, _)| node)
            }
            Event::Welcomed { key, .. }
            | Event::ToOpener { key, .. }
            | Event::Broken { key, .. }
            | Event::Resumed { key, .. }
            | Event::GivenUp { key, .. } => Some(key.opener),
        }
    }

    pub(super) fn handle(&mut self, event: Event) {
        if let Some(node) = self.place_of(&event)
            && let Some(until) = self.nodes[node].paused_until
            && until > self.now
        {
            return self.schedule(until.since(self.now), event);
        }
        match event {
            Event::Wake { node, life, at } => {
                // One that an earlier wake-up superseded is not the one that is waited for.
                if self.nodes[node].life == life && self.nodes[node].wake_at == Some(at) {
                    self.nodes[node].wake_at = None;
                    let now = self.now_of(node);
                    self.nodes[node].wake(now);
                    self.act(node);
                }
            }
            Event::Datagram { to, from, bytes } => {
                if let Some(node) = self.node_at(to) {
                    self.nodes[node].datagram(self.now, from, &bytes);
                    self.act(node);
                }
            }
            Event::Dial { key, id } => self.dial(key, id),
            Event::Welcomed { key, id, bytes } => {
                let acceptor = self.connections.get(&key).and_then(|connection| connection.acceptor);
                if acceptor.is_some_and(|(acceptor, _)| self.is_blocked(acceptor, key.opener)) {
                    return self.schedule(RETRANSMIT, Event::Welcomed { key, id, bytes });
                }
                self.welcomed(key, id, &bytes);
            }
            Event::ToAcceptor { key, id, bytes } => {
                if self.is_current(&key, id)
                    && let Some(bytes) = self.passes(key, id, true, bytes)
                {
                    self.at_acceptor(key, id, &bytes);
                }
            }
            Event::ToOpener { key, id, bytes } => {
                if self.is_current(&key, id)
                    && let Some(bytes) = self.passes(key, id, false, bytes)
                {
                    self.at_opener(key, &bytes);
                }
            }
            Event::Broken { key, id, end } => {
                let acceptor = self.connections.get(&key).and_then(|connection| connection.acceptor);
                let is_silent = acceptor.is_some_and(|(acceptor, _)| self.is_blocked(acceptor, key.opener));
                if end == LinkEnd::Ended && is_silent {
                    return self.schedule(RETRANSMIT, Event::Broken { key, id, end });
                }
                self.broken(key, id, end);
            }
            Event::Resumed { key, id, is_there } => self.resumed(key, id, is_there),
            Event::GivenUp { key, id, since } => self.given_up(key, id, since),
            Event::Order { node, life, core, event } => {
                if self.nodes[node].life == life {
                    let now = self.now_of(node);
                    self.nodes[node].shard(now, core, *event);
                    self.act(node);
                }
            }
            Event::Report { node, life, event } => {
                if self.nodes[node].life == life {
                    self.nodes[node].control(self.now, event);
                    self.act(node);
                }
            }
        }
    }

    fn node_at(&self, addr: SocketAddr) -> Option<usize> {
        node::number_at(addr).filter(|&number| self.nodes.get(number).is_some_and(Node::is_running))
    }

    /// How long a message from one node to another takes; a node that does not exist is far away as any.
    fn delay(&mut self, from: usize, to: Option<usize>) -> Duration {
        let slow = to.and_then(|to| self.slow.get(&(from, to)));
        let (least, most) = slow.copied().unwrap_or(self.options.delay);
        self.rng.random_range(least..=most)
    }

    fn happens(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.rng.random_range(0..1000) < per_mille
    }

    fn send_datagram(&mut self, from: usize, to: SocketAddr, bytes: Vec<u8>) {
        let receiver = node::number_at(to);
        if receiver.is_some_and(|receiver| self.is_blocked(from, receiver)) {
            return;
        }
        let copies = 1 + usize::from(self.happens(self.options.datagrams_duplicated_per_mille));
        for _ in 0..copies {
            if !self.happens(self.options.datagrams_lost_per_mille) {
                let delay = self.delay(from, receiver);
                let bytes = bytes.clone();
                self.schedule(delay, Event::Datagram { to, from: node::address(from), bytes });
            }
        }
    }

    fn open(&mut self, key: ConnectionKey) {
        if self.connections.contains_key(&key) {
            return;
        }
        let id = self.next_connection;
        self.next_connection += 1;
        let connection = Connection {
            id,
            opener_life: self.nodes[key.opener].life,
            acceptor: None,
            peer: None,
            is_open: false,
            waiting: Vec::new(),
            there: Way::new(self.now),
            back: Way::new(self.now),
        };
        self.connections.insert(key, connection);
        self.keys.insert(id, key);
        let delay = self.delay(key.opener, node::number_at(key.addr));
        self.schedule(delay, Event::Dial { key, id });
    }

    fn send_frame(&mut self, key: ConnectionKey, frame: &Frame) {
        self.open(key);
        let bytes = codec::encode(frame);
        self.count(key.opener, frame, &bytes);
        match self.connections.get_mut(&key) {
            Some(connection) if !connection.is_open => connection.waiting.push(bytes),
            Some(_) => self.carry(key, bytes),
            None => {}
        }
    }

    /// Sends a frame over an open connection, which may break under it.
    fn carry(&mut self, key: ConnectionKey, bytes: Encoded) {
        let delay = self.delay(key.opener, node::number_at(key.addr));
        let breaks = self.happens(self.options.connections_broken_per_mille);
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let id = connection.id;
        connection.there.last = connection.there.last.max(self.now + delay);
        let at = connection.there.last.since(self.now);
        if breaks {
            self.schedule(at, Event::Broken { key, id, end: LinkEnd::Ended });
        } else {
            self.schedule(at, Event::ToAcceptor { key, id, bytes });
        }
    }

    fn answer(&mut self, via: u64, frame: &Frame) {
        let Some(key) = self.key_of(via) else { return };
        let Some((acceptor, _)) = self.connections.get(&key).and_then(|connection| connection.acceptor)
        else {
            return;
        };
        let bytes = codec::encode(frame);
        self.count(acceptor, frame, &bytes);
        self.carry_back(key, acceptor, bytes);
    }

    fn carry_back(&mut self, key: ConnectionKey, acceptor: usize, bytes: Encoded) {
        let delay = self.delay(acceptor, Some(key.opener));
        let breaks = self.happens(self.options.connections_broken_per_mille);
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let id = connection.id;
        connection.back.last = connection.back.last.max(self.now + delay);
        let at = connection.back.last.since(self.now);
        if breaks {
            self.schedule(at, Event::Broken { key, id, end: LinkEnd::Ended });
        } else {
            self.schedule(at, Event::ToOpener { key, id, bytes });
        }
    }

    /// Where the way is blocked, or something waits for it already, a frame waits too: none overtakes another.
    /// `None`: it waits.
    fn passes(&mut self, key: ConnectionKey, id: u64, is_there: bool, bytes: Encoded) -> Option<Encoded> {
        let (acceptor, _) = self.connections.get(&key)?.acceptor?;
        let (from, to) = if is_there { (key.opener, acceptor) } else { (acceptor, key.opener) };
        let is_blocked = self.is_blocked(from, to);
        let now = self.now;
        let connection = self.connections.get_mut(&key)?;
        let way = if is_there { &mut connection.there } else { &mut connection.back };
        let is_first = way.stalled.is_empty();
        if is_first && !is_blocked {
            return Some(bytes);
        }
        way.stalled.push(bytes);
        if is_first {
            way.stalled_since = now;
            self.schedule(SIMULATED_USER_TIMEOUT, Event::GivenUp { key, id, since: now });
        }
        None
    }

    fn given_up(&mut self, key: ConnectionKey, id: u64, since: Instant) {
        let waits = |way: &Way| !way.stalled.is_empty() && way.stalled_since == since;
        let connection = self.connections.get(&key).filter(|connection| connection.id == id);
        if connection.is_some_and(|connection| waits(&connection.there) || waits(&connection.back)) {
            self.broken(key, id, LinkEnd::Ended);
        }
    }

    /// Some ways are free again: what waited for them goes on.
    pub(super) fn resume_stalled(&mut self) {
        let mut resumed = Vec::new();
        for (key, connection) in &self.connections {
            let Some((acceptor, _)) = connection.acceptor else { continue };
            if !connection.there.stalled.is_empty() && !self.is_blocked(key.opener, acceptor) {
                resumed.push((*key, connection.id, true, acceptor));
            }
            if !connection.back.stalled.is_empty() && !self.is_blocked(acceptor, key.opener) {
                resumed.push((*key, connection.id, false, acceptor));
            }
        }
        for (key, id, is_there, acceptor) in resumed {
            let (from, to) = if is_there { (key.opener, acceptor) } else { (acceptor, key.opener) };
            let delay = self.delay(from, Some(to));
            self.schedule(delay, Event::Resumed { key, id, is_there });
        }
    }

    /// Everything that waited arrives together, unless the way was blocked again.
    fn resumed(&mut self, key: ConnectionKey, id: u64, is_there: bool) {
        let Some(connection) = self.connections.get(&key).filter(|connection| connection.id == id) else {
            return;
        };
        let Some((acceptor, _)) = connection.acceptor else { return };
        let (from, to) = if is_there { (key.opener, acceptor) } else { (acceptor, key.opener) };
        if self.is_blocked(from, to) {
            return;
        }
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let way = if is_there { &mut connection.there } else { &mut connection.back };
        for bytes in std::mem::take(&mut way.stalled) {
            if !self.is_current(&key, id) {
                return;
            }
            if is_there {
                self.at_acceptor(key, id, &bytes);
            } else {
                self.at_opener(key, &bytes);
            }
        }
    }

    fn forget_connection(&mut self, key: &ConnectionKey) {
        if let Some(connection) = self.connections.remove(key) {
            self.keys.remove(&connection.id);
        }
    }

    fn count(&mut self, sender: usize, frame: &Frame, bytes: &[u8]) {
        if !matches!(frame.message, Message::Request(_) | Message::Answer(_)) {
            return;
        }
        let (traffic, bytes) = (self.traffic.entry(sender).or_default(), bytes.len() as u64);
        traffic.all += bytes;
        match &frame.message {
            Message::Request(Request::Compare(_)) | Message::Answer(Answer::Compared(_)) => {
                traffic.compared += bytes;
            }
            Message::Request(Request::Survey(_)) | Message::Answer(Answer::Surveyed(_)) => {
                traffic.surveyed += bytes;
            }
            Message::Request(Request::Fetch(_)) | Message::Answer(Answer::Chunk(_)) => {
                traffic.copied += bytes;
            }
            _ => {}
        }
    }

    fn key_of(&self, id: u64) -> Option<ConnectionKey> {
        self.keys.get(&id).copied()
    }

    fn is_current(&self, key: &ConnectionKey, id: u64) -> bool {
        self.connections.get(key).is_some_and(|connection| {
            connection.id == id && self.nodes[key.opener].life == connection.opener_life
        })
    }

    /// The opener's HELLO arrives, or there is nobody.
    fn dial(&mut self, key: ConnectionKey, id: u64) {
        if !self.is_current(&key, id) {
            return;
        }
        let is_cut =
            |acceptor: &usize| key.from != Channel::Control && self.cut.contains(&(key.opener, *acceptor));
        let Some(acceptor) = self.node_at(key.addr).filter(|acceptor| !is_cut(acceptor)) else {
            let end = LinkEnd::ConnectRefused;
            return self.schedule(HOP, Event::Broken { key, id, end });
        };
        if self.is_blocked(key.opener, acceptor) || self.is_blocked(acceptor, key.opener) {
            let end = LinkEnd::Unreachable;
            return self.schedule(OPEN_TIMEOUT, Event::Broken { key, id, end });
        }
        let Some(opener) = self.nodes[key.opener].running() else { return };
        let hello = opener.local.hello(opener.identity, key.to, key.expects);
        let life = self.nodes[acceptor].life;
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.acceptor = Some((acceptor, life));
        }
        let Some(hello) = self.through_the_wire(Message::Hello(hello)) else { return };
        self.nodes[acceptor].control(self.now, ControlEvent::Greeted { via: id, hello });
        self.act(acceptor);
    }

    /// The acceptor's verdict goes back.
    fn welcome(&mut self, via: u64, message: Message, peer: Option<Identity>) {
        let Some(key) = self.key_of(via) else { return };
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.peer = peer;
        }
        let Some((acceptor, _)) = self.connections.get(&key).and_then(|connection| connection.acceptor)
        else {
            return;
        };
        let delay = self.delay(acceptor, Some(key.opener));
        let frame = Frame { partition: Partition::default(), request_id: 0, message };
        self.schedule(delay, Event::Welcomed { key, id: via, bytes: codec::encode(&frame) });
    }

    fn welcomed(&mut self, key: ConnectionKey, id: u64, bytes: &[u8]) {
        if !self.is_current(&key, id) {
            return;
        }
        let message = decode(&mut self.received, bytes);
        let Some(opener) = self.nodes[key.opener].running() else { return };
        let verdict = match message.map(|frame| frame.message) {
            Some(Message::Welcome(welcome)) => {
                opener.local.judge_welcome(opener.identity, key.expects, &welcome).map(|()| welcome)
            }
            Some(Message::Refused(refusal)) => Err(refusal),
            _ => return,
        };
        match verdict {
            Ok(welcome) => self.opened(key, welcome),
            Err(refusal) => self.broken(key, id, LinkEnd::Refused(refusal)),
        }
    }

    fn opened(&mut self, key: ConnectionKey, welcome: Hello) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        connection.is_open = true;
        for bytes in std::mem::take(&mut connection.waiting) {
            self.carry(key, bytes);
        }
        if key.from == Channel::Control {
            let link = Link { addr: key.addr, expects: key.expects };
            self.nodes[key.opener].control(self.now, ControlEvent::LinkUp { link, welcome });
            self.act(key.opener);
        }
    }

    fn at_acceptor(&mut self, key: ConnectionKey, id: u64, bytes: &[u8]) {
        let Some(connection) = self.connections.get(&key) else { return };
        let (Some((acceptor, life)), Some(peer)) = (connection.acceptor, connection.peer) else { return };
        if self.nodes[acceptor].life != life {
            return;
        }
        let Some(Frame { partition, request_id, message }) = decode(&mut self.received, bytes) else {
            return;
        };
        match (message, key.to) {
            (Message::Request(request), Channel::Core(core)) => {
                let now = self.now_of(acceptor);
                let event = ShardEvent::Request { via: id, from: peer, partition, request_id, request };
                self.nodes[acceptor].shard(now, core, event);
            }
            (Message::Control(message), Channel::Control) => {
                let event = ControlEvent::Request { via: id, request_id, message };
                self.nodes[acceptor].control(self.now, event);
            }
            (message, channel) => panic!("{message:?} was sent to {channel:?}"),
        }
        self.act(acceptor);
    }

    fn at_opener(&mut self, key: ConnectionKey, bytes: &[u8]) {
        let Some(Frame { request_id, message, .. }) = decode(&mut self.received, bytes) else { return };
        match (message, key.from) {
            (Message::Answer(answer), Channel::Core(core)) => {
                let now = self.now_of(key.opener);
                self.nodes[key.opener].shard(now, core, ShardEvent::Answer { request_id, answer });
            }
            (Message::Control(message), Channel::Control) => {
                let link = Link { addr: key.addr, expects: key.expects };
                self.nodes[key.opener].control(self.now, ControlEvent::Answer { link, message });
            }
            (message, channel) => panic!("{message:?} was answered to {channel:?}"),
        }
        self.act(key.opener);
    }

    fn broken(&mut self, key: ConnectionKey, id: u64, end: LinkEnd) {
        if !self.is_current(&key, id) {
            return;
        }
        self.forget_connection(&key);
        match key.from {
            Channel::Control => {
                let link = Link { addr: key.addr, expects: key.expects };
                self.nodes[key.opener].control(self.now, ControlEvent::LinkDown { link, end });
            }
            Channel::Core(core) => {
                if let Some((node, boot)) = key.expects {
                    let now = self.now_of(key.opener);
                    self.nodes[key.opener].shard(now, core, ShardEvent::Lost { node, boot });
                }
            }
        }
        self.act(key.opener);
    }

    /// A node is gone: whoever had a connection to it will notice.
    pub(super) fn end_connections_of(&mut self, gone: usize) {
        let its_own: Vec<ConnectionKey> =
            self.connections.keys().filter(|key| key.opener == gone).copied().collect();
        for key in its_own {
            self.forget_connection(&key);
        }
        self.break_where(|_, acceptor| acceptor == gone);
    }

    pub(super) fn break_core_connections(&mut self, from: usize, to: usize) {
        self.break_where(|key, acceptor| {
            key.from != Channel::Control && key.opener == from && acceptor == to
        });
    }

    /// Every connection between these nodes.
    pub(super) fn break_between(&mut self, one: usize, other: usize) {
        self.break_where(|key, acceptor| {
            (key.opener, acceptor) == (one, other) || (acceptor, key.opener) == (one, other)
        });
    }

    fn break_where(&mut self, is_broken: impl Fn(&ConnectionKey, usize) -> bool) {
        let broken: Vec<(ConnectionKey, u64, usize)> = self
            .connections
            .iter()
            .filter_map(|(key, connection)| Some((*key, connection.id, connection.acceptor?.0)))
            .filter(|(key, _, acceptor)| is_broken(key, *acceptor))
            .collect();
        for (key, id, acceptor) in broken {
            let delay = self.delay(acceptor, Some(key.opener));
            self.schedule(delay, Event::Broken { key, id, end: LinkEnd::Ended });
        }
    }

    fn through_the_wire(&mut self, message: Message) -> Option<Hello> {
        let frame = Frame { partition: Partition::default(), request_id: 0, message };
        match decode(&mut self.received, &codec::encode(&frame))?.message {
            Message::Hello(hello) => Some(hello),
            _ => None,
        }
    }
}

fn control_key(opener: usize, link: Link) -> ConnectionKey {
    let Link { addr, expects } = link;
    ConnectionKey { opener, from: Channel::Control, addr, expects, to: Channel::Control }
}
