//! What hosts that are no members can make a node do.

use super::*;
use crate::membership::claims::SaidClaim;
#[cfg(feature = "sim")]
use crate::mutants::{ProtocolMutant, set_for_this_thread};
use crate::types::{MAX_BOOT, MAX_MEMBERS, NodeHash};

/// The number of the address at which the attacker is.
const ATTACKER: u16 = 66;

fn packet(src: Identity, dst: Identity, message: Message<Identity>) -> Vec<u8> {
    let header = Header { src, src_incarnation: 0, dst, message };
    let mut packet = codec::packet_of(&header).unwrap();
    if header.message != Message::Announce {
        // No updates.
        packet.extend([0, 0]);
    }
    packet
}

/// A packet of gossip, with these updates, and claims behind them.
pub(super) fn gossip(
    src: Identity,
    dst: Identity,
    updates: &[Member<Identity>],
    claims: &[SaidClaim],
) -> Vec<u8> {
    use bytes::BufMut;
    use foca::Codec as _;
    let header = Header { src, src_incarnation: 0, dst, message: Message::Gossip };
    let mut packet = codec::packet_of(&header).unwrap();
    packet.put_u16(updates.len() as u16);
    updates.iter().for_each(|update| codec::Codec.encode_member(update, &mut packet).unwrap());
    for claim in claims {
        let claim = claim.encode();
        packet.put_u16(claim.len() as u16);
        packet.put_slice(&claim);
    }
    packet
}

/// Hands a SWIM packet to a node, and returns what it does at once.
pub(super) fn receives(
    net: &mut Net,
    node: u16,
    from: u16,
    packet: &[u8],
) -> Vec<MembershipAction> {
    let datagram = Datagram::Swim(packet).encode(ClusterHash::of("test"));
    let before = net.trace.len();
    net.act(node, |membership, now, actions| {
        let _ = membership.handle_datagram(now, addr(from), &datagram, actions);
    });
    net.trace[before..].iter().map(|(_, action)| action.clone()).collect()
}

fn alive(identity: Identity) -> Member<Identity> {
    Member::new(identity, 0, foca::State::Alive)
}

/// One datagram made a member of an address that a host chose, and every node sent there.
#[test]
fn a_packet_alone_makes_no_member_and_has_nothing_sent_to_the_address_in_it() {
    let mut net = Net::joined(3, 1);
    let victim = first_life(9);
    for message in [Message::Announce, Message::Ping(1), Message::Gossip, Message::Feed] {
        let packet = packet(victim, first_life(1), message);
        assert_eq!(receives(&mut net, 1, ATTACKER, &packet), [], "it comes from elsewhere");
        // If it really speaks from there, it can be dialled, and nothing else.
        assert_eq!(receives(&mut net, 1, 9, &packet), [MembershipAction::Meet(victim)]);
    }
    net.run(Duration::from_secs(3));
    assert_eq!(net.at(1).records().len(), 3);
    assert!(net.trace.iter().all(|(_, action)| match action {
        MembershipAction::Send { to, .. } => *to != victim.addr,
        _ => true,
    }));
    #[cfg(feature = "sim")]
    {
        set_for_this_thread(Some(ProtocolMutant::StrangersBelieved), u16::MAX);
        let packet = packet(victim, first_life(1), Message::Announce);
        assert_ne!(receives(&mut net, 1, ATTACKER, &packet), [], "with the mutant");
        set_for_this_thread(None, u16::MAX);
    }
}

/// The node at the address says who it is, and is believed from then on.
#[test]
fn a_node_that_speaks_first_is_met_and_becomes_a_member() {
    let mut net = Net::joined(3, 2);
    net.start(first_life(4));
    let seed = first_life(1);
    net.act(4, |membership, now, actions| {
        membership.meet(now, &seed);
        membership.announce_to(now, seed, actions);
    });
    net.run(Duration::from_secs(2));
    net.assert_state(&[1, 2, 3], first_life(4), State::Alive);
    net.assert_state(&[4], first_life(3), State::Alive);
}

