//! One secured connection: the bytes before TLS, TLS, and what its other end has proved.
//!
//! ```text
//! opener                        step        acceptor
//!  OPENING, ClientHello ──────▶ Opening ──▶ checks OPENING
//!  checks OPENED ◀───────────── Opening ◀── OPENED, the server's flight
//!  compares the key ──────────▶ Handshake   compares the key
//!  PROOF, HELLO ──────────────▶ Proof ────▶ checks PROOF
//!  checks PROOF ◀────────────── Proof ◀──── PROOF, then WELCOME
//!                               Done
//! ```
//!
//! The room `security` says why these are the steps. Nothing is queued at an end before the key of
//! the other one was compared: a queue is sealed and sent as soon as TLS is up.
//!
//! A connection goes on with what it began with if a node's security is changed in between. Then it
//! is judged by the new one ([`NetSecurity::admits`]).

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use mio::net::TcpStream;
use thiserror::Error;
use zeroize::Zeroizing;

use super::gate::Gate;
use super::queue::Queue;
use super::stream::{Filled, send};
use super::tls::{Ending, Tls, TlsError, TlsSettings};
use crate::clock::Instant;
use crate::security::identity::{CertificateHash, PublicKey, Signature};
use crate::security::keys::KeyId;
use crate::security::opening::{OPENING_BYTES, Offer, Opening, OpeningError, OpeningFlags, Role};
use crate::security::proof::{Introduction, IntroductionFlags, Session, WrongProof};
use crate::security::{Fingerprint, NodeSecurity, Proved};
use crate::types::{ClusterHash, Identity};
use crate::wire::frame::FrameBuffer;
use crate::wire::message::Proof;

/// What the connections of a node are secured with: shared by its threads.
pub(crate) struct NetSecurity {
    node: Arc<NodeSecurity>,
    cluster: ClusterHash,
    tls: TlsSettings,
    /// The hash of what this node presents in TLS.
    own_hash: CertificateHash,
}

impl NetSecurity {
    /// Makes what the connections of this node in this cluster are secured with.
    pub(crate) fn new(
        node: Arc<NodeSecurity>,
        cluster: ClusterHash,
    ) -> Result<Arc<Self>, TlsError> {
        let tls = TlsSettings::with_raw_key(node.identity.pkcs8())?;
        let own_hash = CertificateHash::of(&PublicKey(tls.public_key()).spki());
        Ok(Arc::new(Self { node, cluster, tls, own_hash }))
    }

    /// Whether connections that are not secured are taken, too.
    pub(super) fn is_optional(&self) -> bool {
        self.node.is_optional
    }

    /// Returns what this life of the node signs about itself.
    pub(super) fn introduce(&self, identity: &Identity) -> Introduction {
        let NodeSecurity { identity: key, flags, .. } = &*self.node;
        Introduction::new(key, self.cluster, identity, *flags)
    }

    /// Whether it would let this connection in now, which may have begun under another one.
    pub(super) fn admits(&self, proved: Option<&Proved>) -> Result<(), SecurityError> {
        match proved {
            None if self.is_optional() => Ok(()),
            None => Err(SecurityError::Plain),
            Some(proved) => {
                self.check_denied(&proved.fingerprint)?;
                match self.node.keyring.by_id(proved.key) {
                    Some(_) => Ok(()),
                    None => Err(SecurityError::Opening(OpeningError::NoSuchKey(proved.key))),
                }
            }
        }
    }

    /// Whether a connection that this node opened would be opened with the same key now.
    pub(super) fn opens_with(&self, key: KeyId) -> bool {
        self.node.keyring.sealing().id() == key
    }

    /// Whether this was proved by the node itself.
    pub(super) fn is_own(&self, proved: &Proved) -> bool {
        proved.fingerprint == self.node.identity.fingerprint()
    }

