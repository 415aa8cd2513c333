//! The cluster under the simulator: real shards and real control, virtual time.

use std::time::Duration;

use gridkv::sim::{CallId, CallResult, SimCluster, SimOptions};
use gridkv::{NotApplied, WriteError};

const SECOND: Duration = Duration::from_secs(1);

/// A cluster that writes its trace to the file that `GRIDKV_TRACE` names when a test fails.
struct Traced(SimCluster);

impl std::ops::Deref for Traced {
    type Target = SimCluster;

    fn deref(&self) -> &SimCluster {
        &self.0
    }
}

impl std::ops::DerefMut for Traced {
    fn deref_mut(&mut self) -> &mut SimCluster {
        &mut self.0
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(path) = std::env::var("GRIDKV_TRACE")
        {
            let _ = std::fs::write(path, self.trace());
        }
    }
}

fn started(seed: u64, nodes: usize, options: SimOptions) -> Traced {
    let mut cluster = Traced(SimCluster::with_options(seed, options));
    for _ in 0..nodes {
        cluster.start_node();
    }
    assert!(cluster.run_until(20 * SECOND, SimCluster::is_settled), "seed {seed}: the nodes did not settle");
    cluster
}

fn outcome(cluster: &mut SimCluster, call: CallId) -> CallResult {
    assert!(cluster.run_until(3 * SECOND, |cluster| cluster.outcome(call).is_some()), "a call got no answer");
    cluster.outcome(call).unwrap().clone()
}

#[test]
fn three_nodes_write_and_read_through_each_other() {
    let mut cluster = started(1, 3, SimOptions::default());
    for key in 0..50 {
        let call = cluster.set(key % 3, format!("key-{key}"), format!("value-{key}"));
        assert_eq!(outcome(&mut cluster, call), CallResult::Written(Ok(())), "key {key}");
    }
    for node in 0..3 {
        for key in 0..50 {
            let call = cluster.get(node, format!("key-{key}"));
            let value = Some(format!("value-{key}").into_bytes());
            assert_eq!(outcome(&mut cluster, call), CallResult::Read(Ok(value)), "key {key} through {node}");
        }
    }
}

/// What one key went through. Its writes come one after the other.
#[derive(Default, Clone)]
struct Key {
    acknowledged: Option<Vec<u8>>,
    /// Writes that may have happened: each may show at any time.
    indeterminate: Vec<Vec<u8>>,
    writing: Option<(CallId, Vec<u8>)>,
    /// With whether a write had been acknowledged before it began.
    reading: Option<(CallId, bool)>,
}

impl Key {
    fn may_be(&self, value: &[u8]) -> bool {
        self.acknowledged.as_deref() == Some(value) || self.indeterminate.iter().any(|other| other == value)
    }
}

/// Random calls through random nodes, and what they prove.
struct Workload {
    seed: u64,
    /// R ≥ 2: a read must see what was acknowledged before it.
    strong: bool,
    /// Not called: it knows nobody yet.
    new: Option<usize>,
    random: u64,
    keys: Vec<Key>,
    acknowledged: usize,
    failed: usize,
    reads: usize,
}

impl Workload {
    fn new(seed: u64, keys: usize) -> Self {
        let keys = vec![Key::default(); keys];
        Self { seed, strong: false, new: None, random: seed, keys, acknowledged: 0, failed: 0, reads: 0 }
    }

