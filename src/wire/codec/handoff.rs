//! A handoff's copy of a partition: `Fetch`, answered by `Chunk`; `Receipt`, answered by
//! `Received`.

use rkyv::{Archive, Serialize};

use super::body::{Body, Decoder, Reader, hash, wire_hash};
use super::values::{
    WireEntry, WireListRef, WirePurgeMark, list_ref, wire_entries, wire_mark, wire_ref,
};
use crate::placement::ListRef;
use crate::wire::frame::FrameError;
use crate::wire::message::{Answer, Chunk, Fetch, Message, Request};

pub(super) fn encode_request(request: &Request) -> Option<Body> {
    match request {
        Request::Fetch(fetch) => Some(encode_fetch(*fetch)),
        Request::Receipt { list, covers } => Some(encode_receipt(*list, *covers)),
        _ => None,
    }
}

pub(super) fn encode_answer(answer: &Answer) -> Option<Body> {
    match answer {
        Answer::Chunk(chunk) => Some(encode_chunk(chunk)),
        Answer::Received { covered } => {
            Some(Body::of(RECEIVED, &WireReceived { covered: *covered }))
        }
        _ => None,
    }
}

pub(super) const DECODERS: &[(u8, Decoder)] = &[
    (FETCH, decode_fetch),
    (CHUNK, decode_chunk),
    (RECEIPT, decode_receipt),
    (RECEIVED, decode_received),
];

const FETCH: u8 = 20;

#[derive(Archive, Serialize)]
struct WireFetch {
    list: WireListRef,
    after: u64,
    since: u64,
    digest: u64,
    from_start: bool,
}

const _: () = assert!(size_of::<ArchivedWireFetch>() == 48);

fn encode_fetch(Fetch { list, after, since, digest }: Fetch) -> Body {
    let (list, from_start) = (wire_ref(list), after.is_none());
    Body::of(FETCH, &WireFetch { list, after: wire_hash(after), since, digest, from_start })
}

fn decode_fetch(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireFetch>()?;
    Ok(Message::Request(Request::Fetch(Fetch {
        list: list_ref(&wire.list),
        after: hash(wire.after.to_native(), wire.from_start),
        since: wire.since.to_native(),
        digest: wire.digest.to_native(),
    })))
}

const CHUNK: u8 = 36;

#[derive(Archive, Serialize)]
struct WireChunk<'a> {
    sequence: u64,
    next: u64,
    purged: WirePurgeMark,
    done: bool,
    /// 0 is any, 1 open, 2 whole before, 3 whole.
    extent: u8,
    is_behind: bool,
    entries: Vec<WireEntry<'a>>,
}

const _: () = assert!(size_of::<ArchivedWireChunk>() == 56);

fn encode_chunk(chunk: &Chunk) -> Body {
    let Chunk { entries, next, sequence, extent, purged, is_behind } = chunk;
    let chunk = WireChunk {
        sequence: *sequence,
        next: wire_hash(*next),
        purged: wire_mark(*purged),
        done: next.is_none(),
        extent: *extent as u8,
        is_behind: *is_behind,
        entries: wire_entries(entries),
    };
    Body::of(CHUNK, &chunk)
}

fn decode_chunk(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireChunk>()?;
    Ok(Message::Answer(Answer::Chunk(Chunk {
        entries: reader.entries(&wire.entries)?,
        next: hash(wire.next.to_native(), wire.done),
        sequence: wire.sequence.to_native(),
        extent: reader.extent(wire.extent)?,
        purged: reader.mark(&wire.purged)?,
        is_behind: wire.is_behind,
    })))
}

const RECEIPT: u8 = 21;

#[derive(Archive, Serialize)]
struct WireReceipt {
    list: WireListRef,
    covers: u64,
}

const _: () = assert!(size_of::<ArchivedWireReceipt>() == 24);

fn encode_receipt(list: ListRef, covers: u64) -> Body {
    Body::of(RECEIPT, &WireReceipt { list: wire_ref(list), covers })
}

fn decode_receipt(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireReceipt>()?;
    let (list, covers) = (list_ref(&wire.list), wire.covers.to_native());
    Ok(Message::Request(Request::Receipt { list, covers }))
}

const RECEIVED: u8 = 37;

#[derive(Archive, Serialize)]
struct WireReceived {
    covered: bool,
}

const _: () = assert!(size_of::<ArchivedWireReceived>() == 1);

fn decode_received(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let covered = reader.archive::<ArchivedWireReceived>()?.covered;
    Ok(Message::Answer(Answer::Received { covered }))
}
