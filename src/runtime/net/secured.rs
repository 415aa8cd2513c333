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
//! is judged by the new one ([`Secured::is_admitted_by`]).

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use mio::net::TcpStream;
use zeroize::Zeroizing;

use super::gate::Gate;
use super::net_security::NetSecurity;
use super::queue::Queue;
use super::security_error::SecurityError;
use super::stream::{Filled, send};
use super::tls::{Ending, Tls, TlsError};
use crate::clock::Instant;
use crate::security::identity::{CertificateHash, PublicKey, Signature};
use crate::security::keys::KeyId;
use crate::security::known::KnownKeys;
use crate::security::opening::{Kind, OPENING_BYTES, Opening, OpeningError, Role};
use crate::security::proof::{Introduction, IntroductionFlags, Session};
use crate::security::{Fingerprint, Proved};
use crate::types::Identity;
use crate::wire::frame::FrameBuffer;
use crate::wire::message::Proof;

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
    /// Which key each life of a node has.
    pub(super) known: Arc<KnownKeys>,
    /// When links end by a change, and which.
    pub(super) ends_at: BTreeSet<(Instant, u64)>,
}

impl Securing {
    /// Whether another key is known of the life that its other end has proved to be.
    pub(super) fn is_impostor(&self, secured: &Secured) -> bool {
        secured.proved_life().is_some_and(|(life, proved)| self.check_known(life, proved).is_err())
    }

    /// Compares what this life of a node proves with what it has proved to the control thread.
    pub(super) fn check_known(
        &self,
        life: &Identity,
        proved: &Proved,
    ) -> Result<(), SecurityError> {
        match self.known.other_than(life, proved) {
            Some(known) => Err(SecurityError::OtherKnownKey { known, now: proved.fingerprint }),
            None => Ok(()),
        }
    }
}

/// What stands for the signature of a session in a PROOF that has none.
const NO_SIGNATURE: [u8; 64] = [0; 64];

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
    /// What both ends present in TLS; and the hash of it at this end.
    kind: Kind,
    own: CertificateHash,
    /// What the other end has named as its certificate.
    named: Option<CertificateHash>,
    tls: Option<Box<Tls>>,
    session: Option<Session>,
    /// What its PROOF said: who it is, and what it has proved.
    proved: Option<(Identity, Proved)>,
    /// The node id by which it greets, if it has a certificate that must be for that id.
    node_id: Option<Box<str>>,
    /// Writing has failed.
    is_broken: bool,
}

