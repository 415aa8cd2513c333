//! A partition's list: `AskList` and `Adopt`, answered by `Listed`; and `OtherList`, which answers
//! any request that names a list which its receiver does not serve.

use std::sync::Arc;

use rkyv::{Archive, Serialize};

use super::body::{Body, Decoder, Reader};
use super::values::{WireList, wire_list};
use crate::clock::Version;
use crate::placement::List;
use crate::wire::frame::FrameError;
use crate::wire::message::{Answer, Listed, Message, Request};

pub(super) fn encode_request(request: &Request) -> Option<Body> {
    match request {
        Request::AskList => Some(Body::empty(ASK_LIST)),
        Request::Adopt { list, purge_horizon } => Some(encode_adopt(list, *purge_horizon)),
        _ => None,
    }
}

pub(super) fn encode_answer(answer: &Answer) -> Option<Body> {
    match answer {
        Answer::Listed(listed) => Some(encode_listed(listed)),
        Answer::OtherList { list, purge_horizon } => {
            Some(encode_other_list(list.as_deref(), *purge_horizon))
        }
        _ => None,
    }
}

pub(super) const DECODERS: &[(u8, Decoder)] = &[
    (ASK_LIST, |_| Ok(Message::Request(Request::AskList))),
    (ADOPT, decode_adopt),
    (LISTED, decode_listed),
    (OTHER_LIST, decode_other_list),
];

const ASK_LIST: u8 = 18;

const ADOPT: u8 = 19;

#[derive(Archive, Serialize)]
struct WireAdopt {
    purge_horizon: u64,
    list: WireList,
}

const _: () = assert!(size_of::<ArchivedWireAdopt>() == 40);

fn encode_adopt(list: &List, purge_horizon: Version) -> Body {
    Body::of(ADOPT, &WireAdopt { purge_horizon: purge_horizon.0, list: wire_list(list) })
}

fn decode_adopt(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireAdopt>()?;
    let purge_horizon = reader.version(wire.purge_horizon.to_native())?;
    Ok(Message::Request(Request::Adopt { list: reader.list(&wire.list)?, purge_horizon }))
}

const LISTED: u8 = 35;
const OTHER_LIST: u8 = 34;

/// The body of both answers. `OtherList` says nothing in the last three fields.
#[derive(Archive, Serialize)]
struct WireListed {
    list: Option<WireList>,
    purge_horizon: u64,
    members_digest: u64,
    synced: bool,
    holds: bool,
}

const _: () = assert!(size_of::<ArchivedWireListed>() == 64);

fn encode_listed(listed: &Listed) -> Body {
    let wire = WireListed {
        list: listed.list.as_deref().map(wire_list),
        purge_horizon: listed.purge_horizon.0,
        members_digest: listed.members_digest,
        synced: listed.synced,
        holds: listed.holds,
    };
    Body::of(LISTED, &wire)
}

fn encode_other_list(list: Option<&List>, purge_horizon: Version) -> Body {
    let wire = WireListed {
        list: list.map(wire_list),
        purge_horizon: purge_horizon.0,
        members_digest: 0,
        synced: false,
        holds: false,
    };
    Body::of(OTHER_LIST, &wire)
}

fn decode_listed(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireListed>()?;
    let (list, purge_horizon) = list_and_horizon(reader, wire)?;
    Ok(Message::Answer(Answer::Listed(Listed {
        list,
        synced: wire.synced,
        holds: wire.holds,
        purge_horizon,
        members_digest: wire.members_digest.to_native(),
    })))
}

fn decode_other_list(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireListed>()?;
    let (list, purge_horizon) = list_and_horizon(reader, wire)?;
    Ok(Message::Answer(Answer::OtherList { list, purge_horizon }))
}

fn list_and_horizon(
    reader: &Reader<'_>,
    wire: &ArchivedWireListed,
) -> Result<(Option<Arc<List>>, Version), FrameError> {
    let list = wire.list.as_ref().map(|list| reader.list(list)).transpose()?;
    Ok((list, reader.version(wire.purge_horizon.to_native())?))
}
