//! Frames: a 16-byte header, a body, and padding to 16 bytes.
//!
//! ```text
//! 0        4      5       6           8               16
//! │ length │ type │ flags │ partition │ request id    │ body … │ padding │     all little-endian
//! ```
//!
//! `length` counts the body without padding. Every frame starts at a multiple of 16 of an aligned
//! buffer. So a body is aligned in the receive buffer and is read there, without a copy.
//!
//! The length is checked against the connection's limit before anything is allocated for it. The
//! buffer grows only as bytes arrive, so a header alone cannot make a node reserve memory.

use rkyv::util::AlignedVec;
use thiserror::Error;

use crate::types::{MAX_KEY_BYTES, MAX_VALUE_BYTES, PARTITIONS, Partition};

/// The length of the header in front of each body.
pub(crate) const HEADER_BYTES: usize = 16;
const ALIGNMENT: usize = 16;

/// How full a transfer chunk gets: entries are put into it until it has at least this length.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;

/// The largest body after the handshake: a chunk that was almost full when the largest entry was
/// added.
pub(crate) const MAX_BODY_BYTES: usize = MAX_VALUE_BYTES + MAX_KEY_BYTES + 2 * CHUNK_BYTES;

/// The largest body before the handshake is done: a HELLO with its four names, or a refusal's text.
pub(crate) const MAX_HANDSHAKE_BYTES: usize = 4 << 10;

/// The size of a new receive buffer, to which it also shrinks back after a large frame.
const BUFFER_BYTES: usize = 64 << 10;

const _: () = assert!(HEADER_BYTES == ALIGNMENT && BUFFER_BYTES.is_multiple_of(ALIGNMENT));
const _: () = assert!(MAX_BODY_BYTES < u32::MAX as usize);

/// A frame's bytes, ready to be written.
pub(crate) type Encoded = AlignedVec<ALIGNMENT>;

/// The first 16 bytes of a frame, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    /// The type of the message, as `codec` numbers them.
    pub(crate) kind: u8,
    pub(crate) partition: Partition,
    pub(crate) request_id: u64,
    pub(crate) body_bytes: usize,
}

/// Why the bytes of a connection make no sense. The node closes the connection: after a bad frame
/// it cannot trust what follows.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum FrameError {
    #[error("a frame of {length} bytes, over the limit of {limit}")]
    TooLong { length: usize, limit: usize },
    #[error("a frame for partition {0}; there are {PARTITIONS}")]
    NoSuchPartition(u16),
    #[error("a frame of unknown type {0}")]
    UnknownType(u8),
    #[error("a frame of type {kind} whose body does not check: {why}")]
    BadBody { kind: u8, why: &'static str },
}

/// Returns the start of a frame: room for the header, which [`finish`] fills.
pub(crate) fn begin() -> Encoded {
    let mut bytes = Encoded::with_capacity(256);
    bytes.resize(HEADER_BYTES, 0);
    bytes
}

/// Writes the header before the body that was appended since [`begin`], and the padding after it.
pub(crate) fn finish(
    mut bytes: Encoded,
    kind: u8,
    partition: Partition,
    request_id: u64,
) -> Encoded {
    let length = (bytes.len() - HEADER_BYTES) as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4] = kind;
    bytes[6..8].copy_from_slice(&partition.index().to_le_bytes());
    bytes[8..16].copy_from_slice(&request_id.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes
}

fn parse_header(bytes: &[u8; HEADER_BYTES], limit: usize) -> Result<Header, FrameError> {
    let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    let partition = u16::from_le_bytes([bytes[6], bytes[7]]);
    Ok(Header {
        kind: bytes[4],
        partition: Partition::new(partition).ok_or(FrameError::NoSuchPartition(partition))?,
        request_id: u64::from_le_bytes(bytes[8..].try_into().unwrap_or_default()),
        body_bytes: length,
    })
}

/// Collects received bytes and gives them out frame by frame.
pub(crate) struct FrameBuffer {
    bytes: Encoded,
    /// The next frame starts here, always aligned.
    start: usize,
    /// Received bytes end here.
    end: usize,
    limit: usize,
}

impl FrameBuffer {
    /// Returns an empty buffer with the handshake's limit; [`raise_limit`](Self::raise_limit) ends
    /// that.
    pub(crate) fn new() -> Self {
        Self { bytes: Encoded::new(), start: 0, end: 0, limit: MAX_HANDSHAKE_BYTES }
    }

