//! Comparing in the background: `Compare`, answered by `Compared`; `Survey`, answered by
//! `Surveyed`; and `Repair` and `Give`, which `Listed` answers.

use rkyv::rend::u64_le;
use rkyv::{Archive, Serialize};

use super::body::{Body, Decoder, Reader, hash, wire_hash};
use super::values::{WireEntry, WireListRef, list_ref, wire_entries, wire_ref};
use crate::entry::Entry;
use crate::placement::ListRef;
use crate::types::{KeyHash, PARTITIONS};
use crate::wire::frame::{CHUNK_BYTES, FrameError};
use crate::wire::message::{
    Answer, Compare, Compared, Held, Message, Request, Seen, Survey, Surveyed,
};

pub(super) fn encode_request(request: &Request) -> Option<Body> {
    match request {
        Request::Compare(compare) => Some(encode_compare(compare)),
        Request::Repair { list, wants_receipt } => {
            let (list, wants_receipt) = (wire_ref(*list), *wants_receipt);
            Some(Body::of(REPAIR, &WireRepair { list, wants_receipt }))
        }
        Request::Survey(survey) => Some(encode_survey(survey)),
        Request::Give { list, entries } => Some(encode_give(*list, entries)),
        _ => None,
    }
}

pub(super) fn encode_answer(answer: &Answer) -> Option<Body> {
    match answer {
        Answer::Compared(compared) => Some(encode_compared(compared)),
        Answer::Surveyed(surveyed) => Some(encode_surveyed(surveyed)),
        _ => None,
    }
}

pub(super) const DECODERS: &[(u8, Decoder)] = &[
    (COMPARE, decode_compare),
    (COMPARED, decode_compared),
    (REPAIR, decode_repair),
    (SURVEY, decode_survey),
    (SURVEYED, decode_surveyed),
    (GIVE, decode_give),
];

/// The most keys of one survey: fewer than a chunk has entries, of which none takes so few bytes.
const MAX_SURVEYED: usize = CHUNK_BYTES / 16;

const COMPARE: u8 = 22;

#[derive(Archive, Serialize)]
struct WireCompare {
    digest: u64,
    partitions: Vec<u16>,
}

const _: () = assert!(size_of::<ArchivedWireCompare>() == 16);

fn encode_compare(Compare { partitions, digest }: &Compare) -> Body {
    let partitions = partitions.iter().map(|partition| partition.index()).collect();
    Body::of(COMPARE, &WireCompare { digest: *digest, partitions })
}

fn decode_compare(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireCompare>()?;
    reader.at_most(usize::from(PARTITIONS), wire.partitions.len())?;
    let partitions = wire.partitions.iter().map(|index| reader.partition(index.to_native()));
    let partitions = partitions.collect::<Result<_, _>>()?;
    Ok(Message::Request(Request::Compare(Compare { partitions, digest: wire.digest.to_native() })))
}

const COMPARED: u8 = 39;

#[derive(Archive, Serialize)]
struct WireCompared {
    /// Empty if the contents are alike.
    held: Vec<WireHeld>,
    alike: bool,
}

#[derive(Archive, Serialize)]
struct WireHeld {
    list: WireListRef,
    digest: u64,
    partition: u16,
    has_gaps: bool,
}

const _: () = assert!(size_of::<ArchivedWireCompared>() == 12);
const _: () = assert!(size_of::<ArchivedWireHeld>() == 32);

fn encode_compared(compared: &Compared) -> Body {
    let (alike, held): (_, &[Held]) = match compared {
        Compared::Alike => (true, &[]),
        Compared::Differ(held) => (false, held),
    };
    Body::of(COMPARED, &WireCompared { held: held.iter().map(wire_held).collect(), alike })
}

fn wire_held(held: &Held) -> WireHeld {
    let Held { partition, list, digest, has_gaps } = *held;
    WireHeld { list: wire_ref(list), digest, partition: partition.index(), has_gaps }
}

fn decode_compared(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let held = |wire: &ArchivedWireHeld| {
        Ok(Held {
            partition: reader.partition(wire.partition.to_native())?,
            list: list_ref(&wire.list),
            digest: wire.digest.to_native(),
            has_gaps: wire.has_gaps,
        })
    };
    let wire = reader.archive::<ArchivedWireCompared>()?;
    reader.at_most(usize::from(PARTITIONS), wire.held.len())?;
    let compared = match wire.alike {
        true => Compared::Alike,
        false => Compared::Differ(wire.held.iter().map(held).collect::<Result<_, _>>()?),
    };
    Ok(Message::Answer(Answer::Compared(compared)))
}

const REPAIR: u8 = 23;

