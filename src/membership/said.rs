//! A claim, and what it looks like in gossip ([`claims`](super::claims) says what it is for).
//!
//! ```text
//! claim   kind u8 (1 leaving, 2 left) · identity · (key [32] · signature [64])
//! ```

use bytes::BufMut;

use super::codec::{
    MAX_IDENTITY_BYTES, WireError, end_of, put_identity, take_array, take_identity, take_u8,
};
use crate::types::Identity;

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

/// How a claim has come: by gossip, which passes many members, or in a list of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Gossip,
    List,
}
