//! The order in which a read asks the replicas.

use crate::placement::List;
use crate::replication::write::Write;
use crate::shard::node::Node;
use crate::types::{Identity, KeyHash};

/// Returns the order in which the replicas are asked: this node first, then the replicas that
/// acknowledged this node's own latest write of the key, then those of this node's zone, then the
/// others, a different one first for different keys.
pub(super) fn read_order(
    node: &Node,
    list: &List,
    hash: KeyHash,
    own: Option<&Write>,
) -> Vec<Identity> {
    let has_own_write = |member: &Identity| own.is_some_and(|write| write.is_held_by(member));
    let mut order = list.members().to_vec();
    if !order.is_empty() {
        let shift = (hash.0 % order.len() as u64) as usize;
        order.rotate_left(shift);
    }
    let placement = &node.placement;
    let zone = |of: &Identity| placement.member(of.node).map(|member| &member.site.zone);
    let mine = zone(&node.me);
    order.sort_by_cached_key(|member| {
        (*member != node.me, !has_own_write(member), zone(member) != mine)
    });
    order
}
