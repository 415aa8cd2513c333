//! `Config::require_majority` under the simulator: where the network falls apart, no more than one
//! side acknowledges.

use std::time::Duration;

use gridkv::sim::{CallId, CallResult, ProtocolMutant, SimCluster, SimOptions};
use gridkv::{NotApplied, ReadError, WriteError};

use crate::support::{MS, SECOND, Traced, WRITTEN, outcome, set, settle, started};

/// How long a node counts itself as part of a majority that it does not hear from.
const LEASE: Duration = gridkv::sim::timing::LEASE;

fn options(majority_of: u16) -> SimOptions {
    let mut options = SimOptions::default();
    (options.partitions, options.cores, options.majority_of) = (32, 1, majority_of);
    options
}

fn get(cluster: &mut SimCluster, node: usize, key: &str) -> CallResult {
    let call = cluster.get(node, key);
    outcome(cluster, call)
}

fn found(value: &str) -> CallResult {
    CallResult::Read(Ok(Some(value.into())))
}

fn keys(options: &SimOptions) -> Vec<String> {
    (0..40).map(|number| options.key(number)).collect()
}

fn refused(nodes: usize) -> CallResult {
    CallResult::Written(Err(WriteError::NotApplied(NotApplied::NoMajority { nodes })))
}

#[test]
fn a_minority_refuses_writes_and_the_majority_goes_on() {
    for seed in 0..5 {
        let options = options(5);
        let mut cluster = started(seed, 5, options.clone());
        for key in &keys(&options) {
            assert_eq!(set(&mut cluster, 0, key, "before"), WRITTEN);
        }
        cluster.split(&[0, 1], &[2, 3, 4]);
        cluster.run_for(LEASE + 100 * MS);
        for key in &keys(&options) {
            for node in [0, 1] {
                assert_eq!(set(&mut cluster, node, key, "minority"), refused(5));
            }
        }
        // Found dead within a second, and certain not to count a lease and a half after that.
        cluster.run_for(3 * SECOND);
        for key in &keys(&options) {
            assert_eq!(set(&mut cluster, 3, key, "majority"), WRITTEN, "{}", cluster.describe());
        }
        // What the others have, or nothing at all, is what is read on the small side.
        for key in &keys(&options) {
            if cluster.replicas(key).iter().any(|(node, _)| *node == 0) {
                assert_eq!(get(&mut cluster, 0, key), found("before"));
            }
        }
        cluster.mend();
        settle(&mut cluster);
        for key in &keys(&options) {
            for node in 0..5 {
                assert_eq!(get(&mut cluster, node, key), found("majority"));
            }
            assert_eq!(set(&mut cluster, 1, key, "after"), WRITTEN);
        }
    }
}

#[test]
fn of_two_halves_neither_acknowledges() {
    let options = options(4);
    let mut cluster = started(1, 4, options.clone());
    cluster.split(&[0, 1], &[2, 3]);
    cluster.run_for(LEASE + 100 * MS);
    for _ in 0..20 {
        for node in 0..4 {
            assert_eq!(set(&mut cluster, node, options.key(1), "half"), refused(4));
        }
        cluster.run_for(500 * MS);
    }
    cluster.mend();
    settle(&mut cluster);
    for node in 0..4 {
        assert_eq!(set(&mut cluster, node, options.key(1), "whole"), WRITTEN);
    }
}

/// Writers on both sides, all the time: of how many keys the minority acknowledged a write after
/// the majority did.
fn both_acknowledged(seed: u64, mutant: Option<ProtocolMutant>) -> usize {
    let mut options = options(5);
    options.mutant = mutant;
    let mut cluster = started(seed, 5, options.clone());
    let keys = keys(&options);
    cluster.split(&[0, 1], &[2, 3, 4]);
    let split_at = cluster.elapsed();
    let mut calls = Vec::new();
    while cluster.elapsed() < split_at + 12 * SECOND {
        for (number, key) in keys.iter().enumerate() {
            for (is_majority, node) in [(false, number % 2), (true, 2 + number % 3)] {
                calls.push((number, is_majority, cluster.set(node, key, "value")));
            }
        }
        cluster.run_for(100 * MS);
    }
    cluster.run_for(3 * SECOND);
    // Of each key, when the first of the majority was acknowledged, and the last of the minority.
    let mut first = vec![None; keys.len()];
    let mut last = vec![None; keys.len()];
    for (key, is_majority, call) in calls {
        let (at, outcome) = cluster.take_outcome(call).expect("no call is left without an answer");
        if outcome == WRITTEN && is_majority {
            first[key].get_or_insert(at);
        } else if outcome == WRITTEN {
            last[key] = last[key].max(Some(at));
        }
    }
    assert!(first.iter().all(Option::is_some), "the majority acknowledges writes of every key");
    first.iter().zip(&last).filter(|(first, last)| last > first).count()
}

#[test]
fn the_majority_replaces_lists_when_nobody_else_counts_in_them_any_more() {
    for seed in 0..5 {
        assert_eq!(both_acknowledged(seed, None), 0);
    }
}

#[test]
fn a_lease_that_is_ignored_is_noticed_and_so_is_a_list_that_is_replaced_too_early() {
    for mutant in [ProtocolMutant::LeaseIgnored, ProtocolMutant::FollowedAtOnce] {
        let noticed = (0..5).any(|seed| both_acknowledged(seed, Some(mutant)) > 0);
        assert!(noticed, "{mutant:?} was not noticed");
    }
}

