//! Wall clocks that are set while keys expire. `chaos` has a profile in which this goes on all the
//! time.

use std::time::Duration;

use gridkv::Event;
use gridkv::sim::{CallResult, ProtocolMutant, SimCluster, SimOptions};

use crate::support::{
    MS, SECOND, Traced, WRITTEN, delete, outcome, read, settle, started, wait, write,
};

const HOUR_MS: i64 = 3_600_000;

/// Two cycles of anti-entropy, and time to repair.
const REPAIRED_WITHIN: Duration = Duration::from_secs(150);

fn keys(options: &SimOptions) -> Vec<String> {
    (0..30).map(|key| options.key(key)).collect()
}

fn options(mutant: Option<ProtocolMutant>) -> SimOptions {
    let mut options = SimOptions::default();
    (options.partitions, options.mutant) = (64, mutant);
    options
}

#[track_caller]
fn set_for(cluster: &mut SimCluster, node: usize, key: &str, ttl: Duration) {
    // Long enough to be told from what is sent for an empty copy.
    let call = cluster.set_for(node, key, "value".repeat(200), ttl);
    assert_eq!(outcome(cluster, call), WRITTEN, "{key} through {node}");
}

/// Three nodes, and keys that live for `ttl` on all of them.
fn with_keys(seed: u64, ttl: Duration, mutant: Option<ProtocolMutant>) -> (Traced, Vec<String>) {
    let options = options(mutant);
    let keys = keys(&options);
    let mut cluster = started(seed, 3, options);
    keys.iter().for_each(|key| set_for(&mut cluster, 0, key, ttl));
    settle(&mut cluster);
    (cluster, keys)
}

fn are_everywhere(cluster: &SimCluster, keys: &[String], copies: usize) -> bool {
    keys.iter().all(|key| cluster.copies(key).len() == copies)
}

/// Sets the clock of a node an hour ahead, waits until it has expired all keys, and sets it back.
fn jump_and_return(cluster: &mut SimCluster, node: usize, keys: &[String]) {
    cluster.move_clock(node, HOUR_MS);
    // An idle core looks at its clock when its next timer is due. Then it frees what has expired.
    cluster.run_for(60 * SECOND);
    cluster.move_clock(node, -HOUR_MS);
    let is_gone = |key: &String| cluster.copies(key).iter().all(|(holder, _)| *holder != node);
    assert!(keys.iter().all(is_gone), "the keys did not expire on n{node}");
}

/// Returns the cluster when all copies are there again, if they are in time.
fn returned(seed: u64, mutant: Option<ProtocolMutant>) -> Option<Traced> {
    let (mut cluster, keys) = with_keys(seed, 1800 * SECOND, mutant);
    jump_and_return(&mut cluster, seed as usize % 3, &keys);
    let is_repaired =
        cluster.run_until(REPAIRED_WITHIN, |cluster| are_everywhere(cluster, &keys, 3));
    is_repaired.then_some(cluster)
}

/// A step of one node's clock forward and back left keys expired there that lived everywhere else:
/// an expired state tied with its value, so that nothing repaired it. Where W = N, where a node's
/// own miss is believed, the keys were "not found" through that node until their time was over.
#[test]
fn keys_that_expired_on_a_clock_that_was_ahead_come_back() {
    for seed in 0..6 {
        let mut cluster = returned(seed, None).expect("the keys come back");
        // Then nothing is left to compare key by key, and nothing is copied.
        cluster.run_for(60 * SECOND);
        let traffic = |cluster: &SimCluster| -> Vec<(u64, u64)> {
            let traffic = (0..3).map(|node| cluster.traffic(node));
            traffic.map(|it| (it.copied, it.all - it.compared)).collect()
        };
        let before = traffic(&cluster);
        cluster.run_for(150 * SECOND);
        assert_eq!(traffic(&cluster), before, "seed {seed}: something is sent for ever");
    }
    for mutant in [ProtocolMutant::HuskTies, ProtocolMutant::EarlyHusksKept] {
        assert!(returned(0, Some(mutant)).is_none(), "{mutant:?} was not noticed");
    }
}

