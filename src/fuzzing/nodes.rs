//! The nodes of a small cluster, as memberships.

use std::net::SocketAddr;

use crate::config::{DEFAULT_PROBE_PERIOD, DEFAULT_SUSPICION_TIMEOUT};
use crate::membership::{Membership, MembershipConfig};
use crate::types::{Boot, ClusterHash, Identity, NodeHash};

/// When all nodes of the cluster were started, in milliseconds.
pub(super) const FIRST_BOOT: u64 = 1000;

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
