//! One message of the protocol between connections.

use crate::types::Partition;
use crate::wire::codec::{decode, encode};
use crate::wire::frame::{Encoded, FrameError, HEADER_BYTES, Header, begin, finish};
use crate::wire::message::Frame;

/// How many bytes a decoded message may take for each byte of its body, and how many in any case.
const MAX_FACTOR: usize = 8;
const MIN_ALLOWED_BYTES: usize = 256;

/// Decodes a message: the first byte is its number, the rest is its body.
///
/// What decodes must encode to what decodes to the same. `measure` runs what it is given and
/// returns how many bytes that had allocated at its peak, or zero if it cannot tell: a body must
/// not make a node take more than eight times its length.
pub fn messages(bytes: &[u8], measure: impl FnOnce(&mut dyn FnMut()) -> usize) {
    let Some((&kind, body)) = bytes.split_first() else { return };
    let mut framed = begin();
    framed.extend_from_slice(body);
    let framed = finish(framed, kind, Partition::default(), u64::from(kind));

    let mut decoded = None;
    let peak_bytes = measure(&mut || decoded = Some(decode_framed(&framed)));
    let allowed = MIN_ALLOWED_BYTES + MAX_FACTOR * body.len();
    assert!(peak_bytes <= allowed, "{peak_bytes} bytes for a body of {}", body.len());

    let Some(Ok(frame)) = decoded else { return };
    let encoded = encode(&frame);
    let again = decode_framed(&encoded).expect("this node wrote it");
    assert_eq!(again, frame, "it is not what was read first");
    assert_eq!(encode(&again)[..], encoded[..], "one message, two spellings");
}

/// Decodes the one frame that these bytes are.
fn decode_framed(framed: &Encoded) -> Result<Frame, FrameError> {
    let length: [u8; 4] = framed[..4].try_into().expect("four bytes");
    let request_id: [u8; 8] = framed[8..HEADER_BYTES].try_into().expect("eight bytes");
    let header = Header {
        kind: framed[4],
        partition: Partition::default(),
        request_id: u64::from_le_bytes(request_id),
        body_bytes: u32::from_le_bytes(length) as usize,
    };
    decode(header, &framed[HEADER_BYTES..HEADER_BYTES + header.body_bytes])
}
