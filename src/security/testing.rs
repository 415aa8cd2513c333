//! What the tests of this room share. Expected values were computed apart from `ring`, by Python's
//! hashlib and hmac, and by its package cryptography.

use zeroize::Zeroizing;

use super::identity::NodeIdentity;
use super::keys::{ClusterKey, Keyring};
use crate::types::{Boot, ClusterHash, Identity, NodeHash};

pub(super) const CLUSTER: &str = "shop";

pub(super) const CLUSTER_HASH: ClusterHash = ClusterHash(0x0102_0304_0506_0708);

/// A key of the bytes from `first` upwards.
pub(super) fn key(first: u8) -> ClusterKey {
    ClusterKey::from_bytes(std::array::from_fn(|at| first.wrapping_add(at as u8))).unwrap()
}

/// A keyring of such keys.
pub(super) fn keyring(sealing: u8, accepted: &[u8]) -> Keyring {
    let accepted: Vec<ClusterKey> = accepted.iter().map(|first| key(*first)).collect();
    Keyring::new(CLUSTER, &key(sealing), &accepted).unwrap()
}

/// A node of the bytes from `first` upwards.
pub(super) fn node(first: u8) -> NodeIdentity {
    let seed = Zeroizing::new(std::array::from_fn(|at| first.wrapping_add(at as u8)));
    NodeIdentity::from_seed(&seed)
}

pub(super) fn identity(addr: &str) -> Identity {
    Identity {
        node: NodeHash(0x1112_1314_1516_1718),
        boot: Boot(1_700_000_000_000),
        returns: 3,
        addr: addr.parse().unwrap(),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    assert_eq!(hex.len(), 2 * N);
    std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
}
