//! Members that come and go: events, copies that move, and nodes that are refused.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use gridkv::{Engine, Event, LeaveError, MemberState, NotReady};

use crate::support::{
    LATE, address, alive, assert_shut_down, cluster, keys, node, start, text, wait_event,
    wait_settled, wait_until,
};

#[test]
fn events_tell_who_joined_died_and_left() {
    let first = start(node("n0"));
    let events = first.events();
    let seeds = [address(&first)];
    let second = start(node("n1").seeds(&seeds));
    // Who changes the members while the cluster is being born may make a joiner of the first node.
    wait_settled(&[first.clone(), second.clone()]);
    let third = start(node("n2").seeds(&seeds));
    for (name, engine) in [("n1", &second), ("n2", &third)] {
        let at = engine.address().unwrap();
        let all = first.events();
        // It may have joined before this line.
        if !first.members().iter().any(|member| member.id == *name) {
            wait_event(&all, "joined", |event| {
                matches!(event, Event::Joined { node, .. } if *node == *name).then_some(())
            });
        }
        wait_until("it is a member", || {
            first.members().iter().any(|member| member.id == *name && member.address == at)
        });
    }
    wait_settled(&[first.clone(), second.clone(), third.clone()]);
    third.leave(LATE).unwrap();
    wait_event(&events, "born", |event| matches!(event, Event::Born { .. }).then_some(()));
    wait_event(&events, "left", |event| {
        matches!(event, Event::Left { node } if *node == *"n2").then_some(())
    });
    second.abort();
    wait_event(&events, "died", |event| {
        matches!(event, Event::Died { node } if *node == *"n1").then_some(())
    });
    let states: Vec<MemberState> = first.members().iter().map(|member| member.state).collect();
    assert_eq!(states, [MemberState::Alive, MemberState::Dead, MemberState::Left]);
    assert_eq!(events.dropped(), 0);
    drop(first);
    // No more come, and the iterator ends.
    assert!(events.count() < 100);
}

#[test]
fn after_each_change_a_node_says_when_it_holds_everything() {
    let mut engines = cluster(2, |config| config.replicas(2));
    for n in 0..200 {
        engines[n % 2].set(format!("k{n}"), n.to_string()).unwrap();
    }
    let events = engines[0].events();
    engines.push(start(node("n2").replicas(2).seeds([address(&engines[0])])));
    wait_event(&events, "placed anew", |event| {
        matches!(event, Event::PlacementChanged { members: 3 }).then_some(())
    });
    wait_event(&events, "it holds everything", |event| (*event == Event::Synced).then_some(()));
    assert_eq!(engines[0].stats().unwrap().pending_partitions, 0);
    wait_settled(&engines);
    assert!(!keys(&engines[2], "k").is_empty(), "it has its share");
}

#[test]
fn a_whole_zone_may_die_at_once() {
    let mut engines: Vec<Engine> = Vec::new();
    for (id, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")] {
        let seeds: Vec<String> = engines.first().map(address).into_iter().collect();
        engines.push(start(node(id).zone(zone).weight(50).replicas(2).seeds(seeds)));
    }
    wait_settled(&engines);
    for n in 0..200 {
        engines[n % 4].set(format!("k{n}"), n.to_string()).unwrap();
    }
    let zones: Vec<Option<String>> =
        engines[0].members().into_iter().map(|member| member.zone).collect();
    assert_eq!(zones, ["a", "a", "b", "b"].map(|zone| Some(zone.to_owned())));
    // Each of the two that are left looks only for the copies of the other.
    engines.drain(2..).for_each(|engine| engine.abort());
    for n in 0..200 {
        assert_eq!(engines[n % 2].get(format!("k{n}")).unwrap(), Some(n.to_string().into_bytes()));
    }
    wait_settled(&engines);
}

#[test]
fn whoever_leaves_takes_nothing_along() {
    let engines = cluster(3, |config| config.replicas(2));
    for n in 0..200 {
        engines[n % 3].set(format!("k{n}"), n.to_string()).unwrap();
    }
    engines[2].leave(LATE).unwrap();
    let left = &engines[..2];
    wait_settled(left);
    for engine in left {
        assert_eq!(keys(engine, "k").len(), 200, "with two nodes and two copies each holds all");
        for n in 0..200 {
            assert_eq!(engine.get(format!("k{n}")).unwrap(), Some(n.to_string().into_bytes()));
        }
    }
    left[0].leave(LATE).unwrap();
    left[1].leave(LATE).unwrap();
}

