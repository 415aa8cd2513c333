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
//! | this node's security | seals | opens |
//! |---|---|---|
//! | none | nothing | plain ones |
//! | required | all | sealed ones |
//! | optional | to nodes that open sealed ones | both |
//!
//! Which nodes open sealed ones is shown by them ([`openers`](super::openers)). **While security is
//! optional** any host can send plain datagrams in the name of a member: it keeps no host out.

use std::net::SocketAddr;
#[cfg(feature = "security")]
use std::sync::Arc;

use super::codec::{self, DatagramError, MAX_DATAGRAM_BYTES, SEALED_FROM};
use super::sealed::Sealed;
use crate::clock::{Instant, WallTime};
use crate::security::senders::SenderId;
#[cfg(feature = "security")]
use crate::security::{NodeSecurity, Sealing};
use crate::types::{ClusterHash, Identity};

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
    /// Plain ones at a node that requires security, or sealed ones at a node that has none.
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

impl EnvelopeCounters {
    fn of(&mut self, error: &DatagramError) -> &mut u64 {
        #[cfg(feature = "security")]
        use crate::security::seal::SealError;
        match error {
            DatagramError::Sealed => &mut self.wrong_kind,
            #[cfg(feature = "security")]
            DatagramError::Plain => &mut self.wrong_kind,
            #[cfg(feature = "security")]
            DatagramError::Seal(error) => match error {
                SealError::NoSuchKey(_) => &mut self.wrong_key,
                SealError::Forged => &mut self.forged,
                SealError::Replayed => &mut self.replayed,
                SealError::TooShort | SealError::NotSealed(_) => &mut self.malformed,
            },
            _ => &mut self.malformed,
        }
    }
}

/// Closes what a node sends, and opens what it is sent.
#[derive(Debug)]
pub(crate) struct Envelope {
    cluster: ClusterHash,
    counters: EnvelopeCounters,
    sealed: Option<Sealed>,
}

/// What was opened.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    /// The plain datagram.
    pub(crate) datagram: &'a [u8],
    /// Which start of a node has sealed it, if it was sealed.
    pub(crate) sender: Option<SenderId>,
}

impl Envelope {
    /// One of a node without security.
    pub(crate) fn plain(cluster: ClusterHash) -> Self {
        Self { cluster, counters: EnvelopeCounters::default(), sealed: None }
    }

    /// One of a node with security.
    #[cfg(feature = "security")]
    pub(crate) fn sealed(cluster: ClusterHash, sealing: Sealing) -> Self {
        Self { sealed: Some(Sealed::new(sealing)), ..Self::plain(cluster) }
    }

    /// Goes by this from now on. What was sealed with a key that it does not have is not opened any
    /// more. Does nothing if this node has no security.
    #[cfg(feature = "security")]
    pub(crate) fn use_security(&mut self, security: Arc<NodeSecurity>) {
        if let Some(sealed) = &mut self.sealed {
            sealed.use_security(security);
        }
    }

    /// Whether this node has security, and speaks with nodes that have none, too.
    pub(crate) fn is_optional(&self) -> bool {
        self.sealed.as_ref().is_some_and(Sealed::is_optional)
    }

    /// Notes what a life of a node has shown: that it has security, or that it has none.
    pub(crate) fn has_shown(&mut self, now: Instant, life: &Identity, has_security: bool) {
        if let Some(sealed) = &mut self.sealed {
            sealed.has_shown(now, life, has_security);
        }
    }

    /// Whether the node that advertises this address has shown that it has security.
    pub(crate) fn has_shown_security(&self, node: SocketAddr) -> bool {
        self.sealed.as_ref().is_some_and(|sealed| sealed.has_shown_security(node))
    }

    /// Returns a datagram as it is sent to the node that advertises this address: with what the
    /// wall clock shows, and sealed if that node is to open it so. `None` if this node has sealed
    /// as many as one start of a node may: nine years of a million a second.
    pub(crate) fn close(
        &mut self,
        receiver: SocketAddr,
        mut datagram: Vec<u8>,
        wall: WallTime,
    ) -> Option<Vec<u8>> {
        codec::stamp(&mut datagram, wall);
        match &mut self.sealed {
            Some(sealed) if sealed.seals_to(receiver) => {
                sealed.close(self.cluster, receiver, &datagram)
            }
            _ => Some(datagram),
        }
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
        let counter = match &opened {
            Ok(_) => &mut self.counters.opened,
            Err(error) => self.counters.of(error),
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
        match &mut self.sealed {
            Some(sealed) if is_sealed => {
                let (datagram, sender) = sealed.open(self.cluster, now, own, bytes)?;
                Ok(Opened { datagram, sender: Some(sender) })
            }
            #[cfg(feature = "security")]
            Some(sealed) if !sealed.is_optional() => Err(DatagramError::Plain),
            None if is_sealed => Err(DatagramError::Sealed),
            _ => Ok(Opened { datagram: bytes, sender: None }),
        }
    }

    /// A datagram of this sender named a life of its own that is a member.
    pub(crate) fn confirm(&mut self, sender: &SenderId) {
        if let Some(sealed) = &mut self.sealed {
            sealed.confirm(sender);
        }
    }
}
