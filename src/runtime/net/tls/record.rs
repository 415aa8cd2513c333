//! How far the record is that comes: rustls does not tell whether it holds a part of one.

#![forbid(unsafe_code)]

/// The header of a record: a type, a version of two bytes, and how many bytes follow (RFC 8446,
/// 5.1).
const HEADER_BYTES: usize = 5;

/// A place in a stream of records.
#[derive(Default, Debug)]
pub(super) struct RecordCursor {
    /// How many bytes of its header have come.
    header: usize,
    /// How many bytes are to follow, as far as the header has come.
    length: [u8; 2],
    /// How many bytes are to follow the header.
    left: usize,
}

impl RecordCursor {
    /// Goes on by what has come.
    pub(super) fn advance(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let count = self.left.min(bytes.len());
                self.left -= count;
                bytes = &bytes[count..];
                continue;
            }
            if self.header >= HEADER_BYTES - 2 {
                self.length[self.header - (HEADER_BYTES - 2)] = *first;
            }
            self.header += 1;
            bytes = rest;
            if self.header == HEADER_BYTES {
                self.header = 0;
                self.left = usize::from(u16::from_be_bytes(self.length));
            }
        }
    }

    /// Whether a part of a record has come, and not the rest of it.
    pub(super) fn is_inside(&self) -> bool {
        self.header > 0 || self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_inside_but_for_the_ends_of_records_however_the_bytes_come() {
        let mut stream = Vec::new();
        let mut ends = vec![0];
        for length in [0u16, 1, 300, 16_401, 5] {
            stream.extend_from_slice(&[23, 3, 3]);
            stream.extend_from_slice(&length.to_be_bytes());
            stream.resize(stream.len() + usize::from(length), 0xff);
            ends.push(stream.len());
        }
        for step in [1, 2, 3, 7, 64, 4096, stream.len()] {
            let mut cursor = RecordCursor::default();
            let mut at = 0;
            for piece in stream.chunks(step) {
                cursor.advance(piece);
                at += piece.len();
                assert_eq!(cursor.is_inside(), !ends.contains(&at), "{at} by {step}");
            }
        }
    }
}
