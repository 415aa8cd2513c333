//! What a membership datagram looks like, byte by byte.
//!
//! ```text
//! version u8 · partitions u16 · cluster hash u64 · wall time u64 · kind u8 · body
//! (integers little-endian, at most 1200 bytes)
//!
//! kind 0  SWIM   a foca packet: header, updates, claims
//! kind 1  ping   nonce u64 · the identity that is meant · the identity that asks
//! kind 2  pong   nonce u64 · the identity that answers
//! kind 3  "I suspect you", "you are dead to me"
//!                state u8 (1 or 2) · incarnation u16 · the identity that is meant · the accuser's
//! kind 4  "tell it that for me"  as kind 3
//!
//! identity       tag u8 (4 or 6) · ip · port u16 · boot u64 · returns u16 · node u64
//!                25 or 37 bytes
//! header         source · its incarnation u16 · destination · message
//! member         identity · incarnation u16 · state u8
//! message        tag u8 · (probe number u8) · (a third identity)
//! ```
//!
//! The wall time is the sender's, in microseconds since 1970, so that nodes see whose clock is off.
//! It is filled in when the datagram is sent ([`stamp`]); until then it is zero. A sealed datagram
//! looks different ([`envelope`](super::envelope)).
//!
//! Written by hand, not derived: the limit on a packet is the limit on how much gossip it carries,
//! and any host can send what arrives here. Every read is checked. Bytes that make no sense are a
//! typed error and leave no trace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut};
use foca::{Header, Member, Message};

use crate::clock::WallTime;
use crate::types::{Boot, ClusterHash, Identity, NodeHash, PARTITIONS};

/// The largest datagram that is sent or accepted: it fits into one unfragmented packet on every
/// path that IPv6 allows (1280 bytes), with room for tunnels.
pub(crate) const MAX_DATAGRAM_BYTES: usize = 1200;

/// What comes before the body.
pub(super) const ENVELOPE_BYTES: usize = WALL_AT + 8 + 1;

/// What every plain datagram of a cluster begins with: version, partitions and cluster hash.
pub(super) const HEAD_BYTES: usize = 1 + 2 + 8;

/// The offset of the sender's wall time.
const WALL_AT: usize = HEAD_BYTES;

/// By how much a sealed datagram is longer than a plain one.
pub(super) const SEALED_GROWS_BY: usize = 24;

/// The largest packet that foca can make, sealed or not: what a cluster gossips does not depend on
/// that.
pub(crate) const MAX_SWIM_BYTES: usize = MAX_DATAGRAM_BYTES - ENVELOPE_BYTES - SEALED_GROWS_BY;

/// The largest identity: one with an IPv6 address.
pub(crate) const MAX_IDENTITY_BYTES: usize = 1 + 16 + 2 + 8 + 2 + 8;

/// A header with three of the largest identities must leave most of the packet to gossip.
const _: () = assert!(3 * MAX_IDENTITY_BYTES + 4 < MAX_SWIM_BYTES / 2);

/// The first byte of every plain datagram. Another version is refused, never guessed at.
const VERSION: u8 = 3;

/// Sealed datagrams begin with a byte from here on.
pub(super) const SEALED_FROM: u8 = 0x80;

const KIND_SWIM: u8 = 0;
const KIND_PING: u8 = 1;
const KIND_PONG: u8 = 2;
const KIND_ACCUSATION: u8 = 3;
const KIND_PASS_ON: u8 = 4;

/// Why bytes are not what they should be. Nothing changed because of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("it ends too early")]
    Truncated,
    #[error("bytes follow its end")]
    Trailing,
    #[error("tag {0} has no meaning here")]
    UnknownTag(u8),
    #[error("no node is at the address {0}, or none started then")]
    Impossible(SocketAddr),
    /// There is no room to encode an item. foca then leaves it for the next packet.
    #[error("there is no room for it")]
    NoRoom,
}

