//! The bytes of each message: `rkyv` archives, checked, then read where they lie.
//!
//! A frame's type selects one struct; there is no enum at the root, so that a new, larger message never
//! changes the size of an old one. rkyv's layout *is* the protocol: a published struct never changes, and
//! the sizes of all of them are asserted below, so that neither an edit nor a feature that another crate
//! turns on can change the wire unseen.
//!
//! Keys travel without their hash: the shard computes it, so that no peer can put a key where it does
//! not belong. Key and value are copied once, from the receive buffer into their entry.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use rkyv::api::high;
use rkyv::rancor::{Failure, Panic};
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::frame::{self, Encoded, FrameError, Header};
use super::message::*;
use crate::clock::Version;
use crate::entry::{Content, Entry};
use crate::membership::{Record, State};
use crate::placement::{List, ListRef, Stage};
use crate::replication::purge::{Dead, MOST_KEYS};
use crate::types::{
    ALL, Boot, CoreId, Identity, KeyHash, MAX_KEY_BYTES, MAX_VALUE_BYTES, NodeHash, PARTITIONS, Partition,
};

/// Versions and list numbers above this come from no node that works: the year 2094, or as many changes of
/// a list. Refused, so that what is counted up from them never wraps around.
const MOST: u64 = u64::MAX - (1 << 60);

/// The frame types. Numbers are never reused.
mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const WELCOME: u8 = 2;
    pub(super) const REFUSED: u8 = 3;
    pub(super) const ASK_MEMBERS: u8 = 4;
    pub(super) const MEMBERS: u8 = 5;
    pub(super) const STATUS: u8 = 6;
    pub(super) const ASK_DEBT: u8 = 7;
    pub(super) const DEBT: u8 = 8;
    pub(super) const DIAL_BACK: u8 = 9;
    pub(super) const DIALED_BACK: u8 = 10;
    pub(super) const WRITE: u8 = 16;
    pub(super) const READ: u8 = 17;
    pub(super) const ASK_LIST: u8 = 18;
    pub(super) const ADOPT: u8 = 19;
    pub(super) const FETCH: u8 = 20;
    pub(super) const RECEIPT: u8 = 21;
    pub(super) const COMPARE: u8 = 22;
    pub(super) const REPAIR: u8 = 23;
    pub(super) const PURGE: u8 = 24;
    pub(super) const PURGED: u8 = 25;
    pub(super) const SURVEY: u8 = 26;
    pub(super) const RELAY: u8 = 27;
    pub(super) const FORWARD: u8 = 28;
    pub(super) const WRITTEN: u8 = 32;
    pub(super) const FOUND: u8 = 33;
    pub(super) const OTHER_LIST: u8 = 34;
    pub(super) const LISTED: u8 = 35;
    pub(super) const CHUNK: u8 = 36;
    pub(super) const RECEIVED: u8 = 37;
    pub(super) const DECLINED: u8 = 38;
    pub(super) const COMPARED: u8 = 39;
    pub(super) const TOO_OLD: u8 = 40;
    pub(super) const PURGEABLE: u8 = 41;
    pub(super) const HAS_PURGED: u8 = 42;
    pub(super) const SURVEYED: u8 = 43;
    pub(super) const RELAYED: u8 = 44;
}

#[derive(Archive, Serialize, Clone, Copy)]
struct WireIdentity {
    node: u64,
    boot: u64,
    ip: [u8; 16],
    port: u16,
    returns: u16,
}

#[derive(Archive, Serialize)]
struct WireHello<'a> {
    identity: WireIdentity,
    expects_node: u64,
    expects_boot: u64,
    protocol_min: u16,
    protocol_max: u16,
    cores: u16,
    partitions: u16,
    channel: u16,
    majority_of: u16,
    weight: u16,
    replicas: u8,
    write_quorum: u8,
    expects: bool,
    #[rkyv(with = InlineAsBox)]
    cluster: &'a str,
    #[rkyv(with = InlineAsBox)]
    node_id: &'a str,
    #[rkyv(with = InlineAsBox)]
    data_center: &'a str,
    #[rkyv(with = InlineAsBox)]
    zone: &'a str,
}

#[derive(Archive, Serialize)]
struct WireRefusal<'a> {
    reason: u16,
    #[rkyv(with = InlineAsBox)]
    text: &'a str,
}

#[derive(Archive, Serialize, Clone, Copy)]
struct WireRecord {
    identity: WireIdentity,
    state: u8,
    leaving: bool,
}

#[derive(Archive, Serialize)]
struct WireAbsent {
    identity: WireIdentity,
    for_ms: u64,
}

#[derive(Archive, Serialize)]
struct WireMembers {
    records: Vec<WireRecord>,
    absent: Vec<WireAbsent>,
}

#[derive(Archive, Serialize)]
struct WireStatus {
    members_digest: u64,
    born_digest: u64,
    origin: u8,
}

#[derive(Archive, Serialize)]
struct WireAskDebt {
    round: u64,
}

#[derive(Archive, Serialize)]
struct WireDialBack {
    identity: WireIdentity,
}

#[derive(Archive, Serialize)]
struct WireDialedBack {
    tcp: u8,
    udp: bool,
}

#[derive(Archive, Serialize)]
struct WireDebt {
    round: u64,
    members_digest: u64,
    copies: u32,
    writes: u32,
}

#[derive(Archive, Serialize, Clone, Copy)]
struct WireListRef {
    number: u64,
    digest: u64,
}

#[derive(Archive, Serialize)]
struct WireList {
    number: u64,
    /// Number zero where it has none.
    base: WireListRef,
    members: Vec<WireIdentity>,
}

#[derive(Archive, Serialize)]
struct WireAdopt {
    horizon: u64,
    list: WireList,
}

#[derive(Archive, Serialize)]
struct WireEntry<'a> {
    version: u64,
    expires_at_ms: u64,
    content_hash: u32,
    content: u8,
    #[rkyv(with = InlineAsBox)]
    key: &'a [u8],
    #[rkyv(with = InlineAsBox)]
    value: &'a [u8],
}

#[derive(Archive, Serialize)]
struct WireWrite<'a> {
    list: WireListRef,
    entry: WireEntry<'a>,
}

#[derive(Archive, Serialize)]
struct WireRead<'a> {
    list: WireListRef,
    version_only: bool,
    #[rkyv(with = InlineAsBox)]
    key: &'a [u8],
}

#[derive(Archive, Serialize)]
struct WireFetch {
    after: u64,
    since: u64,
    digest: u64,
    from_start: bool,
}