    fn check_denied(&self, fingerprint: &Fingerprint) -> Result<(), SecurityError> {
        match self.node.denied.contains(fingerprint) {
            true => Err(SecurityError::Denied(*fingerprint)),
            false => Ok(()),
        }
    }

    fn offer(&self) -> Offer {
        let mut flags = OpeningFlags::default();
        if self.is_optional() {
            flags = flags.with(OpeningFlags::SPEAKS_PLAIN);
        }
        Offer { flags, certificate: self.own_hash }
    }

    /// Returns the text that tells a host which keys are accepted here. It names no node: it is
    /// sent to hosts that have proved nothing.
    fn accepted_keys(&self) -> String {
        let ids: Vec<String> = self.node.keyring.iter().map(|keys| keys.id().to_string()).collect();
        ids.join(", ")
    }
}

/// How a thread secures its connections.
pub(super) struct Securing {
    pub(super) security: Arc<NetSecurity>,
    /// What this life of the node signs about itself.
    pub(super) introduction: Option<Introduction>,
    /// For reading.
    pub(super) scratch: Vec<u8>,
    /// How many steps of handshakes are left in this pass.
    pub(super) handshakes_left: usize,
    /// Addresses that speak without security, and until when they are dialled so.
    pub(super) plain_until: BTreeMap<SocketAddr, Instant>,
    /// When links end by a change, and which.
    pub(super) ends_at: BTreeSet<(Instant, u64)>,
}

/// Why a connection is not let in, or not gone on with.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(super) enum SecurityError {
    #[error(
        "it speaks without security, and this node requires it: give it the cluster key \
             (Config::security)"
    )]
    Plain,
    #[error("{0}")]
    Opening(OpeningError),
    #[error(
        "its cluster key has the id {key}, and here {accepted} is accepted: another key, or the \
         name of another cluster"
    )]
    OtherKey { key: KeyId, accepted: String },
    #[error("it wants certificates, or presents one, and this version of gridkv has none")]
    Certificates,
    #[error("TLS proves another key than it named: a host stands between the two nodes")]
    OtherCertificate,
    #[error("its key {0} is denied (Security::deny)")]
    Denied(Fingerprint),
    #[error("it sends no proof of the cluster key where one is due, or a second one")]
    NoProof,
    #[error("{0}")]
    WrongProof(WrongProof),
    #[error("it proves the cluster key {0}, and opened with another one")]
    OtherProof(KeyId),
    #[error("its introduction is not signed by the key that TLS proves")]
    WrongIntroduction,
    #[error("it introduces itself as {0:?}, and greets as another node or life")]
    OtherNode(Identity),
    #[error("it greets as this very node, at this node's address, with another key")]
    OwnName,
    #[error("{0}")]
    Tls(TlsError),
    #[error("the system gives no random bytes: {0}")]
    NoRandom(String),
}

impl SecurityError {
    /// Whether a host that has proved nothing may be told.
    pub(super) fn may_be_told(&self) -> bool {
        !matches!(self, Self::OtherNode(_))
    }
}

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// The bytes before TLS come.
    Opening,
    /// TLS shakes hands.
    Handshake,
    /// Frames come, and the first one must be a PROOF.
    Proof,
    /// The other end has proved all.
    Done,
}

/// What has come of the steps before frames.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Advance {
    /// More bytes are needed, or none are.
    Waits,
    /// OPENING or OPENED was right: TLS goes on.
    Opened,
    /// The other end does not begin as a secured one does.
    Plain,
    /// TLS is up, and the key is the one that was named: frames may be queued.
    Established,
}

/// A connection that is secured, or is about to be.
pub(super) struct Secured {
    security: Arc<NetSecurity>,
    role: Role,
    step: Step,
    gate: Gate,
    /// What is written before TLS, and how much of it is.
    prelude: [u8; OPENING_BYTES],
    prelude_at: usize,
    /// The opener's bytes, at both ends.
    opening: Option<Opening>,
    /// What the other end has named as its certificate.
    named: Option<CertificateHash>,
    tls: Option<Box<Tls>>,
    session: Option<Session>,
    /// What its PROOF said: who it is, and what it has proved.
    proved: Option<(Identity, Proved)>,
    /// Writing has failed.
    is_broken: bool,
}