/// Why a datagram was not, or not wholly, acted upon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DatagramError {
    /// Nothing changed.
    #[error("a datagram of {bytes} bytes is above the limit of {MAX_DATAGRAM_BYTES}")]
    TooLarge { bytes: usize },
    /// Nothing changed.
    #[error("a datagram of protocol version {0}; this node speaks version {VERSION}")]
    WrongVersion(u8),
    /// Nothing changed.
    #[error("a datagram of a node with {0} partitions; this one has {PARTITIONS}")]
    WrongPartitions(u16),
    /// Nothing changed.
    #[error("a datagram of another cluster")]
    WrongCluster,
    /// Nothing changed.
    #[cfg(feature = "security")]
    #[error("a plain datagram: this node has a cluster key, and the sender has none")]
    Plain,
    /// Nothing changed.
    #[error("a sealed datagram: the sender has a cluster key, and this node has none")]
    Sealed,
    /// Nothing changed.
    #[cfg(feature = "security")]
    #[error(transparent)]
    Seal(#[from] crate::security::seal::SealError),
    /// Nothing changed.
    #[error("a malformed datagram: {0}")]
    Malformed(#[from] WireError),
    /// Nothing changed, but for who is asked.
    #[error("a datagram that names {0}, which this node does not know")]
    Stranger(SocketAddr),
    /// Nothing changed, but for who is asked.
    #[error("a datagram in the name of {0} that comes from another address")]
    FromElsewhere(SocketAddr),
    /// Nothing changed.
    #[error("a datagram of the node at {0}, whose key is denied (Security::deny)")]
    Denied(SocketAddr),
    /// Two nodes advertise one address, or the network reflects what we send. Nothing changed.
    #[error("a datagram that names this node's own address as its sender")]
    FromOurselves,
    /// The header and the updates were sound and took effect; what came after them did not.
    #[error("a datagram that was acted upon in part: {0}")]
    Partial(String),
}

/// A datagram, its envelope checked.
#[derive(Debug, PartialEq)]
pub(crate) enum Datagram<'a> {
    Swim(&'a [u8]),
    Ping {
        nonce: u64,
        target: Identity,
        from: Identity,
    },
    Pong {
        nonce: u64,
        from: Identity,
    },
    Accusation(Accusation),
    /// The receiver is asked to send the accusation to its target.
    PassOn(Accusation),
}

/// What `from` says of `target`, to its face.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Accusation {
    pub(crate) charge: Charge,
    pub(crate) target: Identity,
    pub(crate) from: Identity,
}

/// What a member is taken for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Charge {
    /// For a suspect, in this incarnation.
    Suspect(u16),
    Dead,
}

impl<'a> Datagram<'a> {
    pub(crate) fn decode(cluster: ClusterHash, mut bytes: &'a [u8]) -> Result<Self, DatagramError> {
        if bytes.len() > MAX_DATAGRAM_BYTES {
            return Err(DatagramError::TooLarge { bytes: bytes.len() });
        }
        let version = take_u8(&mut bytes)?;
        if version != VERSION {
            return Err(DatagramError::WrongVersion(version));
        }
        let partitions = take_u16(&mut bytes)?;
        if partitions != PARTITIONS {
            return Err(DatagramError::WrongPartitions(partitions));
        }
        if take_u64(&mut bytes)? != cluster.0 {
            return Err(DatagramError::WrongCluster);
        }
        take_u64(&mut bytes)?;
        let datagram = match take_u8(&mut bytes)? {
            KIND_SWIM => return Ok(Self::Swim(bytes)),
            // Fields are evaluated in the order written, which is that of the bytes.
            KIND_PING => Self::Ping {
                nonce: take_u64(&mut bytes)?,
                target: take_identity(&mut bytes)?,
                from: take_identity(&mut bytes)?,
            },
            KIND_PONG => {
                Self::Pong { nonce: take_u64(&mut bytes)?, from: take_identity(&mut bytes)? }
            }
            KIND_ACCUSATION => Self::Accusation(take_accusation(&mut bytes)?),
            KIND_PASS_ON => Self::PassOn(take_accusation(&mut bytes)?),
            tag => return Err(WireError::UnknownTag(tag).into()),
        };
        end_of(bytes)?;
        Ok(datagram)
    }

    /// Returns which node it names as the one that says this. `None` if it makes no sense.
    pub(super) fn sender(&self) -> Option<Identity> {
        match self {
            Self::Swim(packet) => header_of(packet).map(|header| header.src),
            Self::Ping { from, .. } | Self::Pong { from, .. } => Some(*from),
            Self::Accusation(accusation) | Self::PassOn(accusation) => Some(accusation.from),
        }
    }