#[derive(Archive, Serialize)]
struct WireReceipt {
    list: WireListRef,
    covers: u64,
}

#[derive(Archive, Serialize)]
struct WireWritten {
    superseded_by: u64,
    synced: bool,
}

#[derive(Archive, Serialize)]
struct WireFound<'a> {
    /// Where it is absent, the mark.
    version: u64,
    entry: Option<WireEntry<'a>>,
    absent: bool,
    synced: bool,
}

#[derive(Archive, Serialize)]
struct WireListed {
    list: Option<WireList>,
    horizon: u64,
    members_digest: u64,
    synced: bool,
    holds: bool,
}

#[derive(Archive, Serialize)]
struct WireChunk<'a> {
    sequence: u64,
    next: u64,
    done: bool,
    entries: Vec<WireEntry<'a>>,
}

#[derive(Archive, Serialize)]
struct WireReceived {
    covered: bool,
}

#[derive(Archive, Serialize)]
struct WireCompare {
    digest: u64,
    partitions: Vec<u16>,
}

#[derive(Archive, Serialize)]
struct WireRepair {
    list: WireListRef,
}

#[derive(Archive, Serialize)]
struct WireHeld {
    list: WireListRef,
    digest: u64,
    partition: u16,
    has_gaps: bool,
}

#[derive(Archive, Serialize)]
struct WireCompared {
    held: Vec<WireHeld>,
    alike: bool,
}

#[derive(Archive, Serialize, Clone, Copy)]
struct WireDead {
    hash: u64,
    version: u64,
}

#[derive(Archive, Serialize)]
struct WirePurge {
    list: WireListRef,
    members_digest: u64,
    dead: Vec<WireDead>,
}

#[derive(Archive, Serialize)]
struct WirePurged {
    dead: Vec<WireDead>,
}

#[derive(Archive, Serialize)]
struct WireTooOld {
    horizon: u64,
    synced: bool,
}

#[derive(Archive, Serialize)]
struct WirePurgeable {
    merges: u64,
    places: Vec<u16>,
}

#[derive(Archive, Serialize)]
struct WireRelay<'a> {
    entries: Vec<WireEntry<'a>>,
}

#[derive(Archive, Serialize)]
struct WireForward<'a> {
    #[rkyv(with = InlineAsBox)]
    key: &'a [u8],
}

#[derive(Archive, Serialize)]
struct WireRelayed {
    places: Vec<u16>,
}

#[derive(Archive, Serialize)]
struct WireSeen {
    hash: u64,
    version: u64,
    digest: u64,
}

#[derive(Archive, Serialize)]
struct WireSurvey {
    list: WireListRef,
    after: u64,
    until: u64,
    mark: u64,
    from_start: bool,
    to_end: bool,
    seen: Vec<WireSeen>,
}

#[derive(Archive, Serialize)]
struct WireSurveyed<'a> {
    mark: u64,
    next: u64,
    done: bool,
    entries: Vec<WireEntry<'a>>,
    missing: Vec<u64>,
    outdated: Vec<u64>,
}

const _: () = {
    assert!(size_of::<ArchivedWireIdentity>() == 40);
    assert!(size_of::<ArchivedWireHello>() == 112);
    assert!(size_of::<ArchivedWireRefusal>() == 12);
    assert!(size_of::<ArchivedWireRecord>() == 48);
    assert!(size_of::<ArchivedWireAbsent>() == 48);
    assert!(size_of::<ArchivedWireMembers>() == 16);
    assert!(size_of::<ArchivedWireStatus>() == 24);
    assert!(size_of::<ArchivedWireAskDebt>() == 8);
    assert!(size_of::<ArchivedWireDebt>() == 24);
    assert!(size_of::<ArchivedWireList>() == 32);
    assert!(size_of::<ArchivedWireEntry>() == 40);
    assert!(size_of::<ArchivedWireWrite>() == 56);
    assert!(size_of::<ArchivedWireRead>() == 32);
    assert!(size_of::<ArchivedWireFetch>() == 32);
    assert!(size_of::<ArchivedWireReceipt>() == 24);
    assert!(size_of::<ArchivedWireWritten>() == 16);
    assert!(size_of::<ArchivedWireFound>() == 64);
    assert!(size_of::<ArchivedWireAdopt>() == 40);
    assert!(size_of::<ArchivedWireListed>() == 64);
    assert!(size_of::<ArchivedWireChunk>() == 32);
    assert!(size_of::<ArchivedWireReceived>() == 1);
    assert!(size_of::<ArchivedWireCompare>() == 16);
    assert!(size_of::<ArchivedWireRepair>() == 16);
    assert!(size_of::<ArchivedWireHeld>() == 32);
    assert!(size_of::<ArchivedWireCompared>() == 12);
    assert!(size_of::<ArchivedWirePurge>() == 32);
    assert!(size_of::<ArchivedWirePurged>() == 8);
    assert!(size_of::<ArchivedWireTooOld>() == 16);
    assert!(size_of::<ArchivedWirePurgeable>() == 16);
    assert!(size_of::<ArchivedWireSeen>() == 24);
    assert!(size_of::<ArchivedWireSurvey>() == 56);
    assert!(size_of::<ArchivedWireSurveyed>() == 48);
    assert!(size_of::<ArchivedWireRelay>() == 8);
    assert!(size_of::<ArchivedWireForward>() == 8);
    assert!(size_of::<ArchivedWireRelayed>() == 8);
};

pub(crate) fn encode(frame: &Frame) -> Encoded {
    let (kind, bytes) = match &frame.message {
        Message::Hello(hello) => (kind::HELLO, archive(&wire_hello(hello))),
        Message::Welcome(hello) => (kind::WELCOME, archive(&wire_hello(hello))),
        Message::Refused(Refusal { reason, text }) => {
            (kind::REFUSED, archive(&WireRefusal { reason: reason_number(*reason), text }))
        }
        Message::Control(message) => encode_control(message),
        Message::Request(request) => encode_request(request),
        Message::Answer(answer) => encode_answer(answer),
    };
    frame::finish(bytes, kind, frame.partition, frame.request_id)
}

