//! Who may say of a node that it leaves, or has left: a node with a key of its own, and no other.
//!
//! **Problem.** All members have the cluster key, and a claim passes through many of them. A member
//! that means harm could say of another one that it has left: a node that is silent for a moment is
//! then not waited for, and what was deleted is forgotten while it still has that.
//!
//! So a node signs what it claims of itself. Which key a life has is known to the nodes that have
//! found it at its address (`control/pins`). They believe no claim about it that this key has not
//! signed, by gossip or in a list.
//!
//! | the key of the life is | a claim about it | is believed |
//! |---|---|---|
//! | known here | signed by that key | yes |
//! | known here | by any other, or by none | no |
//! | not known | | as any rumour: see [`rumours`](super::rumours) |
//!
//! The last line is for nodes that have none, and for members that this node does not reach.
//!
//! A check takes some 50 µs. It is made of news alone, and of [`CHECKS_PER_SECOND`] in a second at
//! most: a member could send any number of wrong ones. What is left out is no loss, as a node that
//! leaves repeats that each second, and what members have heard is in their lists.

use std::sync::Arc;

use super::pace::Pace;
use super::said::{Claim, ClaimKind, SaidClaim, Signed};
use crate::clock::Instant;
use crate::mutants::{ProtocolMutant, rule};
use crate::security::identity::{NodeIdentity, PublicKey, Signature};
use crate::security::known::KnownKeys;
use crate::security::proof::{Departure, SignedClaim};
use crate::types::{ClusterHash, Identity};

/// How many signatures are checked in a second, and how many at once.
const CHECKS_PER_SECOND: u32 = 128;
const CHECKS_AT_ONCE: u32 = 512;

/// What this node signs with, and which keys it knows.
#[derive(Debug, Default)]
pub(crate) struct Departures {
    signer: Option<(ClusterHash, Arc<NodeIdentity>)>,
    known: Arc<KnownKeys>,
    now: Instant,
    checks: Checks,
}

#[derive(Debug)]
struct Checks(Pace);

impl Default for Checks {
    fn default() -> Self {
        Self(Pace::new(CHECKS_PER_SECOND, CHECKS_AT_ONCE))
    }
}

impl Departures {
    /// Has this node sign what it claims.
    pub(super) fn sign_with(&mut self, cluster: ClusterHash, identity: Arc<NodeIdentity>) {
        self.signer = Some((cluster, identity));
    }

    /// Lives of nodes have these keys.
    pub(super) fn know_keys(&mut self, keys: Arc<KnownKeys>) {
        self.known = keys;
    }

    pub(super) fn note_time(&mut self, now: Instant) {
        self.now = now;
    }

    /// Returns what this node claims of itself, as it says it.
    pub(super) fn say(&self, claim: Claim) -> SaidClaim {
        let signed = self.signer.as_ref().map(|(cluster, own)| {
            let signature = SignedClaim::new(own, *cluster, &claim.identity, departure(claim.kind));
            Signed { key: own.public_key().0, signature: signature.signature.0 }
        });
        SaidClaim { claim, signed }
    }

    /// Whether the key of this life is known.
    pub(super) fn is_known(&self, life: &Identity) -> bool {
        self.known.of(life).is_some()
    }

    /// Whether a claim is by who may say so.
    pub(super) fn admits(&mut self, said: &SaidClaim) -> bool {
        let Some(known) = self.known.of(&said.claim.identity) else { return true };
        let is_right = match &said.signed {
            Some(Signed { key, signature }) if PublicKey(*key).fingerprint() == known => {
                self.checks.0.admits(self.now)
                    && self.is_signed(&said.claim, &PublicKey(*key), signature)
            }
            _ => false,
        };
        is_right || !rule(ProtocolMutant::UnsignedBelieved, true)
    }

    fn is_signed(&self, claim: &Claim, key: &PublicKey, signature: &[u8; 64]) -> bool {
        let Some((cluster, _)) = &self.signer else { return false };
        let Claim { identity, kind } = *claim;
        let (departure, signature) = (departure(kind), Signature(*signature));
        SignedClaim { departure, identity, signature }.verify(*cluster, key).is_ok()
    }
}

fn departure(kind: ClaimKind) -> Departure {
    match kind {
        ClaimKind::Leaving => Departure::Leaving,
        ClaimKind::Left => Departure::Left,
    }
}
