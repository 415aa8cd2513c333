//! Random calls while nodes crash, join, leave, restart and pause: what was acknowledged is there.

use std::time::Duration;

use gridkv::sim::{CallId, CallResult, ProtocolMutant, SimCluster, SimOptions};

use crate::support::{
    MS, RandomCalls, SECOND, WRITTEN, lossy, one_thing_at_a_time, outcome, read, seeds, started,
    write,
};

/// A rolling restart under load, with crashes in place of leaves: each node is killed the moment
/// another one says that it is safe, calls under way and all, and started again.
#[test]
fn whoever_is_killed_when_it_is_safe_takes_nothing_along() {
    for seed in seeds(3) {
        let mut workload = RandomCalls::new(seed, 60);
        let nodes = 3 + seed as usize % 2;
        let mut cluster = started(seed, nodes, lossy());
        workload.run(&mut cluster, nodes, SECOND);
        for round in 0..2 * nodes {
            let victim = round % nodes;
            let asked = (victim + 1 + workload.pick(nodes - 1)) % nodes;
            assert!(
                cluster.wait_until_safe(asked, 30 * SECOND),
                "seed {seed}: not safe:\n{}",
                cluster.describe()
            );
            cluster.crash_node(victim);
            workload.run(&mut cluster, nodes, Duration::from_millis(1500));
            if nodes == 3 {
                assert!(
                    !cluster.wait_until_safe(asked, SECOND),
                    "two nodes cannot hold three copies"
                );
            }
            cluster.restart_node(victim);
            workload.run(&mut cluster, nodes, Duration::from_millis(500));
        }
        cluster.set_loss(0, 0);
        assert!(cluster.wait_until_safe(0, 30 * SECOND), "seed {seed}");
        workload.check(&mut cluster, nodes, 3);
        assert!(
            workload.acknowledged > 10 * workload.failed,
            "seed {seed}: {} failed",
            workload.failed
        );
    }
}

