//! What this core asked other nodes and has no answer to.

use std::collections::BTreeMap;

use super::caller::{ForwardId, OpId, ReturnAddress};
use crate::types::{Boot, Identity, KeyHash, NodeHash, Partition};
use crate::wire::message::{Answer, Request};

/// A request without an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outstanding {
    pub(super) to: Identity,
    /// Whether `to` is in another data center. It might be taken for dead when its answer comes.
    pub(super) in_other_data_center: bool,
    pub(super) partition: Partition,
    pub(super) asker: Asker,
    pub(super) expects: Expects,
}

/// The kind of answer that a request has, besides a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Expects {
    Written,
    Found,
    Listed,
    Promised,
    Accepted,
    Chunk,
    Received,
    Compared,
    Purgeable,
    Purged,
    Surveyed,
    Relayed,
}

impl Expects {
    pub(super) fn of(request: &Request) -> Self {
        match request {
            Request::Write { .. } => Self::Written,
            Request::Read { .. } | Request::Forward { .. } => Self::Found,
            Request::AskList
            | Request::Adopt { .. }
            | Request::Repair { .. }
            | Request::Give { .. } => Self::Listed,
            Request::Prepare { .. } => Self::Promised,
            Request::Accept { .. } => Self::Accepted,
            Request::Fetch(_) => Self::Chunk,
            Request::Receipt { .. } => Self::Received,
            Request::Compare(_) => Self::Compared,
            Request::Purge { .. } => Self::Purgeable,
            Request::Purged { .. } => Self::Purged,
            Request::Survey(_) => Self::Surveyed,
            Request::Relay { .. } => Self::Relayed,
        }
    }

    /// Whether the answer belongs to such a request. The node that sent it might be of another
    /// version, or broken.
    pub(super) fn fits(self, answer: &Answer) -> bool {
        let is_vote = matches!(self, Self::Promised | Self::Accepted);
        let counts_in_a_list = is_vote
            || matches!(
                self,
                Self::Written | Self::Found | Self::Received | Self::Surveyed | Self::Chunk
            );
        match answer {
            Answer::Declined => true,
            Answer::OtherList { .. } => counts_in_a_list,
            Answer::Written { .. } | Answer::TooOld { .. } | Answer::NoRoom { .. } => {
                self == Self::Written
            }
            Answer::Found { .. } => self == Self::Found,
            Answer::Listed(_) => self == Self::Listed,
            Answer::Promised { .. } => self == Self::Promised,
            Answer::Accepted => self == Self::Accepted,
            Answer::Refused { .. } => is_vote,
            Answer::Chunk(_) => self == Self::Chunk,
            Answer::Received { .. } => self == Self::Received,
            Answer::Compared(_) => self == Self::Compared,
            Answer::Purgeable { .. } => self == Self::Purgeable,
            Answer::Purged => self == Self::Purged,
            Answer::Unreached | Answer::Busy => {
                matches!(self, Self::Purgeable | Self::Purged | Self::Relayed)
            }
            Answer::Surveyed(_) => self == Self::Surveyed,
            Answer::Relayed { .. } => self == Self::Relayed,
        }
    }
}

/// The part and the machine that asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asker {
    /// An operation of the coordinator.
    Op(OpId),
    /// Relays, with this number of the batch.
    Relay(u64),
    /// A read that other data centers are asked for.
    Forward(ForwardId),
    /// Another node, which does not reach the one that was asked.
    PassedOn(ReturnAddress),
    Replica(ReplicaAsker),
}

/// What a handoff is for. A partition has one of each kind at most.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum HandoffKind {
    /// A change of the list, or opening it.
    Change,
    /// Merging what others hold into a list that is open.
    Merge,
}

impl HandoffKind {
    pub(super) const ALL: [Self; 2] = [Self::Change, Self::Merge];
}

