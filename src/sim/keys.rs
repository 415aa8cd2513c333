//! Cluster keys in the simulator, by number.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::options::CLUSTER;
use crate::security::proof::IntroductionFlags;
use crate::security::suite::{Salt, Suite};
use crate::security::{ClusterKey, Fingerprint, NodeSecurity, Proved, Sealing, Security};

/// The cluster keys of a node, by number: the one that it seals with, and others that it opens.
#[derive(Clone, Debug)]
pub(super) struct KeyNumbers {
    pub(super) sealing: u8,
    pub(super) accepted: Vec<u8>,
    /// Whether it also speaks with nodes that have no keys.
    pub(super) is_optional: bool,
    /// The nodes that it does not speak with, by their own keys.
    pub(super) denied: Vec<Fingerprint>,
}

impl KeyNumbers {
    /// The keys of every node at first.
    pub(super) const FIRST: Self = Self::new(0, Vec::new());

    pub(super) const fn new(sealing: u8, accepted: Vec<u8>) -> Self {
        Self { sealing, accepted, is_optional: false, denied: Vec::new() }
    }

    fn security(&self) -> Security {
        let security = Security::cluster_key(key(self.sealing));
        let accepted = self.accepted.iter().copied().map(key);
        let security = accepted.fold(security, Security::also_accept);
        let security = security.deny(self.denied.iter().copied());
        if self.is_optional { security.optional() } else { security }
    }

    /// Returns what a node seals with that starts now, given its source of chance.
    pub(super) fn sealing(&self, seed: u64) -> Sealing {
        let suite = if seed.is_multiple_of(2) { Suite::Aes128Gcm } else { Suite::ChaCha20Poly1305 };
        let mut own = Zeroizing::new([0; 32]);
        own[..8].copy_from_slice(&seed.to_le_bytes());
        let security = self.security().of_node(CLUSTER, &own).expect("at most four keys");
        Sealing { security: Arc::new(security), suite, salt: Salt(seed) }
    }

    /// Returns what a running node goes by that is given these keys.
    pub(super) fn of_running(&self, running: &NodeSecurity) -> Arc<NodeSecurity> {
        let security = self.security().of_running(CLUSTER, running);
        Arc::new(security.expect("at most four different keys"))
    }
}

/// Returns what `prover` proves over a connection between these two nodes, if that is secured. It
/// is if the acceptor has the key that the opener uses.
pub(super) fn proved(
    opener: &NodeSecurity,
    acceptor: &NodeSecurity,
    prover: &NodeSecurity,
) -> Option<Proved> {
    let key = acceptor.keyring.by_id(opener.keyring.sealing().id())?.id();
    Some(Proved {
        fingerprint: prover.identity.fingerprint(),
        keeps_key: prover.flags.has(IntroductionFlags::KEEPS_ITS_KEY),
        key,
        has_certificate: false,
    })
}

fn key(number: u8) -> ClusterKey {
    let bytes = std::array::from_fn(|at| number.wrapping_mul(37).wrapping_add(at as u8));
    ClusterKey::from_bytes(bytes).expect("32 different bytes")
}
