//! Changes of lists under the simulator: who counts, and what becomes of data when two lists meet.

use std::ops::Range;
use std::time::Duration;

use gridkv::sim::{CallId, CallResult, ProtocolMutant, SimCluster, SimOptions};

use crate::support::{
    MS, SECOND, STARTED_WITHIN, Traced, WRITTEN, outcome, settle, started, wait, write,
};

fn write_all(cluster: &mut SimCluster, node: usize, keys: Range<usize>, value: &str) {
    keys.for_each(|key| write(cluster, node, format!("key-{key}"), value));
}

fn assert_read(cluster: &mut SimCluster, nodes: &[usize], keys: Range<usize>, values: &[&str]) {
    for &node in nodes {
        for key in keys.clone() {
            let call = cluster.get(node, format!("key-{key}"));
            match outcome(cluster, call) {
                CallResult::Read(Ok(Some(value)))
                    if values.iter().any(|v| v.as_bytes() == value) => {}
                other => panic!("key {key} through {node}: {other:?}"),
            }
        }
    }
}

/// A node that is cut off from both others declares them dead, and they it. Back again, it holds up
/// no other node: what the others serve they go on serving.
#[test]
fn a_node_that_was_cut_off_does_not_disturb_the_majority() {
    for seed in 0..5 {
        let mut cluster = started(seed, 3, SimOptions::default());
        write_all(&mut cluster, 0, 0..40, "before");
        cluster.split(&[2], &[0, 1]);
        assert!(cluster.run_until(10 * SECOND, |cluster| cluster.is_gone(2)));
        write_all(&mut cluster, 0, 20..60, "during");
        let call = cluster.set(2, "key-x", "alone");
        assert!(matches!(outcome(&mut cluster, call), CallResult::Written(Err(_))), "W = 2");
        cluster.run_for(5 * SECOND);
        cluster.mend();
        let mut longest = Duration::ZERO;
        for round in 0..200 {
            let node = round % 2;
            let call = cluster.set(node, format!("key-{}", 60 + round), "after");
            let asked = cluster.elapsed();
            while cluster.outcome(call).is_none() {
                cluster.run_for(Duration::from_millis(1));
            }
            assert_eq!(cluster.outcome(call), Some(&WRITTEN));
            longest = longest.max(cluster.elapsed() - asked);
            assert_read(&mut cluster, &[node], round % 20..round % 20 + 1, &["before"]);
            assert_read(&mut cluster, &[node], 20 + round % 40..21 + round % 40, &["during"]);
        }
        assert!(longest < Duration::from_millis(100), "seed {seed}: a write took {longest:?}");
        settle(&mut cluster);
        assert_read(&mut cluster, &[0, 1, 2], 0..20, &["before"]);
        assert_read(&mut cluster, &[0, 1, 2], 20..60, &["during"]);
        assert_read(&mut cluster, &[0, 1, 2], 60..260, &["after"]);
    }
}

/// Both sides of a network partition serve, and everything is there when it is over.
#[test]
fn both_sides_of_a_split_serve_and_merge() {
    for seed in 0..5 {
        let nodes = 4 + seed as usize % 3;
        let mut cluster = started(seed, nodes, SimOptions::default());
        write_all(&mut cluster, 0, 0..60, "before");
        let others: Vec<usize> = (0..nodes).filter(|node| ![2, 3].contains(node)).collect();
        cluster.split(&[2, 3], &others);
        cluster.run_for(10 * SECOND);
        write_all(&mut cluster, 0, 20..40, "left");
        write_all(&mut cluster, 2, 40..60, "right");
        write_all(&mut cluster, 1, 100..140, "left");
        write_all(&mut cluster, 3, 200..240, "right");
        cluster.run_for(SECOND);
        cluster.mend();
        cluster.run_for(3 * SECOND);
        settle(&mut cluster);
        let all: Vec<usize> = (0..nodes).collect();
        assert_read(&mut cluster, &all, 0..20, &["before"]);
        assert_read(&mut cluster, &all, 20..40, &["left"]);
        assert_read(&mut cluster, &all, 40..60, &["right"]);
        assert_read(&mut cluster, &all, 100..140, &["left"]);
        assert_read(&mut cluster, &all, 200..240, &["right"]);
        for key in (0..60).chain(100..140).chain(200..240) {
            assert_eq!(cluster.copies(format!("key-{key}")).len(), 3, "seed {seed}: key {key}");
        }
    }
}

