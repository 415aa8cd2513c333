//! The acceptor's side of a connection: hear the HELLO, let the control thread judge it, then serve
//! or explain.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};

use super::connection::{Connection, Filled};
use super::{
    ConnectionId, HELLO_TIMEOUT, Handover, LINGER, LinkStage, MAX_STRANGERS, Net, NetEvent,
    NetLink, READ_BUDGET_BYTES, handshake,
};
use crate::clock::Instant;
use crate::logging;
use crate::wire::codec;
use crate::wire::frame::MAX_HANDSHAKE_BYTES;
use crate::wire::message::{Frame, Hello, Message, Refusal};

/// A refusal quotes what the peer said of itself, and must still fit its frame.
const MAX_REFUSAL_BYTES: usize = MAX_HANDSHAKE_BYTES / 2;

impl Net {
    /// Accepts every connection that waits.
    ///
    /// An error that concerns one of them skips it. An error that concerns this process, such as
    /// running out of descriptors, is logged, and the rest wait for the next one to come.
    pub(crate) fn accept_all(&mut self, now: Instant, listener: &TcpListener) {
        self.now = now;
        loop {
            match listener.accept() {
                Ok((stream, peer)) => self.accept(now, stream, peer),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset => {}
                    _ => {
                        if let Some(silent) = self.not_accepted.add(now) {
                            logging::warn!(
                                "cannot accept connections for now: {error} ({silent} times since \
                                 the last such line)"
                            );
                        }
                        return;
                    }
                },
            }
        }
    }

    fn accept(&mut self, now: Instant, stream: TcpStream, peer: SocketAddr) {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let connection = Connection::new(stream, peer);
        connection.tune();
        match self.insert(connection, LinkStage::Stranger, Some(now + HELLO_TIMEOUT)) {
            Ok(id) => {
                self.counters.accepted += 1;
                self.add_stranger(id);
            }
            Err(error) => logging::warn!("cannot take the connection of {peer}: {error}"),
        }
    }

    fn add_stranger(&mut self, id: u64) {
        self.strangers.insert(id);
        while self.strangers.len() > MAX_STRANGERS
            && let Some(oldest) = self.strangers.pop_first()
        {
            logging::debug!(
                "more than {MAX_STRANGERS} connections without a welcome: closing the oldest"
            );
            self.remove(oldest);
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
        match self.insert(handover.connection, LinkStage::Serving { paused: false }, None) {
            Ok(id) => {
                self.write_link(id, events);
                self.read_link(id, events);
                ConnectionId(id)
            }
            Err(error) => {
                logging::warn!("cannot take over the connection of {peer}: {error}");
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
        let Some(link) = self.links.get_mut(&connection.0) else { return };
        if !matches!(link.stage, LinkStage::Greeted | LinkStage::Serving { .. }) {
            return;
        }
        link.stage = LinkStage::Refusing { finished: false };
        let Refusal { reason, mut text } = refusal;
        text.truncate(text.floor_char_boundary(MAX_REFUSAL_BYTES));
        self.set_deadline(connection.0, Some(self.now + LINGER));
        self.queue(connection.0, handshake(Message::Refused(Refusal { reason, text })));
        self.unread.insert(connection.0);
        self.add_stranger(connection.0);
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
        if !self.links.get(&id).is_some_and(|link| matches!(link.stage, LinkStage::Serving { .. }))
        {
            return;
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
            (true, Message::Hello(hello)) => {
                self.strangers.remove(&id);
                self.set_deadline(id, None);
                if let Some(link) = self.links.get_mut(&id) {
                    link.stage = LinkStage::Greeted;
                }
                events.push(NetEvent::Greeted { connection, hello });
            }
            (true, _) => self.end_for(id, &"did not begin with a HELLO", events),
            (false, message @ (Message::Request(_) | Message::Control(_))) => {
                events.push(NetEvent::Request { connection, frame: Frame { message, ..frame } });
            }
            (false, _) => self.end_for(id, &"sent what an opener does not send", events),
        }
    }
}
