//! Every message between nodes, told as the protocol's story.
//!
//! Connections have a direction: the opener asks, the acceptor answers. Each answer carries the
//! request id of its question. A node asks over connections that it opened itself. So two nodes
//! that talk both ways hold two connections, never wait for each other, and never dial "the same"
//! one twice.
//!
//! **Opening.** The control thread and the cores all open the same way; the acceptor's control
//! thread judges.
//!
//! ```text
//! opener ──[Proof]──▶ and ◀──[Proof]──   on a secured connection, before Hello and Welcome
//! opener ──[Hello: who I am, which cluster, which core I want]──▶ control thread of the acceptor
//! opener ◀──[Welcome: who I am]── …and the socket moves to the wanted core
//! opener ◀──[Refused: why]──      …and both sides close
//! ```
//!
//! **Between control threads**, which hold one connection each way as long as both nodes live. Its
//! loss is the first sign of a crash.
//!
//! ```text
//! A ──[AskMembers]──▶ B              A ◀──[Members: all that B knows]── B
//!                                         a joiner learns the cluster at once
//! A ──[Status: whom I see, am I born?]──▶ B      A ◀──[Status]── B
//!                                         until the first lists are born
//! A ──[AskDebt]──▶ B                 A ◀──[Debt: what I lack or owe]── B
//!                                         while an app waits until that is nothing on every node
//! A ──[DialBack: my address]──▶ B    A ◀──[DialedBack: how it went]── B
//!                                         whether the others can reach A
//! ```
//!
//! Two nodes that both live might never reach each other. So what a member tells of itself (its
//! details, its status, its debt) is also taken from another member that it told.
//!
//! **Between cores**, always about one partition, which the frame's header names. Each request of
//! the data path names the list in which its sender counts. A replica that serves another list
//! answers [`Answer::OtherList`], and is not counted.
//!
//! ```text
//! coordinator ──[Write: entry]──▶ replica      ◀──[Written]   after it was applied
//!                                              ◀──[Declined]  not now: it was not applied
//!                                              ◀──[NoRoom]    its memory is full: not applied
//!                                              ◀──[TooOld]    refused: it might have been purged
//! coordinator ──[Read: key]──▶ replica         ◀──[Found]     the entry, or only its version
//! ```
//!
//! **Changing a partition's list.** The driver is a node that should hold the partition and does
//! not yet:
//!
//! ```text
//! newcomer ──[AskList]──▶ members              ◀──[Listed]    which list is the highest?
//! newcomer ──[Fetch]──▶ a replica              ◀──[Chunk]…    bulk copy; the old list still counts
//! newcomer ──[Prepare: ballot]──▶ acceptors    ◀──[Promised]  nothing below it is accepted
//! newcomer ──[Accept: new list]──▶ acceptors   ◀──[Accepted]  they count in the old one no more
//! newcomer ──[Adopt: new list]──▶ old and new  ◀──[Listed]    it is decided: only this one counts
//! newcomer ──[Fetch: what changed]──▶ replicas ◀──[Chunk]…    now it holds all: it is synced
//! newcomer ──[Receipt: I hold your last change]──▶ old replica
//!                                              ◀──[Received]  if it has left, it can drop its copy
//! ```
//!
//! An acceptor that has promised a higher ballot answers `Refused`.
//!
//! **Comparing**, in the background, between replicas that serve the same list (`anti_entropy` says
//! when):
//!
//! ```text
//! replica ──[Compare: digest of some partitions]──▶ replica
//!                                              ◀──[Compared]  all alike, or what it holds of each
//! replica ──[Repair: I have merged you]──▶ replica
//!                                              ◀──[Listed]    then it fetches from the asker
//! replica ──[Survey: each key's version]──▶ replica
//!                                              ◀──[Surveyed]  what differs, key by key
//! replica ──[Give: entries]──▶ replica         ◀──[Listed]    it has merged what it lacked
//! ```
//!
//! **Forgetting** what was deleted long ago, between all members (`purge` says when):
//!
//! ```text
//! replica ──[Purge: do you hold older states of these?]──▶ every member
//!                                              ◀──[Purgeable] of which keys it holds none
//!                                              ◀──[Declined]  it agrees to nothing now
//! replica ──[Purged: drop these]──▶ the other replicas
//!                                              ◀──[Purged]
//! ```
//!
//! A member that the replica does not reach is asked through another one, which passes on question
//! and answer. If it gets none it says `Unreached`, and `Busy` if it has too much to pass on.
//!
//! **To another data center**, whose lists are its own (`relay` says when):
//!
//! ```text
//! coordinator ──[Relay: entries]──▶ relay      ◀──[Relayed]   which of them W replicas there have
//! coordinator ──[Forward: key]──▶ any member   ◀──[Found]     as a read there finds it
//! ```
//!
//! A data center that the coordinator does not reach gets its relayed writes through a member of a
//! third one, as questions of purge do. Nothing else passes between data centers but what copies or
//! compares whole partitions, and what purges.
//!
//! A published message never changes: a new need is a new message (`codec` says why).