/// Two clusters that were born apart, as their nodes did not see each other, become one.
#[test]
fn clusters_that_were_born_apart_merge() {
    for seed in 0..5 {
        let mut cluster = Traced::new(seed, SimOptions::default());
        cluster.split(&[0, 1], &[2, 3, 4]);
        for _ in 0..5 {
            cluster.start_node();
        }
        cluster.run_for(10 * SECOND);
        write_all(&mut cluster, 0, 0..40, "left");
        write_all(&mut cluster, 3, 40..80, "right");
        cluster.mend();
        cluster.run_for(3 * SECOND);
        settle(&mut cluster);
        for node in 0..5 {
            assert_read(&mut cluster, &[node], 0..40, &["left"]);
            assert_read(&mut cluster, &[node], 40..80, &["right"]);
        }
    }
}

/// A node was cut off while its partitions went to others, and were written there. Back again: how
/// often it counted as synced in the latest list while it lacked what was written.
fn counts_too_early(seed: u64) -> usize {
    let mut options = SimOptions::default();
    options.partitions = 64;
    let names: Vec<String> = (0..100).map(|key| options.key(key)).collect();
    let mut cluster = started(seed, 5, options);
    let write_each = |cluster: &mut SimCluster, value: &str| {
        for name in &names {
            write(cluster, 0, name, value);
        }
    };
    write_each(&mut cluster, "before");
    cluster.split(&[4], &[0, 1, 2, 3]);
    assert!(cluster.run_until(10 * SECOND, |cluster| cluster.is_gone(4)));
    cluster.run_for(3 * SECOND);
    write_each(&mut cluster, "after");
    cluster.mend();
    let mut early = 0;
    for _ in 0..4000 {
        cluster.run_for(Duration::from_micros(500));
        for name in &names {
            let serving = cluster.replicas(name);
            let latest = serving.iter().map(|(_, number)| *number).max();
            let counts = serving.iter().any(|&(node, number)| node == 4 && Some(number) == latest);
            let stored = cluster.stored(name);
            let has_it = |value: &str| {
                stored.iter().any(|s| s.node == 4 && s.value.as_deref() == Some(value.as_bytes()))
            };
            early += usize::from(counts && !has_it("after"));
        }
    }
    settle(&mut cluster);
    early
}

#[test]
fn who_comes_back_counts_only_once_it_has_what_it_missed() {
    for seed in 0..3 {
        assert_eq!(counts_too_early(seed), 0);
    }
}

fn options() -> SimOptions {
    let mut options = SimOptions::default();
    options.partitions = 128;
    options
}

/// Found by review: a node restarted and died again while lists were being changed for it. One
/// replica had adopted the list with it, the other had not; the first waited for the other to drive
/// the next change, and that had nothing to do.
#[test]
fn a_joiner_that_dies_half_way_leaves_nothing_half_done() {
    for seed in 0..4 {
        for wait in (40..400).step_by(40) {
            let mut cluster = started(seed, 3, options());
            cluster.crash_node(2);
            cluster.run_for(5 * SECOND);
            settle(&mut cluster);
            cluster.restart_node(2);
            cluster.run_for(Duration::from_millis(wait));
            cluster.crash_node(2);
            cluster.run_for(5 * SECOND);
            settle(&mut cluster);
        }
    }
}

