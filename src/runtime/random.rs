//! Random bytes for keys, salts and nonces. Only this file asks the system for them.

#![forbid(unsafe_code)]

use std::io;

use ring::rand::{SecureRandom, SystemRandom};

/// Fills `bytes` with random bytes of the system.
pub(crate) fn fill(bytes: &mut [u8]) -> io::Result<()> {
    let failed = |_| io::Error::other("the system gives no random bytes");
    SystemRandom::new().fill(bytes).map_err(failed)
}
