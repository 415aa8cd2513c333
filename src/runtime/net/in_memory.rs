//! Secured connections without sockets: what the fuzzers have two ends say to each other.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use super::link::HANDSHAKE_BUDGET_BYTES;
use super::net_security::NetSecurity;
use super::queue::Queue;
use super::secured::{Advance, Secured, Socket};
use super::security_error::SecurityError;
use super::stream::Filled;
use super::tls::TlsSettings;
use crate::security::{NodeIdentity, NodeSecurity};
use crate::types::{ClusterHash, Identity};
use crate::wire::codec;
use crate::wire::frame::FrameBuffer;
use crate::wire::message::{Frame, Message};

/// What one system call reads: as much as a thread's buffer for it has.
const SCRATCH_BYTES: usize = 64 << 10;

/// More turns than any input needs.
const MOST_TURNS: usize = 1000;

/// Whether TLS takes what is taken for a node's key.
pub(crate) fn is_taken_by_tls(own: &NodeIdentity) -> bool {
    TlsSettings::with_raw_key(own.pkcs8()).is_ok()
}

/// A node that secures its connections.
pub(crate) struct SecuredNode {
    security: Arc<NetSecurity>,
    identity: Identity,
}

impl SecuredNode {
    pub(crate) fn new(security: NodeSecurity, cluster: ClusterHash, identity: Identity) -> Self {
        let security = NetSecurity::new(Arc::new(security), cluster).expect("it has a key");
        Self { security, identity }
    }

    pub(crate) fn opens(&self, nonce: [u8; 24]) -> SecuredEnd {
        let secured = Secured::opener(&self.security, nonce).expect("it has a key");
        SecuredEnd::new(secured, self)
    }

    pub(crate) fn accepts(&self) -> SecuredEnd {
        SecuredEnd::new(Secured::acceptor(&self.security), self)
    }
}

/// What stands for a socket: bytes that wait to be read, and those that were written.
#[derive(Default)]
struct Wire {
    arrived: RefCell<VecDeque<u8>>,
    written: RefCell<Vec<u8>>,
    /// Nothing more comes.
    is_cut: Cell<bool>,
    /// Nothing more is taken.
    is_full: Cell<bool>,
}

impl Socket for Wire {
    fn receive(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut arrived = self.arrived.borrow_mut();
        let count = arrived.len().min(bytes.len());
        if count == 0 && !self.is_cut.get() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        bytes.iter_mut().zip(arrived.drain(..count)).for_each(|(to, from)| *to = from);
        Ok(count)
    }

    fn send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.is_full.get() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut written = self.written.borrow_mut();
        let before = written.len();
        slices.iter().for_each(|slice| written.extend_from_slice(slice));
        Ok(written.len() - before)
    }
}

/// One end of a secured connection, and what it takes up besides the session.
pub(crate) struct SecuredEnd {
    secured: Box<Secured>,
    security: Arc<NetSecurity>,
    identity: Identity,
    wire: Wire,
    frames: FrameBuffer,
    queue: Queue,
    /// Why it goes on no more.
    ended: Option<String>,
}

impl SecuredEnd {
    fn new(secured: Box<Secured>, node: &SecuredNode) -> Self {
        Self {
            secured,
            security: node.security.clone(),
            identity: node.identity,
            wire: Wire::default(),
            frames: FrameBuffer::new(),
            queue: Queue::default(),
            ended: None,
        }
    }

    /// Returns what a thread reads into. It is no connection's.
    pub(crate) fn scratch() -> Vec<u8> {
        vec![0; SCRATCH_BYTES]
    }

    /// Takes bytes up to be read.
    pub(crate) fn arrives(&mut self, bytes: &[u8]) {
        self.wire.arrived.borrow_mut().extend(bytes);
    }

    /// Nothing arrives any more.
    pub(crate) fn cut(&mut self) {
        self.wire.is_cut.set(true);
    }

    /// Sets whether nothing can be written for now.
    pub(crate) fn set_full(&mut self, is_full: bool) {
        self.wire.is_full.set(is_full);
    }

    /// Returns what was written since the last time.
    pub(crate) fn take_written(&mut self) -> Vec<u8> {
        self.wire.written.take()
    }

    /// Returns why it has ended, if it has.
    pub(crate) fn ended(&self) -> Option<&str> {
        self.ended.as_deref()
    }

    /// Whether TLS is up, with the key that was named.
    pub(crate) fn is_established(&self) -> bool {
        !self.secured.is_securing()
    }

    /// Whether a part of a frame is there.
    pub(crate) fn is_in_frame(&self) -> bool {
        self.frames.is_in_frame()
    }

    /// Queues this end's proof, which is due once it is [established](Self::is_established), at
    /// the acceptor once the opener has proved itself. Returns what the other end should get.
    pub(crate) fn prove(&mut self) -> Option<Message> {
        let introduction = self.security.introduce(&self.identity);
        let proof = Message::Proof(self.secured.prove(&introduction)?);
        self.queue.push(super::handshake(proof.clone()));
        Some(proof)
    }

    /// Checks the proof of the other end.
    pub(crate) fn has_proved(&mut self, proof: &Message) -> bool {
        let Message::Proof(proof) = proof else { return false };
        self.secured.check_proof(proof).is_ok()
    }

    /// Reads, takes the steps before frames, and writes, until nothing is left to do. Returns the
    /// frames that came.
    pub(crate) fn turn(&mut self, scratch: &mut [u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        for _ in 0..MOST_TURNS {
            if self.ended.is_some() {
                return frames;
            }
            if let Err(error) = self.secured.flush(&self.wire, &mut self.queue) {
                self.ended = Some(error.to_string());
                continue;
            }
            self.frames.shrink();
            if self.secured.is_securing() {
                match self.secured.advance() {
                    Ok(Advance::Waits) => {}
                    Ok(Advance::Opened | Advance::Established) => continue,
                    Ok(Advance::Plain) => self.end(&SecurityError::Plain),
                    Err(error) => self.end(&error),
                }
            }
            match self.frames.next() {
                Ok(Some((header, body))) => match codec::decode(header, body) {
                    Ok(frame) => frames.push(frame),
                    Err(error) => self.ended = Some(error.to_string()),
                },
                Ok(None) if self.ended.is_some() => {}
                Ok(None) => {
                    if self.fill(scratch) {
                        return frames;
                    }
                }
                Err(error) => self.ended = Some(error.to_string()),
            }
        }
        panic!("it does not come to an end");
    }

    /// Reads. Returns whether nothing is left.
    fn fill(&mut self, scratch: &mut [u8]) -> bool {
        let budget = HANDSHAKE_BUDGET_BYTES;
        let (_, filled) = self.secured.fill(&self.wire, scratch, &mut self.frames, budget);
        if let Filled::Ended(kind) = filled {
            let failure = self.secured.failure().cloned().map(SecurityError::Tls);
            self.ended = Some(failure.map_or(kind.to_string(), |error| error.to_string()));
        }
        filled == Filled::Drained
    }

    fn end(&mut self, error: &SecurityError) {
        self.ended = Some(error.to_string());
    }
}
