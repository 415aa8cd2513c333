//! What a quorum says under the simulator: which misses are believed.

use std::time::Duration;

use gridkv::ReadError;
use gridkv::sim::{CALL_TIMEOUT, CallId, CallResult, ProtocolMutant, SimOptions};

use crate::support::{
    ANSWERED_WITHIN, MS, SECOND, Traced, outcome, read, settle, started, wait, write,
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
    let results = reads.into_iter().map(|call| outcome(&mut cluster, call)).collect();
    assert!(cluster.elapsed() - began < 50 * MS, "what is certain is answered at once");
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
