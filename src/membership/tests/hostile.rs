//! Bytes from any host: what is written is read, and nothing that arrives does harm.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use foca::{Codec as _, Header, Member, Message};
use proptest::prelude::*;

use super::net::{Net, addr, first_life};
use crate::fuzzing::seeds;
use crate::membership::MembershipAction;
use crate::membership::claims::{Claim, ClaimKind, MAX_CLAIM_BYTES, SaidClaim, Signed};
use crate::membership::codec::{self, Accusation, Charge, Datagram, ENVELOPE_BYTES, WireError};
use crate::types::{Boot, ClusterHash, Identity, MAX_BOOT, NodeHash};

fn identities() -> impl Strategy<Value = Identity> {
    let ip = prop_oneof![
        any::<Ipv4Addr>().prop_map(IpAddr::from),
        any::<Ipv6Addr>().prop_map(IpAddr::from)
    ];
    let reachable = ip.prop_filter("reachable", |ip| {
        let ip = ip.to_canonical();
        !ip.is_unspecified() && !ip.is_multicast() && ip != Ipv4Addr::BROADCAST
    });
    let boots = 0..=MAX_BOOT.0;
    let numbers = (boots, any::<u16>(), any::<u64>());
    (reachable, 1u16.., numbers).prop_map(|(ip, port, (boot, returns, node))| Identity {
        node: NodeHash(node),
        boot: Boot(boot),
        returns,
        addr: SocketAddr::new(ip, port),
    })
}

/// Datagrams that really went to node 1, of every kind.
fn real_datagrams() -> Vec<Vec<u8>> {
    let mut net = Net::joined(4, 16);
    net.act(2, |membership, now, actions| {
        membership.announce_leaving(now, actions);
        membership.ping(now, first_life(1), actions);
    });
    net.act(1, |membership, now, actions| membership.ping(now, first_life(2), actions));
    net.act(3, |membership, now, actions| membership.declare_dead(now, first_life(4), actions));
    net.cut_off.insert(addr(3));
    net.run(Duration::from_secs(2));
    let sent = net.trace.into_iter().filter_map(|(_, action)| match action {
        MembershipAction::Send { to, datagram } if to == addr(1) => Some(datagram),
        _ => None,
    });
    sent.collect()
}