fn encode_control(message: &ControlMessage) -> (u8, Encoded) {
    match message {
        ControlMessage::AskMembers => (kind::ASK_MEMBERS, frame::begin()),
        ControlMessage::Members { records, absent } => {
            let records = records.iter().map(wire_record).collect();
            let absent = absent.iter().map(wire_absent).collect();
            (kind::MEMBERS, archive(&WireMembers { records, absent }))
        }
        ControlMessage::Status(Status { members_digest, stage }) => {
            let (origin, born_digest) = match stage {
                Stage::Forming => (0, 0),
                Stage::Born { members_digest } => (1, *members_digest),
                Stage::Joined => (2, 0),
            };
            (kind::STATUS, archive(&WireStatus { members_digest: *members_digest, born_digest, origin }))
        }
        ControlMessage::AskDebt { round } => (kind::ASK_DEBT, archive(&WireAskDebt { round: *round })),
        ControlMessage::Debt { round, debt } => {
            let NodeDebt { members_digest, copies, writes } = *debt;
            (kind::DEBT, archive(&WireDebt { round: *round, members_digest, copies, writes }))
        }
        ControlMessage::DialBack { identity } => {
            (kind::DIAL_BACK, archive(&WireDialBack { identity: wire_identity(identity) }))
        }
        ControlMessage::DialedBack { tcp, udp } => {
            let tcp = match tcp {
                Reached::Yes => 0,
                Reached::NobodyListens => 1,
                Reached::NoAnswer => 2,
                Reached::SomebodyElse => 3,
            };
            (kind::DIALED_BACK, archive(&WireDialedBack { tcp, udp: *udp }))
        }
    }
}

fn encode_request(request: &Request) -> (u8, Encoded) {
    match request {
        Request::Write { list, entry } => {
            (kind::WRITE, archive(&WireWrite { list: wire_ref(*list), entry: wire_entry(entry) }))
        }
        Request::Read { list, key, want } => {
            let version_only = *want == Want::Version;
            (kind::READ, archive(&WireRead { list: wire_ref(*list), version_only, key }))
        }
        Request::AskList => (kind::ASK_LIST, frame::begin()),
        Request::Adopt { list, horizon } => {
            (kind::ADOPT, archive(&WireAdopt { horizon: horizon.0, list: wire_list(list) }))
        }
        Request::Fetch(Fetch { after, since, digest }) => {
            let from_start = after.is_none();
            let after = after.map_or(0, |hash| hash.0);
            (kind::FETCH, archive(&WireFetch { after, since: *since, digest: *digest, from_start }))
        }
        Request::Receipt { list, covers } => {
            (kind::RECEIPT, archive(&WireReceipt { list: wire_ref(*list), covers: *covers }))
        }
        Request::Compare(Compare { partitions, digest }) => {
            let partitions = partitions.iter().map(|partition| partition.index()).collect();
            (kind::COMPARE, archive(&WireCompare { digest: *digest, partitions }))
        }
        Request::Repair { list } => (kind::REPAIR, archive(&WireRepair { list: wire_ref(*list) })),
        Request::Purge { list, members_digest, dead } => {
            let (list, members_digest, dead) = (wire_ref(*list), *members_digest, wire_dead(dead));
            (kind::PURGE, archive(&WirePurge { list, members_digest, dead }))
        }
        Request::Relay { entries } => {
            (kind::RELAY, archive(&WireRelay { entries: entries.iter().map(wire_entry).collect() }))
        }
        Request::Forward { key } => (kind::FORWARD, archive(&WireForward { key })),
        Request::Purged { dead } => (kind::PURGED, archive(&WirePurged { dead: wire_dead(dead) })),
        Request::Survey(Survey { list, after, until, mark, seen }) => {
            let seen = seen.iter().map(|seen| WireSeen {
                hash: seen.hash.0,
                version: seen.version.0,
                digest: seen.digest,
            });
            let survey = WireSurvey {
                list: wire_ref(*list),
                after: after.map_or(0, |hash| hash.0),
                until: until.map_or(0, |hash| hash.0),
                mark: mark.0,
                from_start: after.is_none(),
                to_end: until.is_none(),
                seen: seen.collect(),
            };
            (kind::SURVEY, archive(&survey))
        }
    }
}

fn encode_answer(answer: &Answer) -> (u8, Encoded) {
    match answer {
        Answer::Written { superseded_by, synced } => {
            let superseded_by = superseded_by.map_or(0, |version| version.0);
            (kind::WRITTEN, archive(&WireWritten { superseded_by, synced: *synced }))
        }
        Answer::Found { found, synced } => {
            let (version, entry) = match found {
                Found::Absent { mark } => (mark.0, None),
                Found::Version(version) => (version.0, None),
                Found::Entry(entry) => (entry.version().0, Some(wire_entry(entry))),
            };
            let absent = matches!(found, Found::Absent { .. });
            (kind::FOUND, archive(&WireFound { version, entry, absent, synced: *synced }))
        }
        Answer::OtherList { list, horizon } => (
            kind::OTHER_LIST,
            archive(&WireListed {
                list: list.as_deref().map(wire_list),
                horizon: horizon.0,
                members_digest: 0,
                synced: false,
                holds: false,
            }),
        ),
        Answer::Listed(Listed { list, synced, holds, horizon, members_digest }) => (
            kind::LISTED,
            archive(&WireListed {
                list: list.as_deref().map(wire_list),
                horizon: horizon.0,
                members_digest: *members_digest,
                synced: *synced,
                holds: *holds,
            }),
        ),
        Answer::Chunk(Chunk { entries, next, sequence }) => {
            let entries = entries.iter().map(wire_entry).collect();
            let done = next.is_none();
            let next = next.map_or(0, |hash| hash.0);
            (kind::CHUNK, archive(&WireChunk { sequence: *sequence, next, done, entries }))
        }
        Answer::Received { covered } => (kind::RECEIVED, archive(&WireReceived { covered: *covered })),
        Answer::Declined => (kind::DECLINED, frame::begin()),
        Answer::Compared(compared) => {
            let (alike, held): (_, &[Held]) = match compared {
                Compared::Alike => (true, &[]),
                Compared::Differ(held) => (false, held),
            };
            (kind::COMPARED, archive(&WireCompared { held: held.iter().map(wire_held).collect(), alike }))
        }
        Answer::TooOld { horizon, synced } => {
            (kind::TOO_OLD, archive(&WireTooOld { horizon: horizon.0, synced: *synced }))
        }
        Answer::Purgeable { merges, places } => {
            (kind::PURGEABLE, archive(&WirePurgeable { merges: *merges, places: places.clone() }))
        }
        Answer::Purged => (kind::HAS_PURGED, frame::begin()),
        Answer::Relayed { places } => (kind::RELAYED, archive(&WireRelayed { places: places.clone() })),
        Answer::Surveyed(Surveyed { entries, missing, mark, outdated, next }) => {
            let hashes = |hashes: &[KeyHash]| hashes.iter().map(|hash| hash.0).collect();
            let surveyed = WireSurveyed {
                mark: mark.0,
                next: next.map_or(0, |hash| hash.0),
                done: next.is_none(),
                entries: entries.iter().map(wire_entry).collect(),
                missing: hashes(missing),
                outdated: hashes(outdated),
            };
            (kind::SURVEYED, archive(&surveyed))
        }
    }
}

