//! The bytes of an input, read from the front as numbers and choices.
//!
//! An input that ends early goes on as zeros, so every input means something, and a cut one means
//! nearly the same. Each choice is a byte, so a fuzzer that changes one byte changes one choice.
//!
//! Rejected: the crate `arbitrary`. It does the same, and would be a dependency of the library.

/// What is left of an input.
pub(super) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Returns all that was not read yet.
    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.rest.split_at(N.min(self.rest.len()));
        let mut array = [0; N];
        array[..head.len()].copy_from_slice(head);
        self.rest = rest;
        array
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Returns a number below `count`, which is above zero.
    pub(super) fn below(&mut self, count: u8) -> u8 {
        self.byte() % count
    }

    pub(super) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }

    /// Returns the next bytes, behind their number; at most `most`, and no more than there are.
    pub(super) fn bytes(&mut self, most: usize) -> &'a [u8] {
        let length = usize::from(self.u16()).min(most).min(self.rest.len());
        let (head, rest) = self.rest.split_at(length);
        self.rest = rest;
        head
    }

    /// Returns a text of at most three times as many bytes: what is no text becomes `U+FFFD`.
    pub(super) fn text(&mut self, most: usize) -> String {
        String::from_utf8_lossy(self.bytes(most)).into_owned()
    }
}
