//! Every message between nodes, told as the protocol's story.
//!
//! Connections have a direction: the opener asks, the acceptor answers. Each answer carries the request
//! id of its question. A node asks over connections that it opened itself, so two nodes that talk both
//! ways hold two connections, never wait for each other, and never dial "the same" one twice.
//!
//! **Opening.** Control thread and cores all open the same way; the acceptor's control thread judges.
//!
//! ```text
//! opener ──[Hello: who I am, which cluster, which core I want]──▶ control thread of the acceptor
//! opener ◀──[Welcome: who I am]── …and the socket moves to the wanted core
//! opener ◀──[Refused: why]──      …and both sides close
//! ```
//!
//! **Between control threads**, which hold one connection each way for as long as both live. Its loss is
//! the first sign of a crash.
//!
//! ```text
//! A ──[AskMembers]──▶ B    A ◀──[Members: everybody B knows]── B      a joiner learns the cluster at once
//! A ──[Status: who I think is here, have I been born]──▶ B            until the first lists are born
//! A ◀──[Status]── B
//! A ──[AskDebt]──▶ B    A ◀──[Debt: what I lack or owe]── B           while an app waits for it to be zero everywhere
//! ```
//!
//! **Between cores**, always about one partition, named by the frame's header. Each request of the data
//! path names the list in which its sender counts; a replica that serves another list answers
//! [`Answer::OtherList`], and is not counted.
//!
//! ```text
//! coordinator ──[Write: entry]──▶ replica      ◀──[Written]           after it was applied
//!                                              ◀──[Declined]          no room now: it was not
//!                                              ◀──[TooOld]            older than what was forgotten: it was not
//! coordinator ──[Read: key]──▶ replica         ◀──[Found]             value, or only its version
//! ```
//!
//! Changing a partition's list, driven by a node that should hold it and does not yet:
//!
//! ```text
//! newcomer ──[AskList]──▶ every member         ◀──[Listed]            which list, what do you hold?
//! newcomer ──[Fetch]──▶ a source               ◀──[Chunk]…            bulk copy, the old list still counts
//! newcomer ──[Adopt: new list]──▶ old and new  ◀──[Listed]            from here only the new list counts
//! newcomer ──[Fetch: what changed]──▶ sources  ◀──[Chunk]…            now it holds all: synced
//! newcomer ──[Receipt: I hold your last change]──▶ old ◀──[Received]  a replica that left may drop its copy
//! ```
//!
//! Between replicas that serve the same list, in the background (`anti_entropy` says when):
//!
//! ```text
//! replica ──[Compare: digest of some partitions]──▶ replica   ◀──[Compared]   all alike, or what it holds of each
//! replica ──[Repair: I have merged you]──▶ replica            ◀──[Listed]     it fetches from the asker
//! replica ──[Survey: each key's version]──▶ replica           ◀──[Surveyed]   where eviction took some: what differs
//! ```
//!
//! And between all members, about what was deleted long ago (`purge` says when):
//!
//! ```text
//! replica ──[Purge: do you hold older states of these?]──▶ every member   ◀──[Purgeable]   of which it holds none
//!                                              ◀──[Declined]          it agrees to nothing now
//! replica ──[Purged: drop these]──▶ the other replicas                    ◀──[Purged]
//! ```
//!
//! From a data center to another, whose lists are its own (`relay` says when):
//!
//! ```text
//! coordinator ──[Relay: entries]──▶ relay      ◀──[Relayed]           which of them W replicas there have
//! coordinator ──[Forward: key]──▶ any member   ◀──[Found]             as a read there has it
//! ```
//!
//! Beside these, only what copies and compares whole partitions, and what purges, passes between data centers.
//!
//! A published message never changes: a new need is a new message (`codec` says why).

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Version;
use crate::entry::Entry;
use crate::membership::Record;
use crate::placement::{List, ListRef, Stage};
use crate::replication::purge::Dead;
use crate::types::{CoreId, Identity, KeyHash, NodeHash, Partition};

/// One message with its frame's addressing.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Frame {
    /// Partition zero where a message is not about one.
    pub(crate) partition: Partition,
    /// Chosen by the asker, repeated by the answer; unique on its connection.
    pub(crate) request_id: u64,
    pub(crate) message: Message,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Message {
    Hello(Hello),
    Welcome(Hello),
    Refused(Refusal),
    Control(ControlMessage),
    Request(Request),
    Answer(Answer),
}