impl Secured {
    /// Begins at the opener: OPENING and the first message of TLS wait to be written.
    pub(super) fn opener(
        security: &Arc<NetSecurity>,
        nonce: [u8; 24],
    ) -> Result<Box<Self>, SecurityError> {
        let tls = Tls::client(&security.tls).map_err(SecurityError::Tls)?;
        let opening = Opening::new(security.node.keyring.sealing(), nonce, security.offer());
        let mut secured = Self::new(security, Role::Opener);
        secured.tls = Some(tls);
        secured.set_prelude(*opening.bytes());
        secured.opening = Some(opening);
        Ok(secured)
    }

    /// Begins at the acceptor, which speaks second.
    pub(super) fn acceptor(security: &Arc<NetSecurity>) -> Box<Self> {
        Self::new(security, Role::Acceptor)
    }

    fn new(security: &Arc<NetSecurity>, role: Role) -> Box<Self> {
        let prelude = [0; OPENING_BYTES];
        Box::new(Self {
            security: security.clone(),
            role,
            step: Step::Opening,
            gate: Gate::new(),
            prelude_at: prelude.len(),
            prelude,
            opening: None,
            named: None,
            tls: None,
            session: None,
            proved: None,
            is_broken: false,
        })
    }

    fn set_prelude(&mut self, bytes: [u8; OPENING_BYTES]) {
        self.prelude = bytes;
        self.prelude_at = 0;
    }

    /// Whether the other end has shown nothing of the cluster key yet.
    pub(super) fn is_at_gate(&self) -> bool {
        self.step == Step::Opening
    }

    /// Whether no frames can come yet.
    pub(super) fn is_securing(&self) -> bool {
        matches!(self.step, Step::Opening | Step::Handshake)
    }

    /// Whether the next step of reading can cost a signature or a key agreement.
    pub(super) fn is_handshaking(&self) -> bool {
        self.step == Step::Handshake
    }

