//! What a quorum says under the simulator: which misses are believed, what an acknowledgement
//! means for reads through other nodes, and which of two writes is the later one.

use std::time::Duration;

use gridkv::ReadError;
use gridkv::sim::workload::{Workload, WorkloadOptions};
use gridkv::sim::{CALL_TIMEOUT, CallId, CallResult, ProtocolMutant, SimOptions, checks};

use crate::support::{
    ANSWERED_WITHIN, MS, SECOND, Traced, WRITTEN, delete, one_thing_at_a_time, outcome, read, set,
    settle, started, wait, write,
};

const NOT_FOUND: CallResult = CallResult::Read(Ok(None));

fn options(write_quorum: usize, mutant: Option<ProtocolMutant>) -> SimOptions {
    let mut options = SimOptions::default();
    (options.partitions, options.cores) = (32, 1);
    (options.write_quorum, options.mutant) = (write_quorum, mutant);
    options
}

fn names(options: &SimOptions) -> Vec<String> {
    (0..20).map(|number| options.key(number)).collect()
}

// ── misses ──

/// Three nodes. The cores of node 0 do not reach those of node 2, so that 20 keys are acknowledged
/// by nodes 0 and 1 alone. Then node 2 is cut off, and takes the others for dead. It counted the
/// dead as members that know nothing, and answered "not found" for all 20 keys.
///
/// Returns the cluster, the keys, and how the reads through node 2 ended.
fn reads_of_the_cut_off(
    seed: u64,
    mutant: Option<ProtocolMutant>,
) -> (Traced, Vec<String>, Vec<CallResult>) {
    let options = options(2, mutant);
    let names = names(&options);
    let mut cluster = started(seed, 3, options);
    cluster.cut(0, 2);
    names.iter().for_each(|name| write(&mut cluster, 0, name, "value"));
    cluster.split(&[2], &[0, 1]);
    wait(&mut cluster, 5 * SECOND, |cluster| cluster.is_dead_for(2, &[0, 1]));
    let began = cluster.elapsed();
    let reads = names.iter().map(|name| cluster.get(2, name)).collect::<Vec<CallId>>();
    cluster.run_for(ANSWERED_WITHIN);
    let mut took = Duration::ZERO;
    let results = reads.into_iter().map(|call| {
        let (ended, result) = cluster.take_outcome(call).expect("every read ends");
        took = took.max(ended - began);
        result
    });
    let results = results.collect();
    assert!(took < 50 * MS, "what is certain is answered at once");
    (cluster, names, results)
}

#[test]
fn a_node_that_is_cut_off_does_not_say_that_an_acknowledged_key_does_not_exist() {
    let unconfirmed = CallResult::Read(Err(ReadError::Unconfirmed { answered: 1, needed: 2 }));
    for seed in 0..5 {
        let (mut cluster, names, results) = reads_of_the_cut_off(seed, None);
        results.iter().for_each(|result| assert_eq!(*result, unconfirmed, "seed {seed}"));
        // The other side goes on, for misses too.
        for node in [0, 1] {
            assert_eq!(read(&mut cluster, node, &names[0]), Some(b"value".to_vec()));
            assert_eq!(read(&mut cluster, node, options(2, None).key(100)), None);
        }
        cluster.mend();
        settle(&mut cluster);
        for name in &names {
            assert_eq!(read(&mut cluster, 2, name), Some(b"value".to_vec()), "seed {seed}");
        }
    }
    let mutant = Some(ProtocolMutant::DeadKnowNothing);
    let noticed = (0..5).any(|seed| reads_of_the_cut_off(seed, mutant).2.contains(&NOT_FOUND));
    assert!(noticed, "dead members that know nothing were not noticed");
}

/// While the others are not taken for dead, the read waits for them, until its deadline at most.
#[test]
fn a_miss_that_cannot_be_confirmed_is_an_error_at_the_deadline_at_the_latest() {
    let options = options(2, None);
    let key = options.key(0);
    let mut cluster = started(1, 3, options);
    cluster.cut(2, 0);
    cluster.cut(2, 1);
    let began = cluster.elapsed();
    let call = cluster.get(2, &key);
    cluster.run_for(ANSWERED_WITHIN);
    let (ended, result) = cluster.take_outcome(call).expect("it has ended");
    let error = ReadError::Unconfirmed { answered: 1, needed: 2 };
    assert_eq!(result, CallResult::Read(Err(error)));
    assert!(ended - began >= CALL_TIMEOUT && ended - began < CALL_TIMEOUT + 100 * MS);
    let call = cluster.get(2, &key);
    cluster.run_for(SECOND);
    cluster.mend();
    assert_eq!(outcome(&mut cluster, call), NOT_FOUND, "the others are back in time");
}

