//! One datagram from any host to a node that has three other members.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::input::Input;
use super::nodes::{addr, cluster, first_life, membership};
use crate::clock::Instant;
use crate::membership::codec::{
    Datagram, MAX_DATAGRAM_BYTES, MAX_SWIM_BYTES, header_of, packet_of, sent_by,
};
use crate::membership::{DatagramError, Membership, MembershipAction, Record, State};
use crate::types::MAX_MEMBERS;

/// Who is here: the node under test, and the others.
const NODE: u8 = 1;
const OTHERS: [u8; 3] = [2, 3, 4];
/// A host of which no node knows.
const STRANGER: u8 = 66;

/// The kind of a datagram that stands whole in the input, with its envelope.
const WHOLE: u8 = u8::MAX;

/// How many datagrams and connections a single datagram may cause.
const MAX_SENT: usize = 8;

/// How many changes it may cause: for each member that it tells of it comes up, is suspected, and
/// is leaving.
const MAX_CHANGES: usize = 3 * (MAX_SWIM_BYTES / 28 + OTHERS.len() + 1);

/// Decodes a datagram, and hands it to a node.
///
/// The first bytes say what the node did before, from where the datagram comes, and which kind of
/// it the rest is the body of. What the node does for it is bounded. A host that is no member gets
/// no more bytes than it sent. If the node says that nothing changed, then so it is.
pub fn datagrams(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (before, from, kind) = (input.byte(), input.byte(), input.byte());
    let datagram = datagram(kind, input.rest());
    decodes_to_itself(&datagram);

    let mut now = Instant::from_nanos(1);
    let mut node = joined(now);
    let mut actions = Vec::new();
    prepare(&mut node, &mut now, before, &mut actions);
    actions.clear();

    let known = node.records();
    let from = source(from, &datagram);
    let result = node.handle_datagram(now, from, &datagram, &mut actions);
    if from != addr(NODE) {
        // A member may tell of others.
        let members = [&known[..], &node.records()].concat();
        is_bounded(&members, &datagram, &actions);
    }
    if let Err(error) = result
        && !matches!(error, DatagramError::Partial(_))
    {
        return assert_eq!(node.records(), known, "{error}, and something changed");
    }
    assert!(node.records().len() <= MAX_MEMBERS);
    for _ in 0..5 {
        let Some(at) = node.deadline() else { break };
        now = now.max(at);
        actions.clear();
        node.handle_timers(now, &mut actions);
        actions.iter().for_each(is_sent_right);
    }
}

/// Returns the datagram of this kind with this body, or what stands whole in the input.
fn datagram(kind: u8, body: &[u8]) -> Vec<u8> {
    if kind == WHOLE {
        return body.to_vec();
    }
    let mut datagram = Datagram::Swim(body).encode(cluster());
    // The kind is the last byte of the envelope.
    let at = datagram.len() - body.len() - 1;
    datagram[at] = kind;
    datagram
}

fn decodes_to_itself(bytes: &[u8]) {
    let Ok(datagram) = Datagram::decode(cluster(), bytes) else {
        return assert_eq!(sent_by(cluster(), bytes), None);
    };
    let encoded = datagram.encode(cluster());
    assert_eq!(encoded.len(), bytes.len());
    assert_eq!(Datagram::decode(cluster(), &encoded), Ok(datagram));
    if let Ok(Datagram::Swim(packet)) = Datagram::decode(cluster(), bytes)
        && let Some(header) = header_of(packet)
    {
        let header = packet_of(&header).expect("there is room");
        assert!(packet.starts_with(&header), "one header, two spellings");
    }
}

/// Returns the node, which knows the others.
fn joined(now: Instant) -> Membership {
    let mut node = membership(NODE);
    let record = |it| Record { identity: first_life(it), state: State::Alive, leaving: false };
    OTHERS.iter().for_each(|it| node.meet(now, &first_life(*it)));
    node.learn(now, &OTHERS.map(record), &mut Vec::new());
    node
}

/// Has the node do something first.
fn prepare(
    node: &mut Membership,
    now: &mut Instant,
    before: u8,
    actions: &mut Vec<MembershipAction>,
) {
    match before % 6 {
        1 => node.announce_leaving(*now, actions),
        2 => node.declare_dead(*now, first_life(OTHERS[0]), actions),
        3 => node.ping(*now, first_life(OTHERS[0]), actions),
        4 => node.announce_left(*now, actions),
        // No member answers its probes, and some are suspected.
        5 => {
            for _ in 0..before / 6 {
                let Some(at) = node.deadline() else { break };
                *now = (*now + Duration::from_millis(1)).max(at);
                node.handle_timers(*now, actions);
            }
        }
        _ => {}
    }
}

/// Returns from where the datagram comes.
fn source(from: u8, datagram: &[u8]) -> SocketAddr {
    let other = addr(OTHERS[usize::from(from) % OTHERS.len()]);
    match from % 8 {
        0 | 1 => other,
        2 => SocketAddr::new(other.ip(), 9),
        3 => addr(STRANGER),
        4 => addr(NODE),
        // From where its sender says that it is.
        _ => match Datagram::decode(cluster(), datagram) {
            Ok(Datagram::Swim(packet)) => header_of(packet).map_or(other, |it| it.src.addr),
            Ok(Datagram::Ping { from, .. } | Datagram::Pong { from, .. }) => from.addr,
            Ok(Datagram::Accusation(it) | Datagram::PassOn(it)) => it.from.addr,
            Err(_) => other,
        },
    }
}

/// Whether what the node does for a datagram is little enough.
fn is_bounded(known: &[Record], datagram: &[u8], actions: &[MembershipAction]) {
    let members: BTreeSet<SocketAddr> = known.iter().map(|it| it.identity.addr).collect();
    let (mut sent, mut met, mut changes, mut bytes_to_strangers) = (0, 0, 0, 0);
    for action in actions {
        is_sent_right(action);
        match action {
            MembershipAction::Send { to, datagram }
            | MembershipAction::Answer { to, datagram, .. } => {
                sent += 1;
                bytes_to_strangers += if members.contains(to) { 0 } else { datagram.len() };
            }
            MembershipAction::Meet(_) => met += 1,
            MembershipAction::Changed(_) => changes += 1,
            MembershipAction::LeftOut(_) => {}
        }
    }
    assert!(sent <= MAX_SENT, "{sent} datagrams for one");
    assert!(met <= 1, "{met} dials for one datagram");
    assert!(changes <= MAX_CHANGES, "{changes} changes");
    assert!(bytes_to_strangers <= datagram.len(), "{bytes_to_strangers} bytes for {datagram:?}");
}

fn is_sent_right(action: &MembershipAction) {
    if let MembershipAction::Send { to, datagram } | MembershipAction::Answer { to, datagram, .. } =
        action
    {
        assert!(datagram.len() <= MAX_DATAGRAM_BYTES, "a datagram of {} bytes", datagram.len());
        assert_ne!(*to, addr(NODE), "to itself");
    }
}
