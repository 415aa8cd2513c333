//! Several memberships in virtual time, on a network that delivers, delays and loses as told.

#[cfg(feature = "security")]
mod departures;
mod hostile;
mod net;
mod rumours;
mod strangers;

use self::net::{Net, addr, config, first_life};
use super::*;
use crate::config::DEFAULT_PROBE_PERIOD;
use crate::membership::codec::{Accusation, Charge, WireError};
use crate::types::{Boot, ClusterHash};

#[test]
fn three_nodes_that_join_see_each_other() {
    let net = Net::joined(3, 1);
    for node in 1..=3 {
        for other in (1..=3).filter(|other| *other != node) {
            assert_eq!(net.state(node, first_life(other)), Some(State::Alive));
            let up = net
                .changes(node)
                .into_iter()
                .filter(|c| *c == Change::Up(first_life(other)))
                .count();
            assert_eq!(up, 1);
        }
        assert_eq!(net.changes(node).len(), 2, "nothing but the two joins happened");
        let expected: Vec<_> = (1..=3).map(first_life).collect();
        let known: Vec<_> = net.at(node).records().iter().map(|record| record.identity).collect();
        assert_eq!(known, expected);
    }
    // Each of the two that joined might have heard of the other first by its packets.
    assert!(net.errors.iter().all(|error| matches!(error, DatagramError::Stranger(_))));
}

#[test]
fn a_silent_member_is_dead_to_all_within_one_and_a_half_seconds() {
    for (count, seed) in [3, 5].into_iter().flat_map(|count| (0..20).map(move |seed| (count, seed)))
    {
        let mut net = Net::joined(count, seed);
        net.cut_off.insert(addr(count));
        net.run(Duration::from_millis(1500));
        for node in 1..count {
            net.assert_state(&[node], first_life(count), State::Dead);
            let changes = net.changes(node);
            let at = |change| changes.iter().position(|other| *other == change);
            assert!(
                at(Change::Suspected(first_life(count))) <= at(Change::Down(first_life(count)))
            );
        }
    }
}

/// foca tells a suspect that it counts as dead when its time is over, also when it refuted in time.
/// The suspect believed it and returned, so that every refuted suspicion ended like a death.
#[test]
fn a_suspicion_that_is_refuted_has_no_consequence() {
    for seed in 0..20 {
        let mut net = Net::joined(4, seed);
        net.cut_off.insert(addr(4));
        let suspected = |change: &Change| matches!(change, Change::Suspected(_));
        net.run_until(|net| (1..=4).any(|at| net.changes(at).iter().any(suspected)));
        net.cut_off.clear();
        net.run(Duration::from_secs(2));
        for node in 1..=4 {
            assert_eq!(net.at(node).identity(), first_life(node));
            assert!(net.at(node).members().all(|(_, state, _)| state == State::Alive));
            let changes = net.changes(node);
            assert!(
                !changes
                    .iter()
                    .any(|change| matches!(change, Change::Down(_) | Change::Replaced { .. }))
            );
        }
        assert!(
            (1..=4).any(|at| net
                .changes(at)
                .iter()
                .any(|change| matches!(change, Change::Refuted(_))))
        );
    }
}

#[test]
fn a_member_falsely_declared_dead_returns() {
    let mut net = Net::joined(3, 2);
    net.act(1, |membership, now, actions| membership.declare_dead(now, first_life(3), actions));
    net.run(Duration::from_secs(3));
    let renewed = Identity { returns: 1, ..first_life(3) };
    assert_eq!(net.at(3).identity(), renewed);
    assert!(net.changes(3).contains(&Change::Returned(renewed)));
    net.assert_state(&[1, 2], renewed, State::Alive);
    let changes = net.changes(1);
    let down =
        changes.iter().position(|change| *change == Change::Down(first_life(3))).expect("declared");
    let replaced = Change::Replaced { old: first_life(3), new: renewed };
    assert_eq!(changes[down + 1..], [replaced, Change::Up(renewed)]);
}

