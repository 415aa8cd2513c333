//! What passes to another data center: `Relay`, answered by `Relayed`; `Forward`, which `Found`
//! answers.

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::body::{Body, Decoder, Reader};
use super::values::{WireEntry, WireIdentity, wire_entries, wire_route};
use crate::wire::frame::FrameError;
use crate::wire::message::{Answer, Message, Request};

pub(super) fn encode_request(request: &Request) -> Option<Body> {
    match request {
        Request::Relay { entries, route } => {
            let (entries, route) = (wire_entries(entries), wire_route(route.as_ref()));
            Some(Body::of(RELAY, &WireRelay { entries, route }))
        }
        Request::Forward { key } => Some(Body::of(FORWARD, &WireForward { key })),
        _ => None,
    }
}

pub(super) fn encode_answer(answer: &Answer) -> Option<Body> {
    match answer {
        Answer::Relayed { places } => {
            Some(Body::of(RELAYED, &WireRelayed { places: places.clone() }))
        }
        _ => None,
    }
}

pub(super) const DECODERS: &[(u8, Decoder)] =
    &[(RELAY, decode_relay), (RELAYED, decode_relayed), (FORWARD, decode_forward)];

const RELAY: u8 = 27;

#[derive(Archive, Serialize)]
struct WireRelay<'a> {
    entries: Vec<WireEntry<'a>>,
    route: Vec<WireIdentity>,
}

const _: () = assert!(size_of::<ArchivedWireRelay>() == 16);

fn decode_relay(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireRelay>()?;
    let (entries, route) = (reader.entries(&wire.entries)?, reader.route(&wire.route)?);
    Ok(Message::Request(Request::Relay { entries, route }))
}

const RELAYED: u8 = 44;

#[derive(Archive, Serialize)]
struct WireRelayed {
    places: Vec<u16>,
}

const _: () = assert!(size_of::<ArchivedWireRelayed>() == 8);

fn decode_relayed(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireRelayed>()?;
    let places = wire.places.iter().map(|place| place.to_native()).collect();
    Ok(Message::Answer(Answer::Relayed { places }))
}

const FORWARD: u8 = 28;

#[derive(Archive, Serialize)]
struct WireForward<'a> {
    #[rkyv(with = InlineAsBox)]
    key: &'a [u8],
}

const _: () = assert!(size_of::<ArchivedWireForward>() == 8);

fn decode_forward(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let key = reader.key(&reader.archive::<ArchivedWireForward>()?.key)?.into();
    Ok(Message::Request(Request::Forward { key }))
}
