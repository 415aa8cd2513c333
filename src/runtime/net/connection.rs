//! One TCP connection's bytes: in, out, and nothing of what they mean.
//!
//! The poll is edge-triggered: it reports a socket once, and again only after a call returned
//! `WouldBlock`. A reader that stops earlier (a budget, back-pressure) must come back by itself;
//! [`Filled`] says so, and [`Net`](super::Net) keeps the list.

#![forbid(unsafe_code)]

use std::io::{self, IoSlice, Read};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{SockRef, TcpKeepalive};

use super::limits::{Limits, Place, Share};
use super::queue::Queue;
use super::secured::Secured;
use super::stream::{Filled, send};
use crate::logging;
use crate::types::SECURED_MAGIC;
use crate::wire::codec;
use crate::wire::frame::{Encoded, FrameBuffer, FrameError};
use crate::wire::message::Frame;
#[cfg(target_os = "linux")]
use crate::wire::timing::USER_TIMEOUT;

/// Slices of one vectored write. Beyond this many, another system call is a small part of the cost.
const SLICES: usize = 64;

/// An idle connection is probed after this long, so that one whose other end vanished does not
/// stay.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A stream, what was received and not yet looked at, and what is not yet written.
pub(crate) struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    buffer: FrameBuffer,
    /// What the buffer takes of the memory for all of them.
    share: Share,
    /// What the queue takes of the memory for all answers, if this node accepted the connection.
    answers: Option<Share>,
    /// The place of an accepted connection among all of them.
    _place: Option<Place>,
    queue: Queue,
    /// What it is secured by. `None`: frames are sent as they are.
    secured: Option<Box<Secured>>,
}

