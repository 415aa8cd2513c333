//! Replicas that missed writes are repaired, without a read, and for few bytes.

use std::time::Duration;

use gridkv::sim::{CallResult, ProtocolMutant, SimCluster, SimOptions};

use crate::support::{MS, RandomCalls, SECOND, lossy, outcome, settle, started, write};

/// A key's value on each of three nodes, or that it is nowhere.
fn is_everywhere(cluster: &SimCluster, key: &str, value: Option<&[u8]>) -> bool {
    let copies = cluster.copies(key);
    match value {
        Some(value) => copies.len() == 3 && copies.iter().all(|(_, held)| held == value),
        None => copies.is_empty(),
    }
}

fn copied(cluster: &SimCluster, nodes: usize) -> u64 {
    (0..nodes).map(|node| cluster.traffic(node).copied).sum()
}

/// There are no reads, no member comes or goes, and no hint is left when the replica can be
/// reached: comparing digests alone finds what it missed.
#[test]
fn a_replica_that_missed_writes_for_long_is_repaired_unasked() {
    for missing in 0..3 {
        let mut cluster = started(20 + missing as u64, 3, SimOptions::default());
        let others: Vec<usize> = (0..3).filter(|node| *node != missing).collect();
        for key in 0..60 {
            write(&mut cluster, 0, format!("key-{key}"), "before");
        }
        cluster.run_for(SECOND);
        for other in &others {
            cluster.cut(*other, missing);
            cluster.cut(missing, *other);
        }
        // Overwritten, deleted, new.
        for key in 20..100 {
            let (node, key_name) = (others[key % 2], format!("key-{key}"));
            let call = if key < 40 {
                cluster.delete(node, key_name)
            } else {
                cluster.set(node, key_name, "after")
            };
            assert_eq!(outcome(&mut cluster, call), CallResult::Written(Ok(())), "key {key}");
        }
        cluster.run_for(35 * SECOND);
        let expected = |key: usize| match key {
            0..20 => Some(&b"before"[..]),
            20..40 => None,
            _ => Some(&b"after"[..]),
        };
        let is_equal = |cluster: &SimCluster| {
            (0..100).all(|k| is_everywhere(cluster, &format!("key-{k}"), expected(k)))
        };
        assert!(!is_equal(&cluster), "the writes reached the replica all the same");
        cluster.mend();
        let mended = cluster.elapsed();
        assert!(
            cluster.run_until(120 * SECOND, |cluster| is_equal(cluster)),
            "node {missing} lacks writes"
        );
        println!("node {missing}: equal after {:?}", cluster.elapsed() - mended);
        cluster.run_for(10 * SECOND);
        assert!(
            cluster.partitions_repaired() > 50,
            "only {} repaired",
            cluster.partitions_repaired()
        );
        let before = copied(&cluster, 3);
        cluster.run_for(130 * SECOND);
        assert_eq!(copied(&cluster, 3), before, "equal partitions were copied");
    }
}

/// One node's writes do not reach another, for ever; what that one asks is answered, and the third
/// reaches both. Nothing tells those that compare to hurry where the connection that broke is not
/// theirs.
#[test]
fn a_replica_that_one_coordinator_does_not_reach_is_repaired_within_two_cycles() {
    for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        let mut cluster = started(40 + 3 * from as u64 + to as u64, 3, SimOptions::default());
        cluster.cut(from, to);
        for key in 0..40 {
            write(&mut cluster, from, format!("key-{key}"), "value");
        }
        let is_equal = |cluster: &SimCluster| {
            (0..40).all(|key| is_everywhere(cluster, &format!("key-{key}"), Some(b"value")))
        };
        let written = cluster.elapsed();
        let is_repaired = cluster.run_until(120 * SECOND, is_equal);
        println!("{from} -> {to}: equal after {:?}", cluster.elapsed() - written);
        assert!(is_repaired, "{to} lacks what {from} wrote");
    }
}

/// `replication/anti_entropy` says what comparing costs if there is nothing to repair.
#[test]
fn an_idle_cluster_compares_for_a_few_hundred_bytes_a_second() {
    for (nodes, most) in [(3, 200), (10, 100)] {
        let mut cluster = started(30, nodes, SimOptions::default());
        for key in 0..300 {
            let call = cluster.set(key % nodes, format!("key-{key}"), "value");
            assert_eq!(outcome(&mut cluster, call), CallResult::Written(Ok(())));
        }
        cluster.run_for(5 * SECOND);
        let before: Vec<_> = (0..nodes).map(|node| cluster.traffic(node)).collect();
        cluster.run_for(120 * SECOND);
        let mut total = 0;
        for (node, before) in before.into_iter().enumerate() {
            let after = cluster.traffic(node);
            assert_eq!(
                after.all - before.all,
                after.compared - before.compared,
                "node {node} does more"
            );
            total += after.compared - before.compared;
        }
        let each = total / 120 / nodes as u64;
        println!("{nodes} nodes: {} bytes a second, {each} of each node", total / 120);
        assert!(
            each <= most && total > 2 * 12_288 * 2,
            "{each} bytes a second of each of {nodes} nodes"
        );
        assert_eq!(cluster.partitions_repaired(), 0);
    }
}

