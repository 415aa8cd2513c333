//! [`Node`]: who this node is and what it sees of the cluster. Only the joint changes it.

use std::sync::Arc;

use super::calls::WriteRules;
use super::interface::{Lease, ShardConfig};
use crate::clock::Now;
use crate::error::NotApplied;
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::{Gone, Placement, Stage};
use crate::quorums::Count;
use crate::types::{Identity, KeyHash, NodeHash, Partition};

/// What every part may know of this node: its configuration, identity, placement, stage and lease.
pub(super) struct Node {
    pub(super) config: ShardConfig,
    pub(super) write_rules: WriteRules,
    pub(super) me: Identity,
    pub(super) placement: Arc<Placement>,
    pub(super) stage: Stage,
    /// `None` if no majority is required.
    pub(super) lease: Option<Lease>,
    /// Whether the placement says that this life of this node is over.
    pub(super) is_dead: bool,
    /// Whether another data center should have what is acknowledged here.
    pub(super) relays_writes: bool,
}

impl Node {
    pub(super) fn new(config: ShardConfig) -> Self {
        let ShardConfig { cluster, quorums, every_live, memory, .. } = config;
        let write_rules = WriteRules { cluster, quorums, every_live, memory };
        let nowhere = Placement::new(Vec::new(), config.quorums.replicas, 0, Gone::new());
        Self {
            write_rules,
            me: config.me,
            placement: Arc::new(nowhere),
            stage: Stage::Forming,
            lease: None,
            is_dead: false,
            relays_writes: false,
            config,
        }
    }

    /// Takes up a new placement and returns the old one.
    pub(super) fn place(&mut self, placement: Arc<Placement>, stage: Stage) -> Arc<Placement> {
        let old = std::mem::replace(&mut self.placement, placement);
        self.stage = stage;
        self.is_dead = self.placement.is_dead(&self.me);
        old
    }

    /// Takes up a new identity, which no list names.
    pub(super) fn start_new_life(&mut self, me: Identity) {
        self.me = me;
        self.is_dead = self.placement.is_dead(&me);
    }

    pub(super) fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash::of(self.config.cluster, key)
    }

    /// Whether this core owns the partition on this node.
    pub(super) fn owns(&self, partition: Partition) -> bool {
        partition.core(self.config.cores) == self.config.core
    }

    /// Returns this core's partitions.
    pub(super) fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        let (core, cores) = (self.config.core, self.config.cores);
        Partition::all().filter(move |partition| partition.core(cores) == core)
    }

    /// Returns the nodes of this data center that should hold the partition, best first.
    pub(super) fn target(&self, partition: Partition) -> Vec<Identity> {
        self.placement.replicas(partition).map(|member| member.identity).collect()
    }

    /// Returns every member of this data center that is not dead, except this node.
    pub(super) fn others(&self) -> Vec<Identity> {
        let all = self.placement.members().iter().map(|member| member.identity);
        all.filter(|member| *member != self.me).collect()
    }

    pub(super) fn in_other_data_center(&self, node: NodeHash) -> bool {
        self.placement.in_other_data_center(node)
    }

    /// Returns the size of the required majority if this node has no lease for it now.
    pub(super) fn lacks_majority(&self, now: Now) -> Option<usize> {
        let is_over =
            |lease: &Lease| rule(ProtocolMutant::LeaseIgnored, lease.until <= now.instant);
        self.lease.filter(is_over).map(|lease| lease.nodes)
    }

    /// Whether there are enough replicas to acknowledge a write, and this node is allowed to.
    pub(super) fn check_alive(&self, now: Now, quorum: Count) -> Result<(), NotApplied> {
        if let Some(nodes) = self.lacks_majority(now) {
            return Err(NotApplied::NoMajority { nodes });
        }
        let alive = self.placement.replicas_per_partition();
        let needed = quorum.count(alive);
        if alive >= needed {
            return Ok(());
        }
        Err(NotApplied::NotEnoughReplicas { alive: self.members_for_errors(alive), needed })
    }

    /// Returns the number of members for an error text: a node that has heard of no other still
    /// counts itself.
    pub(super) fn members_for_errors(&self, alive: usize) -> usize {
        if self.placement.members().is_empty() { 1 } else { alive }
    }
}
