//! What control threads tell each other: members, the state before the first lists, debt, and
//! whether a node can be reached.

use std::time::Duration;

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::body::{Body, Decoder, Reader};
use super::values::{ArchivedWireIdentity, WireIdentity, on_partition_code, wire_identity};
use crate::membership::claims::{Claim, ClaimKind, SaidClaim, Signed};
use crate::membership::{Record, State};
use crate::placement::{Site, Stage};
use crate::quorums::Count;
use crate::types::{Boot, Identity, MAX_MEMBERS, NodeId};
use crate::wire::frame::FrameError;
use crate::wire::message::{ControlMessage, MemberDetails, Message, NodeDebt, Reached, Status};
use crate::wire::retention::AbsentMember;

pub(super) fn encode(message: &ControlMessage) -> Body {
    match message {
        ControlMessage::AskMembers => Body::empty(ASK_MEMBERS),
        ControlMessage::Members { records, absent, details, claims } => {
            encode_members(records, absent, details, claims)
        }
        ControlMessage::Status { status, asks, heard } => encode_status(*status, asks, heard),
        ControlMessage::AskDebt { round, of } => {
            Body::of(ASK_DEBT, &WireAskDebt { round: *round, of: wire_optional(of.as_ref()) })
        }
        ControlMessage::Debt { round, of, debt } => encode_debt(*round, of.as_ref(), *debt),
        ControlMessage::DialBack { identity } => {
            Body::of(DIAL_BACK, &WireDialBack { identity: wire_identity(identity) })
        }
        ControlMessage::DialedBack { tcp, udp } => encode_dialed_back(*tcp, *udp),
    }
}

pub(super) const DECODERS: &[(u8, Decoder)] = &[
    (ASK_MEMBERS, |_| Ok(Message::Control(ControlMessage::AskMembers))),
    (MEMBERS, decode_members),
    (STATUS, decode_status),
    (ASK_DEBT, decode_ask_debt),
    (DEBT, decode_debt),
    (DIAL_BACK, decode_dial_back),
    (DIALED_BACK, decode_dialed_back),
];

/// Returns an optional identity as a list of one or none.
fn wire_optional(identity: Option<&Identity>) -> Vec<WireIdentity> {
    identity.into_iter().map(wire_identity).collect()
}

fn decode_optional(
    reader: &Reader<'_>,
    wire: &[ArchivedWireIdentity],
) -> Result<Option<Identity>, FrameError> {
    match wire {
        [] => Ok(None),
        [one] => reader.identity(one).map(Some),
        _ => Err(reader.bad("more than one member")),
    }
}

const ASK_MEMBERS: u8 = 4;

const MEMBERS: u8 = 5;

#[derive(Archive, Serialize)]
struct WireMembers<'a> {
    records: Vec<WireRecord>,
    absent: Vec<WireAbsent<'a>>,
    details: Vec<WireDetails<'a>>,
    claims: Vec<WireClaim>,
}

#[derive(Archive, Serialize, Clone, Copy)]
struct WireRecord {
    identity: WireIdentity,
    /// 0 is alive, 1 suspect, 2 dead, 3 left.
    state: u8,
    leaving: bool,
}

#[derive(Archive, Serialize)]
struct WireAbsent<'a> {
    identity: WireIdentity,
    for_ms: u64,
    #[rkyv(with = InlineAsBox)]
    data_center: &'a str,
}

#[derive(Archive, Serialize)]
struct WireDetails<'a> {
    boot: u64,
    protocol_min: u16,
    protocol_max: u16,
    cores: u16,
    weight: u16,
    replicas: u8,
    write_quorum: u8,
    read_quorum: u8,
    on_partition: u8,
    #[rkyv(with = InlineAsBox)]
    node_id: &'a str,
    #[rkyv(with = InlineAsBox)]
    data_center: &'a str,
    #[rkyv(with = InlineAsBox)]
    zone: &'a str,
}

#[derive(Archive, Serialize, Clone, Copy)]
struct WireClaim {
    identity: WireIdentity,
    /// 0 is leaving, 1 left.
    kind: u8,
    key: [u8; 32],
    signature: [u8; 64],
}

