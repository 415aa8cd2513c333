//! What members say about themselves that SWIM has no word for: "I am leaving", "I have left".
//!
//! SWIM knows one way to go: dead. The rest of the engine must tell a member that hands its data
//! over and then leaves from one that crashed: the first is never waited for again, the second
//! might come back. So a member *claims* its leaving, and foca carries the claim as a custom
//! broadcast, with its own gossip.
//!
//! A node that has a key signs what it claims, with that key in the claim
//! ([`departures`](super::departures)). A claim about a life whose key is known counts only if that
//! key has signed it. Of all other lives any member's word counts.
//!
//! ```text
//! claim   kind u8 (1 leaving, 2 left) · identity · (key [32] · signature [64])
//! ```
//!
//! At most one claim is kept of each identity, returns included: the later kind. An earlier or
//! equal one is dropped, which is also what makes gossip stop. Identities have no part in each
//! other's claims: one about an identity that never was must not hide what the true one says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BufMut;
use foca::{BroadcastHandler, Invalidates};

use super::codec::{
    MAX_IDENTITY_BYTES, WireError, end_of, put_identity, take_array, take_identity, take_u8,
};
use super::departures::Departures;
use crate::types::{Identity, MAX_MEMBERS};

/// The most identities whose claims are kept. Beyond the half, those of identities that are no
/// members go, so that a forger does not fill it. Claims of further ones are dropped; those nodes
/// then count as dead once they are silent.
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

/// Who has signed a claim: a public key of Ed25519, and its signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signed {
    pub(crate) key: [u8; 32],
    pub(crate) signature: [u8; 64],
}

/// A claim as it is said, signed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SaidClaim {
    pub(crate) claim: Claim,
    pub(crate) signed: Option<Signed>,
}

/// A claim that is not signed.
impl From<Claim> for SaidClaim {
    fn from(claim: Claim) -> Self {
        Self { claim, signed: None }
    }
}

/// The longest claim in gossip.
pub(crate) const MAX_CLAIM_BYTES: usize = 1 + MAX_IDENTITY_BYTES + 32 + 64;

impl SaidClaim {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self { claim: Claim { identity, kind }, signed } = self;
        let mut bytes = Vec::with_capacity(MAX_CLAIM_BYTES);
        bytes.put_u8(match kind {
            ClaimKind::Leaving => 1,
            ClaimKind::Left => 2,
        });
        put_identity(&mut bytes, identity);
        if let Some(Signed { key, signature }) = signed {
            bytes.put_slice(key);
            bytes.put_slice(signature);
        }
        bytes
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Self, WireError> {
        let kind = match take_u8(&mut bytes)? {
            1 => ClaimKind::Leaving,
            2 => ClaimKind::Left,
            tag => return Err(WireError::UnknownTag(tag)),
        };
        let identity = take_identity(&mut bytes)?;
        let mut signed = None;
        if !bytes.is_empty() {
            let key = take_array(&mut bytes)?;
            signed = Some(Signed { key, signature: take_array(&mut bytes)? });
        }
        end_of(bytes)?;
        Ok(Self { claim: Claim { identity, kind }, signed })
    }
}

/// A claim that is being gossiped replaces those of its identity that say less.
impl Invalidates for Claim {
    fn invalidates(&self, other: &Self) -> bool {
        self.identity == other.identity && self.kind >= other.kind
    }
}

/// What every identity has claimed last.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    by_identity: BTreeMap<Identity, SaidClaim>,
    /// How often the claims changed.
    version: u64,
    pub(super) departures: Departures,
}

impl Claims {
    /// Keeps a claim if it is news, and by who may say so. Returns whether it was.
    pub(crate) fn note(&mut self, said: SaidClaim) -> bool {
        let Claim { identity, kind } = said.claim;
        match self.by_identity.get(&identity) {
            Some(known) if known.claim.kind >= kind => return false,
            None if self.by_identity.len() >= MAX_CLAIMS => return false,
            _ => {}
        }
        if !self.departures.admits(&said) {
            return false;
        }
        self.by_identity.insert(identity, said);
        self.version += 1;
        true
    }

    /// Returns what this very life of a member has claimed.
    pub(crate) fn about(&self, identity: &Identity) -> Option<ClaimKind> {
        self.by_identity.get(identity).map(|said| said.claim.kind)
    }

    /// Returns all claims that are signed.
    pub(super) fn signed(&self) -> Vec<SaidClaim> {
        self.by_identity.values().filter(|said| said.signed.is_some()).copied().collect()
    }

    /// Drops what a life claimed, once the member itself is forgotten, or answers though it is said
    /// to have left.
    pub(crate) fn forget(&mut self, identity: &Identity) {
        self.version += u64::from(self.by_identity.remove(identity).is_some());
    }

    /// Whether so much is claimed that [`keep_only`](Self::keep_only) is due.
    pub(super) fn is_long(&self) -> bool {
        self.by_identity.len() > MAX_CLAIMS / 2
    }

    /// Drops what others than these claimed.
    pub(super) fn keep_only(&mut self, is_member: impl Fn(&Identity) -> bool) {
        let before = self.by_identity.len();
        self.by_identity.retain(|life, _| is_member(life));
        self.version += u64::from(self.by_identity.len() < before);
    }

    /// Returns how often the claims changed.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_identity.is_empty()
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
        let said = SaidClaim::decode(data)?;
        let is_news = self.claims.lock().note(said);
        Ok((is_news || sender.is_none()).then_some(said.claim))
    }
}
