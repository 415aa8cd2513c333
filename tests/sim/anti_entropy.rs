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

/// The nodes of each of two data centers.
const HERE: [usize; 3] = [0, 2, 4];
const THERE: [usize; 3] = [1, 3, 5];

/// How long a message takes from one data center to the other.
const FAR: Duration = Duration::from_millis(40);

/// Two data centers with one partition.
fn far_apart(mutant: Option<ProtocolMutant>) -> SimOptions {
    let mut options = SimOptions::default();
    (options.data_centers, options.partitions, options.cores) = (2, 1, 1);
    options.mutant = mutant;
    options
}

fn keep_apart(cluster: &mut SimCluster) {
    for (one, other) in HERE.into_iter().flat_map(|one| THERE.map(|other| (one, other))) {
        cluster.slow_down(one, other, FAR, FAR + MS);
        cluster.slow_down(other, one, FAR, FAR + MS);
    }
}

/// A node dies with writes of `keys` that it has not sent to the other data center.
fn die_with_unsent(cluster: &mut SimCluster, node: usize, keys: &[String]) {
    THERE.iter().for_each(|other| cluster.cut(node, *other));
    for key in keys {
        write(cluster, node, key, "value");
    }
    cluster.crash_node(node);
    cluster.mend();
    keep_apart(cluster);
}

/// A key that is written all the time, in both data centers, and after what pause again.
struct Busy {
    key: String,
    /// Through which node in the first data center.
    through: usize,
    pause: Duration,
    round: u64,
}

impl Busy {
    fn write(&mut self, cluster: &mut SimCluster) {
        // In both data centers: one that writes alone, and asks, might ask about what arrives right
        // before its question.
        self.round += 1;
        cluster.set(self.through, &self.key, self.round.to_le_bytes());
        cluster.set(THERE[0], &self.key, self.round.to_le_bytes());
        cluster.run_for(self.pause);
    }

    fn write_for(&mut self, cluster: &mut SimCluster, time: Duration) {
        let end = cluster.elapsed() + time;
        while cluster.elapsed() < end {
            self.write(cluster);
        }
    }

    /// Returns how long it takes until all nodes that live have the keys, while this one is
    /// written; `None` if longer than `limit`.
    fn write_until_all_have(
        &mut self,
        cluster: &mut SimCluster,
        keys: &[String],
        limit: Duration,
    ) -> Option<Duration> {
        let begin = cluster.elapsed();
        let lacks = |cluster: &SimCluster| keys.iter().any(|key| cluster.copies(key).len() < 5);
        assert!(lacks(cluster), "they were sent all the same");
        while lacks(cluster) {
            if cluster.elapsed() - begin > limit {
                return None;
            }
            self.write(cluster);
        }
        Some(cluster.elapsed() - begin)
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
    let options = far_apart(mutant);
    let mut cluster = started(seed, 6, options.clone());
    keep_apart(&mut cluster);
    let keys: Vec<String> = (0..50).map(|key| options.key(key)).collect();
    die_with_unsent(&mut cluster, 0, &keys);
    settle(&mut cluster);
    let mut busy = Busy { key: options.key(1000), through: 2, pause, round: 0 };
    busy.write_until_all_have(&mut cluster, &keys, limit)
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

/// While a key is written all the time, a coordinator dies two minutes after the partition was
/// compared, with writes that it has not sent. Returns how long it takes until the other data
/// center has them.
fn converged_after_a_survey(
    seed: u64,
    coordinator: usize,
    mutant: Option<ProtocolMutant>,
) -> Option<Duration> {
    let options = far_apart(mutant);
    let mut cluster = started(seed, 6, options.clone());
    keep_apart(&mut cluster);
    let through = HERE.into_iter().find(|node| *node != coordinator).expect("three nodes");
    let mut busy = Busy { key: options.key(1000), through, pause: 20 * MS, round: 0 };
    busy.write_for(&mut cluster, 120 * SECOND);
    let keys: Vec<String> = (0..50).map(|key| options.key(key)).collect();
    die_with_unsent(&mut cluster, coordinator, &keys);
    busy.write_until_all_have(&mut cluster, &keys, 100 * SECOND)
}

/// A partition that was compared key by key because of a busy key was not compared like that again
/// for ten minutes. What a coordinator took with it in that time was missing until then, if it was
/// not the replica that compares with the other data center.
#[test]
fn what_is_lost_right_after_a_survey_is_found_by_the_next_one() {
    for (seed, coordinator) in (1..).zip(HERE) {
        let after = converged_after_a_survey(seed, coordinator, None);
        println!("n{coordinator}: equal after {after:?}");
        assert!(after.is_some(), "n{coordinator}: a busy key keeps the rest away");
    }
    let mutant = Some(ProtocolMutant::BusyOnceInTen);
    let noticed = HERE.iter().any(|node| converged_after_a_survey(1, *node, mutant).is_none());
    assert!(noticed, "a partition that waits ten minutes for its next survey was not noticed");
}

/// What comparing costs while one key is written all the time and 2,000 others of its partition
/// rest: the looks of ten seconds, and a survey, once a cycle. The keys and values are not sent.
#[test]
fn a_busy_key_costs_a_survey_a_minute() {
    let options = far_apart(None);
    let mut cluster = started(5, 6, options.clone());
    keep_apart(&mut cluster);
    for key in 0..2000 {
        write(&mut cluster, HERE[key % 3], options.key(key), "value");
    }
    let mut busy = Busy { key: options.key(5000), through: 2, pause: 20 * MS, round: 0 };
    busy.write_for(&mut cluster, 90 * SECOND);
    let cost = |cluster: &SimCluster| -> u64 {
        let traffic = (0..6).map(|node| cluster.traffic(node));
        traffic.map(|traffic| traffic.compared + traffic.surveyed).sum()
    };
    let copied_before = copied(&cluster, 6);
    let before = cost(&cluster);
    busy.write_for(&mut cluster, 300 * SECOND);
    let each = (cost(&cluster) - before) / 5;
    println!("{each} bytes a minute");
    assert!((48_000..60_000).contains(&each), "{each} bytes a minute");
    assert_eq!(copied(&cluster, 6), copied_before, "the partition was copied");
}
