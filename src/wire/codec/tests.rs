//! Every message arrives as it was sent; what is cut short, too long or damaged is refused.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::body::MAX_NUMBER;
use super::*;
use crate::clock::Version;
use crate::entry::{Content, Entry};
use crate::fuzzing::seeds;
use crate::membership::claims::{Claim, ClaimKind, SaidClaim, Signed};
use crate::membership::{Record, State};
use crate::options::OnPartition;
use crate::placement::{Ancestry, Ballot, Fork, List, ListRef, MAX_FORKS, Site, Stage, Wish};
use crate::quorums::{Count, MAX_COPIES};
use crate::types::{
    Boot, CoreId, Identity, KeyHash, MAX_BOOT, MAX_KEY_BYTES, NodeHash, NodeId, PARTITIONS,
    Partition,
};
use crate::wire::frame::{FrameBuffer, HEADER_BYTES};
use crate::wire::message::*;
use crate::wire::retention::{AbsentMember, Agreed, PurgeMark};

/// All reasons, ordered by the numbers in which they travel, and one number that no version knows.
const REASONS: [RefusalReason; 12] = [
    RefusalReason::Other,
    RefusalReason::Protocol,
    RefusalReason::Cluster,
    RefusalReason::Quorums,
    RefusalReason::DuplicateId,
    RefusalReason::NotMe,
    RefusalReason::NoSuchCore,
    RefusalReason::Stopping,
    RefusalReason::Security,
    RefusalReason::Full,
    RefusalReason::NoSecurity,
    RefusalReason::Other,
];

