//! How a datagram is sealed, and which start of a node sealed it.

use std::fmt;

use ring::aead;

/// The first byte of a datagram that is sealed with AES-128-GCM.
///
/// A plain datagram begins with its version, which stays below 0x80. Suites start there, so that
/// one byte tells the two apart.
pub(crate) const SEALED_AES_128_GCM: u8 = 0x80;

/// The first byte of a datagram that is sealed with ChaCha20-Poly1305.
pub(crate) const SEALED_CHACHA20_POLY1305: u8 = 0x81;

/// How datagrams are sealed. The sender takes what its processor is fast at, and every receiver
/// opens both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Suite {
    Aes128Gcm,
    ChaCha20Poly1305,
}

impl Suite {
    /// Returns the suite of a datagram, or `None` if it is not a sealed one.
    pub(crate) fn of(first_byte: u8) -> Option<Self> {
        match first_byte {
            SEALED_AES_128_GCM => Some(Self::Aes128Gcm),
            SEALED_CHACHA20_POLY1305 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    pub(super) fn first_byte(self) -> u8 {
        match self {
            Self::Aes128Gcm => SEALED_AES_128_GCM,
            Self::ChaCha20Poly1305 => SEALED_CHACHA20_POLY1305,
        }
    }

    pub(super) fn algorithm(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128Gcm => &aead::AES_128_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }
}

/// 64 random bits that a node draws when it starts. Public: every datagram has them.
///
/// No two starts under one cluster key must have the same one: they would seal with the same key
/// and the same nonces. Of 10,000 starts two have the same with probability 3·10^-12. (The boot of
/// a node is no salt: a clock that is set back repeats it.)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Salt(pub(crate) u64);

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_says_the_suite() {
        let sealed: Vec<u8> = (0..=255).filter(|byte| Suite::of(*byte).is_some()).collect();
        assert_eq!(sealed, [SEALED_AES_128_GCM, SEALED_CHACHA20_POLY1305]);
        for byte in sealed {
            assert_eq!(Suite::of(byte).unwrap().first_byte(), byte);
        }
    }
}
