//! Signed claims: which nodes believe them, and that wrong ones harm no node.

use std::sync::Arc;

use super::strangers::{gossip, receives};
use super::*;
use crate::membership::claims::{Claim, ClaimKind, SaidClaim, Signed, Source};
use crate::membership::departures::{CHECKED_EVERY, Departures};
#[cfg(feature = "sim")]
use crate::mutants::{ProtocolMutant, set_for_this_thread};
use crate::security::identity::NodeIdentity;
use crate::security::known::KnownKeys;

const KINDS: [ClaimKind; 2] = [ClaimKind::Leaving, ClaimKind::Left];

fn key_of(node: u16) -> Arc<NodeIdentity> {
    Arc::new(NodeIdentity::from_seed(&zeroize::Zeroizing::new([node as u8; 32])))
}

fn known(nodes: &[u16]) -> Arc<KnownKeys> {
    let key = |&node: &u16| (first_life(node), key_of(node).fingerprint());
    Arc::new(nodes.iter().map(key).collect())
}

/// Three nodes that sign, of which the first one knows the key of the second one.
fn signing(seed: u64) -> Net {
    let mut net = Net::joined(3, seed);
    for node in 1..=3 {
        net.act(node, |membership, _, _| {
            membership.sign_with(key_of(node));
            if node == 1 {
                membership.know_keys(known(&[2]));
            }
        });
    }
    net
}

/// What a node with the key of `signer` would say.
fn signed_by(signer: u16, claim: Claim) -> SaidClaim {
    let mut departures = Departures::default();
    departures.sign_with(ClusterHash::of("test"), key_of(signer));
    departures.say(claim)
}

/// Claims about the second node that it has not made.
fn lies(kind: ClaimKind) -> Vec<SaidClaim> {
    let claim = Claim { identity: first_life(2), kind };
    let other = Claim { kind: if kind == KINDS[0] { KINDS[1] } else { KINDS[0] }, ..claim };
    let returned = Claim { identity: Identity { returns: 1, ..claim.identity }, ..claim };
    let third = signed_by(3, claim);
    let of_second = |said: Claim| SaidClaim { claim, ..signed_by(2, said) };
    let forged = Signed { key: key_of(2).public_key().0, ..third.signed.unwrap() };
    vec![
        claim.into(),
        third,
        SaidClaim { claim, signed: Some(forged) },
        of_second(other),
        of_second(returned),
    ]
}

/// Whether the first node believes one of the lies that the third one tells.
fn believes(kind: ClaimKind) -> bool {
    lies(kind).into_iter().any(|lie| {
        let mut net = signing(6);
        let packet = gossip(first_life(3), first_life(1), &[], &[lie]);
        receives(&mut net, 1, 3, &packet);
        let is_believed = net.at(1).claims.lock().about(&first_life(2)).is_some();
        net.run(Duration::from_secs(3));
        // That it leaves would have it renew its identity.
        let state = net.state(1, first_life(2));
        assert!(is_believed || state == Some(State::Alive), "{state:?}");
        is_believed
    })
}

#[test]
fn what_another_one_claims_of_a_node_is_not_believed_if_its_key_is_known() {
    assert_eq!(KINDS.map(believes), [false, false]);
}

#[cfg(feature = "sim")]
#[test]
fn the_mutant_that_believes_what_is_not_signed_is_noticed() {
    set_for_this_thread(Some(ProtocolMutant::UnsignedBelieved), u16::MAX);
    let believed = believes(ClaimKind::Leaving);
    set_for_this_thread(None, u16::MAX);
    assert!(believed);
}

#[test]
fn a_node_that_signs_leaves_as_others_do() {
    let mut net = signing(7);
    net.act(2, |membership, now, actions| membership.announce_leaving(now, actions));
    net.run(Duration::from_secs(1));
    for node in [1, 3] {
        assert!(net.changes(node).contains(&Change::Leaving(first_life(2))), "at {node}");
    }
    net.act(2, |membership, now, actions| membership.announce_left(now, actions));
    net.run(Duration::from_secs(1));
    net.assert_state(&[1, 3], first_life(2), State::Left);
    // A node that missed it finds it in a list.
    let said = net.at(1).signed_claims(&net.at(1).records());
    assert_eq!(said, [signed_by(2, Claim { identity: first_life(2), kind: ClaimKind::Left })]);
}

