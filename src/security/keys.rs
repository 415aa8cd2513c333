//! The cluster key, and the keys that are derived from it.
//!
//! ```text
//! cluster key (32 random bytes)
//!   │ HKDF-SHA256-Extract, salt = SHA-256("gridkv cluster 1" ‖ length of the name u64 ‖ the name)
//!   ▼
//!   ├─ Expand("key id")      4 bytes  public: names the key on the wire, in logs and in metrics
//!   ├─ Expand("opening")    32 bytes  HMAC-SHA256 of OPENING and OPENED
//!   ├─ Expand("proof")      32 bytes  HMAC-SHA256 over the TLS exporter
//!   └─ Expand("datagrams")  32 bytes
//!        └─ Expand("sender" ‖ suite u8 ‖ salt u64)   AEAD key of one start of one node
//! (integers little-endian)
//! ```
//!
//! The salt has the cluster's name, so one key under two names is two keys. Nothing can be
//! computed back from what is derived, and no derived key says anything of another one (RFC 5869).
//!
//! **What is wiped.** The bytes of a [`ClusterKey`] are overwritten when it is dropped. The derived
//! keys exist in `ring` alone, which does not wipe its keys.

use std::fmt;

use ring::{aead, digest, hkdf, hmac};
use zeroize::{Zeroize, Zeroizing};

use super::hex::{self, HexError};
use super::suite::{Salt, Suite};

/// How many cluster keys a node has at most: the one that it uses, and three that it accepts.
pub(crate) const MAX_CLUSTER_KEYS: usize = 4;

/// A key with fewer different bytes was not drawn at random. It would be rarer than one in 10^36.
const LEAST_DIFFERENT_BYTES: usize = 8;

/// The secret that all nodes of a cluster share: 32 random bytes.
///
/// A host that has the key can be a member of the cluster, and read and write all data in it. Make
/// one with `openssl rand -hex 32`, and keep it in a file that only the app can read. A password
/// is no key: it can be found out by trying words.
///
/// The bytes are overwritten in memory when the value is dropped. `Debug` does not show them.
///
/// ```
/// use gridkv::ClusterKey;
///
/// let hex = "8f0c6be1a2d94735bb90e1f64a5c2d7e03fd1b6a9c48e5720d3fa16b7c92e854";
/// let key = ClusterKey::from_hex(hex)?;
/// assert_eq!(format!("{key:?}"), "ClusterKey(..)");
/// # Ok::<(), gridkv::ClusterKeyError>(())
/// ```
#[derive(Clone)]
pub struct ClusterKey(
    /// Boxed, as a value leaves a copy of its bytes behind when it is moved.
    Box<Zeroizing<[u8; 32]>>,
);

impl ClusterKey {
    /// Takes a key as 32 bytes from a source of random numbers for cryptography. A copy that the
    /// caller keeps is not overwritten.
    ///
    /// # Errors
    ///
    /// [`ClusterKeyError::NotRandom`] if there are fewer than 8 different bytes among them.
    pub fn from_bytes(mut bytes: [u8; 32]) -> Result<Self, ClusterKeyError> {
        let mut boxed = Box::new(Zeroizing::new([0; 32]));
        boxed.copy_from_slice(&bytes);
        bytes.zeroize();
        Self::checked(boxed)
    }

    /// Reads a key that is written as 64 hexadecimal digits, of either case.
    ///
    /// # Errors
    ///
    /// Nothing but digits is allowed, no space and no end of line either: see
    /// [`ClusterKeyError`]. The error quotes no part of the text.
    pub fn from_hex(text: &str) -> Result<Self, ClusterKeyError> {
        let mut bytes = Box::new(Zeroizing::new([0; 32]));
        hex::decode(text, &mut bytes)?;
        Self::checked(bytes)
    }

