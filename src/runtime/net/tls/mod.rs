//! TLS 1.3 on a connection. Only the files of this folder name rustls.
//!
//! Both ends prove an Ed25519 key (a raw public key, RFC 7250), or both present certificates. Which
//! node the other end is, TLS does not say: PROOF and HELLO do, which come first inside.
//!
//! ```text
//! socket ─read─▶ scratch ─feed─▶ rustls, one record at a time ─unpack─▶ FrameBuffer, aligned
//! socket ◀write─ rustls, 64 KiB of records at most ◀─────seal────────── Queue of frames
//! ```
//!
//! | state | received | sent |
//! |---|---|---|
//! | handshaking | [`MAX_TLS_HANDSHAKE_BYTES`] (certificates: 64 KiB), no frames | the handshake |
//! | established | frames | frames, in records of [`RECORD_BYTES`] |
//! | [closed](Tls::close) by this end | forgotten | what is sealed, and close_notify |
//! | [ended](Ending) | what came before the end | an alert, if rustls has one |
//!
//! **Invariants.** rustls holds either ciphertext of an unfinished record, or plaintext for which
//! the frame buffer has no room, and the socket is read only when it holds no such plaintext. So
//! [`Filled::Drained`] says that no byte is left anywhere. The frame buffer grows only where a
//! plain connection's would: when it is full before [`Tls::fill`] begins.
//!
//! **Memory.** A session holds 8 KiB when it idles, and 11 KiB while it is shaking hands with a
//! node. Until then a stranger makes it hold 24 KiB more. Later a peer makes it
//! hold an unfinished record, 28 KiB (44 while that buffer grows), and one that does not read 64
//! KiB of sealed ones. (`tests/memory.rs` measures these.) rustls bounds an unfinished handshake
//! message by 64 KiB, in a buffer of up to twice that; plaintext that waits for room is less than a
//! record, 16 KiB. The other end's certificates are kept: [`MAX_CHAIN_BYTES`] at most.
//!
//! [`MAX_CHAIN_BYTES`]: crate::security::certificates::MAX_CHAIN_BYTES
//!
//! **Rejected.** rustls' unbuffered API: it has no exporter. `complete_io` and `read_tls` on the
//! socket: the first blocks and has looped for ever (RUSTSEC-2024-0336), the second reads 4 KiB a
//! system call.

#![forbid(unsafe_code)]

mod chains;
mod error;
mod limits;
mod record;
mod settings;
#[cfg(test)]
mod tests;
mod verifier;

use std::fmt;
use std::io::{self, BufRead, IoSlice, Read, Write};
use std::mem;
use std::net::{IpAddr, Ipv4Addr};

use rustls::pki_types::ServerName;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConnection, Error, ServerConnection, Side};

pub(crate) use self::error::TlsError;
use self::limits::{
    MAX_CERTIFICATE_HANDSHAKE_BYTES, MAX_TLS_HANDSHAKE_BYTES, RECORD_BYTES, RECORD_OVERHEAD_BYTES,
};
use self::record::RecordCursor;
pub(crate) use self::settings::TlsSettings;
use self::settings::{ALPN, ed25519_key};
use super::queue::Queue;
use super::stream::Filled;
use crate::security::Fingerprint;
use crate::security::identity::CertificateHash;
use crate::security::opening::Kind;
use crate::security::proof::EXPORTER_LABEL;
use crate::wire::frame::FrameBuffer;

/// How many records are sealed before they are written: 64 KiB.
const RECORDS_AT_ONCE: usize = 16;

/// Slices of one record: as many as the smallest frames with a body that fill it.
const SLICES: usize = RECORD_BYTES / 32 + 1;

/// How a session ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// The peer said that it sends no more. All that it sent has arrived.
    Closed,
    /// The stream ended without that. What came before is whole records; more may be lost.
    CutOff,
    /// The socket failed.
    Broken(io::ErrorKind),
    /// What came is wrong, or the peer refused us.
    Failed(TlsError),
}

impl Ending {
    /// Returns the kind under which a connection ends.
    fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Closed | Self::CutOff => io::ErrorKind::UnexpectedEof,
            Self::Broken(kind) => *kind,
            Self::Failed(_) => io::ErrorKind::InvalidData,
        }
    }
}

