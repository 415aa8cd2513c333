//! How copies are kept: one file for each operation, each a state machine without a store, clock or
//! socket.
//!
//! A machine is given answers and times and returns what to ask of which replica. The file of the
//! same name in `shard` carries that out; this node's own replica is asked like any other. A
//! machine may name the types of the ground floor (`placement`, `entry`, `clock`, `types`) and the
//! messages of `wire`; it never names the store or the shard.

pub(crate) mod anti_entropy;
pub(crate) mod handoff;
mod mismatch;
pub(crate) mod purge;
pub(crate) mod quorum;
pub(crate) mod read;
pub(crate) mod relay;
pub(crate) mod write;

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Arc;

    use crate::placement::{Ancestry, List, Wish};
    use crate::types::{Boot, Identity, NodeHash};

    pub(super) fn node(number: u64) -> Identity {
        Identity {
            node: NodeHash(number),
            boot: Boot(1),
            returns: 0,
            addr: ([127, 0, 0, 1], 1).into(),
        }
    }

    /// A list with this number that follows no other.
    pub(super) fn list(number: u64, members: Range<u64>) -> Arc<List> {
        let wish = Wish { members: members.map(node).collect(), witnesses: Vec::new() };
        List::of(number, &wish, Ancestry::default())
    }
}
