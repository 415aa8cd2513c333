//! Seeds that are down: who comes back finds its cluster all the same.

use std::time::Duration;

use gridkv::Event;
use gridkv::sim::{ProtocolMutant, SimOptions};

use crate::support::{MS, SECOND, read, settle, started, write};

/// The nodes from 0 to `seeds` are the seeds of all, and every node has a copy of every key.
fn options(seeds: usize) -> SimOptions {
    let mut options = SimOptions::default();
    (options.seeds, options.replicas, options.partitions) = (seeds, 4, 32);
    options
}

/// These two of four nodes crash, one after the other. One starts again, finds the others, and has
/// what they hold.
fn comes_back(seed: u64, seeds: usize, crash: [usize; 2], returns: usize) {
    let options = options(seeds);
    let key = options.key(1);
    let mut cluster = started(seed, 4, options);
    write(&mut cluster, 2, &key, "value");
    for node in crash {
        cluster.crash_node(node);
        cluster.run_for(5 * SECOND);
    }
    cluster.run_for(15 * SECOND);
    cluster.restart_node(returns);
    settle(&mut cluster);
    assert!(cluster.see_each_other());
    assert_eq!(read(&mut cluster, returns, &key).as_deref(), Some(b"value".as_slice()));
}

/// The one seed is dead for good, and another node starts again. It takes part only once it was
/// reached, and asked none but its seeds; what the living members sent it, it dropped.
#[test]
fn a_node_whose_seeds_are_down_comes_back_to_those_that_greet_it() {
    (0..6).for_each(|seed| comes_back(seed, 1, [0, 1], 1));
}

/// A seed starts again while the other one is down. It has no seed to ask, and all others ask it.
#[test]
fn a_seed_that_starts_again_alone_is_let_in_by_those_that_ask_it() {
    (0..6).for_each(|seed| comes_back(seed, 2, [1, 0], 0));
}

/// Both seeds of four nodes start again, one this long after the other. Returns whether one of them
/// was born: as a second cluster, as the other nodes hold the data of the first.
fn is_born_again(seed: u64, gap: Duration, expect: u16, mutant: Option<ProtocolMutant>) -> bool {
    let mut options = options(2);
    (options.mutant, options.expect) = (mutant, expect);
    let key = options.key(1);
    let mut cluster = started(seed, 4, options);
    write(&mut cluster, 2, &key, "value");
    settle(&mut cluster);
    cluster.crash_node(0);
    cluster.crash_node(1);
    cluster.run_for(20 * SECOND);
    cluster.restart_node(0);
    cluster.run_for(gap);
    cluster.restart_node(1);
    cluster.run_for(30 * SECOND);
    if mutant.is_none() {
        settle(&mut cluster);
        assert!(cluster.see_each_other());
        for node in 0..4 {
            let found = read(&mut cluster, node, &key);
            assert_eq!(found.as_deref(), Some(b"value".as_slice()), "seed {seed}, n{node}");
        }
    }
    let is_birth = |event: &Event| matches!(event, Event::Born { .. });
    (0..2).any(|node| cluster.events(node).iter().any(is_birth))
}

/// All seeds start again, one after the other, while other nodes hold the data. When the second one
/// came it let the first one in, and the two were born as a cluster of their own, as the others ask
/// their dead seeds every five seconds only. But the first one has been asked by then, and follows
/// those that asked it.
#[test]
fn seeds_that_start_again_one_by_one_are_no_second_cluster() {
    for seed in 0..6 {
        for gap in [1250, 2000, 3000, 6000].map(|ms| ms * MS) {
            assert!(!is_born_again(seed, gap, 0, None), "seed {seed}, {gap:?} apart");
        }
        let mutant = Some(ProtocolMutant::GuestsIgnored);
        assert!(is_born_again(seed, 2 * SECOND, 0, mutant), "the simulation shows nothing");
    }
}

/// No node can tell seeds that all start at one moment from the first start of a cluster, unless
/// its configuration says how many nodes there are.
#[test]
fn seeds_that_start_again_together_wait_for_the_nodes_that_they_expect() {
    for seed in 0..6 {
        for gap in [0, 250, 500].map(|ms| ms * MS) {
            assert!(!is_born_again(seed, gap, 4, None), "seed {seed}, {gap:?} apart");
        }
    }
}