/// foca renews an identity and then waits to be spoken to. If its one round of gossip is lost, no
/// member speaks to it: the others greet only members that they know.
#[test]
fn a_return_whose_announcement_is_lost_still_happens() {
    let mut net = Net::joined(2, 3);
    net.act(1, |membership, now, actions| membership.declare_dead(now, first_life(2), actions));
    net.run_until(|net| net.at(2).identity().returns == 1);
    net.in_flight.clear();
    net.run(Duration::from_secs(1));
    net.assert_state(&[1], Identity { returns: 1, ..first_life(2) }, State::Alive);
}

#[test]
fn a_restarted_node_replaces_its_former_life() {
    let mut net = Net::joined(3, 4);
    let restarted = Identity { boot: Boot(2000), ..first_life(3) };
    net.start(restarted);
    net.join(3, 1);
    net.run(Duration::from_secs(1));
    for node in [1, 2] {
        net.assert_state(&[node], restarted, State::Alive);
        let replaced = Change::Replaced { old: first_life(3), new: restarted };
        assert_eq!(net.changes(node)[2..], [replaced, Change::Up(restarted)]);
    }
    assert_eq!(net.at(3).identity(), restarted);
    assert_eq!(net.at(3).records().len(), 3, "its former life is no member of its own");
}

/// Found by the simulator (clocks that jump): a node whose clock was set back before its start
/// counted as its own former life for ever, and was never heard.
#[test]
fn a_restarted_node_whose_clock_was_set_back_counts_as_later_all_the_same() {
    for is_noticed in [false, true] {
        let mut net = Net::joined(3, 4);
        if is_noticed {
            net.cut_off.insert(addr(3));
            net.run(Duration::from_secs(3));
            net.assert_state(&[1, 2], first_life(3), State::Dead);
        }
        net.start(Identity { boot: Boot(500), ..first_life(3) });
        net.join(3, 1);
        net.run(Duration::from_secs(1));
        let later = Identity { boot: Boot(1001), ..first_life(3) };
        assert_eq!(net.at(3).identity(), later);
        assert!(net.changes(3).contains(&Change::Returned(later)));
        net.assert_state(&[1, 2], later, State::Alive);
    }
}

/// A node that was taken for dead 65,535 times within one life did not return any more, until it
/// was started again. It goes on as a later life, and its returns are counted from zero.
#[test]
fn a_node_outlives_its_last_return() {
    let mut net = Net::joined(3, 4);
    net.start(Identity { returns: u16::MAX - 1, ..first_life(2) });
    net.join(2, 1);
    net.run(Duration::from_secs(2));
    let boot = |boot| Identity { boot: Boot(boot), ..first_life(2) };
    let lives = [
        Identity { returns: u16::MAX, ..boot(1000) },
        boot(1001),
        Identity { returns: 1, ..boot(1001) },
    ];
    for life in lives {
        let before = net.at(2).identity();
        net.act(1, |membership, now, actions| membership.declare_dead(now, before, actions));
        net.run_until(|net| net.at(2).identity() == life);
        net.run(Duration::from_secs(30));
        net.assert_state(&[1, 3], life, State::Alive);
        assert!(net.changes(2).contains(&Change::Returned(life)));
        assert_eq!(net.at(1).records().len(), 3, "its former lives are no members");
    }
}

#[test]
fn a_split_cluster_heals() {
    let mut net = Net::joined(4, 5);
    // Each of the two is separated from all others.
    net.cut_off.extend([addr(3), addr(4)]);
    net.run(Duration::from_secs(3));
    net.assert_state(&[1, 2], first_life(3), State::Dead);
    net.cut_off.clear();
    net.run(Duration::from_secs(30));
    for node in 1..=4 {
        assert!(net.at(node).members().all(|(_, state, _)| state == State::Alive));
        assert_eq!(net.at(node).members().count(), 3);
    }
}