/// Appends the archive of `value` to a new frame. Bodies are bounded far below the 2 GiB that relative
/// pointers reach, and memory is the only other thing that can be missing.
fn archive(
    value: &impl for<'a> Serialize<high::HighSerializer<Encoded, rkyv::ser::allocator::ArenaHandle<'a>, Panic>>,
) -> Encoded {
    high::to_bytes_in::<_, Panic>(value, frame::begin()).unwrap_or_else(|never| match never {})
}

/// Reads a received frame.
pub(crate) fn decode(header: Header, body: &[u8]) -> Result<Frame, FrameError> {
    let reader = Reader { kind: header.kind, body };
    let message = match header.kind {
        kind::HELLO => Message::Hello(reader.hello()?),
        kind::WELCOME => Message::Welcome(reader.hello()?),
        kind::REFUSED => Message::Refused(reader.refusal()?),
        kind::ASK_MEMBERS => Message::Control(ControlMessage::AskMembers),
        kind::MEMBERS => Message::Control(reader.members()?),
        kind::STATUS => Message::Control(ControlMessage::Status(reader.status()?)),
        kind::ASK_DEBT => {
            let round = reader.archive::<ArchivedWireAskDebt>()?.round.to_native();
            Message::Control(ControlMessage::AskDebt { round })
        }
        kind::DEBT => Message::Control(reader.debt()?),
        kind::DIAL_BACK => {
            let identity = identity(&reader.archive::<ArchivedWireDialBack>()?.identity);
            Message::Control(ControlMessage::DialBack { identity })
        }
        kind::DIALED_BACK => Message::Control(reader.dialed_back()?),
        kind::WRITE..=kind::FORWARD => Message::Request(reader.request()?),
        kind::WRITTEN..=kind::RELAYED => Message::Answer(reader.answer()?),
        unknown => return Err(FrameError::UnknownType(unknown)),
    };
    Ok(Frame { partition: header.partition, request_id: header.request_id, message })
}

