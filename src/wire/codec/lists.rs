//! A partition's list: `AskList` and `Adopt`, answered by `Listed`; the votes on the next one:
//! `Prepare` and `Accept`, answered by `Promised`, `Accepted` or `Refused`; and `OtherList`, which
//! answers any request that names a list which its receiver does not serve.

use std::sync::Arc;

use rkyv::{Archive, Serialize};

use super::body::{Body, Decoder, Reader};
use super::values::{
    ArchivedWireBallot, WireBallot, WireList, WireListRef, WirePurgeMark, list_ref, wire_ballot,
    wire_list, wire_mark, wire_ref,
};
use crate::placement::{Ballot, List, ListRef};
use crate::wire::frame::FrameError;
use crate::wire::message::{Answer, Extent, Listed, Message, Request};
use crate::wire::retention::PurgeMark;

pub(super) fn encode_request(request: &Request) -> Option<Body> {
    match request {
        Request::AskList => Some(Body::empty(ASK_LIST)),
        Request::Adopt { list, purged } => Some(encode_adopt(list, *purged)),
        Request::Prepare { list, ballot } => Some(encode_prepare(*list, *ballot)),
        Request::Accept { list, ballot, value } => Some(encode_accept(*list, *ballot, value)),
        _ => None,
    }
}

pub(super) fn encode_answer(answer: &Answer) -> Option<Body> {
    match answer {
        Answer::Listed(listed) => Some(encode_listed(listed)),
        Answer::Promised { accepted, extent } => Some(encode_promised(accepted.as_ref(), *extent)),
        Answer::Accepted => Some(Body::empty(ACCEPTED)),
        Answer::Refused { promised } => Some(Body::of(REFUSED_BALLOT, &wire_ballot(*promised))),
        Answer::OtherList { list, purged } => Some(encode_other_list(list.as_deref(), *purged)),
        _ => None,
    }
}

pub(super) const DECODERS: &[(u8, Decoder)] = &[
    (ASK_LIST, |_| Ok(Message::Request(Request::AskList))),
    (ADOPT, decode_adopt),
    (LISTED, decode_listed),
    (OTHER_LIST, decode_other_list),
    (PREPARE, decode_prepare),
    (ACCEPT, decode_accept),
    (PROMISED, decode_promised),
    (ACCEPTED, |_| Ok(Message::Answer(Answer::Accepted))),
    (REFUSED_BALLOT, decode_refused),
];

const ASK_LIST: u8 = 18;

const ADOPT: u8 = 19;

#[derive(Archive, Serialize)]
struct WireAdopt {
    purged: WirePurgeMark,
    list: WireList,
}

const _: () = assert!(size_of::<ArchivedWireAdopt>() == 80);

fn encode_adopt(list: &List, purged: PurgeMark) -> Body {
    Body::of(ADOPT, &WireAdopt { purged: wire_mark(purged), list: wire_list(list) })
}

fn decode_adopt(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireAdopt>()?;
    let purged = reader.mark(&wire.purged)?;
    Ok(Message::Request(Request::Adopt { list: reader.list(&wire.list)?, purged }))
}

const LISTED: u8 = 35;
const OTHER_LIST: u8 = 34;

/// The body of both answers. `OtherList` says nothing in the last field.
#[derive(Archive, Serialize)]
struct WireListed {
    list: Option<WireList>,
    purged: WirePurgeMark,
    members_digest: u64,
}

const _: () = assert!(size_of::<ArchivedWireListed>() == 96);

fn encode_listed(listed: &Listed) -> Body {
    let wire = WireListed {
        list: listed.list.as_deref().map(wire_list),
        purged: wire_mark(listed.purged),
        members_digest: listed.members_digest,
    };
    Body::of(LISTED, &wire)
}

fn encode_other_list(list: Option<&List>, purged: PurgeMark) -> Body {
    let (list, purged) = (list.map(wire_list), wire_mark(purged));
    let wire = WireListed { list, purged, members_digest: 0 };
    Body::of(OTHER_LIST, &wire)
}

fn decode_listed(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireListed>()?;
    let (list, purged) = list_and_mark(reader, wire)?;
    Ok(Message::Answer(Answer::Listed(Listed {
        list,
        purged,
        members_digest: wire.members_digest.to_native(),
    })))
}

fn decode_other_list(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireListed>()?;
    let (list, purged) = list_and_mark(reader, wire)?;
    Ok(Message::Answer(Answer::OtherList { list, purged }))
}

fn list_and_mark(
    reader: &Reader<'_>,
    wire: &ArchivedWireListed,
) -> Result<(Option<Arc<List>>, PurgeMark), FrameError> {
    let list = wire.list.as_ref().map(|list| reader.list(list)).transpose()?;
    Ok((list, reader.mark(&wire.purged)?))
}

const PREPARE: u8 = 30;

#[derive(Archive, Serialize)]
struct WirePrepare {
    list: WireListRef,
    ballot: WireBallot,
}

const _: () = assert!(size_of::<ArchivedWirePrepare>() == 40);

fn encode_prepare(list: ListRef, ballot: Ballot) -> Body {
    Body::of(PREPARE, &WirePrepare { list: wire_ref(list), ballot: wire_ballot(ballot) })
}

fn decode_prepare(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWirePrepare>()?;
    let (list, ballot) = (list_ref(&wire.list), reader.ballot(&wire.ballot)?);
    Ok(Message::Request(Request::Prepare { list, ballot }))
}

const ACCEPT: u8 = 31;

#[derive(Archive, Serialize)]
struct WireAccept {
    list: WireListRef,
    ballot: WireBallot,
    value: WireList,
}

const _: () = assert!(size_of::<ArchivedWireAccept>() == 96);

fn encode_accept(list: ListRef, ballot: Ballot, value: &List) -> Body {
    let value = wire_list(value);
    Body::of(ACCEPT, &WireAccept { list: wire_ref(list), ballot: wire_ballot(ballot), value })
}

fn decode_accept(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireAccept>()?;
    let (list, ballot) = (list_ref(&wire.list), reader.ballot(&wire.ballot)?);
    Ok(Message::Request(Request::Accept { list, ballot, value: reader.list(&wire.value)? }))
}

const PROMISED: u8 = 47;

#[derive(Archive, Serialize)]
struct WirePromised {
    /// The lowest ballot if nothing was accepted.
    ballot: WireBallot,
    value: Option<WireList>,
    extent: u8,
}

const _: () = assert!(size_of::<ArchivedWirePromised>() == 96);

fn encode_promised(accepted: Option<&(Ballot, Arc<List>)>, extent: Extent) -> Body {
    let ballot = accepted.map_or(Ballot::default(), |(ballot, _)| *ballot);
    let value = accepted.map(|(_, value)| wire_list(value));
    Body::of(PROMISED, &WirePromised { ballot: wire_ballot(ballot), value, extent: extent as u8 })
}

fn decode_promised(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWirePromised>()?;
    let value = wire.value.as_ref().map(|value| reader.list(value)).transpose()?;
    let ballot = reader.ballot(&wire.ballot)?;
    let accepted = value.map(|value| (ballot, value));
    let extent = reader.extent(wire.extent)?;
    Ok(Message::Answer(Answer::Promised { accepted, extent }))
}

const ACCEPTED: u8 = 48;
const REFUSED_BALLOT: u8 = 49;

fn decode_refused(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let promised = reader.ballot(reader.archive::<ArchivedWireBallot>()?)?;
    Ok(Message::Answer(Answer::Refused { promised }))
}
