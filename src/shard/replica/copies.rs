//! [`LocalCopies`]: this node's copies of the partitions of one core, and what it is to each of
//! them.
//!
//! ```text
//!             a list without this node                 every receipt is here
//!   Synced ──────────────────────────▶ Giver ──────────────────────────▶ Outside
//!     ▲ │                                │ a list with this node             │
//!     │ │ one not made from this one     ▼                                   │
//!     │ └──────────────▶ Pending ◀───────┴───────────────────────────────────┘
//!     └───────────────────┘ merged every holder
//! ```
//!
//! A *giver* is outside its list and still holds data: it counts for nothing, is a source for
//! others, and drops its copy when each replica of the list has confirmed that it holds the giver's
//! last change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::lacking::Lacking;
use super::surveyed::SurveyedPairs;
use crate::clock::{HybridClock, Version};
use crate::entry::Entry;
use crate::placement::{List, ListRef, Stage};
use crate::replication::handoff::Handoff;
use crate::shard::interface::ShardConfig;
use crate::shard::node::Node;
use crate::store::{Admission, Applied, Deletes, Readers, Store, StoreConfig};
use crate::types::{Cores, Identity, KeyHash, Partition};
use crate::wire::message::{Answer, Listed, Request};

/// How far a replica's clock may be ahead and still be followed by versions given here.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);

/// How often room is made for a peer's entry before the peer is told to ask again: a few thousand
/// entries are looked at, in a millisecond or two.
const ROOM_TRIES: usize = 64;

/// This node's copies, and the clock that versions them.
pub(in crate::shard) struct LocalCopies {
    pub(in crate::shard) store: Store,
    pub(in crate::shard) clock: HybridClock,
    cores: Cores,
    /// One for each partition of this core.
    partitions: Vec<PartitionCopy>,
    /// The nodes from which a partition that this node holds is to be merged, when there is room.
    pub(super) merges: BTreeMap<Partition, BTreeSet<Identity>>,
    /// Replicas of a partition's list that want a receipt when they are merged.
    pub(super) receipts_wanted: BTreeSet<(Partition, Identity)>,
    /// The partitions that lack something for want of room.
    pub(super) lacking: Lacking,
    /// How far this node's copies were surveyed.
    pub(super) surveyed: SurveyedPairs,
    /// Whether an entry that expires might have come since the timer for expiry was set.
    pub(in crate::shard) may_expire: bool,
}

/// What this node is to one partition.
#[derive(Default)]
pub(in crate::shard) struct PartitionCopy {
    /// The highest list that this node adopted or heard of.
    pub(super) list: Option<Arc<List>>,
    pub(super) standing: Standing,
    pub(super) handoff: Option<Box<Handoff>>,
    /// What the handoff asked and has no answer to.
    pub(super) requests: Vec<u64>,
    /// Whether this node is the only member of the list, and synced.
    pub(super) is_alone: bool,
    /// Whether another list with the number of this one was heard of.
    pub(super) is_disputed: bool,
    /// As a giver: the replicas that hold its last change, which has this sequence number.
    pub(super) receipts: (u64, Vec<Identity>),
    /// How often this node, as a giver, has asked for receipts in this list.
    pub(super) reminders: u32,
    /// Whether this copy held something when it began to become synced, which others might lack.
    pub(super) brings_data: bool,
    /// The other replicas that have not merged what this one brought when it returned, and up to
    /// which sequence number they should. `None` when all have.
    pub(super) unshared: Option<(u64, Vec<Identity>)>,
    pub(super) progress: Progress,
    /// A single entry at or below this version is not taken if its key is not held
    /// (`replication/purge` says why).
    pub(in crate::shard) purge_horizon: Version,
    /// How often this copy has merged what another node holds.
    pub(super) merges: u64,
    /// Whether this copy merges what another data center holds. The other replicas here should have
    /// that, too.
    pub(super) merges_other_data_center: bool,
}

/// How far this node is with giving or taking the partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Progress {
    #[default]
    Done,
    /// This node should hold the partition and does not yet, or not in the list that it should be.
    Pending,
    /// This node holds the partition and must give it away.
    Giving,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Standing {
    /// Not in the list, or no list is known.
    #[default]
    Outside,
    /// In the list, but might lack what was acknowledged in the list before.
    Pending,
    /// In the list, and lacks nothing more than any replica might lack.
    Synced,
}

impl PartitionCopy {
    pub(in crate::shard) fn list(&self) -> Option<&Arc<List>> {
        self.list.as_ref()
    }

    /// Whether this node alone decides what the partition holds.
    pub(in crate::shard) fn is_alone(&self) -> bool {
        self.is_alone
    }