struct Reader<'a> {
    kind: u8,
    body: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The checked archive in the body.
    fn archive<T>(&self) -> Result<&'a T, FrameError>
    where
        T: rkyv::Portable + for<'b> rkyv::bytecheck::CheckBytes<high::HighValidator<'b, Failure>>,
    {
        high::access::<T, Failure>(self.body).map_err(|_| self.bad("not a valid archive"))
    }

    fn bad(&self, why: &'static str) -> FrameError {
        FrameError::BadBody { kind: self.kind, why }
    }

    fn hello(&self) -> Result<Hello, FrameError> {
        let wire = self.archive::<ArchivedWireHello>()?;
        let expects = (NodeHash(wire.expects_node.to_native()), Boot(wire.expects_boot.to_native()));
        Ok(Hello {
            protocol: (wire.protocol_min.to_native(), wire.protocol_max.to_native()),
            cluster: wire.cluster.to_string(),
            node_id: wire.node_id.to_string(),
            identity: identity(&wire.identity),
            cores: wire.cores.to_native(),
            partitions: wire.partitions.to_native(),
            replicas: wire.replicas,
            write_quorum: wire.write_quorum,
            majority_of: wire.majority_of.to_native(),
            data_center: wire.data_center.to_string(),
            zone: wire.zone.to_string(),
            weight: wire.weight.to_native(),
            channel: match wire.channel.to_native() {
                u16::MAX => Channel::Control,
                core => Channel::Core(CoreId(core)),
            },
            expects: wire.expects.then_some(expects),
        })
    }

    fn refusal(&self) -> Result<Refusal, FrameError> {
        let wire = self.archive::<ArchivedWireRefusal>()?;
        Ok(Refusal { reason: reason(wire.reason.to_native()), text: wire.text.to_string() })
    }

    fn members(&self) -> Result<ControlMessage, FrameError> {
        let record = |wire: &ArchivedWireRecord| {
            let state = match wire.state {
                0 => State::Alive,
                1 => State::Suspect,
                2 => State::Dead,
                3 => State::Left,
                _ => return Err(self.bad("an unknown member state")),
            };
            Ok(Record { identity: identity(&wire.identity), state, leaving: wire.leaving })
        };
        let absent = |wire: &ArchivedWireAbsent| {
            (identity(&wire.identity), Duration::from_millis(wire.for_ms.to_native()))
        };
        let wire = self.archive::<ArchivedWireMembers>()?;
        let records = wire.records.iter().map(record).collect::<Result<_, _>>()?;
        Ok(ControlMessage::Members { records, absent: wire.absent.iter().map(absent).collect() })
    }

    fn status(&self) -> Result<Status, FrameError> {
        let wire = self.archive::<ArchivedWireStatus>()?;
        let stage = match wire.origin {
            0 => Stage::Forming,
            1 => Stage::Born { members_digest: wire.born_digest.to_native() },
            2 => Stage::Joined,
            _ => return Err(self.bad("an unknown origin")),
        };
        Ok(Status { members_digest: wire.members_digest.to_native(), stage })
    }

    fn debt(&self) -> Result<ControlMessage, FrameError> {
        let wire = self.archive::<ArchivedWireDebt>()?;
        let debt = NodeDebt {
            members_digest: wire.members_digest.to_native(),
            copies: wire.copies.to_native(),
            writes: wire.writes.to_native(),
        };
        Ok(ControlMessage::Debt { round: wire.round.to_native(), debt })
    }

    fn dialed_back(&self) -> Result<ControlMessage, FrameError> {
        let wire = self.archive::<ArchivedWireDialedBack>()?;
        let tcp = match wire.tcp {
            0 => Reached::Yes,
            1 => Reached::NobodyListens,
            2 => Reached::NoAnswer,
            3 => Reached::SomebodyElse,
            _ => return Err(self.bad("an unknown outcome")),
        };
        Ok(ControlMessage::DialedBack { tcp, udp: wire.udp })
    }

    fn request(&self) -> Result<Request, FrameError> {
        Ok(match self.kind {
            kind::WRITE => {
                let wire = self.archive::<ArchivedWireWrite>()?;
                Request::Write { list: list_ref(&wire.list), entry: self.entry(&wire.entry)? }
            }
            kind::READ => {
                let wire = self.archive::<ArchivedWireRead>()?;
                let want = if wire.version_only { Want::Version } else { Want::Entry };
                Request::Read { list: list_ref(&wire.list), key: self.key(&wire.key)?.into(), want }
            }
            kind::ASK_LIST => Request::AskList,
            kind::ADOPT => {
                let wire = self.archive::<ArchivedWireAdopt>()?;
                let horizon = self.version(wire.horizon.to_native())?;
                Request::Adopt { list: self.list(&wire.list)?, horizon }
            }
            kind::FETCH => {
                let wire = self.archive::<ArchivedWireFetch>()?;
                let after = (!wire.from_start).then_some(KeyHash(wire.after.to_native()));
                let (since, digest) = (wire.since.to_native(), wire.digest.to_native());
                Request::Fetch(Fetch { after, since, digest })
            }
            kind::RECEIPT => {
                let wire = self.archive::<ArchivedWireReceipt>()?;
                Request::Receipt { list: list_ref(&wire.list), covers: wire.covers.to_native() }
            }
            kind::COMPARE => {
                let wire = self.archive::<ArchivedWireCompare>()?;
                if wire.partitions.len() > usize::from(PARTITIONS) {
                    return Err(self.bad("more partitions than there are"));
                }
                let partitions = wire.partitions.iter().map(|index| self.partition(index.to_native()));
                let partitions = partitions.collect::<Result<_, _>>()?;
                Request::Compare(Compare { partitions, digest: wire.digest.to_native() })
            }
            kind::REPAIR => Request::Repair { list: list_ref(&self.archive::<ArchivedWireRepair>()?.list) },
            kind::PURGE => {
                let wire = self.archive::<ArchivedWirePurge>()?;
                let members_digest = wire.members_digest.to_native();
                Request::Purge { list: list_ref(&wire.list), members_digest, dead: self.dead(&wire.dead)? }
            }
            kind::PURGED => Request::Purged { dead: self.dead(&self.archive::<ArchivedWirePurged>()?.dead)? },
            kind::RELAY => {
                let wire = self.archive::<ArchivedWireRelay>()?;
                let entries = wire.entries.iter().map(|entry| self.entry(entry));
                Request::Relay { entries: entries.collect::<Result<_, _>>()? }
            }
            kind::FORWARD => {
                let wire = self.archive::<ArchivedWireForward>()?;
                Request::Forward { key: self.key(&wire.key)?.into() }
            }
            kind::SURVEY => {
                let wire = self.archive::<ArchivedWireSurvey>()?;
                Request::Survey(Survey {
                    list: list_ref(&wire.list),
                    after: (!wire.from_start).then_some(KeyHash(wire.after.to_native())),
                    until: (!wire.to_end).then_some(KeyHash(wire.until.to_native())),
                    mark: self.version(wire.mark.to_native())?,
                    seen: wire.seen.iter().map(|seen| self.seen(seen)).collect::<Result<_, _>>()?,
                })
            }
            unknown => return Err(FrameError::UnknownType(unknown)),
        })
    }

    fn answer(&self) -> Result<Answer, FrameError> {
        Ok(match self.kind {
            kind::WRITTEN => {
                let wire = self.archive::<ArchivedWireWritten>()?;
                let version = wire.superseded_by.to_native();
                let version = self.version(version)?;
                let superseded_by = (version > Version::ZERO).then_some(version);
                Answer::Written { superseded_by, synced: wire.synced }
            }
            kind::FOUND => {
                let wire = self.archive::<ArchivedWireFound>()?;
                let found = match wire.entry.as_ref() {
                    Some(entry) => Found::Entry(self.entry(entry)?),
                    None if wire.absent => Found::Absent { mark: self.version(wire.version.to_native())? },
                    None => Found::Version(self.version(wire.version.to_native())?),
                };
                Answer::Found { found, synced: wire.synced }
            }
            kind::OTHER_LIST => {
                let wire = self.archive::<ArchivedWireListed>()?;
                let list = wire.list.as_ref().map(|list| self.list(list)).transpose()?;
                Answer::OtherList { list, horizon: self.version(wire.horizon.to_native())? }
            }
            kind::LISTED => {
                let wire = self.archive::<ArchivedWireListed>()?;
                let list = wire.list.as_ref().map(|list| self.list(list)).transpose()?;
                let horizon = self.version(wire.horizon.to_native())?;
                let members_digest = wire.members_digest.to_native();
                Answer::Listed(Listed {
                    list,
                    synced: wire.synced,
                    holds: wire.holds,
                    horizon,
                    members_digest,
                })
            }
            kind::CHUNK => {
                let wire = self.archive::<ArchivedWireChunk>()?;
                Answer::Chunk(Chunk {
                    entries: wire.entries.iter().map(|entry| self.entry(entry)).collect::<Result<_, _>>()?,
                    next: (!wire.done).then_some(KeyHash(wire.next.to_native())),
                    sequence: wire.sequence.to_native(),
                })
            }
            kind::RECEIVED => Answer::Received { covered: self.archive::<ArchivedWireReceived>()?.covered },
            kind::DECLINED => Answer::Declined,
            kind::COMPARED => {
                let wire = self.archive::<ArchivedWireCompared>()?;
                if wire.alike {
                    return Ok(Answer::Compared(Compared::Alike));
                }
                let held = wire.held.iter().map(|held| self.held(held)).collect::<Result<_, _>>()?;
                Answer::Compared(Compared::Differ(held))
            }
            kind::TOO_OLD => {
                let wire = self.archive::<ArchivedWireTooOld>()?;
                Answer::TooOld { horizon: self.version(wire.horizon.to_native())?, synced: wire.synced }
            }
            kind::PURGEABLE => {
                let wire = self.archive::<ArchivedWirePurgeable>()?;
                let places = wire.places.iter().map(|place| place.to_native()).collect();
                Answer::Purgeable { merges: wire.merges.to_native(), places }
            }
            kind::HAS_PURGED => Answer::Purged,
            kind::RELAYED => {
                let wire = self.archive::<ArchivedWireRelayed>()?;
                Answer::Relayed { places: wire.places.iter().map(|place| place.to_native()).collect() }
            }
            kind::SURVEYED => {
                let wire = self.archive::<ArchivedWireSurveyed>()?;
                let hash = |hash: &rkyv::rend::u64_le| KeyHash(hash.to_native());
                Answer::Surveyed(Surveyed {
                    entries: wire.entries.iter().map(|entry| self.entry(entry)).collect::<Result<_, _>>()?,
                    missing: wire.missing.iter().map(hash).collect(),
                    mark: self.version(wire.mark.to_native())?,
                    outdated: wire.outdated.iter().map(hash).collect(),
                    next: (!wire.done).then_some(KeyHash(wire.next.to_native())),
                })
            }
            unknown => return Err(FrameError::UnknownType(unknown)),
        })
    }

    fn partition(&self, index: u16) -> Result<Partition, FrameError> {
        Partition::new(index).ok_or_else(|| self.bad("a partition that does not exist"))
    }

    fn held(&self, wire: &ArchivedWireHeld) -> Result<Held, FrameError> {
        Ok(Held {
            partition: self.partition(wire.partition.to_native())?,
            list: list_ref(&wire.list),
            digest: wire.digest.to_native(),
            has_gaps: wire.has_gaps,
        })
    }

    fn seen(&self, wire: &ArchivedWireSeen) -> Result<Seen, FrameError> {
        Ok(Seen {
            hash: KeyHash(wire.hash.to_native()),
            version: self.version(wire.version.to_native())?,
            digest: wire.digest.to_native(),
        })
    }

    fn dead(&self, wire: &[ArchivedWireDead]) -> Result<Vec<Dead>, FrameError> {
        if wire.len() > MOST_KEYS {
            return Err(self.bad("more keys than are purged at a time"));
        }
        let dead = |wire: &ArchivedWireDead| {
            Ok((KeyHash(wire.hash.to_native()), self.version(wire.version.to_native())?))
        };
        wire.iter().map(dead).collect()
    }

    fn version(&self, version: u64) -> Result<Version, FrameError> {
        if version > MOST { Err(self.bad("a version beyond the calendar")) } else { Ok(Version(version)) }
    }

    fn key<'b>(&self, key: &'b [u8]) -> Result<&'b [u8], FrameError> {
        if key.len() > MAX_KEY_BYTES { Err(self.bad("a key over the limit")) } else { Ok(key) }
    }

    fn entry(&self, wire: &ArchivedWireEntry<'_>) -> Result<Entry, FrameError> {
        if wire.value.len() > MAX_VALUE_BYTES {
            return Err(self.bad("a value over the limit"));
        }
        let content = match wire.content {
            0 => Content::Value(&wire.value),
            1 => Content::Tombstone,
            2 => Content::Husk(wire.content_hash.to_native()),
            _ => return Err(self.bad("an unknown kind of content")),
        };
        let version = self.version(wire.version.to_native())?;
        let expires_at_ms = NonZeroU64::new(wire.expires_at_ms.to_native());
        Ok(Entry::new(self.key(&wire.key)?, content, version, expires_at_ms))
    }

    fn list(&self, wire: &ArchivedWireList) -> Result<Arc<List>, FrameError> {
        if wire.members.len() > ALL {
            return Err(self.bad("a list longer than N can be"));
        }
        if wire.members.is_empty() || !(1..=MOST).contains(&wire.number.to_native()) {
            return Err(self.bad("a list without members, or with a number out of range"));
        }
        let base = Some(list_ref(&wire.base)).filter(|base| base.number > 0);
        Ok(List::new(wire.number.to_native(), wire.members.iter().map(identity), base))
    }
}

