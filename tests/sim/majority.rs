//! `OnPartition::Majority` and `Config::expect` under the simulator: where the network falls apart,
//! no more than one side acknowledges writes of a key, and no more than one cluster is born.

use std::time::Duration;

use gridkv::sim::{CallId, CallResult, ProtocolMutant, SimCluster, SimOptions};
use gridkv::{Event, NotApplied, OnPartition, ReadError, WriteError};

use crate::support::{MS, SECOND, Traced, WRITTEN, outcome, set, settle, started, wait};

/// Within this nodes that do not hear from each other take each other for dead.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);

/// Longer than any handoff takes, or waits before it tries again.
const LONG: Duration = Duration::from_secs(20);

fn options() -> SimOptions {
    let mut options = SimOptions::default();
    (options.partitions, options.cores) = (32, 1);
    options.on_partition = OnPartition::Majority;
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

/// The replicas of a key, in order.
fn holders(cluster: &SimCluster, key: &str) -> Vec<usize> {
    cluster.replicas(key).into_iter().map(|(node, _)| node).collect()
}

/// A write that did not happen: W = 2, and this many replicas are alive.
fn refused(alive: usize) -> CallResult {
    let why = NotApplied::NotEnoughReplicas { alive, needed: 2 };
    CallResult::Written(Err(WriteError::NotApplied(why)))
}

/// Two nodes are cut off from three. Of each key one side has two replicas or more, and goes on;
/// the other one refuses, and says that nothing happened.
#[test]
fn the_side_with_most_replicas_of_a_key_goes_on_and_the_other_one_refuses() {
    for seed in 0..5 {
        let options = options();
        let mut cluster = started(seed, 5, options.clone());
        let keys = keys(&options);
        for key in &keys {
            assert_eq!(set(&mut cluster, 0, key, "before"), WRITTEN);
        }
        cluster.run_for(SECOND);
        let before: Vec<Vec<usize>> = keys.iter().map(|key| holders(&cluster, key)).collect();
        let sides = [vec![0, 1], vec![2, 3, 4]];
        cluster.split(&sides[0], &sides[1]);
        cluster.run_for(LONG);
        let (mut left, mut refusals) = (0, 0);
        for (key, members) in keys.iter().zip(&before) {
            let has_most =
                |side: &[usize]| members.iter().filter(|it| side.contains(it)).count() > 1;
            let (go_on, wait) =
                if has_most(&sides[0]) { (&sides[0], &sides[1]) } else { (&sides[1], &sides[0]) };
            left += usize::from(has_most(&sides[0]));
            for &node in go_on {
                assert_eq!(set(&mut cluster, node, key, "during"), WRITTEN, "n{node}, {members:?}");
                assert_eq!(get(&mut cluster, node, key), found("during"));
            }
            for &node in wait {
                let begun = cluster.elapsed();
                if members.contains(&node) {
                    let written = set(&mut cluster, node, key, "refused");
                    assert_eq!(written, refused(1), "n{node}, {members:?}");
                    assert!(cluster.elapsed() < begun + 10 * MS, "it knows that at once");
                    assert_eq!(get(&mut cluster, node, key), found("before"), "R = 1");
                    refusals += 1;
                } else {
                    // What the replica on this side has, if there is one.
                    let read = get(&mut cluster, node, key);
                    let is_honest =
                        read == found("before") || matches!(read, CallResult::Read(Err(_)));
                    assert!(is_honest, "n{node}, {members:?}: {read:?}");
                }
            }
        }
        assert!((1..keys.len()).contains(&left) && refusals > 10, "{left} keys, {refusals}");
        cluster.mend();
        settle(&mut cluster);
        for key in &keys {
            for node in 0..5 {
                assert_eq!(get(&mut cluster, node, key), found("during"));
            }
            assert_eq!(set(&mut cluster, 1, key, "after"), WRITTEN);
        }
    }
}

/// A key that is missing on a replica that is cut off might be on the others.
#[test]
fn a_side_that_waits_does_not_say_that_a_key_is_missing() {
    let options = options();
    let mut cluster = started(7, 5, options.clone());
    cluster.split(&[0, 1], &[2, 3, 4]);
    cluster.run_for(LONG);
    let (mut missing, mut unconfirmed) = (0, 0);
    for key in &keys(&options) {
        for node in 0..5 {
            match get(&mut cluster, node, key) {
                CallResult::Read(Ok(None)) => {
                    assert_eq!(set(&mut cluster, node, key, "there is none"), WRITTEN);
                    missing += 1;
                }
                CallResult::Read(Err(ReadError::Unconfirmed { answered: 1, needed: 2 })) => {
                    unconfirmed += 1;
                }
                CallResult::Read(Err(_)) => {}
                other => assert_eq!(other, found("there is none"), "n{node}"),
            }
        }
    }
    assert!(missing == keys(&options).len() && unconfirmed > 10, "{missing}, {unconfirmed}");
}

/// N = 4 and W = 3: two and two.
#[test]
fn of_two_halves_neither_acknowledges() {
    let mut options = options();
    (options.replicas, options.write_quorum) = (4, 3);
    let mut cluster = started(1, 4, options.clone());
    cluster.split(&[0, 1], &[2, 3]);
    wait(&mut cluster, NOTICED_WITHIN, |cluster| cluster.deaths().len() >= 8);
    // A node that none has answered for a moment acts on the deaths once one does.
    cluster.run_for(SECOND);
    let why = NotApplied::NotEnoughReplicas { alive: 2, needed: 3 };
    let refused = CallResult::Written(Err(WriteError::NotApplied(why)));
    for _ in 0..20 {
        for node in 0..4 {
            assert_eq!(set(&mut cluster, node, options.key(1), "half"), refused);
        }
        cluster.run_for(500 * MS);
    }
    cluster.mend();
    settle(&mut cluster);
    for node in 0..4 {
        assert_eq!(set(&mut cluster, node, options.key(1), "whole"), WRITTEN);
    }
}

/// Three nodes, none of which reaches another: all take all for dead. They have their memory, and
/// are waited for.
#[test]
fn replicas_that_were_taken_for_dead_are_waited_for() {
    let options = options();
    let mut cluster = started(2, 3, options.clone());
    for key in &keys(&options) {
        assert_eq!(set(&mut cluster, 0, key, "before"), WRITTEN);
    }
    cluster.split(&[0], &[1, 2]);
    cluster.split(&[1], &[2]);
    cluster.run_for(LONG);
    for node in 0..3 {
        assert_eq!(set(&mut cluster, node, options.key(1), "alone"), refused(1));
    }
    cluster.mend();
    settle(&mut cluster);
    for key in &keys(&options) {
        assert_eq!(get(&mut cluster, 2, key), found("before"));
        assert_eq!(set(&mut cluster, 1, key, "after"), WRITTEN);
    }
}

/// Writers on both sides, all the time: of how many keys both sides acknowledged a write that began
/// after the split.
fn both_acknowledged(seed: u64, mutant: Option<ProtocolMutant>) -> usize {
    let mut options = options();
    options.mutant = mutant;
    let mut cluster = started(seed, 5, options.clone());
    let keys = keys(&options);
    cluster.split(&[0, 1], &[2, 3, 4]);
    let split_at = cluster.elapsed();
    let mut calls = Vec::new();
    while cluster.elapsed() < split_at + 12 * SECOND {
        for (number, key) in keys.iter().enumerate() {
            for (side, node) in [(0, number % 2), (1, 2 + number % 3)] {
                calls.push((number, side, cluster.set(node, key, "value")));
            }
        }
        cluster.run_for(100 * MS);
    }
    cluster.run_for(3 * SECOND);
    let mut acknowledged = vec![[false; 2]; keys.len()];
    for (key, side, call) in calls {
        let (_, outcome) = cluster.take_outcome(call).expect("no call is left without an answer");
        acknowledged[key][side] |= outcome == WRITTEN;
    }
    let by_none = acknowledged.iter().filter(|by| **by == [false; 2]).count();
    assert_eq!(by_none, 0, "one side of the two has W replicas of each key");
    acknowledged.iter().filter(|by| **by == [true; 2]).count()
}

#[test]
fn no_two_sides_acknowledge_writes_of_one_key() {
    for seed in 0..5 {
        assert_eq!(both_acknowledged(seed, None), 0);
    }
}

#[test]
fn a_side_that_goes_on_without_the_dead_is_noticed() {
    let mutant = Some(ProtocolMutant::DeadExcused);
    assert!((0..5).any(|seed| both_acknowledged(seed, mutant) > 0), "it was not noticed");
}

/// Whether a key is written again after all of its replicas have lost their memory.
fn goes_on_without_replicas(on_partition: OnPartition, mutant: Option<ProtocolMutant>) -> bool {
    let mut options = options();
    (options.on_partition, options.mutant) = (on_partition, mutant);
    let mut cluster = started(3, 5, options.clone());
    let key = options.key(1);
    assert_eq!(set(&mut cluster, 0, &key, "before"), WRITTEN);
    cluster.run_for(SECOND);
    let others: Vec<(String, Vec<usize>)> =
        keys(&options).into_iter().map(|key| (key.clone(), holders(&cluster, &key))).collect();
    let lost = holders(&cluster, &key);
    let other = (0..5).find(|node| !lost.contains(node)).expect("five nodes, three replicas");
    lost.iter().for_each(|node| cluster.crash_node(*node));
    cluster.run_for(LONG);
    lost.iter().for_each(|node| cluster.restart_node(*node));
    cluster.run_for(LONG);
    let outcomes: Vec<CallResult> =
        (0..5).map(|node| set(&mut cluster, node, &key, "after")).collect();
    let goes_on = outcomes.contains(&WRITTEN);
    // Keys of which two replicas are left are not concerned.
    let is_left = |node: &&usize| !lost.contains(node);
    for (key, _) in others.iter().filter(|(_, of)| of.iter().filter(is_left).count() > 1) {
        assert_eq!(set(&mut cluster, other, key, "another"), WRITTEN);
    }
    goes_on
}

/// No list is made out of nothing: it might be that the others have one.
#[test]
fn a_key_that_has_lost_its_replicas_waits_or_goes_on_as_the_app_chose() {
    assert!(goes_on_without_replicas(OnPartition::Serve, None));
    assert!(!goes_on_without_replicas(OnPartition::Majority, None));
    assert!(goes_on_without_replicas(OnPartition::Majority, Some(ProtocolMutant::DeadExcused)));
}

/// Two replicas of three are left, and more than half of the list.
#[test]
fn a_death_or_a_restart_is_made_up_for_as_ever() {
    let options = options();
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
    assert!(cluster.run_until(6 * SECOND, |cluster| restored(cluster) && cluster.is_settled()));
    for leaver in [0, 1] {
        cluster.leave(leaver);
        wait(&mut cluster, LONG, |cluster| !cluster.is_running(leaver));
    }
    settle(&mut cluster);
    for key in &keys(&options) {
        assert_eq!(get(&mut cluster, 3, key), found("value"));
    }
}

#[test]
fn strong_reads_are_refused_where_too_few_replicas_are() {
    let mut options = options();
    options.read_quorum = 2;
    let mut cluster = started(4, 5, options.clone());
    let keys = keys(&options);
    for key in &keys {
        assert_eq!(set(&mut cluster, 0, key, "value"), WRITTEN);
    }
    let before: Vec<Vec<usize>> = keys.iter().map(|key| holders(&cluster, key)).collect();
    cluster.split(&[0, 1], &[2, 3, 4]);
    cluster.run_for(LONG);
    let refused = ReadError::NotEnoughReplicas { alive: 1, needed: 2 };
    for (key, members) in keys.iter().zip(&before) {
        let here = members.iter().filter(|node| **node < 2).count();
        for &node in members {
            let waits = if node < 2 { here == 1 } else { here == 2 };
            let expected =
                if waits { CallResult::Read(Err(refused.clone())) } else { found("value") };
            assert_eq!(get(&mut cluster, node, key), expected, "n{node} of {members:?}");
        }
    }
}

/// It acknowledges nothing that came while it was stopped, and the others go on without it.
#[test]
fn a_node_that_was_stopped_acknowledges_nothing_from_before() {
    let options = options();
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

/// Three nodes are enough for three copies, and yet partitions wait of which the others have more.
#[test]
fn nothing_is_safe_while_partitions_wait() {
    let options = options();
    let mut cluster = started(3, 5, options.clone());
    for key in &keys(&options) {
        assert_eq!(set(&mut cluster, 0, key, "value"), WRITTEN);
    }
    cluster.run_for(SECOND);
    assert!(cluster.wait_until_safe(0, SECOND));
    cluster.split(&[0, 1], &[2, 3, 4]);
    cluster.run_for(LONG);
    for node in [0, 2] {
        assert!(!cluster.wait_until_safe(node, LONG), "n{node} does not know what the others have");
    }
    cluster.mend();
    for node in [0, 2] {
        assert!(cluster.wait_until_safe(node, LONG), "{}", cluster.describe());
    }
}

#[test]
fn a_cluster_is_born_when_a_majority_of_what_is_expected_is_there() {
    for on_partition in [OnPartition::Serve, OnPartition::Majority] {
        let mut options = options();
        (options.on_partition, options.expect) = (on_partition, 5);
        let mut cluster = Traced::new(1, options.clone());
        cluster.start_node();
        cluster.start_node();
        assert!(!cluster.run_until(LONG, SimCluster::is_settled), "two of five");
        let written = set(&mut cluster, 0, options.key(1), "value");
        assert!(matches!(written, CallResult::Written(Err(WriteError::NotApplied(_)))));
        cluster.start_node();
        settle(&mut cluster);
        assert_eq!(set(&mut cluster, 0, options.key(1), "value"), WRITTEN);
        // A joiner, and two nodes alone after that: the number is for the birth.
        let joined_at = cluster.elapsed();
        cluster.start_node();
        settle(&mut cluster);
        assert!(cluster.elapsed() < joined_at + 10 * SECOND);
        for leaver in [0, 1] {
            cluster.leave(leaver);
            wait(&mut cluster, LONG, |cluster| !cluster.is_running(leaver));
            settle(&mut cluster);
        }
        assert_eq!(set(&mut cluster, 2, options.key(1), "again"), WRITTEN);
    }
}

/// The network is in two when six nodes start for the first time. Returns on how many sides a write
/// is acknowledged.
fn born_sides(expect: u16, sides: [&[usize]; 2]) -> usize {
    let mut options = options();
    options.expect = expect;
    let mut cluster = Traced::new(4, options.clone());
    // The seeds of each node are those that were started before.
    for _ in 0..6 {
        cluster.start_node();
        cluster.split(sides[0], sides[1]);
    }
    cluster.run_for(LONG);
    let key = options.key(1);
    let born = sides.iter().filter(|side| set(&mut cluster, side[0], &key, "value") == WRITTEN);
    let born = born.count();
    cluster.mend();
    settle(&mut cluster);
    assert_eq!(set(&mut cluster, 0, &key, "value"), WRITTEN);
    born
}

#[test]
fn of_two_sides_at_the_first_start_only_one_is_born_if_a_number_is_expected() {
    assert_eq!(born_sides(0, [&[0, 1, 2], &[3, 4, 5]]), 2, "two clusters, which merge");
    assert_eq!(born_sides(6, [&[0, 1, 2], &[3, 4, 5]]), 0);
    assert_eq!(born_sides(6, [&[0, 1], &[2, 3, 4, 5]]), 1);
}

/// How often a node has said that data is at risk.
fn risks_told(cluster: &SimCluster, node: usize) -> usize {
    let is_it = |event: &&Event| matches!(event, Event::DataAtRisk { .. });
    cluster.events(node).iter().filter(is_it).count()
}

/// Two of three replicas die at the same time. The survivors know at once that acknowledged writes
/// might be lost, also where partitions wait, and each says so once. Processes that start
/// again where the dead were find partitions without a replica for a while; that is no event each.
#[test]
fn survivors_say_at_once_and_once_that_data_is_at_risk() {
    for (seed, on_partition) in [(0, OnPartition::Serve), (1, OnPartition::Majority)] {
        let mut options = options();
        options.on_partition = on_partition;
        let mut cluster = started(seed, 5, options);
        cluster.crash_node(0);
        cluster.crash_node(1);
        wait(&mut cluster, 10 * SECOND, |it| (2..5).all(|node| it.is_dead_for(node, &[0, 1])));
        // Less than a partition waits for before it goes on without a quorum.
        cluster.run_for(SECOND);
        for node in 2..5 {
            assert_eq!(risks_told(&cluster, node), 1, "seed {seed}, n{node}");
        }
        cluster.restart_node(0);
        cluster.restart_node(1);
        cluster.run_for(LONG);
        for node in 0..5 {
            assert!(risks_told(&cluster, node) <= 2, "seed {seed}: {:?}", cluster.events(node));
        }
    }
}

/// A network that fell apart and was mended is said to put data at risk. That must not hush up the
/// deaths that come after it.
#[test]
fn data_at_risk_is_said_again_after_it_was_not_at_risk_any_more() {
    let mut cluster = started(0, 3, options());
    cluster.split(&[2], &[0, 1]);
    wait(&mut cluster, 10 * SECOND, |it| it.is_dead_for(2, &[0, 1]));
    cluster.run_for(SECOND);
    assert_eq!(risks_told(&cluster, 2), 1);
    cluster.mend();
    settle(&mut cluster);
    cluster.run_for(LONG);
    cluster.crash_node(0);
    cluster.crash_node(1);
    wait(&mut cluster, 10 * SECOND, |it| it.is_dead_for(2, &[0, 1]));
    cluster.run_for(SECOND);
    assert_eq!(risks_told(&cluster, 2), 2);
}

/// Those that leave gave away what they had.
#[test]
fn leaves_put_nothing_at_risk() {
    let mut cluster = started(0, 5, options());
    cluster.leave(0);
    cluster.leave(1);
    wait(&mut cluster, LONG, |it| !it.is_running(0) && !it.is_running(1));
    cluster.run_for(LONG);
    for node in 2..5 {
        assert_eq!(risks_told(&cluster, node), 0, "{:?}", cluster.events(node));
    }
}