/// How a node of a cluster goes away.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Loss {
    Crash,
    Silence,
}

/// Loses one node of three for good, and reads keys that do not exist through the other two all
/// the time. Returns the longest time that a read took. Each must be answered.
fn longest_miss(seed: u64, write_quorum: usize, loss: Loss) -> Duration {
    let options = options(write_quorum, None);
    let names = names(&options);
    let mut cluster = started(seed, 3, options);
    match loss {
        Loss::Crash => cluster.crash_node(2),
        Loss::Silence => cluster.split(&[2], &[0, 1]),
    }
    let mut calls = Vec::new();
    for at in 0..1000 {
        let began = cluster.elapsed();
        calls.push((began, cluster.get(at % 2, &names[at / 2 % names.len()])));
        cluster.run_for(5 * MS);
    }
    cluster.run_for(ANSWERED_WITHIN);
    let took = |(began, call)| {
        let (ended, result) = cluster.take_outcome(call).expect("every read ends");
        assert_eq!(result, NOT_FOUND, "seed {seed}, W = {write_quorum}, {loss:?}");
        ended - began
    };
    calls.into_iter().map(took).max().unwrap()
}

/// What it costs that the dead might know more. With W = 2 the two that are left have each
/// acknowledged write among them, so that a miss takes two hedges at most. With W = 1 all three
/// must confirm it, until the list is without the third.
#[test]
fn misses_are_confirmed_again_soon_after_a_node_of_three_is_gone() {
    for (write_quorum, loss, limit) in [
        (2, Loss::Crash, 40 * MS),
        (2, Loss::Silence, 40 * MS),
        (1, Loss::Crash, 300 * MS),
        (1, Loss::Silence, 1800 * MS),
    ] {
        let longest = (0..5).map(|seed| longest_miss(seed, write_quorum, loss)).max().unwrap();
        println!("W = {write_quorum}, {loss:?}: a miss took {longest:?} at most");
        assert!(longest < limit, "W = {write_quorum}, {loss:?}: {longest:?}");
    }
}

// ── which of two writes is the later one ──

/// Two writes share no replica with W = 1. The clock of node 0 is two seconds ahead, and its cores
/// do not reach those of node 1. A key is set through node 0, and half a second later deleted
/// through node 1: both are acknowledged. The delete was acknowledged by its own node before any
/// other had answered, under a version below that of the value, and lost to it at once.
///
/// Returns what is read through node 1 right after the delete.
fn read_after_the_delete(
    seed: u64,
    copies: usize,
    mutant: Option<ProtocolMutant>,
) -> Option<Vec<u8>> {
    let mut options = options(1, mutant);
    options.replicas = copies;
    let key = options.key(0);
    let mut cluster = started(seed, copies, options);
    cluster.move_clock(0, 2000);
    cluster.cut(0, 1);
    write(&mut cluster, 0, &key, "value");
    cluster.run_for(500 * MS);
    delete(&mut cluster, 1, &key);
    let found = read(&mut cluster, 1, &key);
    if mutant.is_none() {
        cluster.mend();
        settle(&mut cluster);
        for node in 0..copies {
            assert_eq!(read(&mut cluster, node, &key), None, "seed {seed} through {node}");
        }
    }
    found
}

#[test]
fn a_later_write_wins_where_two_writes_share_no_replica() {
    for (seed, copies) in (0..5).flat_map(|seed| [(seed, 2), (seed, 3)]) {
        let found = read_after_the_delete(seed, copies, None);
        assert_eq!(found, None, "seed {seed} with {copies} copies");
    }
    let mutant = Some(ProtocolMutant::EveryLiveNotAwaited);
    let noticed = (0..5).any(|seed| read_after_the_delete(seed, 3, mutant).is_some());
    assert!(noticed, "a write that did not wait was not noticed");
}

/// W = 1 is chosen for this: one replica is enough, though all are waited for.
#[test]
fn a_write_that_one_replica_acknowledges_goes_on_when_the_others_are_gone() {
    let options = options(1, None);
    let (names, patience) = (names(&options), options.every_live_patience);
    let mut cluster = started(1, 3, options);
    cluster.split(&[0], &[1, 2]);
    let began = cluster.elapsed();
    let calls: Vec<CallId> = names.iter().map(|name| cluster.set(0, name, "value")).collect();
    cluster.run_for(SECOND);
    for call in calls {
        let (ended, result) = cluster.take_outcome(call).expect("it has ended");
        assert_eq!(result, WRITTEN);
        assert!(ended - began <= patience + MS, "it took {:?}", ended - began);
    }
    wait(&mut cluster, 5 * SECOND, |cluster| cluster.is_dead_for(0, &[1, 2]));
    write(&mut cluster, 0, &names[0], "alone");
    cluster.mend();
    settle(&mut cluster);
    assert_eq!(read(&mut cluster, 2, &names[0]), Some(b"alone".to_vec()));
}

