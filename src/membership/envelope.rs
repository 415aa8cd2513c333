//! The envelope of a membership datagram: plain, or sealed with the cluster key.
//!
//! ```text
//! plain   version u8 · partitions u16 · cluster hash u64 · wall time u64 · kind u8 · body
//! sealed  suite u8 · key id u32 · salt u64 · counter u48 · what is sealed · tag [16]
//!         (sealed are wall time, kind and body)
//! ```
//!
//! What a plain datagram begins with is not sent in a sealed one. With the address that the
//! receiver advertises it is the context in which that opens: the seal is broken for a node of
//! another cluster, for one with another number of partitions, and for one to which it was not
//! sent.
//!
//! A node that was given a cluster key seals all that it sends, and opens nothing else. A node that
//! was given none opens no sealed datagram. Neither hears the other.

use super::codec::{self, DatagramError, MAX_DATAGRAM_BYTES, SEALED_FROM};
use std::net::SocketAddr;

use crate::clock::{Instant, WallTime};
use crate::types::ClusterHash;

#[cfg(feature = "security")]
pub(crate) use self::sealed::Sealing;
#[cfg(feature = "security")]
use crate::security::keys::Keyring;
#[cfg(feature = "security")]
use crate::security::seal::SealError;
#[cfg(feature = "security")]
use crate::security::senders::SenderId;

/// How many datagrams were opened, and how many were not, by why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
#[cfg_attr(
    not(feature = "security"),
    expect(unreachable_pub, reason = "public in the simulator alone")
)]
pub struct EnvelopeCounters {
    /// Plain ones, where none are sealed, or sealed ones with the right tag.
    pub opened: u64,
    /// Plain ones at a node that has a cluster key, or sealed ones at a node that has none.
    pub wrong_kind: u64,
    /// Sealed with a key that this node does not accept.
    pub wrong_key: u64,
    /// The seal is broken.
    pub forged: u64,
    /// Opened before, or too late to tell.
    pub replayed: u64,
    /// Too long or too short, or not of a known kind.
    pub malformed: u64,
}

/// Closes what a node sends, and opens what it is sent.
#[derive(Debug)]
pub(crate) struct Envelope {
    #[cfg(feature = "security")]
    cluster: ClusterHash,
    counters: EnvelopeCounters,
    #[cfg(feature = "security")]
    sealed: Option<sealed::Sealed>,
}

/// What was opened.
pub(crate) struct Opened<'a> {
    /// The plain datagram.
    pub(crate) datagram: &'a [u8],
    #[cfg(feature = "security")]
    pub(crate) sender: Option<SenderId>,
}

impl Envelope {
    /// One that seals nothing.
    pub(crate) fn plain(cluster: ClusterHash) -> Self {
        #[cfg(not(feature = "security"))]
        let _ = cluster;
        Self {
            #[cfg(feature = "security")]
            cluster,
            counters: EnvelopeCounters::default(),
            #[cfg(feature = "security")]
            sealed: None,
        }
    }

    #[cfg(feature = "security")]
    pub(crate) fn sealed(cluster: ClusterHash, sealing: Sealing) -> Self {
        let sealed = Some(sealed::Sealed::new(sealing));
        Self { cluster, counters: EnvelopeCounters::default(), sealed }
    }

    /// Uses these keys from now on. What was sealed with others is not opened any more. Does
    /// nothing if this node seals nothing.
    #[cfg(feature = "security")]
    pub(crate) fn use_keyring(&mut self, ring: Keyring) {
        if let Some(sealed) = &mut self.sealed {
            sealed.use_keyring(ring);
        }
    }

    /// Returns a datagram as it is sent to the node that advertises this address: with what the
    /// wall clock shows, and sealed if this node seals. `None` if it has sealed as many as one
    /// start of a node may: nine years of a million a second.
    pub(crate) fn close(
        &mut self,
        receiver: SocketAddr,
        mut datagram: Vec<u8>,
        wall: WallTime,
    ) -> Option<Vec<u8>> {
        codec::stamp(&mut datagram, wall);
        #[cfg(feature = "security")]
        if let Some(sealed) = &mut self.sealed {
            return sealed.close(self.cluster, receiver, &datagram);
        }
        let _ = receiver;
        Some(datagram)
    }

    /// Returns how many datagrams were opened, and how many were not.
    #[cfg(feature = "security")]
    pub(crate) fn counters(&self) -> EnvelopeCounters {
        self.counters
    }

