//! The virtual network: datagrams that get lost, and connections that deliver in order until they
//! break.
//!
//! | the way is | datagram | new connection | frame on an open connection |
//! |---|---|---|---|
//! | free | arrives late, twice, or is lost | opens | arrives in order |
//! | [cut](SimCluster::cut) | arrives | a core's is refused | a core's broke when it was cut |
//! | [blocked](SimCluster::block) | is lost | fails after [`OPEN_TIMEOUT`] | waits |
//! | [swallowing](SimCluster::swallow) | arrives | fails after [`OPEN_TIMEOUT`] | is lost |
//! | to a [hidden](SimCluster::hide) address | is lost | fails | the connection broke |
//!
//! [Datagrams alone](SimCluster::lose_datagrams) might be lost, or what goes over
//! [connections alone](SimCluster::lose_connections) be blocked.
//!
//! A frame that waits arrives, in order, when the way is free again. If that takes longer than
//! [`USER_TIMEOUT`], the connection breaks.

use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;

use super::event::{Connection, ConnectionKey, Direction, SimEvent, decode};
use super::keys::proved;
use super::node::Node;
use super::{SimCluster, node};
use crate::clock::Instant;
use crate::control::{ControlEvent, Link, LinkEnd};
use crate::security::Proved;
use crate::shard::Event as ShardEvent;
use crate::types::{Identity, Partition};
use crate::wire::codec;
use crate::wire::frame::Encoded;
use crate::wire::message::{
    Answer, Channel, Frame, Hello, Message, Refusal, RefusalReason, Request,
};
use crate::wire::timing::{OPEN_TIMEOUT, USER_TIMEOUT};

/// How long a refusal takes to come back.
const REFUSED_AFTER: Duration = Duration::from_micros(5);

/// How often the end of a connection tries to get through while the way is blocked.
const RETRANSMIT: Duration = Duration::from_millis(200);

impl SimCluster {
    pub(super) fn network_event(&mut self, event: SimEvent) {
        match event {
            SimEvent::Datagram { to, from, mut bytes } => {
                self.record_datagram(to, from, &bytes);
                if let Some(node) = self.node_at(to) {
                    let now = self.now_of(node);
                    self.nodes[node].datagram(now, from, &mut bytes);
                    self.act(node);
                }
            }
            SimEvent::Dial { key, id } => self.dial(key, id),
            SimEvent::Welcomed { key, id, bytes } => {
                let acceptor =
                    self.connections.get(&key).and_then(|connection| connection.acceptor);
                if acceptor.is_some_and(|(acceptor, _)| self.is_blocked(acceptor, key.opener)) {
                    return self.schedule(RETRANSMIT, SimEvent::Welcomed { key, id, bytes });
                }
                self.welcomed(key, id, &bytes);
            }
            SimEvent::ToAcceptor { key, id, bytes } => {
                if self.is_current(&key, id)
                    && let Some(bytes) = self.passes(key, id, true, bytes)
                {
                    self.at_acceptor(key, id, &bytes);
                }
            }
            SimEvent::ToOpener { key, id, bytes } => {
                if self.is_current(&key, id)
                    && let Some(bytes) = self.passes(key, id, false, bytes)
                {
                    self.at_opener(key, &bytes);
                }
            }
            SimEvent::Broken { key, id, end } => {
                let acceptor =
                    self.connections.get(&key).and_then(|connection| connection.acceptor);
                let is_silent =
                    acceptor.is_some_and(|(acceptor, _)| self.is_blocked(acceptor, key.opener));
                if end == LinkEnd::Ended && is_silent {
                    return self.schedule(RETRANSMIT, SimEvent::Broken { key, id, end });
                }
                self.broken(key, id, end);
            }
            SimEvent::Resumed { key, id, is_there } => self.resumed(key, id, is_there),
            SimEvent::GivenUp { key, id, since } => self.given_up(key, id, since),
            SimEvent::Wake { .. }
            | SimEvent::Order { .. }
            | SimEvent::Report { .. }
            | SimEvent::Call { .. } => {
                unreachable!("it happens on a thread")
            }
        }
    }

    pub(super) fn node_at(&self, addr: SocketAddr) -> Option<usize> {
        node::number_at(addr).filter(|&number| self.nodes.get(number).is_some_and(Node::is_running))
    }

    /// Draws how long a message takes; to a node that does not exist as long as to any other.
    pub(super) fn delay(&mut self, from: usize, to: Option<usize>) -> Duration {
        let slow = to.and_then(|to| self.slow.get(&(from, to)));
        let (least, most) = slow.copied().unwrap_or(self.options.delay);
        self.rng.random_range(least..=most)
    }

    fn happens(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.rng.random_range(0..1000) < per_mille
    }

    pub(super) fn send_datagram(&mut self, from: usize, to: SocketAddr, bytes: Vec<u8>) {
        let receiver = node::number_at(to);
        if receiver.is_some_and(|receiver| self.loses_datagrams(from, receiver)) {
            return;
        }
        let copies = 1 + usize::from(self.happens(self.options.datagrams_duplicated_per_mille));
        for _ in 0..copies {
            if !self.happens(self.options.datagrams_lost_per_mille) {
                let delay = self.delay(from, receiver);
                let bytes = bytes.clone();
                self.schedule(delay, SimEvent::Datagram { to, from: node::address(from), bytes });
            }
        }
    }