#[derive(Archive, Serialize)]
struct WireRepair {
    list: WireListRef,
    wants_receipt: bool,
}

const _: () = assert!(size_of::<ArchivedWireRepair>() == 24);

fn decode_repair(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireRepair>()?;
    let (list, wants_receipt) = (list_ref(&wire.list), wire.wants_receipt);
    Ok(Message::Request(Request::Repair { list, wants_receipt }))
}

const SURVEY: u8 = 26;

#[derive(Archive, Serialize)]
struct WireSurvey {
    list: WireListRef,
    after: u64,
    until: u64,
    eviction_watermark: u64,
    from_start: bool,
    to_end: bool,
    seen: Vec<WireSeen>,
}

#[derive(Archive, Serialize)]
struct WireSeen {
    hash: u64,
    version: u64,
    digest: u64,
}

const _: () = assert!(size_of::<ArchivedWireSurvey>() == 56);
const _: () = assert!(size_of::<ArchivedWireSeen>() == 24);

fn encode_survey(Survey { list, after, until, eviction_watermark, seen }: &Survey) -> Body {
    let seen = seen.iter().map(|seen| WireSeen {
        hash: seen.hash.0,
        version: seen.version.0,
        digest: seen.digest,
    });
    let survey = WireSurvey {
        list: wire_ref(*list),
        after: wire_hash(*after),
        until: wire_hash(*until),
        eviction_watermark: eviction_watermark.0,
        from_start: after.is_none(),
        to_end: until.is_none(),
        seen: seen.collect(),
    };
    Body::of(SURVEY, &survey)
}

fn decode_survey(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let seen = |wire: &ArchivedWireSeen| {
        Ok(Seen {
            hash: KeyHash(wire.hash.to_native()),
            version: reader.version(wire.version.to_native())?,
            digest: wire.digest.to_native(),
        })
    };
    let wire = reader.archive::<ArchivedWireSurvey>()?;
    reader.at_most(MAX_SURVEYED, wire.seen.len())?;
    Ok(Message::Request(Request::Survey(Survey {
        list: list_ref(&wire.list),
        after: hash(wire.after.to_native(), wire.from_start),
        until: hash(wire.until.to_native(), wire.to_end),
        eviction_watermark: reader.version(wire.eviction_watermark.to_native())?,
        seen: wire.seen.iter().map(seen).collect::<Result<_, _>>()?,
    })))
}

const SURVEYED: u8 = 43;

#[derive(Archive, Serialize)]
struct WireSurveyed<'a> {
    eviction_watermark: u64,
    next: u64,
    done: bool,
    entries: Vec<WireEntry<'a>>,
    missing: Vec<u64>,
    outdated: Vec<u64>,
}

const _: () = assert!(size_of::<ArchivedWireSurveyed>() == 48);

fn encode_surveyed(
    Surveyed { entries, missing, eviction_watermark, outdated, next }: &Surveyed,
) -> Body {
    let hashes = |hashes: &[KeyHash]| hashes.iter().map(|hash| hash.0).collect();
    let surveyed = WireSurveyed {
        eviction_watermark: eviction_watermark.0,
        next: wire_hash(*next),
        done: next.is_none(),
        entries: wire_entries(entries),
        missing: hashes(missing),
        outdated: hashes(outdated),
    };
    Body::of(SURVEYED, &surveyed)
}

fn decode_surveyed(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let hashes = |wire: &[u64_le]| wire.iter().map(|hash| KeyHash(hash.to_native())).collect();
    let wire = reader.archive::<ArchivedWireSurveyed>()?;
    reader.at_most(MAX_SURVEYED, wire.missing.len().max(wire.outdated.len()))?;
    Ok(Message::Answer(Answer::Surveyed(Surveyed {
        entries: reader.entries(&wire.entries)?,
        missing: hashes(&wire.missing),
        eviction_watermark: reader.version(wire.eviction_watermark.to_native())?,
        outdated: hashes(&wire.outdated),
        next: hash(wire.next.to_native(), wire.done),
    })))
}

const GIVE: u8 = 29;

#[derive(Archive, Serialize)]
struct WireGive<'a> {
    list: WireListRef,
    entries: Vec<WireEntry<'a>>,
}

const _: () = assert!(size_of::<ArchivedWireGive>() == 24);

fn encode_give(list: ListRef, entries: &[Entry]) -> Body {
    Body::of(GIVE, &WireGive { list: wire_ref(list), entries: wire_entries(entries) })
}

fn decode_give(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireGive>()?;
    let (list, entries) = (list_ref(&wire.list), reader.entries(&wire.entries)?);
    Ok(Message::Request(Request::Give { list, entries }))
}
