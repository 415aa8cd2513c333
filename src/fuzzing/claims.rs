//! What members claim of themselves, as gossip carries it.

use foca::BroadcastHandler;

use super::input::Input;
use super::nodes::first_life;
use crate::membership::claims::{ClaimHandler, MAX_CLAIM_BYTES, SaidClaim, SharedClaims};

/// Hands claims to a node, one after the other, as from a member.
///
/// A claim has one spelling: what decodes encodes to the same bytes. Each is news once at most.
pub fn claims(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let shared = SharedClaims::default();
    let mut handler = ClaimHandler { claims: shared.clone() };
    let sender = first_life(2);
    while !input.is_empty() {
        let bytes = input.bytes(2 * MAX_CLAIM_BYTES);
        let decoded = SaidClaim::decode(bytes);
        let received = handler.receive_item(bytes, Some(&sender));
        let Ok(said) = decoded else {
            assert!(received.is_err(), "a malformed claim was taken");
            continue;
        };
        assert_eq!(said.encode(), bytes, "one claim, two spellings");
        let claim = said.claim;
        assert!(claim.identity.is_possible());
        let is_news = received.expect("it is sound").is_some();
        let known = shared.lock().about(&claim.identity);
        assert!(!is_news || known == Some(claim.kind), "news that was not kept");
        assert!(known.is_none_or(|known| known >= claim.kind), "less than it claimed before");
        let again = handler.receive_item(bytes, Some(&sender));
        assert_eq!(again, Ok(None), "news twice");
    }
}
