//! The bytes that come before TLS: OPENING at the acceptor, OPENED at the opener.

#![forbid(unsafe_code)]

use std::io::{self, Read};

use super::stream::Filled;
use crate::security::opening::OPENING_BYTES;
use crate::types::SECURED_MAGIC;

/// What has come of them. TLS begins with the byte behind them, so no byte more is read.
pub(super) struct Gate {
    bytes: [u8; OPENING_BYTES],
    length: usize,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self { bytes: [0; OPENING_BYTES], length: 0 }
    }

    /// Reads until all have come or nothing is left. [`Filled::Stopped`]: look at them, and go on
    /// at once, as the poll will not report again what is left.
    pub(super) fn fill(&mut self, stream: &mut impl Read) -> (usize, Filled) {
        let mut count = 0;
        while self.length < OPENING_BYTES && !self.is_plain() {
            match stream.read(&mut self.bytes[self.length..]) {
                Ok(0) => return (count, Filled::Ended(io::ErrorKind::UnexpectedEof)),
                Ok(read) => {
                    self.length += read;
                    count += read;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return (count, Filled::Drained),
                    kind => return (count, Filled::Ended(kind)),
                },
            }
        }
        (count, Filled::Stopped)
    }

    /// Whether what has come is not how a secured connection begins.
    pub(super) fn is_plain(&self) -> bool {
        let length = self.length.min(SECURED_MAGIC.len());
        self.bytes[..length] != SECURED_MAGIC[..length]
    }

    /// Returns what has come.
    pub(super) fn received(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Returns all of them, once they have come.
    pub(super) fn whole(&self) -> Option<&[u8; OPENING_BYTES]> {
        (self.length == OPENING_BYTES).then_some(&self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time, and then nothing for now.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.0.len().min(self.1).min(into.len());
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            into[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn no_byte_behind_it_is_read_however_the_bytes_come() {
        let sent = [b"GKVS".as_slice(), &[7; 200]].concat();
        for piece in 1..=sent.len() {
            let mut stream = Pieces(&sent, piece);
            let mut gate = Gate::new();
            assert_eq!(gate.fill(&mut stream), (OPENING_BYTES, Filled::Stopped));
            assert_eq!(gate.whole().map(|bytes| &bytes[..]), Some(&sent[..OPENING_BYTES]));
            assert_eq!(stream.0, &sent[OPENING_BYTES..]);
            assert_eq!(gate.fill(&mut stream), (0, Filled::Stopped));
        }
    }

    #[test]
    fn what_begins_otherwise_is_noticed_at_its_first_wrong_byte() {
        for (sent, is_plain) in [
            (&b"G"[..], false),
            (b"GKVS", false),
            (b"GKV\0", true),
            (b"GET / HTTP/1.1", true),
            (b"\x47\x01\0\0", true),
            (b"", false),
        ] {
            let mut gate = Gate::new();
            let (_, filled) = gate.fill(&mut Pieces(sent, 1));
            assert_eq!(filled == Filled::Stopped, is_plain, "{sent:?}");
            assert_eq!((gate.is_plain(), gate.whole()), (is_plain, None), "{sent:?}");
        }
    }
}
