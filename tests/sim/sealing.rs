//! Sealed datagrams: keys that change while the cluster runs, nodes with another key or with none,
//! and recordings that are sent again.

use gridkv::Event;
use gridkv::sim::{EnvelopeCounters, ProtocolMutant, SimCluster, SimOptions};

use crate::support::{MS, SECOND, Traced, settle, started, wait, write};

fn options(mutant: Option<ProtocolMutant>) -> SimOptions {
    let mut options = SimOptions::default();
    (options.partitions, options.is_sealed, options.mutant) = (64, true, mutant);
    options
}

fn all_counters(cluster: &mut SimCluster, nodes: usize) -> Vec<EnvelopeCounters> {
    (0..nodes).map(|node| cluster.opened_datagrams(node)).collect()
}

/// Each of the three steps is taken by one node after the other. In the second one datagrams
/// between some nodes get lost.
#[test]
fn the_cluster_key_is_changed_without_a_death() {
    for seed in 0..10 {
        let mut cluster = started(seed, 5, options(None));
        cluster.set_loss(10, 0);
        cluster.set_duplication(50);
        for (sealing, accepted) in [(0, &[1][..]), (1, &[0]), (1, &[])] {
            for node in 0..5 {
                cluster.give_keys(node, sealing, accepted);
                if (sealing, node) == (1, 2) && !accepted.is_empty() {
                    for (from, to) in [(0, 3), (3, 0), (4, 1)] {
                        cluster.lose_datagrams(from, to);
                    }
                }
                cluster.run_for(400 * MS);
                write(&mut cluster, node, options(None).key(node), "v");
            }
            cluster.mend();
            cluster.set_loss(10, 0);
        }
        cluster.run_for(5 * SECOND);
        assert!(cluster.deaths().is_empty(), "seed {seed}: {:?}", cluster.deaths());
        for counters in all_counters(&mut cluster, 5) {
            let refused =
                (counters.wrong_kind, counters.wrong_key, counters.forged, counters.malformed);
            assert_eq!(refused, (0, 0, 0, 0), "seed {seed}");
            assert!(counters.opened > 0 && counters.replayed > 0, "seed {seed}: {counters:?}");
        }
    }
}

/// One node after the other leaves and starts again with other keys, or without. No other one is
/// taken for dead.
fn restart_with(cluster: &mut Traced, change: impl Fn(&mut Traced, usize)) {
    for node in 0..5 {
        let before = cluster.deaths().len();
        change(cluster, node);
        cluster.leave(node);
        wait(cluster, SECOND * 30, |cluster| !cluster.is_running(node));
        cluster.restart_node(node);
        settle(cluster);
        write(cluster, node, options(None).key(node), "v");
        let deaths = &cluster.deaths()[before..];
        assert!(deaths.iter().all(|death| death.of == node), "n{node}: {deaths:?}");
    }
}

/// Gives one running node after the other an optional key, or requires it. No node is taken for
/// dead.
fn change_while_all_run(cluster: &mut Traced, is_optional: bool) {
    let before = cluster.deaths().len();
    for node in 0..5 {
        match is_optional {
            true => cluster.give_optional_key(node, 0),
            false => cluster.give_keys(node, 0, &[]),
        }
        cluster.run_for(400 * MS);
        write(cluster, node, options(None).key(node), "w");
    }
    cluster.run_for(3 * SECOND);
    let deaths = &cluster.deaths()[before..];
    assert!(deaths.is_empty(), "optional: {is_optional}, {deaths:?}");
}

/// A hundredth of all datagrams is lost.
#[test]
fn security_is_turned_on_and_off_step_by_step() {
    for seed in 0..3 {
        let mut options = options(None);
        options.is_sealed = false;
        let mut cluster = started(seed, 5, options);
        cluster.set_loss(10, 0);
        cluster.set_duplication(50);
        restart_with(&mut cluster, |cluster, node| cluster.give_optional_key(node, 0));
        for is_optional in [false, true, false, true] {
            change_while_all_run(&mut cluster, is_optional);
        }
        for counters in all_counters(&mut cluster, 5) {
            let refused =
                (counters.wrong_kind, counters.wrong_key, counters.forged, counters.malformed);
            assert_eq!(refused, (0, 0, 0, 0), "seed {seed}");
            assert!(counters.opened > 0 && counters.replayed > 0, "seed {seed}: {counters:?}");
        }
        restart_with(&mut cluster, |cluster, node| cluster.take_keys(node));
    }
}

