//! Forgetting tombstones: `Purge`, answered by `Purgeable` (or `Declined`); `Purged`, answered by
//! `Purged`. A helper that passes one of them on answers `Unreached` if it gets no answer, and
//! `Busy` if it does not pass it on now.

use rkyv::{Archive, Serialize};

use super::body::{Body, Decoder, Reader};
use super::values::{WireIdentity, WireListRef, list_ref, wire_ref, wire_route};
use crate::placement::ListRef;
use crate::types::KeyHash;
use crate::wire::frame::FrameError;
use crate::wire::message::{Answer, Dead, MAX_DEAD_KEYS, Message, Request, Route};

pub(super) fn encode_request(request: &Request) -> Option<Body> {
    match request {
        Request::Purge { list, members_digest, dead, route } => {
            Some(encode_purge(*list, *members_digest, dead, route.as_ref()))
        }
        Request::Purged { dead, route } => {
            let (dead, route) = (wire_dead(dead), wire_route(route.as_ref()));
            Some(Body::of(PURGED, &WirePurged { dead, route }))
        }
        _ => None,
    }
}

pub(super) fn encode_answer(answer: &Answer) -> Option<Body> {
    match answer {
        Answer::Purgeable { merges, places } => Some(encode_purgeable(*merges, places)),
        Answer::Purged => Some(Body::empty(HAS_PURGED)),
        Answer::Unreached => Some(Body::empty(UNREACHED)),
        Answer::Busy => Some(Body::empty(BUSY)),
        _ => None,
    }
}

pub(super) const DECODERS: &[(u8, Decoder)] = &[
    (PURGE, decode_purge),
    (PURGEABLE, decode_purgeable),
    (PURGED, decode_purged),
    (HAS_PURGED, |_| Ok(Message::Answer(Answer::Purged))),
    (UNREACHED, |_| Ok(Message::Answer(Answer::Unreached))),
    (BUSY, |_| Ok(Message::Answer(Answer::Busy))),
];

#[derive(Archive, Serialize, Clone, Copy)]
struct WireDead {
    hash: u64,
    version: u64,
}

const _: () = assert!(size_of::<ArchivedWireDead>() == 16);

fn wire_dead(dead: &[Dead]) -> Vec<WireDead> {
    dead.iter().map(|(hash, version)| WireDead { hash: hash.0, version: version.0 }).collect()
}

fn decode_dead(reader: &Reader<'_>, wire: &[ArchivedWireDead]) -> Result<Vec<Dead>, FrameError> {
    if wire.len() > MAX_DEAD_KEYS {
        return Err(reader.bad("more keys than are purged at a time"));
    }
    let dead = |wire: &ArchivedWireDead| {
        Ok((KeyHash(wire.hash.to_native()), reader.version(wire.version.to_native())?))
    };
    wire.iter().map(dead).collect()
}

const PURGE: u8 = 24;

#[derive(Archive, Serialize)]
struct WirePurge {
    list: WireListRef,
    members_digest: u64,
    dead: Vec<WireDead>,
    route: Vec<WireIdentity>,
}

const _: () = assert!(size_of::<ArchivedWirePurge>() == 40);

fn encode_purge(list: ListRef, members_digest: u64, dead: &[Dead], route: Option<&Route>) -> Body {
    let (dead, route) = (wire_dead(dead), wire_route(route));
    Body::of(PURGE, &WirePurge { list: wire_ref(list), members_digest, dead, route })
}

fn decode_purge(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWirePurge>()?;
    Ok(Message::Request(Request::Purge {
        list: list_ref(&wire.list),
        members_digest: wire.members_digest.to_native(),
        dead: decode_dead(reader, &wire.dead)?,
        route: reader.route(&wire.route)?,
    }))
}

const PURGEABLE: u8 = 41;

#[derive(Archive, Serialize)]
struct WirePurgeable {
    merges: u64,
    places: Vec<u16>,
}

const _: () = assert!(size_of::<ArchivedWirePurgeable>() == 16);

fn encode_purgeable(merges: u64, places: &[u16]) -> Body {
    Body::of(PURGEABLE, &WirePurgeable { merges, places: places.to_vec() })
}

fn decode_purgeable(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWirePurgeable>()?;
    let places = wire.places.iter().map(|place| place.to_native()).collect();
    Ok(Message::Answer(Answer::Purgeable { merges: wire.merges.to_native(), places }))
}

const PURGED: u8 = 25;
const HAS_PURGED: u8 = 42;

#[derive(Archive, Serialize)]
struct WirePurged {
    dead: Vec<WireDead>,
    route: Vec<WireIdentity>,
}

const _: () = assert!(size_of::<ArchivedWirePurged>() == 16);

fn decode_purged(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWirePurged>()?;
    let (dead, route) = (decode_dead(reader, &wire.dead)?, reader.route(&wire.route)?);
    Ok(Message::Request(Request::Purged { dead, route }))
}

const UNREACHED: u8 = 46;
const BUSY: u8 = 50;