    /// A number below `limit`: SplitMix64.
    fn pick(&mut self, limit: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    fn running(cluster: &SimCluster, nodes: usize) -> Vec<usize> {
        (0..nodes).filter(|&node| cluster.is_running(node) && !cluster.is_paused(node)).collect()
    }

    /// Makes calls for `time`, and notes how those before ended.
    fn run(&mut self, cluster: &mut SimCluster, nodes: usize, time: Duration) {
        let until = cluster.elapsed() + time;
        while cluster.elapsed() < until {
            let at = self.pick(self.keys.len());
            self.note(cluster, at);
            let mut running = Self::running(cluster, nodes);
            running.retain(|node| Some(*node) != self.new);
            let node = running[self.pick(running.len())];
            let must_wait = self.strong && self.keys[at].reading.is_some();
            if self.pick(3) > 0 && self.keys[at].writing.is_none() && !must_wait {
                let value = format!("{at}:{}", self.pick(1 << 40)).into_bytes();
                let call = cluster.set(node, format!("key-{at}"), &value);
                self.keys[at].writing = Some((call, value));
            } else if self.keys[at].reading.is_none() && self.keys[at].writing.is_none() {
                let call = cluster.get(node, format!("key-{at}"));
                self.keys[at].reading = Some((call, self.keys[at].acknowledged.is_some()));
            }
            cluster.run_for(Duration::from_millis(2));
        }
    }

    fn note(&mut self, cluster: &SimCluster, at: usize) {
        let key = &mut self.keys[at];
        if let Some((call, value)) = key.writing.clone() {
            match cluster.outcome(call) {
                Some(CallResult::Written(Ok(()))) => {
                    key.acknowledged = Some(value);
                    self.acknowledged += 1;
                    key.writing = None;
                }
                // Its node is about to leave, and says so.
                Some(CallResult::Written(Err(WriteError::NotApplied(NotApplied::ShutDown)))) => {
                    key.writing = None;
                }
                Some(CallResult::Written(Err(WriteError::NotApplied(_)))) => {
                    self.failed += 1;
                    key.writing = None;
                }
                Some(_) => {
                    key.indeterminate.push(value);
                    self.failed += 1;
                    key.writing = None;
                }
                None => {}
            }
        }
        if let Some((call, must_exist)) = key.reading
            && let Some(outcome) = cluster.outcome(call)
        {
            key.reading = None;
            match outcome {
                CallResult::Read(Ok(Some(value))) => {
                    self.reads += 1;
                    assert!(
                        !self.strong || key.may_be(value),
                        "seed {}: key {at} was read as {value:?} after {:?} was acknowledged",
                        self.seed,
                        key.acknowledged
                    );
                }
                CallResult::Read(Ok(None)) => {
                    assert!(!must_exist, "seed {}: key {at} was not found", self.seed);
                }
                _ => {}
            }
        }
    }

    /// Waits for the calls that are under way. Those through a node that crashed have no answer.
    fn drain(&mut self, cluster: &mut SimCluster) {
        cluster.run_for(3 * SECOND);
        for at in 0..self.keys.len() {
            self.note(cluster, at);
            let key = &mut self.keys[at];
            key.reading = None;
            if let Some((_, value)) = key.writing.take() {
                key.indeterminate.push(value);
            }
        }
    }

    /// Every acknowledged write is there, through every node, and on N of them.
    fn check(&mut self, cluster: &mut SimCluster, nodes: usize, copies: usize) {
        self.drain(cluster);
        let seed = self.seed;
        for node in Self::running(cluster, nodes) {
            let calls: Vec<CallId> =
                (0..self.keys.len()).map(|at| cluster.get(node, format!("key-{at}"))).collect();
            cluster.run_for(3 * SECOND);
            for (at, call) in calls.into_iter().enumerate() {
                let key = &self.keys[at];
                match cluster.outcome(call) {
                    Some(CallResult::Read(Ok(Some(value)))) => {
                        assert!(key.may_be(value), "seed {seed}: key {at} through {node} is {value:?}");
                    }
                    Some(CallResult::Read(Ok(None))) if key.acknowledged.is_none() => {}
                    other => panic!("seed {seed}: key {at} through {node}: {other:?}"),
                }
            }
        }
        for (at, key) in self.keys.iter().enumerate() {
            if key.acknowledged.is_some() {
                let held = cluster.copies(format!("key-{at}"));
                assert!(held.len() == copies, "seed {seed}: key {at} has {} copies: {held:?}", held.len());
            }
        }
    }
}

fn settle(cluster: &mut SimCluster, seed: u64, after: &str) {
    let settled = cluster.run_until(40 * SECOND, SimCluster::is_settled);
    assert!(settled, "seed {seed}: not settled after {after}:\n{}", cluster.describe());
}

fn lossy() -> SimOptions {
    let mut options = SimOptions::default();
    options.datagrams_lost_per_mille = 30;
    options.connections_broken_per_mille = 1;
    options.clock_skew = Duration::from_secs(5);
    options
}

/// One thing at a time: a crash, a newcomer, a leave, a restart, a pause with or without a false death,
/// each among calls, each settled before the next.
fn one_thing_at_a_time(seed: u64, options: SimOptions) -> Traced {
    let mut workload = Workload::new(seed, 60);
    let start = 3 + workload.pick(2);
    let mut cluster = started(seed, start, options);
    let mut nodes = start;
    workload.run(&mut cluster, nodes, SECOND);
    for _ in 0..4 {
        let running = Workload::running(&cluster, nodes);
        let victim = running[workload.pick(running.len())];
        let down: Vec<usize> = (0..nodes).filter(|node| !running.contains(node)).collect();
        let after = match workload.pick(5) {
            4 if running.len() > 2 => {
                // Some are shorter than a death takes to be noticed, some longer.
                cluster.pause_node(victim, Duration::from_millis(300 + workload.pick(3000) as u64));
                "pause"
            }
            0 if running.len() > 3 => {
                cluster.leave(victim);
                "leave"
            }
            1 if nodes < 6 => {
                cluster.start_node();
                nodes += 1;
                "join"
            }
            2 if !down.is_empty() => {
                let node = down[workload.pick(down.len())];
                cluster.restart_node(node);
                "restart"
            }
            _ if running.len() > 2 => {
                cluster.crash_node(victim);
                "crash"
            }
            _ => continue,
        };
        workload.run(&mut cluster, nodes, 2 * SECOND);
        cluster.run_for(2 * SECOND);
        settle(&mut cluster, seed, after);
    }
    cluster.set_loss(0, 0);
    settle(&mut cluster, seed, "healing");
    cluster.run_for(2 * SECOND);
    let copies = Workload::running(&cluster, nodes).len().min(3);
    workload.check(&mut cluster, nodes, copies);
    assert!(workload.acknowledged > workload.failed, "seed {seed}: {} writes failed", workload.failed);
    cluster
}

/// As many seeds as `GRIDKV_SEEDS` says, or so many, from `GRIDKV_SEED` on, or from zero.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse().ok());
    let from = number("GRIDKV_SEED").unwrap_or(0);
    from..from + number("GRIDKV_SEEDS").unwrap_or(count)
}