/// Half of the keys are deleted and half are overwritten while `late` does not hear of it.
/// Everybody reads that, through it too, once all can reach each other again.
fn assert_hears_of_it(mut cluster: Traced, names: &[String], late: usize) {
    for (key, name) in names.iter().enumerate() {
        let call = if key % 2 == 0 { cluster.delete(0, name) } else { cluster.set(0, name, "new") };
        assert_eq!(outcome(&mut cluster, call), WRITTEN);
    }
    cluster.run_for(45 * SECOND);
    cluster.mend();
    cluster.run_for(70 * SECOND);
    settle(&mut cluster);
    for (key, name) in names.iter().enumerate() {
        let expected = (key % 2 == 1).then(|| b"new".to_vec());
        let call = cluster.get(late, name);
        assert_eq!(outcome(&mut cluster, call), CallResult::Read(Ok(expected)), "key {key}");
    }
}

fn with_keys(seed: u64, nodes: usize, options: &SimOptions) -> (Traced, Vec<String>) {
    let names: Vec<String> = (0..60).map(|key| options.key(key)).collect();
    let mut cluster = started(seed, nodes, options.clone());
    for name in &names {
        write(&mut cluster, 0, name, "old");
    }
    cluster.run_for(5 * SECOND);
    (cluster, names)
}

/// Found by review: the cores of a node were cut off from all others, while gossip was not, through
/// two changes of its lists: a node came, and was killed as it left. In the end its lists had the
/// right members and an old number, and no node was left to tell it so: it served deleted keys for
/// ever.
#[test]
fn who_was_cut_off_through_two_changes_hears_of_the_last_list() {
    for both_ways in [true, false] {
        let (mut cluster, names) = with_keys(1, 3, &options());
        let joiner = cluster.start_node();
        for other in [0, 1, joiner] {
            cluster.cut(other, 2);
            if both_ways {
                cluster.cut(2, other);
            }
        }
        cluster.run_for(15 * SECOND);
        cluster.leave(joiner);
        cluster.run_for(15 * SECOND);
        if cluster.is_running(joiner) {
            cluster.crash_node(joiner);
        }
        cluster.run_for(5 * SECOND);
        assert_hears_of_it(cluster, &names, 2);
    }
}

/// With N = 5 and W = 3, the others make a list without asking it, as it is silent.
#[test]
fn who_was_done_without_hears_of_the_list() {
    let mut options = options();
    (options.replicas, options.write_quorum) = (5, 3);
    for both_ways in [true, false] {
        let (mut cluster, names) = with_keys(7, 5, &options);
        for other in 0..3 {
            cluster.cut(other, 3);
            if both_ways {
                cluster.cut(3, other);
            }
        }
        cluster.crash_node(4);
        cluster.run_for(20 * SECOND);
        assert_hears_of_it(cluster, &names, 3);
    }
}

/// One of three replicas misses all writes, and one of the two that have them dies. The replica
/// that comes in merges both that are left: when the other one dies as well, it has the writes.
/// Returns how many were lost.
fn lost_by_who_came_in(seed: u64, mutant: Option<ProtocolMutant>) -> usize {
    let mut options = options();
    options.mutant = mutant;
    let mut cluster = started(seed, 4, options.clone());
    for other in [0, 1] {
        cluster.cut(other, 2);
        cluster.cut(2, other);
    }
    let replicas = |cluster: &SimCluster, name: &String| -> Vec<usize> {
        cluster.replicas(name).into_iter().map(|(node, _)| node).collect()
    };
    let mut names: Vec<String> = (0..60).map(|key| options.key(key)).collect();
    names.retain(|name| replicas(&cluster, name) == [0, 1, 2]);
    assert!(names.len() >= 5, "seed {seed}: few keys are on 0, 1 and 2");
    for name in &names {
        write(&mut cluster, 0, name, "value");
    }
    cluster.crash_node(0);
    let is_in =
        |cluster: &SimCluster| names.iter().all(|name| replicas(cluster, name).contains(&3));
    assert!(cluster.run_until(30 * SECOND, is_in), "seed {seed}: {}", cluster.describe());
    cluster.crash_node(1);
    cluster.mend();
    assert!(cluster.run_until(10 * SECOND, |cluster| cluster.is_gone(1)));
    settle(&mut cluster);
    names.retain(|name| {
        let call = cluster.get(3, name);
        outcome(&mut cluster, call) != CallResult::Read(Ok(Some(b"value".to_vec())))
    });
    names.len()
}