#[test]
fn a_cluster_is_born_when_a_majority_is_there() {
    let mut cluster = Traced::new(1, options(5));
    cluster.start_node();
    cluster.start_node();
    assert!(!cluster.run_until(20 * SECOND, SimCluster::is_settled), "two of five");
    assert_eq!(set(&mut cluster, 0, options(5).key(1), "value"), refused(5));
    cluster.start_node();
    settle(&mut cluster);
    assert_eq!(set(&mut cluster, 0, options(5).key(1), "value"), WRITTEN);
    // A joiner.
    let joined_at = cluster.elapsed();
    cluster.start_node();
    settle(&mut cluster);
    assert!(cluster.elapsed() < joined_at + 10 * SECOND);
}

/// Two replicas of three acknowledge until then. The third copy takes the death's certainty; a
/// restart is certain.
#[test]
fn writes_go_on_while_a_death_is_waited_for() {
    let options = options(5);
    let mut cluster = started(3, 5, options.clone());
    let restored =
        |cluster: &SimCluster| keys(&options).iter().all(|key| cluster.replicas(key).len() == 3);
    cluster.crash_node(2);
    for key in &keys(&options) {
        assert_eq!(set(&mut cluster, 0, key, "value"), WRITTEN);
    }
    assert!(cluster.run_until(6 * SECOND, restored), "{}", cluster.describe());
    cluster.restart_node(2);
    settle(&mut cluster);
    cluster.crash_node(4);
    cluster.run_for(20 * MS);
    cluster.restart_node(4);
    // As a joiner it waits itself.
    assert!(cluster.run_until(6 * SECOND, |cluster| restored(cluster) && cluster.is_settled()));
}

#[test]
fn strong_reads_are_refused_without_a_majority() {
    let mut options = options(5);
    options.read_quorum = 2;
    let mut cluster = started(4, 5, options.clone());
    let key = options.key(1);
    assert_eq!(set(&mut cluster, 0, &key, "value"), WRITTEN);
    cluster.split(&[0, 1], &[2, 3, 4]);
    cluster.run_for(LEASE + 100 * MS);
    assert_eq!(
        get(&mut cluster, 0, &key),
        CallResult::Read(Err(ReadError::NoMajority { nodes: 5 }))
    );
}

/// It is stopped for longer than a lease: when it goes on it holds none, and it acknowledges
/// nothing that came while it was stopped.
#[test]
fn a_node_that_was_stopped_acknowledges_nothing_before_it_hears_from_a_majority() {
    let options = options(5);
    let mut cluster = started(5, 5, options.clone());
    cluster.pause_node(1, 10 * SECOND);
    let calls: Vec<CallId> =
        keys(&options).iter().map(|key| cluster.set(1, key, "stopped")).collect();
    cluster.run_for(9 * SECOND);
    for key in &keys(&options) {
        assert_eq!(set(&mut cluster, 0, key, "meanwhile"), WRITTEN);
    }
    cluster.run_for(2 * SECOND);
    for call in calls {
        assert_ne!(outcome(&mut cluster, call), WRITTEN);
    }
    settle(&mut cluster);
    for key in &keys(&options) {
        assert_eq!(get(&mut cluster, 1, key), found("meanwhile"));
    }
}

/// Found by review: where the only node that required a majority was gone, the others kept the last
/// lease that they had while it was there, and refused writes for ever.
#[test]
fn nobody_requires_a_majority_any_more_when_who_did_has_left_or_changed_its_mind() {
    for leaves in [true, false] {
        let options = options(0);
        let mut cluster = started(2, 3, options.clone());
        cluster.require_majority(4);
        let canary = cluster.start_node();
        settle(&mut cluster);
        // While it may only be out of reach, what it asked for holds.
        if leaves {
            cluster.leave(canary);
            assert!(cluster.run_until(30 * SECOND, |cluster| !cluster.is_running(canary)));
        } else {
            cluster.crash_node(canary);
            cluster.run_for(10 * SECOND);
            cluster.crash_node(2);
            cluster.run_for(5 * SECOND);
            assert_eq!(set(&mut cluster, 0, options.key(0), "two of four"), refused(4));
            cluster.require_majority(0);
            cluster.restart_node(canary);
            cluster.restart_node(2);
        }
        settle(&mut cluster);
        cluster.run_for(2 * LEASE);
        for key in &keys(&options) {
            assert_eq!(set(&mut cluster, 0, key, "value"), WRITTEN, "leaves: {leaves}");
        }
        let gone = if leaves { 2 } else { canary };
        cluster.crash_node(gone);
        cluster.run_for(2 * LEASE);
        for key in &keys(&options) {
            assert_eq!(set(&mut cluster, 0, key, "another"), WRITTEN, "leaves: {leaves}");
        }
    }
}

/// Found by review: cores go by a death only when a majority has agreed on it for a while. Until
/// then they miss no copies, and a cluster without writes was called safe.
#[test]
fn nothing_is_safe_while_a_death_has_not_been_acted_upon() {
    let options = options(5);
    let mut cluster = started(3, 5, options.clone());
    for key in &keys(&options) {
        assert_eq!(set(&mut cluster, 0, key, "value"), WRITTEN);
    }
    cluster.run_for(SECOND);
    assert!(cluster.wait_until_safe(0, SECOND));
    cluster.crash_node(4);
    assert!(cluster.run_until(5 * SECOND, |cluster| cluster.is_gone(4)));
    assert!(!cluster.wait_until_safe(0, SECOND), "copies are missing");
    assert!(cluster.wait_until_safe(0, 10 * SECOND));
    for key in &keys(&options) {
        assert_eq!(cluster.copies(key).len(), 3);
    }
    cluster.split(&[0, 1], &[2, 3]);
    cluster.run_for(LEASE);
    assert!(!cluster.wait_until_safe(0, 10 * SECOND), "they do not know what the others have");
}
