//! A stream of bytes, which a connection received in pieces.

use super::input::Input;
use crate::types::{PARTITIONS, Partition};
use crate::wire::frame::{
    BUFFER_BYTES, FrameBuffer, HEADER_BYTES, MAX_BODY_BYTES, MAX_HANDSHAKE_BYTES, begin, finish,
};

/// How long a stream of whole frames gets: beyond the size from which buffers are given back.
const MAX_STREAM_BYTES: usize = 3 << 19;

/// In how many pieces a stream comes at most, so that no input takes long.
const MAX_PIECES: usize = 4096;

/// Feeds a stream to a receive buffer, piece by piece.
///
/// Each frame must come out as it stands in the stream, aligned. The buffer must not take more than
/// the double of what arrived, and before the handshake is done hardly more than a HELLO needs.
pub fn frames(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let settings = input.byte();
    let piece = usize::from(input.u16()).max(1);
    // The fourth is never reached in most streams.
    let raised_after = usize::from(settings >> 1 & 3);
    let stream = if settings & 1 == 0 { input.rest().to_vec() } else { whole_frames(input) };

    let piece = piece.max(stream.len() / MAX_PIECES);
    let mut buffer = FrameBuffer::new();
    let (mut fed, mut taken, mut count, mut is_raised) = (0, 0, 0, false);
    loop {
        if count >= raised_after && !is_raised {
            buffer.raise_limit();
            is_raised = true;
        }
        match buffer.next() {
            Ok(Some((header, body))) => {
                assert!(body.as_ptr().addr().is_multiple_of(HEADER_BYTES), "a body out of line");
                let start = taken + HEADER_BYTES;
                assert_eq!(body, &stream[start..start + header.body_bytes], "frame {count}");
                taken = start + header.body_bytes.next_multiple_of(HEADER_BYTES);
                count += 1;
                continue;
            }
            Ok(None) if fed < stream.len() => {}
            Ok(None) => return assert_eq!(buffer.is_in_frame(), taken < fed),
            // The connection is closed.
            Err(_) => return,
        }
        fed += receive(&mut buffer, &stream[fed..], piece, is_raised);
        let excess = buffer.excess_bytes();
        assert!(BUFFER_BYTES + excess <= BUFFER_BYTES.max(2 * fed), "{excess} for {fed} bytes");
        assert!(BUFFER_BYTES + excess <= 2 * (HEADER_BYTES + MAX_BODY_BYTES));
    }
}

/// Hands the next piece of a stream to the buffer. Returns its length.
fn receive(buffer: &mut FrameBuffer, stream: &[u8], piece: usize, is_raised: bool) -> usize {
    let expected = buffer.next_excess_bytes();
    let space = buffer.space();
    assert!(is_raised || space.len() <= 2 * MAX_HANDSHAKE_BYTES, "{} bytes", space.len());
    let count = space.len().min(piece).min(stream.len());
    assert!(count > 0, "no space");
    space[..count].copy_from_slice(&stream[..count]);
    buffer.received(count);
    assert!(buffer.excess_bytes() <= expected, "more than it said before");
    count
}

/// Returns frames that are sound, as long as the input says, and then the rest of the input.
fn whole_frames(mut input: Input<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !input.is_empty() && stream.len() < MAX_STREAM_BYTES {
        let (kind, fill, length) = (input.byte(), input.byte(), usize::from(input.u16()));
        if kind == u8::MAX {
            break;
        }
        // Some are long, so that most inputs do not take long.
        let length = if kind.is_multiple_of(16) { length * 32 } else { length % 2048 };
        let mut frame = begin();
        frame.resize(HEADER_BYTES + length.min(MAX_STREAM_BYTES - stream.len()), fill);
        let partition = Partition::new(u16::from(kind) * 16 % PARTITIONS).unwrap_or_default();
        stream.extend_from_slice(&finish(frame, kind, partition, u64::from(fill)));
    }
    stream.extend_from_slice(input.rest());
    stream
}