#[test]
fn a_node_without_security_is_let_in_while_it_is_optional() {
    let mut cluster = started(3, 3, options(None));
    for node in 0..3 {
        cluster.give_optional_key(node, 0);
    }
    let guest = cluster.start_node();
    cluster.crash_node(guest);
    cluster.take_keys(guest);
    cluster.restart_node(guest);
    settle(&mut cluster);
    write(&mut cluster, guest, options(None).key(0), "v");
    (0..3).for_each(|node| cluster.give_keys(node, 0, &[]));
    cluster.run_for(10 * SECOND);
    assert!((0..3).all(|node| !cluster.sees_only(node, guest)), "it is out again");
}

/// Returns how many datagrams the others did not open of a node that kept the old key.
fn refused_of_the_one_left_behind(seed: u64, mutant: Option<ProtocolMutant>) -> u64 {
    let mut cluster = started(seed, 4, options(mutant));
    for (sealing, accepted) in [(0, &[1][..]), (1, &[0]), (1, &[])] {
        (0..3).for_each(|node| cluster.give_keys(node, sealing, accepted));
        cluster.run_for(300 * MS);
    }
    cluster.run_for(3 * SECOND);
    assert!((0..3).all(|node| !cluster.sees_only(node, 3)), "seed {seed}");
    all_counters(&mut cluster, 3).iter().map(|counters| counters.wrong_key).sum()
}

#[test]
fn a_node_that_keeps_an_old_key_is_no_member_any_more() {
    for seed in 0..5 {
        assert!(refused_of_the_one_left_behind(seed, None) > 0);
        let mutant = Some(ProtocolMutant::RemovedKeysOpened);
        assert_eq!(refused_of_the_one_left_behind(seed, mutant), 0, "that is what is looked for");
    }
}

/// A node with another key, or with none, reaches the others over connections, which are not
/// secured in the simulator. It is not let in all the same, and is told that it is not reached.
#[test]
fn a_node_without_the_key_does_not_come_in() {
    for has_key in [true, false] {
        let mut cluster = started(7, 3, options(None));
        let guest = cluster.start_node();
        if has_key {
            cluster.give_keys(guest, 9, &[]);
        } else {
            cluster.crash_node(guest);
            cluster.take_keys(guest);
            cluster.restart_node(guest);
        }
        for _ in 0..20 {
            cluster.run_for(SECOND);
            assert!((0..3).all(|node| !cluster.sees_only(node, guest)));
        }
        assert!(cluster.deaths().is_empty(), "{:?}", cluster.deaths());
        let events = cluster.events(guest);
        assert!(events.iter().any(|it| matches!(it, Event::Unreachable { .. })), "{events:?}");
        // Who tries to reach it pings it.
        let counters = cluster.opened_datagrams(guest);
        let refused = if has_key { counters.wrong_key } else { counters.wrong_kind };
        assert!(refused > 0 && counters.opened == 0, "{counters:?}");
    }
}

/// A cluster with ten seconds of recorded datagrams, in which one node is started again.
fn recorded(seed: u64, mutant: Option<ProtocolMutant>) -> Traced {
    let mut cluster = started(seed, 3, options(mutant));
    cluster.record_datagrams();
    cluster.run_for(3 * SECOND);
    cluster.crash_node(2);
    cluster.run_for(3 * SECOND);
    cluster.restart_node(2);
    settle(&mut cluster);
    cluster.run_for(4 * SECOND);
    cluster
}