/// The first frame of each side.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Hello {
    /// The oldest and newest protocol version that the sender speaks.
    pub(crate) protocol: (u16, u16),
    pub(crate) cluster: String,
    pub(crate) node_id: String,
    pub(crate) identity: Identity,
    pub(crate) cores: u16,
    pub(crate) partitions: u16,
    /// N and W: what a quorum means must be the same everywhere.
    pub(crate) replicas: u8,
    pub(crate) write_quorum: u8,
    /// Of how many nodes it requires a majority; zero where it does not.
    pub(crate) majority_of: u16,
    /// Whose nodes keep copies of their own, and what fails together with it; empty where that was not told. And its share of the data, beside the others'.
    pub(crate) data_center: String,
    pub(crate) zone: String,
    pub(crate) weight: u16,
    pub(crate) channel: Channel,
    /// Whom the opener wants to reach, where it knows: an address may have passed to another node.
    pub(crate) expects: Option<(NodeHash, crate::types::Boot)>,
}

/// Which thread of the acceptor a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Channel {
    Control,
    Core(CoreId),
}

/// Why a connection was refused. The text is for people: it names both sides' settings and what to do.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: RefusalReason,
    pub(crate) text: String,
}

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
    /// A reason that a newer version knows.
    Other,
}

/// Between control threads.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum ControlMessage {
    AskMembers,
    Members {
        records: Vec<Record>,
        /// Members that are dead and may come back with what they hold, each with for how long they have been.
        absent: Vec<(Identity, Duration)>,
    },
    /// Also its own answer.
    Status(Status),
    /// With the asker's number for this round of questions, which the answer repeats.
    AskDebt {
        round: u64,
    },
    Debt {
        round: u64,
        debt: NodeDebt,
    },
    /// Connect to me where I say that I am, and ping me.
    DialBack {
        identity: Identity,
    },
    DialedBack {
        tcp: Reached,
        /// A ping was answered.
        udp: bool,
    },
}

/// What connecting to a node came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reached {
    Yes,
    NobodyListens,
    NoAnswer,
    SomebodyElse,
}

/// What is missing before any node may be stopped, as one node knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NodeDebt {
    /// Of the members that it sees, as in [`Status`].
    pub(crate) members_digest: u64,
    /// As in [`Debt`](crate::shard::Debt).
    pub(crate) copies: u32,
    pub(crate) writes: u32,
}

/// What a node tells the others until the cluster's first lists are born.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Status {
    /// [`Placement::digest`](crate::placement::Placement::digest) of the members it sees.
    pub(crate) members_digest: u64,
    pub(crate) stage: Stage,
}

/// A question about one partition, from core to core.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Request {
    Write {
        list: ListRef,
        entry: Entry,
    },
    Read {
        list: ListRef,
        key: Box<[u8]>,
        want: Want,
    },
    AskList,
    /// With the sender's horizon of the partition.
    Adopt {
        list: Arc<List>,
        horizon: Version,
    },
    Fetch(Fetch),
    Receipt {
        list: ListRef,
        covers: u64,
    },
    Compare(Compare),
    /// "You serve this list as I do, and differed from me: merge what I hold."
    Repair {
        list: ListRef,
    },
    /// "Do you hold anything older of these keys?" Without any, whether the receiver has merged since it was asked.
    Purge {
        list: ListRef,
        /// Of the members that the asker sees, as in [`Status`].
        members_digest: u64,
        dead: Vec<Dead>,
    },
    /// "Drop these: nobody holds anything older."
    Purged {
        dead: Vec<Dead>,
    },
    Survey(Survey),
    /// "Write these in your data center." Each of a partition of the asked core.
    Relay {
        entries: Vec<Entry>,
    },
    /// "Read this in your data center."
    Forward {
        key: Box<[u8]>,
    },
}

impl Request {
    /// The list that the receiver should know of. The horizon is put in where it is sent.
    pub(crate) fn adopt(list: Arc<List>) -> Self {
        Self::Adopt { list, horizon: Version::ZERO }
    }
}

/// "Do you hold what I hold?" About all these partitions at once, each of the asked core.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Compare {
    pub(crate) partitions: Vec<Partition>,
    /// One digest for what the asker holds of all of them.
    pub(crate) digest: u64,
}

