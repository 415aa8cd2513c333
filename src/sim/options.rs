//! What a simulated cluster is like: its network, its nodes, and what is different from a real one.

use std::time::Duration;

use crate::config::{DEFAULT_EVERY_LIVE_PATIENCE, DEFAULT_RETENTION};
use crate::mutants::ProtocolMutant;
use crate::options::{Eviction, OnPartition, Quorum};
use crate::quorums::{Count, Quorums};
use crate::types::{ClusterHash, KeyHash, MAX_REPLICAS, PARTITIONS};
use crate::wire::timing::PURGE_GRACE;

/// The name of every simulated cluster.
pub(super) const CLUSTER: &str = "sim";

pub(super) fn cluster() -> ClusterHash {
    ClusterHash::of(CLUSTER)
}

/// What the simulated network and nodes are like.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SimOptions {
    /// N, the copies of a key, at most [`MAX_REPLICAS`].
    pub replicas: usize,
    /// W, the acknowledgements that a write needs.
    pub write_quorum: usize,
    /// R, the answers that a read needs.
    pub read_quorum: usize,
    /// Whether every node keeps a copy and all but one acknowledge. N and W are then not used.
    pub(super) on_every_node: bool,
    /// Whether writes wait for every replica that is alive:
    /// [`Config::wait_for_every_live`](crate::Config::wait_for_every_live). Other than there, it is
    /// `false` by default: what W replicas alone must hold is tested harder.
    pub every_live: bool,
    /// For how long such a write waits:
    /// [`Config::every_live_patience`](crate::Config::every_live_patience).
    pub every_live_patience: Duration,
    /// The number of cores of each node.
    pub cores: u16,
    /// How many data centers there are. Node `n` is in data center `n % data_centers`.
    pub data_centers: usize,
    /// How many zones each data center has. Its first node is in the first zone, its next one in
    /// the next.
    pub zones: usize,
    /// Whether nodes have different shares of the data. A third of them have half of what a second
    /// third has, and the others three times as much.
    pub are_weights_different: bool,
    /// How many of a thousand datagrams are lost.
    pub datagrams_lost_per_mille: u32,
    /// How many of a thousand datagrams arrive twice.
    pub datagrams_duplicated_per_mille: u32,
    /// How many of a thousand frames break the connection that carries them.
    pub connections_broken_per_mille: u32,
    /// The shortest and longest time that a message takes.
    pub delay: (Duration, Duration),
    /// How far each node's wall clock is off at most, either way.
    pub clock_skew: Duration,
    /// The memory limit of each core, in bytes, unless a node is started with another one. `None`
    /// sets no limit.
    pub memory_per_core: Option<usize>,
    /// What a core does when its memory is full: [`Config::eviction`](crate::Config::eviction).
    pub eviction: Eviction,
    /// How many partitions there are, at most 4096.
    ///
    /// A change of members costs in proportion to them. Only keys that fall into them can be used:
    /// see [`SimOptions::key`].
    pub partitions: u16,
    /// How old a tombstone must be before it can be forgotten.
    pub purge_grace: Duration,
    /// How long a member that died is waited for:
    /// [`Config::tombstone_retention`](crate::Config::tombstone_retention).
    pub tombstone_retention: Duration,
    /// How long a data center that is away is waited for:
    /// [`Config::data_center_retention`](crate::Config::data_center_retention).
    pub data_center_retention: Duration,
    /// What a partition of the keys does that lacks too many of its replicas:
    /// [`Config::on_partition`](crate::Config::on_partition).
    pub on_partition: OnPartition,
    /// The number of nodes of which a majority must be there at the birth:
    /// [`Config::expect`](crate::Config::expect). Zero expects none.
    pub expect: u16,
    /// How many nodes, the first ones, are the seeds of all.
    pub seeds: usize,
    /// Whether the nodes seal their datagrams with a cluster key.
    #[doc(hidden)]
    pub is_sealed: bool,
    /// The rule that is left out on purpose, to test the checkers.
    #[doc(hidden)]
    pub mutant: Option<ProtocolMutant>,
    /// Whether every event is kept as a line of [`SimCluster::trace`](super::SimCluster::trace).
    pub keep_trace: bool,
}

impl Default for SimOptions {
    /// Returns a LAN without faults, N = 3, W = 2, R = 1, two cores.
    fn default() -> Self {
        Self {
            replicas: 3,
            write_quorum: 2,
            read_quorum: 1,
            on_every_node: false,
            every_live: false,
            every_live_patience: DEFAULT_EVERY_LIVE_PATIENCE,
            cores: 2,
            data_centers: 1,
            zones: 1,
            are_weights_different: false,
            datagrams_lost_per_mille: 0,
            datagrams_duplicated_per_mille: 0,
            connections_broken_per_mille: 0,
            delay: (Duration::from_micros(50), Duration::from_millis(1)),
            clock_skew: Duration::ZERO,
            memory_per_core: None,
            eviction: Eviction::default(),
            partitions: PARTITIONS,
            purge_grace: PURGE_GRACE,
            tombstone_retention: DEFAULT_RETENTION.member,
            data_center_retention: DEFAULT_RETENTION.data_center,
            on_partition: OnPartition::default(),
            expect: 0,
            seeds: usize::MAX,
            is_sealed: false,
            mutant: None,
            keep_trace: false,
        }
    }
}

impl SimOptions {
    /// Keeps a copy on every node, as [`Replicas::All`](crate::Replicas::All) does; all but one of
    /// them must acknowledge a write. `replicas` and `write_quorum` are not used from then on.
    pub fn replicate_to_all(&mut self) {
        self.on_every_node = true;
    }

    /// Returns N, W and R.
    pub(super) fn quorums(&self) -> Quorums {
        let exactly = |count: usize| {
            assert!(count <= MAX_REPLICAS, "{count} replicas: there are at most {MAX_REPLICAS}");
            Count::Exactly(count as u8)
        };
        let read = exactly(self.read_quorum);
        if self.on_every_node {
            return Quorums { replicas: Count::ALL, write: Count::AllBut(1), read };
        }
        Quorums { replicas: exactly(self.replicas), write: exactly(self.write_quorum), read }
    }

    /// Whether all reads that ask for this quorum see each write that was acknowledged before them,
    /// and each other, on one key: W + R > N and 2 W > N.
    pub(super) fn is_strong(&self, asked: Quorum) -> bool {
        let quorums = self.quorums();
        let read = quorums.of_read(asked).unwrap_or(quorums.read);
        let is_enough = match read {
            Count::Exactly(_) => Quorums { read, ..quorums }.reads_see_writes(),
            Count::AllBut(_) => true,
        };
        is_enough
            && read != Count::Exactly(1)
            && quorums.writes_overlap()
            && quorums.write != Count::Exactly(1)
    }

    /// How many nodes must run for calls to succeed, and for no write to be lost with one of them.
    pub(super) fn needed(&self) -> usize {
        let quorums = self.quorums();
        quorums.write.count(3).max(quorums.read.count(3))
    }

    /// Returns the key with this number, among those that can be used.
    ///
    /// # Panics
    ///
    /// If there are no partitions.
    pub fn key(&self, number: usize) -> String {
        assert!(self.partitions > 0, "a cluster without partitions");
        let name = |try_: u32| {
            if try_ == 0 { format!("key-{number}") } else { format!("key-{number}-{try_}") }
        };
        let is_usable = |name: &String| {
            KeyHash::of(cluster(), name.as_bytes()).partition().index() < self.partitions
        };
        (0..).map(name).find(is_usable).expect("one of many")
    }
}
