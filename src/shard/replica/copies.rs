//! [`LocalCopies`]: this node's copies of the partitions of one core, and what it is to each of
//! them.
//!
//! ```text
//!             a list without this node                 the receipts are here
//!   Synced ──────────────────────────▶ Giver ──────────────────────────▶ Outside
//!     ▲ │                                │ a list with this node             │
//!     │ │ one that does not follow it    ▼                                   │
//!     │ └──────────────▶ Pending ◀───────┴───────────────────────────────────┘
//!     └───────────────────┘ merged f + 1 that have it open
//! ```
//!
//! A synced replica has its list *open* (`replication/handoff` says what that takes). Once it has
//! accepted a next list it is *sealed*: it applies and answers nothing until it learns the next
//! list.
//!
//! A *giver* is outside its list, and still holds data or had a list open: it counts for nothing,
//! is a source for others, and drops its copy when each replica of the list has confirmed that it
//! holds the giver's last change. An empty copy is given like any other: that there is nothing must
//! be known of as many sources as what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::behind::Behind;
use super::lacking::Lacking;
use super::steady::Steadiness;
use super::surveyed::SurveyedPairs;
use crate::clock::{HybridClock, Version};
use crate::entry::Entry;
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::{List, ListRef, Stage};
use crate::replication::handoff::{Handoff, Register};
use crate::shard::interface::ShardConfig;
use crate::shard::node::Node;
use crate::shard::requests::HandoffKind;
use crate::store::{Admission, Applied, Deletes, Readers, Store, StoreConfig};
use crate::types::{Cores, Identity, KeyHash, Partition};
use crate::wire::message::{Answer, Extent, Listed, Request};
use crate::wire::retention::{Agreed, PurgeMark};

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
    /// The partitions that might lack what other data centers hold.
    pub(super) behind: Behind,
    /// How far this node's copies were surveyed.
    pub(super) surveyed: SurveyedPairs,
    /// Whether an entry that expires might have come since the timer for expiry was set.
    pub(in crate::shard) may_expire: bool,
}

/// What this node is to one partition.
#[derive(Default)]
pub(in crate::shard) struct PartitionCopy {
    /// The highest list that this node heard of.
    pub(super) list: Option<Arc<List>>,
    pub(super) standing: Standing,
    /// How long that list, and who should be in it, have stood.
    pub(super) steadiness: Steadiness,
    /// What this node has promised and accepted as an acceptor of that list.
    pub(super) register: Option<Box<Register>>,
    pub(super) seal: Seal,
    /// The latest list that this node had open, and the latest in which its copy was whole: it had
    /// all that was acknowledged before.
    pub(super) opened: Option<ListRef>,
    pub(super) whole: Option<ListRef>,
    /// Whether this node was a member of the list before, never had that open, and never will.
    pub(super) is_idle: bool,
    /// By [`HandoffKind`].
    handoffs: [Slot; 2],
    /// Whether this node is the only member of the list, and synced.
    pub(super) is_alone: bool,
    /// As a giver: the replicas that hold its last change, which has this sequence number.
    pub(super) receipts: (u64, Vec<Identity>),
    /// How often this node, as a giver, has asked for receipts in this list.
    pub(super) reminders: u32,
    /// How often others were told this list, or were asked to merge this copy, since the list and
    /// its wished members changed.
    pub(super) told: u32,
    /// Whether others are to be told it as soon as this core may.
    pub(super) is_to_remind: bool,
    /// Whether this copy held something when it began to become synced, which others might lack.
    pub(super) brings_data: bool,
    /// The list for which it was said last that acknowledged writes might be lost; `Some(None)` if
    /// none was known.
    pub(super) said_at_risk: Option<Option<ListRef>>,
    /// What this one brought when it returned, until others have merged it.
    pub(super) unshared: Option<Unshared>,
    pub(super) progress: Progress,
    /// A single entry at or below this version is not taken if its key is not held
    /// (`replication/purge` says why).
    pub(in crate::shard) purge_horizon: Version,
    /// The latest agreement that this node knows of, in the lists from which the known one descends
    /// without a fork.
    pub(super) agreed: Agreed,
    /// Whether this copy might hold what was written on another side of a network partition, and is
    /// nowhere else. Nothing of it is dropped as too old.
    pub(super) is_of_fork: bool,
    /// How often this copy has merged what another node holds.
    pub(super) merges: u64,
    /// Whether this copy merges what another data center holds. The other replicas here should have
    /// that, too.
    pub(super) merges_other_data_center: bool,
}