/// "This is what I have of a part of this partition; what do you?"
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Survey {
    pub(crate) list: ListRef,
    /// Behind which hash the part begins, and with which one it ends.
    pub(crate) after: Option<KeyHash>,
    pub(crate) until: Option<KeyHash>,
    /// The asker's: a value up to this that it lacks, it may have evicted, or a newer one.
    pub(crate) mark: Version,
    pub(crate) seen: Vec<Seen>,
}

/// One entry that a replica has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Seen {
    pub(crate) hash: KeyHash,
    pub(crate) version: Version,
    /// Of all of its state.
    pub(crate) digest: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Want {
    Entry,
    Version,
}

/// "Give me your entries of this partition", a chunk at a time, in the order of their hashes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fetch {
    /// Where the previous chunk ended.
    pub(crate) after: Option<KeyHash>,
    /// Only entries that the source stored after this point of its sequence.
    pub(crate) since: u64,
    /// The asker's digest: equal contents need no transfer. Only looked at in a first chunk.
    pub(crate) digest: u64,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Answer {
    /// The entry, or a newer one (then its version), is stored here. A replica that is not `synced` must
    /// not be counted.
    Written {
        superseded_by: Option<Version>,
        synced: bool,
    },
    /// Not now: a replica has no room for the write, which was not applied; a member agrees to no purge.
    Declined,
    Found {
        found: Found,
        synced: bool,
    },
    /// This node serves another list of the partition, or none.
    OtherList {
        list: Option<Arc<List>>,
        /// As in [`Listed`].
        horizon: Version,
    },
    Listed(Listed),
    Chunk(Chunk),
    /// Whether the receipt covers the last change.
    Received {
        covered: bool,
    },
    Compared(Compared),
    /// It is no newer than the replica's horizon of the partition, and of a key that it does not hold: it may be
    /// older than what was purged, and was not applied.
    TooOld {
        horizon: Version,
        synced: bool,
    },
    Purgeable {
        /// How often this node has merged what others hold of the partition, since it was started.
        merges: u64,
        /// Which of the keys may go, by their places in the question, in order.
        places: Vec<u16>,
    },
    Purged,
    Surveyed(Surveyed),
    /// Which of the entries W replicas have applied, by their places in the question, in order.
    Relayed {
        places: Vec<u16>,
    },
}

/// How another replica differs from what the asker said it has.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Surveyed {
    /// What the asker lacks, or has an older state of.
    pub(crate) entries: Vec<Entry>,
    /// Keys that this replica lacks, of which it may have evicted something up to this mark.
    pub(crate) missing: Vec<KeyHash>,
    pub(crate) mark: Version,
    /// Keys of which the asker has a newer state.
    pub(crate) outdated: Vec<KeyHash>,
    /// With which hash the part ended that was compared; `None` with the last.
    pub(crate) next: Option<KeyHash>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Compared {
    /// The same, all of it.
    Alike,
    /// What this node holds of them; those that are not to be compared are left out.
    Differ(Vec<Held>),
}

/// What a replica holds of a partition: equal digests in one list are equal contents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    pub(crate) partition: Partition,
    pub(crate) list: ListRef,
    pub(crate) digest: u64,
    /// It lacks what others may hold, for want of room: the digest says nothing.
    pub(crate) has_gaps: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Found {
    /// It is not here. A state up to the mark may have been, and was evicted.
    Absent {
        mark: Version,
    },
    /// Only asked for: a value's version, or a tombstone's.
    Version(Version),
    Entry(Entry),
}

/// What a node knows of a partition.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Listed {
    /// The highest list it adopted or heard of.
    pub(crate) list: Option<Arc<List>>,
    pub(crate) synced: bool,
    /// It has entries, synced or not.
    pub(crate) holds: bool,
    /// Of the partition.
    pub(crate) horizon: Version,
    /// Of the members that it sees, as in [`Status`].
    pub(crate) members_digest: u64,
}

/// Some entries of a partition.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Chunk {
    pub(crate) entries: Vec<Entry>,
    /// Where to go on; `None` after the last.
    pub(crate) next: Option<KeyHash>,
    /// The source's sequence when it answered: a receipt for it covers everything before.
    pub(crate) sequence: u64,
}
