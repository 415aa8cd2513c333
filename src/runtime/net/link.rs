//! A connection of a thread: its destination, how far it has come, and how it is lost.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use super::connection::Connection;
use crate::clock::Instant;
use crate::types::{Boot, NodeHash};
use crate::wire::frame::{Encoded, HEADER_BYTES, MAX_HANDSHAKE_BYTES};
use crate::wire::message::{Channel, Frame, Refusal};

/// How many bytes are read from one socket in one pass: four receive buffers, some 30 µs, so that
/// one busy peer does not make the others wait.
pub(super) const READ_BUDGET_BYTES: usize = 256 << 10;

/// How many bytes are read from a secured socket in one pass. A peer can send records of one byte,
/// which take 23 on the wire, and they cost many times as much as full ones.
const SECURED_READ_BUDGET_BYTES: usize = 64 << 10;

/// How many bytes are read in one pass before the handshake is done: its longest frame.
pub(super) const HANDSHAKE_BUDGET_BYTES: usize = HEADER_BYTES + MAX_HANDSHAKE_BYTES;

/// Where a connection is opened to: the key of an outgoing connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Destination {
    pub(crate) addr: SocketAddr,
    /// The node and its life, if they are known: an address may have passed to another node.
    pub(crate) expects: Option<(NodeHash, Boot)>,
    pub(crate) channel: Channel,
}

/// Names an accepted connection of a net. Never used again for another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ConnectionId(pub(super) u64);

impl ConnectionId {
    /// Returns the number by which pure code, which knows no connections, names it.
    pub(crate) fn number(self) -> u64 {
        self.0
    }

    /// Returns the connection of a [`number`](Self::number).
    pub(crate) fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// Why an outgoing connection was lost.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum LossCause {
    /// No process listens at that address: the node is gone.
    ConnectRefused,
    /// It did not get as far as a welcome: no route, no answer in time, or no sense in the answer.
    Unreachable(io::ErrorKind),
    /// One side does not want the other.
    Refused(Refusal),
    /// It was open, and ended: closed, reset, nonsense received, or too far behind.
    Ended,
    /// It was not tried, as this thread opens as many connections as it may at a time.
    PutOff,
}

/// A connection and how far it has come.
pub(super) struct NetLink {
    pub(super) connection: Connection,
    pub(super) stage: LinkStage,
    /// The time under which `timers` has it.
    pub(super) deadline: Option<Instant>,
    /// When its last byte was read.
    pub(super) heard_at: Instant,
    /// When it last took a byte, or an answer was queued for it where none was.
    pub(super) taken_at: Instant,
    /// Since when a frame comes for which its buffer had to grow beyond the usual size.
    pub(super) large_since: Option<Instant>,
    /// Requests that were read and not given out, as its answers pile up.
    pub(super) held_back: VecDeque<Frame>,
}

impl NetLink {
    /// Returns how many bytes of it are read in one pass.
    pub(super) fn read_budget_bytes(&self) -> usize {
        match &self.stage {
            LinkStage::Stranger | LinkStage::Greeted => HANDSHAKE_BUDGET_BYTES,
            LinkStage::Outgoing(outgoing) if outgoing.step.is_opening() => HANDSHAKE_BUDGET_BYTES,
            _ if self.connection.secured().is_some() => SECURED_READ_BUDGET_BYTES,
            _ => READ_BUDGET_BYTES,
        }
    }
}

pub(super) enum LinkStage {
    /// This node opened it.
    Outgoing(Outgoing),
    /// Accepted, and not heard yet.
    Stranger,
    /// Its HELLO is being judged. Nothing is read until the verdict.
    Greeted,
    /// Welcomed. Paused: its answers pile up, so its requests are not read.
    Serving { paused: bool },
    /// The refusal is on its way. Finished: it is written, and the other end may close.
    Refusing { finished: bool },
}

/// Writes what a link was, without what it carried, for the log.
impl fmt::Display for LinkStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outgoing(Outgoing { target, step, .. }) => {
                write!(f, "the connection to {:?} ({step:?})", target.channel)
            }
            Self::Stranger | Self::Greeted => f.write_str("a connection that had not shaken hands"),
            Self::Serving { .. } => f.write_str("an accepted connection"),
            Self::Refusing { .. } => f.write_str("a refused connection"),
        }
    }
}

pub(super) struct Outgoing {
    pub(super) target: Destination,
    pub(super) step: DialStep,
    /// Sent before the welcome, to be written after it.
    pub(super) waiting: Vec<Encoded>,
    pub(super) waiting_bytes: usize,
    /// Whether something that waits is a question that is answered.
    pub(super) waits_for_answer: bool,
    /// Since when something is asked over it and nothing at all has come.
    pub(super) silent_since: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DialStep {
    Dialling,
    /// The connection is being secured, and nothing of this node is said yet.
    #[cfg_attr(not(feature = "security"), expect(dead_code, reason = "none is"))]
    Securing,
    /// HELLO is sent.
    Greeting,
    Open,
    /// Writing failed; what can still be read is, since it may answer or explain.
    Broken,
}

impl DialStep {
    /// Whether it is not welcomed yet.
    pub(super) fn is_opening(self) -> bool {
        matches!(self, Self::Dialling | Self::Securing | Self::Greeting)
    }

    /// Where a failed write leaves the connection: before the welcome it only ever failed to open.
    pub(super) fn broken(self) -> Self {
        if self == Self::Open { Self::Broken } else { self }
    }

    /// What the end of a connection means that had come this far.
    pub(super) fn cause(self, kind: io::ErrorKind) -> LossCause {
        match self {
            Self::Dialling if kind == io::ErrorKind::ConnectionRefused => LossCause::ConnectRefused,
            Self::Dialling | Self::Securing | Self::Greeting => LossCause::Unreachable(kind),
            Self::Open | Self::Broken => LossCause::Ended,
        }
    }
}
