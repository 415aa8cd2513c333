//! The tokens by which a thread's poll names what it reports.

#![forbid(unsafe_code)]

use mio::Token;

/// The thread's [bell](mod@super::bell).
pub(crate) const WAKE: Token = Token(0);

/// The control thread's TCP listener.
pub(crate) const LISTENER: Token = Token(1);

/// The control thread's UDP socket.
pub(crate) const DATAGRAMS: Token = Token(2);

/// The first token of the thread's connections: [`Net`](super::net::Net) numbers them from here on.
pub(crate) const FIRST_CONNECTION: usize = 16;