/// What the peer has proved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TlsPeer {
    /// The hash of what it presented.
    pub(crate) hash: CertificateHash,
    /// The name of the key that it proved.
    pub(crate) fingerprint: Fingerprint,
    /// That key, if it is a raw one.
    pub(crate) raw_key: Option<[u8; 32]>,
}

/// The TLS session of one connection.
pub(crate) struct Tls {
    session: rustls::Connection,
    /// What both ends present.
    kind: Kind,
    /// What the peer proved: the handshake is done, and all that is required was agreed.
    peer: Option<TlsPeer>,
    /// How many bytes came before that.
    handshake_bytes: usize,
    /// About how many bytes are sealed and not written: rustls does not tell.
    sealed_bytes: usize,
    /// How far the record is that comes.
    record: RecordCursor,
    is_closed: bool,
    ending: Option<Ending>,
}

impl Tls {
    /// Begins a session as the opener. [`flush`](Self::flush) sends its first message.
    pub(crate) fn client(settings: &TlsSettings) -> Result<Box<Self>, TlsError> {
        // A name is asked for and goes nowhere: there is no SNI, and raw keys have no names.
        let no_name = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let session = ClientConnection::new(settings.client(), no_name);
        Self::begin(settings.kind(), session.map(Into::into))
    }

    /// Begins a session as the acceptor.
    pub(crate) fn server(settings: &TlsSettings) -> Result<Box<Self>, TlsError> {
        let session = ServerConnection::new(settings.server());
        Self::begin(settings.kind(), session.map(Into::into))
    }

    fn begin(
        kind: Kind,
        session: Result<rustls::Connection, Error>,
    ) -> Result<Box<Self>, TlsError> {
        let mut session = session.map_err(|error| TlsError::Setup(error.to_string()))?;
        // The loop of `flush` is the limit. rustls would take a part of a record.
        session.set_buffer_limit(None);
        Ok(Box::new(Self {
            session,
            kind,
            peer: None,
            handshake_bytes: 0,
            sealed_bytes: 0,
            record: RecordCursor::default(),
            is_closed: false,
            ending: None,
        }))
    }