    /// Accepts bodies of all lengths that the protocol has: the handshake is done.
    pub(crate) fn raise_limit(&mut self) {
        self.limit = MAX_BODY_BYTES;
    }

    /// Returns the room for the next bytes, which is never empty. The caller reports how many came
    /// with [`received`](Self::received).
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.bytes.len() > BUFFER_BYTES {
                self.bytes = Encoded::new();
            }
        }
        if self.end == self.bytes.len() {
            self.make_room();
        }
        &mut self.bytes[self.end..]
    }

    /// Moves what is left to the front, and doubles the buffer if that frees less than half.
    fn make_room(&mut self) {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end * 2 > self.bytes.len() || self.bytes.is_empty() {
            let larger = (self.bytes.len() * 2).max(BUFFER_BYTES);
            self.bytes.resize(larger, 0);
        }
    }

    /// Takes note that `count` bytes were put into [`space`](Self::space).
    pub(crate) fn received(&mut self, count: usize) {
        self.end += count;
        assert!(self.end <= self.bytes.len(), "more bytes received than there was space for");
    }

    /// Returns the next frame if all of it has arrived.
    pub(crate) fn next(&mut self) -> Result<Option<(Header, &[u8])>, FrameError> {
        let here = &self.bytes[self.start..self.end];
        let Some(header) = here.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = parse_header(header, self.limit)?;
        let whole = HEADER_BYTES + header.body_bytes.next_multiple_of(ALIGNMENT);
        if here.len() < whole {
            return Ok(None);
        }
        let body = self.start + HEADER_BYTES;
        self.start += whole;
        Ok(Some((header, &self.bytes[body..body + header.body_bytes])))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, body: &[u8]) -> Encoded {
        let mut bytes = begin();
        bytes.extend_from_slice(body);
        finish(bytes, kind, Partition::new(17).unwrap(), 99)
    }

    fn feed(buffer: &mut FrameBuffer, mut bytes: &[u8], step: usize) {
        while !bytes.is_empty() {
            let space = buffer.space();
            let count = space.len().min(step).min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            buffer.received(count);
            bytes = &bytes[count..];
        }
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_aligned_whatever_the_pieces(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..40),
            step in 1usize..700,
        ) {
            let mut buffer = FrameBuffer::new();
            let mut out = Vec::new();
            for body in &bodies {
                feed(&mut buffer, &frame(3, body), step);
                while let Some((header, body)) = buffer.next().unwrap() {
                    let told = (header.kind, header.partition.index(), header.request_id);
                    prop_assert_eq!(told, (3, 17, 99));
                    prop_assert_eq!(body.as_ptr() as usize % ALIGNMENT, 0);
                    out.push(body.to_vec());
                }
            }
            prop_assert_eq!(out, bodies);
        }

        #[test]
        fn random_bytes_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..5000),
            step in 1usize..600,
        ) {
            let mut buffer = FrameBuffer::new();
            feed(&mut buffer, &bytes, step);
            while let Ok(Some(_)) = buffer.next() {}
        }
    }

    #[test]
    fn a_large_frame_grows_the_buffer_as_it_arrives_and_gives_it_back() {
        let mut buffer = FrameBuffer::new();
        buffer.raise_limit();
        let large = frame(1, &vec![7; 1 << 20]);
        feed(&mut buffer, &large[..100], 100);
        assert!(buffer.bytes.len() <= BUFFER_BYTES, "a header alone reserves nothing");
        feed(&mut buffer, &large[100..], 1 << 16);
        assert_eq!(buffer.next().unwrap().unwrap().1.len(), 1 << 20);
        buffer.space();
        assert_eq!(buffer.bytes.len(), BUFFER_BYTES);
    }

    #[test]
    fn an_overlong_frame_and_a_wrong_partition_are_named() {
        let mut buffer = FrameBuffer::new();
        feed(&mut buffer, &frame(1, &[0; MAX_HANDSHAKE_BYTES + 1])[..HEADER_BYTES], 16);
        let limit = MAX_HANDSHAKE_BYTES;
        assert_eq!(buffer.next(), Err(FrameError::TooLong { length: limit + 1, limit }));

        let mut bytes = frame(1, b"");
        bytes[6..8].copy_from_slice(&PARTITIONS.to_le_bytes());
        let mut buffer = FrameBuffer::new();
        feed(&mut buffer, &bytes, 16);
        assert_eq!(buffer.next(), Err(FrameError::NoSuchPartition(PARTITIONS)));
    }
}