#[test]
fn a_list_is_believed_as_gossip_is() {
    let left = Record { identity: first_life(2), state: State::Left, leaving: true };
    let leaving = Record { state: State::Alive, ..left };
    let checked = |said: Vec<SaidClaim>, record: Record| {
        let (mut net, mut records) = (signing(8), [record]);
        net.act(1, |membership, now, _| membership.check_departures(now, said, &mut records));
        records[0]
    };
    for lies in KINDS.map(lies) {
        let not_left = checked(lies.clone(), left);
        assert_eq!((not_left.state, not_left.leaving), (State::Dead, false));
        assert!(!checked(lies, leaving).leaving);
    }
    for (kind, record) in [(ClaimKind::Left, left), (ClaimKind::Leaving, leaving)] {
        let said = signed_by(2, Claim { identity: first_life(2), kind });
        assert_eq!(checked(vec![said], record), record);
    }
    let unknown = Record { identity: first_life(3), ..left };
    assert_eq!(checked(vec![], unknown), unknown, "its key is not known");
}

/// It was told before this node had found the key of that node.
#[test]
fn what_was_believed_goes_when_the_key_is_known() {
    for kind in KINDS {
        let claim = Claim { identity: first_life(3), kind };
        let other = signed_by(1, claim);
        for said in [claim.into(), other, signed_by(3, claim)] {
            let mut net = signing(9);
            net.at(1).claims.lock().note(said);
            assert!(net.at(1).claims.lock().about(&first_life(3)).is_some(), "as any rumour");
            net.act(1, |membership, _, _| membership.know_keys(known(&[2, 3])));
            assert_eq!(net.at(1).claims.lock().about(&first_life(3)), None, "{said:?}");
            assert!(net.at(1).claims.lock().note(signed_by(3, claim)), "the true one counts");
            // It stays when more is known.
            net.act(1, |membership, _, _| membership.know_keys(known(&[1, 2, 3])));
            assert_eq!(net.at(1).claims.lock().about(&first_life(3)), Some(kind));
        }
    }
}

/// Any host that is heard can tell of any number of lives.
#[test]
fn a_list_has_no_claims_but_those_of_its_members() {
    let mut net = signing(10);
    for boot in 0..5000 {
        let identity = Identity { boot: Boot(boot), ..first_life(7) };
        let claim = Claim { identity, kind: ClaimKind::Left };
        net.at(1).claims.lock().note(signed_by(1, claim));
    }
    assert_eq!(net.at(1).signed_claims(&net.at(1).records()), []);
    // The same at the other end: what is not in the list is not kept.
    let stranger = signed_by(3, Claim { identity: first_life(8), kind: ClaimKind::Left });
    net.act(2, |membership, now, _| membership.check_departures(now, vec![stranger], &mut []));
    assert_eq!(net.at(2).claims.lock().about(&first_life(8)), None);
}

#[test]
fn claims_of_a_life_are_forgotten_with_it() {
    let mut net = signing(11);
    net.act(2, |membership, now, actions| membership.announce_left(now, actions));
    net.run(Duration::from_secs(1));
    assert!(net.at(1).claims.lock().about(&first_life(2)).is_some());
    let later = Identity { boot: Boot(first_life(2).boot.0 + 1), ..first_life(2) };
    let record = Record { identity: later, state: State::Alive, leaving: false };
    net.act(1, |membership, now, actions| {
        membership.meet(now, &later);
        membership.learn(now, &[record], actions);
    });
    assert_eq!(net.at(1).claims.lock().about(&first_life(2)), None);
}

/// A member sends any number of wrong ones.
#[test]
fn signatures_are_checked_at_a_bounded_pace() {
    let mut departures = Departures::default();
    departures.sign_with(ClusterHash::of("test"), key_of(1));
    let nodes: Vec<u16> = (2..250).collect();
    departures.know_keys(known(&nodes));
    let right = |node| signed_by(node, Claim { identity: first_life(node), kind: ClaimKind::Left });
    let second = Instant::from_nanos(1_000_000_000);
    departures.note_time(second);
    // One by another key costs no check.
    let other = signed_by(3, right(2).claim);
    assert!((0..10_000).all(|_| !departures.admits(&other, Source::Gossip)));
    // A wrong one of one life costs that life a tenth of a second.
    assert!(!departures.admits(&lies(ClaimKind::Left)[2], Source::Gossip));
    assert!(!departures.admits(&right(2), Source::Gossip));
    assert!(departures.admits(&right(2), Source::List), "lists have a budget of their own");
    assert!(departures.admits(&right(3), Source::Gossip));
    departures.note_time(second + CHECKED_EVERY);
    assert!(departures.admits(&right(2), Source::Gossip));
    // And all lives have a limit together.
    let mut checked = 0;
    for round in 2..10 {
        departures.note_time(second + CHECKED_EVERY * round);
        checked +=
            nodes.iter().filter(|node| departures.admits(&right(**node), Source::Gossip)).count();
    }
    assert!((1024..1400).contains(&checked), "{checked}");
    departures.note_time(second + Duration::from_secs(10));
    assert!(departures.admits(&right(2), Source::Gossip));
}