    pub(crate) fn encode(&self, cluster: ClusterHash) -> Vec<u8> {
        let body_bytes = match self {
            Self::Swim(packet) => packet.len(),
            Self::Ping { .. } => 8 + 2 * MAX_IDENTITY_BYTES,
            Self::Pong { .. } => 8 + MAX_IDENTITY_BYTES,
            Self::Accusation(_) | Self::PassOn(_) => 1 + 2 + 2 * MAX_IDENTITY_BYTES,
        };
        let mut bytes = Vec::with_capacity(ENVELOPE_BYTES + body_bytes);
        bytes.put_slice(&head(cluster));
        bytes.put_u64_le(0);
        match self {
            Self::Swim(packet) => {
                bytes.put_u8(KIND_SWIM);
                bytes.put_slice(packet);
            }
            Self::Ping { nonce, target, from } => {
                bytes.put_u8(KIND_PING);
                bytes.put_u64_le(*nonce);
                put_identity(&mut bytes, target);
                put_identity(&mut bytes, from);
            }
            Self::Pong { nonce, from } => {
                bytes.put_u8(KIND_PONG);
                bytes.put_u64_le(*nonce);
                put_identity(&mut bytes, from);
            }
            Self::Accusation(accusation) => {
                bytes.put_u8(KIND_ACCUSATION);
                put_accusation(&mut bytes, accusation);
            }
            Self::PassOn(accusation) => {
                bytes.put_u8(KIND_PASS_ON);
                put_accusation(&mut bytes, accusation);
            }
        }
        bytes
    }
}

/// Returns what every plain datagram of a cluster begins with.
pub(super) fn head(cluster: ClusterHash) -> [u8; HEAD_BYTES] {
    let mut bytes = [VERSION; HEAD_BYTES];
    bytes[1..3].copy_from_slice(&PARTITIONS.to_le_bytes());
    bytes[3..].copy_from_slice(&cluster.0.to_le_bytes());
    bytes
}

/// Fills in what the wall clock of the node shows that sends this datagram now.
pub(super) fn stamp(datagram: &mut [u8], wall: WallTime) {
    if let Some(field) = datagram.get_mut(WALL_AT..WALL_AT + 8) {
        field.copy_from_slice(&wall.micros().to_le_bytes());
    }
}

/// Returns the sender of a datagram, and what its wall clock showed then, if it was filled in.
pub(crate) fn sent_by(cluster: ClusterHash, datagram: &[u8]) -> Option<(Identity, WallTime)> {
    let decoded = Datagram::decode(cluster, datagram).ok()?;
    if matches!(decoded, Datagram::Accusation(_) | Datagram::PassOn(_)) {
        // Another node than the accuser might have sent it.
        return None;
    }
    let sender = decoded.sender()?;
    let micros = take_u64(&mut &datagram[WALL_AT..]).ok()?;
    (micros != 0).then_some((sender, WallTime::from_micros(micros)))
}

fn put_accusation(buf: &mut impl BufMut, accusation: &Accusation) {
    let Accusation { charge, target, from } = accusation;
    let (state, incarnation) = match charge {
        Charge::Suspect(incarnation) => (1, *incarnation),
        Charge::Dead => (2, 0),
    };
    buf.put_u8(state);
    buf.put_u16_le(incarnation);
    put_identity(buf, target);
    put_identity(buf, from);
}

fn take_accusation(buf: &mut impl Buf) -> Result<Accusation, WireError> {
    let state = take_u8(buf)?;
    let incarnation = take_u16(buf)?;
    let charge = match state {
        1 => Charge::Suspect(incarnation),
        2 => Charge::Dead,
        tag => return Err(WireError::UnknownTag(tag)),
    };
    Ok(Accusation { charge, target: take_identity(buf)?, from: take_identity(buf)? })
}

/// Returns the header of a SWIM packet.
pub(crate) fn header_of(packet: &[u8]) -> Option<Header<Identity>> {
    foca::Codec::decode_header(&mut Codec, packet).ok()
}

/// Returns the sender of a SWIM packet, and its message.
pub(crate) fn message_of(packet: &[u8]) -> Option<(Identity, Message<Identity>)> {
    header_of(packet).map(|header| (header.src, header.message))
}

