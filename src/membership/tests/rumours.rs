//! Deaths by the word of another, and nodes that do not take part yet.

use super::*;

fn believes(net: &Net, node: u16, dead: u16) -> bool {
    net.changes(node).contains(&Change::Down(first_life(dead)))
}

/// A node that heard none took all others for dead and said so, and they believed it of each other.
#[test]
fn a_death_that_another_tells_of_is_believed_only_if_the_member_is_silent_here_too() {
    for (is_silent, seed) in [false, true].into_iter().flat_map(|it| (0..10).map(move |n| (it, n)))
    {
        let mut net = Net::joined(5, seed);
        if is_silent {
            net.cut_off.insert(addr(3));
        }
        net.act(2, |membership, now, actions| membership.declare_dead(now, first_life(3), actions));
        net.run(Duration::from_secs(3));
        assert!(believes(&net, 2, 3));
        for node in [1, 4, 5] {
            assert_eq!(believes(&net, node, 3), is_silent, "at {node}, seed {seed}");
            assert!(net.at(node).rumours.is_empty());
        }
    }
}

/// A rumour was about the identity that a member had before it was taken for dead and returned.
/// The member answers no ping that is meant for it.
#[test]
fn a_member_that_has_renewed_its_identity_says_so_when_it_is_pinged_under_the_old_one() {
    let mut net = Net::joined(3, 1);
    net.act(3, |membership, now, actions| {
        let dead = foca::Member::down(first_life(3));
        membership
            .drive(now, actions, |swim, wishes| swim.apply_many([dead].into_iter(), true, wishes));
    });
    let renewed = Identity { returns: 1, ..first_life(3) };
    assert_eq!(net.at(3).identity(), renewed);
    net.in_flight.clear();
    net.act(1, |membership, now, actions| membership.ping(now, first_life(3), actions));
    net.run(Duration::from_millis(2));
    assert_eq!(net.state(1, renewed), Some(State::Alive));
    assert!(!believes(&net, 1, 3));
}

#[test]
fn a_node_that_takes_no_part_yet_answers_pings_and_nothing_else() {
    let mut net = Net::joined(2, 4);
    let outside = MembershipConfig { is_member: false, ..config(first_life(3), 4) };
    net.nodes.insert(addr(3), Membership::new(outside));
    net.act(1, |membership, now, actions| membership.announce_to(now, first_life(3), actions));
    net.act(1, |membership, now, actions| membership.ping(now, first_life(3), actions));
    net.run(Duration::from_secs(1));
    assert_eq!(net.changes(1)[1..], [Change::Probed(first_life(3))]);
    assert_eq!(net.at(3).members().count(), 0);
    net.act_at(addr(3), |membership, _, _| membership.enter());
    net.join(3, 1);
    net.run(Duration::from_secs(1));
    net.assert_state(&[1, 2], first_life(3), State::Alive);
}