/// A handoff of one kind.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) handoff: Option<Box<Handoff>>,
    /// What it asked and has no answer to.
    pub(super) requests: Vec<u64>,
}

/// What this node brought when it returned, and who has yet to merge it.
#[derive(Debug)]
pub(super) struct Unshared {
    /// Up to which sequence number the others should have merged this copy.
    pub(super) sequence: u64,
    pub(super) others: Vec<Identity>,
    /// How often they were asked.
    pub(super) reminders: u32,
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

/// Whether this node has accepted a list that follows its list, and so does not count in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Seal {
    #[default]
    No,
    Sealed,
    /// It was sealed for long: the node that proposed the next list might be gone.
    Overdue,
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

    pub(super) fn slot(&self, kind: HandoffKind) -> &Slot {
        &self.handoffs[kind as usize]
    }

    pub(super) fn slot_mut(&mut self, kind: HandoffKind) -> &mut Slot {
        &mut self.handoffs[kind as usize]
    }

    pub(super) fn has_handoff(&self) -> bool {
        self.handoffs.iter().any(|slot| slot.handoff.is_some())
    }

    /// Whether something is merged, or is to be once a pause is over.
    pub(super) fn has_merge(&self) -> bool {
        self.slot(HandoffKind::Merge).handoff.is_some()
    }

    pub(super) fn is_synced(&self) -> bool {
        self.standing == Standing::Synced
    }

    /// Whether this node counts in its list, or will once it is synced.
    pub(super) fn serves(&self, me: &Identity) -> bool {
        self.seal == Seal::No && self.list.as_ref().is_some_and(|list| list.contains(me))
    }

    /// Returns what this node has of what was acknowledged before its list.
    pub(super) fn extent(&self) -> Extent {
        let Some(list) = &self.list else { return Extent::Any };
        let (this, before) = (Some(list.reference()), list.base());
        if self.whole == this {
            Extent::Whole
        } else if self.opened.is_none() || self.opened != this && self.opened != before {
            let is_idle = rule(ProtocolMutant::IdleIgnored, self.is_idle);
            if is_idle { Extent::Idle } else { Extent::Any }
        } else if self.whole.is_some() && self.whole == before {
            Extent::WholeBefore
        } else {
            Extent::Open
        }
    }

