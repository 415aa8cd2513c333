//! What security costs: the same cluster plain and secured, in turn.
//!
//! ```sh
//! cargo run --release -p gridkv-benches --bin secured [ROUNDS]
//! ```
//!
//! All nodes are in this process, and speak over loopback. Ratios are of one run, in the order A B
//! B A; the plain one is also compared with itself. The median and the spread of all rounds are
//! printed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use gridkv::{ClusterKey, Config, Engine, Security};
use hdrhistogram::Histogram;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// For how long a call is repeated in one round.
const SPAN: Duration = Duration::from_millis(700);

const PATIENCE: Duration = Duration::from_secs(60);

/// How many nodes are started again while another one writes.
const RESTARTED: usize = 50;

/// How many times a node joins three others in one round.
const JOINS: usize = 5;

/// How many nodes have nothing to do, and for how long.
const IDLE: usize = 10;
const IDLE_FOR: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(5), |rounds| rounds.parse())?;
    calls(rounds)?;
    joins(rounds)?;
    restarts(rounds)?;
    idle()?;
    Ok(())
}

/// Starts the next node of a cluster.
fn start(number: usize, first: Option<&Engine>, is_secured: bool) -> Result<Engine> {
    let mut config = Config::new(format!("n{number}"), "127.0.0.1:0")
        .replicas(1)
        .write_quorum(1)
        .request_timeout(Duration::from_secs(10))
        .suspicion_timeout(Duration::from_secs(5));
    if let Some(address) = first.and_then(Engine::address) {
        config = config.seeds([address.to_string()]);
    }
    if is_secured {
        let key = std::array::from_fn(|at| 7 * at as u8 + 3);
        config = config.security(Security::cluster_key(ClusterKey::from_bytes(key)?));
    }
    Ok(Engine::start(config)?)
}

fn cluster(nodes: usize, is_secured: bool) -> Result<Vec<Engine>> {
    let mut all: Vec<Engine> = Vec::new();
    for number in 0..nodes {
        all.push(start(number, all.first(), is_secured)?);
    }
    settle(&all)?;
    Ok(all)
}

/// Waits until these are the members, and hold what they should.
fn settle(all: &[Engine]) -> Result<()> {
    for engine in all {
        engine.wait_ready(PATIENCE)?;
    }
    let start = Instant::now();
    loop {
        let mut is_settled = true;
        for engine in all {
            let stats = engine.stats()?;
            let waits = stats.pending_partitions + stats.giving_partitions;
            let members = engine.members();
            let active = members.iter().filter(|it| it.state == gridkv::MemberState::Alive);
            is_settled &= waits == 0 && active.count() == all.len();
        }
        if is_settled {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            return Err("the cluster does not settle".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Writes keys, of which one node holds some. Returns 64 of these, or 64 of the others.
fn keys(engine: &Engine, of: usize, is_own: bool, value: &[u8]) -> Result<Vec<String>> {
    let mut keys: Vec<String> = (0..100 * of).map(|number| format!("k{number}")).collect();
    for key in &keys {
        engine.set(key, value)?;
    }
    let own = engine.local_keys("k").collect::<std::result::Result<BTreeSet<_>, _>>()?;
    keys.retain(|key| own.contains(key.as_bytes()) == is_own);
    keys.truncate(64);
    Ok(keys)
}

/// Returns how many calls a second some threads make.
fn rate(
    engine: &Engine,
    keys: &[String],
    value: &[u8],
    threads: usize,
    is_write: bool,
) -> Result<f64> {
    let begun = Instant::now();
    let work = |first: usize| -> Result<usize> {
        let mut count = 0;
        while begun.elapsed() < SPAN {
            let key = &keys[(count + first) % keys.len()];
            if is_write {
                engine.set(key, value)?;
            } else {
                engine.get(key)?.ok_or("a key is gone")?;
            }
            count += 1;
        }
        Ok(count)
    };
    let counts = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|first| scope.spawn(move || work(first))).collect();
        handles.into_iter().map(|it| it.join().expect("no panic")).sum::<Result<usize>>()
    });
    Ok(counts? as f64 / begun.elapsed().as_secs_f64())
}

/// Figures of several rounds.
#[derive(Default)]
struct Rounds(Vec<f64>);

impl std::fmt::Display for Rounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (sorted.first().unwrap_or(&0.0), sorted.last().unwrap_or(&0.0));
        let median = sorted.get(sorted.len() / 2).unwrap_or(&0.0);
        write!(f, "{median:.2} ({least:.2} to {most:.2})")
    }
}