fn an_identity() -> impl Strategy<Value = Identity> {
    (any::<u64>(), 0..=MAX_BOOT.0, any::<u16>(), any::<bool>(), 1u16..).prop_map(
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
    (prop::collection::vec(any::<u8>(), 0..40), 0..=MAX_NUMBER, any::<u64>(), state).prop_map(
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
    let members = |at_least| prop::collection::vec(an_identity(), at_least..5);
    let forks = prop::collection::btree_map(1..MAX_NUMBER, any::<u64>(), 0..4);
    let digest = any::<u64>();
    (2..=MAX_NUMBER, members(1), members(0), members(0), forks, digest).prop_map(
        |(number, members, mut witnesses, before, forks, digest)| {
            let base = (!before.is_empty()).then_some(ListRef { number: number - 1, digest });
            // Random names hardly ever meet, and what is shrunk does.
            let mut nodes = BTreeSet::new();
            let members: Vec<Identity> =
                members.into_iter().filter(|it| nodes.insert(it.node)).collect();
            witnesses.retain(|it| nodes.insert(it.node));
            let forks = forks.into_iter().map(|(number, id)| Fork { number, id });
            let forks = forks.filter(|fork| fork.number <= number).collect();
            let ancestry = Ancestry { base, before: before.into(), forks };
            List::of(number, &Wish { members, witnesses }, ancestry)
        },
    )
}

fn a_ballot() -> impl Strategy<Value = Ballot> {
    (0..=MAX_NUMBER, any::<u64>(), any::<u64>()).prop_map(|(round, node, boot)| Ballot {
        round,
        node: NodeHash(node),
        boot: Boot(boot),
    })
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
    let seen = (a_hash(), 0..=MAX_NUMBER, any::<u64>()).prop_map(|(hash, version, digest)| Seen {
        hash,
        version: Version(version),
        digest,
    });
    let hash = || prop::option::of(a_hash());
    (a_ref(), hash(), hash(), 0..=MAX_NUMBER, prop::collection::vec(seen, 0..20)).prop_map(
        |(list, after, until, eviction_watermark, seen)| Survey {
            list,
            after,
            until,
            eviction_watermark: Version(eviction_watermark),
            seen,
        },
    )
}

fn a_surveyed() -> impl Strategy<Value = Surveyed> {
    let hashes = || prop::collection::vec(a_hash(), 0..20);
    let entries = prop::collection::vec(an_entry(), 0..5);
    (entries, hashes(), 0..=MAX_NUMBER, hashes(), prop::option::of(a_hash())).prop_map(
        |(entries, missing, eviction_watermark, outdated, next)| Surveyed {
            entries,
            missing,
            eviction_watermark: Version(eviction_watermark),
            outdated,
            next,
        },
    )
}

fn a_hello() -> impl Strategy<Value = Hello> {
    let channel =
        prop_oneof![Just(Channel::Control), (0u16..256).prop_map(|c| Channel::Core(CoreId(c)))];
    (".{0,30}", ".{0,30}", an_identity(), channel, prop::option::of((any::<u64>(), any::<u64>())))
        .prop_map(|(cluster, node_id, identity, channel, expects)| Hello {
            protocol: (1, 2),
            cluster,
            node_id,
            identity,
            cores: 3,
            partitions: 4096,
            replicas: Count::Exactly(3),
            write_quorum: Count::AllBut(1),
            read_quorum: Count::Exactly(2),
            on_partition: OnPartition::Majority,
            data_center: "eu".into(),
            zone: "rack 7".into(),
            weight: 300,
            channel,
            expects: expects.map(|(node, boot)| (NodeHash(node), Boot(boot))),
        })
}

fn some_dead() -> impl Strategy<Value = Vec<Dead>> {
    let dead = (any::<u64>(), 0..=MAX_NUMBER)
        .prop_map(|(hash, version)| (KeyHash(hash), Version(version)));
    prop::collection::vec(dead, 0..40)
}

fn a_route() -> impl Strategy<Value = Option<Route>> {
    let route = (an_identity(), an_identity()).prop_map(|(asker, to)| Route { asker, to });
    prop::option::of(route)
}

fn mark(horizon: u64) -> PurgeMark {
    let agreed = Agreed { list: horizon / 3, horizon: Version(horizon / 2) };
    PurgeMark { horizon: Version(horizon), agreed }
}

fn a_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (a_ref(), an_entry()).prop_map(|(list, entry)| Request::Write { list, entry }),
        (a_ref(), prop::collection::vec(any::<u8>(), 0..40), any::<bool>()).prop_map(
            |(list, key, v)| {
                Request::Read {
                    list,
                    key: key.into(),
                    want: if v { Want::Version } else { Want::Entry },
                }
            }
        ),
        Just(Request::AskList),
        (a_ref(), a_ballot()).prop_map(|(list, ballot)| Request::Prepare { list, ballot }),
        (a_ref(), a_ballot(), a_list()).prop_map(|(list, ballot, value)| Request::Accept {
            list,
            ballot,
            value
        }),
        (a_list(), 0..=MAX_NUMBER)
            .prop_map(|(list, horizon)| Request::Adopt { list, purged: mark(horizon) }),
        (a_ref(), any::<u64>(), some_dead(), a_route()).prop_map(
            |(list, members_digest, dead, route)| Request::Purge {
                list,
                members_digest,
                dead,
                route
            }
        ),
        (some_dead(), a_route()).prop_map(|(dead, route)| Request::Purged { dead, route }),
        (a_ref(), prop::option::of(any::<u64>()), any::<u64>(), any::<u64>()).prop_map(
            |(list, after, since, digest)| {
                Request::Fetch(Fetch { list, after: after.map(KeyHash), since, digest })
            }
        ),
        (a_ref(), any::<u64>()).prop_map(|(list, covers)| Request::Receipt { list, covers }),
        (prop::collection::vec(a_partition(), 0..300), any::<u64>())
            .prop_map(|(partitions, digest)| Request::Compare(Compare { partitions, digest })),
        (a_ref(), any::<bool>())
            .prop_map(|(list, wants_receipt)| Request::Repair { list, wants_receipt }),
        (a_ref(), prop::collection::vec(an_entry(), 0..5))
            .prop_map(|(list, entries)| Request::Give { list, entries }),
        a_survey().prop_map(Request::Survey),
        (prop::collection::vec(an_entry(), 0..5), a_route())
            .prop_map(|(entries, route)| Request::Relay { entries, route }),
        prop::collection::vec(any::<u8>(), 0..40)
            .prop_map(|key| Request::Forward { key: key.into() }),
    ]
}