    fn checked(bytes: Box<Zeroizing<[u8; 32]>>) -> Result<Self, ClusterKeyError> {
        let mut is_there = Zeroizing::new([false; 256]);
        bytes.iter().for_each(|byte| is_there[usize::from(*byte)] = true);
        let different = is_there.iter().filter(|is_there| **is_there).count();
        if different < LEAST_DIFFERENT_BYTES {
            return Err(ClusterKeyError::NotRandom);
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

/// Why something is no [`ClusterKey`]. No text of it has a part of the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterKeyError {
    /// A character is no hexadecimal digit.
    #[error(
        "character {position} of the cluster key is no hexadecimal digit: a key is 64 of them, as \
         `openssl rand -hex 32` prints"
    )]
    NotHex {
        /// Which character, counted from 1.
        position: usize,
    },
    /// There are more or fewer than 64 hexadecimal digits.
    #[error(
        "the cluster key has {length} hexadecimal digits, and a key is 64 of them, as \
         `openssl rand -hex 32` prints"
    )]
    WrongLength {
        /// How many digits there are.
        length: usize,
    },
    /// There are fewer than 8 different bytes in the key.
    #[error("the cluster key is not random: make one with `openssl rand -hex 32`")]
    NotRandom,
    /// The file with the key cannot be read.
    #[error("the cluster key cannot be read from {path:?}: {reason}")]
    Unreadable {
        /// The file, as it was given.
        path: String,
        /// What the operating system says.
        reason: String,
    },
}

impl From<HexError> for ClusterKeyError {
    fn from(error: HexError) -> Self {
        match error {
            HexError::NotHex { position } => Self::NotHex { position },
            HexError::WrongLength { length } => Self::WrongLength { length },
        }
    }
}

/// The public name of a cluster key in a cluster: eight hexadecimal digits that are derived from
/// both.
///
/// It shows which key a node uses, and tells nothing about the key itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub(crate) u32);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// The keys that are derived from one cluster key for one cluster.
pub(crate) struct DerivedKeys {
    id: KeyId,
    opening: hmac::Key,
    proof: hmac::Key,
    datagrams: hkdf::Prk,
}

impl DerivedKeys {
    fn new(cluster: &str, key: &ClusterKey) -> Self {
        let mut name = digest::Context::new(&digest::SHA256);
        name.update(b"gridkv cluster 1");
        name.update(&(cluster.len() as u64).to_le_bytes());
        name.update(cluster.as_bytes());
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, name.finish().as_ref());
        let prk = salt.extract(&**key.0);
        let mut id = [0; 4];
        expand(&prk, &[b"key id"], IdBytes).fill(&mut id).expect("`IdBytes` says four");
        Self {
            id: KeyId(u32::from_le_bytes(id)),
            opening: expand(&prk, &[b"opening"], hmac::HMAC_SHA256).into(),
            proof: expand(&prk, &[b"proof"], hmac::HMAC_SHA256).into(),
            datagrams: expand(&prk, &[b"datagrams"], hkdf::HKDF_SHA256).into(),
        }
    }

    pub(crate) fn id(&self) -> KeyId {
        self.id
    }

    pub(super) fn opening(&self) -> &hmac::Key {
        &self.opening
    }

    pub(super) fn proof(&self) -> &hmac::Key {
        &self.proof
    }

    /// Returns the key that seals the datagrams of the one start of a node that drew this salt.
    pub(super) fn of_sender(&self, suite: Suite, salt: Salt) -> aead::LessSafeKey {
        let info: [&[u8]; 3] = [b"sender", &[suite.first_byte()], &salt.0.to_le_bytes()];
        let key = expand(&self.datagrams, &info, suite.algorithm());
        aead::LessSafeKey::new(key.into())
    }

    /// Whether both are derived from one cluster key, compared in constant time.
    fn is_same(&self, other: &Self) -> bool {
        let tag = hmac::sign(&self.opening, b"");
        hmac::verify(&other.opening, b"", tag.as_ref()).is_ok()
    }
}