/// Returns a SWIM packet with this header, without gossip.
pub(crate) fn packet_of(header: &Header<Identity>) -> Option<Vec<u8>> {
    let mut packet = Vec::new();
    foca::Codec::encode_header(&mut Codec, header, &mut packet).ok()?;
    Some(packet)
}

/// Returns a SWIM packet without some of its updates. `None` if none are left out, or if it makes
/// no sense, which foca finds out.
pub(super) fn without_updates(
    packet: &[u8],
    mut is_left_out: impl FnMut(&Member<Identity>) -> bool,
) -> Option<Vec<u8>> {
    let mut rest = packet;
    let header = foca::Codec::decode_header(&mut Codec, &mut rest).ok()?;
    if matches!(header.message, Message::Announce | Message::Broadcast) {
        return None;
    }
    let count_at = packet.len() - rest.len();
    // foca counts big-endian.
    let count = rest.try_get_u16().ok()?;
    let mut kept = Vec::new();
    let mut kept_count = 0u16;
    for _ in 0..count {
        let before = rest;
        let update = foca::Codec::decode_member(&mut Codec, &mut rest).ok()?;
        if !is_left_out(&update) {
            kept.extend_from_slice(&before[..before.len() - rest.len()]);
            kept_count += 1;
        }
    }
    if kept_count == count {
        return None;
    }
    let mut packet = packet[..count_at].to_vec();
    packet.put_u16(kept_count);
    packet.extend_from_slice(&kept);
    packet.extend_from_slice(rest);
    Some(packet)
}

/// What foca writes and reads with. It has no state.
#[derive(Debug)]
pub(crate) struct Codec;

impl foca::Codec<Identity> for Codec {
    type Error = WireError;