/// Calls for keys of the other one of two nodes.
fn calls(rounds: usize) -> Result<()> {
    println!("calls for keys of the other one of two nodes, N = 1, {rounds} rounds of A B B A");
    let (plain, secured) = (cluster(2, false)?, cluster(2, true)?);
    for bytes in [100, 4 << 10, 64 << 10] {
        let value = vec![7; bytes];
        let plain_keys = keys(&plain[0], 2, false, &value)?;
        let secured_keys = keys(&secured[0], 2, false, &value)?;
        for (threads, is_write) in [(1, false), (1, true), (64, false), (64, true)] {
            let of_plain = || rate(&plain[0], &plain_keys, &value, threads, is_write);
            let of_secured = || rate(&secured[0], &secured_keys, &value, threads, is_write);
            let (mut same, mut ratio, mut plainly) = <(Rounds, Rounds, Rounds)>::default();
            for _ in 0..rounds {
                let (first, one) = (of_plain()?, of_secured()?);
                let (other, last) = (of_secured()?, of_plain()?);
                same.0.push(last / first);
                ratio.0.push((one + other) / (first + last));
                plainly.0.push((first + last) / 2.0);
            }
            let call = if is_write { "set" } else { "get" };
            println!(
                "  {call} of {bytes} bytes, {threads} at a time: plain {plainly}/s, secured / \
                 plain {ratio}, plain / plain {same}"
            );
        }
    }
    Ok(())
}

/// How long a node takes from its start until it serves, as the fourth of a cluster.
fn joins(rounds: usize) -> Result<()> {
    println!("a fourth node, from its start until it is ready, milliseconds");
    for is_secured in [false, true, true, false] {
        let all = cluster(3, is_secured)?;
        let mut times = Rounds::default();
        for _ in 0..rounds * JOINS {
            let begun = Instant::now();
            let joined = start(3, all.first(), is_secured)?;
            joined.wait_ready(PATIENCE)?;
            times.0.push(begun.elapsed().as_secs_f64() * 1e3);
            joined.leave(PATIENCE)?;
        }
        println!("  {}: {times}", if is_secured { "secured" } else { "plain" });
    }
    Ok(())
}

/// Writes of a node's own keys while many others are started again, all at once.
fn restarts(rounds: usize) -> Result<()> {
    println!("writes of own keys while {RESTARTED} other nodes are started again, microseconds");
    for is_secured in [false, true, true, false] {
        let mut all = cluster(1, is_secured)?;
        for number in 1..=RESTARTED {
            all.push(start(number, all.first(), is_secured)?);
        }
        settle(&all)?;
        // With N = 1 it holds them while other nodes come and go.
        let own = keys(&all[0], RESTARTED + 1, true, &[7; 100])?;
        let (mut before, mut during) = (Rounds::default(), Rounds::default());
        for _ in 0..rounds {
            let waits = || {
                std::thread::sleep(SPAN);
                Ok(())
            };
            before.0.push(p999(&all[0], &own, waits)?);
            let others: Vec<Engine> = all.drain(1..).collect();
            let first = &all[0];
            let mut again = Vec::new();
            during.0.push(p999(first, &own, || {
                drop(others);
                for number in 1..=RESTARTED {
                    again.push(start(number, Some(first), is_secured)?);
                }
                for engine in &again {
                    engine.wait_ready(PATIENCE)?;
                }
                Ok(())
            })?);
            all.append(&mut again);
            settle(&all)?;
        }
        let kind = if is_secured { "secured" } else { "plain" };
        println!("  {kind}: p99.9 before {before}, while they start {during}");
    }
    Ok(())
}

/// Returns the p99.9 of writes, in microseconds, while something else is done.
fn p999(engine: &Engine, keys: &[String], work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<f64> {
            let mut times = Histogram::<u64>::new(3)?;
            let mut number = 0;
            while !is_over.load(relaxed) {
                let begun = Instant::now();
                engine.set(&keys[number % keys.len()], [7; 100])?;
                times.record(begun.elapsed().as_nanos() as u64)?;
                number += 1;
            }
            Ok(times.value_at_quantile(0.999) as f64 / 1e3)
        });
        let result = work();
        is_over.store(true, relaxed);
        let p999 = writer.join().expect("no panic");
        result.and(p999)
    })
}

/// What nodes send that have nothing to do. Other traffic of the host over loopback counts, too.
fn idle() -> Result<()> {
    println!("{IDLE} nodes that have nothing to do, for {IDLE_FOR:?}: bytes a second and node");
    for is_secured in [false, true, true, false] {
        let all = cluster(IDLE, is_secured)?;
        std::thread::sleep(Duration::from_secs(3));
        let Some(before) = loopback_bytes() else {
            println!("  not measured: /proc/net/dev is not there");
            return Ok(());
        };
        std::thread::sleep(IDLE_FOR);
        let bytes = loopback_bytes().unwrap_or(before) - before;
        let each = bytes as f64 / IDLE_FOR.as_secs_f64() / IDLE as f64;
        println!("  {}: {each:.0}", if is_secured { "secured" } else { "plain" });
        drop(all);
    }
    Ok(())
}

/// Returns how many bytes have been sent over loopback, headers included.
fn loopback_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/net/dev").ok()?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:"))?;
    line.split_whitespace().nth(8)?.parse().ok()
}
