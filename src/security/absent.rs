//! The room without the feature `security`: what other rooms name of it, and no value of which
//! exists.

#![forbid(unsafe_code)]

use std::fmt;

/// What the other end of a secured connection has proved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Proved {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) keeps_key: bool,
}

/// The name of a node's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fingerprint {}

impl fmt::Display for Fingerprint {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

pub(crate) mod senders {
    /// Which start of a node has sealed a datagram.
    #[derive(Debug)]
    pub(crate) enum SenderId {}
}