/// Feeds all of it to a node that knows others, and lets it run on.
fn survives(datagrams: &[Vec<u8>]) {
    let mut net = Net::joined(3, 17);
    for datagram in datagrams {
        net.act(1, |membership, now, actions| {
            let _ = membership.handle_datagram(now, addr(7), datagram, actions);
        });
        net.run(Duration::from_millis(30));
    }
    net.run(Duration::from_secs(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes_do_no_harm(
        bodies in prop::collection::vec(
            (0u8..6, prop::collection::vec(any::<u8>(), 0..200)),
            1..50,
        ),
        bare in prop::collection::vec(any::<u8>(), 0..1300),
    ) {
        let mut datagrams = vec![bare];
        for (kind, body) in bodies {
            let mut datagram = Datagram::Swim(&body).encode(ClusterHash::of("test"));
            datagram[ENVELOPE_BYTES - 1] = kind;
            datagrams.push(datagram);
        }
        survives(&datagrams);
    }

    #[test]
    fn mutated_datagrams_do_no_harm(
        mutations in prop::collection::vec(
            (
                any::<prop::sample::Index>(),
                prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4),
                prop::option::of(any::<prop::sample::Index>()),
                prop::collection::vec(any::<u8>(), 0..4),
            ),
            1..60,
        )
    ) {
        let real = real_datagrams();
        let mutated = mutations.into_iter().map(|(which, flips, cut, tail)| {
            let mut datagram = which.get(&real).clone();
            for (at, bits) in flips {
                // The envelope stays, but for the kind: behind it is what we want to reach.
                let at = ENVELOPE_BYTES - 1 + at.index(datagram.len() + 1 - ENVELOPE_BYTES);
                datagram[at] ^= bits;
            }
            if let Some(cut) = cut {
                datagram.truncate(cut.index(datagram.len() + 1));
            }
            datagram.extend(tail);
            datagram
        });
        survives(&mutated.collect::<Vec<_>>());
    }

    #[test]
    fn what_is_written_is_read(
        identity in identities(),
        nonce: u64,
        tag in 0u8..11,
        number: u8,
        state in 0u8..3,
    ) {
        let cluster = ClusterHash(nonce);
        let (target, from) = (identity, identity);
        let ping = Datagram::Ping { nonce, target, from };
        let pong = Datagram::Pong { nonce, from };
        let charge = if state == 0 { Charge::Dead } else { Charge::Suspect(nonce as u16) };
        let accusation = Accusation { charge, target, from };
        let accused = [Datagram::Accusation(accusation), Datagram::PassOn(accusation)];
        for datagram in [ping, pong].into_iter().chain(accused) {
            let bytes = datagram.encode(cluster);
            prop_assert_eq!(Datagram::decode(cluster, &bytes), Ok(datagram));
        }
        for kind in [ClaimKind::Leaving, ClaimKind::Left] {
            let claim = Claim { identity, kind };
            for signed in [None, Some(Signed { key: [1; 32], signature: [2; 64] })] {
                let said = SaidClaim { claim, signed };
                prop_assert!(said.encode().len() <= MAX_CLAIM_BYTES);
                prop_assert_eq!(SaidClaim::decode(&said.encode()), Ok(said));
            }
        }
        let states = [foca::State::Alive, foca::State::Suspect, foca::State::Down];
        let state = states[usize::from(state)];
        let member = Member::new(identity, 7, state);
        let mut bytes = Vec::new();
        codec::Codec.encode_member(&member, &mut bytes).expect("room");
        prop_assert_eq!(codec::Codec.decode_member(&bytes[..]), Ok(member.clone()));
        let mut short = [0; 20];
        let written = codec::Codec.encode_member(&member, &mut short[..]);
        prop_assert_eq!(written, Err(WireError::NoRoom));
        prop_assert_eq!(short, [0; 20]);
        let message = message(tag, number, identity);
        let header = Header { src: identity, src_incarnation: 3, dst: first_life(1), message };
        let mut bytes = Vec::new();
        codec::Codec.encode_header(&header, &mut bytes).expect("room");
        let is_turn_undead = matches!(codec::message_of(&bytes), Some((_, Message::TurnUndead)));
        prop_assert_eq!(is_turn_undead, tag == 10);
        prop_assert_eq!(codec::Codec.decode_header(&bytes[..]), Ok(header));
        for end in 0..bytes.len() {
            prop_assert_eq!(codec::Codec.decode_header(&bytes[..end]), Err(WireError::Truncated));
        }
    }
}

fn message(tag: u8, probe_number: u8, identity: Identity) -> Message<Identity> {
    match tag {
        0 => Message::Ping(probe_number),
        1 => Message::Ack(probe_number),
        2 => Message::PingReq { target: identity, probe_number },
        3 => Message::IndirectPing { origin: identity, probe_number },
        4 => Message::IndirectAck { target: identity, probe_number },
        5 => Message::ForwardedAck { origin: identity, probe_number },
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        9 => Message::Broadcast,
        _ => Message::TurnUndead,
    }
}

/// Writes real datagrams, and the claims in them, for `fuzz/`.
#[test]
#[ignore = "it writes files: see fuzz/README.md"]
fn seeds_for_the_fuzzers() {
    let mut real = real_datagrams();
    real.sort_unstable();
    real.dedup();
    for (number, datagram) in real.iter().enumerate() {
        // What the node did before, and from where it comes: `fuzzing::datagrams`.
        let settings = [number as u8, 5 + number as u8 % 3];
        let from_the_kind_on = at_other_addresses(&datagram[ENVELOPE_BYTES - 1..]);
        seeds::write("datagrams", number, &[&settings, &from_the_kind_on[..]].concat());
    }
    for (number, kind) in [ClaimKind::Leaving, ClaimKind::Left].into_iter().enumerate() {
        let signed = Some(Signed { key: [1; 32], signature: [2; 64] });
        let claims = [(1, None), (2, signed), (1, signed)].map(|(node, signed)| {
            let claim = Claim { identity: first_life(node), kind };
            SaidClaim { claim, signed }.encode()
        });
        let lengths =
            claims.map(|claim| [&(claim.len() as u16).to_le_bytes()[..], &claim].concat());
        seeds::write("claims", number, &lengths.concat());
    }
}

/// Has each node at an IP address of its own, as in `fuzzing::nodes`: that is 10.0.0.N:8000.
fn at_other_addresses(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for at in 0..bytes.len().saturating_sub(5) {
        let here = &mut bytes[at..at + 6];
        let node = u16::from_le_bytes([here[4], here[5]]).wrapping_sub(8000);
        if here[..4] == [10, 0, 0, 1] && (1..=9).contains(&node) {
            here[3] = node as u8;
            here[4..].copy_from_slice(&8000u16.to_le_bytes());
        }
    }
    bytes
}
