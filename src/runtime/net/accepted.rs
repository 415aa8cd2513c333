//! The acceptor's side of a connection: hear the HELLO, let the control thread judge it, then serve
//! or explain.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};

use super::connection::Connection;
use super::limits::Place;
use super::strangers::{MAX_STRANGERS, PushedOut, STRANGERS_PER_ADDRESS};
use super::stream::Filled;
use super::{
    ConnectionId, HELLO_TIMEOUT, Handover, LINGER, LinkStage, Net, NetEvent, NetLink,
    READ_BUDGET_BYTES, handshake,
};
use crate::clock::Instant;
use crate::logging;
use crate::wire::codec;
use crate::wire::frame::MAX_HANDSHAKE_BYTES;
use crate::wire::message::{Frame, Hello, Message, Refusal, RefusalReason};

/// How many connections are accepted in one pass. Those that connect as fast as they are accepted
/// must not keep the control thread from answering probes.
pub(super) const ACCEPTS_PER_PASS: usize = 64;

/// After how long it is tried again to accept connections, when this process had no descriptor or
/// no memory for one.
pub(super) const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A refusal quotes what the peer said of itself, and must still fit its frame.
const MAX_REFUSAL_BYTES: usize = MAX_HANDSHAKE_BYTES / 2;

impl Net {
    /// Accepts connections that wait, as many as a pass may. If some are left, it
    /// [must](Self::must_accept) be called again.
    ///
    /// An error that concerns one of them skips it. After an error that concerns this process, such
    /// as running out of descriptors, it must be called again a little later: the poll reports the
    /// listener only when another connection comes.
    pub(crate) fn accept_some(&mut self, now: Instant, listener: &TcpListener) {
        self.now = now;
        self.accepts = true;
        self.accept_at = None;
        for _ in 0..ACCEPTS_PER_PASS {
            match listener.accept() {
                Ok((stream, peer)) => self.accept(now, stream, peer),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset => {}
                    _ => {
                        self.accept_at = Some(now + ACCEPT_AGAIN_AFTER);
                        return self.cannot_accept(&error);
                    }
                },
            }
        }
        self.accept_at = Some(now);
    }

    /// Whether connections are left to be accepted, of which the poll reports nothing.
    pub(crate) fn must_accept(&self, now: Instant) -> bool {
        self.accept_at.is_some_and(|at| at <= now)
    }

    fn cannot_accept(&mut self, why: &dyn fmt::Display) {
        self.counters.not_accepted += 1;
        if let Some(silent) = self.not_accepted.add(self.now) {
            logging::warn!(
                "cannot accept connections for now: {why} ({silent} times since the last such line)"
            );
        }
    }

    fn accept(&mut self, now: Instant, stream: TcpStream, peer: SocketAddr) {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let Some(place) = self.place() else { return self.turn_away(stream, peer) };
        let mut connection = Connection::new(stream, peer, &self.limits, Some(place));
        connection.tune();
        connection.secure(self.accepted_state());
        match self.insert(connection, LinkStage::Stranger, Some(now + HELLO_TIMEOUT)) {
            Ok(id) => {
                self.counters.accepted += 1;
                self.add_stranger(id);
            }
            Err(error) => self.cannot_accept(&error),
        }
    }

    /// Returns a place for one more accepted connection. If there is none, the oldest one that is
    /// not welcome goes.
    fn place(&mut self) -> Option<Place> {
        let place = self.limits.admit();
        if place.is_some() {
            return place;
        }
        let oldest = self.strangers.oldest()?;
        self.counters.strangers_closed += 1;
        self.remove(oldest);
        self.limits.admit()
    }

    /// Tells a connection for which there is no place why it is closed. It reads that if it comes
    /// before its own HELLO is answered with a reset.
    fn turn_away(&mut self, stream: TcpStream, peer: SocketAddr) {
        self.counters.turned_away += 1;
        let most = self.limits.max_connections();
        // It names no node: it is told to any host.
        let text =
            format!("it has {most} connections, and takes no more (Config::max_connections)");
        if let Some(silent) = self.turned_away.add(self.now) {
            logging::warn!(
                "closing a connection of {peer}: there are {most} already \
                 (Config::max_connections). {silent} others were closed since the last such line"
            );
        }
        let mut connection = Connection::new(stream, peer, &self.limits, None);
        let refusal = Refusal { reason: RefusalReason::Full, text };
        connection.queue(handshake(Message::Refused(refusal)));
        if connection.flush().is_ok() {
            connection.finish_writing();
        }
    }

    fn add_stranger(&mut self, id: u64) {
        let Some(address) = self.links.get(&id).map(|link| link.connection.peer().ip()) else {
            return;
        };
        let Some(pushed_out) = self.strangers.insert(id, address) else { return };
        self.counters.strangers_closed += 1;
        match pushed_out {
            PushedOut::Oldest(oldest) => {
                logging::debug!(
                    "more than {MAX_STRANGERS} connections without a welcome: closing the oldest"
                );
                self.remove(oldest);
            }
            PushedOut::OldestOfAddress(oldest) => {
                logging::debug!(
                    "more than {STRANGERS_PER_ADDRESS} connections of {address} without a \
                     welcome: closing its oldest"
                );
                self.remove(oldest);
            }
        }
    }

    /// Welcomes a greeted connection, which stays with this thread.
    pub(crate) fn welcome(&mut self, connection: ConnectionId, welcome: Hello) {
        let Some(link) = self.links.get_mut(&connection.0) else { return };
        if !matches!(link.stage, LinkStage::Greeted) {
            return;
        }
        link.stage = LinkStage::Serving { paused: false };
        link.connection.raise_limit();
        self.queue(connection.0, handshake(Message::Welcome(welcome)));
        // What came behind the HELLO was reported while the link was not read.
        self.unread.insert(connection.0);
    }

    /// Welcomes a greeted connection and gives it away, to be [adopted](Self::adopt) by another
    /// thread's `Net`. `None` if it has ended.
    pub(crate) fn hand_over(
        &mut self,
        connection: ConnectionId,
        welcome: Hello,
    ) -> Option<Handover> {
        if !matches!(self.links.get(&connection.0)?.stage, LinkStage::Greeted) {
            return None;
        }
        self.queue(connection.0, handshake(Message::Welcome(welcome)));
        let mut connection = self.remove(connection.0)?.connection;
        connection.raise_limit();
        Some(Handover { connection })
    }

    /// Takes over a connection. It is written and read at once: its poll events so far went to
    /// another thread.
    pub(crate) fn adopt(
        &mut self,
        now: Instant,
        handover: Handover,
        events: &mut Vec<NetEvent>,
    ) -> ConnectionId {
        self.now = now;
        let peer = handover.connection.peer();
        let is_admitted = self.still_admits(handover.connection.secured());
        let inserted = match is_admitted {
            true => self.insert(handover.connection, LinkStage::Serving { paused: false }, None),
            false => Err(io::ErrorKind::ConnectionAborted.into()),
        };
        match inserted {
            Ok(id) => {
                self.write_link(id, events);
                self.read_link(id, events);
                ConnectionId(id)
            }
            Err(error) => {
                logging::debug!("cannot take over the connection of {peer}: {error}");
                if is_admitted {
                    self.cannot_accept(&error);
                }
                let connection = ConnectionId(self.next);
                self.next += 1;
                events.push(NetEvent::Closed { connection });
                connection
            }
        }
    }

    /// Tells an opener why it is refused, and closes once it has had the chance to read that.
    /// Nothing more is reported of this connection.
    pub(crate) fn refuse(&mut self, connection: ConnectionId, refusal: Refusal) {
        let Some(link) = self.links.get(&connection.0) else { return };
        if matches!(link.stage, LinkStage::Greeted | LinkStage::Serving { .. }) {
            self.turn_down(connection.0, refusal);
        }
    }

    /// Tells the opener of an accepted connection why it is refused.
    pub(super) fn turn_down(&mut self, id: u64, refusal: Refusal) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.stage = LinkStage::Refusing { finished: false };
        let Refusal { reason, mut text } = refusal;
        text.truncate(text.floor_char_boundary(MAX_REFUSAL_BYTES));
        self.set_deadline(id, Some(self.now + LINGER));
        self.queue(id, handshake(Message::Refused(Refusal { reason, text })));
        self.unread.insert(id);
        self.add_stranger(id);
    }

    /// Closes an accepted connection at once. Nothing more is reported of it.
    pub(crate) fn close_accepted(&mut self, connection: ConnectionId) {
        let is_accepted = |link: &NetLink| !matches!(link.stage, LinkStage::Outgoing(_));
        if self.links.get(&connection.0).is_some_and(is_accepted) {
            self.remove(connection.0);
        }
    }

    /// Reads and forgets what a refused opener still sends, until it closes. Closing with unread
    /// bytes would reset the connection, and the refusal might never be read.
    pub(super) fn linger(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        match link.connection.discard(READ_BUDGET_BYTES) {
            Filled::Drained => {}
            Filled::Stopped => {
                self.unread.insert(id);
            }
            Filled::Ended(_) => {
                self.remove(id);
            }
        }
    }

    /// Queues an answer. Answers to a connection that ended go nowhere.
    ///
    /// When many wait, the connection's requests are left unread until half of them are written.
    pub(crate) fn answer(&mut self, connection: ConnectionId, frame: &Frame) {
        let id = connection.0;
        let Some(link) = self.links.get_mut(&id) else { return };
        if !matches!(link.stage, LinkStage::Serving { .. }) {
            return;
        }
        if link.connection.queued_bytes() == 0 {
            link.taken_at = self.now;
        }
        self.queue(id, codec::encode(frame));
        if let Some(link) = self.links.get_mut(&id)
            && link.connection.queued_bytes() > self.answers_high
        {
            link.stage = LinkStage::Serving { paused: true };
        }
    }

    /// Takes up a frame that came over an accepted connection; `first` if it is the first one.
    pub(super) fn received_request(
        &mut self,
        id: u64,
        first: bool,
        frame: Frame,
        events: &mut Vec<NetEvent>,
    ) {
        let connection = ConnectionId(id);
        match (first, frame.message) {
            (true, Message::Proof(proof)) => self.received_proof(id, &proof, events),
            (true, Message::Hello(hello)) => {
                let Ok(proved) = self.check_greeting(id, &hello, events) else { return };
                self.strangers.remove(id);
                self.set_deadline(id, None);
                if let Some(link) = self.links.get_mut(&id) {
                    link.stage = LinkStage::Greeted;
                }
                events.push(NetEvent::Greeted { connection, hello, proved });
            }
            (true, _) => self.end_for(id, &"did not begin with a HELLO", events),
            (false, message @ (Message::Request(_) | Message::Control(_))) => {
                events.push(NetEvent::Request { connection, frame: Frame { message, ..frame } });
            }
            (false, _) => self.end_for(id, &"sent what an opener does not send", events),
        }
    }
}