/// A rolling restart under load, with crashes in place of leaves: each node is killed the moment another one says
/// that it is safe, calls under way and all, and started again.
#[test]
fn whoever_is_killed_when_it_is_safe_takes_nothing_along() {
    for seed in seeds(3) {
        let mut workload = Workload::new(seed, 60);
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
                assert!(!cluster.wait_until_safe(asked, SECOND), "two nodes cannot hold three copies");
            }
            cluster.restart_node(victim);
            workload.run(&mut cluster, nodes, Duration::from_millis(500));
        }
        cluster.set_loss(0, 0);
        assert!(cluster.wait_until_safe(0, 30 * SECOND), "seed {seed}");
        workload.check(&mut cluster, nodes, 3);
        assert!(workload.acknowledged > 10 * workload.failed, "seed {seed}: {} failed", workload.failed);
    }
}

/// Each node leaves under load and comes back. Calls that the leaver took are answered; it goes when every replica
/// has what it acknowledged, so no other node's call fails for it, either.
#[test]
fn a_rolling_restart_fails_no_call_and_loses_nothing() {
    for seed in seeds(3) {
        let mut options = SimOptions::default();
        options.clock_skew = Duration::from_secs(5);
        let mut workload = Workload::new(seed, 60);
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
            assert!(cluster.wait_until_safe(leaver, 20 * SECOND), "seed {seed}: {}", cluster.describe());
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

/// Coordinators whose clocks are ten seconds apart take turns in writing a key: with R = 1 and with R = 2
/// the later write is the newer one, and with R = 2 every read sees it, lost connections or not.
#[test]
fn strong_reads_see_every_acknowledged_write() {
    for seed in 0..15 {
        let mut options = lossy();
        options.connections_broken_per_mille = 5;
        options.read_quorum = 2;
        let mut cluster = started(seed, 4, options);
        let mut workload = Workload::new(seed, 8);
        workload.strong = true;
        workload.run(&mut cluster, 4, 10 * SECOND);
        cluster.set_loss(0, 0);
        cluster.run_for(5 * SECOND);
        workload.drain(&mut cluster);
        assert!(workload.reads > 200 && workload.acknowledged > 400, "{} reads", workload.reads);
    }
}

/// A delete is versioned: a replica that missed it does not bring the key back, whoever is asked.
#[test]
fn a_deleted_key_stays_deleted_when_a_replica_missed_the_delete() {
    let mut cluster = started(3, 4, SimOptions::default());
    for key in 0..40 {
        let key = format!("key-{key}");
        let call = cluster.set(0, &key, "value");
        assert_eq!(outcome(&mut cluster, call), CallResult::Written(Ok(())));
    }
    cluster.set_loss(0, 300);
    let deletes: Vec<CallId> = (0..40).map(|key| cluster.delete(key % 4, format!("key-{key}"))).collect();
    cluster.run_for(SECOND);
    cluster.set_loss(0, 0);
    cluster.run_for(3 * SECOND);
    for (key, call) in deletes.into_iter().enumerate() {
        if cluster.outcome(call) != Some(&CallResult::Written(Ok(()))) {
            continue;
        }
        for node in 0..4 {
            let call = cluster.get(node, format!("key-{key}"));
            assert_eq!(outcome(&mut cluster, call), CallResult::Read(Ok(None)), "key {key} through {node}");
        }
    }
}

/// Every key is touched all the time, while it is set and deleted through nodes whose clocks differ and whose
/// connections break. A touch writes old bytes: they must not be found above a write that was acknowledged after
/// they were read, and what is deleted must not come back.
#[test]
fn a_touch_never_puts_an_older_value_above_a_newer_one() {
    #[derive(Default)]
    struct Touched {
        state: Option<Vec<u8>>,
        maybe: Vec<Option<Vec<u8>>>,
        writing: Option<(CallId, Option<Vec<u8>>)>,
        /// With what must be found, where that is known.
        touching: Vec<(CallId, Option<bool>)>,
    }
    for seed in 0..12 {
        let mut options = lossy();
        options.connections_broken_per_mille = 10;
        options.read_quorum = 1 + seed as usize % 2;
        let mut cluster = started(seed, 4, options);
        let mut dice = Workload::new(seed, 0);
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
                    assert!(expected.is_none_or(|expected| expected == *found), "seed {seed}: {call:?}");
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
            assert!(key.writing.is_none() && key.touching.is_empty(), "seed {seed}: a call has no answer");
            for node in 0..4 {
                let call = cluster.get(node, format!("key-{at}"));
                let CallResult::Read(Ok(found)) = outcome(&mut cluster, call) else { panic!("seed {seed}") };
                let is_right = found == key.state || key.maybe.contains(&found);
                assert!(is_right, "seed {seed}: key {at} through {node} is {found:?}, not {:?}", key.state);
            }
        }
        assert!(touches > 1000 && hits > 500 && writes > 500, "{touches} touches, {hits}; {writes} writes");
    }
}

/// With one node of three gone for good, two copies must answer for W = 2, and no third is waited for.
#[test]
fn three_nodes_go_on_as_two() {
    let mut cluster = started(5, 3, SimOptions::default());
    let call = cluster.set(0, "key", "before");
    assert_eq!(outcome(&mut cluster, call), CallResult::Written(Ok(())));
    cluster.crash_node(2);
    let noticed = cluster.elapsed();
    assert!(cluster.run_until(2 * SECOND, |cluster| cluster.is_gone(2)));
    let took = cluster.elapsed() - noticed;
    assert!(took < Duration::from_millis(300), "a crash was noticed after {took:?}");
    for node in 0..2 {
        let call = cluster.get(node, "key");
        assert_eq!(outcome(&mut cluster, call), CallResult::Read(Ok(Some(b"before".to_vec()))));
        let call = cluster.set(node, format!("key-{node}"), "after");
        assert_eq!(outcome(&mut cluster, call), CallResult::Written(Ok(())));
    }
    assert!(cluster.run_until(5 * SECOND, SimCluster::is_settled), "{}", cluster.describe());
}

/// Alone, a node must not take its empty memory for the cluster's: it refuses until it finds the others.
#[test]
fn a_restarted_node_holds_nothing_until_it_has_fetched_it() {
    let mut cluster = started(9, 3, SimOptions::default());
    for key in 0..30 {
        let call = cluster.set(0, format!("key-{key}"), "value");
        assert_eq!(outcome(&mut cluster, call), CallResult::Written(Ok(())));
    }
    for node in [0, 1, 2, 0] {
        cluster.crash_node(node);
        cluster.run_for(Duration::from_millis(20));
        cluster.restart_node(node);
        for key in 0..30 {
            let call = cluster.get(node, format!("key-{key}"));
            let found = outcome(&mut cluster, call);
            assert!(!matches!(found, CallResult::Read(Ok(None))), "key {key} was not found through {node}");
        }
        assert!(cluster.run_until(10 * SECOND, SimCluster::is_settled), "{}", cluster.describe());
    }
    for key in 0..30 {
        assert_eq!(cluster.copies(format!("key-{key}")).len(), 3, "key {key}");
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

/// Whoever comes while the cluster is being born, with every number of copies.
#[test]
fn nodes_that_start_together_settle() {
    for seed in 0..40 {
        let mut options = SimOptions::default();
        options.replicas = 1 + seed as usize % 3;
        options.write_quorum = options.replicas.min(2);
        let mut cluster = Traced(SimCluster::with_options(seed, options));
        for node in 0..5u64 {
            cluster.start_node();
            cluster.run_for(Duration::from_micros(seed * node * 700));
        }
        let settled = cluster.run_until(20 * SECOND, SimCluster::is_settled);
        assert!(settled, "seed {seed}:\n{}", cluster.describe());
    }
}

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

/// Nobody reads, no member comes or goes, and the writes are owed no more when the replica can be reached.
#[test]
fn a_replica_that_missed_writes_for_long_is_repaired_unasked() {
    for missing in 0..3 {
        let mut cluster = started(20 + missing as u64, 3, SimOptions::default());
        let others: Vec<usize> = (0..3).filter(|node| *node != missing).collect();
        for key in 0..60 {
            let call = cluster.set(0, format!("key-{key}"), "before");
            assert_eq!(outcome(&mut cluster, call), CallResult::Written(Ok(())));
        }
        cluster.run_for(SECOND);
        for other in &others {
            cluster.cut(*other, missing);
            cluster.cut(missing, *other);
        }
        // Overwritten, deleted, new.
        for key in 20..100 {
            let (node, key_name) = (others[key % 2], format!("key-{key}"));
            let call =
                if key < 40 { cluster.delete(node, key_name) } else { cluster.set(node, key_name, "after") };
            assert_eq!(outcome(&mut cluster, call), CallResult::Written(Ok(())), "key {key}");
        }
        cluster.run_for(35 * SECOND);
        let expected = |key: usize| match key {
            0..20 => Some(&b"before"[..]),
            20..40 => None,
            _ => Some(&b"after"[..]),
        };
        let is_equal =
            |cluster: &SimCluster| (0..100).all(|k| is_everywhere(cluster, &format!("key-{k}"), expected(k)));
        assert!(!is_equal(&cluster), "the writes reached the replica all the same");
        cluster.mend();
        let mended = cluster.elapsed();
        assert!(cluster.run_until(120 * SECOND, |cluster| is_equal(cluster)), "node {missing} lacks writes");
        println!("node {missing}: equal after {:?}", cluster.elapsed() - mended);
        cluster.run_for(10 * SECOND);
        assert!(cluster.partitions_repaired() > 50, "only {} repaired", cluster.partitions_repaired());
        let before = copied(&cluster, 3);
        cluster.run_for(130 * SECOND);
        assert_eq!(copied(&cluster, 3), before, "equal partitions were copied");
    }
}

/// One node's writes do not reach another, for ever; what that one asks is answered, and the third reaches both.
/// Nothing tells those that compare to hurry where the connection that broke is not theirs.
#[test]
fn a_replica_that_one_coordinator_does_not_reach_is_repaired_within_two_cycles() {
    for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        let mut cluster = started(40 + 3 * from as u64 + to as u64, 3, SimOptions::default());
        cluster.cut(from, to);
        for key in 0..40 {
            let call = cluster.set(from, format!("key-{key}"), "value");
            assert_eq!(outcome(&mut cluster, call), CallResult::Written(Ok(())));
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

/// `replication/anti_entropy.rs` says what comparing costs where there is nothing to repair.
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
            assert_eq!(after.all - before.all, after.compared - before.compared, "node {node} does more");
            total += after.compared - before.compared;
        }
        let each = total / 120 / nodes as u64;
        println!("{nodes} nodes: {} bytes a second, {each} of each node", total / 120);
        assert!(each <= most && total > 2 * 12_288 * 2, "{each} bytes a second of each of {nodes} nodes");
        assert_eq!(cluster.partitions_repaired(), 0);
    }
}

#[test]
fn writes_under_way_are_not_taken_for_differences() {
    let mut cluster = started(31, 3, SimOptions::default());
    let mut workload = Workload::new(31, 40);
    let before = copied(&cluster, 3);
    workload.run(&mut cluster, 3, 130 * SECOND);
    assert!(workload.acknowledged > 10_000, "only {} writes", workload.acknowledged);
    assert_eq!((copied(&cluster, 3), cluster.partitions_repaired()), (before, 0));
}

/// Connections break all the time, replicas miss what they miss, one node goes and comes back: two cycles after
/// the last fault all copies of every key are the same, whether or not anybody read it.
#[test]
fn two_cycles_after_the_faults_all_copies_are_equal() {
    for seed in 0..2 {
        let mut options = lossy();
        options.connections_broken_per_mille = 20;
        let mut cluster = started(seed, 4, options);
        let mut workload = Workload::new(seed, 100);
        workload.run(&mut cluster, 4, 3 * SECOND);
        let victim = workload.pick(4);
        cluster.cut((victim + 1) % 4, (victim + 2) % 4);
        cluster.crash_node(victim);
        workload.run(&mut cluster, 4, 2 * SECOND);
        cluster.restart_node(victim);
        workload.run(&mut cluster, 4, 35 * SECOND);
        cluster.mend();
        cluster.set_loss(0, 0);
        settle(&mut cluster, seed, "healing");
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