/// A clock stays an hour off, and what has expired by it reaches another node, which copies it as
/// it starts again. Comparing key by key finds the same differences each time, which no repair
/// removes: it is done once, and not for as long as the clock is off.
#[test]
fn while_a_clock_is_off_the_copies_are_not_compared_for_ever() {
    for (seed, off) in [(0, HOUR_MS), (1, -HOUR_MS), (2, HOUR_MS), (3, -HOUR_MS)] {
        let ttl = if off > 0 { 1800 } else { 60 } * SECOND;
        let (mut cluster, _) = with_keys(seed, ttl, None);
        cluster.move_clock(2, off);
        cluster.run_for(120 * SECOND);
        cluster.crash_node(1);
        cluster.run_for(5 * SECOND);
        cluster.restart_node(1);
        settle(&mut cluster);
        cluster.run_for(300 * SECOND);
        let surveys = |cluster: &SimCluster| -> Vec<(u64, u64)> {
            let traffic = (0..3).map(|node| cluster.traffic(node));
            traffic.map(|it| (it.copied, it.surveyed)).collect()
        };
        let before = surveys(&cluster);
        cluster.run_for(150 * SECOND);
        assert_eq!(surveys(&cluster), before, "seed {seed}: something is sent for ever");
    }
}

/// The node whose clock was ahead is the only one that a newcomer copies from at first: it has the
/// husks, and learns that there are values before the others drop theirs.
#[test]
fn a_newcomer_that_copied_husks_gets_the_values_too() {
    for seed in 0..6 {
        let (mut cluster, keys) = with_keys(seed, 1800 * SECOND, None);
        jump_and_return(&mut cluster, 1, &keys);
        let newcomer = cluster.start_node();
        cluster.leave(0);
        cluster.leave(2);
        let has_left = |cluster: &SimCluster| !cluster.is_running(0) && !cluster.is_running(2);
        wait(&mut cluster, 60 * SECOND, has_left);
        assert!(
            cluster.run_until(REPAIRED_WITHIN, |cluster| are_everywhere(cluster, &keys, 2)),
            "seed {seed}: n{newcomer} and n1 lack values"
        );
    }
}

/// A longer life has the version of the write that it prolongs. It wins over what is left of the
/// shorter one on any node, and a shorter life over the value of the longer one.
#[test]
fn changes_of_a_time_to_live_hold_on_a_clock_that_was_ahead() {
    for seed in 0..4 {
        let (mut cluster, keys) = with_keys(seed, 1800 * SECOND, None);
        cluster.move_clock(1, HOUR_MS);
        cluster.run_for(5 * SECOND);
        for (at, key) in keys.iter().enumerate() {
            let ttl = if at % 2 == 0 { 2400 } else { 300 };
            let call = cluster.touch(2, key, Some(ttl * SECOND));
            assert_eq!(outcome(&mut cluster, call), CallResult::Touched(Ok(true)), "{key}");
        }
        cluster.run_for(5 * SECOND);
        cluster.move_clock(1, -HOUR_MS);
        assert!(cluster.run_until(REPAIRED_WITHIN, |it| are_everywhere(it, &keys, 3)));
        cluster.run_for(320 * SECOND);
        for (at, key) in keys.iter().enumerate() {
            let expected = if at % 2 == 0 { 3 } else { 0 };
            assert_eq!(cluster.copies(key).len(), expected, "seed {seed}: {key}");
        }
        cluster.run_for(1600 * SECOND);
        let left = keys.iter().step_by(2).filter(|key| cluster.copies(key).len() == 3).count();
        assert_eq!(left, keys.len() / 2, "seed {seed}");
    }
}

/// A clock that is behind keeps keys for longer, and when it is set right they are gone at once.
#[test]
fn what_a_clock_that_was_behind_kept_expires_when_it_is_right() {
    for seed in 0..4 {
        let options = options(None);
        let keys = keys(&options);
        let mut cluster = started(seed, 3, options);
        cluster.move_clock(2, -HOUR_MS);
        keys.iter().for_each(|key| set_for(&mut cluster, 0, key, 20 * SECOND));
        cluster.run_for(30 * SECOND);
        for key in &keys {
            let holders: Vec<usize> = cluster.copies(key).into_iter().map(|(it, _)| it).collect();
            assert_eq!(holders, [2], "seed {seed}");
        }
        cluster.move_clock(2, HOUR_MS);
        assert!(are_everywhere(&cluster, &keys, 0), "seed {seed}");
        for key in &keys {
            assert_eq!(read(&mut cluster, 2, key), None, "seed {seed}");
        }
    }
}