    /// Whether the handshake goes on. No frame is sealed or given out until it is done.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.peer.is_none()
    }

    /// Whether any byte of the handshake has come.
    #[cfg(test)]
    pub(crate) fn has_begun(&self) -> bool {
        self.handshake_bytes > 0
    }

    /// Returns what the peer proved, once the handshake is done.
    ///
    /// An opener has it before the acceptor has judged what the opener itself presents.
    pub(crate) fn peer(&self) -> Option<TlsPeer> {
        self.peer
    }

    /// Returns the end-entity certificate that the peer has presented, in DER.
    pub(crate) fn certificate(&self) -> Option<&[u8]> {
        let presented = self.session.peer_certificates()?.first()?;
        (self.kind == Kind::Certificate).then_some(presented)
    }

    /// Checks the peer's certificates again, by settings that may be later ones, and by the time of
    /// now.
    pub(crate) fn check_again(&self, settings: &TlsSettings) -> Result<(), TlsError> {
        let side = match self.session {
            rustls::Connection::Client(_) => Side::Server,
            rustls::Connection::Server(_) => Side::Client,
        };
        settings.check_chain(side, self.session.peer_certificates().unwrap_or_default())
    }

    /// Returns 32 secret bytes that both ends of this session know, and no other host (RFC 8446,
    /// 7.5). They do not depend on the opener's key: who proves something with them adds both
    /// keys.
    pub(crate) fn exporter(&self) -> Result<[u8; 32], TlsError> {
        if self.is_handshaking() {
            return Err(TlsError::NotEstablished);
        }
        self.session.export_keying_material([0; 32], EXPORTER_LABEL, None).map_err(TlsError::from)
    }

    /// Whether a part of a record has come, and not the rest of it.
    pub(crate) fn is_in_record(&self) -> bool {
        self.record.is_inside()
    }

    /// Returns how the session ended, if it has. After [`Filled::Ended`] it is there.
    pub(crate) fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// Whether something waits for [`flush`](Self::flush) besides frames: a message of the
    /// handshake, an alert, records.
    pub(crate) fn wants_write(&self) -> bool {
        self.session.wants_write()
    }

    /// Returns about how many bytes are sealed and not written. Zero only if none are.
    pub(crate) fn waiting_bytes(&self) -> usize {
        if self.wants_write() { self.sealed_bytes.max(1) } else { 0 }
    }

    /// Reads until nothing is left, `frames` is full or `budget` bytes of the wire came. Returns
    /// how many came.
    ///
    /// `scratch` is overwritten; its length is the most that one system call reads. A handshake
    /// takes one step at most, then it stops: the caller flushes, counts, and comes back. If the
    /// session fails, the alert is written, as far as the stream takes it.
    pub(crate) fn fill<S: Read + Write>(
        &mut self,
        stream: &mut S,
        scratch: &mut [u8],
        frames: &mut FrameBuffer,
        budget: usize,
    ) -> (usize, Filled) {
        let mut room = Room { may_grow: !frames.has_space(), frames };
        let mut most = budget;
        let mut count = 0;
        loop {
            if !self.unpack(&mut room) {
                return (count, Filled::Stopped);
            }
            if let Some(ending) = &self.ending {
                return (count, Filled::Ended(ending.kind()));
            }
            if count >= most {
                return (count, Filled::Stopped);
            }
            let length = self.readable_bytes(&mut room).min(scratch.len()).min(most - count);
            if length == 0 {
                return (count, Filled::Stopped);
            }
            match stream.read(&mut scratch[..length]) {
                Ok(0) => self.ending = Some(Ending::CutOff),
                Ok(read) => {
                    count += read;
                    if self.is_handshaking() {
                        most = count;
                    }
                    self.feed(stream, &scratch[..read], &mut room);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return (count, Filled::Drained),
                    kind => self.ending = Some(Ending::Broken(kind)),
                },
            }
        }
    }

    /// Writes what is sealed, and seals and writes frames until none are queued or the stream
    /// takes no more. Returns how many bytes of the wire went out.
    pub(crate) fn flush<S: Write>(
        &mut self,
        stream: &mut S,
        queue: &mut Queue,
    ) -> io::Result<usize> {
        let mut count = 0;
        loop {
            while self.session.wants_write() {
                match self.session.write_tls(stream) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        count += written;
                        self.sealed_bytes = self.sealed_bytes.saturating_sub(written);
                    }
                    Err(error) => match error.kind() {
                        io::ErrorKind::Interrupted => {}
                        io::ErrorKind::WouldBlock => return Ok(count),
                        _ => return Err(error),
                    },
                }
            }
            self.sealed_bytes = 0;
            let has_failed = matches!(self.ending, Some(Ending::Failed(_)));
            if self.is_handshaking() || self.is_closed || has_failed || queue.is_empty() {
                return Ok(count);
            }
            self.seal(queue)?;
        }
    }

    /// Says that nothing more is sent: [`flush`](Self::flush) writes that behind what is sealed.
    ///
    /// Frames that are still queued are never sent. What comes from then on is read and forgotten.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
        self.session.send_close_notify();
    }

    /// Seals the next frames, 64 KiB at most. Frames stay frames until what was sealed before is
    /// written, so that the limits of the queue hold.
    fn seal(&mut self, queue: &mut Queue) -> io::Result<()> {
        for _ in 0..RECORDS_AT_ONCE {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = queue.slices(&mut slices, RECORD_BYTES);
            let sealed = self.session.writer().write_vectored(&slices[..used])?;
            if sealed == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            queue.taken(sealed);
            self.sealed_bytes += sealed + RECORD_OVERHEAD_BYTES;
            if queue.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Returns how many bytes may be read now. No more than there is room for: then what does not
    /// fit is less than a record, and rustls can hold it.
    fn readable_bytes(&self, room: &mut Room<'_>) -> usize {
        if self.is_closed {
            usize::MAX
        } else if self.is_handshaking() {
            self.max_handshake_bytes().saturating_sub(self.handshake_bytes)
        } else {
            room.space().len()
        }
    }

    /// Takes up what was read.
    fn feed<S: Write>(&mut self, stream: &mut S, mut bytes: &[u8], room: &mut Room<'_>) {
        if self.is_closed {
            // rustls must not see it: it has sent its last alert, and asserts that it sends no
            // other.
            return;
        }
        if self.is_handshaking() {
            self.handshake_bytes += bytes.len();
        }
        self.record.advance(bytes);
        while !bytes.is_empty() && self.ending.is_none() {
            match self.session.read_tls(&mut bytes) {
                // It takes no more after a close_notify. Without this, the loop would not end.
                Ok(0) => self.ending = Some(Ending::Closed),
                Ok(_) => self.process(stream),
                Err(error) => self.fail(TlsError::Malformed(error.to_string())),
            }
            self.unpack(room);
        }
        let is_handshaking = self.is_handshaking() && self.ending.is_none();
        if is_handshaking && self.handshake_bytes >= self.max_handshake_bytes() {
            self.fail(TlsError::TooManyBytes(self.handshake_bytes));
        }
    }

    fn max_handshake_bytes(&self) -> usize {
        match self.kind {
            Kind::RawKey => MAX_TLS_HANDSHAKE_BYTES,
            Kind::Certificate => MAX_CERTIFICATE_HANDSHAKE_BYTES,
        }
    }

    fn process<S: Write>(&mut self, stream: &mut S) {
        let result = self.session.process_new_packets().map_err(|error| self.named(error));
        let result = result.and_then(|state| {
            if self.peer.is_none() && !self.session.is_handshaking() {
                self.peer = Some(self.agreed_peer()?);
            }
            Ok(state)
        });
        match result {
            Ok(state) if state.peer_has_closed() => self.ending = Some(Ending::Closed),
            Ok(_) => {}
            Err(error) => {
                self.session.send_close_notify(); // nothing if rustls has queued an alert
                // Once, as far as it goes: the alert is a courtesy.
                let _ = self.session.write_tls(stream);
                self.fail(error);
            }
        }
    }

    /// Says in the words of what both ends present what is wrong.
    fn named(&self, error: Error) -> TlsError {
        match self.kind {
            Kind::RawKey => error.into(),
            Kind::Certificate => TlsError::of_certificates(error),
        }
    }

    /// Returns what the peer has proved, if all was agreed that is required. rustls lets ALPN be
    /// left out.
    fn agreed_peer(&self) -> Result<TlsPeer, TlsError> {
        if self.session.alpn_protocol() != Some(ALPN) {
            return Err(TlsError::NoAlpn);
        }
        let presented = self.session.peer_certificates().unwrap_or_default();
        match (self.kind, presented) {
            (Kind::RawKey, [spki]) => {
                let raw_key = ed25519_key(spki).ok_or(TlsError::NoRawKey("none"))?;
                Ok(TlsPeer {
                    hash: CertificateHash::of(spki),
                    fingerprint: Fingerprint::of_spki(spki),
                    raw_key: Some(raw_key),
                })
            }
            (Kind::RawKey, _) => Err(TlsError::NoRawKey("none")),
            (Kind::Certificate, [certificate, ..]) => {
                let parsed = ParsedCertificate::try_from(certificate);
                let parsed = parsed.map_err(|error| self.named(error))?;
                Ok(TlsPeer {
                    hash: CertificateHash::of(certificate),
                    fingerprint: Fingerprint::of_spki(&parsed.subject_public_key_info()),
                    raw_key: None,
                })
            }
            (Kind::Certificate, []) => Err(self.named(CertificateError::BadEncoding.into())),
        }
    }

    fn fail(&mut self, error: TlsError) {
        self.ending = Some(Ending::Failed(error));
    }

    /// Moves what is decrypted to the frames, one copy. Returns whether all of it had room.
    fn unpack(&mut self, room: &mut Room<'_>) -> bool {
        // Of a peer that has not agreed to all, nothing is taken.
        if self.is_handshaking() || self.is_closed {
            return true;
        }
        let mut reader = self.session.reader();
        loop {
            let bytes = match reader.fill_buf() {
                Ok(bytes) if !bytes.is_empty() => bytes,
                // The end, and its kind, is seen where records are processed.
                _ => return true,
            };
            let space = room.space();
            let count = bytes.len().min(space.len());
            if count == 0 {
                return false;
            }
            space[..count].copy_from_slice(&bytes[..count]);
            reader.consume(count);
            room.frames.received(count);
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("ending", &self.ending).finish_non_exhaustive()
    }
}

/// The frame buffer during one [`Tls::fill`].
struct Room<'a> {
    frames: &'a mut FrameBuffer,
    /// It was full before: it may grow once. Whether there is memory for that, the caller knows.
    may_grow: bool,
}

impl Room<'_> {
    /// Returns the room for the next bytes; empty if there is none.
    fn space(&mut self) -> &mut [u8] {
        if self.frames.has_space() || mem::take(&mut self.may_grow) {
            self.frames.space()
        } else {
            &mut []
        }
    }
}
