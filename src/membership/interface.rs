//! What goes into a membership and what comes out: its settings, what is known of a member, and
//! what the caller must do.

use std::net::SocketAddr;
use std::time::Duration;

use crate::types::{ClusterHash, Identity};

/// What a membership is made from. The durations are above zero.
#[derive(Debug, Clone)]
pub(crate) struct MembershipConfig {
    pub(crate) cluster: ClusterHash,
    pub(crate) identity: Identity,
    pub(crate) probe_period: Duration,
    pub(crate) suspicion_timeout: Duration,
    /// Whether this node takes longer to accuse others when it is in trouble itself.
    pub(crate) local_health: bool,
    /// Whether this node takes part from the start. If not, it begins with
    /// [`enter`](super::Membership::enter).
    pub(crate) is_member: bool,
    /// The source of all chance: equal seeds and equal inputs give equal actions.
    pub(crate) seed: u64,
}

/// What the caller must do, in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum MembershipAction {
    Send {
        to: SocketAddr,
        datagram: Vec<u8>,
    },
    /// Send an answer to where the question came from; the asker's own address may be another one.
    Answer {
        to: SocketAddr,
        asker: SocketAddr,
        datagram: Vec<u8>,
    },
    Changed(Change),
    /// Open a connection to that node, unless one is being opened, and ask who it is. If it says
    /// this, [`meet`](super::Membership::meet) it.
    Meet(Identity),
    /// Members were left out, as there were too many, or too many at a time: this many so far. It
    /// is said rarely.
    LeftOut(u64),
}

/// The state of a member, as others see it; see the diagram in [the module](super).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Alive,
    /// It missed a probe. It counts as alive until it has had time to refute that.
    Suspect,
    Dead,
    /// It handed its data over and went: unlike a dead one, it is not waited for.
    Left,
}

impl State {
    /// Whether the member takes part.
    pub(crate) fn is_active(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// What one node tells another about a member, in the list that a joiner fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) identity: Identity,
    pub(crate) state: State,
    /// Whether it announced that it is leaving (or has left).
    pub(crate) leaving: bool,
}

/// What became known about a member. Every change of a state is reported once, in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    Up(Identity),
    Suspected(Identity),
    /// It was suspected and answered.
    Refuted(Identity),
    /// A member died, or is first heard of when it is already dead.
    Down(Identity),
    /// A later life of a member was seen at its address: the old one is dead, in any state. The
    /// state of the new one follows, as for a new member. (A later life at *another* address
    /// replaces nothing: both are members until one is declared dead, which is for the caller to
    /// find out.)
    Replaced {
        old: Identity,
        new: Identity,
    },
    Leaving(Identity),
    /// A member left. This also follows a `Down`, if the member was found dead before its last word
    /// arrived.
    Left(Identity),
    /// *We* were declared dead and live, or count as later than we thought: this is our identity
    /// from now on.
    Returned(Identity),
    /// A member answered our own ping.
    Probed(Identity),
}