#[test]
fn leaving_then_left_is_seen_by_all_and_never_as_dead() {
    for seed in 0..20 {
        let mut net = Net::joined(5, seed);
        net.act(5, |membership, now, actions| membership.announce_leaving(now, actions));
        net.run(Duration::from_secs(1));
        for node in 1..5 {
            let members: Vec<_> = net.at(node).members().collect();
            assert!(members.contains(&(first_life(5), State::Alive, true)));
        }
        net.act(5, |membership, now, actions| membership.announce_left(now, actions));
        net.run(Duration::from_secs(3));
        net.assert_state(&[1, 2, 3, 4], first_life(5), State::Left);
        for node in 1..5 {
            let changes = net.changes(node);
            assert_eq!(changes[4..], [Change::Leaving(first_life(5)), Change::Left(first_life(5))]);
        }
        assert_eq!(net.at(5).deadline(), None);
        assert_eq!(
            net.at(5).identity(),
            first_life(5),
            "the echo of its end does not bring it back"
        );
    }
}

#[test]
fn who_leaves_learns_nothing_new_and_a_joiner_learns_who_is_leaving() {
    let mut net = Net::joined(3, 6);
    net.act(2, |membership, now, actions| membership.announce_leaving(now, actions));
    // Long after gossip about it has ended.
    net.run(Duration::from_secs(20));
    net.start(first_life(4));
    let records = net.at(3).records();
    net.act(4, |membership, now, actions| membership.learn(now, &records, actions));
    assert!(net.at(4).members().any(|member| member == (first_life(2), State::Alive, true)));
    // A leaver that is declared dead and returns is still leaving.
    net.act(1, |membership, now, actions| membership.declare_dead(now, first_life(2), actions));
    net.run(Duration::from_secs(3));
    let renewed = Identity { returns: 1, ..first_life(2) };
    for node in [1, 3, 4] {
        assert!(net.at(node).members().any(|member| member == (renewed, State::Alive, true)));
    }
}

#[test]
fn a_leaver_that_stops_without_a_last_word_is_dead() {
    let mut net = Net::joined(3, 7);
    net.act(2, |membership, now, actions| membership.announce_leaving(now, actions));
    net.run(Duration::from_secs(1));
    net.act(2, |membership, now, actions| membership.announce_dead(now, actions));
    net.run(Duration::from_millis(50));
    net.assert_state(&[1, 3], first_life(2), State::Dead);
    assert_eq!(
        net.at(1).records()[1],
        Record { identity: first_life(2), state: State::Dead, leaving: true }
    );
}

#[test]
fn declaring_a_member_dead_spreads() {
    let mut net = Net::joined(5, 8);
    net.cut_off.insert(addr(5));
    net.act(1, |membership, now, actions| membership.declare_dead(now, first_life(5), actions));
    // Gossip passes two members, and each looks for itself.
    net.run(DEFAULT_PROBE_PERIOD * 3);
    net.assert_state(&[1, 2, 3, 4], first_life(5), State::Dead);
}

#[test]
fn a_list_that_says_we_are_dead_or_another_life_is_not_believed() {
    let mut net = Net::joined(2, 9);
    let states = [State::Dead, State::Left, State::Suspect, State::Alive];
    for (state, returns) in states.into_iter().flat_map(|state| [(state, 0), (state, 1)]) {
        let own = Record { identity: Identity { returns, ..first_life(1) }, state, leaving: false };
        net.act(1, |membership, now, actions| membership.learn(now, &[own], actions));
    }
    net.run(Duration::from_secs(1));
    assert_eq!(net.at(1).identity(), first_life(1));
    assert_eq!(net.changes(1), [Change::Up(first_life(2))]);
    assert_eq!(net.at(1).records()[0].state, State::Alive);
}

#[test]
fn a_ping_is_answered_by_the_life_it_is_meant_for() {
    let mut net = Net::joined(2, 10);
    net.act(1, |membership, now, actions| membership.ping(now, first_life(2), actions));
    let other_life = Identity { boot: Boot(2000), ..first_life(2) };
    net.act(1, |membership, now, actions| membership.ping(now, other_life, actions));
    net.run(Duration::from_millis(10));
    assert_eq!(net.changes(1)[1..], [Change::Probed(first_life(2))]);
}

#[test]
fn another_node_at_an_old_address_replaces_its_member() {
    let mut net = Net::joined(3, 11);
    let newcomer = Identity { boot: Boot(3000), addr: addr(3), ..first_life(9) };
    net.start(newcomer);
    net.join(3, 1);
    net.run(Duration::from_secs(1));
    net.assert_state(&[1, 2], newcomer, State::Alive);
    assert_eq!(net.changes(2)[2..], [Change::Down(first_life(3)), Change::Up(newcomer)]);
}