/// Each node leaves under load and comes back. Calls that the leaver took are answered; it goes
/// when every replica has what it acknowledged, so no other node's call fails for it, either.
#[test]
fn a_rolling_restart_fails_no_call_and_loses_nothing() {
    for seed in seeds(3) {
        let mut options = SimOptions::default();
        options.clock_skew = Duration::from_secs(5);
        let mut workload = RandomCalls::new(seed, 60);
        let nodes = 3 + seed as usize % 3;
        let mut cluster = started(seed, nodes, options);
        for leaver in 0..nodes {
            workload.run(&mut cluster, nodes, SECOND / 2);
            cluster.leave(leaver);
            let begun = cluster.elapsed();
            while cluster.is_running(leaver) {
                workload.run(&mut cluster, nodes, Duration::from_millis(5));
                assert!(
                    cluster.elapsed() - begun < 20 * SECOND,
                    "seed {seed}: n{leaver} stays:\n{}",
                    cluster.describe()
                );
            }
            workload.run(&mut cluster, nodes, SECOND / 2);
            cluster.restart_node(leaver);
            workload.new = Some(leaver);
            workload.run(&mut cluster, nodes, SECOND / 4);
            workload.new = None;
            workload.run(&mut cluster, nodes, SECOND / 2);
            assert!(
                cluster.wait_until_safe(leaver, 20 * SECOND),
                "seed {seed}: {}",
                cluster.describe()
            );
        }
        workload.check(&mut cluster, nodes, 3);
        assert_eq!(workload.failed, 0, "seed {seed}");
        assert!(workload.reads > 300 && workload.acknowledged > 600, "{} reads", workload.reads);
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_one_thing_happens_at_a_time() {
    let mut options = lossy();
    options.keep_trace = std::env::var("GRIDKV_TRACE").is_ok();
    for seed in seeds(30) {
        let cluster = one_thing_at_a_time(seed, options.clone());
        println!("trace of seed {seed}: {:016x}", cluster.trace_hash());
    }
}

/// Coordinators whose clocks are ten seconds apart take turns in writing a key: with R = 1 and with
/// R = 2 the later write is the newer one, and with R = 2 every read sees it, lost connections or
/// not.
#[test]
fn strong_reads_see_every_acknowledged_write() {
    for seed in 0..15 {
        let mut options = lossy();
        options.connections_broken_per_mille = 5;
        options.read_quorum = 2;
        let mut cluster = started(seed, 4, options);
        let mut workload = RandomCalls::new(seed, 8);
        workload.strong = true;
        workload.run(&mut cluster, 4, 10 * SECOND);
        cluster.set_loss(0, 0);
        cluster.run_for(5 * SECOND);
        workload.drain(&mut cluster);
        assert!(workload.reads > 200 && workload.acknowledged > 400, "{} reads", workload.reads);
    }
}

/// Every key is touched all the time, while it is set and deleted through nodes whose clocks differ
/// and whose connections break. A touch writes old bytes: they must not be found above a write that
/// was acknowledged after they were read, and what is deleted must not come back.
#[test]
fn a_touch_never_puts_an_older_value_above_a_newer_one() {
    #[derive(Default)]
    struct Touched {
        state: Option<Vec<u8>>,
        maybe: Vec<Option<Vec<u8>>>,
        writing: Option<(CallId, Option<Vec<u8>>)>,
        /// The touches under way, each with what it must find if that is known.
        touching: Vec<(CallId, Option<bool>)>,
    }
    for seed in 0..12 {
        let mut options = lossy();
        options.connections_broken_per_mille = 10;
        options.read_quorum = 1 + seed as usize % 2;
        let mut cluster = started(seed, 4, options);
        let mut dice = RandomCalls::new(seed, 0);
        let mut keys: Vec<Touched> = (0..8).map(|_| Touched::default()).collect();
        let (mut touches, mut hits, mut writes) = (0, 0, 0);
        let mut now_what = |cluster: &SimCluster, key: &mut Touched| {
            if let Some((call, state)) = key.writing.take() {
                match cluster.outcome(call) {
                    None => key.writing = Some((call, state)),
                    Some(CallResult::Written(Ok(()))) => {
                        (key.state, writes) = (state, writes + 1);
                    }
                    Some(_) => key.maybe.push(state),
                }
            }
            key.touching.retain(|(call, expected)| match cluster.outcome(*call) {
                None => true,
                Some(CallResult::Touched(Ok(found))) => {
                    assert!(
                        expected.is_none_or(|expected| expected == *found),
                        "seed {seed}: {call:?}"
                    );
                    (touches, hits) = (touches + 1, hits + u32::from(*found));
                    false
                }
                Some(other) => {
                    assert!(matches!(other, CallResult::Touched(Err(_))), "{other:?}");
                    false
                }
            });
        };
        for step in 0..4000u64 {
            let at = dice.pick(keys.len());
            let (key, name) = (&mut keys[at], format!("key-{at}"));
            now_what(&cluster, key);
            if dice.pick(3) == 0 && key.writing.is_none() {
                let state = (dice.pick(4) > 0).then(|| step.to_le_bytes().to_vec());
                let call = match &state {
                    Some(value) => cluster.set(dice.pick(4), &name, value),
                    None => cluster.delete(dice.pick(4), &name),
                };
                key.writing = Some((call, state));
                key.touching.iter_mut().for_each(|(_, expected)| *expected = None);
            } else if key.touching.len() < 3 {
                let ttl = Duration::from_secs(3600 + dice.pick(1000) as u64);
                let call = cluster.touch(dice.pick(4), &name, Some(ttl));
                let is_known = key.writing.is_none() && key.maybe.is_empty();
                key.touching.push((call, is_known.then_some(key.state.is_some())));
            }
            cluster.run_for(Duration::from_millis(2));
        }
        cluster.set_loss(0, 0);
        cluster.run_for(5 * SECOND);
        keys.iter_mut().for_each(|key| now_what(&cluster, key));
        for (at, key) in keys.iter().enumerate() {
            assert!(
                key.writing.is_none() && key.touching.is_empty(),
                "seed {seed}: a call has no answer"
            );
            for node in 0..4 {
                let call = cluster.get(node, format!("key-{at}"));
                let CallResult::Read(Ok(found)) = outcome(&mut cluster, call) else {
                    panic!("seed {seed}")
                };
                let is_right = found == key.state || key.maybe.contains(&found);
                assert!(
                    is_right,
                    "seed {seed}: key {at} through {node} is {found:?}, not {:?}",
                    key.state
                );
            }
        }
        assert!(
            touches > 1000 && hits > 500 && writes > 500,
            "{touches} touches, {hits}; {writes} writes"
        );
    }
}

#[test]
fn one_seed_is_one_history() {
    let mut options = lossy();
    options.keep_trace = true;
    let one = one_thing_at_a_time(11, options.clone());
    let other = one_thing_at_a_time(11, options);
    assert!(one.events_handled() > 10_000, "only {} events", one.events_handled());
    assert!(one.trace() == other.trace(), "the same seed gave two histories");
    assert_eq!(one.trace_hash(), other.trace_hash());
}

/// How long a write is owed to a replica after the network is whole, if what was sent to it got
/// lost on a connection that stayed; `None` if for longer than 20 seconds.
fn owed_for(seed: u64, mutant: Option<ProtocolMutant>) -> Option<Duration> {
    let mut options = SimOptions::default();
    (options.partitions, options.mutant) = (64, mutant);
    let keys: Vec<String> = (0..20).map(|key| options.key(key)).collect();
    let mut cluster = started(seed, 3, options);
    keys.iter().for_each(|key| write(&mut cluster, 0, key, "old"));
    cluster.run_for(SECOND);
    cluster.swallow(0, 2);
    keys.iter().for_each(|key| write(&mut cluster, 0, key, "new"));
    cluster.run_for(MS * (seed as u32 * 700));
    cluster.mend();
    let mended = cluster.elapsed();
    let is_paid = cluster.run_until(20 * SECOND, |cluster| cluster.open_calls(0) == (0, 0));
    if is_paid {
        for key in &keys {
            assert_eq!(read(&mut cluster, 2, key).as_deref(), Some(&b"new"[..]), "seed {seed}");
        }
    }
    is_paid.then(|| cluster.elapsed() - mended)
}

/// Two replicas had acknowledged a write; the request to the third got lost, and its connection
/// stayed, as one through a proxy does. The write was owed for the half minute of the hint window,
/// and not once offered again: all that time, and then until anti-entropy looked at the partition,
/// reads through the third node found the old value.
#[test]
fn what_gets_lost_on_a_connection_that_stays_is_offered_again() {
    for seed in 0..6 {
        let owed = owed_for(seed, None);
        assert!(owed.is_some_and(|owed| owed < 6 * SECOND), "seed {seed}: {owed:?}");
    }
    assert_eq!(owed_for(0, Some(ProtocolMutant::OfferedOnce)), None, "the bug is found");
}

/// A time to live was shortened 63 times, which left no number between the version of the write
/// and that of the next one. The 64th change took its version from the clock of its node, which was
/// ahead: the value that it had read replaced the one that another node wrote at the same time, and
/// that was acknowledged.
#[test]
fn a_time_to_live_that_was_shortened_often_keeps_a_value_written_at_the_same_time() {
    let mut together = 0;
    for seed in 0..60 {
        let mut options = SimOptions::default();
        options.partitions = 16;
        let key = options.key(0);
        let mut cluster = started(seed, 3, options);
        cluster.move_clock(0, 2000);
        let call = cluster.set_for(1, &key, "old", 600 * SECOND);
        assert_eq!(outcome(&mut cluster, call), WRITTEN);
        for shortened in 1..64 {
            let call = cluster.touch(0, &key, Some((590 - shortened) * SECOND));
            assert_eq!(outcome(&mut cluster, call), CallResult::Touched(Ok(true)));
        }
        cluster.run_for(SECOND);
        let touch = cluster.touch(0, &key, Some(100 * SECOND));
        cluster.run_for(MS * (seed as u32 % 20) / 10);
        let set = cluster.set(1, &key, "new");
        together += usize::from(cluster.outcome(touch).is_none());
        assert_eq!(outcome(&mut cluster, set), WRITTEN, "seed {seed}");
        outcome(&mut cluster, touch);
        cluster.run_for(SECOND);
        for (node, value) in cluster.copies(&key) {
            let value = String::from_utf8(value).unwrap();
            assert_eq!(value, "new", "seed {seed}: the acknowledged write is not on n{node}");
        }
    }
    assert!(together > 20, "{together} times the two were under way together");
}
