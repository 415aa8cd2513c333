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
//! A check takes some 50 µs. It is made of news alone. Of gossip, it is made of one life at most
//! each [`CHECKED_EVERY`], and [`CHECKS_PER_SECOND`] times in a second: a member could send any
//! number of wrong ones. One that does so in the name of a member can have it come late that this
//! one leaves. Lists of members have a budget of their own, and what others have heard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::pace::Pace;
use super::said::{Claim, ClaimKind, SaidClaim, Signed, Source};
use crate::clock::Instant;
use crate::mutants::{ProtocolMutant, rule};
use crate::security::identity::{NodeIdentity, PublicKey, Signature};
use crate::security::known::KnownKeys;
use crate::security::proof::{Departure, SignedClaim};
use crate::types::{ClusterHash, Identity, MAX_MEMBERS};

/// How rarely a signature of one life is checked.
pub(super) const CHECKED_EVERY: Duration = Duration::from_millis(100);

/// How many signatures are checked in a second, and how many at once.
const CHECKS_PER_SECOND: u32 = 256;
const CHECKS_AT_ONCE: u32 = 1024;

/// What this node signs with, and which keys it knows.
#[derive(Debug)]
pub(crate) struct Departures {
    signer: Option<(ClusterHash, Arc<NodeIdentity>)>,
    known: Arc<KnownKeys>,
    now: Instant,
    checks: Pace,
    checks_of_lists: Pace,
    /// When a signature of each life may be checked again.
    again_at: BTreeMap<Identity, Instant>,
}

impl Default for Departures {
    fn default() -> Self {
        Self {
            signer: None,
            known: Arc::default(),
            now: Instant::default(),
            checks: Pace::new(CHECKS_PER_SECOND, CHECKS_AT_ONCE),
            checks_of_lists: Pace::new(CHECKS_PER_SECOND, CHECKS_AT_ONCE),
            again_at: BTreeMap::new(),
        }
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
    pub(super) fn knows(&self, life: &Identity) -> bool {
        self.known.of(life).is_some()
    }

    /// Whether a claim is by who may say so. It counts as a check.
    pub(super) fn admits(&mut self, said: &SaidClaim, source: Source) -> bool {
        let life = said.claim.identity.life();
        if !self.knows(&life) {
            return true;
        }
        let is_right =
            self.names_its_key(said) && self.may_check(&life, source) && self.is_signed(said);
        is_right || !rule(ProtocolMutant::UnsignedBelieved, true)
    }

    /// Whether a claim names the key that is known of its node.
    fn names_its_key(&self, said: &SaidClaim) -> bool {
        let named = said.signed.map(|signed| PublicKey(signed.key).fingerprint());
        named.is_some() && named == self.known.of(&said.claim.identity)
    }

    /// Whether the key that a claim names has signed it.
    fn is_signed(&self, said: &SaidClaim) -> bool {
        let (Some((cluster, _)), Some(Signed { key, signature })) = (&self.signer, said.signed)
        else {
            return false;
        };
        let Claim { identity, kind } = said.claim;
        let (departure, signature) = (departure(kind), Signature(signature));
        let claim = SignedClaim { departure, identity, signature };
        claim.verify(*cluster, &PublicKey(key)).is_ok()
    }

    /// Whether one more signature in the name of this life may be checked now.
    fn may_check(&mut self, life: &Identity, source: Source) -> bool {
        if source == Source::List {
            return self.checks_of_lists.admits(self.now);
        }
        let (now, again_at) = (self.now, self.again_at.get(life));
        if again_at.is_some_and(|at| *at > now) || !self.checks.admits(now) {
            return false;
        }
        if self.again_at.len() >= MAX_MEMBERS {
            self.again_at.clear();
        }
        self.again_at.insert(*life, now + CHECKED_EVERY);
        true
    }
}

fn departure(kind: ClaimKind) -> Departure {
    match kind {
        ClaimKind::Leaving => Departure::Leaving,
        ClaimKind::Left => Departure::Left,
    }
}