fn an_extent() -> impl Strategy<Value = Extent> {
    use Extent::{Any, Idle, Open, Whole, WholeBefore};
    prop::sample::select(vec![Any, Idle, Open, WholeBefore, Whole])
}

fn an_answer() -> impl Strategy<Value = Answer> {
    let found = prop_oneof![
        (0..=MAX_NUMBER).prop_map(|eviction_watermark| Found::Absent {
            eviction_watermark: Version(eviction_watermark)
        }),
        (0..=MAX_NUMBER).prop_map(|version| Found::Version(Version(version))),
        an_entry().prop_map(Found::Entry),
    ];
    prop_oneof![
        (prop::option::of(1..=MAX_NUMBER), any::<bool>())
            .prop_map(|(v, synced)| Answer::Written { superseded_by: v.map(Version), synced }),
        (found, any::<bool>()).prop_map(|(found, synced)| Answer::Found { found, synced }),
        (prop::option::of(a_list()), 0..=MAX_NUMBER)
            .prop_map(|(list, horizon)| { Answer::OtherList { list, purged: mark(horizon) } }),
        (prop::option::of(a_list()), 0..=MAX_NUMBER, any::<u64>()).prop_map(
            |(list, horizon, members_digest)| {
                Answer::Listed(Listed { list, purged: mark(horizon), members_digest })
            }
        ),
        (prop::option::of((a_ballot(), a_list())), an_extent())
            .prop_map(|(accepted, extent)| Answer::Promised { accepted, extent }),
        Just(Answer::Accepted),
        a_ballot().prop_map(|promised| Answer::Refused { promised }),
        (0..=MAX_NUMBER, any::<bool>()).prop_map(|(horizon, synced)| Answer::TooOld {
            purge_horizon: Version(horizon),
            synced
        }),
        (any::<u64>(), prop::collection::vec(any::<u16>(), 0..40))
            .prop_map(|(merges, places)| Answer::Purgeable { merges, places }),
        Just(Answer::Purged),
        Just(Answer::Unreached),
        Just(Answer::Busy),
        (
            prop::collection::vec(an_entry(), 0..5),
            prop::option::of(any::<u64>()),
            any::<u64>(),
            an_extent(),
            0..=MAX_NUMBER
        )
            .prop_map(|(entries, next, sequence, extent, horizon)| {
                let (next, purged) = (next.map(KeyHash), mark(horizon));
                let is_behind = sequence.is_multiple_of(2);
                Answer::Chunk(Chunk { entries, next, sequence, extent, purged, is_behind })
            }),
        any::<bool>().prop_map(|covered| Answer::Received { covered }),
        Just(Answer::Declined),
        any::<u64>().prop_map(|max_memory| Answer::NoRoom { max_memory }),
        Just(Answer::Compared(Compared::Alike)),
        prop::collection::vec(a_held(), 0..40)
            .prop_map(|held| Answer::Compared(Compared::Differ(held))),
        a_surveyed().prop_map(Answer::Surveyed),
        prop::collection::vec(any::<u16>(), 0..40).prop_map(|places| Answer::Relayed { places }),
    ]
}

fn some_details() -> impl Strategy<Value = MemberDetails> {
    (any::<u64>(), ".{0,30}", any::<u16>(), ".{0,30}").prop_map(
        |(boot, node_id, cores, data_center)| MemberDetails {
            boot: Boot(boot),
            protocol: (1, 2),
            id: NodeId::new(&node_id),
            cores,
            replicas: Count::Exactly(3),
            write_quorum: Count::AllBut(1),
            read_quorum: Count::Exactly(2),
            on_partition: OnPartition::Majority,
            site: Site {
                data_center: data_center.as_str().into(),
                zone: "rack 7".into(),
                weight: 300,
            },
        },
    )
}

fn a_signed_claim() -> impl Strategy<Value = SaidClaim> {
    (an_identity(), any::<bool>(), any::<[u8; 32]>()).prop_map(|(identity, has_left, key)| {
        let kind = if has_left { ClaimKind::Left } else { ClaimKind::Leaving };
        let signed = Some(Signed { key, signature: [key[0]; 64] });
        SaidClaim { claim: Claim { identity, kind }, signed }
    })
}

