//! Random calls, what they prove, and histories made of them.

use std::time::Duration;

use gridkv::sim::{CallId, CallResult, SimCluster, SimOptions};
use gridkv::{NotApplied, WriteError};

use super::{ANSWERED_WITHIN, SECOND, SETTLED_WITHIN, Traced, settle, started};

/// What one key went through. Its writes come one after the other.
#[derive(Default, Clone)]
struct KeyHistory {
    acknowledged: Option<Vec<u8>>,
    /// Writes that may have happened: each may show at any time.
    indeterminate: Vec<Vec<u8>>,
    writing: Option<(CallId, Vec<u8>)>,
    /// The read under way, and whether a write had been acknowledged before it began.
    reading: Option<(CallId, bool)>,
}

impl KeyHistory {
    fn may_be(&self, value: &[u8]) -> bool {
        self.acknowledged.as_deref() == Some(value)
            || self.indeterminate.iter().any(|other| other == value)
    }
}

/// Random calls through random nodes, and what they prove.
pub(crate) struct RandomCalls {
    seed: u64,
    /// R ≥ 2: a read must see what was acknowledged before it.
    pub(crate) strong: bool,
    /// Gets no calls: it has only just started, and knows no member yet.
    pub(crate) new: Option<usize>,
    random: u64,
    keys: Vec<KeyHistory>,
    pub(crate) acknowledged: usize,
    pub(crate) failed: usize,
    pub(crate) reads: usize,
}

impl RandomCalls {
    pub(crate) fn new(seed: u64, keys: usize) -> Self {
        let keys = vec![KeyHistory::default(); keys];
        Self {
            seed,
            strong: false,
            new: None,
            random: seed,
            keys,
            acknowledged: 0,
            failed: 0,
            reads: 0,
        }
    }

    /// A number below `limit`: SplitMix64.
    pub(crate) fn pick(&mut self, limit: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    pub(crate) fn running(cluster: &SimCluster, nodes: usize) -> Vec<usize> {
        (0..nodes).filter(|&node| cluster.is_running(node) && !cluster.is_paused(node)).collect()
    }

    /// Makes calls for `time`, and notes how those before ended.
    pub(crate) fn run(&mut self, cluster: &mut SimCluster, nodes: usize, time: Duration) {
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

    pub(crate) fn note(&mut self, cluster: &SimCluster, at: usize) {
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
    pub(crate) fn drain(&mut self, cluster: &mut SimCluster) {
        cluster.run_for(ANSWERED_WITHIN);
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
    pub(crate) fn check(&mut self, cluster: &mut SimCluster, nodes: usize, copies: usize) {
        self.drain(cluster);
        let seed = self.seed;
        for node in Self::running(cluster, nodes) {
            let calls: Vec<CallId> =
                (0..self.keys.len()).map(|at| cluster.get(node, format!("key-{at}"))).collect();
            cluster.run_for(ANSWERED_WITHIN);
            for (at, call) in calls.into_iter().enumerate() {
                let key = &self.keys[at];
                match cluster.outcome(call) {
                    Some(CallResult::Read(Ok(Some(value)))) => {
                        assert!(
                            key.may_be(value),
                            "seed {seed}: key {at} through {node} is {value:?}"
                        );
                    }
                    Some(CallResult::Read(Ok(None))) if key.acknowledged.is_none() => {}
                    other => panic!("seed {seed}: key {at} through {node}: {other:?}"),
                }
            }
        }
        for (at, key) in self.keys.iter().enumerate() {
            if key.acknowledged.is_some() {
                let held = cluster.copies(format!("key-{at}"));
                assert!(
                    held.len() == copies,
                    "seed {seed}: key {at} has {} copies: {held:?}",
                    held.len()
                );
            }
        }
    }
}

pub(crate) fn lossy() -> SimOptions {
    let mut options = SimOptions::default();
    options.datagrams_lost_per_mille = 30;
    options.connections_broken_per_mille = 1;
    options.clock_skew = Duration::from_secs(5);
    options
}

/// One thing at a time: a crash, a newcomer, a leave, a restart, a pause with or without a false
/// death, each among calls, each settled before the next.
pub(crate) fn one_thing_at_a_time(seed: u64, options: SimOptions) -> Traced {
    let mut workload = RandomCalls::new(seed, 60);
    let start = 3 + workload.pick(2);
    let mut cluster = started(seed, start, options);
    let mut nodes = start;
    workload.run(&mut cluster, nodes, SECOND);
    for _ in 0..4 {
        let running = RandomCalls::running(&cluster, nodes);
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
        let is_settled = cluster.run_until(SETTLED_WITHIN, SimCluster::is_settled);
        assert!(is_settled, "not settled after {after}:\n{}", cluster.describe());
    }
    cluster.set_loss(0, 0);
    settle(&mut cluster);
    cluster.run_for(2 * SECOND);
    let copies = RandomCalls::running(&cluster, nodes).len().min(3);
    workload.check(&mut cluster, nodes, copies);
    assert!(
        workload.acknowledged > workload.failed,
        "seed {seed}: {} writes failed",
        workload.failed
    );
    cluster
}

/// Seeds from `GRIDKV_SEED` or zero on: as many as `GRIDKV_SEEDS` says, or else `count`.
pub(crate) fn seeds(count: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse().ok());
    let from = number("GRIDKV_SEED").unwrap_or(0);
    from..from + number("GRIDKV_SEEDS").unwrap_or(count)
}
