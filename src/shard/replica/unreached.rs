//! [`Unreached`]: the members that this core does not reach, though others might.
//!
//! **Problem.** The way between two nodes can be broken for good while a third node reaches both.
//! Each of a thousand partitions would find that out again, and wait.
//!
//! | a member is unreached | what follows |
//! |---|---|
//! | and a handoff waits for it alone | it waits for milliseconds only |
//! | and should come into a list, in place of none that stays | a replica proposes that list |
//! | for seconds, and lacks a write that W replicas have | it does not count as missing (`debt`) |
//!
//! A newcomer proposes its list itself otherwise. One that this node does not reach might not reach
//! this node either, and so lack a quorum.
//!
//! A member is unreached from the loss of its connection until it answers. It is dead only if
//! membership says so.

use std::collections::BTreeMap;

use super::Replica;
use crate::clock::Instant;
use crate::shard::turn::Turn;
use crate::types::{Boot, Identity, NodeHash};

/// The lives of members to which the connection was lost, that have answered nothing since.
#[derive(Default)]
pub(in crate::shard) struct Unreached {
    since: BTreeMap<(NodeHash, Boot), Instant>,
}

impl Unreached {
    /// Returns since when this core does not reach a member. `None` if it does, or does not know.
    pub(in crate::shard) fn since(&self, member: &Identity) -> Option<Instant> {
        self.since.get(&(member.node, member.boot)).copied()
    }

    /// Forgets the lives that are over, given the present life of each member.
    pub(super) fn keep_only(&mut self, boot_of: impl Fn(NodeHash) -> Option<Boot>) {
        self.since.retain(|(node, boot), _| boot_of(*node) == Some(*boot));
    }
}

impl Replica {
    /// The connection to this life of a node is lost.
    pub(in crate::shard) fn connection_lost<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        life: (NodeHash, Boot),
    ) {
        let before = self.unreached.since.len();
        self.unreached.since.entry(life).or_insert(turn.now.instant);
        if self.unreached.since.len() > before {
            self.review_wants(turn, life.0);
        }
    }

    /// This life of a node has answered.
    pub(in crate::shard) fn reached<C>(&mut self, turn: &mut Turn<'_, C>, life: (NodeHash, Boot)) {
        let unreached = &mut self.unreached.since;
        if !unreached.is_empty() && unreached.remove(&life).is_some() {
            self.review_wants(turn, life.0);
        }
    }

    /// Looks again at who is to propose the lists in which this node should be.
    fn review_wants<C>(&mut self, turn: &Turn<'_, C>, node: NodeHash) {
        for partition in turn.node.partitions() {
            if turn.node.placement.replicas(partition).any(|member| member.identity.node == node) {
                self.want_if_needed(turn.node, partition);
            }
        }
    }
}
