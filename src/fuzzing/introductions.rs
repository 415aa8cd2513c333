//! What nodes sign: that they are here, and that they go.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::LazyLock;

use super::input::Input;
use super::nodes::{cluster, first_life, node_key};
use crate::security::NodeIdentity;
use crate::security::identity::{PublicKey, Signature};
use crate::security::proof::{Departure, Introduction, IntroductionFlags, SignedClaim};
use crate::types::{Boot, ClusterHash, Identity, NodeHash};

static NODES: LazyLock<[NodeIdentity; 2]> = LazyLock::new(|| [node_key(1), node_key(2)]);

/// Has a node sign an introduction or a departure, and verifies it after changes to its parts.
///
/// A signature holds for what the node has signed, and for nothing else. Only the number of
/// returns of an introduction is not signed.
pub fn introductions(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let what = input.byte();
    let identity = identity(&mut input);
    if what % 4 < 2 {
        introduction(&identity, &mut input);
    } else {
        let departure = input.one_of(&[Departure::Leaving, Departure::Left]);
        let claim = SignedClaim::new(&NODES[0], cluster(), &identity, departure);
        claims(claim, &mut input);
    }
}

fn identity(input: &mut Input<'_>) -> Identity {
    let mut identity = first_life(input.byte());
    identity.returns = input.u16();
    change(&mut identity, input);
    identity
}

/// Changes one part of an identity. IPv4 addresses and the IPv6 addresses that map them are others.
fn change(identity: &mut Identity, input: &mut Input<'_>) {
    match input.below(6) {
        0 => identity.node = NodeHash(input.u64()),
        1 => identity.boot = Boot(input.u64()),
        2 => identity.addr.set_port(input.u16()),
        3 => {
            let (high, low) = (input.u64(), input.u64());
            let ip = Ipv6Addr::from(u128::from(high) << 64 | u128::from(low));
            identity.addr = SocketAddr::new(ip.into(), identity.addr.port());
        }
        4 => {
            let ip = match identity.addr {
                SocketAddr::V4(v4) => v4.ip().to_ipv6_mapped().into(),
                SocketAddr::V6(v6) => v6.ip().to_canonical(),
            };
            identity.addr.set_ip(ip);
        }
        _ => {}
    }
}

fn introduction(identity: &Identity, input: &mut Input<'_>) {
    let flags = IntroductionFlags(input.byte());
    let original = Introduction::new(&NODES[0], cluster(), identity, flags);
    original.verify(cluster()).expect("the node has signed it");
    assert_eq!(original.identity, identity.life());
    let mut altered = original;
    let mut cluster_here = cluster();
    while !input.is_empty() {
        match input.below(6) {
            0 => change(&mut altered.identity, input),
            1 => altered.identity.returns = input.u16(),
            2 => altered.flags = IntroductionFlags(input.byte()),
            3 => alter_signature(&mut altered.signature, input),
            4 => altered.key = other_key(input),
            _ => cluster_here = ClusterHash(input.u64()),
        }
    }
    let is_signed = altered.identity.life() == original.identity
        && (altered.key, altered.flags) == (original.key, original.flags)
        && altered.signature == original.signature
        && cluster_here == cluster();
    assert_eq!(altered.verify(cluster_here).is_ok(), is_signed, "{altered:?}");
}

fn claims(original: SignedClaim, input: &mut Input<'_>) {
    let mut altered = original;
    let mut key = NODES[0].public_key();
    let mut cluster_here = cluster();
    altered.verify(cluster_here, &key).expect("the node has signed it");
    while !input.is_empty() {
        match input.below(6) {
            0 => change(&mut altered.identity, input),
            1 => altered.identity.returns = input.u16(),
            2 => altered.departure = input.one_of(&[Departure::Leaving, Departure::Left]),
            3 => alter_signature(&mut altered.signature, input),
            4 => key = other_key(input),
            _ => cluster_here = ClusterHash(input.u64()),
        }
    }
    let is_signed =
        altered == original && key == NODES[0].public_key() && cluster_here == cluster();
    assert_eq!(altered.verify(cluster_here, &key).is_ok(), is_signed, "{altered:?}");
}

fn alter_signature(signature: &mut Signature, input: &mut Input<'_>) {
    match input.below(3) {
        0 => signature.0[usize::from(input.below(64))] ^= 1 << input.below(8),
        // The same number another time round the order of the group: what is signed once must not
        // have two signatures.
        1 => add_order(&mut signature.0),
        _ => {
            *signature =
                Introduction::new(&NODES[1], cluster(), &first_life(1), IntroductionFlags(0))
                    .signature
        }
    }
}

/// Adds the order of the group of Ed25519 to the number in the second half.
fn add_order(signature: &mut [u8; 64]) {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut carry = 0;
    for (byte, more) in signature[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(more) + carry;
        *byte = sum as u8;
        carry = sum >> 8;
    }
}

/// Returns a key that might be another one: of another node, or a flipped one. For a few keys that
/// are none of a node's any host can sign, so that these are no part of it.
fn other_key(input: &mut Input<'_>) -> PublicKey {
    let mut key = NODES[usize::from(input.below(2))].public_key();
    let flipped = input.byte();
    key.0[usize::from(flipped / 8)] ^= if input.below(2) == 0 { 0 } else { 1 << (flipped % 8) };
    key
}
