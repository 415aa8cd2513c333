//! Writes for other data centers: what one of these does not take delays nothing else.

use std::time::Duration;

use gridkv::OnPartition;
use gridkv::sim::{ProtocolMutant, SimCluster, SimOptions};

use crate::support::{MS, SECOND, Traced, settle, started, wait, write};

/// How long a message takes from one data center to another.
const FAR: Duration = Duration::from_millis(20);

/// Within this a write is in another data center that takes it: a hundred times what it takes
/// there, and a quarter of a second for which it might wait for a batch under way.
const THERE_WITHIN: Duration = Duration::from_millis(500);

fn slow_down(cluster: &mut SimCluster, some: &[usize], others: &[usize]) {
    for (one, other) in some.iter().flat_map(|one| others.iter().map(move |other| (*one, *other))) {
        cluster.slow_down(one, other, FAR, FAR + MS);
        cluster.slow_down(other, one, FAR, FAR + MS);
    }
}

/// The nodes of a data center out of `all`, of which there are `count`.
fn nodes(data_center: usize, count: usize, all: usize) -> Vec<usize> {
    (data_center..all).step_by(count).collect()
}

/// Writes a key in data center 0, and returns how long it takes until a node of `there` has it.
fn time_to(cluster: &mut SimCluster, from: usize, key: &str, there: &[usize]) -> Duration {
    let begin = cluster.elapsed();
    let value = format!("{begin:?}");
    write(cluster, from, key, &value);
    let is_there = |cluster: &SimCluster| {
        let stored = cluster.stored(key);
        let is_value = |it: &gridkv::sim::Stored| it.value.as_deref() == Some(value.as_bytes());
        stored.iter().any(|it| there.contains(&it.node) && is_value(it))
    };
    wait(cluster, 30 * SECOND, is_there);
    cluster.elapsed() - begin
}

/// Two of six nodes of the other data center die at once. With `OnPartition::Majority` a fifth of
/// its partitions waits for both, and takes no write. Returns how long the slowest of 200 writes of
/// other partitions takes until it is there, while such partitions are written as well.
fn slowest_next_to_what_waits(seed: u64, mutant: Option<ProtocolMutant>) -> Duration {
    let mut options = SimOptions::default();
    (options.data_centers, options.partitions, options.cores) = (2, 64, 1);
    (options.on_partition, options.mutant) = (OnPartition::Majority, mutant);
    let mut cluster = started(seed, 12, options.clone());
    let (here, there) = (nodes(0, 2, 12), nodes(1, 2, 12));
    slow_down(&mut cluster, &here, &there);
    settle(&mut cluster);
    cluster.crash_node(there[0]);
    cluster.crash_node(there[1]);
    cluster.run_for(20 * SECOND);
    let (waits, takes): (Vec<String>, Vec<String>) =
        (0..200).map(|key| options.key(key)).partition(|key| cluster.members(key, 1).1.len() < 2);
    assert!(waits.len() > 10 && takes.len() > 100, "{} wait", waits.len());
    let mut slowest = Duration::ZERO;
    for round in 0..200 {
        write(&mut cluster, here[0], &waits[round / 10 % waits.len()], "value");
        let key = &takes[round % takes.len()];
        slowest = slowest.max(time_to(&mut cluster, here[0], key, &there[2..]));
    }
    // What waits is not lost: the data center takes it as soon as it can.
    assert!(cluster.waiting_to_relay() > 0, "seed {seed}: writes were confirmed that none took");
    slowest
}

/// A batch that held one write of a partition that waits was answered after two seconds, and again
/// after each pause. All other writes to that core waited behind it, and those to all other cores
/// waited with it for each pause.
#[test]
fn a_partition_that_is_not_written_there_delays_no_other() {
    for seed in 0..3 {
        let slowest = slowest_next_to_what_waits(seed, None);
        println!("seed {seed}: {slowest:?}");
        assert!(slowest < THERE_WITHIN, "seed {seed}: {slowest:?}");
    }
    let mutant = Some(ProtocolMutant::RefusedDelays);
    let noticed = (0..3).any(|seed| slowest_next_to_what_waits(seed, mutant) >= THERE_WITHIN);
    assert!(noticed, "writes that hold up others were not noticed");
}

/// Three data centers, of which one is cut off, first silently and then for good.
#[test]
fn a_data_center_that_is_cut_off_delays_no_writes_to_others() {
    for seed in 0..3 {
        let mut options = SimOptions::default();
        (options.data_centers, options.partitions) = (3, 64);
        let mut cluster = started(seed, 9, options.clone());
        let sites = [0, 1, 2].map(|data_center| nodes(data_center, 3, 9));
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            slow_down(&mut cluster, &sites[one], &sites[other]);
        }
        settle(&mut cluster);
        for (here, there) in sites[0].iter().flat_map(|it| sites[2].iter().map(|at| (*it, *at))) {
            cluster.swallow(here, there);
        }
        let mut slowest = Duration::ZERO;
        for key in 0..300 {
            if key == 150 {
                cluster.split(&sites[2], &[&sites[0][..], &sites[1]].concat());
            }
            slowest = slowest.max(time_to(&mut cluster, sites[0][0], &options.key(key), &sites[1]));
            cluster.run_for(50 * MS);
        }
        println!("seed {seed}: {slowest:?}");
        assert!(slowest < THERE_WITHIN, "seed {seed}: {slowest:?}");
    }
}

/// A data center of one node, of which one core of two is stuck behind a broken connection for a
/// while: what is for the other core goes on. (The whole node is taken for dead if it stays stuck.)
#[test]
fn a_relay_that_comes_and_goes_gets_everything_in_the_end() {
    for seed in 0..3 {
        let mut options = SimOptions::default();
        (options.data_centers, options.partitions) = (2, 64);
        (options.replicas, options.write_quorum) = (1, 1);
        let mut cluster = Traced::new(seed, options.clone());
        let (here, there) = (cluster.start_node(), cluster.start_node());
        slow_down(&mut cluster, &[here], &[there]);
        settle(&mut cluster);
        for key in 0..200 {
            write(&mut cluster, here, options.key(key), "value");
            if key % 20 == 0 {
                cluster.break_connections(here, there);
            }
            if key % 50 == 25 {
                cluster.stall_cores(there, 300 * MS);
            }
            cluster.run_for(10 * MS);
        }
        let has_all = |cluster: &SimCluster| {
            (0..200).all(|key| cluster.copies(options.key(key)).len() == 2)
                && cluster.waiting_to_relay() == 0
        };
        wait(&mut cluster, 10 * SECOND, has_all);
    }
}