fn a_control_message() -> impl Strategy<Value = ControlMessage> {
    let state =
        prop_oneof![Just(State::Alive), Just(State::Suspect), Just(State::Dead), Just(State::Left)];
    let record = (an_identity(), state, any::<bool>())
        .prop_map(|(identity, state, leaving)| Record { identity, state, leaving });
    let stage = prop_oneof![
        Just(Stage::Forming),
        Just(Stage::Joined),
        any::<u64>().prop_map(|members_digest| Stage::Born { members_digest }),
    ];
    let status = (any::<u64>(), stage)
        .prop_map(|(members_digest, stage)| Status { members_digest, stage })
        .boxed();
    let heard = (an_identity(), status.clone());
    let some_members = prop::collection::vec(an_identity(), 0..5);
    let of = || prop::option::of(an_identity());
    let reached = prop_oneof![
        Just(Reached::Yes),
        Just(Reached::NobodyListens),
        Just(Reached::NoAnswer),
        Just(Reached::SomebodyElse),
        Just(Reached::NotTried),
    ];
    let absent =
        (an_identity(), "[a-z]{0,20}", any::<u64>()).prop_map(|(identity, data_center, ms)| {
            let dead_for = Duration::from_millis(ms);
            AbsentMember { identity, data_center: data_center.into(), dead_for }
        });
    prop_oneof![
        Just(ControlMessage::AskMembers),
        (
            prop::collection::vec(record, 0..5),
            prop::collection::vec(absent, 0..5),
            prop::collection::vec(some_details(), 0..5),
            prop::collection::vec(a_signed_claim(), 0..5)
        )
            .prop_map(|(records, absent, details, claims)| ControlMessage::Members {
                records,
                absent,
                details,
                claims
            }),
        (status, some_members, prop::collection::vec(heard, 0..5))
            .prop_map(|(status, asks, heard)| ControlMessage::Status { status, asks, heard }),
        (any::<u64>(), of()).prop_map(|(round, of)| ControlMessage::AskDebt { round, of }),
        (any::<(u64, u64, u32, u32, u64)>(), of()).prop_map(
            |((round, members_digest, copies, writes, missing_bytes), of)| {
                let debt = NodeDebt { members_digest, copies, writes, missing_bytes };
                ControlMessage::Debt { round, of, debt }
            }
        ),
        an_identity().prop_map(|identity| ControlMessage::DialBack { identity }),
        (reached, any::<bool>()).prop_map(|(tcp, udp)| ControlMessage::DialedBack { tcp, udp }),
    ]
}

fn a_proof() -> impl Strategy<Value = Proof> {
    let of_key = (any::<[u8; 32]>(), any::<u32>(), any::<[u8; 32]>());
    let of_node = (an_identity(), any::<u8>(), any::<[u8; 32]>());
    (of_key, of_node).prop_map(|((mac, key_id, public_key), (identity, flags, half))| {
        let signature = std::array::from_fn(|at| half[at % 32].wrapping_add(at as u8));
        let session_signature = std::array::from_fn(|at| half[(at + 7) % 32]);
        Proof { mac, key_id, identity, public_key, flags, signature, session_signature }
    })
}