/// A node's clock was years ahead for a moment. What it wrote then has versions of that time, and
/// so has what it writes later. Writes of other nodes still replace it, and so do deletes, and
/// those of the node itself, which come after them.
#[test]
fn versions_of_a_clock_that_was_far_ahead_stand_in_no_writes_way() {
    const YEARS_MS: i64 = 3 * 365 * 24 * HOUR_MS;
    for seed in 0..6 {
        let options = options(None);
        let keys = keys(&options);
        let mut cluster = started(seed, 4, options);
        cluster.move_clock(1, YEARS_MS);
        keys.iter().for_each(|key| write(&mut cluster, 1, key, "future"));
        cluster.run_for(SECOND);
        cluster.move_clock(1, -YEARS_MS);
        for round in 0..4 {
            for (at, key) in keys.iter().enumerate() {
                let node = (at + round) % 4;
                write(&mut cluster, node, key, format!("{round}"));
                for reader in 0..4 {
                    let found = read(&mut cluster, reader, key);
                    // With R = 1 a read might be answered by a replica that has not heard of it.
                    assert!(found.is_some(), "seed {seed}: {key} through n{reader}");
                }
                cluster.run_for(20 * MS);
                let expected = format!("{round}").into_bytes();
                for (holder, value) in cluster.copies(key) {
                    assert_eq!(value, expected, "seed {seed}: {key} on n{holder}");
                }
            }
        }
        for (at, key) in keys.iter().enumerate() {
            delete(&mut cluster, at % 4, key);
            cluster.run_for(20 * MS);
            assert_eq!(cluster.copies(key), [], "seed {seed}: {key}");
        }
    }
}

/// What a node's app was told of clocks: whose is off, by how many milliseconds, or right again.
fn told(cluster: &SimCluster, node: usize) -> Vec<(String, Option<i64>)> {
    let of_clocks = |event: &Event| match event {
        Event::ClockOff { node, is_ahead, by } => {
            let by = by.as_millis() as i64;
            Some((node.to_string(), Some(if *is_ahead { by } else { -by })))
        }
        Event::ClockRight { node } => Some((node.to_string(), None)),
        _ => None,
    };
    cluster.events(node).iter().filter_map(of_clocks).collect()
}

/// Nothing told an operator that a node's clock was off: times to live were wrong there, and each
/// node took its own clock for the right one.
#[test]
fn a_clock_that_is_off_is_named_by_all_and_once() {
    for (seed, by_ms) in (0..).zip([3000, -3000, HOUR_MS, -HOUR_MS]) {
        let mut options = options(None);
        options.clock_skew = 20 * MS;
        options.datagrams_lost_per_mille = 50;
        let mut cluster = started(seed, 4, options);
        // Neither do pauses make clocks wrong: what came in the meantime is old when it is read.
        cluster.run_for(20 * SECOND);
        cluster.pause_node(2, 15 * SECOND);
        cluster.run_for(60 * SECOND);
        for node in 0..4 {
            assert_eq!(told(&cluster, node), [], "seed {seed}: n{node}");
        }
        cluster.move_clock(1, by_ms);
        cluster.run_for(60 * SECOND);
        for node in 0..4 {
            let told = told(&cluster, node);
            let [(whose, Some(off))] = &told[..] else { panic!("seed {seed}: n{node}: {told:?}") };
            assert!(*whose == "n1" && off.abs_diff(by_ms) < 100, "seed {seed}: n{node}: {told:?}");
        }
        cluster.move_clock(1, -by_ms);
        cluster.run_for(60 * SECOND);
        for node in 0..4 {
            let told = told(&cluster, node);
            assert_eq!(told[1..], [("n1".to_string(), None)], "seed {seed}: n{node}");
        }
    }
}

