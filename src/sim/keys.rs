//! Cluster keys in the simulator, by number.

use super::options::CLUSTER;
use crate::membership::envelope::Sealing;
use crate::security::keys::{ClusterKey, Keyring};
use crate::security::suite::{Salt, Suite};

/// The cluster keys of a node, by number: the one that it seals with, and others that it opens.
#[derive(Clone, Debug)]
pub(super) struct KeyNumbers {
    pub(super) sealing: u8,
    pub(super) accepted: Vec<u8>,
}

impl KeyNumbers {
    /// The keys of every node at first.
    pub(super) const FIRST: Self = Self { sealing: 0, accepted: Vec::new() };

    pub(super) fn ring(&self) -> Keyring {
        let accepted: Vec<ClusterKey> = self.accepted.iter().copied().map(key).collect();
        Keyring::new(CLUSTER, &key(self.sealing), &accepted).expect("at most four different keys")
    }

    /// Returns what a node seals with that starts now, given its source of chance.
    pub(super) fn sealing(&self, seed: u64) -> Sealing {
        let suite = if seed.is_multiple_of(2) { Suite::Aes128Gcm } else { Suite::ChaCha20Poly1305 };
        Sealing { ring: self.ring(), suite, salt: Salt(seed) }
    }
}

fn key(number: u8) -> ClusterKey {
    let bytes = std::array::from_fn(|at| number.wrapping_mul(37).wrapping_add(at as u8));
    ClusterKey::from_bytes(bytes).expect("32 different bytes")
}