/// Another node has a better right to our address, so that every return of ours is in vain. It must
/// not run through the 65535 returns of a life at the pace of the network.
#[test]
fn returning_in_vain_is_slow() {
    let mut net = Net::joined(3, 12);
    let rival = Record {
        identity: Identity { boot: Boot(9000), addr: addr(3), ..first_life(9) },
        state: State::Alive,
        leaving: false,
    };
    for node in [1, 2] {
        net.act(node, |membership, now, actions| membership.learn(now, &[rival], actions));
    }
    net.run(Duration::from_secs(10));
    assert!(net.at(3).identity().returns <= 51, "{:?}", net.at(3).identity());
}

#[test]
fn strangers_are_refused() {
    let mut net = Net::joined(2, 13);
    let mut other = Membership::new(MembershipConfig {
        cluster: ClusterHash::of("another"),
        ..config(first_life(3), 0)
    });
    let mut actions = Vec::new();
    other.announce_to(net.now, first_life(1), &mut actions);
    let [MembershipAction::Send { datagram, .. }] = &actions[..] else { panic!("{actions:?}") };
    let mut receive = |datagram: &[u8]| {
        let mut result = Ok(());
        net.act(1, |membership, now, actions| {
            result = membership.handle_datagram(now, addr(3), datagram, actions);
            assert_eq!(*actions, []);
        });
        result
    };
    assert_eq!(receive(datagram), Err(DatagramError::WrongCluster));
    let mut newer = datagram.clone();
    newer[0] += 1;
    assert_eq!(receive(&newer), Err(DatagramError::WrongVersion(newer[0])));
    let mut finer = datagram.clone();
    finer[1..3].copy_from_slice(&8192u16.to_le_bytes());
    assert_eq!(receive(&finer), Err(DatagramError::WrongPartitions(8192)));
    assert_eq!(receive(&[]), Err(DatagramError::Malformed(WireError::Truncated)));
    assert_eq!(receive(&[1; 1201]), Err(DatagramError::TooLarge { bytes: 1201 }));
}

#[test]
fn equal_seeds_give_equal_actions() {
    let trace = |seed| {
        let mut net = Net::joined(5, seed);
        net.cut_off.insert(addr(5));
        net.run(Duration::from_secs(3));
        net.trace
    };
    assert_eq!(trace(14), trace(14));
    assert_ne!(trace(14), trace(15));
}

#[test]
fn a_membership_may_move_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Membership>();
}

/// A node that was not heard for a moment had suspected the others by then, and no member had heard
/// it say so. Taken for dead, it returned, and went on suspecting them though they answered its
/// probes: no member told them, and its timers were those of its former identity. Found over real
/// networks, on which one such suspicion lasted for two minutes.
#[test]
fn no_suspicion_outlasts_the_silence_that_it_came_from() {
    for seed in 0..10 {
        for silence in (3..20).map(|tenths| Duration::from_millis(tenths * 100)) {
            let mut net = Net::joined(4, seed);
            net.cut_off.insert(addr(1));
            net.run(silence);
            net.cut_off.clear();
            // Until both sides have greeted their dead.
            net.run(Duration::from_secs(12));
            for node in 1..=4 {
                let states: Vec<_> = net.at(node).members().map(|(_, state, _)| state).collect();
                assert_eq!(
                    states,
                    [State::Alive; 3],
                    "at node {node} after {silence:?}, seed {seed}"
                );
            }
        }
    }
}

/// It returned under a renewed identity just when another one went silent: the suspicion has no
/// timer any more, and ends.
#[test]
fn who_is_suspected_over_a_return_and_is_silent_is_dead_in_the_end() {
    for seed in 0..10 {
        let mut net = Net::joined(3, seed);
        net.cut_off.insert(addr(1));
        net.run_until(|net| net.state(1, first_life(2)) == Some(State::Suspect));
        net.nodes.remove(&addr(2));
        net.cut_off.clear();
        net.act(1, |membership, now, actions| {
            let dead = foca::Member::down(first_life(1));
            membership.drive(now, actions, |swim, wishes| {
                swim.apply_many([dead].into_iter(), true, wishes)
            });
        });
        assert_eq!(net.at(1).identity(), Identity { returns: 1, ..first_life(1) });
        // It was cut off itself, and takes its time.
        net.run(Duration::from_secs(6));
        assert_eq!(net.state(1, first_life(2)), Some(State::Dead), "seed {seed}");
    }
}