    fn encode_header(
        &mut self,
        header: &Header<Identity>,
        mut buf: impl BufMut,
    ) -> Result<(), WireError> {
        let third = message_identity(&header.message);
        let identities = [Some(&header.src), Some(&header.dst), third];
        let identity_bytes: usize = identities.into_iter().flatten().map(identity_bytes).sum();
        // The largest message: a tag, a probe number, and the identity counted above.
        if buf.remaining_mut() < identity_bytes + 2 + 2 {
            return Err(WireError::NoRoom);
        }
        put_identity(&mut buf, &header.src);
        buf.put_u16_le(header.src_incarnation);
        put_identity(&mut buf, &header.dst);
        put_message(&mut buf, &header.message);
        Ok(())
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Identity>, WireError> {
        Ok(Header {
            src: take_identity(&mut buf)?,
            src_incarnation: take_u16(&mut buf)?,
            dst: take_identity(&mut buf)?,
            message: take_message(&mut buf)?,
        })
    }

    fn encode_member(
        &mut self,
        member: &Member<Identity>,
        mut buf: impl BufMut,
    ) -> Result<(), WireError> {
        if buf.remaining_mut() < identity_bytes(member.id()) + 2 + 1 {
            return Err(WireError::NoRoom);
        }
        put_identity(&mut buf, member.id());
        buf.put_u16_le(member.incarnation());
        buf.put_u8(match member.state() {
            foca::State::Alive => 0,
            foca::State::Suspect => 1,
            foca::State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Identity>, WireError> {
        let identity = take_identity(&mut buf)?;
        let incarnation = take_u16(&mut buf)?;
        let state = match take_u8(&mut buf)? {
            0 => foca::State::Alive,
            1 => foca::State::Suspect,
            2 => foca::State::Down,
            tag => return Err(WireError::UnknownTag(tag)),
        };
        Ok(Member::new(identity, incarnation, state))
    }
}

/// The identity that a message names besides its sender and its receiver.
fn message_identity(message: &Message<Identity>) -> Option<&Identity> {
    match message {
        Message::PingReq { target: identity, .. }
        | Message::IndirectPing { origin: identity, .. }
        | Message::IndirectAck { target: identity, .. }
        | Message::ForwardedAck { origin: identity, .. } => Some(identity),
        _ => None,
    }
}

fn put_message(buf: &mut impl BufMut, message: &Message<Identity>) {
    let (tag, probe_number) = match message {
        Message::Ping(number) => (0, Some(number)),
        Message::Ack(number) => (1, Some(number)),
        Message::PingReq { probe_number, .. } => (2, Some(probe_number)),
        Message::IndirectPing { probe_number, .. } => (3, Some(probe_number)),
        Message::IndirectAck { probe_number, .. } => (4, Some(probe_number)),
        Message::ForwardedAck { probe_number, .. } => (5, Some(probe_number)),
        Message::Announce => (6, None),
        Message::Feed => (7, None),
        Message::Gossip => (8, None),
        Message::Broadcast => (9, None),
        Message::TurnUndead => (10, None),
    };
    buf.put_u8(tag);
    if let Some(number) = probe_number {
        buf.put_u8(*number);
    }
    if let Some(identity) = message_identity(message) {
        put_identity(buf, identity);
    }
}

fn take_message(buf: &mut impl Buf) -> Result<Message<Identity>, WireError> {
    // The probe number comes before the identity, and fields are evaluated in the order written.
    Ok(match take_u8(buf)? {
        0 => Message::Ping(take_u8(buf)?),
        1 => Message::Ack(take_u8(buf)?),
        2 => Message::PingReq { probe_number: take_u8(buf)?, target: take_identity(buf)? },
        3 => Message::IndirectPing { probe_number: take_u8(buf)?, origin: take_identity(buf)? },
        4 => Message::IndirectAck { probe_number: take_u8(buf)?, target: take_identity(buf)? },
        5 => Message::ForwardedAck { probe_number: take_u8(buf)?, origin: take_identity(buf)? },
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        9 => Message::Broadcast,
        10 => Message::TurnUndead,
        tag => return Err(WireError::UnknownTag(tag)),
    })
}

fn identity_bytes(identity: &Identity) -> usize {
    if identity.addr.is_ipv4() { MAX_IDENTITY_BYTES - 12 } else { MAX_IDENTITY_BYTES }
}

/// Writes at most [`MAX_IDENTITY_BYTES`]; the caller has made sure that there is room.
pub(crate) fn put_identity(buf: &mut impl BufMut, identity: &Identity) {
    match identity.addr.ip() {
        IpAddr::V4(ip) => {
            buf.put_u8(4);
            buf.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            buf.put_u8(6);
            buf.put_slice(&ip.octets());
        }
    }
    buf.put_u16_le(identity.addr.port());
    buf.put_u64_le(identity.boot.0);
    buf.put_u16_le(identity.returns);
    buf.put_u64_le(identity.node.0);
}

/// Refuses an identity that no node [can have](Identity::is_possible).
pub(crate) fn take_identity(buf: &mut impl Buf) -> Result<Identity, WireError> {
    let ip = match take_u8(buf)? {
        4 => IpAddr::V4(Ipv4Addr::from(take_array::<4>(buf)?)),
        6 => IpAddr::V6(Ipv6Addr::from(take_array::<16>(buf)?)),
        tag => return Err(WireError::UnknownTag(tag)),
    };
    let addr = SocketAddr::new(ip, take_u16(buf)?);
    let boot = Boot(take_u64(buf)?);
    let returns = take_u16(buf)?;
    let node = NodeHash(take_u64(buf)?);
    let identity = Identity { node, boot, returns, addr };
    if identity.is_possible() { Ok(identity) } else { Err(WireError::Impossible(addr)) }
}

pub(crate) fn take_u8(buf: &mut impl Buf) -> Result<u8, WireError> {
    buf.try_get_u8().map_err(|_| WireError::Truncated)
}

fn take_u16(buf: &mut impl Buf) -> Result<u16, WireError> {
    buf.try_get_u16_le().map_err(|_| WireError::Truncated)
}

fn take_u64(buf: &mut impl Buf) -> Result<u64, WireError> {
    buf.try_get_u64_le().map_err(|_| WireError::Truncated)
}

pub(super) fn take_array<const N: usize>(buf: &mut impl Buf) -> Result<[u8; N], WireError> {
    let mut array = [0; N];
    buf.try_copy_to_slice(&mut array).map_err(|_| WireError::Truncated)?;
    Ok(array)
}

pub(crate) fn end_of(bytes: &[u8]) -> Result<(), WireError> {
    if bytes.is_empty() { Ok(()) } else { Err(WireError::Trailing) }
}