fn a_frame() -> impl Strategy<Value = Frame> {
    let message = prop_oneof![
        a_proof().prop_map(Message::Proof),
        a_hello().prop_map(Message::Hello),
        a_hello().prop_map(Message::Welcome),
        (0u16..12, ".{0,60}").prop_map(|(reason, text)| Message::Refused(Refusal {
            reason: REASONS[usize::from(reason)],
            text
        })),
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
    fn random_bodies_of_every_type_never_panic(
        kind: u8,
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = frame::begin();
        bytes.extend_from_slice(&body);
        let _ = receive(&frame::finish(bytes, kind, Partition::new(0).unwrap(), 0));
    }
}

fn partition_zero(message: Message) -> Frame {
    Frame { partition: Partition::new(0).unwrap(), request_id: 0, message }
}

/// Frames with every message, always the same ones.
fn samples() -> impl Iterator<Item = Frame> {
    let (mut runner, frames) = (TestRunner::deterministic(), a_frame());
    (0..4_000).map(move |_| frames.new_tree(&mut runner).unwrap().current())
}

/// Decodes the body of an encoded frame, of which `cut` bytes at the end are missing.
fn decode_cut(encoded: &Encoded, cut: usize) -> Result<Frame, FrameError> {
    let body_bytes = u32::from_le_bytes(encoded[..4].try_into().unwrap()) as usize - cut;
    let partition = Partition::new(0).unwrap();
    let header = Header { kind: encoded[4], partition, request_id: 0, body_bytes };
    decode(header, &encoded[HEADER_BYTES..HEADER_BYTES + body_bytes])
}

/// The variants of an enum of `message.rs`, read off its source.
fn variants(of: &str) -> BTreeSet<String> {
    let source = include_str!("../message.rs");
    let (_, body) = source.split_once(&format!("pub(crate) enum {of} {{\n")).unwrap();
    let (body, _) = body.split_once("\n}").unwrap();
    let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
    lines.filter(|line| line.starts_with(char::is_uppercase)).map(name).collect()
}

fn name(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric()).collect()
}

/// A new message that was forgotten here, or has no number, fails this test.
#[test]
fn every_message_of_the_story_has_a_number_and_arrives() {
    let mut numbers = BTreeSet::new();
    let (mut control, mut requests, mut answers) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for frame in samples() {
        let encoded = encode(&frame);
        assert_eq!(decode_cut(&encoded, 0).unwrap().message, frame.message);
        numbers.insert(encoded[4]);
        match &frame.message {
            Message::Control(message) => control.insert(name(&format!("{message:?}"))),
            Message::Request(request) => requests.insert(name(&format!("{request:?}"))),
            Message::Answer(answer) => answers.insert(name(&format!("{answer:?}"))),
            Message::Proof(_) | Message::Hello(_) | Message::Welcome(_) | Message::Refused(_) => {
                false
            }
        };
    }
    let known: BTreeSet<u8> =
        (0..=u8::MAX).filter(|kind| DECODERS[usize::from(*kind)].is_some()).collect();
    assert_eq!(numbers, known);
    assert_eq!(control, variants("ControlMessage"));
    assert_eq!(requests, variants("Request"));
    assert_eq!(answers, variants("Answer"));
}

#[test]
fn a_body_that_is_cut_short_is_refused_in_every_message() {
    for frame in samples() {
        let encoded = encode(&frame);
        let length = u32::from_le_bytes(encoded[..4].try_into().unwrap()) as usize;
        if length > 0 {
            let refused = Err(FrameError::BadBody { kind: encoded[4], why: "not a valid archive" });
            assert_eq!(decode_cut(&encoded, 1), refused, "{frame:?}");
            assert_eq!(decode_cut(&encoded, length), refused, "{frame:?}");
        }
    }
}