use std::sync::Arc;

use crate::clock::Version;
use crate::entry::Entry;
use crate::membership::Record;
use crate::membership::claims::SaidClaim;
use crate::options::OnPartition;
use crate::placement::{Ballot, List, ListRef, Site, Stage};
use crate::quorums::Count;
use crate::types::{Boot, Identity, KeyHash, NodeId, Partition};
pub(crate) use crate::wire::opening::{Channel, Hello, Proof, Refusal, RefusalReason};
use crate::wire::retention::{AbsentMember, PurgeMark};

/// A message with its frame's addressing.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Frame {
    /// The partition that the message is about; partition zero if it is about none.
    pub(crate) partition: Partition,
    /// Chosen by the asker, unique on its connection, and repeated by the answer.
    pub(crate) request_id: u64,
    pub(crate) message: Message,
}

/// What a frame says: one of the opening, of the control threads, or of the cores.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Message {
    /// Comes before HELLO and before WELCOME, on a secured connection alone.
    Proof(Proof),
    Hello(Hello),
    Welcome(Hello),
    Refused(Refusal),
    Control(ControlMessage),
    Request(Request),
    Answer(Answer),
}

/// What control threads say to each other.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum ControlMessage {
    AskMembers,
    Members {
        records: Vec<Record>,
        /// Dead members that might come back with what they hold.
        absent: Vec<AbsentMember>,
        /// What the sender knows of the members that live, itself among them.
        details: Vec<MemberDetails>,
        /// What nodes have claimed of themselves, and signed.
        claims: Vec<SaidClaim>,
    },
    /// It is also its own answer.
    Status {
        status: Status,
        /// Members that the sender does not reach: it wants to know what they told.
        asks: Vec<Identity>,
        /// The answer to `asks`: what those members told the sender themselves.
        heard: Vec<(Identity, Status)>,
    },
    AskDebt {
        /// The asker's number for this round of questions. The answer repeats it.
        round: u64,
        /// The member that the asker does not reach, and whose debt it wants to know. `None` is the
        /// receiver itself.
        of: Option<Identity>,
    },
    Debt {
        round: u64,
        /// The member that was asked about, as the question named it.
        of: Option<Identity>,
        debt: NodeDebt,
    },
    /// "Connect to me at the address that I give, and ping me there."
    DialBack {
        identity: Identity,
    },
    DialedBack {
        tcp: Reached,
        /// Whether a ping was answered.
        udp: bool,
    },
}

/// What a member said of itself in its [`Hello`], as another member passes it on.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct MemberDetails {
    /// The life of the node that said so.
    pub(crate) boot: Boot,
    pub(crate) protocol: (u16, u16),
    pub(crate) id: NodeId,
    pub(crate) cores: u16,
    pub(crate) replicas: Count,
    pub(crate) write_quorum: Count,
    pub(crate) read_quorum: Count,
    pub(crate) on_partition: OnPartition,
    pub(crate) site: Site,
}

impl MemberDetails {
    /// Returns what a node says of itself in this HELLO.
    pub(crate) fn of(hello: &Hello) -> Self {
        Self {
            boot: hello.identity.boot,
            protocol: hello.protocol,
            id: NodeId::new(&hello.node_id),
            cores: hello.cores,
            replicas: hello.replicas,
            write_quorum: hello.write_quorum,
            read_quorum: hello.read_quorum,
            on_partition: hello.on_partition,
            site: Site {
                data_center: hello.data_center.as_str().into(),
                zone: hello.zone.as_str().into(),
                weight: hello.weight,
            },
        }
    }
}

/// How an attempt to connect to a node ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reached {
    Yes,
    NobodyListens,
    NoAnswer,
    SomebodyElse,
    /// No attempt was made: too many others are under way. The asker asks again.
    NotTried,
}

