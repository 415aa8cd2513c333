//! What is sent again and again while a node does not answer, against a bound.

use std::time::Duration;

use gridkv::sim::{ProtocolMutant, SimOptions};

use crate::support::{SECOND, settle, started, write};

const PARTITIONS: u16 = 1024;

/// The times of all requests that tell a list, in milliseconds.
fn told(trace: &str, from: Duration) -> Vec<u64> {
    let at = |line: &str| line.trim_start().split(' ').next()?.parse::<u64>().ok();
    let lines = trace.lines().filter(|line| line.contains("Request(Adopt"));
    let from = from.as_micros() as u64;
    lines.filter_map(at).filter(|at| *at >= from).map(|at| at / 1000).collect()
}

/// How often lists are told in a second after a quarter of a minute, and how often in any 50
/// milliseconds from then on, on each of the nodes that have something to tell.
#[derive(Debug)]
struct Told {
    each_second: usize,
    at_once: usize,
}

/// One node's cores hear nothing any more while its gossip goes on, and another one dies. So all
/// its partitions should have other lists, and the nodes that are left tell it so.
fn told_in_vain(seed: u64, mutant: Option<ProtocolMutant>) -> Told {
    let mut options = SimOptions::default();
    (options.partitions, options.cores, options.keep_trace) = (PARTITIONS, 1, true);
    options.mutant = mutant;
    let keys: Vec<String> = (0..2000).map(|key| options.key(key)).collect();
    let mut cluster = started(seed, 5, options);
    keys.iter().for_each(|key| write(&mut cluster, 0, key, "value"));
    settle(&mut cluster);
    (0..4).for_each(|node| cluster.swallow(node, 4));
    cluster.crash_node(3);
    cluster.run_for(15 * SECOND);
    // The trace counts from one second on.
    let from = cluster.elapsed() + SECOND;
    cluster.run_for(30 * SECOND);
    let times = told(cluster.trace(), from);
    let in_window = |at: &u64| times.iter().filter(|it| (*at..*at + 50).contains(it)).count();
    let at_once = times.iter().step_by(16).map(in_window).max().unwrap_or(0) / 3;
    cluster.mend();
    settle(&mut cluster);
    Told { each_second: times.len() / 30, at_once }
}

/// Each partition's reminders came twice a second for as long as the node was silent, all of them
/// at one time: thousands of messages a second, and calls waited behind them.
#[test]
fn a_node_that_does_not_answer_is_reminded_less_and_less() {
    let is_little = |told: &Told| told.each_second < usize::from(PARTITIONS) / 4;
    let is_spread = |told: &Told| told.at_once <= 256;
    for seed in 0..3 {
        let told = told_in_vain(seed, None);
        assert!(is_little(&told) && is_spread(&told), "seed {seed}: {told:?}");
    }
    let steadily = |seed| !is_little(&told_in_vain(seed, Some(ProtocolMutant::RemindedSteadily)));
    assert!((0..3).any(steadily), "RemindedSteadily was not noticed");
    let at_once = |seed| !is_spread(&told_in_vain(seed, Some(ProtocolMutant::RemindedAtOnce)));
    assert!((0..3).any(at_once), "RemindedAtOnce was not noticed");
}
