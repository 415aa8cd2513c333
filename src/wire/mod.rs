//! What nodes say to each other over TCP, and how it is framed.
//!
//! [`message`] has every message and tells the protocol as a story; [`codec`] is their `rkyv` layout,
//! checked before it is read; [`frame`] is the 16-byte header and the bounded receive buffer;
//! [`handshake`] decides who may talk to whom; [`timing`] has the times that several rooms rely on.
//! All of it is pure.

pub(crate) mod codec;
pub(crate) mod frame;
pub(crate) mod handshake;
pub(crate) mod message;
pub(crate) mod timing;