/// A node's clock is an hour ahead. It learns of a longer life of the keys, by which they are over
/// there, too. The node that wrote it crashes, and the third one has the values with the shorter
/// life. The longer life of what is left must not replace them: it is the value that lives longer.
fn prolonged(seed: u64, mutant: Option<ProtocolMutant>) -> bool {
    let (mut cluster, keys) = with_keys(seed, 1800 * SECOND, mutant);
    cluster.move_clock(1, HOUR_MS);
    cluster.run_for(60 * SECOND);
    cluster.cut(2, 0);
    cluster.cut(1, 0);
    for key in &keys {
        let call = cluster.touch(2, key, Some(2400 * SECOND));
        assert_eq!(outcome(&mut cluster, call), CallResult::Touched(Ok(true)), "{key}");
    }
    cluster.crash_node(2);
    cluster.move_clock(1, -HOUR_MS);
    cluster.mend();
    cluster.run_for(REPAIRED_WITHIN);
    cluster.run_for(2000 * SECOND);
    keys.iter().all(|key| cluster.copies(key).len() == 2)
}

#[test]
fn what_is_left_of_a_longer_life_prolongs_the_value() {
    for seed in 0..4 {
        assert!(prolonged(seed, None), "seed {seed}");
    }
    assert!((0..4).any(|seed| !prolonged(seed, Some(ProtocolMutant::HuskReplaces))));
}

/// The clocks of all three replicas were ahead, so no value is left, and one of them is silent.
/// Returns whether each read is answered within a second.
fn is_answered(seed: u64, mutant: Option<ProtocolMutant>) -> bool {
    let (mut cluster, keys) = with_keys(seed, 1800 * SECOND, mutant);
    (0..3).for_each(|node| cluster.move_clock(node, HOUR_MS));
    cluster.run_for(60 * SECOND);
    (0..3).for_each(|node| cluster.move_clock(node, -HOUR_MS));
    assert!(are_everywhere(&cluster, &keys, 0), "seed {seed}: the keys did not expire");
    cluster.swallow(0, 2);
    keys.iter().all(|key| {
        let call = cluster.get(0, key);
        cluster.run_until(SECOND, |cluster| cluster.outcome(call).is_some())
            && matches!(cluster.outcome(call), Some(CallResult::Read(Ok(None))))
    })
}

/// A read that met an early husk waited for all replicas that were alive, also for one that was
/// silent, until its timeout.
#[test]
fn a_silent_replica_does_not_hold_up_a_miss_that_all_clocks_made() {
    for seed in 0..4 {
        assert!(is_answered(seed, None), "seed {seed}");
    }
    let is_noticed = !is_answered(0, Some(ProtocolMutant::DoubtsForEver));
    assert!(is_noticed, "DoubtsForEver was not noticed");
}

/// A node comes and goes. Returns how many bytes of copies the old nodes but `jumped` send then.
fn copied_for_a_guest(cluster: &mut SimCluster, jumped: usize) -> u64 {
    let copied = |cluster: &SimCluster| -> u64 {
        let others = (0..3).filter(|node| *node != jumped);
        others.map(|node| cluster.traffic(node).copied).sum()
    };
    let before = copied(cluster);
    let guest = cluster.start_node();
    settle(cluster);
    cluster.leave(guest);
    wait(cluster, 60 * SECOND, |cluster| !cluster.is_running(guest));
    settle(cluster);
    copied(cluster) - before
}

/// Husks that were early once made each later fetch of their partitions a full copy.
#[test]
fn once_they_are_surveyed_early_husks_cost_no_copies() {
    for seed in 0..4 {
        let (mut cluster, _) = with_keys(seed, 1800 * SECOND, None);
        let usual = copied_for_a_guest(&mut cluster, seed as usize % 3);
        let mut cluster = returned(seed, None).expect("the keys come back");
        cluster.run_for(60 * SECOND);
        let copied = copied_for_a_guest(&mut cluster, seed as usize % 3);
        assert!(10 * copied < 11 * usual, "seed {seed}: {copied} bytes, and {usual} without");
    }
}