/// What one node knows to be missing before it is safe to stop a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NodeDebt {
    /// The digest of the members that the node sees, as in [`Status`].
    pub(crate) members_digest: u64,
    /// Copies that might lack something, also of what other data centers hold, that the node has
    /// yet to give away, or for which there is no member.
    pub(crate) copies: u32,
    /// Writes that the node acknowledged and some replica did not, for longer than a write takes.
    pub(crate) writes: u32,
    /// Bytes that the node should hold and has no room for.
    pub(crate) missing_bytes: u64,
}

/// What a node tells the others until the cluster's first lists are born.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Status {
    /// [`Placement::digest`](crate::placement::Placement::digest) of the members that the node
    /// sees.
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
    /// "Promise to accept nothing below this ballot as what follows this list."
    Prepare {
        list: ListRef,
        ballot: Ballot,
    },
    /// "Accept this as the list that follows, and count in the old one no more."
    Accept {
        list: ListRef,
        ballot: Ballot,
        value: Arc<List>,
    },
    /// "This is the partition's list, unless you know of a higher one."
    Adopt {
        list: Arc<List>,
        /// The sender's, of the partition.
        purged: PurgeMark,
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
        /// Whether the sender wants a [`Request::Receipt`] then, as a giver does.
        wants_receipt: bool,
    },
    /// "Do you hold older states of these keys?" Without keys it asks whether the receiver has
    /// merged since it was asked last.
    Purge {
        list: ListRef,
        /// The digest of the members that the asker sees, as in [`Status`].
        members_digest: u64,
        dead: Vec<Dead>,
        route: Option<Route>,
    },
    /// "Drop these: no member holds an older state."
    Purged {
        dead: Vec<Dead>,
        route: Option<Route>,
    },
    Survey(Survey),
    /// "You lack these: merge them." A repair, which is never refused for its age.
    Give {
        list: ListRef,
        entries: Vec<Entry>,
    },
    /// "Write these in your data center." Each is of a partition of the asked core.
    Relay {
        entries: Vec<Entry>,
        route: Option<Route>,
    },
    /// "Read this in your data center."
    Forward {
        key: Box<[u8]>,
    },
}

/// A key without a value: its hash, and the version of what deleted it.
pub(crate) type Dead = (KeyHash, Version);

/// The way of a question whose asker does not reach the member that it asks: asker, helper, member.
/// The helper passes the question on as it is, and the answer back. It has no say in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Route {
    pub(crate) asker: Identity,
    pub(crate) to: Identity,
}

/// How many dead keys one message names at most, 16 bytes each: 16 KiB.
pub(crate) const MAX_DEAD_KEYS: usize = 1024;

/// "Do you hold what I hold?" It is about all these partitions at once, each of the asked core.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Compare {
    pub(crate) partitions: Vec<Partition>,
    /// One digest of what the asker holds of all of them.
    pub(crate) digest: u64,
}

/// "This is what I have of a part of this partition; what do you?"
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Survey {
    pub(crate) list: ListRef,
    /// The hash behind which the part begins; `None` is the start of the partition.
    pub(crate) after: Option<KeyHash>,
    /// The hash with which the part ends; `None` is the end of the partition.
    pub(crate) until: Option<KeyHash>,
    /// The asker's eviction watermark. Of what it lacks up to this version, it might have evicted
    /// that state or a newer one.
    pub(crate) eviction_watermark: Version,
    pub(crate) seen: Vec<Seen>,
}

/// One entry that a replica has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Seen {
    pub(crate) hash: KeyHash,
    pub(crate) version: Version,
    /// The digest of all of its state.
    pub(crate) digest: u64,
}

/// What a read wants to be told of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Want {
    Entry,
    Version,
}

/// "Give me your entries of this partition": a chunk at a time, in the order of their hashes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fetch {
    /// The list that the source must know, or else it answers with its own; none is named by
    /// number zero.
    pub(crate) list: ListRef,
    /// The hash with which the previous chunk ended; `None` for the first chunk.
    pub(crate) after: Option<KeyHash>,
    /// Only entries that the source stored after this point of its sequence.
    pub(crate) since: u64,
    /// The asker's digest: equal contents need no transfer. The source looks at it for a first
    /// chunk only.
    pub(crate) digest: u64,
}