impl Connection {
    /// `place` is that of an accepted connection.
    pub(crate) fn new(
        stream: TcpStream,
        peer: SocketAddr,
        limits: &Arc<Limits>,
        place: Option<Place>,
    ) -> Self {
        Self {
            stream,
            peer,
            buffer: FrameBuffer::new(),
            share: Share::of_received(limits.clone()),
            answers: place.is_some().then(|| Share::of_answers(limits.clone())),
            _place: place,
            queue: Queue::default(),
            secured: None,
        }
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.stream, token, Interest::READABLE | Interest::WRITABLE)
    }

    pub(crate) fn deregister(&mut self, registry: &Registry) {
        if let Err(error) = registry.deregister(&mut self.stream) {
            logging::debug!("deregistering the connection to {}: {error}", self.peer);
        }
    }

    /// Returns whether the dial is done: `false` while it goes on, the cause if it failed.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            // A dial to a port of this machine at which no process listens can meet itself, when
            // the system picks that very port for its own end.
            Ok(peer) if self.stream.local_addr()? == peer => {
                Err(io::ErrorKind::ConnectionRefused.into())
            }
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Options of an established connection. None of them decides whether it works.
    pub(crate) fn tune(&self) {
        let socket = SockRef::from(&self.stream);
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
        // Frames are written together already; to wait for more would only delay answers.
        let tuned =
            socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive));
        #[cfg(target_os = "linux")]
        let tuned = tuned.and_then(|()| socket.set_tcp_user_timeout(Some(USER_TIMEOUT)));
        if let Err(error) = tuned {
            logging::debug!("tuning the connection to {}: {error}", self.peer);
        }
    }

    /// Whether the buffer need not grow beyond the usual size for more to be read, or there is
    /// memory for that.
    pub(crate) fn has_memory(&self) -> bool {
        self.share.fits(self.buffer.next_excess_bytes())
    }

    /// Returns how many bytes the buffer takes beyond the usual size.
    pub(crate) fn excess_bytes(&self) -> usize {
        self.share.bytes()
    }

    /// Whether a part of a frame, or of a record of TLS, has come, and not the rest of it, once all
    /// whole ones are taken.
    pub(crate) fn is_in_frame(&self) -> bool {
        self.buffer.is_in_frame() || self.secured.as_ref().is_some_and(|it| it.is_in_record())
    }

    /// Gives back what a large frame took, once that is looked at.
    pub(crate) fn shrink(&mut self) {
        self.buffer.shrink();
        self.share.set(self.buffer.excess_bytes());
    }

    /// Reads until nothing is left, the buffer is full or `budget` bytes came. Returns how many
    /// came over the wire.
    ///
    /// A buffer that is full before it begins grows, whether or not there
    /// [is memory](Self::has_memory). What comes over a secured connection goes through `scratch`.
    pub(crate) fn fill(&mut self, scratch: &mut [u8], budget: usize) -> (usize, Filled) {
        if let Some(secured) = &mut self.secured {
            let filled = secured.fill(&self.stream, scratch, &mut self.buffer, budget);
            self.share.set(self.buffer.excess_bytes());
            return filled;
        }
        let mut count = 0;
        while count < budget && (count == 0 || self.buffer.has_space()) {
            let space = self.buffer.space();
            let most = space.len().min(budget - count);
            let read = self.stream.read(&mut space[..most]);
            self.share.set(self.buffer.excess_bytes());
            match read {
                Ok(0) => return (count, Filled::Ended(io::ErrorKind::UnexpectedEof)),
                Ok(read) => {
                    self.buffer.received(read);
                    count += read;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return (count, Filled::Drained),
                    kind => return (count, Filled::Ended(kind)),
                },
            }
        }
        (count, Filled::Stopped)
    }

    /// Reads and forgets, so that closing does not turn unread bytes into a reset.
    pub(crate) fn discard(&mut self, budget: usize) -> Filled {
        let mut bytes = [0; 4 << 10];
        for _ in 0..budget.div_ceil(bytes.len()) {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Filled::Ended(io::ErrorKind::UnexpectedEof),
                Ok(_) => {}
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return Filled::Drained,
                    kind => return Filled::Ended(kind),
                },
            }
        }
        Filled::Stopped
    }

    /// Returns the next whole frame of what was read.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        match self.buffer.next()? {
            Some((header, body)) => codec::decode(header, body).map(Some),
            None => Ok(None),
        }
    }

    /// Lets frames of full size come: the handshake is done.
    pub(crate) fn raise_limit(&mut self) {
        self.buffer.raise_limit();
    }

    pub(crate) fn queue(&mut self, frame: Encoded) {
        self.queue.push(frame);
        self.note_queued();
    }

    fn note_queued(&mut self) {
        if let Some(answers) = &mut self.answers {
            answers.set_queued(self.queue.cost_bytes());
        }
    }

    /// Whether the answers of all connections take too much memory, and those of this one a part
    /// of it.
    pub(crate) fn has_too_many_answers(&self) -> bool {
        self.answers.as_ref().is_some_and(Share::is_too_much)
    }

    /// Returns about how much memory that takes which is not written. Zero only if all is.
    pub(crate) fn queued_bytes(&self) -> usize {
        let sealed = self.secured.as_ref().map_or(0, |secured| secured.waiting_bytes());
        self.queue.cost_bytes() + sealed
    }

    /// Writes until nothing is queued or the socket takes no more. Returns how many bytes went out.
    pub(crate) fn flush(&mut self) -> io::Result<usize> {
        if let Some(secured) = &mut self.secured {
            let written = secured.flush(&self.stream, &mut self.queue);
            self.note_queued();
            return written;
        }
        let mut count = 0;
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = self.queue.slices(&mut slices, usize::MAX);
            match send(&self.stream, &slices[..used]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.queue.taken(written);
                    count += written;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => break,
                    _ => return Err(error),
                },
            }
        }
        self.note_queued();
        Ok(count)
    }

    /// Forgets what is not written: there is no other end left to write it to.
    pub(crate) fn drop_queue(&mut self) {
        self.queue.clear();
        if let Some(secured) = &mut self.secured {
            secured.write_no_more();
        }
        self.note_queued();
    }

    /// Secures what follows, or goes on without.
    pub(super) fn secure(&mut self, secured: Option<Box<Secured>>) {
        self.secured = secured;
    }

    /// Whether no frames can come before something else is done.
    pub(super) fn is_securing(&self) -> bool {
        self.secured.as_ref().is_some_and(|secured| secured.is_securing())
    }

    pub(super) fn secured(&self) -> Option<&Secured> {
        self.secured.as_deref()
    }

    #[cfg(feature = "security")]
    pub(super) fn secured_mut(&mut self) -> Option<&mut Secured> {
        self.secured.as_deref_mut()
    }

    /// Whether it wants to write what is no frame: reading has asked for it.
    pub(super) fn wants_write(&self) -> bool {
        self.secured.as_ref().is_some_and(|secured| secured.waiting_bytes() > 0)
    }

    /// Takes up bytes as if they were read: of a connection that was taken for a secured one.
    #[cfg(feature = "security")]
    pub(super) fn received_plainly(&mut self, bytes: &[u8]) {
        self.buffer.space()[..bytes.len()].copy_from_slice(bytes);
        self.buffer.received(bytes.len());
    }

    /// Whether what was read begins as a secured connection does.
    pub(super) fn begins_secured(&self) -> bool {
        self.buffer.begins_with(SECURED_MAGIC)
    }

    /// Says that nothing more will be written, and lets the other end read what was.
    pub(crate) fn finish_writing(&mut self) {
        if let Some(secured) = &mut self.secured {
            // All else is written, so that there is room for it. Without it the other end would
            // take this end for cut off.
            secured.close(&self.stream, &mut self.queue);
        }
        if let Err(error) = self.stream.shutdown(Shutdown::Write) {
            logging::debug!("ending the connection to {}: {error}", self.peer);
        }
    }

    #[cfg(test)]
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use proptest::prelude::*;

    use super::*;

    fn pair() -> (Connection, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (other, _) = listener.accept().unwrap();
        client.set_nonblocking(true).unwrap();
        let peer = client.peer_addr().unwrap();
        let limits = Limits::new(None, None);
        (Connection::new(TcpStream::from_std(client), peer, &limits, None), other)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn what_is_queued_arrives_once_and_in_order_whatever_the_socket_takes(
            sizes in prop::collection::vec(prop_oneof![16usize..600, 16usize..300_000], 50..150),
            step in 5000usize..100_000,
        ) {
            let (mut connection, mut other) = pair();
            connection.tune();
            let mut expected = Vec::new();
            for (number, size) in sizes.iter().enumerate() {
                let mut frame = Encoded::new();
                let bytes = (0..*size).map(|byte| (byte * 31 + number * 7) as u8);
                frame.extend_from_slice(&bytes.collect::<Vec<_>>());
                expected.extend_from_slice(&frame);
                connection.queue(frame);
            }
            let mut got = Vec::new();
            let mut chunk = vec![0; step];
            while got.len() < expected.len() {
                connection.flush().unwrap();
                let read = other.read(&mut chunk).unwrap();
                got.extend_from_slice(&chunk[..read]);
            }
            prop_assert!(got == expected);
            connection.flush().unwrap();
            prop_assert_eq!((connection.queued_bytes(), connection.queue.is_empty()), (0, true));
        }
    }

    #[test]
    fn a_budget_stops_reading_and_what_is_left_comes_later() {
        let (mut connection, mut other) = pair();
        other.write_all(&[0; 1000]).unwrap();
        drop(other);
        let mut total = 0;
        let mut stops = 0;
        loop {
            let (count, filled) = connection.fill(&mut [], 300);
            total += count;
            assert!(count <= 300);
            match filled {
                Filled::Stopped => stops += 1,
                Filled::Drained => {}
                Filled::Ended(kind) => {
                    assert_eq!(kind, io::ErrorKind::UnexpectedEof);
                    break;
                }
            }
        }
        assert_eq!((total, stops), (1000, 3));
    }
}