    /// Whether TLS has something for the other end, or had.
    #[cfg(test)]
    pub(super) fn has_answered(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_begun())
    }

    /// Returns what its other end has proved, once it has proved all.
    pub(super) fn proved(&self) -> Option<&Proved> {
        self.proved.as_ref().map(|(_, proved)| proved)
    }

    /// Whether a part of a record of TLS has come, and not the rest of it.
    pub(super) fn is_in_record(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_in_record())
    }

    /// Returns why TLS has failed, if it has.
    pub(super) fn failure(&self) -> Option<&TlsError> {
        match self.tls.as_ref()?.ending()? {
            Ending::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// Returns what has come before it was known that the other end speaks without security.
    pub(super) fn plain_bytes(&self) -> &[u8] {
        self.gate.received()
    }

    /// Reads, as [`Connection::fill`](super::connection::Connection::fill) does. A handshake takes
    /// one step.
    pub(super) fn fill(
        &mut self,
        stream: &impl Socket,
        scratch: &mut [u8],
        frames: &mut FrameBuffer,
        budget: usize,
    ) -> (usize, Filled) {
        if self.step == Step::Handshake && self.prelude_at < self.prelude.len() {
            // An alert that TLS writes here must come behind it. An error shows at the next flush.
            let _ = self.flush_prelude(stream);
        }
        match &mut self.tls {
            Some(tls) if self.step != Step::Opening => {
                tls.fill(&mut NoSignal(stream), scratch, frames, budget)
            }
            _ => self.gate.fill(&mut NoSignal(stream)),
        }
    }

    /// Writes what comes before TLS, what TLS wants to write, and then the queue, once TLS is up.
    pub(super) fn flush(&mut self, stream: &impl Socket, queue: &mut Queue) -> io::Result<usize> {
        if self.is_broken {
            return Ok(0);
        }
        let count = self.flush_prelude(stream)?;
        let Some(tls) = &mut self.tls else { return Ok(count) };
        if self.prelude_at < self.prelude.len() {
            return Ok(count);
        }
        Ok(count + tls.flush(&mut NoSignal(stream), queue)?)
    }

    fn flush_prelude(&mut self, stream: &impl Socket) -> io::Result<usize> {
        let mut count = 0;
        while self.prelude_at < self.prelude.len() {
            match stream.send(&[IoSlice::new(&self.prelude[self.prelude_at..])]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.prelude_at += written;
                    count += written;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return Ok(count),
                    _ => return Err(error),
                },
            }
        }
        Ok(count)
    }

    /// Returns about how many bytes wait that are no frames. Zero only if none do.
    pub(super) fn waiting_bytes(&self) -> usize {
        if self.is_broken {
            return 0;
        }
        let tls = self.tls.as_ref().map_or(0, |tls| tls.waiting_bytes());
        self.prelude.len() - self.prelude_at + tls
    }

    /// Writing has failed: nothing more is written.
    pub(super) fn write_no_more(&mut self) {
        self.is_broken = true;
    }

    /// Says inside TLS that nothing more is sent.
    pub(super) fn close(&mut self, stream: &impl Socket, queue: &mut Queue) {
        if let Some(tls) = &mut self.tls
            && !tls.is_handshaking()
        {
            tls.close();
            let _ = self.flush(stream, queue);
        }
    }

    /// Goes on with the steps before frames, as far as what has come allows.
    pub(super) fn advance(&mut self) -> Result<Advance, SecurityError> {
        match self.step {
            Step::Opening if self.gate.is_plain() => Ok(Advance::Plain),
            Step::Opening => match self.gate.whole().copied() {
                Some(bytes) => self.opened(&bytes).map(|()| Advance::Opened),
                None => Ok(Advance::Waits),
            },
            Step::Handshake => self.established(),
            Step::Proof | Step::Done => Ok(Advance::Waits),
        }
    }

    /// Checks OPENING or OPENED.
    fn opened(&mut self, bytes: &[u8; OPENING_BYTES]) -> Result<(), SecurityError> {
        let keyring = &self.security.node.keyring;
        let offer = match &self.opening {
            Some(opening) => opening.check_answer(keyring, bytes),
            None => Opening::accept(keyring, bytes).map(|opening| {
                self.opening = Some(opening);
                opening.offer()
            }),
        };
        let offer = offer.map_err(|error| match error {
            OpeningError::NoSuchKey(key) => {
                SecurityError::OtherKey { key, accepted: self.security.accepted_keys() }
            }
            error => SecurityError::Opening(error),
        })?;
        let of_certificates = [OpeningFlags::HAS_CERTIFICATE, OpeningFlags::WANTS_CERTIFICATE]
            .map(|flag| offer.flags.has(flag));
        if of_certificates.contains(&true) {
            return Err(SecurityError::Certificates);
        }
        if let (Role::Acceptor, Some(opening)) = (self.role, &self.opening) {
            let answer = opening.answer(keyring, self.security.offer());
            let answer = answer.map_err(SecurityError::Opening)?;
            self.tls = Some(Tls::server(&self.security.tls).map_err(SecurityError::Tls)?);
            self.set_prelude(answer);
        }
        self.named = Some(offer.certificate);
        self.step = Step::Handshake;
        Ok(())
    }

    /// Compares the key that TLS has proved, once it has, with the one that was named.
    fn established(&mut self) -> Result<Advance, SecurityError> {
        let Some(tls) = &self.tls else { return Ok(Advance::Waits) };
        let Some(key) = tls.peer_key().map(PublicKey) else { return Ok(Advance::Waits) };
        let peer = CertificateHash::of(&key.spki());
        if self.named != Some(peer) {
            return Err(SecurityError::OtherCertificate);
        }
        self.security.check_denied(&key.fingerprint())?;
        let exporter = Zeroizing::new(tls.exporter().map_err(SecurityError::Tls)?);
        let own = self.security.own_hash;
        self.session = Some(Session::new(self.role, exporter, own, peer));
        self.step = Step::Proof;
        Ok(Advance::Established)
    }

    /// Returns this end's proof, if it is due.
    pub(super) fn prove(&mut self, introduction: &Introduction) -> Option<Proof> {
        let (session, opening) = (self.session.as_ref()?, self.opening.as_ref()?);
        let keys = self.security.node.keyring.by_id(opening.key())?;
        let proof = Proof {
            mac: session.prove(keys),
            key_id: keys.id().0,
            identity: introduction.identity,
            public_key: introduction.key.0,
            flags: introduction.flags.0,
            signature: introduction.signature.0,
        };
        self.end_session();
        Some(proof)
    }

    /// Forgets what proofs are made of, once both are: the opener proves first.
    fn end_session(&mut self) {
        if self.step == Step::Done {
            self.session = None;
        }
    }

    /// Checks the other end's proof.
    pub(super) fn check_proof(&mut self, proof: &Proof) -> Result<(), SecurityError> {
        let (Step::Proof, Some(session), Some(opening)) = (self.step, &self.session, &self.opening)
        else {
            return Err(SecurityError::NoProof);
        };
        let key = KeyId(proof.key_id);
        if key != opening.key() {
            return Err(SecurityError::OtherProof(key));
        }
        let keys = self.security.node.keyring.by_id(key);
        let keys = keys.ok_or(SecurityError::Opening(OpeningError::NoSuchKey(key)))?;
        session.check(keys, &proof.mac).map_err(SecurityError::WrongProof)?;
        let introduction = Introduction {
            identity: proof.identity.life(),
            key: PublicKey(proof.public_key),
            flags: IntroductionFlags(proof.flags),
            signature: Signature(proof.signature),
        };
        let is_of_tls = self.tls.as_ref().and_then(|tls| tls.peer_key()) == Some(proof.public_key);
        if !is_of_tls || introduction.verify(self.security.cluster).is_err() {
            return Err(SecurityError::WrongIntroduction);
        }
        let proved = Proved {
            fingerprint: introduction.key.fingerprint(),
            keeps_key: introduction.flags.has(IntroductionFlags::KEEPS_ITS_KEY),
            key,
        };
        self.proved = Some((introduction.identity, proved));
        self.step = Step::Done;
        if self.role == Role::Opener {
            self.end_session();
        }
        Ok(())
    }

    /// Whether a HELLO or WELCOME in this name is by the node that has proved itself.
    pub(super) fn check_greeting(&self, identity: &Identity) -> Result<Proved, SecurityError> {
        match &self.proved {
            None => Err(SecurityError::NoProof),
            Some((proved, _)) if *proved != identity.life() => {
                Err(SecurityError::OtherNode(*proved))
            }
            Some((_, proved)) => Ok(*proved),
        }
    }
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured").field("role", &self.role).field("step", &self.step).finish()
    }
}

/// What the bytes of a secured connection go over: a socket, or what stands for one.
pub(super) trait Socket {
    fn receive(&self, bytes: &mut [u8]) -> io::Result<usize>;

    /// Writes as [`send`] does.
    fn send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
}

impl Socket for TcpStream {
    fn receive(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut stream = self;
        stream.read(bytes)
    }

    fn send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        send(self, slices)
    }
}

/// A stream that raises no signal. rustls writes by `writev`, which raises one. It also writes when
/// it reads: alerts.
struct NoSignal<'a, S>(&'a S);

impl<S: Socket> Read for NoSignal<'_, S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.receive(bytes)
    }
}

impl<S: Socket> Write for NoSignal<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.send(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