/// What a core answers to a [`Request`].
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Answer {
    /// The replica stores the entry, or a newer one, of which it then tells the version. A replica
    /// that is not `synced` must not be counted.
    Written {
        superseded_by: Option<Version>,
        synced: bool,
    },
    /// Not now. A replica does not apply the write now, or a member agrees to no purge.
    Declined,
    /// The replica's memory is full of what must not be evicted, and it did not apply the write.
    NoRoom {
        /// The replica's memory limit, for all of its cores.
        max_memory: u64,
    },
    Found {
        found: Found,
        synced: bool,
    },
    /// This node serves another list of the partition, or none.
    OtherList {
        list: Option<Arc<List>>,
        purged: PurgeMark,
    },
    Listed(Listed),
    /// What the acceptor has accepted under a lower ballot, if anything.
    Promised {
        accepted: Option<(Ballot, Arc<List>)>,
        /// What it has of what was acknowledged before the list. It says nothing of a witness.
        extent: Extent,
    },
    Accepted,
    /// A higher ballot was promised.
    Refused {
        promised: Ballot,
    },
    Chunk(Chunk),
    Received {
        /// Whether the receipt covers the last change.
        covered: bool,
    },
    Compared(Compared),
    /// The entry was not applied: the replica does not hold the key, and the version is not above
    /// the partition's purge horizon. So the entry might be older than what was purged.
    TooOld {
        purge_horizon: Version,
        synced: bool,
    },
    Purgeable {
        /// How often this node, since its start, has merged what others hold of the partition.
        merges: u64,
        /// The keys that can go, by their places in the question, in order.
        places: Vec<u16>,
    },
    Purged,
    /// A helper did not get an answer from the member to which it passed the question on.
    Unreached,
    /// A helper has too much to pass on now, and has not passed the question on.
    Busy,
    Surveyed(Surveyed),
    Relayed {
        /// The entries that W replicas have applied, by their places in the question, in order.
        places: Vec<u16>,
    },
}

/// How another replica differs from what the asker said it has.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Surveyed {
    /// Entries that the asker lacks, or of which it has an older state.
    pub(crate) entries: Vec<Entry>,
    /// Keys that the answering replica lacks, perhaps because it evicted them.
    pub(crate) missing: Vec<KeyHash>,
    /// Its eviction watermark.
    pub(crate) eviction_watermark: Version,
    /// Keys of which the asker has a newer state.
    pub(crate) outdated: Vec<KeyHash>,
    /// The hash with which the compared part ended; `None` after the last part.
    pub(crate) next: Option<KeyHash>,
}

/// How what a replica holds compares with what the asker holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Compared {
    /// All of it is the same.
    Alike,
    /// What this replica holds of each partition. Those that are not to be compared are left out.
    Differ(Vec<Held>),
}

/// What a replica holds of a partition: in one list, equal digests are equal contents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    pub(crate) partition: Partition,
    pub(crate) list: ListRef,
    pub(crate) digest: u64,
    /// Whether it lacks, for want of room, what others might hold. Then the digest says nothing.
    pub(crate) has_gaps: bool,
}

/// What a replica has of a key.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Found {
    /// It has nothing.
    Absent {
        /// The eviction watermark: a state up to this version might have existed here.
        eviction_watermark: Version,
    },
    /// The version of what it has, a value or a tombstone, if only that was asked for.
    Version(Version),
    Entry(Entry),
}

/// What a node knows of a partition.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Listed {
    /// The highest list that it heard of.
    pub(crate) list: Option<Arc<List>>,
    pub(crate) purged: PurgeMark,
    /// The digest of the members that the node sees, as in [`Status`].
    pub(crate) members_digest: u64,
}

/// What a replica has of what was acknowledged before a list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) enum Extent {
    /// It might lack anything.
    #[default]
    Any,
    /// It might lack anything. It was a member of the list before, and acknowledged nothing there.
    Idle,
    /// It has the list open, or had the one before open: of such replicas at most N − W lack an
    /// acknowledged write.
    Open,
    /// In addition it has all that was acknowledged before the list before.
    WholeBefore,
    /// It has all.
    Whole,
}

/// Some entries of a partition.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Chunk {
    pub(crate) entries: Vec<Entry>,
    /// The hash behind which the next chunk begins; `None` after the last.
    pub(crate) next: Option<KeyHash>,
    /// The source's sequence when it answered. A receipt for it covers every change up to it.
    pub(crate) sequence: u64,
    /// What the source has of what was acknowledged before the list that was named.
    pub(crate) extent: Extent,
    pub(crate) purged: PurgeMark,
    /// Whether the partition began empty in this life of its data center, and was not compared with
    /// another one yet.
    pub(crate) is_behind: bool,
}