#[test]
fn writes_under_way_are_not_taken_for_differences() {
    let mut cluster = started(31, 3, SimOptions::default());
    let mut workload = RandomCalls::new(31, 40);
    let before = copied(&cluster, 3);
    workload.run(&mut cluster, 3, 130 * SECOND);
    assert!(workload.acknowledged > 10_000, "only {} writes", workload.acknowledged);
    assert_eq!((copied(&cluster, 3), cluster.partitions_repaired()), (before, 0));
}

/// Connections break all the time, replicas miss what they miss, one node goes and comes back: two
/// cycles after the last fault all copies of every key are the same, whether or not anybody read
/// it.
#[test]
fn two_cycles_after_the_faults_all_copies_are_equal() {
    for seed in 0..2 {
        let mut options = lossy();
        options.connections_broken_per_mille = 20;
        let mut cluster = started(seed, 4, options);
        let mut workload = RandomCalls::new(seed, 100);
        workload.run(&mut cluster, 4, 3 * SECOND);
        let victim = workload.pick(4);
        cluster.cut((victim + 1) % 4, (victim + 2) % 4);
        cluster.crash_node(victim);
        workload.run(&mut cluster, 4, 2 * SECOND);
        cluster.restart_node(victim);
        workload.run(&mut cluster, 4, 35 * SECOND);
        cluster.mend();
        cluster.set_loss(0, 0);
        settle(&mut cluster);
        cluster.run_for(120 * SECOND);
        for key in 0..100 {
            let copies = cluster.copies(format!("key-{key}"));
            let is_equal = copies.iter().all(|(_, value)| *value == copies[0].1);
            assert!(is_equal && copies.len() == 3, "seed {seed}: key {key}: {copies:?}");
        }
        let before = copied(&cluster, 4);
        cluster.run_for(70 * SECOND);
        assert_eq!(copied(&cluster, 4), before, "seed {seed}: equal partitions were copied");
    }
}

/// Two data centers, 40 ms apart. A coordinator dies with 50 writes that it has not sent to the
/// other one. Returns how long it takes until the other one has them, while another key of their
/// partition is written every `pause` through a node that lives; `None` if longer than `limit`.
fn converged_after(
    seed: u64,
    mutant: Option<ProtocolMutant>,
    pause: Duration,
    limit: Duration,
) -> Option<Duration> {
    let mut options = SimOptions::default();
    (options.data_centers, options.partitions, options.cores) = (2, 1, 1);
    options.mutant = mutant;
    let mut cluster = started(seed, 6, options.clone());
    let [here, there] = [[0, 2, 4], [1, 3, 5]];
    let far = 40 * MS;
    let slow_down = |cluster: &mut SimCluster| {
        for (one, other) in here.into_iter().flat_map(|one| there.map(|other| (one, other))) {
            cluster.slow_down(one, other, far, far + MS);
            cluster.slow_down(other, one, far, far + MS);
        }
    };
    slow_down(&mut cluster);
    there.iter().for_each(|other| cluster.cut(0, *other));
    let keys: Vec<String> = (0..50).map(|key| options.key(key)).collect();
    for key in &keys {
        write(&mut cluster, 0, key, "value");
    }
    cluster.crash_node(0);
    cluster.mend();
    slow_down(&mut cluster);
    settle(&mut cluster);
    let busy = options.key(1000);
    let begin = cluster.elapsed();
    let lacks = |cluster: &SimCluster| keys.iter().any(|key| cluster.copies(key).len() < 5);
    assert!(lacks(&cluster), "seed {seed}: they were sent all the same");
    for round in 0u64.. {
        if !lacks(&cluster) {
            return Some(cluster.elapsed() - begin);
        }
        if cluster.elapsed() - begin > limit {
            return None;
        }
        cluster.set(2, &busy, round.to_le_bytes());
        cluster.run_for(pause);
    }
    None
}

/// Found by a review: with a busy key in the partition the digests differed by something else at
/// every look, and a difference was acted upon only when it stayed. What the other data center
/// lacked came after six minutes, by luck; with more writes on their way it never came.
#[test]
fn a_busy_key_does_not_keep_its_partition_from_converging() {
    for (seed, pause) in [(1, 20 * MS), (2, 20 * MS), (3, 5 * MS)] {
        let after = converged_after(seed, None, pause, 90 * SECOND);
        println!("a write every {pause:?}: equal after {after:?}");
        assert!(after.is_some(), "seed {seed}: a write every {pause:?} keeps the rest away");
    }
    let mutant = Some(ProtocolMutant::BusyLetBe);
    let noticed = (1..3).any(|seed| converged_after(seed, mutant, 20 * MS, 90 * SECOND).is_none());
    assert!(noticed, "a partition that is left alone while it is busy was not noticed");
}