impl fmt::Debug for DerivedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DerivedKeys({})", self.id)
    }
}

fn expand<'a, L: hkdf::KeyType>(
    prk: &'a hkdf::Prk,
    info: &'a [&'a [u8]],
    kind: L,
) -> hkdf::Okm<'a, L> {
    prk.expand(info, kind).expect("no key is longer than 255 hashes")
}

struct IdBytes;

impl hkdf::KeyType for IdBytes {
    fn len(&self) -> usize {
        4
    }
}

/// The cluster keys of a node, for one cluster: one that it uses itself, and up to three others
/// that it accepts from other nodes while the key of the cluster is being changed.
#[derive(Debug)]
pub(crate) struct Keyring {
    sealing: DerivedKeys,
    accepted: Vec<DerivedKeys>,
}

impl Keyring {
    /// Derives the keys of the cluster with this name.
    pub(crate) fn new(
        cluster: &str,
        sealing: &ClusterKey,
        accepted: &[ClusterKey],
    ) -> Result<Self, KeyringError> {
        let count = 1 + accepted.len();
        if count > MAX_CLUSTER_KEYS {
            return Err(KeyringError::TooMany { count });
        }
        let mut keyring =
            Self { sealing: DerivedKeys::new(cluster, sealing), accepted: Vec::new() };
        for key in accepted {
            let keys = DerivedKeys::new(cluster, key);
            match keyring.by_id(keys.id) {
                None => keyring.accepted.push(keys),
                Some(known) if known.is_same(&keys) => {
                    return Err(KeyringError::SameKeyTwice { id: keys.id });
                }
                Some(_) => return Err(KeyringError::SameId { id: keys.id }),
            }
        }
        Ok(keyring)
    }

    /// Returns what this node seals, opens connections and proves itself with.
    pub(crate) fn sealing(&self) -> &DerivedKeys {
        &self.sealing
    }

    /// Returns the keys that another node named, if this node accepts them.
    pub(crate) fn by_id(&self, id: KeyId) -> Option<&DerivedKeys> {
        self.iter().find(|keys| keys.id == id)
    }

    /// Returns all keys, the sealing ones first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &DerivedKeys> {
        std::iter::once(&self.sealing).chain(&self.accepted)
    }
}

