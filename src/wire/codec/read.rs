//! A read at a replica: `Read`, answered by `Found`, which also answers a read that was sent to
//! another data center.

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::body::{Body, Decoder, Reader};
use super::values::{WireEntry, WireListRef, list_ref, wire_entry, wire_ref};
use crate::placement::ListRef;
use crate::wire::frame::FrameError;
use crate::wire::message::{Answer, Found, Message, Request, Want};

#[inline]
pub(super) fn encode_request(request: &Request) -> Option<Body> {
    match request {
        Request::Read { list, key, want } => Some(encode_read(*list, key, *want)),
        _ => None,
    }
}

#[inline]
pub(super) fn encode_answer(answer: &Answer) -> Option<Body> {
    match answer {
        Answer::Found { found, synced } => Some(encode_found(found, *synced)),
        _ => None,
    }
}

pub(super) const DECODERS: &[(u8, Decoder)] = &[(READ, decode_read), (FOUND, decode_found)];

const READ: u8 = 17;

#[derive(Archive, Serialize)]
struct WireRead<'a> {
    list: WireListRef,
    version_only: bool,
    #[rkyv(with = InlineAsBox)]
    key: &'a [u8],
}

const _: () = assert!(size_of::<ArchivedWireRead>() == 32);

fn encode_read(list: ListRef, key: &[u8], want: Want) -> Body {
    Body::of(READ, &WireRead { list: wire_ref(list), version_only: want == Want::Version, key })
}

fn decode_read(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireRead>()?;
    let want = if wire.version_only { Want::Version } else { Want::Entry };
    let key = reader.key(&wire.key)?.into();
    Ok(Message::Request(Request::Read { list: list_ref(&wire.list), key, want }))
}

const FOUND: u8 = 33;

#[derive(Archive, Serialize)]
struct WireFound<'a> {
    /// The eviction watermark if the key is absent.
    version: u64,
    entry: Option<WireEntry<'a>>,
    absent: bool,
    synced: bool,
}

const _: () = assert!(size_of::<ArchivedWireFound>() == 64);

fn encode_found(found: &Found, synced: bool) -> Body {
    let (version, entry) = match found {
        Found::Absent { eviction_watermark } => (eviction_watermark.0, None),
        Found::Version(version) => (version.0, None),
        Found::Entry(entry) => (entry.version().0, Some(wire_entry(entry))),
    };
    let absent = matches!(found, Found::Absent { .. });
    Body::of(FOUND, &WireFound { version, entry, absent, synced })
}

fn decode_found(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireFound>()?;
    let found = match wire.entry.as_ref() {
        Some(entry) => Found::Entry(reader.entry(entry)?),
        None if wire.absent => {
            Found::Absent { eviction_watermark: reader.version(wire.version.to_native())? }
        }
        None => Found::Version(reader.version(wire.version.to_native())?),
    };
    Ok(Message::Answer(Answer::Found { found, synced: wire.synced }))
}