// ── every live replica ──

/// Many calls on few keys, through all nodes, while nothing is wrong. Returns whether a read saw
/// what was before a write that had been acknowledged.
fn saw_what_was_before(
    seed: u64,
    nodes: usize,
    every_live: bool,
    mutant: Option<ProtocolMutant>,
) -> bool {
    let mut options = options(2, mutant);
    options.every_live = every_live;
    options.clock_skew = [Duration::ZERO, 2 * SECOND][seed as usize % 2];
    let mut work = WorkloadOptions::default();
    (work.keys, work.clients, work.pace) = (4, 10, MS / 2);
    let mut workload = Workload::new(seed, work, &options);
    let mut cluster = started(seed, nodes, options);
    let all: Vec<usize> = (0..nodes).collect();
    for _ in 0..4000 {
        workload.step(&mut cluster, &all);
        let pause = workload.pause();
        cluster.run_for(pause);
    }
    workload.drain(&mut cluster, ANSWERED_WITHIN);
    let history = workload.history();
    assert!(history.operations.iter().filter(|it| it.is_acknowledged()).count() > 500);
    checks::seen_everywhere(history).is_err()
}

#[test]
fn what_every_live_replica_acknowledged_is_seen_through_every_node() {
    for (seed, nodes) in (0..6).map(|seed| (seed, 3 + seed as usize % 3)) {
        assert!(!saw_what_was_before(seed, nodes, true, None), "seed {seed}, {nodes} nodes");
    }
    let mutant = Some(ProtocolMutant::EveryLiveNotAwaited);
    assert!((0..6).any(|seed| saw_what_was_before(seed, 3, true, mutant)), "it did not wait");
    assert!((0..6).any(|seed| saw_what_was_before(seed, 3, false, None)), "W of three were enough");
}

/// A replica that stands still delays such a write by its patience, and fails none. The writes
/// behind that one do not wait for it, until it has taken a write again.
#[test]
fn a_replica_that_stands_still_delays_writes_by_their_patience_and_only_once() {
    for seed in 0..5 {
        let mut options = options(2, None);
        options.every_live = true;
        let (key, patience) = (options.key(0), options.every_live_patience);
        let mut cluster = started(seed, 3, options);
        let took = |cluster: &mut Traced| {
            let began = cluster.elapsed();
            let call = cluster.set(0, &key, "value");
            cluster.run_for(100 * MS);
            let (ended, result) = cluster.take_outcome(call).expect("it has ended");
            assert_eq!(result, WRITTEN, "seed {seed}");
            ended - began
        };
        let stored = |cluster: &Traced| cluster.stored(&key).len();
        // The first one may have to open connections.
        took(&mut cluster);
        assert!(took(&mut cluster) < 3 * MS);
        cluster.pause_node(2, 400 * MS);
        let first = took(&mut cluster);
        assert!(first >= patience && first < patience + 3 * MS, "seed {seed}: {first:?}");
        assert!(took(&mut cluster) < 3 * MS && took(&mut cluster) < 3 * MS, "seed {seed}");
        cluster.run_for(200 * MS);
        // It is back, has taken what it missed, and is waited for again.
        assert!(!cluster.is_paused(2) && !cluster.is_dead_for(0, &[2]) && stored(&cluster) == 3);
        cluster.pause_node(2, 400 * MS);
        assert!(took(&mut cluster) >= patience, "seed {seed}");
    }
}

/// The usual trouble, among writes that wait.
#[test]
fn writes_that_wait_for_every_live_replica_lose_nothing() {
    for seed in 0..6 {
        let mut options = SimOptions::default();
        options.every_live = true;
        one_thing_at_a_time(seed, options);
    }
}

/// It is waited for until it is taken for dead, and W are left.
#[test]
fn a_node_of_three_that_crashes_fails_no_write_that_waits() {
    for seed in 0..5 {
        let mut options = options(2, None);
        options.every_live = true;
        let names = names(&options);
        let mut cluster = started(seed, 3, options);
        let mut calls = Vec::new();
        for at in 0..400 {
            if at == 100 {
                cluster.crash_node(2);
            }
            calls.push(cluster.set(at % 2, &names[at % names.len()], format!("{at}")));
            cluster.run_for(5 * MS);
        }
        for call in calls {
            assert_eq!(outcome(&mut cluster, call), WRITTEN, "seed {seed}");
        }
        assert_eq!(set(&mut cluster, 0, &names[0], "last"), WRITTEN);
        assert_eq!(read(&mut cluster, 1, &names[0]), Some(b"last".to_vec()));
    }
}
