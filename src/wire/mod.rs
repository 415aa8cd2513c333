//! What nodes say to each other over TCP, and how it is framed.
//!
//! [`message`] has every message and tells the protocol as a story. [`codec`] is their `rkyv`
//! layout, checked before it is read. [`frame`] is the 16-byte header and the bounded receive
//! buffer. [`handshake`] decides which nodes may talk to each other. [`timing`] has the times that
//! several rooms rely on, [`waiting`] how much may wait to be sent.
//!
//! All of it is pure: bytes and values in, bytes and values out. These files name only what lies
//! below a protocol: `types`, `clock`, `entry`, `placement`, and a member's record. No machine, no
//! shard and no socket.

pub(crate) mod codec;
pub(crate) mod frame;
pub(crate) mod handshake;
pub(crate) mod message;
mod opening;
pub(crate) mod retention;
pub(crate) mod timing;
pub(crate) mod waiting;
