//! Denied lives: nodes that this one is told not to speak with, though they have the cluster key.
//!
//! **Problem.** A node whose key is denied gets no connection to this one. Its datagrams are sealed
//! with the cluster key, so it would go on as a member: partitions would be placed on a node to
//! which nothing can be copied.
//!
//! So a denied life is dead for this node, and no other node's word counts for it. Its datagrams
//! are dropped, and that it lives is not believed. That it is dead is told as other deaths are:
//! each other node looks for itself, and takes it for dead once it denies the node as well.
//!
//! **Invariant.** A denied life takes no part here.
//!
//! A datagram names its sender, and any node with the cluster key can name another one. A denied
//! node that means harm is put out by another cluster key.

use std::collections::BTreeSet;

use super::Membership;
use super::codec::{Datagram, DatagramError};
use super::interface::MembershipAction;
use crate::clock::Instant;
use crate::mutants::{ProtocolMutant, rule};
use crate::types::{Identity, MAX_MEMBERS};

/// Lives of nodes, without their returns.
#[derive(Debug, Default)]
pub(super) struct Denied(BTreeSet<Identity>);

impl Denied {
    /// Whether this node is to hear nothing of or by this life.
    pub(super) fn has(&self, member: &Identity) -> bool {
        !self.0.is_empty() && rule(ProtocolMutant::DeniedHeard, self.0.contains(&member.life()))
    }

    /// Whether a datagram is to be acted upon. While no life is denied, its sender is not looked
    /// at.
    pub(super) fn check(&self, datagram: &Datagram<'_>) -> Result<(), DatagramError> {
        let sender = if self.0.is_empty() { None } else { datagram.sender() };
        match sender.filter(|sender| self.has(sender)) {
            Some(sender) => Err(DatagramError::Denied(sender.addr)),
            None => Ok(()),
        }
    }
}

impl Membership {
    /// Takes a life for dead until it is [allowed](Self::allow) again. As many are denied as there
    /// may be members. Further ones are dead, and may come back until they are found again.
    pub(crate) fn deny(
        &mut self,
        now: Instant,
        life: &Identity,
        actions: &mut Vec<MembershipAction>,
    ) {
        if self.denied.0.len() < MAX_MEMBERS {
            self.denied.0.insert(life.life());
        }
        let members = self.roster.iter().map(|known| (known.identity, known.state));
        let is_it = |of: &Identity| of.life() == life.life();
        let alive: Vec<Identity> =
            members.filter(|(of, state)| is_it(of) && state.is_active()).map(|it| it.0).collect();
        alive.into_iter().for_each(|member| self.declare_dead(now, member, actions));
    }

    /// Hears a life again. It comes back as one that was taken for dead.
    pub(crate) fn allow(&mut self, life: &Identity) {
        self.denied.0.remove(&life.life());
    }
}
