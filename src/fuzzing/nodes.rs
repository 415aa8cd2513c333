//! The nodes of a small cluster, as memberships.

use std::net::SocketAddr;

use zeroize::Zeroizing;

use crate::config::{DEFAULT_PROBE_PERIOD, DEFAULT_SUSPICION_TIMEOUT};
use crate::membership::{Membership, MembershipConfig};
use crate::security::keys::Keyring;
use crate::security::{ClusterKey, NodeIdentity};
use crate::types::{Boot, ClusterHash, Identity, NodeHash};

/// When all nodes of the cluster were started, in milliseconds.
pub(super) const FIRST_BOOT: u64 = 1000;

/// The name of the cluster in which keys are derived.
pub(super) const CLUSTER: &str = "shop";

pub(super) fn cluster() -> ClusterHash {
    ClusterHash(0x0123_4567_89ab_cdef)
}

/// Returns the address of a node: each has an IP address of its own.
pub(super) fn addr(node: u8) -> SocketAddr {
    ([10, 0, 0, node], 8000).into()
}

/// Returns the first life of a node.
pub(super) fn first_life(node: u8) -> Identity {
    Identity {
        node: NodeHash(u64::from(node) << 48),
        boot: Boot(FIRST_BOOT),
        returns: 0,
        addr: addr(node),
    }
}

/// Returns the membership of a node that knows no other yet.
pub(super) fn membership(node: u8) -> Membership {
    Membership::new(MembershipConfig {
        cluster: cluster(),
        identity: first_life(node),
        probe_period: DEFAULT_PROBE_PERIOD,
        suspicion_timeout: DEFAULT_SUSPICION_TIMEOUT,
        local_health: true,
        is_member: true,
        seed: u64::from(node),
    })
}

/// Returns a cluster key that belongs to a number.
pub(super) fn cluster_key(number: u8) -> ClusterKey {
    let bytes = std::array::from_fn(|at| (at as u8).wrapping_mul(number).wrapping_add(number));
    ClusterKey::from_bytes(bytes).expect("its bytes are different ones")
}

/// Returns a ring of such keys: one that is used, and others that are accepted.
pub(super) fn keyring(sealing: u8, accepted: &[u8]) -> Keyring {
    let accepted: Vec<ClusterKey> = accepted.iter().map(|number| cluster_key(*number)).collect();
    Keyring::new(CLUSTER, &cluster_key(sealing), &accepted).expect("they are different keys")
}

/// Returns the own key of a node.
pub(super) fn node_key(number: u8) -> NodeIdentity {
    NodeIdentity::from_seed(&Zeroizing::new([number; 32]))
}