/// A later life than any could never be outlived: its node was dead to the others for a day.
#[test]
fn no_life_begins_after_the_year_2100() {
    let mut net = Net::joined(3, 3);
    let last = Identity { boot: Boot(u64::MAX), ..first_life(2) };
    let next = Identity { boot: Boot(MAX_BOOT.0 + 1), ..first_life(2) };
    for life in [last, next] {
        for from in [2, 3, ATTACKER] {
            let packet = gossip(first_life(3), first_life(1), &[Member::down(life)], &[]);
            receives(&mut net, 1, from, &packet);
            let packet = self::packet(life, first_life(1), Message::Announce);
            receives(&mut net, 1, from, &packet);
        }
    }
    net.run(Duration::from_secs(2));
    net.assert_state(&[1, 3], first_life(2), State::Alive);
}

/// Who speaks as a member could name the last life that is possible, which its node cannot outlive.
#[test]
fn of_a_life_that_begins_in_many_years_no_word_of_others_counts() {
    let joined = || {
        let mut net = Net::empty(3);
        (1..=3).for_each(|node| net.start(today(node)));
        (2..=3).for_each(|node| net.join(node, 1));
        net.run(Duration::from_secs(2));
        net
    };
    let lies = |net: &mut Net| {
        let last = Identity { boot: MAX_BOOT, ..today(2) };
        for update in [Member::down(last), alive(last)] {
            let packet = gossip(today(3), today(1), &[update], &[]);
            receives(net, 1, 3, &packet);
        }
        for state in [State::Alive, State::Dead] {
            let record = Record { identity: last, state, leaving: false };
            net.act(1, |membership, now, actions| membership.learn(now, &[record], actions));
        }
        net.run(Duration::from_secs(2));
    };
    let mut net = joined();
    lies(&mut net);
    net.assert_state(&[1, 3], today(2), State::Alive);
    assert_eq!(net.at(2).identity(), today(2));
    #[cfg(feature = "sim")]
    {
        let mut net = joined();
        set_for_this_thread(Some(ProtocolMutant::FarLivesBelieved), u16::MAX);
        lies(&mut net);
        set_for_this_thread(None, u16::MAX);
        assert_eq!(net.state(1, today(2)), None, "with the mutant");
    }
}

/// A life that began when clocks were right.
fn today(node: u16) -> Identity {
    Identity { boot: Boot(1_800_000_000_000), ..first_life(node) }
}

/// A node would have had to return 65,535 times, five times a second.
#[test]
fn no_datagram_names_a_return_that_takes_its_node_hours_to_outlive() {
    let last = Identity { returns: u16::MAX, ..first_life(2) };
    let near = Identity { returns: 5, ..first_life(2) };
    let lie = |of: Identity, way: usize| {
        let mut net = Net::joined(3, 12);
        match way {
            0 => receives(&mut net, 1, 3, &gossip(first_life(3), first_life(1), &[alive(of)], &[])),
            1 => {
                let down = [Member::down(of)];
                receives(&mut net, 1, 3, &gossip(first_life(3), first_life(1), &down, &[]))
            }
            2 => receives(&mut net, 1, 2, &packet(of, first_life(1), Message::Gossip)),
            _ => {
                let record = Record { identity: of, state: State::Alive, leaving: false };
                net.act(1, |membership, now, actions| membership.learn(now, &[record], actions));
                Vec::new()
            }
        };
        net.run(Duration::from_secs(3));
        net
    };
    for way in 0..4 {
        let net = lie(last, way);
        net.assert_state(&[1, 3], first_life(2), State::Alive);
        assert_eq!(net.at(2).identity(), first_life(2), "by {way}");
        let is_end = |it: &Change| matches!(it, Change::Down(_) | Change::Replaced { .. });
        assert!(!net.changes(1).iter().any(is_end), "by {way}: {:?}", net.changes(1));
        // A few returns are believed, and the node becomes later.
        let net = lie(near, way);
        let own = net.at(2).identity();
        assert!(own.returns > 5 && own.life() == first_life(2), "by {way}: {own:?}");
        net.assert_state(&[1, 3], own, State::Alive);
    }
    #[cfg(feature = "sim")]
    {
        set_for_this_thread(Some(ProtocolMutant::ReturnsBelieved), u16::MAX);
        let net = lie(last, 0);
        set_for_this_thread(None, u16::MAX);
        assert_ne!(net.state(1, net.at(2).identity()), Some(State::Alive), "with the mutant");
    }
}

/// A node that was cut off for long has returned often, and others have not heard of it.
#[test]
fn a_life_that_has_really_returned_often_is_believed_once_it_answers() {
    let mut net = Net::joined(3, 13);
    let often = Identity { returns: 500, ..first_life(2) };
    net.start(often);
    net.join(2, 1);
    net.run(Duration::from_secs(2));
    net.assert_state(&[1, 3], often, State::Alive);
}

