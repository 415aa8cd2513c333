//! The room without the feature `security`: what other rooms name of it, and no value of which
//! exists.

#![forbid(unsafe_code)]

/// What the other end of a secured connection has proved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Proved {}

pub(crate) mod senders {
    /// Which start of a node has sealed a datagram.
    #[derive(Debug)]
    pub(crate) enum SenderId {}
}
