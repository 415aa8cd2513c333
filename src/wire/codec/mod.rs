//! The bytes of each message: `rkyv` archives, which are checked and then read in the receive
//! buffer.
//!
//! A frame's type selects one struct. There is no enum at the root, so that a new, larger message
//! never changes the size of an old one. rkyv's layout *is* the protocol: a published struct never
//! changes. The size of each is asserted, so that neither an edit nor a feature that another crate
//! turns on can change the wire unseen.
//!
//! One file has one family, a request and its answers: for each message its number, its layout, the
//! assertion of its size, and both directions. `body` and `values` are what the families share. A
//! new request is a variant in [`message`](super::message), a section in its family here, and the
//! code that serves it; a test fails if the section is forgotten.

mod anti_entropy;
mod body;
mod control;
mod handoff;
mod handshake;
mod lists;
mod purge;
mod read;
mod relay;
#[cfg(test)]
mod tests;
mod values;
mod write;

use self::body::{Body, Decoder, Reader};
use super::frame::{self, Encoded, FrameError, Header};
use super::message::{Answer, Frame, Message, Request};

/// All families. Their types are numbered from 1 (between control threads), 16 (requests) and 32
/// (answers). A number is never given to another message, not even after the last of its own is
/// gone.
const FAMILIES: [&[(u8, Decoder)]; 9] = [
    handshake::DECODERS,
    control::DECODERS,
    write::DECODERS,
    read::DECODERS,
    lists::DECODERS,
    handoff::DECODERS,
    anti_entropy::DECODERS,
    purge::DECODERS,
    relay::DECODERS,
];

/// How each type of message is read, by its number.
static DECODERS: [Option<Decoder>; 256] = decoders();

const fn decoders() -> [Option<Decoder>; 256] {
    let mut decoders: [Option<Decoder>; 256] = [None; 256];
    let mut family = 0;
    while family < FAMILIES.len() {
        let mut at = 0;
        while at < FAMILIES[family].len() {
            let (kind, decoder) = FAMILIES[family][at];
            assert!(decoders[kind as usize].is_none(), "two messages of one number");
            decoders[kind as usize] = Some(decoder);
            at += 1;
        }
        family += 1;
    }
    decoders
}

/// Returns the bytes of a frame, ready to be sent.
pub(crate) fn encode(frame: &Frame) -> Encoded {
    let body = match &frame.message {
        Message::Proof(proof) => handshake::encode_proof(proof),
        Message::Hello(hello) => handshake::encode_hello(hello),
        Message::Welcome(welcome) => handshake::encode_welcome(welcome),
        Message::Refused(refusal) => handshake::encode_refusal(refusal),
        Message::Control(message) => control::encode(message),
        Message::Request(request) => encode_request(request),
        Message::Answer(answer) => encode_answer(answer),
    };
    frame::finish(body.bytes, body.kind, frame.partition, frame.request_id)
}

/// Asks the families in turn, those of reads and writes first.
fn encode_request(request: &Request) -> Body {
    write::encode_request(request)
        .or_else(|| read::encode_request(request))
        .or_else(|| lists::encode_request(request))
        .or_else(|| handoff::encode_request(request))
        .or_else(|| anti_entropy::encode_request(request))
        .or_else(|| purge::encode_request(request))
        .or_else(|| relay::encode_request(request))
        .unwrap_or_else(|| unreachable!("no family encodes {request:?}"))
}

fn encode_answer(answer: &Answer) -> Body {
    write::encode_answer(answer)
        .or_else(|| read::encode_answer(answer))
        .or_else(|| lists::encode_answer(answer))
        .or_else(|| handoff::encode_answer(answer))
        .or_else(|| anti_entropy::encode_answer(answer))
        .or_else(|| purge::encode_answer(answer))
        .or_else(|| relay::encode_answer(answer))
        .unwrap_or_else(|| unreachable!("no family encodes {answer:?}"))
}

/// Returns the message of a received frame, or why its body makes no sense.
pub(crate) fn decode(header: Header, body: &[u8]) -> Result<Frame, FrameError> {
    let Some(decoder) = DECODERS[usize::from(header.kind)] else {
        return Err(FrameError::UnknownType(header.kind));
    };
    let message = decoder(&Reader { kind: header.kind, body })?;
    Ok(Frame { partition: header.partition, request_id: header.request_id, message })
}