fn wire_hello(hello: &Hello) -> WireHello<'_> {
    let (expects_node, expects_boot) = hello.expects.map_or((0, 0), |(node, boot)| (node.0, boot.0));
    WireHello {
        identity: wire_identity(&hello.identity),
        expects_node,
        expects_boot,
        protocol_min: hello.protocol.0,
        protocol_max: hello.protocol.1,
        cores: hello.cores,
        partitions: hello.partitions,
        channel: match hello.channel {
            Channel::Control => u16::MAX,
            Channel::Core(core) => core.0,
        },
        replicas: hello.replicas,
        write_quorum: hello.write_quorum,
        majority_of: hello.majority_of,
        weight: hello.weight,
        expects: hello.expects.is_some(),
        cluster: &hello.cluster,
        node_id: &hello.node_id,
        data_center: &hello.data_center,
        zone: &hello.zone,
    }
}

fn wire_identity(identity: &Identity) -> WireIdentity {
    let ip = match identity.addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    WireIdentity {
        node: identity.node.0,
        boot: identity.boot.0,
        ip,
        port: identity.addr.port(),
        returns: identity.returns,
    }
}

fn identity(wire: &ArchivedWireIdentity) -> Identity {
    let ip = match wire.ip {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        octets => IpAddr::V6(octets.into()),
    };
    Identity {
        node: NodeHash(wire.node.to_native()),
        boot: Boot(wire.boot.to_native()),
        returns: wire.returns.to_native(),
        addr: SocketAddr::new(ip, wire.port.to_native()),
    }
}

fn wire_record(record: &Record) -> WireRecord {
    let state = match record.state {
        State::Alive => 0,
        State::Suspect => 1,
        State::Dead => 2,
        State::Left => 3,
    };
    WireRecord { identity: wire_identity(&record.identity), state, leaving: record.leaving }
}

fn wire_absent((identity, dead_for): &(Identity, Duration)) -> WireAbsent {
    let for_ms = u64::try_from(dead_for.as_millis()).unwrap_or(u64::MAX);
    WireAbsent { identity: wire_identity(identity), for_ms }
}

fn wire_ref(list: ListRef) -> WireListRef {
    WireListRef { number: list.number, digest: list.digest }
}

fn list_ref(wire: &ArchivedWireListRef) -> ListRef {
    ListRef { number: wire.number.to_native(), digest: wire.digest.to_native() }
}

fn wire_held(held: &Held) -> WireHeld {
    let Held { partition, list, digest, has_gaps } = *held;
    WireHeld { list: wire_ref(list), digest, partition: partition.index(), has_gaps }
}

fn wire_dead(dead: &[Dead]) -> Vec<WireDead> {
    dead.iter().map(|(hash, version)| WireDead { hash: hash.0, version: version.0 }).collect()
}

fn wire_list(list: &List) -> WireList {
    let base = wire_ref(list.base().unwrap_or_default());
    WireList { number: list.number(), base, members: list.members().iter().map(wire_identity).collect() }
}