impl Secured {
    /// Begins at the opener: OPENING and the first message of TLS wait to be written.
    pub(super) fn opener(
        security: &Arc<NetSecurity>,
        nonce: [u8; 24],
    ) -> Result<Box<Self>, SecurityError> {
        let settings = security.kinds.to_open();
        let tls = Tls::client(settings).map_err(SecurityError::Tls)?;
        let offer = security.offer(settings);
        let opening = Opening::new(security.node.keyring.sealing(), nonce, offer);
        let mut secured = Self::new(security, Role::Opener);
        secured.kind = settings.kind();
        secured.own = offer.certificate;
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
            kind: Kind::RawKey,
            own: CertificateHash::default(),
            named: None,
            tls: None,
            session: None,
            proved: None,
            node_id: None,
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

    /// Whether both ends present certificates, or are about to.
    pub(super) fn has_certificate(&self) -> bool {
        self.kind == Kind::Certificate
    }

    /// Whether this end would open it so now.
    pub(super) fn is_opened_so_by(&self, security: &NetSecurity) -> bool {
        self.proved().is_some_and(|proved| security.opens_so(proved, self.own))
    }

    /// Whether this security, which may be a later one, lets it in.
    pub(super) fn is_admitted_by(&self, security: &NetSecurity) -> Result<(), SecurityError> {
        security.admits(self.proved().ok_or(SecurityError::NoProof)?)?;
        match std::ptr::eq(security, &*self.security) {
            true => Ok(()),
            false => self.judge_again(security),
        }
    }

    /// Returns what its other end has proved, once it has proved all.
    pub(super) fn proved(&self) -> Option<&Proved> {
        self.proved.as_ref().map(|(_, proved)| proved)
    }

    /// Returns which life has proved what, once it has proved all.
    pub(super) fn proved_life(&self) -> Option<&(Identity, Proved)> {
        self.proved.as_ref()
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
        match (self.role, &self.opening) {
            (Role::Acceptor, Some(opening)) => {
                let settings = self.security.kinds.to_accept(offer.flags)?;
                let own = self.security.offer(settings);
                let answer = opening.answer(keyring, own).map_err(SecurityError::Opening)?;
                self.tls = Some(Tls::server(settings).map_err(SecurityError::Tls)?);
                (self.kind, self.own) = (settings.kind(), own.certificate);
                self.set_prelude(answer);
            }
            _ if Kind::of(offer.flags) != Some(self.kind) => return Err(SecurityError::OtherKind),
            _ => {}
        }
        self.named = Some(offer.certificate);
        self.step = Step::Handshake;
        Ok(())
    }

    /// Compares the key that TLS has proved, once it has, with the one that was named.
    fn established(&mut self) -> Result<Advance, SecurityError> {
        let Some(tls) = &self.tls else { return Ok(Advance::Waits) };
        let Some(peer) = tls.peer() else { return Ok(Advance::Waits) };
        if self.named != Some(peer.hash) {
            return Err(SecurityError::OtherCertificate);
        }
        self.check_denied(&self.security, &peer.fingerprint)?;
        let exporter = Zeroizing::new(tls.exporter().map_err(SecurityError::Tls)?);
        self.session = Some(Session::new(self.role, exporter, self.own, peer.hash));
        self.step = Step::Proof;
        Ok(Advance::Established)
    }

    /// Whether the key that TLS has proved is not denied.
    fn check_denied(&self, security: &NetSecurity, key: &Fingerprint) -> Result<(), SecurityError> {
        let checked = security.check_denied(key);
        match self.kind {
            Kind::RawKey => checked,
            Kind::Certificate => checked.map_err(|_| SecurityError::DeniedCertificate(*key)),
        }
    }

    /// Returns this end's proof, if it is due.
    pub(super) fn prove(&mut self, introduction: &Introduction) -> Option<Proof> {
        let (session, opening) = (self.session.as_ref()?, self.opening.as_ref()?);
        let keys = self.security.node.keyring.by_id(opening.key())?;
        let session_signature = match self.kind {
            Kind::RawKey => NO_SIGNATURE,
            Kind::Certificate => session.sign(&self.security.node.identity).0,
        };
        let proof = Proof {
            mac: session.prove(keys),
            key_id: keys.id().0,
            identity: introduction.identity,
            public_key: introduction.key.0,
            flags: introduction.flags.0,
            signature: introduction.signature.0,
            session_signature,
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
        self.check_own_key(session, &introduction.key, &proof.session_signature)?;
        if introduction.verify(self.security.cluster).is_err() {
            return Err(SecurityError::WrongIntroduction);
        }
        let proved = Proved {
            fingerprint: introduction.key.fingerprint(),
            keeps_key: introduction.flags.has(IntroductionFlags::KEEPS_ITS_KEY),
            key,
            has_certificate: self.has_certificate(),
        };
        self.proved = Some((introduction.identity, proved));
        self.step = Step::Done;
        if self.role == Role::Opener {
            self.end_session();
        }
        Ok(())
    }

    /// Checks that the node at the other end has the key with which it introduces itself: TLS has
    /// proved this key, or it has signed this session.
    fn check_own_key(
        &self,
        session: &Session,
        key: &PublicKey,
        signature: &[u8; 64],
    ) -> Result<(), SecurityError> {
        match self.kind {
            Kind::Certificate => session
                .check_signature(key, &Signature(*signature))
                .map_err(|_| SecurityError::NotItsSession),
            Kind::RawKey if *signature != NO_SIGNATURE => Err(SecurityError::NeedlessSignature),
            Kind::RawKey => match self.tls.as_ref().and_then(|tls| tls.peer()?.raw_key) {
                Some(proved) if proved == key.0 => Ok(()),
                _ => Err(SecurityError::WrongIntroduction),
            },
        }
    }

    /// Whether a HELLO or WELCOME in this name is by the node that has proved itself, and may have
    /// this name.
    pub(super) fn check_greeting(
        &mut self,
        identity: &Identity,
        node_id: &str,
    ) -> Result<Proved, SecurityError> {
        let proved = match &self.proved {
            None => return Err(SecurityError::NoProof),
            Some((proved, _)) if *proved != identity.life() => {
                return Err(SecurityError::OtherNode(*proved));
            }
            Some((_, proved)) => *proved,
        };
        if self.has_certificate() {
            self.node_id = Some(node_id.into());
        }
        self.check_names(&self.security)?;
        Ok(proved)
    }

    /// Checks that the certificate of the other end is one for the node id by which it has greeted,
    /// if it has a certificate.
    fn check_names(&self, security: &NetSecurity) -> Result<(), SecurityError> {
        let Some(node_id) = &self.node_id else { return Ok(()) };
        let certificate = self.tls.as_ref().and_then(|tls| tls.certificate());
        security.kinds.check_names(certificate.unwrap_or_default(), node_id)
    }

    /// Checks by another security than this connection began with what TLS and the names were
    /// checked by.
    fn judge_again(&self, security: &NetSecurity) -> Result<(), SecurityError> {
        let settings = security.kinds.of(self.kind)?;
        let Some(tls) = &self.tls else { return Err(SecurityError::NoProof) };
        if let Some(peer) = tls.peer() {
            self.check_denied(security, &peer.fingerprint)?;
        }
        tls.check_again(settings).map_err(SecurityError::Tls)?;
        self.check_names(security)
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