#[test]
fn who_comes_in_merges_as_many_as_a_write_may_have_missed() {
    for seed in 0..10 {
        assert_eq!(lost_by_who_came_in(seed, None), 0, "seed {seed}");
    }
    assert_ne!(lost_by_who_came_in(0, Some(ProtocolMutant::OneSource)), 0, "the bug is found");
}

/// Found by review: a node acknowledged a write that one replica missed, then two more of the same
/// key failed, the earlier one first. With that the node forgot whom it had its own write from, and
/// read what was before it.
#[test]
fn a_node_reads_its_own_write_after_two_more_have_failed() {
    for seed in 0..3 {
        let (mut cluster, mut names) = with_keys(seed, 4, &options());
        names.retain(|name| {
            let replicas = cluster.replicas(name);
            replicas.iter().map(|(node, _)| *node).eq([0, 1, 2])
        });
        assert!(names.len() >= 5, "seed {seed}: few keys are on 0, 1 and 2");
        let submit = |cluster: &mut SimCluster, value: &str| -> Vec<CallId> {
            names.iter().map(|name| cluster.set(3, name, value)).collect()
        };
        let end = |cluster: &mut SimCluster, calls: Vec<CallId>| -> Vec<bool> {
            calls.into_iter().map(|call| outcome(cluster, call) == WRITTEN).collect()
        };
        cluster.cut(3, 2);
        let calls = submit(&mut cluster, "own");
        assert!(end(&mut cluster, calls).iter().all(|is_written| *is_written));
        cluster.cut(3, 0);
        cluster.cut(3, 1);
        // Until its connections have broken.
        cluster.run_for(Duration::from_millis(2));
        let earlier = submit(&mut cluster, "failed");
        cluster.run_for(Duration::from_millis(300));
        let later = submit(&mut cluster, "failed");
        assert!(end(&mut cluster, earlier).iter().all(|is_written| !is_written));
        assert!(end(&mut cluster, later).iter().all(|is_written| !is_written));
        cluster.mend();
        let reads: Vec<CallId> = names.iter().map(|name| cluster.get(3, name)).collect();
        for read in reads {
            let value = outcome(&mut cluster, read);
            assert_ne!(value, CallResult::Read(Ok(Some(b"old".to_vec()))), "seed {seed}");
        }
    }
}

/// How many changes there were of the list that changed most often, within `time` from now.
fn most_changes(cluster: &mut SimCluster, names: &[String], time: Duration) -> u64 {
    let number = |cluster: &SimCluster, name: &String| {
        cluster.replicas(name).into_iter().map(|(_, number)| number).max()
    };
    let mut seen: Vec<(Option<u64>, Option<u64>)> = vec![(None, None); names.len()];
    let until = cluster.elapsed() + time;
    while cluster.elapsed() < until {
        for (name, (first, last)) in names.iter().zip(&mut seen) {
            let now = number(cluster, name);
            *first = first.or(now);
            *last = now.max(*last);
        }
        cluster.run_for(Duration::from_millis(1));
    }
    let changes = seen.into_iter().map(|(first, last)| last.unwrap_or(0) - first.unwrap_or(0));
    changes.max().unwrap_or(0)
}

/// Starts nodes together, then one more, on a network that loses many datagrams, so that some nodes
/// hear of others late. Returns how often a list changed at most, on the way and in the end.
fn changes_while_nodes_start(
    seed: u64,
    nodes: usize,
    mutant: Option<ProtocolMutant>,
) -> (u64, u64) {
    let mut options = SimOptions::default();
    (options.partitions, options.cores, options.mutant) = (64, 1, mutant);
    options.datagrams_lost_per_mille = 300;
    let names: Vec<String> = (0..100).map(|key| options.key(key)).collect();
    let mut cluster = Traced::new(seed, options);
    for _ in 0..nodes {
        cluster.start_node();
    }
    let at_birth = most_changes(&mut cluster, &names, 2 * SECOND);
    wait(&mut cluster, STARTED_WITHIN, SimCluster::is_settled);
    cluster.start_node();
    let at_join = most_changes(&mut cluster, &names, 2 * SECOND);
    settle(&mut cluster);
    (at_birth, at_join)
}