/// Whether two nodes refuse all that they are sent a second time, and that was sent to another one.
fn refuses_replays(seed: u64, mutant: Option<ProtocolMutant>) -> bool {
    let mut cluster = recorded(seed, mutant);
    let (before, deaths) = (all_counters(&mut cluster, 2), cluster.deaths().len());
    let sent = cluster.replay_datagrams(1);
    cluster.run_for(SECOND);
    let after = all_counters(&mut cluster, 2);
    let refused: Vec<u64> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after.replayed - before.replayed + after.forged - before.forged)
        .collect();
    assert!(sent[&0] > 50 && sent[&1] > sent[&0], "{sent:?}");
    settle(&mut cluster);
    let is_unharmed = cluster.deaths().len() == deaths;
    refused == [sent[&0], sent[&1]] && is_unharmed
}

#[test]
fn recorded_datagrams_are_opened_once_and_where_they_were_sent() {
    for seed in 0..5 {
        assert!(refuses_replays(seed, None), "seed {seed}");
        let mutant = Some(ProtocolMutant::ReplaysOpened);
        assert!(!refuses_replays(seed, mutant), "seed {seed}: the simulation shows nothing");
    }
}

/// Whether a node dies because datagrams with a broken seal arrive.
fn dies_of_forgeries(seed: u64, mutant: Option<ProtocolMutant>) -> bool {
    let mut cluster = recorded(seed, mutant);
    let (before, deaths) = (all_counters(&mut cluster, 2), cluster.deaths().len());
    cluster.forge_datagrams();
    cluster.run_for(5 * SECOND);
    for (before, after) in before.iter().zip(all_counters(&mut cluster, 2)) {
        assert!(after.forged > before.forged + 50, "seed {seed}");
    }
    cluster.deaths().len() > deaths
}

#[test]
fn forged_datagrams_shut_no_sender_out() {
    for seed in 0..5 {
        assert!(!dies_of_forgeries(seed, None), "seed {seed}");
        let mutant = Some(ProtocolMutant::WindowMovedFirst);
        assert!(dies_of_forgeries(seed, mutant), "seed {seed}: the simulation shows nothing");
    }
}

/// Whether a node whose key is denied is out for those that deny it, for as long as they do.
fn is_out_while_denied(seed: u64, mutant: Option<ProtocolMutant>) -> bool {
    let mut cluster = started(seed, 4, options(mutant));
    cluster.set_loss(10, 0);
    let key = options(None).key(0);
    write(&mut cluster, 3, key.clone(), "v");
    // The third node has not denied it yet, and tells the others that it lives.
    [0, 1].iter().for_each(|node| cluster.deny(*node, 3));
    let mut was_out = true;
    for _ in 0..100 {
        cluster.run_for(200 * MS);
        was_out &= [0, 1].iter().all(|node| cluster.is_dead_for(*node, &[3]));
        was_out &= cluster.sees_only(2, 0) && cluster.sees_only(2, 1);
    }
    // It has not come in again, to die once more.
    let by_these = cluster.deaths().iter().filter(|death| death.of == 3 && death.by < 2).count();
    cluster.deny(2, 3);
    cluster.run_for(10 * SECOND);
    was_out &= cluster.is_gone(3);
    write(&mut cluster, 0, key, "w");
    was_out && by_these == 2
}

#[test]
fn a_node_whose_key_is_denied_is_no_member_until_it_is_allowed_again() {
    for seed in 0..3 {
        assert!(is_out_while_denied(seed, None), "seed {seed}");
        let mutant = Some(ProtocolMutant::DeniedHeard);
        assert!(!is_out_while_denied(seed, mutant), "seed {seed}: the simulation shows nothing");
    }
    let mut cluster = started(9, 4, options(None));
    (0..3).for_each(|node| cluster.deny(node, 3));
    wait(&mut cluster, 10 * SECOND, |cluster| cluster.is_gone(3));
    write(&mut cluster, 1, options(None).key(1), "v");
    (0..3).for_each(|node| cluster.give_keys(node, 0, &[]));
    settle(&mut cluster);
    write(&mut cluster, 3, options(None).key(1), "w");
}