    /// Opens what arrived, in place, at a node that advertises the address `own`.
    pub(crate) fn open<'a>(
        &mut self,
        now: Instant,
        own: SocketAddr,
        bytes: &'a mut [u8],
    ) -> Result<Opened<'a>, DatagramError> {
        let opened = self.try_open(now, own, bytes);
        let counters = &mut self.counters;
        let counter = match &opened {
            Ok(_) => &mut counters.opened,
            Err(DatagramError::Sealed) => &mut counters.wrong_kind,
            #[cfg(feature = "security")]
            Err(DatagramError::Plain) => &mut counters.wrong_kind,
            #[cfg(feature = "security")]
            Err(DatagramError::Seal(SealError::NoSuchKey(_))) => &mut counters.wrong_key,
            #[cfg(feature = "security")]
            Err(DatagramError::Seal(SealError::Forged)) => &mut counters.forged,
            #[cfg(feature = "security")]
            Err(DatagramError::Seal(SealError::Replayed)) => &mut counters.replayed,
            Err(_) => &mut counters.malformed,
        };
        *counter += 1;
        opened
    }

    fn try_open<'a>(
        &mut self,
        now: Instant,
        own: SocketAddr,
        bytes: &'a mut [u8],
    ) -> Result<Opened<'a>, DatagramError> {
        if bytes.len() > MAX_DATAGRAM_BYTES {
            return Err(DatagramError::TooLarge { bytes: bytes.len() });
        }
        let is_sealed = bytes.first().is_some_and(|first| *first >= SEALED_FROM);
        #[cfg(feature = "security")]
        if let Some(sealed) = &mut self.sealed {
            if !is_sealed {
                return Err(DatagramError::Plain);
            }
            return sealed.open(self.cluster, now, own, bytes);
        }
        let _ = (now, own);
        if is_sealed {
            return Err(DatagramError::Sealed);
        }
        Ok(Opened {
            datagram: bytes,
            #[cfg(feature = "security")]
            sender: None,
        })
    }

    /// A datagram of this sender named a life of its own that is a member.
    #[cfg(feature = "security")]
    pub(crate) fn confirm(&mut self, sender: &SenderId) {
        if let Some(sealed) = &mut self.sealed {
            sealed.confirm(sender);
        }
    }
}

#[cfg(feature = "security")]
mod sealed {
    use std::net::{IpAddr, SocketAddr};

    use super::Opened;
    use crate::clock::Instant;
    use crate::membership::codec::{self, DatagramError, HEAD_BYTES, SEALED_GROWS_BY};
    use crate::security::keys::Keyring;
    use crate::security::seal::{Opener, SEALED_HEADER_BYTES, SEALED_OVERHEAD_BYTES, Sealer};
    use crate::security::senders::SenderId;
    use crate::security::suite::{Salt, Suite};
    use crate::types::ClusterHash;

    const _: () = assert!(SEALED_OVERHEAD_BYTES - HEAD_BYTES == SEALED_GROWS_BY);

    /// What both sides know and no sealed datagram carries.
    fn context(cluster: ClusterHash, receiver: SocketAddr) -> [u8; HEAD_BYTES + 18] {
        let mut bytes = [0; HEAD_BYTES + 18];
        let (head, address) = bytes.split_at_mut(HEAD_BYTES);
        head.copy_from_slice(&codec::head(cluster));
        let ip = match receiver.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        address[..16].copy_from_slice(&ip.octets());
        address[16..].copy_from_slice(&receiver.port().to_le_bytes());
        bytes
    }

    /// What a node seals its datagrams with. The salt is drawn for this one start of it.
    #[derive(Debug)]
    pub(crate) struct Sealing {
        pub(crate) ring: Keyring,
        pub(crate) suite: Suite,
        pub(crate) salt: Salt,
    }

    #[derive(Debug)]
    pub(super) struct Sealed {
        ring: Keyring,
        sealer: Sealer,
        opener: Opener,
    }

    impl Sealed {
        pub(super) fn new(sealing: Sealing) -> Self {
            let Sealing { ring, suite, salt } = sealing;
            Self { sealer: Sealer::new(&ring, suite, salt), ring, opener: Opener::default() }
        }

        pub(super) fn use_keyring(&mut self, ring: Keyring) {
            self.sealer.use_keyring(&ring);
            self.opener.retain_keys(&ring);
            self.ring = ring;
        }

        pub(super) fn close(
            &mut self,
            cluster: ClusterHash,
            receiver: SocketAddr,
            datagram: &[u8],
        ) -> Option<Vec<u8>> {
            let plain = datagram.get(HEAD_BYTES..)?;
            let mut out = Vec::new();
            self.sealer.seal(plain, &context(cluster, receiver), &mut out).ok()?;
            Some(out)
        }

        pub(super) fn open<'a>(
            &mut self,
            cluster: ClusterHash,
            now: Instant,
            own: SocketAddr,
            bytes: &'a mut [u8],
        ) -> Result<Opened<'a>, DatagramError> {
            let opened = self.opener.open(&self.ring, now, &context(cluster, own), bytes)?;
            let (sender, end) = (opened.sender, SEALED_HEADER_BYTES + opened.plain.len());
            // The head of the plain datagram is put before what was sealed.
            let start = SEALED_HEADER_BYTES - HEAD_BYTES;
            bytes[start..SEALED_HEADER_BYTES].copy_from_slice(&codec::head(cluster));
            Ok(Opened { datagram: &bytes[start..end], sender: Some(sender) })
        }

        pub(super) fn confirm(&mut self, sender: &SenderId) {
            self.opener.confirm(sender);
        }
    }
}
