//! What stands for [`Departures`] without the feature `security`: nothing is signed, and any
//! member's word counts.

use super::said::{Claim, SaidClaim, Source};
use crate::clock::Instant;
use crate::types::Identity;

/// There is nothing to know.
#[derive(Debug, Default)]
pub(crate) struct Departures;

impl Departures {
    pub(super) fn note_time(&mut self, _now: Instant) {}

    pub(super) fn say(&self, claim: Claim) -> SaidClaim {
        claim.into()
    }

    pub(super) fn knows(&self, _life: &Identity) -> bool {
        false
    }

    pub(super) fn admits(&mut self, _said: &SaidClaim, _source: Source) -> bool {
        true
    }
}