    pub(super) fn open(&mut self, key: ConnectionKey) {
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
            there: Direction::new(self.now),
            back: Direction::new(self.now),
        };
        self.connections.insert(key, connection);
        self.keys.insert(id, key);
        let delay = self.delay(key.opener, node::number_at(key.addr));
        self.schedule(delay, SimEvent::Dial { key, id });
    }

    pub(super) fn send_frame(&mut self, key: ConnectionKey, frame: &Frame) {
        self.open(key);
        let bytes = codec::encode(frame);
        self.count(key.opener, frame, &bytes);
        match self.connections.get_mut(&key) {
            Some(connection) if !connection.is_open => connection.waiting.push(bytes),
            Some(_) => self.carry(key, bytes),
            None => {}
        }
    }

    /// Sends a frame over an open connection, which might break under it.
    fn carry(&mut self, key: ConnectionKey, bytes: Encoded) {
        let delay = self.delay(key.opener, node::number_at(key.addr));
        let breaks = self.happens(self.options.connections_broken_per_mille);
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let id = connection.id;
        connection.there.last = connection.there.last.max(self.now + delay);
        let at = connection.there.last.since(self.now);
        if breaks {
            self.schedule(at, SimEvent::Broken { key, id, end: LinkEnd::Ended });
        } else {
            self.schedule(at, SimEvent::ToAcceptor { key, id, bytes });
        }
    }

    pub(super) fn answer(&mut self, via: u64, frame: &Frame) {
        let Some(key) = self.key_of(via) else { return };
        let Some((acceptor, _)) =
            self.connections.get(&key).and_then(|connection| connection.acceptor)
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
            self.schedule(at, SimEvent::Broken { key, id, end: LinkEnd::Ended });
        } else {
            self.schedule(at, SimEvent::ToOpener { key, id, bytes });
        }
    }

    /// Returns a frame whose way is free. If the way is blocked, or other frames wait for it
    /// already, the frame waits too: none overtakes another.
    fn passes(
        &mut self,
        key: ConnectionKey,
        id: u64,
        is_there: bool,
        bytes: Encoded,
    ) -> Option<Encoded> {
        let (acceptor, _) = self.connections.get(&key)?.acceptor?;
        let (from, to) = if is_there { (key.opener, acceptor) } else { (acceptor, key.opener) };
        if self.swallowed.contains(&(from, to)) {
            return None;
        }
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
            self.schedule(USER_TIMEOUT, SimEvent::GivenUp { key, id, since: now });
        }
        None
    }

    fn given_up(&mut self, key: ConnectionKey, id: u64, since: Instant) {
        let waits = |way: &Direction| !way.stalled.is_empty() && way.stalled_since == since;
        let connection = self.connections.get(&key).filter(|connection| connection.id == id);
        if connection.is_some_and(|connection| waits(&connection.there) || waits(&connection.back))
        {
            self.broken(key, id, LinkEnd::Ended);
        }
    }

    /// Schedules the frames whose way is free again.
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
            self.schedule(delay, SimEvent::Resumed { key, id, is_there });
        }
    }

    /// Delivers all frames that waited, unless the way was blocked again.
    fn resumed(&mut self, key: ConnectionKey, id: u64, is_there: bool) {
        let Some(connection) = self.connections.get(&key).filter(|connection| connection.id == id)
        else {
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

    pub(super) fn forget_connection(&mut self, key: &ConnectionKey) {
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

    /// Delivers the opener's HELLO, unless no node is there or reachable.
    fn dial(&mut self, key: ConnectionKey, id: u64) {
        if !self.is_current(&key, id) {
            return;
        }
        let is_cut = |acceptor: &usize| {
            key.from != Channel::Control && self.cut.contains(&(key.opener, *acceptor))
        };
        let Some(acceptor) = self.node_at(key.addr).filter(|acceptor| !is_cut(acceptor)) else {
            let end = LinkEnd::ConnectRefused;
            return self.schedule(REFUSED_AFTER, SimEvent::Broken { key, id, end });
        };
        if self.hidden.get(&acceptor) == Some(&true) {
            let end = LinkEnd::ConnectRefused;
            return self.schedule(REFUSED_AFTER, SimEvent::Broken { key, id, end });
        }
        let is_silent = |from, to| {
            self.is_blocked(from, to)
                || self.swallowed.contains(&(from, to))
                || (to, key.opener) == (acceptor, from) && self.hidden.contains_key(&to)
        };
        if is_silent(key.opener, acceptor) || is_silent(acceptor, key.opener) {
            let end = LinkEnd::Unreachable;
            return self.schedule(OPEN_TIMEOUT, SimEvent::Broken { key, id, end });
        }
        let denied = self.denies(key.opener, acceptor);
        if denied.is_some() || self.denies(acceptor, key.opener).is_some() {
            let link = Link { addr: key.addr, expects: key.expects };
            if let Some(denied) = denied.filter(|_| key.from == Channel::Control) {
                self.control(key.opener, ControlEvent::DeniedKey { link, key: denied });
            }
            let refusal = Refusal { reason: RefusalReason::Security, text: "denied".into() };
            let end = LinkEnd::Refused(refusal);
            return self.schedule(REFUSED_AFTER, SimEvent::Broken { key, id, end });
        }
        let Some(opener) = self.nodes[key.opener].running() else { return };
        let hello = opener.local.hello(opener.identity, key.to, key.expects);
        let life = self.nodes[acceptor].life;
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.acceptor = Some((acceptor, life));
        }
        let Some(hello) = self.through_the_wire(Message::Hello(hello)) else { return };
        let proved = self.proved(key.opener, acceptor, key.opener);
        self.control(acceptor, ControlEvent::Greeted { via: id, hello, proved });
    }

    /// Returns what one of two nodes proves over a connection between them. TLS is not simulated:
    /// they speak without it if they have no common key.
    fn proved(&mut self, opener: usize, acceptor: usize, prover: usize) -> Option<Proved> {
        let [opener, acceptor, prover] = [opener, acceptor, prover].map(|it| self.security(it));
        proved(&*opener?, &*acceptor?, &*prover?)
    }

    /// Sends the acceptor's verdict back.
    pub(super) fn welcome(&mut self, via: u64, message: Message, peer: Option<Identity>) {
        let Some(key) = self.key_of(via) else { return };
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.peer = peer;
        }
        let Some((acceptor, _)) =
            self.connections.get(&key).and_then(|connection| connection.acceptor)
        else {
            return;
        };
        let delay = self.delay(acceptor, Some(key.opener));
        let frame = Frame { partition: Partition::default(), request_id: 0, message };
        self.schedule(delay, SimEvent::Welcomed { key, id: via, bytes: codec::encode(&frame) });
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
        let acceptor = connection.acceptor;
        for bytes in std::mem::take(&mut connection.waiting) {
            self.carry(key, bytes);
        }
        if key.from == Channel::Control {
            let link = Link { addr: key.addr, expects: key.expects };
            let proved =
                acceptor.and_then(|(acceptor, _)| self.proved(key.opener, acceptor, acceptor));
            self.control(key.opener, ControlEvent::LinkUp { link, welcome, proved });
        }
    }

    fn at_acceptor(&mut self, key: ConnectionKey, id: u64, bytes: &[u8]) {
        let Some(connection) = self.connections.get(&key) else { return };
        let (Some((acceptor, life)), Some(peer)) = (connection.acceptor, connection.peer) else {
            return;
        };
        if self.nodes[acceptor].life != life {
            return;
        }
        let Some(Frame { partition, request_id, message }) = decode(&mut self.received, bytes)
        else {
            return;
        };
        match (message, key.to) {
            (Message::Request(request), Channel::Core(core)) => {
                let now = self.now_of(acceptor);
                let event =
                    ShardEvent::Request { via: id, from: peer, partition, request_id, request };
                self.nodes[acceptor].shard(now, core, event);
            }
            (Message::Control(message), Channel::Control) => {
                let event = ControlEvent::Request { via: id, peer, request_id, message };
                self.control(acceptor, event);
            }
            (message, channel) => panic!("{message:?} was sent to {channel:?}"),
        }
        self.act(acceptor);
    }

    fn at_opener(&mut self, key: ConnectionKey, bytes: &[u8]) {
        let Some(Frame { request_id, message, .. }) = decode(&mut self.received, bytes) else {
            return;
        };
        match (message, key.from) {
            (Message::Answer(answer), Channel::Core(core)) => {
                let now = self.now_of(key.opener);
                let event = ShardEvent::Answer { from: key.expects, request_id, answer };
                self.nodes[key.opener].shard(now, core, event);
            }
            (Message::Control(message), Channel::Control) => {
                let link = Link { addr: key.addr, expects: key.expects };
                self.control(key.opener, ControlEvent::Answer { link, message });
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
                self.control(key.opener, ControlEvent::LinkDown { link, end });
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

    /// Ends the connections of a node that is gone; the other ends will notice.
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

    /// Breaks every connection between two nodes.
    pub(super) fn break_between(&mut self, one: usize, other: usize) {
        self.break_where(|key, acceptor| {
            (key.opener, acceptor) == (one, other) || (acceptor, key.opener) == (one, other)
        });
    }

    pub(super) fn break_where(&mut self, is_broken: impl Fn(&ConnectionKey, usize) -> bool) {
        let broken: Vec<(ConnectionKey, u64, usize)> = self
            .connections
            .iter()
            .filter_map(|(key, connection)| Some((*key, connection.id, connection.acceptor?.0)))
            .filter(|(key, _, acceptor)| is_broken(key, *acceptor))
            .collect();
        for (key, id, acceptor) in broken {
            let delay = self.delay(acceptor, Some(key.opener));
            self.schedule(delay, SimEvent::Broken { key, id, end: LinkEnd::Ended });
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