#[test]
fn what_is_over_a_limit_is_refused_in_every_family() {
    let list = ListRef::default();
    let beyond = Version(MAX_NUMBER + 1);
    let key: Box<[u8]> = vec![7; MAX_KEY_BYTES + 1].into();
    let entry = Entry::new(b"key", Content::Tombstone, beyond, None);
    let dead = |count| vec![(KeyHash(1), Version(1)); count];
    let member = |port| Identity {
        node: NodeHash(u64::from(port)),
        boot: Boot(1),
        returns: 0,
        addr: ([127, 0, 0, 1], port).into(),
    };
    let wish = |members: RangeInclusive<u16>| Wish {
        members: members.map(member).collect(),
        witnesses: Vec::new(),
    };
    let long_list = List::of(1, &wish(1..=MAX_COPIES as u16 + 1), Ancestry::default());
    let with = |number, base: Option<u64>, forks: &[u64]| {
        let base = base.map(|number| ListRef { number, digest: 1 });
        let before = if base.is_some() { Box::from([member(1)]) } else { Box::default() };
        let forks = forks.iter().map(|&number| Fork { number, id: 1 }).collect();
        let list = List::of(number, &wish(1..=3), Ancestry { base, before, forks });
        Request::Adopt { list, purged: mark(1) }
    };
    let many: Vec<u64> = (1..=MAX_FORKS as u64 + 1).collect();
    let no_ballot = Ballot { round: MAX_NUMBER + 1, ..Ballot::default() };
    let two = Wish { members: vec![member(1)], witnesses: vec![member(1)] };
    let twice = Request::Adopt { list: List::of(1, &two, Ancestry::default()), purged: mark(1) };
    let partitions = vec![Partition::new(0).unwrap(); usize::from(PARTITIONS) + 1];
    let requests = [
        (Request::Write { list, entry: entry.clone() }, "a version beyond the calendar"),
        (Request::Read { list, key: key.clone(), want: Want::Entry }, "a key over the limit"),
        (Request::Adopt { list: long_list, purged: mark(1) }, "a list longer than N can be"),
        (with(7, Some(5), &[]), "a list that does not follow its base"),
        (with(7, None, &[3, 3]), "a list with forks that it cannot have"),
        (twice, "a list with a node twice, or without the members before it"),
        (Request::Prepare { list, ballot: no_ballot }, "a ballot with a round out of range"),
        (with(7, None, &[8]), "a list with forks that it cannot have"),
        (with(99, None, &many), "a list with forks that it cannot have"),
        (Request::Compare(Compare { partitions, digest: 0 }), "more than there can be"),
        (
            Request::Purge { list, members_digest: 0, dead: dead(MAX_DEAD_KEYS + 1), route: None },
            "more keys than are purged at a time",
        ),
        (
            Request::Purged { dead: dead(MAX_DEAD_KEYS + 1), route: None },
            "more keys than are purged at a time",
        ),
        (
            Request::Relay { entries: vec![entry.clone()], route: None },
            "a version beyond the calendar",
        ),
        (Request::Forward { key }, "a key over the limit"),
    ];
    let answers = [
        (
            Answer::Found { found: Found::Version(beyond), synced: true },
            "a version beyond the calendar",
        ),
        (Answer::OtherList { list: None, purged: mark(beyond.0) }, "a version beyond the calendar"),
        (Answer::TooOld { purge_horizon: beyond, synced: true }, "a version beyond the calendar"),
        (
            Answer::Chunk(Chunk {
                entries: vec![entry],
                next: None,
                sequence: 0,
                extent: Extent::Open,
                purged: mark(1),
                is_behind: false,
            }),
            "a version beyond the calendar",
        ),
    ];
    let requests = requests.map(|(request, why)| (Message::Request(request), why));
    let answers = answers.map(|(answer, why)| (Message::Answer(answer), why));
    for (message, why) in requests.into_iter().chain(answers) {
        let encoded = encode(&partition_zero(message));
        assert_eq!(decode_cut(&encoded, 0), Err(FrameError::BadBody { kind: encoded[4], why }));
    }
}

/// Writes some messages of each number, and streams of them, for `fuzz/`.
#[test]
#[ignore = "it writes files: see fuzz/README.md"]
fn seeds_for_the_fuzzers() {
    let mut written = [0; 256];
    let mut stream = vec![0, 100, 0];
    for (number, frame) in samples().enumerate() {
        let encoded = encode(&frame);
        let body_bytes = u32::from_le_bytes(encoded[..4].try_into().unwrap()) as usize;
        let count = &mut written[usize::from(encoded[4])];
        if *count == 4 || body_bytes > 2000 {
            continue;
        }
        *count += 1;
        let body = &encoded[HEADER_BYTES..HEADER_BYTES + body_bytes];
        seeds::write("messages", number, &[&encoded[4..5], body].concat());
        stream.extend_from_slice(&encoded);
        if stream.len() > 2000 {
            seeds::write("frames", number, &stream);
            stream.truncate(3);
        }
    }
    // Sound frames of any length, see `fuzzing::frames`.
    seeds::write("frames", 4000, &[1, 0, 255, 16, 1, 0, 0x88, 8, 2, 16, 0, 32, 3, 0, 0x10]);
    seeds::write("frames", 4001, &[3, 255, 255, 7, 1, 200, 0, 0, 2, 0, 0x41, 9, 3, 17, 0, 255]);
}
