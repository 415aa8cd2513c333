//! The only home of threads, sockets and the OS clock: everything above it is a pure state machine that
//! is told the time and what arrived, and says what to do. [`net`] is the sockets.

pub(crate) mod net;