const _: () = assert!(size_of::<ArchivedWireMembers<'_>>() == 32);
const _: () = assert!(size_of::<ArchivedWireDetails<'_>>() == 48);
const _: () = assert!(size_of::<ArchivedWireRecord>() == 48);
const _: () = assert!(size_of::<ArchivedWireAbsent<'_>>() == 56);
const _: () = assert!(size_of::<ArchivedWireClaim>() == 144);

fn encode_members(
    records: &[Record],
    absent: &[AbsentMember],
    details: &[MemberDetails],
    claims: &[SaidClaim],
) -> Body {
    let records = records.iter().map(wire_record).collect();
    let absent = absent.iter().map(wire_absent).collect();
    let details = details.iter().map(wire_details).collect();
    let claims = claims.iter().filter_map(wire_claim).collect();
    Body::of(MEMBERS, &WireMembers { records, absent, details, claims })
}

fn wire_details(details: &MemberDetails) -> WireDetails<'_> {
    WireDetails {
        boot: details.boot.0,
        protocol_min: details.protocol.0,
        protocol_max: details.protocol.1,
        cores: details.cores,
        on_partition: on_partition_code(details.on_partition),
        weight: details.site.weight,
        replicas: details.replicas.code(),
        write_quorum: details.write_quorum.code(),
        read_quorum: details.read_quorum.code(),
        node_id: details.id.as_str(),
        data_center: &details.site.data_center,
        zone: &details.site.zone,
    }
}

fn details(
    reader: &Reader<'_>,
    wire: &ArchivedWireDetails<'_>,
) -> Result<MemberDetails, FrameError> {
    Ok(MemberDetails {
        boot: Boot(wire.boot.to_native()),
        protocol: (wire.protocol_min.to_native(), wire.protocol_max.to_native()),
        id: NodeId::new(&wire.node_id),
        cores: wire.cores.to_native(),
        replicas: Count::from_code(wire.replicas),
        write_quorum: Count::from_code(wire.write_quorum),
        read_quorum: Count::from_code(wire.read_quorum),
        on_partition: reader.on_partition(wire.on_partition)?,
        site: Site {
            data_center: (&*wire.data_center).into(),
            zone: (&*wire.zone).into(),
            weight: wire.weight.to_native(),
        },
    })
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

/// `None`: it is not signed, so that it is not told on.
fn wire_claim(said: &SaidClaim) -> Option<WireClaim> {
    let Signed { key, signature } = said.signed?;
    let kind = match said.claim.kind {
        ClaimKind::Leaving => 0,
        ClaimKind::Left => 1,
    };
    Some(WireClaim { identity: wire_identity(&said.claim.identity), kind, key, signature })
}

fn wire_absent(absent: &AbsentMember) -> WireAbsent<'_> {
    let for_ms = u64::try_from(absent.dead_for.as_millis()).unwrap_or(u64::MAX);
    let (identity, data_center) = (wire_identity(&absent.identity), &*absent.data_center);
    WireAbsent { identity, for_ms, data_center }
}

fn decode_members(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let record = |wire: &ArchivedWireRecord| {
        let state = match wire.state {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Dead,
            3 => State::Left,
            _ => return Err(reader.bad("an unknown member state")),
        };
        Ok(Record { identity: reader.identity(&wire.identity)?, state, leaving: wire.leaving })
    };
    let absent = |wire: &ArchivedWireAbsent<'_>| {
        Ok(AbsentMember {
            identity: reader.identity(&wire.identity)?,
            data_center: (&*wire.data_center).into(),
            dead_for: Duration::from_millis(wire.for_ms.to_native()),
        })
    };
    let claim = |wire: &ArchivedWireClaim| {
        let kind = match wire.kind {
            0 => ClaimKind::Leaving,
            1 => ClaimKind::Left,
            _ => return Err(reader.bad("an unknown claim of a member")),
        };
        let claim = Claim { identity: reader.identity(&wire.identity)?, kind };
        let signed = Some(Signed { key: wire.key, signature: wire.signature });
        Ok(SaidClaim { claim, signed })
    };
    let wire = reader.archive::<ArchivedWireMembers<'_>>()?;
    let counts = [wire.records.len(), wire.absent.len(), wire.details.len(), wire.claims.len()];
    for count in counts {
        reader.at_most(MAX_MEMBERS, count)?;
    }
    let records = wire.records.iter().map(record).collect::<Result<_, _>>()?;
    let absent = wire.absent.iter().map(absent).collect::<Result<_, _>>()?;
    let details = wire.details.iter().map(|it| details(reader, it)).collect::<Result<_, _>>()?;
    let claims = wire.claims.iter().map(claim).collect::<Result<_, _>>()?;
    Ok(Message::Control(ControlMessage::Members { records, absent, details, claims }))
}

const STATUS: u8 = 6;

#[derive(Archive, Serialize, Clone, Copy)]
struct WireStatus {
    members_digest: u64,
    /// Zero unless the node was born.
    born_digest: u64,
    /// 0 is unborn, 1 born, 2 joined.
    origin: u8,
}

#[derive(Archive, Serialize)]
struct WireStatuses {
    own: WireStatus,
    asks: Vec<WireIdentity>,
    heard: Vec<WireHeard>,
}

#[derive(Archive, Serialize)]
struct WireHeard {
    of: WireIdentity,
    status: WireStatus,
}

const _: () = assert!(size_of::<ArchivedWireStatus>() == 24);
const _: () = assert!(size_of::<ArchivedWireStatuses>() == 40);
const _: () = assert!(size_of::<ArchivedWireHeard>() == 64);

fn encode_status(status: Status, asks: &[Identity], heard: &[(Identity, Status)]) -> Body {
    let own = wire_status(status);
    let asks = asks.iter().map(wire_identity).collect();
    let heard = heard
        .iter()
        .map(|(of, status)| WireHeard { of: wire_identity(of), status: wire_status(*status) })
        .collect();
    Body::of(STATUS, &WireStatuses { own, asks, heard })
}

fn wire_status(Status { members_digest, stage }: Status) -> WireStatus {
    let (origin, born_digest) = match stage {
        Stage::Forming => (0, 0),
        Stage::Born { members_digest } => (1, members_digest),
        Stage::Joined => (2, 0),
    };
    WireStatus { members_digest, born_digest, origin }
}

fn decode_status(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireStatuses>()?;
    reader.at_most(MAX_MEMBERS, wire.heard.len())?;
    let heard =
        |wire: &ArchivedWireHeard| Ok((reader.identity(&wire.of)?, status(reader, &wire.status)?));
    Ok(Message::Control(ControlMessage::Status {
        status: status(reader, &wire.own)?,
        asks: reader.identities(&wire.asks)?,
        heard: wire.heard.iter().map(heard).collect::<Result<_, _>>()?,
    }))
}

fn status(reader: &Reader<'_>, wire: &ArchivedWireStatus) -> Result<Status, FrameError> {
    let stage = match wire.origin {
        0 => Stage::Forming,
        1 => Stage::Born { members_digest: wire.born_digest.to_native() },
        2 => Stage::Joined,
        _ => return Err(reader.bad("an unknown origin")),
    };
    Ok(Status { members_digest: wire.members_digest.to_native(), stage })
}

const ASK_DEBT: u8 = 7;

#[derive(Archive, Serialize)]
struct WireAskDebt {
    round: u64,
    of: Vec<WireIdentity>,
}

const _: () = assert!(size_of::<ArchivedWireAskDebt>() == 16);

fn decode_ask_debt(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireAskDebt>()?;
    let of = decode_optional(reader, &wire.of)?;
    Ok(Message::Control(ControlMessage::AskDebt { round: wire.round.to_native(), of }))
}

const DEBT: u8 = 8;

#[derive(Archive, Serialize)]
struct WireDebt {
    round: u64,
    members_digest: u64,
    missing_bytes: u64,
    copies: u32,
    writes: u32,
    of: Vec<WireIdentity>,
}

const _: () = assert!(size_of::<ArchivedWireDebt>() == 40);

fn encode_debt(round: u64, of: Option<&Identity>, debt: NodeDebt) -> Body {
    let NodeDebt { members_digest, copies, writes, missing_bytes } = debt;
    let of = wire_optional(of);
    Body::of(DEBT, &WireDebt { round, members_digest, missing_bytes, copies, writes, of })
}

fn decode_debt(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireDebt>()?;
    let debt = NodeDebt {
        members_digest: wire.members_digest.to_native(),
        copies: wire.copies.to_native(),
        writes: wire.writes.to_native(),
        missing_bytes: wire.missing_bytes.to_native(),
    };
    let of = decode_optional(reader, &wire.of)?;
    Ok(Message::Control(ControlMessage::Debt { round: wire.round.to_native(), of, debt }))
}

const DIAL_BACK: u8 = 9;

#[derive(Archive, Serialize)]
struct WireDialBack {
    identity: WireIdentity,
}

const _: () = assert!(size_of::<ArchivedWireDialBack>() == 40);

fn decode_dial_back(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let identity = reader.identity(&reader.archive::<ArchivedWireDialBack>()?.identity)?;
    Ok(Message::Control(ControlMessage::DialBack { identity }))
}

const DIALED_BACK: u8 = 10;

#[derive(Archive, Serialize)]
struct WireDialedBack {
    /// 0 is yes, 1 that no process listens, 2 that no answer came, 3 that another node answered.
    tcp: u8,
    udp: bool,
}

const _: () = assert!(size_of::<ArchivedWireDialedBack>() == 2);

fn encode_dialed_back(tcp: Reached, udp: bool) -> Body {
    let tcp = match tcp {
        Reached::Yes => 0,
        Reached::NobodyListens => 1,
        Reached::NoAnswer => 2,
        Reached::SomebodyElse => 3,
        Reached::NotTried => 4,
    };
    Body::of(DIALED_BACK, &WireDialedBack { tcp, udp })
}

fn decode_dialed_back(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireDialedBack>()?;
    let tcp = match wire.tcp {
        0 => Reached::Yes,
        1 => Reached::NobodyListens,
        2 => Reached::NoAnswer,
        3 => Reached::SomebodyElse,
        4 => Reached::NotTried,
        _ => return Err(reader.bad("an unknown outcome")),
    };
    Ok(Message::Control(ControlMessage::DialedBack { tcp, udp: wire.udp }))
}
