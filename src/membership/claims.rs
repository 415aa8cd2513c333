//! What members say about themselves that SWIM has no word for: "I am leaving", "I have left".
//!
//! SWIM knows one way to go: dead. The rest of the engine must tell a member that hands its data
//! over and then leaves from one that crashed: the first is never waited for again, the second
//! might come back. So a member *claims* its leaving, and foca carries the claim as a custom
//! broadcast, with its own gossip.
//!
//! At most one claim is kept per node, the newest; an older or equal one is dropped, which is also
//! what makes gossip stop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BufMut;
use foca::{BroadcastHandler, Invalidates};

use super::codec::{MAX_IDENTITY_BYTES, WireError, end_of, put_identity, take_identity, take_u8};
use crate::types::{Boot, Identity, MAX_MEMBERS, NodeHash};

/// The most nodes whose claims are kept. Beyond the half, those of nodes that are no members go, so
/// that a forger does not fill it. Claims about further nodes are dropped; those nodes then count
/// as dead once they are silent.
const MAX_CLAIMS: usize = 4 * MAX_MEMBERS;

/// What a member claims, in order: a member that has left was leaving before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ClaimKind {
    /// It hands its data over and will be gone; it still counts until then.
    Leaving,
    /// It has handed everything over. That very life of it never comes back.
    Left,
}

/// One member's word about one life of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) identity: Identity,
    pub(crate) kind: ClaimKind,
}

impl Claim {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + MAX_IDENTITY_BYTES);
        bytes.put_u8(match self.kind {
            ClaimKind::Leaving => 1,
            ClaimKind::Left => 2,
        });
        put_identity(&mut bytes, &self.identity);
        bytes
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Self, WireError> {
        let kind = match take_u8(&mut bytes)? {
            1 => ClaimKind::Leaving,
            2 => ClaimKind::Left,
            tag => return Err(WireError::UnknownTag(tag)),
        };
        let identity = take_identity(&mut bytes)?;
        end_of(bytes)?;
        Ok(Self { identity, kind })
    }

    /// Returns what decides which claim is newer: the life first, then the kind.
    fn age(&self) -> (Boot, u16, ClaimKind) {
        (self.identity.boot, self.identity.returns, self.kind)
    }
}

/// A claim that is being gossiped replaces those of its node that are not newer.
impl Invalidates for Claim {
    fn invalidates(&self, other: &Self) -> bool {
        self.identity.node == other.identity.node && self.age() >= other.age()
    }
}

/// The newest claim of every node.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    by_node: BTreeMap<NodeHash, Claim>,
    /// The lives that said themselves to this node that they have left. Of the others it is looked
    /// into ([`rumours`](super::rumours)).
    first_hand: BTreeSet<Identity>,
    /// How often the claims changed.
    version: u64,
}

impl Claims {
    /// Keeps `claim` if it is news. Returns whether it was.
    pub(crate) fn note(&mut self, claim: Claim) -> bool {
        let node = claim.identity.node;
        match self.by_node.get(&node) {
            Some(known) if known.age() >= claim.age() => return false,
            None if self.by_node.len() >= MAX_CLAIMS => return false,
            _ => {}
        }
        self.by_node.insert(node, claim);
        self.version += 1;
        true
    }

    /// Returns what this very life of a member has claimed.
    pub(crate) fn about(&self, identity: &Identity) -> Option<ClaimKind> {
        let claim = self.by_node.get(&identity.node)?;
        (claim.identity == *identity).then_some(claim.kind)
    }

    /// Drops what a life claimed, once the member itself is forgotten, or answers though it is said
    /// to have left.
    pub(crate) fn forget(&mut self, identity: &Identity) {
        self.first_hand.remove(identity);
        if self.about(identity).is_some() {
            self.by_node.remove(&identity.node);
            self.version += 1;
        }
    }

    /// Drops what was claimed of nodes that are no members, if there is much.
    pub(super) fn make_room(&mut self, is_member: impl Fn(NodeHash) -> bool) {
        let before = self.by_node.len();
        if before <= MAX_CLAIMS / 2 {
            return;
        }
        self.by_node.retain(|node, _| is_member(*node));
        self.first_hand.retain(|life| is_member(life.node));
        self.version += u64::from(self.by_node.len() < before);
    }

    /// Whether this very life has told this node that it has left.
    pub(super) fn is_first_hand(&self, identity: &Identity) -> bool {
        self.first_hand.contains(identity)
    }

    /// Returns how often the claims changed.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_node.is_empty()
    }
}

/// The claims, shared with foca, which owns its [`ClaimHandler`] and does not give it back. The
/// lock is never contended: one thread at a time drives a membership.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedClaims(Arc<Mutex<Claims>>);

impl SharedClaims {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Claims> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the claims that arrive from foca.
#[derive(Debug)]
pub(crate) struct ClaimHandler {
    pub(crate) claims: SharedClaims,
}

impl BroadcastHandler<Identity> for ClaimHandler {
    type Key = Claim;
    type Error = WireError;

    /// Returns `Some` to make foca pass the claim on. That is right for news, and for our own
    /// claims even if they are old (`sender` is `None`): a leaving member repeats itself.
    fn receive_item(
        &mut self,
        data: &[u8],
        sender: Option<&Identity>,
    ) -> Result<Option<Claim>, WireError> {
        let claim = Claim::decode(data)?;
        let mut claims = self.claims.lock();
        if sender == Some(&claim.identity) && claim.kind == ClaimKind::Left {
            claims.first_hand.insert(claim.identity);
        }
        let is_news = claims.note(claim);
        Ok((is_news || sender.is_none()).then_some(claim))
    }
}
