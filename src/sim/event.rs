//! What is scheduled in a simulated cluster, and the state of a connection.
//!
//! An event knows the life of the node, or the id of the connection, that it was meant for, so that
//! none reaches a later one.

use std::fmt;
use std::net::SocketAddr;

use super::CallId;
use crate::clock::Instant;
use crate::control::{ControlEvent, LinkEnd};
use crate::shard::{Call, Event as ShardEvent};
use crate::types::{Boot, CoreId, Identity, NodeHash};
use crate::wire::codec;
use crate::wire::frame::{Encoded, FrameBuffer};
use crate::wire::message::{Channel, Frame};

/// Names a connection: which node opened it, which of its threads, and to which thread of which
/// node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ConnectionKey {
    pub(super) opener: usize,
    pub(super) from: Channel,
    pub(super) addr: SocketAddr,
    pub(super) expects: Option<(NodeHash, Boot)>,
    pub(super) to: Channel,
}

pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) opener_life: u32,
    /// The acceptor and its life, once it was reached, and what the opener said of itself.
    pub(super) acceptor: Option<(usize, u32)>,
    pub(super) peer: Option<Identity>,
    pub(super) is_open: bool,
    /// Frames that wait for the connection to open.
    pub(super) waiting: Vec<Encoded>,
    pub(super) there: Direction,
    pub(super) back: Direction,
}

/// One direction of a connection.
pub(super) struct Direction {
    /// When the last frame arrives: the next one arrives no earlier.
    pub(super) last: Instant,
    /// The frames that wait until the way is free again, and since when the first one does.
    pub(super) stalled: Vec<Encoded>,
    pub(super) stalled_since: Instant,
}

impl Direction {
    pub(super) fn new(now: Instant) -> Self {
        Self { last: now, stalled: Vec::new(), stalled_since: now }
    }
}

/// Something that happens at a time: on the network, or on a thread of a node.
pub(super) enum SimEvent {
    /// A deadline of the node's machines is due.
    Wake { node: usize, life: u32, at: Instant },
    /// A datagram arrives.
    Datagram { to: SocketAddr, from: SocketAddr, bytes: Vec<u8> },
    /// The opener's HELLO arrives.
    Dial { key: ConnectionKey, id: u64 },
    /// The acceptor's verdict arrives.
    Welcomed { key: ConnectionKey, id: u64, bytes: Encoded },
    /// A frame arrives at the acceptor.
    ToAcceptor { key: ConnectionKey, id: u64, bytes: Encoded },
    /// A frame arrives at the opener.
    ToOpener { key: ConnectionKey, id: u64, bytes: Encoded },
    /// The opener learns that the connection ended.
    Broken { key: ConnectionKey, id: u64, end: LinkEnd },
    /// The way is free again for the frames that waited.
    Resumed { key: ConnectionKey, id: u64, is_there: bool },
    /// The frames that wait since then have waited for too long.
    GivenUp { key: ConnectionKey, id: u64, since: Instant },
    /// A message of the control thread to a core.
    Order { node: usize, life: u32, core: CoreId, event: Box<ShardEvent<CallId>> },
    /// An app's call reaches the core that owns its key.
    Call { node: usize, life: u32, core: CoreId, call: Box<Call>, id: CallId },
    /// A message of a core to the control thread.
    Report { node: usize, life: u32, event: ControlEvent },
}

impl SimEvent {
    /// Returns what the trace hash is made of: a kind, a number, and the bytes that are carried.
    ///
    /// The numbers of the kinds must not change: one seed is one hash.
    pub(super) fn fingerprint(&self) -> (u64, u64, &[u8]) {
        match self {
            Self::Wake { node, .. } => (0, *node as u64, &[]),
            Self::Datagram { bytes, .. } => (1, 0, bytes),
            Self::Dial { id, .. } => (2, *id, &[]),
            Self::Welcomed { id, bytes, .. } => (3, *id, bytes),
            Self::ToAcceptor { id, bytes, .. } => (4, *id, bytes),
            Self::ToOpener { id, bytes, .. } => (5, *id, bytes),
            Self::Broken { id, .. } => (6, *id, &[]),
            Self::Resumed { id, .. } => (7, *id, &[]),
            Self::GivenUp { id, .. } => (8, *id, &[]),
            Self::Order { node, core, .. } => (9, (*node as u64) << 16 | u64::from(core.0), &[]),
            Self::Report { node, .. } => (10, *node as u64, &[]),
            // 11 to 17 are the ends of calls.
            Self::Call { node, id, .. } => (18, (*node as u64) << 48 | id.0, &[]),
        }
    }
}

impl fmt::Debug for SimEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = |bytes: &[u8]| xxhash_rust::xxh3::xxh3_64(bytes) as u32;
        match self {
            Self::Wake { node, .. } => write!(f, "wake n{node}"),
            Self::Datagram { to, from, bytes } => {
                write!(f, "datagram {from}->{to} {:08x}", hash(bytes))
            }
            Self::Dial { key, id } => write!(f, "dial {key:?} #{id}"),
            Self::Welcomed { id, .. } => write!(f, "welcomed #{id}"),
            Self::ToAcceptor { id, bytes, .. } => write!(f, "frame #{id} ->  {}", describe(bytes)),
            Self::ToOpener { id, bytes, .. } => write!(f, "frame #{id} <-  {}", describe(bytes)),
            Self::Broken { id, end, .. } => write!(f, "broken #{id} {end:?}"),
            Self::Resumed { id, .. } => write!(f, "resumed #{id}"),
            Self::GivenUp { id, .. } => write!(f, "given up #{id}"),
            Self::Order { node, core, event, .. } => match &**event {
                ShardEvent::Placement { placement, stage } => {
                    write!(f, "order n{node}/{} {placement:?} {stage:?}", core.0)
                }
                ShardEvent::AskDebt { question } => {
                    write!(f, "order n{node}/{} owes? {question}", core.0)
                }
                _ => write!(f, "order n{node}/{}", core.0),
            },
            Self::Report { node, event, .. } => write!(f, "report n{node} {event:?}"),
            Self::Call { node, id, .. } => write!(f, "call n{node} {id:?} waits"),
        }
    }
}

fn describe(bytes: &[u8]) -> String {
    match decode(&mut FrameBuffer::new(), bytes) {
        Some(Frame { partition, request_id, message }) => {
            format!("p{} r{request_id} {message:?}", partition.index())
        }
        None => "undecodable".into(),
    }
}

/// Decodes a frame with the receive buffer and the decoding of the product.
pub(super) fn decode(buffer: &mut FrameBuffer, bytes: &[u8]) -> Option<Frame> {
    buffer.raise_limit();
    let mut rest = bytes;
    while !rest.is_empty() {
        let space = buffer.space();
        let count = space.len().min(rest.len());
        space[..count].copy_from_slice(&rest[..count]);
        buffer.received(count);
        rest = &rest[count..];
    }
    let (header, body) = buffer.next().ok()??;
    codec::decode(header, body).ok()
}