/// A newcomer has heard of one member and not of another yet: it made a list without that one, and
/// again one with it. A member that had not heard of the newcomer made one without it. Each undid
/// what the other had done, within milliseconds, until both had heard of all.
#[test]
fn lists_do_not_flap_while_nodes_hear_of_each_other() {
    for nodes in [3, 5] {
        for seed in 0..10 {
            let (at_birth, at_join) = changes_while_nodes_start(seed, nodes, None);
            assert!(at_birth <= 1 && at_join <= 2, "seed {seed}: {at_birth}, then {at_join}");
        }
        let flaps =
            |seed| changes_while_nodes_start(seed, nodes, Some(ProtocolMutant::WishedAtOnce)).1 > 4;
        assert!((0..10).any(flaps), "{nodes} nodes: that each wish counts at once was not noticed");
    }
}

/// The dead are replaced as soon as they are known to be dead: no wish has to stand for that.
#[test]
fn who_died_is_replaced_at_once() {
    for seed in 0..5 {
        let mut options = SimOptions::default();
        (options.partitions, options.cores) = (16, 1);
        let names: Vec<String> = (0..30).map(|key| options.key(key)).collect();
        let mut cluster = started(seed, 5, options);
        names.iter().for_each(|name| write(&mut cluster, 0, name, "value"));
        // The lists have just changed, so that a wish would have to stand for longest.
        let last = cluster.start_node();
        settle(&mut cluster);
        cluster.crash_node(last);
        wait(&mut cluster, 10 * SECOND, |cluster| cluster.is_gone(last));
        let dead_at = cluster.elapsed();
        let are_back =
            |cluster: &SimCluster| names.iter().all(|name| cluster.copies(name).len() == 3);
        wait(&mut cluster, 10 * SECOND, are_back);
        let took = cluster.elapsed() - dead_at;
        assert!(took < Duration::from_millis(100), "seed {seed}: {took:?}");
    }
}

/// Messages take longer than members are waited for that a node does not reach. A newcomer has just
/// begun to merge what the others hold when all its connections break, once.
///
/// Returns whether it is a replica soon.
fn is_whole_though_its_connections_broke(
    seed: u64,
    after: Duration,
    mutant: Option<ProtocolMutant>,
) -> bool {
    let mut options = SimOptions::default();
    (options.partitions, options.cores, options.mutant) = (32, 1, mutant);
    options.delay = (20 * MS, 30 * MS);
    let keys: Vec<String> = (0..20).map(|key| options.key(key)).collect();
    let mut cluster = started(seed, 3, options);
    for key in &keys {
        write(&mut cluster, 0, key, "value");
    }
    let newcomer = cluster.start_node();
    cluster.run_for(after);
    for other in 0..newcomer {
        cluster.break_connections(newcomer, other);
    }
    cluster.run_until(10 * SECOND, SimCluster::is_settled)
}

#[test]
fn a_newcomer_whose_connections_broke_is_whole_soon_though_answers_take_long() {
    let moments = || (0..).zip((1..8).map(|tenths| tenths * 100 * MS));
    for (seed, after) in moments() {
        let is_whole = is_whole_though_its_connections_broke(seed, after, None);
        assert!(is_whole, "seed {seed}, {after:?}");
    }
    let mutant = Some(ProtocolMutant::LateAnswerUnheard);
    let is_stuck = |(seed, after)| !is_whole_though_its_connections_broke(seed, after, mutant);
    assert!(moments().any(is_stuck));
}
