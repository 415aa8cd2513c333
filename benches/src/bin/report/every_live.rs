//! `every-live`: what it costs that a write waits for every replica that is alive, and what it
//! gives: a read on another node right after the acknowledgement finds the write.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gridkv::{Config, Engine, Quorum, WriteOptions};
use gridkv_benches::compare::{Plan, Spread};
use gridkv_benches::keys::{Family, VALUE_BYTES, key};
use gridkv_benches::machine::{Cpus, on_cpus};
use hdrhistogram::Histogram;

use crate::report::{Report, Verdict, nanoseconds};

const NODES: usize = 3;
const KEYS: u64 = 1000;
const LATE: Duration = Duration::from_secs(30);
/// By how much the median may grow if all writes are to wait.
const MOST_GROWTH: f64 = 1.15;
/// How long a core stands still at a time: less than a call may take.
const STANDS_STILL: Duration = Duration::from_secs(1);

/// What one slice measured: times in nanoseconds, and the share of reads that found an old value.
struct Slice {
    p50: f64,
    p99: f64,
    old: f64,
}

/// A figure of a slice, with its name.
type Part = (&'static str, fn(&Slice) -> f64);

pub(crate) fn writes(report: &mut Report, plan: &Plan, cpus: &Cpus) {
    report.note(
        "Three nodes in this process, one core each, N = 3 and W = 2, on all CPUs. One caller \
         writes through the first node,\n\
         and reads each key through the third, right after the acknowledgement.",
    );
    // The engines' threads may run on all CPUs, and so may the caller.
    on_cpus(&cpus.all, || {
        let engines = cluster();
        let healthy = |waits: bool, slice: Duration| measure(&engines, waits, slice);
        compare(report, plan, "all nodes run", Some(MOST_GROWTH), healthy);
        report.note(
            "The third node's core stands still, while its membership lives: no node takes it for \
             dead.",
        );
        let paused = Plan { slice: plan.slice.min(STANDS_STILL), ..*plan };
        let with_a_paused_one = |waits: bool, slice: Duration| {
            thread::scope(|scope| {
                let third = &engines[NODES - 1];
                let still = scope.spawn(move || third.run_on("key", move |_| thread::sleep(slice)));
                let measured = measure_writes(&engines[0], waits, slice, |_, _| false);
                still.join().expect("the closure's caller waits").expect("the closure runs");
                measured
            })
        };
        compare(report, &paused, "one core stands still", None, with_a_paused_one);
    });
}

fn cluster() -> Vec<Engine> {
    let mut engines: Vec<Engine> = Vec::new();
    for number in 0..NODES {
        let seeds: Vec<String> =
            engines.iter().filter_map(Engine::address).map(|address| address.to_string()).collect();
        let config = Config::new(format!("node-{number}"), "127.0.0.1:0").seeds(seeds);
        engines.push(Engine::start(config).expect("the engine starts"));
    }
    engines[0].wait_until_safe(LATE).expect("three nodes hold everything");
    engines
}

/// Writes through the first node, and reads through the third.
fn measure(engines: &[Engine], waits: bool, slice: Duration) -> Slice {
    measure_writes(&engines[0], waits, slice, |key, expected| {
        let is_new = engines[NODES - 1].read(key, |found| found == expected);
        is_new.expect("a node reads") != Some(true)
    })
}

fn measure_writes(
    engine: &Engine,
    waits: bool,
    slice: Duration,
    is_old: impl Fn(&[u8], &[u8]) -> bool,
) -> Slice {
    let quorum = if waits { Quorum::EveryLive } else { Quorum::Count(2) };
    let options = WriteOptions::new().quorum(quorum);
    let mut times = Histogram::<u64>::new(3).expect("three digits");
    let (start, mut writes, mut old) = (Instant::now(), 0_u64, 0_u64);
    while start.elapsed() < slice {
        let (key, value) = (key(Family::Plain, writes % KEYS), new_value());
        let began = Instant::now();
        engine.set_with(key, value, &options).expect("the engine takes a write");
        times.record(began.elapsed().as_nanos() as u64).expect("a time that fits");
        old += u64::from(is_old(&key, &value));
        writes += 1;
    }
    Slice {
        p50: times.value_at_quantile(0.5) as f64,
        p99: times.value_at_quantile(0.99) as f64,
        old: old as f64 / writes as f64,
    }
}

/// Makes a value that was never written before.
fn new_value() -> [u8; VALUE_BYTES] {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut value = [1; VALUE_BYTES];
    value[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    value
}

/// Measures plain writes and those that wait in slices A B B A, and reports their ratio.
fn compare(
    report: &mut Report,
    plan: &Plan,
    what: &str,
    most: Option<f64>,
    mut measure: impl FnMut(bool, Duration) -> Slice,
) {
    for waits in [false, true] {
        measure(waits, plan.slice / 2);
    }
    let (mut waiting, mut plain) = (Vec::new(), Vec::new());
    for pair in 0..plan.pairs {
        let waits_first = pair % 2 == 0;
        for waits in [waits_first, !waits_first] {
            let measured = measure(waits, plan.slice);
            if waits { &mut waiting } else { &mut plain }.push(measured);
        }
    }
    let of =
        |slices: &[Slice], part: fn(&Slice) -> f64| Spread::of(slices.iter().map(part).collect());
    let parts: [Part; 2] = [("p50", |it| it.p50), ("p99", |it| it.p99)];
    for (name, part) in parts {
        let ratios = waiting.iter().zip(&plain).map(|(a, b)| part(a) / part(b)).collect();
        let ratio = Spread::of(ratios);
        let figure = most.filter(|_| name == "p50");
        let verdict = figure.map_or(Verdict::Info, |most| Verdict::at_most(most, ratio.median));
        let text = figure.map_or(String::new(), |most| format!("≤ {most}"));
        report.row(&format!("{what}: {name}, EveryLive / W"), format!("{ratio}"), &text, verdict);
        for (mode, slices) in [("EveryLive", &waiting), ("W = 2", &plain)] {
            let Spread { median, quartiles: (low, high), range: (least, most) } = of(slices, part);
            let [median, low, high, least, most] =
                [median, low, high, least, most].map(nanoseconds);
            report.info(mode, &format!("{median} [{low}–{high}; {least}–{most}]"));
        }
    }
    if most.is_none() {
        return;
    }
    for (mode, slices) in [("EveryLive", &waiting), ("W = 2", &plain)] {
        let old = of(slices, |it| it.old * 100.0);
        report.info(&format!("{mode}: old reads, %"), &format!("{old:.3}"));
    }
}