    /// Whether this node, when it learns of `next`, was a member of the list before that and never
    /// had that open. A node moves only up, so it has never known a list above the one it knows.
    pub(super) fn is_idle_before(&self, next: &List, me: &Identity) -> bool {
        let never_opened = match (&self.list, next.base()) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(known), Some(base)) if known.reference() == base => self.opened != Some(base),
            (Some(known), Some(base)) => known.number() < base.number,
        };
        never_opened && next.before().contains(me)
    }

    /// Whether this node is a member of its list, and might lack what was acknowledged before.
    pub(super) fn lacks_before(&self, me: &Identity) -> bool {
        self.extent() != Extent::Whole && self.list.as_ref().is_some_and(|list| list.contains(me))
    }

    /// Whether this node serves the partition as a synced replica of its list.
    pub(in crate::shard) fn serves_synced(&self, me: &Identity) -> bool {
        self.serves(me) && self.is_synced()
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
            behind: Behind::default(),
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

    /// Whether a list descends from the one that this node knows without a fork, or this one from
    /// it.
    pub(in crate::shard) fn is_of_line(&self, partition: Partition, list: &List) -> bool {
        self.partition(partition).list().is_some_and(|known| known.is_of_line(list))
    }

    /// Returns what this node knows of what was forgotten.
    pub(super) fn mark(&self, partition: Partition) -> PurgeMark {
        let copy = self.partition(partition);
        PurgeMark { horizon: copy.purge_horizon, agreed: copy.agreed }
    }

    /// Returns what this node knows of a partition.
    pub(super) fn listed(&self, node: &Node, partition: Partition) -> Listed {
        let copy = self.partition(partition);
        Listed {
            list: copy.list().cloned(),
            purged: self.mark(partition),
            members_digest: node.placement.digest(),
        }
    }

    /// Returns the answer to a request that counts in a list which this node does not serve.
    pub(super) fn other_list(&self, partition: Partition) -> Answer {
        let list = self.partition(partition).list().cloned();
        Answer::OtherList { list, purged: self.mark(partition) }
    }

    /// Returns the request that tells another node of a list.
    pub(in crate::shard) fn tell_list(&self, partition: Partition, list: Arc<List>) -> Request {
        let mut purged = self.mark(partition);
        if !self.is_of_line(partition, &list) {
            purged.agreed = Agreed::default();
        }
        Request::Adopt { list, purged }
    }

    /// Whether this copy, outside the list, might be missed by a member: it holds something, or
    /// counts as a source until others confirm that they have merged it. What is known to be
    /// nothing is worth as much as a value, and so is that it acknowledged nothing.
    pub(super) fn has_to_give(&self, partition: Partition) -> bool {
        let copy = self.partition(partition);
        let is_source = copy.opened.is_some() || rule(ProtocolMutant::IdleDropped, copy.is_idle);
        !self.store.is_empty(partition) || is_source
    }

    /// Whether this node serves the partition as a synced replica, and no merge changes it now.
    pub(super) fn is_comparable(&self, node: &Node, partition: Partition) -> bool {
        let copy = self.partition(partition);
        let merge = copy.slot(HandoffKind::Merge).handoff.as_ref();
        node.stage != Stage::Forming
            && copy.serves_synced(&node.me)
            && merge.is_none_or(|merge| merge.is_resting())
            && !self.merges.contains_key(&partition)
    }

    /// Whether this node serves the partition as a synced replica, and has nothing to merge.
    pub(super) fn is_quiet(&self, node: &Node, partition: Partition) -> bool {
        let copy = self.partition(partition);
        node.stage != Stage::Forming
            && copy.serves_synced(&node.me)
            && !copy.has_merge()
            && !self.merges.contains_key(&partition)
    }

    /// Whether the partition [is quiet](Self::is_quiet), its list is the one that should stay, and
    /// this copy lacks nothing that was acknowledged before, unless for want of room or because no
    /// other replica is left.
    pub(super) fn is_settled(&self, node: &Node, partition: Partition) -> bool {
        let target = node.placement.replicas(partition).map(|member| &member.identity);
        let copy = self.partition(partition);
        self.is_quiet(node, partition)
            && copy.list().is_some_and(|list| target.eq(list.members()))
            && (!copy.lacks_before(&node.me)
                || self.lacking.has(partition)
                || !self.has_others(node, partition))
    }

    /// Whether another member lives of the list, or of the one before.
    pub(super) fn has_others(&self, node: &Node, partition: Partition) -> bool {
        let list = self.partition(partition).list();
        let mut members = list.into_iter().flat_map(|it| it.members().iter().chain(it.before()));
        members.any(|member| *member != node.me && node.placement.is_alive(member))
    }

    /// Whether this is the list that the node knows.
    pub(super) fn knows(&self, partition: Partition, list: ListRef) -> bool {
        self.partition(partition).list().is_some_and(|known| known.reference() == list)
    }
}
