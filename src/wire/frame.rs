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
//! buffer grows only as bytes arrive, so a header alone cannot make a node reserve memory. It grows
//! for a frame that does not fit, and no further than that one needs.

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

/// The size of a receive buffer, to which it also shrinks back after a large frame.
pub(crate) const BUFFER_BYTES: usize = 64 << 10;

/// The size of a receive buffer before the handshake is done: more than a HELLO with names of the
/// usual length, and little enough for a thousand connections of which nothing is known yet.
const HANDSHAKE_BUFFER_BYTES: usize = 4 << 10;

/// A buffer of this size is given back also when the next frame has begun already, which is copied
/// then.
const LARGE_BYTES: usize = 1 << 20;

const _: () = assert!(HEADER_BYTES == ALIGNMENT && BUFFER_BYTES.is_multiple_of(ALIGNMENT));
const _: () = assert!(HANDSHAKE_BUFFER_BYTES.is_multiple_of(ALIGNMENT));
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

impl Header {
    /// Returns the length of the frame with its header and its padding.
    fn whole_bytes(self) -> usize {
        HEADER_BYTES + self.body_bytes.next_multiple_of(ALIGNMENT)
    }
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

    /// Whether a part of a frame is there, and not the rest of it. For who has taken all
    /// [whole](Self::next) ones.
    pub(crate) fn is_in_frame(&self) -> bool {
        self.start < self.end
    }

    /// Whether the next bytes are these.
    pub(crate) fn begins_with(&self, bytes: [u8; 4]) -> bool {
        self.bytes[self.start..self.end].starts_with(&bytes)
    }

    /// Whether more can be received without moving what is there or taking memory.
    pub(crate) fn has_space(&self) -> bool {
        self.end < self.bytes.len()
    }

    /// Returns how many bytes the buffer takes beyond the usual size.
    pub(crate) fn excess_bytes(&self) -> usize {
        self.bytes.len().saturating_sub(BUFFER_BYTES)
    }

    /// Returns how many bytes it will take beyond the usual size when there is
    /// [space](Self::space).
    pub(crate) fn next_excess_bytes(&self) -> usize {
        let has_room = self.has_space() || self.start > 0;
        let bytes = if has_room { self.bytes.len() } else { self.larger() };
        bytes.saturating_sub(BUFFER_BYTES)
    }

    /// Gives back what a large frame took, once that is looked at, and what is too small for the
    /// frames after the handshake.
    pub(crate) fn shrink(&mut self) {
        let left = self.end - self.start;
        if left == 0 {
            self.start = 0;
            self.end = 0;
            let is_small = self.bytes.len() < BUFFER_BYTES && self.limit > MAX_HANDSHAKE_BYTES;
            if is_small || self.bytes.len() > BUFFER_BYTES {
                self.bytes = Encoded::new();
            }
        } else if self.bytes.len() >= LARGE_BYTES && left <= BUFFER_BYTES / 2 {
            let mut bytes = Encoded::new();
            bytes.resize(BUFFER_BYTES, 0);
            bytes[..left].copy_from_slice(&self.bytes[self.start..self.end]);
            *self = Self { bytes, start: 0, end: left, limit: self.limit };
        }
    }

    /// Returns the room for the next bytes, which is never empty. The caller reports how many came
    /// with [`received`](Self::received).
    pub(crate) fn space(&mut self) -> &mut [u8] {
        self.shrink();
        if !self.has_space() {
            self.make_room();
        }
        &mut self.bytes[self.end..]
    }

    /// Moves what is left to the front. If that frees nothing, the buffer grows.
    fn make_room(&mut self) {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if !self.has_space() {
            let larger = self.larger();
            self.bytes.reserve_exact(larger - self.bytes.len());
            self.bytes.resize(larger, 0);
        }
    }

    /// Returns the size after growing: the double, and no more than the frame needs that does not
    /// fit.
    fn larger(&self) -> usize {
        let is_stranger = self.limit <= MAX_HANDSHAKE_BYTES;
        let least = if is_stranger { HANDSHAKE_BUFFER_BYTES } else { BUFFER_BYTES };
        let double = (self.bytes.len() * 2).max(least);
        let first = self.bytes[self.start..self.end].first_chunk::<HEADER_BYTES>();
        let whole = first.and_then(|header| parse_header(header, self.limit).ok());
        match whole.map(Header::whole_bytes) {
            Some(whole) if whole > self.bytes.len() => double.min(whole.max(least)),
            _ => double,
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
        let whole = header.whole_bytes();
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
        feed(&mut buffer, &large[100..large.len() - 1], 1 << 16);
        assert_eq!(buffer.next(), Ok(None));
        assert_eq!(buffer.bytes.len(), large.len(), "it never grows beyond the frame");
        assert_eq!(buffer.next_excess_bytes(), buffer.excess_bytes());
        feed(&mut buffer, &large[large.len() - 1..], 1);
        assert_eq!(buffer.next().unwrap().unwrap().1.len(), 1 << 20);
        buffer.space();
        assert_eq!(buffer.bytes.len(), BUFFER_BYTES);
    }

    /// A stranger's first byte cost 64 KiB.
    #[test]
    fn a_stranger_gets_a_small_buffer_until_the_handshake_is_done() {
        let mut buffer = FrameBuffer::new();
        let hello = frame(1, &[7; 300]);
        feed(&mut buffer, &hello[..1], 1);
        assert_eq!(buffer.bytes.len(), HANDSHAKE_BUFFER_BYTES);
        feed(&mut buffer, &hello[1..], 4000);
        assert!(buffer.next().unwrap().is_some());
        buffer.raise_limit();
        buffer.space();
        assert_eq!(buffer.bytes.len(), BUFFER_BYTES);
        // The largest that a stranger can send.
        let mut buffer = FrameBuffer::new();
        feed(&mut buffer, &frame(1, &[7; MAX_HANDSHAKE_BYTES]), 4000);
        assert_eq!(buffer.bytes.len(), HEADER_BYTES + MAX_HANDSHAKE_BYTES);
        assert!(buffer.next().unwrap().is_some());
    }

    /// Many small frames that came together took four times the usual size.
    #[test]
    fn small_frames_never_need_a_larger_buffer() {
        let mut buffer = FrameBuffer::new();
        buffer.raise_limit();
        let small = frame(1, &[7; 700]);
        feed(&mut buffer, &small[..5], 5);
        let mut rest = [&small[5..], &small.repeat(400)].concat();
        while !rest.is_empty() {
            assert!(buffer.next_excess_bytes() == 0, "with all whole frames taken");
            let space = buffer.space();
            let count = space.len().min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            buffer.received(count);
            rest.drain(..count);
            while buffer.next().unwrap().is_some() {}
        }
        assert_eq!((buffer.bytes.len(), buffer.is_in_frame()), (BUFFER_BYTES, false));
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