/// Found by the simulator (a member that left was alive for a minute): the answer to a probe lay in
/// the socket while the node was paused. The pause became the distance of that member, and the
/// trouble that the pause had shown was multiplied by it: a single probe took twenty seconds.
#[test]
fn a_pause_is_no_distance() {
    let is_soon_dead = |seed, pause| {
        let mut net = Net::joined(2, seed);
        // Its probe is under way.
        let sent = net.sent;
        net.run_until(|net| net.sent > sent);
        net.pause(1, pause);
        net.run(Duration::from_secs(1));
        net.cut_off.insert(addr(2));
        let life = net.at(2).identity();
        net.run(Duration::from_secs(4));
        net.state(1, life) == Some(State::Dead)
    };
    let tenths = [1, 2, 3, 5, 10, 20, 50, 90];
    let pauses = tenths.map(|tenths| Duration::from_millis(100 * tenths));
    let all = (0..10).flat_map(|seed| pauses.map(|pause| (seed, pause)));
    for (seed, pause) in all.clone() {
        assert!(is_soon_dead(seed, pause), "after {pause:?}, seed {seed}");
    }
    #[cfg(feature = "sim")]
    {
        use crate::mutants::{ProtocolMutant, set_for_this_thread};
        set_for_this_thread(Some(ProtocolMutant::PauseMeasured), u16::MAX);
        let is_late = all.clone().any(|(seed, pause)| !is_soon_dead(seed, pause));
        set_for_this_thread(None, u16::MAX);
        assert!(is_late, "with the mutant");
    }
}

/// A node asks another one to tell a third one that it is accused.
#[test]
fn an_accusation_is_passed_on_between_members_only() {
    let mut net = Net::joined(3, 15);
    let stranger = first_life(9);
    let earlier = Identity { boot: Boot(1), ..first_life(2) };
    let mut pass_on = |target, from| {
        let charge = Charge::Suspect(0);
        let accusation = Accusation { charge, target, from };
        let datagram = Datagram::PassOn(accusation).encode(ClusterHash::of("test"));
        let before = net.trace.len();
        net.act(1, |membership, now, actions| {
            membership.handle_datagram(now, addr(3), &datagram, actions).expect("well-formed");
        });
        let sent: Vec<_> = net.trace[before..].iter().map(|(_, action)| action.clone()).collect();
        let datagram = Datagram::Accusation(accusation).encode(ClusterHash::of("test"));
        (sent, MembershipAction::Send { to: addr(2), datagram })
    };
    let (sent, passed) = pass_on(first_life(2), first_life(3));
    assert_eq!(sent, [passed]);
    for (target, from) in
        [(first_life(2), stranger), (stranger, first_life(3)), (earlier, first_life(3))]
    {
        assert_eq!(pass_on(target, from).0, [], "{target:?}");
    }
}

/// It is told of its death by a member that does not reach it, and answers with a renewed identity.
/// That it is told again changes nothing: the life that is meant is over.
#[test]
fn who_is_told_of_its_death_returns_once() {
    let mut net = Net::joined(3, 15);
    for _ in 0..5 {
        let accusation =
            Accusation { charge: Charge::Dead, target: first_life(2), from: first_life(3) };
        let datagram = Datagram::Accusation(accusation).encode(ClusterHash::of("test"));
        net.act(2, |membership, now, actions| {
            membership.handle_datagram(now, addr(1), &datagram, actions).expect("well-formed");
        });
        net.run(DEFAULT_PROBE_PERIOD);
    }
    let renewed = Identity { returns: 1, ..first_life(2) };
    assert_eq!(net.at(2).identity(), renewed);
    net.assert_state(&[1, 3], renewed, State::Alive);
}
