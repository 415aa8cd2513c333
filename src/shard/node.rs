//! [`Node`]: who this node is and what it sees of the cluster. Only the joint changes it.

use std::sync::Arc;

use super::calls::WriteRules;
use super::interface::ShardConfig;
use crate::error::NotApplied;
use crate::options::OnPartition;
use crate::placement::{Gone, List, Placement, Stage, Wish};
use crate::quorums::Count;
use crate::replication::handoff::can_be_replaced;
use crate::types::{Identity, KeyHash, NodeHash, Partition};

/// What every part may know of this node: its configuration, identity, placement and stage.
pub(super) struct Node {
    pub(super) config: ShardConfig,
    pub(super) write_rules: WriteRules,
    pub(super) me: Identity,
    pub(super) placement: Arc<Placement>,
    pub(super) stage: Stage,
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

    /// Returns who should be in the partition's list, and witness what follows it.
    pub(super) fn wish(&self, partition: Partition) -> Wish {
        let members = self.target(partition);
        let acceptors = self.config.quorums.acceptors(members.len());
        let witnesses = self.placement.next_best(partition, acceptors - members.len());
        Wish { members, witnesses }
    }

    pub(super) fn in_other_data_center(&self, node: NodeHash) -> bool {
        self.placement.in_other_data_center(node)
    }

    /// Whether there are enough replicas to acknowledge a write of a partition. `list` returns the
    /// partition's list, if it is known here.
    pub(super) fn check_alive<'a>(
        &self,
        quorum: Count,
        list: impl FnOnce() -> Option<&'a Arc<List>>,
    ) -> Result<(), NotApplied> {
        let (alive, all) = self.alive(list);
        let needed = quorum.count(all);
        if alive >= needed {
            return Ok(());
        }
        Err(NotApplied::NotEnoughReplicas { alive: self.members_for_errors(alive), needed })
    }

    /// Returns how many nodes can be replicas of a partition now, and of how many a quorum is.
    ///
    /// Usually that is the same number, as the dead are replaced. With [`OnPartition::Majority`]
    /// they are not if too few acceptors of the partition's list are alive to replace it. A node
    /// that is not in the list might not know the latest one, and does not judge.
    #[inline]
    pub(super) fn alive<'a>(&self, list: impl FnOnce() -> Option<&'a Arc<List>>) -> (usize, usize) {
        if self.config.on_partition == OnPartition::Majority
            && let Some(list) = list().filter(|list| list.contains(&self.me))
        {
            let is_alive = |member: &&Identity| !self.placement.is_dead(member);
            if !can_be_replaced(list, self.config.quorums, &self.placement) {
                let alive = list.members().iter().filter(is_alive).count();
                return (alive, list.members().len());
            }
        }
        let alive = self.placement.replicas_per_partition();
        (alive, alive)
    }

    /// Returns the number of members for an error text: a node that has heard of no other still
    /// counts itself.
    pub(super) fn members_for_errors(&self, alive: usize) -> usize {
        if self.placement.members().is_empty() { 1 } else { alive }
    }
}
