//! A write at a replica: `Write`, answered by `Written`, `Declined`, `NoRoom` or `TooOld`.

use rkyv::{Archive, Serialize};

use super::body::{Body, Decoder, Reader};
use super::values::{WireEntry, WireListRef, list_ref, wire_entry, wire_ref};
use crate::clock::Version;
use crate::entry::Entry;
use crate::placement::ListRef;
use crate::wire::frame::FrameError;
use crate::wire::message::{Answer, Message, Request};

#[inline]
pub(super) fn encode_request(request: &Request) -> Option<Body> {
    match request {
        Request::Write { list, entry } => Some(encode_write(*list, entry)),
        _ => None,
    }
}

#[inline]
pub(super) fn encode_answer(answer: &Answer) -> Option<Body> {
    match answer {
        Answer::Written { superseded_by, synced } => Some(encode_written(*superseded_by, *synced)),
        Answer::Declined => Some(Body::empty(DECLINED)),
        Answer::NoRoom { max_memory } => {
            Some(Body::of(NO_ROOM, &WireNoRoom { max_memory: *max_memory }))
        }
        Answer::TooOld { purge_horizon, synced } => Some(encode_too_old(*purge_horizon, *synced)),
        _ => None,
    }
}

pub(super) const DECODERS: &[(u8, Decoder)] = &[
    (WRITE, decode_write),
    (WRITTEN, decode_written),
    (DECLINED, |_| Ok(Message::Answer(Answer::Declined))),
    (NO_ROOM, decode_no_room),
    (TOO_OLD, decode_too_old),
];

const WRITE: u8 = 16;

#[derive(Archive, Serialize)]
struct WireWrite<'a> {
    list: WireListRef,
    entry: WireEntry<'a>,
}

const _: () = assert!(size_of::<ArchivedWireWrite>() == 56);

fn encode_write(list: ListRef, entry: &Entry) -> Body {
    Body::of(WRITE, &WireWrite { list: wire_ref(list), entry: wire_entry(entry) })
}

fn decode_write(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireWrite>()?;
    let (list, entry) = (list_ref(&wire.list), reader.entry(&wire.entry)?);
    Ok(Message::Request(Request::Write { list, entry }))
}

const WRITTEN: u8 = 32;

#[derive(Archive, Serialize)]
struct WireWritten {
    /// Zero if the entry itself is stored.
    superseded_by: u64,
    synced: bool,
}

const _: () = assert!(size_of::<ArchivedWireWritten>() == 16);

fn encode_written(superseded_by: Option<Version>, synced: bool) -> Body {
    let superseded_by = superseded_by.map_or(0, |version| version.0);
    Body::of(WRITTEN, &WireWritten { superseded_by, synced })
}

fn decode_written(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireWritten>()?;
    let version = reader.version(wire.superseded_by.to_native())?;
    let superseded_by = (version > Version::ZERO).then_some(version);
    Ok(Message::Answer(Answer::Written { superseded_by, synced: wire.synced }))
}

/// The kind of an answer to a write, or to a question of a purge.
const DECLINED: u8 = 38;

const NO_ROOM: u8 = 45;

#[derive(Archive, Serialize)]
struct WireNoRoom {
    max_memory: u64,
}

const _: () = assert!(size_of::<ArchivedWireNoRoom>() == 8);

fn decode_no_room(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let max_memory = reader.archive::<ArchivedWireNoRoom>()?.max_memory.to_native();
    Ok(Message::Answer(Answer::NoRoom { max_memory }))
}

const TOO_OLD: u8 = 40;

#[derive(Archive, Serialize)]
struct WireTooOld {
    purge_horizon: u64,
    synced: bool,
}

const _: () = assert!(size_of::<ArchivedWireTooOld>() == 16);

fn encode_too_old(purge_horizon: Version, synced: bool) -> Body {
    Body::of(TOO_OLD, &WireTooOld { purge_horizon: purge_horizon.0, synced })
}

fn decode_too_old(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireTooOld>()?;
    let purge_horizon = reader.version(wire.purge_horizon.to_native())?;
    Ok(Message::Answer(Answer::TooOld { purge_horizon, synced: wire.synced }))
}