    pub(super) fn has_handoff(&self) -> bool {
        self.handoff.is_some()
    }

    pub(super) fn is_synced(&self) -> bool {
        self.standing == Standing::Synced
    }

    /// Whether this node serves the partition as a synced replica of its list.
    pub(in crate::shard) fn serves_synced(&self, me: &Identity) -> bool {
        self.is_synced() && self.list.as_ref().is_some_and(|list| list.contains(me))
    }
}

impl LocalCopies {
    /// Makes empty copies that these readers can read.
    pub(super) fn new(config: &ShardConfig, readers: Arc<Readers>) -> Self {
        let store = Store::new(
            StoreConfig {
                cluster: config.cluster,
                core: config.core,
                cores: Cores::new(config.cores),
                deletes: if config.standalone { Deletes::Forget } else { Deletes::Keep },
                memory: config.memory,
                eviction: config.eviction,
            },
            readers,
        );
        let owned = crate::types::PARTITIONS.div_ceil(config.cores);
        Self {
            store,
            clock: HybridClock::new(MAX_CLOCK_SKEW),
            cores: Cores::new(config.cores),
            partitions: (0..owned).map(|_| PartitionCopy::default()).collect(),
            merges: BTreeMap::new(),
            receipts_wanted: BTreeSet::new(),
            lacking: Lacking::default(),
            surveyed: SurveyedPairs::default(),
            may_expire: false,
        }
    }

    pub(in crate::shard) fn partition(&self, partition: Partition) -> &PartitionCopy {
        &self.partitions[usize::from(self.cores.local(partition))]
    }

    pub(super) fn partition_mut(&mut self, partition: Partition) -> &mut PartitionCopy {
        &mut self.partitions[usize::from(self.cores.local(partition))]
    }

    /// Merges an entry into the store.
    pub(in crate::shard) fn apply(&mut self, hash: KeyHash, entry: Entry) -> Applied {
        self.may_expire |= entry.expires_at_ms().is_some();
        self.store.apply(hash, entry)
    }

    /// Makes room for what another node sends, as far as one turn can be made to wait.
    pub(super) fn make_room(&mut self, hash: KeyHash, entry: &Entry) -> Admission {
        let mut tries = (0..ROOM_TRIES).map(|_| self.store.make_room(hash, entry));
        tries.find(|room| *room != Admission::Later).unwrap_or(Admission::Later)
    }

    /// From now on a single entry at or below this version is not taken if its key is not held.
    pub(in crate::shard) fn raise_purge_horizon(&mut self, partition: Partition, horizon: Version) {
        let copy = self.partition_mut(partition);
        copy.purge_horizon = copy.purge_horizon.max(horizon);
    }

    /// Returns what this node knows of a partition.
    pub(super) fn listed(&self, node: &Node, partition: Partition) -> Listed {
        let copy = self.partition(partition);
        Listed {
            list: copy.list().cloned(),
            synced: copy.serves_synced(&node.me),
            holds: !self.store.is_empty(partition),
            purge_horizon: copy.purge_horizon,
            members_digest: node.placement.digest(),
        }
    }

    /// Returns the answer to a request that counts in a list which this node does not serve.
    pub(super) fn other_list(&self, partition: Partition) -> Answer {
        let copy = self.partition(partition);
        Answer::OtherList { list: copy.list().cloned(), purge_horizon: copy.purge_horizon }
    }

    /// Returns the request that tells another node of a list.
    pub(in crate::shard) fn tell_list(&self, partition: Partition, list: Arc<List>) -> Request {
        Request::Adopt { list, purge_horizon: self.partition(partition).purge_horizon }
    }

    /// Whether this node serves the partition as a synced replica and merges nothing now.
    pub(super) fn is_quiet(&self, node: &Node, partition: Partition) -> bool {
        let copy = self.partition(partition);
        node.stage != Stage::Forming
            && copy.serves_synced(&node.me)
            && !copy.has_handoff()
            && !self.merges.contains_key(&partition)
    }

    /// Whether the partition [is quiet](Self::is_quiet) and its list is the one that should stay.
    pub(super) fn is_settled(&self, node: &Node, partition: Partition) -> bool {
        let target = node.placement.replicas(partition).map(|member| &member.identity);
        let list = self.partition(partition).list();
        self.is_quiet(node, partition) && list.is_some_and(|list| target.eq(list.members()))
    }

    /// Whether this is the list that the node knows.
    pub(super) fn knows(&self, partition: Partition, list: ListRef) -> bool {
        self.partition(partition).list().is_some_and(|known| known.reference() == list)
    }
}