/// No member can tell of it, so it tells each of them.
#[test]
fn a_node_whose_clock_is_years_ahead_becomes_a_member_of_all() {
    let mut net = Net::empty(8);
    (1..=3).for_each(|node| net.start(today(node)));
    let late = Identity { boot: Boot(MAX_BOOT.0 - 5), ..today(4) };
    net.start(late);
    (2..=4).for_each(|node| net.join(node, 1));
    net.run(Duration::from_secs(2));
    net.assert_state(&[1, 2, 3], late, State::Alive);
    (1..=3).for_each(|node| net.assert_state(&[4], today(node), State::Alive));
}

/// The last life that is possible cannot be outlived, and a node that tried would not be heard.
#[test]
fn no_node_becomes_one_that_no_other_believes() {
    let mut net = Net::joined(3, 3);
    let last = Identity { boot: MAX_BOOT, addr: addr(9), ..first_life(2) };
    let record = Record { identity: last, state: State::Dead, leaving: false };
    net.act(2, |membership, now, actions| membership.learn(now, &[record], actions));
    net.run(Duration::from_secs(2));
    assert_eq!(net.at(2).identity(), first_life(2));
    net.assert_state(&[1, 3], first_life(2), State::Alive);
    let own = packet(first_life(1), first_life(1), Message::Gossip);
    assert_eq!(receives(&mut net, 1, 1, &own), [], "in its own name");
}

/// A packet in the name of a member comes from another host.
#[test]
fn who_speaks_in_the_name_of_a_member_from_another_host_is_not_believed() {
    let mut net = Net::joined(3, 4);
    let elsewhere = SocketAddr::from(([10, 0, 0, 2], 8002));
    let lie = gossip(first_life(2), first_life(1), &[alive(first_life(9))], &[]);
    let datagram = Datagram::Swim(&lie).encode(ClusterHash::of("test"));
    let hear = |net: &mut Net| {
        let mut result = Ok(());
        let before = net.trace.len();
        net.act(1, |membership, now, actions| {
            result = membership.handle_datagram(now, elsewhere, &datagram, actions);
        });
        let sent = net.trace[before..].iter().map(|(_, action)| action.clone());
        (result, sent.collect::<Vec<_>>())
    };
    let (result, actions) = hear(&mut net);
    assert_eq!(result, Err(DatagramError::FromElsewhere(addr(2))));
    let [MembershipAction::Send { to, .. }] = &actions[..] else {
        panic!("the member itself is asked, and no other: {actions:?}")
    };
    assert_eq!(*to, addr(2));
    assert_eq!(hear(&mut net).1, [], "once in a while");
    net.run(Duration::from_secs(1));
    assert!(hear(&mut net).0.is_err(), "the member answered from its own address");
    // A host with two addresses: its answer to the ping comes from the other one.
    net.run(Duration::from_secs(1));
    let (_, actions) = hear(&mut net);
    let [MembershipAction::Send { datagram: ping, .. }] = &actions[..] else { panic!() };
    let Datagram::Ping { nonce, .. } = Datagram::decode(ClusterHash::of("test"), ping).unwrap()
    else {
        panic!("no ping")
    };
    let pong = Datagram::Pong { nonce, from: first_life(2) }.encode(ClusterHash::of("test"));
    net.act(1, |membership, now, actions| {
        membership.handle_datagram(now, elsewhere, &pong, actions).unwrap();
    });
    assert_eq!(hear(&mut net).0, Ok(()), "that is where it speaks from");
}

