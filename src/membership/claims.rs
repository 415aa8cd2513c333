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
//! At most one claim is kept of each identity, returns included: the later kind. An earlier or
//! equal one is dropped, which is also what makes gossip stop. Identities have no part in each
//! other's claims: one about an identity that never was must not hide what the true one says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foca::{BroadcastHandler, Invalidates};

use super::codec::WireError;
use super::departures::Departures;
#[cfg(any(test, fuzzing, feature = "sim"))]
pub(crate) use super::said::MAX_CLAIM_BYTES;
pub(crate) use super::said::{Claim, ClaimKind, SaidClaim, Signed, Source};
use crate::types::{Identity, MAX_MEMBERS};

/// The most identities whose claims are kept. Beyond the half, those of identities that are no
/// members go, so that a forger does not fill it. Claims of further ones are dropped; those nodes
/// then count as dead once they are silent.
const MAX_CLAIMS: usize = 4 * MAX_MEMBERS;

/// A claim that is being gossiped replaces those of its identity that say less.
impl Invalidates for Claim {
    fn invalidates(&self, other: &Self) -> bool {
        self.identity == other.identity && self.kind >= other.kind
    }
}

/// A claim, and whether its signature was checked: the key of that life was known.
#[derive(Debug, Clone, Copy)]
struct KeptClaim {
    said: SaidClaim,
    is_proved: bool,
}

/// What every identity has claimed last.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    by_identity: BTreeMap<Identity, KeptClaim>,
    /// How often the claims changed.
    version: u64,
    pub(super) departures: Departures,
}

impl Claims {
    /// Keeps a claim if it is news, and by who may say so. Returns whether it was.
    pub(crate) fn note(&mut self, said: SaidClaim) -> bool {
        self.note_by(said, Source::Gossip)
    }

    /// Does so with one out of a list, which has at most one of each member.
    pub(super) fn note_listed(&mut self, said: SaidClaim) -> bool {
        self.note_by(said, Source::List)
    }

    fn note_by(&mut self, said: SaidClaim, source: Source) -> bool {
        let Claim { identity, kind } = said.claim;
        // One that is proved takes the place of one that is not, and is worth telling on.
        let proves = |known: &KeptClaim| {
            known.said.claim.kind == kind && !known.is_proved && self.departures.knows(&identity)
        };
        match self.by_identity.get(&identity) {
            Some(known) if known.said.claim.kind >= kind && !proves(known) => return false,
            None if self.by_identity.len() >= MAX_CLAIMS => return false,
            _ => {}
        }
        if !self.departures.admits(&said, source) {
            return false;
        }
        let is_proved = self.departures.knows(&identity);
        self.by_identity.insert(identity, KeptClaim { said, is_proved });
        self.version += 1;
        true
    }

    /// Drops the claims about lives whose keys have become known since. What these have signed is
    /// told again.
    #[cfg(feature = "security")]
    pub(super) fn drop_unproved(&mut self) {
        let before = self.by_identity.len();
        let departures = &self.departures;
        self.by_identity.retain(|identity, kept| kept.is_proved || !departures.knows(identity));
        self.version += u64::from(self.by_identity.len() < before);
    }

    /// Returns what this very life of a member has claimed.
    pub(crate) fn about(&self, identity: &Identity) -> Option<ClaimKind> {
        self.by_identity.get(identity).map(|kept| kept.said.claim.kind)
    }

    /// Returns what this very life of a member has claimed and signed.
    pub(super) fn signed_by(&self, identity: &Identity) -> Option<SaidClaim> {
        self.by_identity.get(identity).map(|kept| kept.said).filter(|said| said.signed.is_some())
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
