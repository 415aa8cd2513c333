//! The first messages of a connection: what each side proves, says of itself, and holds the other
//! side to.

use crate::options::OnPartition;
use crate::quorums::Count;
use crate::types::{Boot, CoreId, Identity, NodeHash};

/// What a side proves on a secured connection: that it has the cluster key, and which node it is.
/// The room `security` has what these bytes mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Proof {
    /// Proves the cluster key of this id, over this very connection.
    pub(crate) mac: [u8; 32],
    pub(crate) key_id: u32,
    /// The life that the signature is about; its returns are not signed.
    pub(crate) identity: Identity,
    pub(crate) public_key: [u8; 32],
    pub(crate) flags: u8,
    pub(crate) signature: [u8; 64],
    /// Signs by the same key that its holder is this end of the TLS session. Zeros if TLS has
    /// proved that key.
    pub(crate) session_signature: [u8; 64],
}

/// The first frame of each side: what it is, and what it holds the other side to.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Hello {
    /// The oldest and newest protocol version that the sender speaks.
    pub(crate) protocol: (u16, u16),
    pub(crate) cluster: String,
    pub(crate) node_id: String,
    pub(crate) identity: Identity,
    pub(crate) cores: u16,
    pub(crate) partitions: u16,
    /// N, W and R. All nodes of a data center must have the same, or a quorum would mean nothing.
    pub(crate) replicas: Count,
    pub(crate) write_quorum: Count,
    pub(crate) read_quorum: Count,
    /// What a partition does that lacks too many replicas. All nodes of a data center must do the
    /// same, or one side of a network partition could go on where the other one trusts it to wait.
    pub(crate) on_partition: OnPartition,
    /// The data center, whose nodes keep copies of their own; empty if none was configured.
    pub(crate) data_center: String,
    /// What fails together with the sender, a rack for example; empty if none was configured.
    pub(crate) zone: String,
    /// The sender's share of the data, relative to the weights of the other nodes.
    pub(crate) weight: u16,
    pub(crate) channel: Channel,
    /// The node that the opener wants to reach, if it knows. An address can pass to another node.
    pub(crate) expects: Option<(NodeHash, Boot)>,
}

/// Which thread of the acceptor a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Channel {
    Control,
    Core(CoreId),
}

/// Why a connection was refused. The text, for people, names both sides' settings and what to do.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: RefusalReason,
    pub(crate) text: String,
}

/// Why a connection was refused, for the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RefusalReason {
    Protocol,
    Cluster,
    Quorums,
    /// The node id is in use at another address.
    DuplicateId,
    /// The opener wanted another node, or another life of this one.
    NotMe,
    NoSuchCore,
    Stopping,
    /// One side requires security and the other one has none, or another cluster key.
    Security,
    /// The acceptor has no security, and the opener has.
    NoSecurity,
    Full,
    /// A rare one that has no number of its own, or one that only a newer version knows.
    Other,
}