fn wire_entry(entry: &Entry) -> WireEntry<'_> {
    let (content, content_hash, value): (_, _, &[u8]) = match entry.content() {
        Content::Value(value) => (0, 0, value),
        Content::Tombstone => (1, 0, &[]),
        Content::Husk(hash) => (2, hash, &[]),
    };
    WireEntry {
        version: entry.version().0,
        expires_at_ms: entry.expires_at_ms().map_or(0, NonZeroU64::get),
        content_hash,
        content,
        key: entry.key(),
        value,
    }
}

fn reason_number(reason: RefusalReason) -> u16 {
    match reason {
        RefusalReason::Other => 0,
        RefusalReason::Protocol => 1,
        RefusalReason::Cluster => 2,
        RefusalReason::Quorums => 3,
        RefusalReason::DuplicateId => 4,
        RefusalReason::NotMe => 5,
        RefusalReason::NoSuchCore => 6,
        RefusalReason::Stopping => 7,
    }
}

fn reason(number: u16) -> RefusalReason {
    match number {
        1 => RefusalReason::Protocol,
        2 => RefusalReason::Cluster,
        3 => RefusalReason::Quorums,
        4 => RefusalReason::DuplicateId,
        5 => RefusalReason::NotMe,
        6 => RefusalReason::NoSuchCore,
        7 => RefusalReason::Stopping,
        _ => RefusalReason::Other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::frame::FrameBuffer;

    fn an_identity() -> impl Strategy<Value = Identity> {
        (any::<u64>(), any::<u64>(), any::<u16>(), any::<bool>(), any::<u16>()).prop_map(
            |(node, boot, returns, v6, port)| Identity {
                node: NodeHash(node),
                boot: Boot(boot),
                returns,
                addr: SocketAddr::new(
                    if v6 { "fe80::17".parse().unwrap() } else { "10.1.2.3".parse().unwrap() },
                    port,
                ),
            },
        )
    }

    fn an_entry() -> impl Strategy<Value = Entry> {
        let value = || prop::collection::vec(any::<u8>(), 0..200);
        let state = (any::<u32>(), value(), 0..3).prop_map(|(hash, value, kind)| (kind, hash, value));
        (prop::collection::vec(any::<u8>(), 0..40), 0..=MOST, any::<u64>(), state).prop_map(
            |(key, version, expiry, (kind, hash, value))| {
                let content = match kind {
                    0 => Content::Tombstone,
                    1 => Content::Husk(hash),
                    _ => Content::Value(&value),
                };
                Entry::new(&key, content, Version(version), NonZeroU64::new(expiry))
            },
        )
    }

    fn a_list() -> impl Strategy<Value = Arc<List>> {
        let base = prop::option::of((1..=MOST, any::<u64>()));
        let base = base.prop_map(|base| base.map(|(number, digest)| ListRef { number, digest }));
        (1..=MOST, prop::collection::vec(an_identity(), 1..5), base).prop_map(|(n, m, b)| List::new(n, m, b))
    }

    fn a_ref() -> impl Strategy<Value = ListRef> {
        (any::<u64>(), any::<u64>()).prop_map(|(number, digest)| ListRef { number, digest })
    }

    fn a_partition() -> impl Strategy<Value = Partition> {
        (0..PARTITIONS).prop_map(|index| Partition::new(index).unwrap())
    }

    fn a_held() -> impl Strategy<Value = Held> {
        (a_partition(), a_ref(), any::<u64>(), any::<bool>())
            .prop_map(|(partition, list, digest, has_gaps)| Held { partition, list, digest, has_gaps })
    }

    fn a_hash() -> impl Strategy<Value = KeyHash> {
        any::<u64>().prop_map(KeyHash)
    }

    fn a_survey() -> impl Strategy<Value = Survey> {
        let seen = (a_hash(), 0..=MOST, any::<u64>()).prop_map(|(hash, version, digest)| Seen {
            hash,
            version: Version(version),
            digest,
        });
        let hash = || prop::option::of(a_hash());
        (a_ref(), hash(), hash(), 0..=MOST, prop::collection::vec(seen, 0..20)).prop_map(
            |(list, after, until, mark, seen)| Survey { list, after, until, mark: Version(mark), seen },
        )
    }

    fn a_surveyed() -> impl Strategy<Value = Surveyed> {
        let hashes = || prop::collection::vec(a_hash(), 0..20);
        let entries = prop::collection::vec(an_entry(), 0..5);
        (entries, hashes(), 0..=MOST, hashes(), prop::option::of(a_hash())).prop_map(
            |(entries, missing, mark, outdated, next)| Surveyed {
                entries,
                missing,
                mark: Version(mark),
                outdated,
                next,
            },
        )
    }

    fn a_hello() -> impl Strategy<Value = Hello> {
        let channel = prop_oneof![Just(Channel::Control), (0u16..256).prop_map(|c| Channel::Core(CoreId(c)))];
        (".{0,30}", ".{0,30}", an_identity(), channel, prop::option::of((any::<u64>(), any::<u64>())))
            .prop_map(|(cluster, node_id, identity, channel, expects)| Hello {
                protocol: (1, 2),
                cluster,
                node_id,
                identity,
                cores: 3,
                partitions: 4096,
                replicas: 3,
                write_quorum: 2,
                majority_of: 5,
                data_center: "eu".into(),
                zone: "rack 7".into(),
                weight: 300,
                channel,
                expects: expects.map(|(node, boot)| (NodeHash(node), Boot(boot))),
            })
    }

    fn some_dead() -> impl Strategy<Value = Vec<Dead>> {
        let dead = (any::<u64>(), 0..=MOST).prop_map(|(hash, version)| (KeyHash(hash), Version(version)));
        prop::collection::vec(dead, 0..40)
    }

    fn a_request() -> impl Strategy<Value = Request> {
        prop_oneof![
            (a_ref(), an_entry()).prop_map(|(list, entry)| Request::Write { list, entry }),
            (a_ref(), prop::collection::vec(any::<u8>(), 0..40), any::<bool>()).prop_map(|(list, key, v)| {
                Request::Read { list, key: key.into(), want: if v { Want::Version } else { Want::Entry } }
            }),
            Just(Request::AskList),
            (a_list(), 0..=MOST)
                .prop_map(|(list, horizon)| Request::Adopt { list, horizon: Version(horizon) }),
            (a_ref(), any::<u64>(), some_dead()).prop_map(|(list, members_digest, dead)| Request::Purge {
                list,
                members_digest,
                dead
            }),
            some_dead().prop_map(|dead| Request::Purged { dead }),
            (prop::option::of(any::<u64>()), any::<u64>(), any::<u64>()).prop_map(
                |(after, since, digest)| {
                    Request::Fetch(Fetch { after: after.map(KeyHash), since, digest })
                }
            ),
            (a_ref(), any::<u64>()).prop_map(|(list, covers)| Request::Receipt { list, covers }),
            (prop::collection::vec(a_partition(), 0..300), any::<u64>())
                .prop_map(|(partitions, digest)| Request::Compare(Compare { partitions, digest })),
            a_ref().prop_map(|list| Request::Repair { list }),
            a_survey().prop_map(Request::Survey),
            prop::collection::vec(an_entry(), 0..5).prop_map(|entries| Request::Relay { entries }),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(|key| Request::Forward { key: key.into() }),
        ]
    }

    fn an_answer() -> impl Strategy<Value = Answer> {
        let found = prop_oneof![
            (0..=MOST).prop_map(|mark| Found::Absent { mark: Version(mark) }),
            (0..=MOST).prop_map(|version| Found::Version(Version(version))),
            an_entry().prop_map(Found::Entry),
        ];
        prop_oneof![
            (prop::option::of(1..=MOST), any::<bool>())
                .prop_map(|(v, synced)| Answer::Written { superseded_by: v.map(Version), synced }),
            (found, any::<bool>()).prop_map(|(found, synced)| Answer::Found { found, synced }),
            (prop::option::of(a_list()), 0..=MOST)
                .prop_map(|(list, horizon)| Answer::OtherList { list, horizon: Version(horizon) }),
            (prop::option::of(a_list()), any::<bool>(), any::<bool>(), 0..=MOST, any::<u64>()).prop_map(
                |(list, synced, holds, horizon, members_digest)| {
                    let horizon = Version(horizon);
                    Answer::Listed(Listed { list, synced, holds, horizon, members_digest })
                }
            ),
            (0..=MOST, any::<bool>())
                .prop_map(|(horizon, synced)| Answer::TooOld { horizon: Version(horizon), synced }),
            (any::<u64>(), prop::collection::vec(any::<u16>(), 0..40))
                .prop_map(|(merges, places)| Answer::Purgeable { merges, places }),
            Just(Answer::Purged),
            (prop::collection::vec(an_entry(), 0..5), prop::option::of(any::<u64>()), any::<u64>()).prop_map(
                |(entries, next, sequence)| {
                    Answer::Chunk(Chunk { entries, next: next.map(KeyHash), sequence })
                }
            ),
            any::<bool>().prop_map(|covered| Answer::Received { covered }),
            Just(Answer::Declined),
            Just(Answer::Compared(Compared::Alike)),
            prop::collection::vec(a_held(), 0..40).prop_map(|held| Answer::Compared(Compared::Differ(held))),
            a_surveyed().prop_map(Answer::Surveyed),
            prop::collection::vec(any::<u16>(), 0..40).prop_map(|places| Answer::Relayed { places }),
        ]
    }

    fn a_control_message() -> impl Strategy<Value = ControlMessage> {
        let state =
            prop_oneof![Just(State::Alive), Just(State::Suspect), Just(State::Dead), Just(State::Left)];
        let record = (an_identity(), state, any::<bool>()).prop_map(|(identity, state, leaving)| Record {
            identity,
            state,
            leaving,
        });
        let stage = prop_oneof![
            Just(Stage::Forming),
            Just(Stage::Joined),
            any::<u64>().prop_map(|members_digest| Stage::Born { members_digest }),
        ];
        let reached = prop_oneof![
            Just(Reached::Yes),
            Just(Reached::NobodyListens),
            Just(Reached::NoAnswer),
            Just(Reached::SomebodyElse),
        ];
        let absent = (an_identity(), any::<u64>()).prop_map(|(who, ms)| (who, Duration::from_millis(ms)));
        prop_oneof![
            Just(ControlMessage::AskMembers),
            (prop::collection::vec(record, 0..5), prop::collection::vec(absent, 0..5))
                .prop_map(|(records, absent)| ControlMessage::Members { records, absent }),
            (any::<u64>(), stage)
                .prop_map(|(members_digest, stage)| ControlMessage::Status(Status { members_digest, stage })),
            any::<u64>().prop_map(|round| ControlMessage::AskDebt { round }),
            any::<(u64, u64, u32, u32)>().prop_map(|(round, members_digest, copies, writes)| {
                ControlMessage::Debt { round, debt: NodeDebt { members_digest, copies, writes } }
            }),
            an_identity().prop_map(|identity| ControlMessage::DialBack { identity }),
            (reached, any::<bool>()).prop_map(|(tcp, udp)| ControlMessage::DialedBack { tcp, udp }),
        ]
    }

    fn a_frame() -> impl Strategy<Value = Frame> {
        let message = prop_oneof![
            a_hello().prop_map(Message::Hello),
            a_hello().prop_map(Message::Welcome),
            (0u16..9, ".{0,60}")
                .prop_map(|(number, text)| Message::Refused(Refusal { reason: reason(number), text })),
            a_control_message().prop_map(Message::Control),
            a_request().prop_map(Message::Request),
            an_answer().prop_map(Message::Answer),
        ];
        (0u16..4096, any::<u64>(), message).prop_map(|(partition, request_id, message)| Frame {
            partition: Partition::new(partition).unwrap(),
            request_id,
            message,
        })
    }

    fn receive(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        let mut buffer = FrameBuffer::new();
        buffer.raise_limit();
        let space = buffer.space();
        space[..bytes.len()].copy_from_slice(bytes);
        buffer.received(bytes.len());
        buffer.next()?.map(|(header, body)| decode(header, body)).transpose()
    }

    proptest! {
        #[test]
        fn every_message_arrives_as_it_was_sent(frame in a_frame()) {
            let received = receive(&encode(&frame)).unwrap().unwrap();
            prop_assert_eq!(received, frame);
        }

        #[test]
        fn damaged_frames_are_errors_or_other_messages_but_never_a_panic(
            frame in a_frame(),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encode(&frame).to_vec();
            for (at, with) in flips {
                let at = at.index(bytes.len());
                bytes[at] = with;
            }
            let _ = receive(&bytes);
            bytes.truncate(cut.index(bytes.len()));
            let _ = receive(&bytes);
        }

        #[test]
        fn random_bodies_of_every_type_never_panic(kind: u8, body in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = frame::begin();
            bytes.extend_from_slice(&body);
            let _ = receive(&frame::finish(bytes, kind, Partition::new(0).unwrap(), 0));
        }
    }
}
