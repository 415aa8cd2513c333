//! What tests over real sockets share: engines in this process, and waiting for conditions.
//! A room that starts processes instead takes `wait.rs` alone, by its path.

pub(crate) mod engines;
pub(crate) mod wait;