/// Why some cluster keys cannot be used together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// There are more than 4 keys.
    #[error(
        "{count} cluster keys are given, and {MAX_CLUSTER_KEYS} are allowed: leave out those that \
         no node uses any more"
    )]
    TooMany {
        /// How many were given, the one that is used among them.
        count: usize,
    },
    /// One key was given twice.
    #[error(
        "the cluster key {id} is given twice: also_accept is for keys other than the one that this \
         node uses"
    )]
    SameKeyTwice {
        /// The public name of the key.
        id: KeyId,
    },
    /// Two different keys have one id. This happens by chance once in some 700 million rings.
    #[error("two cluster keys have the id {id}: replace one of them by a new one")]
    SameId {
        /// The public name of both keys.
        id: KeyId,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::testing::{CLUSTER, hex, key, keyring};

    #[test]
    fn derived_keys_are_those_of_the_specification() {
        let keys = DerivedKeys::new(CLUSTER, &key(0));
        assert_eq!(keys.id.to_string(), "2e12ca10");
        let tag = |key| hex(hmac::sign(key, b"message").as_ref());
        assert_eq!(
            tag(&keys.opening),
            "fadaadf1517c42a93f1a7967275dfdcbbb6cf6883ff63e66a4a40f63222e5f32"
        );
        assert_eq!(
            tag(&keys.proof),
            "2ceac7573c7de31298c016292a365b4eae277e3e14a0195aace556dd8d097fb8"
        );
        let other = DerivedKeys::new("shop2", &key(0));
        assert_ne!(other.id, keys.id, "one key under two names is two keys");
    }

    #[test]
    fn keys_that_are_not_random_are_refused() {
        let with_different = |count: u8| {
            ClusterKey::from_bytes(std::array::from_fn(|at| (at as u8 % count).wrapping_mul(37)))
        };
        assert_eq!(with_different(7).unwrap_err(), ClusterKeyError::NotRandom);
        assert!(with_different(8).is_ok());
        let zeros = ClusterKey::from_hex(&"0".repeat(64));
        assert_eq!(zeros.unwrap_err(), ClusterKeyError::NotRandom);
    }

    #[test]
    fn hexadecimal_keys_are_checked_and_never_quoted() {
        let good = hex(&**key(0x80).0);
        assert_eq!(**ClusterKey::from_hex(&good).unwrap().0, **key(0x80).0);
        assert_eq!(**ClusterKey::from_hex(&good.to_uppercase()).unwrap().0, **key(0x80).0);
        let error = |text: &str| ClusterKey::from_hex(text).unwrap_err();
        assert_eq!(error(&good[1..]), ClusterKeyError::WrongLength { length: 63 });
        assert_eq!(error("correct horse"), ClusterKeyError::NotHex { position: 2 });
        let spoilt = good[..20].to_owned() + "Ω" + &good[20..];
        let text = error(&spoilt).to_string();
        assert!(text.starts_with("character 21 of the cluster key"), "{text}");
        assert!(!text.contains('Ω') && !text.contains(&good[..8]), "{text}");
    }

    #[test]
    fn a_ring_has_one_to_four_different_keys() {
        let keyring = keyring(0, &[1, 2, 3]);
        assert_eq!(keyring.iter().count(), 4);
        assert_eq!(keyring.sealing().id, DerivedKeys::new(CLUSTER, &key(0)).id);
        for keys in keyring.iter() {
            assert!(keyring.by_id(keys.id).unwrap().is_same(keys));
        }
        assert!(keyring.by_id(DerivedKeys::new(CLUSTER, &key(4)).id).is_none());
        let new = |accepted: &[ClusterKey]| Keyring::new(CLUSTER, &key(0), accepted);
        let error = new(&[key(1), key(2), key(3), key(4)]).unwrap_err();
        assert_eq!(error, KeyringError::TooMany { count: 5 });
        let twice = |keys: &[ClusterKey]| match new(keys).unwrap_err() {
            KeyringError::SameKeyTwice { id } => id,
            error => panic!("{error}"),
        };
        assert_eq!(twice(&[key(1), key(0)]), DerivedKeys::new(CLUSTER, &key(0)).id);
        assert_eq!(twice(&[key(1), key(1)]), DerivedKeys::new(CLUSTER, &key(1)).id);
    }

    /// Found by trying: both have one id under this name.
    #[test]
    fn two_keys_with_one_id_are_refused() {
        let [one, other] = [8416, 30397].map(|number: u64| {
            let mut bytes = std::array::from_fn(|at| at as u8);
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            ClusterKey::from_bytes(bytes).unwrap()
        });
        let id = DerivedKeys::new(CLUSTER, &one).id;
        let error = Keyring::new(CLUSTER, &one, &[other]).unwrap_err();
        assert_eq!(error, KeyringError::SameId { id });
    }

    #[test]
    fn senders_have_keys_of_their_own() {
        let keyring = keyring(0, &[1]);
        let mut seen = Vec::new();
        for keys in keyring.iter() {
            for suite in [Suite::Aes128Gcm, Suite::ChaCha20Poly1305] {
                for salt in [Salt(1), Salt(1 << 56)] {
                    let key = keys.of_sender(suite, salt);
                    let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
                    let tag = key.seal_in_place_separate_tag(nonce, aead::Aad::empty(), &mut []);
                    let tag = hex(tag.unwrap().as_ref());
                    assert!(!seen.contains(&tag));
                    seen.push(tag);
                }
            }
        }
    }
}
