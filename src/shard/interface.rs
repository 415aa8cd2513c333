//! What a shard is told and what it wants done: its whole interface to the threads and to the
//! simulator.

use std::sync::Arc;
use std::time::Duration;

use super::calls::{Call, Outcome, StoppedBy};
use crate::options::{Eviction, OnPartition};
use crate::placement::{Placement, Stage};
use crate::quorums::Quorums;
use crate::types::{Boot, ClusterHash, CoreId, Identity, NodeHash, Partition};
use crate::wire::message::{Answer, Request};

/// What a shard is told once, when it is made.
#[derive(Clone, Debug)]
pub(crate) struct ShardConfig {
    pub(crate) cluster: ClusterHash,
    pub(crate) core: CoreId,
    pub(crate) cores: u16,
    pub(crate) me: Identity,
    pub(crate) quorums: Quorums,
    /// What a partition does that lacks too many of its replicas.
    pub(crate) on_partition: OnPartition,
    /// Whether a write that names no quorum waits for every replica that is alive, and how long
    /// such a write waits.
    pub(crate) every_live: bool,
    pub(crate) every_live_patience: Duration,
    pub(crate) standalone: bool,
    /// This core's share of the memory limit, in bytes.
    pub(crate) memory: Option<usize>,
    pub(crate) eviction: Eviction,
    /// The least age at which a tombstone is forgotten.
    pub(crate) purge_grace: Duration,
}

impl ShardConfig {
    /// Returns the node's memory limit; zero if there is none.
    pub(crate) fn max_memory(&self) -> usize {
        self.memory.map_or(0, |memory| memory * usize::from(self.cores))
    }
}

/// What a shard is told. `C` identifies the maker of a call and is opaque to the shard.
pub(crate) enum Event<C> {
    /// An app makes a call.
    Call { call: Call, caller: C },
    /// A peer's core asks, over the accepted connection `via`.
    Request { via: u64, from: Identity, partition: Partition, request_id: u64, request: Request },
    /// A peer's core, of this life if that is known, answers what this shard asked.
    Answer { from: Option<(NodeHash, Boot)>, request_id: u64, answer: Answer },
    /// The connection to this life of a node failed: what was asked over it stays unanswered.
    Lost { node: NodeHash, boot: Boot },
    /// There was no room to send this request.
    Unsent { request_id: u64 },
    /// The members changed.
    Placement { placement: Arc<Placement>, stage: Stage },
    /// This node has a new identity from now on, which no list names.
    NewLife { me: Identity },
    /// The control thread asks what is missing. An [`Action::Debt`] of the same number answers.
    AskDebt { question: u64 },
    /// The engine stops: every call gets its answer now.
    Stop(StoppedBy),
}

/// What a shard wants done.
#[derive(Debug)]
pub(crate) enum Action<C> {
    /// Send a request to a core of another node.
    Ask { to: Identity, core: CoreId, partition: Partition, request_id: u64, request: Request },
    /// Answer a peer's request over the connection that it came by.
    Answer { via: u64, partition: Partition, request_id: u64, answer: Answer },
    /// The peer broke the protocol: close its connection.
    Violation { via: u64, why: &'static str },
    /// Tell the maker of a call how it ended.
    Reply { caller: C, outcome: Outcome },
    /// Under the placement of this generation: how many partitions this shard should hold and does
    /// not yet, how many it holds and must give away, and what found no room.
    Progress { generation: u64, pending: usize, giving: usize, shortage: Shortage },
    /// Acknowledged writes of the partition might be lost, as W of its replicas are dead. Said once
    /// for a list.
    DataAtRisk { partition: Partition },
    /// The partition goes on with what is left.
    WentOn { partition: Partition },
    /// The answer to [`Event::AskDebt`].
    Debt { question: u64, debt: Debt },
}

/// What a core, or a node, has no room for though it should hold it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Shortage {
    pub(crate) partitions: usize,
    pub(crate) bytes: usize,
}

impl Shortage {
    pub(crate) fn add(&mut self, other: Self) {
        self.partitions += other.partitions;
        self.bytes += other.bytes;
    }
}

/// What a core, or a node, has still to do before no copy is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Debt {
    /// Copies of partitions that this core should hold and may lack something of, that it holds and
    /// has yet to give away, or for which there is no member.
    pub(crate) copies: usize,
    /// Partitions that began empty, and were not compared yet with another data center that this
    /// core reaches.
    pub(crate) behind: usize,
    /// Writes that this core has acknowledged and some replica has not, for longer than one takes.
    pub(crate) writes: usize,
    /// Calls without an answer, and writes that not all replicas have acknowledged, however recent.
    pub(crate) unfinished: usize,
    /// How many bytes this core should hold and has no room for.
    pub(crate) missing_bytes: usize,
}

impl Debt {
    pub(crate) fn add(&mut self, other: &Self) {
        self.copies += other.copies;
        self.behind += other.behind;
        self.writes += other.writes;
        self.unfinished += other.unfinished;
        self.missing_bytes += other.missing_bytes;
    }
}