#[test]
fn leaving_without_time_is_dying() {
    let engines = cluster(3, |config| config.replicas(2));
    for n in 0..100 {
        engines[n % 3].set(format!("k{n}"), "v").unwrap();
    }
    let error = engines[2].leave(Duration::ZERO).unwrap_err();
    assert!(matches!(error, LeaveError::TimedOut { .. }), "{error:?}");
    assert_shut_down(&engines[2]);
    wait_settled(&engines[..2]);
    for engine in &engines[..2] {
        assert_eq!(keys(engine, "k").len(), 100);
    }
}

#[test]
fn after_a_death_the_copies_are_restored() {
    let mut engines = cluster(3, |config| config.replicas(2).cores(2));
    for n in 0..500 {
        engines[n % 3].set(format!("k{n}"), n.to_string()).unwrap();
    }
    engines.pop().unwrap().abort();
    wait_settled(&engines);
    for engine in &engines {
        assert_eq!(keys(engine, "k").len(), 500, "each of two nodes holds one of two copies");
    }
    engines.push(start(node("n3").seeds([address(&engines[1])]).replicas(2)));
    wait_settled(&engines);
    let copies: usize = engines.iter().map(|engine| keys(engine, "k").len()).sum();
    assert_eq!(copies, 1000);
    for n in 0..500 {
        assert_eq!(engines[2].get(format!("k{n}")).unwrap(), Some(n.to_string().into_bytes()));
    }
}

#[test]
fn what_only_the_dead_had_is_reported_lost() {
    let engines = cluster(2, |config| config.replicas(1));
    for n in 0..50 {
        engines[0].set(format!("k{n}"), "v").unwrap();
    }
    let events = engines[0].events();
    let held = keys(&engines[0], "k").len();
    engines[1].abort();
    let lost = wait_event(&events, "data lost", |event| match event {
        Event::DataAtRisk { partitions } => Some(*partitions),
        _ => None,
    });
    assert!(lost > 0);
    wait_settled(&engines[..1]);
    let found = (0..50).filter(|n| engines[0].contains(format!("k{n}")).unwrap()).count();
    assert_eq!(found, held);
}

#[test]
fn a_node_that_does_not_fit_is_refused_on_both_sides() {
    let engines = cluster(2, |config| config.cluster("shop"));
    let seeds = [address(&engines[0])];
    let there = engines[0].events();
    const SAME: &str = "replicas, write_quorum and read_quorum must be the same";
    for (stranger, text) in [
        (node("x").cluster("stock"), "of cluster \"stock\""),
        (node("x").cluster("shop").replicas(2), SAME),
        (node("x").cluster("shop").write_quorum(3), SAME),
        (node("x").cluster("shop").read_quorum(2), SAME),
        (node("n0").cluster("shop"), "the node id \"n0\" is in use"),
    ] {
        let stranger = start(stranger.seeds(&seeds));
        let refused = |event: &Event| match event {
            Event::Refused { reason, .. } if reason.contains(text) => Some(()),
            _ => None,
        };
        wait_event(&there, text, refused);
        wait_until("the one outside knows why", || {
            match stranger.wait_ready(Duration::from_millis(1)) {
                Err(error @ NotReady::TooFewMembers { hint: Some(_), .. }) => {
                    error.to_string().contains(text)
                }
                _ => false,
            }
        });
        assert_eq!(alive(&engines[0]), 2);
    }
    engines[0].set("k", "v").unwrap();
}

/// A closure that waits holds up its core, and with it the copies of that core. The control thread
/// went on answering probes, so the other nodes waited for a node that did not answer.
#[test]
fn a_node_with_a_core_that_is_stuck_is_dead_for_the_others_until_it_goes_on() {
    let engines = cluster(3, |config| config.replicas(3).cores(2));
    let [first, second, third] = &engines[..] else { panic!("three nodes") };
    let (mine, others) = (first.events(), second.events());
    let (release, held) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let stuck = scope.spawn(move || first.run_on("k", move |_| held.recv()));
        let core = wait_event(&mine, "stuck", |event| match event {
            Event::CoreStuck { core } => Some(*core),
            _ => None,
        });
        let is_first = |event: &Event| matches!(event, Event::Died { node } if *node == *"n0");
        wait_event(&others, "dead", |event| is_first(event).then_some(()));
        // Nothing waits for it any more.
        for n in 0..20 {
            third.set(format!("k{n}"), "during").unwrap();
        }
        drop(release);
        assert!(stuck.join().unwrap().is_ok_and(|ran| ran.is_err()));
        let after = wait_event(&mine, "it goes on", |event| match event {
            Event::CoreGoesOn { core: that, after } if *that == core => Some(*after),
            _ => None,
        });
        assert!(after >= Duration::from_secs(1), "{after:?}");
    });
    wait_settled(&engines);
    assert_eq!(text(first, "k7").as_deref(), Some("during"));
}