/// Members that packets tell of come in at a bounded pace, and there is a most of them.
#[test]
fn no_host_fills_the_list_of_members() {
    let mut net = Net::joined(2, 5);
    let phantom = |number: u32| Identity {
        node: NodeHash(u64::from(number)),
        addr: SocketAddr::from((number.to_be_bytes(), 9000)),
        ..first_life(9)
    };
    let ip = |number: u32| phantom(0x0b00_0001 + number);
    let mut told = 0;
    while told < 3000 {
        let updates: Vec<_> = (told..told + 20).map(|number| alive(ip(number))).collect();
        let packet = gossip(first_life(2), first_life(1), &updates, &[]);
        receives(&mut net, 1, 2, &packet);
        told += 20;
    }
    let members = net.at(1).records().len();
    assert!(members <= 2 + 256, "{members}");
    let left_out = |net: &Net| {
        net.trace.iter().filter(|(_, it)| matches!(it, MembershipAction::LeftOut(_))).count()
    };
    assert_eq!(left_out(&net), 1, "that is said once");

    // A list over a connection may bring more, up to a limit.
    let record = |number| Record { identity: ip(number), state: State::Alive, leaving: false };
    for part in 0..10 {
        let records: Vec<_> = (1000 * part..1000 * (part + 1)).map(record).collect();
        net.act(1, |membership, now, actions| membership.learn(now, &records, actions));
    }
    assert_eq!(net.at(1).records().len(), MAX_MEMBERS - 1);
    // Those that are dead give way to those that live.
    let dead = net.at(1).records().iter().map(|it| it.identity).find(|it| *it == ip(0)).unwrap();
    net.act(1, |membership, now, actions| membership.declare_dead(now, dead, actions));
    let late = record(20_000);
    net.act(1, |membership, now, actions| membership.learn(now, &[late], actions));
    assert_eq!(net.state(1, late.identity), Some(State::Alive));
    assert_eq!(net.state(1, dead), None);
    assert_eq!(net.at(1).records().len(), MAX_MEMBERS - 1);
}

/// "It has left" is worse than "it is dead": who has left is not waited for.
#[test]
fn that_a_member_leaves_or_has_left_is_not_believed_of_one_that_answers() {
    for kind in [ClaimKind::Leaving, ClaimKind::Left] {
        let mut net = Net::joined(3, 6);
        let claim = Claim { identity: first_life(2), kind };
        let packet = gossip(first_life(3), first_life(1), &[], &[claim.into()]);
        receives(&mut net, 1, 3, &packet);
        net.run(Duration::from_secs(3));
        for node in [1, 3] {
            let changes = net.changes(node);
            assert!(!changes.iter().any(|it| matches!(it, Change::Left(_))), "{changes:?}");
            let members: Vec<_> = net.at(node).members().collect();
            let is_it = |it: &&(Identity, State, bool)| it.0.node == first_life(2).node;
            let (_, state, leaving) = members.iter().find(is_it).unwrap();
            assert_eq!((*state, *leaving), (State::Alive, false), "{kind:?} at {node}");
        }
    }
}

/// The source of a datagram can be forged, so what is said in a member's own name might be a lie.
#[test]
fn that_a_member_has_left_or_is_dead_is_not_believed_in_its_own_name_if_it_answers() {
    let left = [Claim { identity: first_life(2), kind: ClaimKind::Left }.into()];
    let dead = [Member::down(first_life(2))];
    for (updates, claims) in [(&[][..], &left[..]), (&dead, &[]), (&dead, &left)] {
        let mut net = Net::joined(3, 9);
        let packet = gossip(first_life(2), first_life(1), updates, claims);
        receives(&mut net, 1, 2, &packet);
        net.run(Duration::from_secs(3));
        for node in [1, 3] {
            let is_end =
                |it: &Change| matches!(it, Change::Left(_) | Change::Down(_) | Change::Leaving(_));
            assert!(!net.changes(node).iter().any(is_end), "{:?}", net.changes(node));
            let is_it = |it: &(Identity, State, bool)| it.0.node == first_life(2).node;
            let (_, state, leaving) = net.at(node).members().find(is_it).unwrap();
            assert_eq!((state, leaving), (State::Alive, false));
        }
        assert!(net.at(1).rumours.is_empty());
    }
}

/// One claim was kept for a node, that of the latest life: one that never was, for example.
#[test]
fn a_claim_about_a_life_that_never_was_hides_no_true_one() {
    let mut net = Net::joined(3, 10);
    let never = Identity { boot: MAX_BOOT, ..first_life(2) };
    let lie = Claim { identity: never, kind: ClaimKind::Left };
    let packet = gossip(first_life(3), first_life(1), &[], &[lie.into()]);
    receives(&mut net, 1, 3, &packet);
    net.act(2, |membership, now, actions| membership.announce_leaving(now, actions));
    net.run(Duration::from_secs(1));
    for node in [1, 3] {
        assert!(net.changes(node).contains(&Change::Leaving(first_life(2))), "at {node}");
    }
    net.act(2, |membership, now, actions| membership.announce_left(now, actions));
    net.run(Duration::from_secs(1));
    net.assert_state(&[1, 3], first_life(2), State::Left);
}