/// The machine of the replica that asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ReplicaAsker {
    Handoff(Partition, HandoffKind),
    /// Nothing waits for the answer, except that a list in it is learned.
    List(Partition),
    /// Entries of the partition were given, and the answer says that they are merged.
    Give(Partition),
    /// Anti-entropy, with this number of the comparison.
    Compare(u64),
    /// Purge, with this number of the question.
    Purge(u64),
    /// Anti-entropy, with this number of the question, about the keys behind this hash.
    Survey {
        round: u64,
        partition: Partition,
        after: Option<KeyHash>,
    },
}

impl Asker {
    /// Returns the partition of which entries are given, or asked for, outside a handoff.
    fn gives(self) -> Option<Partition> {
        match self {
            Self::Replica(
                ReplicaAsker::Give(partition) | ReplicaAsker::Survey { partition, .. },
            ) => Some(partition),
            _ => None,
        }
    }
}

impl From<ReplicaAsker> for Asker {
    fn from(asker: ReplicaAsker) -> Self {
        Self::Replica(asker)
    }
}

/// Requests without an answer, by their numbers. The same counter numbers everything else that is
/// under way on this core.
pub(super) struct Requests {
    next_id: u64,
    outstanding: BTreeMap<u64, Outstanding>,
    /// How many of them were asked on behalf of other nodes.
    passed_on: usize,
    /// How many of them have entries of a partition under way outside a handoff, by partition.
    giving: BTreeMap<Partition, usize>,
    /// The nodes that gave an answer that does not fit its request, the last few of them.
    misfits: Vec<NodeHash>,
}

/// How many nodes are remembered for their misfitting answers: a log line for each of them is
/// enough.
const MAX_MISFITS: usize = 16;

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            next_id: 1,
            outstanding: BTreeMap::new(),
            passed_on: 0,
            giving: BTreeMap::new(),
            misfits: Vec::new(),
        }
    }

    /// Returns a number that nothing on this core had before.
    pub(super) fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Notes that a node gave an answer that does not fit. Whether this should be said: it was not
    /// said of this node lately.
    pub(super) fn is_first_misfit(&mut self, node: NodeHash) -> bool {
        let is_first = !self.misfits.contains(&node);
        if is_first {
            self.misfits.truncate(MAX_MISFITS - 1);
            self.misfits.insert(0, node);
        }
        is_first
    }

    /// Notes that the request with this number was made.
    pub(super) fn add(&mut self, request_id: u64, request: Outstanding) {
        self.passed_on += usize::from(matches!(request.asker, Asker::PassedOn(_)));
        if let Some(partition) = request.asker.gives() {
            *self.giving.entry(partition).or_default() += 1;
        }
        self.outstanding.insert(request_id, request);
    }

    /// Ends the wait for an answer: it is here, or it will not come. `None` if nothing waits for
    /// it.
    pub(super) fn take(&mut self, request_id: u64) -> Option<Outstanding> {
        let request = self.outstanding.remove(&request_id)?;
        self.passed_on -= usize::from(matches!(request.asker, Asker::PassedOn(_)));
        if let Some(partition) = request.asker.gives()
            && let Some(count) = self.giving.get_mut(&partition)
        {
            *count -= 1;
            if *count == 0 {
                self.giving.remove(&partition);
            }
        }
        Some(request)
    }

    /// Whether entries of the partition are under way to another node, or from one, that are merged
    /// outside a handoff when they arrive.
    pub(super) fn gives(&self, partition: Partition) -> bool {
        self.giving.contains_key(&partition)
    }

    /// Returns how many requests were made on behalf of other nodes and have no answer.
    pub(super) fn passed_on(&self) -> usize {
        self.passed_on
    }

    /// Ends the wait for these answers: if they come, they are ignored.
    pub(super) fn forget(&mut self, request_ids: &mut Vec<u64>) {
        for request_id in request_ids.drain(..) {
            self.take(request_id);
        }
    }

    /// Returns the numbers of all that was asked of this life of a node.
    pub(super) fn to_life(&self, life: (NodeHash, Boot)) -> Vec<u64> {
        let is_to_life = |request: &Outstanding| (request.to.node, request.to.boot) == life;
        self.outstanding
            .iter()
            .filter(|(_, request)| is_to_life(request))
            .map(|(&id, _)| id)
            .collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.outstanding.is_empty()
    }
}
