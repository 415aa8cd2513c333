//! What the control thread tells [`Control`](super::Control), and what it is asked to do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Instant;
use crate::discovery::FoundAddresses;
use crate::error::Risk;
use crate::events::{Event, MemberInfo};
use crate::placement::Placement;
use crate::security::Proved;
#[cfg(feature = "security")]
use crate::security::{Fingerprint, known::KnownKeys};
use crate::shard::{Debt, Shortage, Stage};
use crate::types::{Boot, ClusterHash, Identity, NodeHash, Retention};
use crate::wire::handshake::Local;
use crate::wire::message::{ControlMessage, Hello, Refusal};

pub(super) type Actions = Vec<ControlAction>;

/// What a node's control is made of.
#[derive(Clone, Debug)]
pub(crate) struct ControlConfig {
    pub(crate) cluster: ClusterHash,
    pub(crate) identity: Identity,
    pub(crate) local: Local,
    /// The number of nodes of which a majority must be there at the birth; zero if W are enough.
    pub(crate) expect: u16,
    pub(crate) seeds: Vec<SocketAddr>,
    /// Whether nodes are also found by a lookup: [`ControlAction::Discover`].
    pub(crate) discovers: bool,
    pub(crate) probe_period: Duration,
    /// How long members that died may come back with what they hold.
    pub(crate) retention: Retention,
    pub(crate) suspicion_timeout: Duration,
    pub(crate) local_health: bool,
    /// Seeds the choices of whom to probe and gossip to.
    pub(crate) seed: u64,
}

/// Where a link goes: to a seed, known by its address alone, or to a certain life of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Link {
    pub(crate) addr: SocketAddr,
    pub(crate) expects: Option<(NodeHash, Boot)>,
}

impl Link {
    /// The link to this life of a node.
    pub(super) fn to(identity: &Identity) -> Self {
        Self { addr: identity.addr, expects: Some((identity.node, identity.boot)) }
    }
}

/// Why a link ended, or did not come about.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LinkEnd {
    /// No process listens there.
    ConnectRefused,
    Unreachable,
    Refused(Refusal),
    Ended,
    /// It was not tried, as too many connections are being opened.
    PutOff,
}

/// What [`Control`](super::Control) is told, besides datagrams.
#[derive(Debug)]
pub(crate) enum ControlEvent {
    /// A link that this node opened was welcomed.
    LinkUp {
        link: Link,
        welcome: Hello,
        /// What its other end has proved, if the link is secured.
        proved: Option<Proved>,
    },
    LinkDown {
        link: Link,
        end: LinkEnd,
    },
    /// The other end of a link that this node was opening has proved a key that is denied.
    #[cfg(feature = "security")]
    DeniedKey {
        link: Link,
        key: Fingerprint,
    },
    /// An answer came over a link.
    Answer {
        link: Link,
        message: ControlMessage,
    },
    /// The first frame of an accepted connection came.
    Greeted {
        via: u64,
        hello: Hello,
        /// What its other end has proved, if the connection is secured.
        proved: Option<Proved>,
    },
    /// A request came over an accepted connection.
    Request {
        via: u64,
        /// Who said HELLO over it.
        peer: Identity,
        request_id: u64,
        message: ControlMessage,
    },
    /// How many partitions a core has yet to fetch and to give away, under the placement of this
    /// generation, and what it has no room for.
    Progress {
        core: usize,
        generation: u64,
        pending: usize,
        giving: usize,
        shortage: Shortage,
    },
    /// Acknowledged writes of this number of a core's partitions might be lost.
    DataAtRisk {
        partitions: usize,
    },
    /// What a core owes, in answer to the question of this number.
    CoreOwes {
        core: usize,
        question: u64,
        debt: Debt,
    },
    /// An app waits until no copy is missing anywhere: then [`ControlAction::Safe`] with this
    /// ticket, or a later one.
    WatchSafety {
        ticket: u64,
        until: Instant,
    },
    /// The result of [`ControlAction::Discover`].
    Found(FoundAddresses),
    /// A node may come back with another key of its own.
    #[cfg(feature = "security")]
    ForgetIdentity {
        node: NodeHash,
    },
    /// Hand everything over, then [`ControlAction::Left`].
    Leave,
    /// The node stops without handing over: tell the others not to wait.
    Stop,
}

/// What [`Control`](super::Control) asks the control thread to do.
#[derive(Debug)]
pub(crate) enum ControlAction {
    /// [Close](super::Control::close_datagram) the datagram and send it.
    Datagram {
        to: SocketAddr,
        /// The address that the receiver advertises.
        receiver: SocketAddr,
        bytes: Vec<u8>,
    },
    /// Look up where nodes may be, and answer with [`ControlEvent::Found`].
    Discover,
    Open(Link),
    Close(Link),
    Ask {
        link: Link,
        message: ControlMessage,
    },
    /// Accept the connection; if it is for a core, hand it over.
    Welcome {
        via: u64,
        welcome: Hello,
        peer: Identity,
    },
    Refuse {
        via: u64,
        refusal: Refusal,
    },
    Answer {
        via: u64,
        request_id: u64,
        message: ControlMessage,
    },
    /// Tell every core.
    Publish {
        placement: Arc<Placement>,
        stage: Stage,
    },
    /// Tell every thread which keys lives of nodes have, before it dials one of them.
    #[cfg(feature = "security")]
    Keys(Arc<KnownKeys>),
    /// Tell every link that this node's identity has changed, and every core if it counts as
    /// another life.
    Returned {
        identity: Identity,
        is_same_life: bool,
    },
    /// Tell the app.
    Notify(Event),
    Members(Vec<MemberInfo>),
    Readiness(Readiness),
    /// Ask every core what it owes.
    AskDebt {
        question: u64,
    },
    /// No copy is missing anywhere.
    Safe {
        ticket: u64,
    },
    /// Why it is not safe, for a caller whose time is up.
    Risks(Vec<Risk>),
    /// Everything was handed over: let no new calls in.
    Drain,
    /// The last calls have ended, and the others know that this node is gone.
    Left,
}

/// Whether calls can be expected to succeed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Readiness {
    pub(crate) members: usize,
    /// Whether there are lists.
    pub(crate) is_serving: bool,
    /// How many members a birth takes; zero once there are lists.
    pub(crate) needed_at_birth: usize,
    /// What may be wrong, if anything is.
    pub(crate) hint: Option<String>,
}