/// Containers with published ports on one host: what one sends seems to come from the gateway, and
/// its answers to pings seemed to come from its own address.
#[test]
fn a_node_behind_a_gateway_that_translates_addresses_is_heard() {
    let run = || {
        let mut net = Net::empty(11);
        net.behind_gateway = Some(addr(2));
        (1..=3).for_each(|node| net.start(first_life(node)));
        (2..=3).for_each(|node| net.join(node, 1));
        net.run(Duration::from_secs(20));
        net
    };
    let net = run();
    net.assert_state(&[1, 3], first_life(2), State::Alive);
    net.assert_state(&[2], first_life(1), State::Alive);
    net.assert_state(&[2], first_life(3), State::Alive);
    for node in 1..=3 {
        assert!(net.changes(node).iter().all(|it| !matches!(it, Change::Down(_))), "at {node}");
    }
    #[cfg(feature = "sim")]
    {
        set_for_this_thread(Some(ProtocolMutant::AnswersToSource), u16::MAX);
        let net = run();
        set_for_this_thread(None, u16::MAX);
        assert_ne!(net.state(1, first_life(2)), Some(State::Alive), "with the mutant");
    }
}

/// Found by a fuzzer: no incarnation follows the last one, so a suspicion in it makes a node renew
/// its identity. It did so for each datagram that came, and not once in a probe period.
#[test]
fn suspicions_in_the_last_incarnation_make_a_node_return_once_in_a_probe_period() {
    for incarnation in [u16::MAX, u16::MAX - 1] {
        let mut net = Net::joined(3, 8);
        let own = |net: &Net| net.at(1).identity();
        for _ in 0..100 {
            let suspect = Member::new(own(&net), incarnation, foca::State::Suspect);
            let packet = gossip(first_life(2), own(&net), &[suspect], &[]);
            receives(&mut net, 1, 2, &packet);
            let charge = Charge::Suspect(incarnation);
            let accusation = Accusation { charge, target: own(&net), from: first_life(2) };
            let datagram = Datagram::Accusation(accusation).encode(ClusterHash::of("test"));
            net.act(1, |membership, now, actions| {
                membership.handle_datagram(now, addr(2), &datagram, actions).unwrap();
            });
        }
        assert_eq!(own(&net), Identity { returns: 1, ..first_life(1) });
        net.run(Duration::from_secs(2));
        net.assert_state(&[2, 3], own(&net), State::Alive);
    }
}

/// Found by a fuzzer: a node returns at once after it was told that another one leaves, and forgets
/// to pass that on. The other one never heard it, and it stood in all lists.
#[test]
fn a_node_that_a_list_says_to_leave_denies_it() {
    let mut net = Net::joined(3, 9);
    let leaves = |node| Record { identity: first_life(node), state: State::Alive, leaving: true };
    net.act(2, |membership, now, actions| membership.announce_leaving(now, actions));
    for node in [1, 2] {
        let records = [leaves(node)];
        net.act(node, |membership, now, actions| membership.learn(now, &records, actions));
    }
    assert_eq!(net.at(1).identity(), Identity { returns: 1, ..first_life(1) });
    assert_eq!(net.at(2).identity(), first_life(2), "it does leave");
}

/// What a packet asks to be passed on goes to members alone.
#[test]
fn a_node_passes_nothing_on_to_who_is_no_member() {
    let mut net = Net::joined(3, 7);
    let (victim, probe_number) = (first_life(9), 1);
    for message in [
        Message::PingReq { target: victim, probe_number },
        Message::IndirectAck { target: victim, probe_number },
    ] {
        let packet = packet(first_life(2), first_life(1), message);
        assert_eq!(receives(&mut net, 1, 2, &packet), []);
    }
    let accusation = Accusation { charge: Charge::Suspect(0), target: first_life(1), from: victim };
    for datagram in [Datagram::Accusation(accusation), Datagram::PassOn(accusation)] {
        let datagram = datagram.encode(ClusterHash::of("test"));
        let before = net.trace.len();
        net.act(1, |membership, now, actions| {
            let from = SocketAddr::from(([10, 0, 0, 9], 8009));
            let result = membership.handle_datagram(now, from, &datagram, actions);
            assert_eq!(result, Err(DatagramError::Stranger(from)));
        });
        assert_eq!(net.trace.len(), before);
    }
}
