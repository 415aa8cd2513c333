//! `calls` and `idle`: what it takes to reach a core, compared with the bare primitives, and what
//! an engine takes that has nothing to do.

use std::fs;
use std::hint::spin_loop;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;
use gridkv::{Batch, Completions, Config, Engine, WriteOptions};
use gridkv_benches::compare::{Comparison, Contender, Plan, compare};
use gridkv_benches::grid;
use gridkv_benches::keys::{Draws, Family, Key, VALUE_BYTES, key, value};
use gridkv_benches::machine::{Cpus, pin, resident_bytes};
use gridkv_benches::rivals::{Hashbrown, Rival};
use mio::{Events, Poll, Token, Waker};

use crate::child::run_child;
use crate::report::{Report, Verdict};

const KEYS: u64 = 10_000;
/// How many writes go together.
const TOGETHER: usize = 64;
/// How many submitted writes are under way at a time.
const UNDER_WAY: usize = 512;
/// How long a core is left alone before it is called asleep: longer than it looks for work.
const ALONE: Duration = Duration::from_micros(200);
/// What ends a bare primitive's thread.
const END: u64 = u64::MAX;

pub(crate) fn reach(report: &mut Report, plan: &Plan, cpus: &Cpus) {
    if cpus.all.len() < 2 {
        report.note("Skipped: this machine has one CPU.");
        return;
    }
    report.note(
        "The caller on one CPU, the core on another. Bare: a number through crossbeam's ArrayQueue \
         to a thread that\n\
         spins, its answer by an atomic; or mio's Waker, to a thread that sleeps in its poll, \
         while the caller spins.",
    );
    let engine = Engine::start(grid::config().pin_cpus([cpus.owner])).expect("the engine starts");
    engine.wait_ready(Duration::from_secs(30)).expect("a single node is ready");
    grid::load(&engine, Family::Plain, 0..KEYS);
    let draws = Draws::uniform(Family::Plain, KEYS, 128 * 1024);
    let mut bare = Contender::new("a bare queue and slot", |slice| bare_queue(slice, cpus.owner));
    report.check_itself(&mut bare, plan);
    let mut hot = Contender::batches("set", &draws, 1, |keys| set(&engine, &keys[0]));
    at_most(report, "set / bare queue and slot", 2.0, &compare(&mut hot, &mut bare, plan));

    let mut asleep = Contender::new("set to a sleeping core", |slice| {
        after_pauses(slice, |number| _ = set(&engine, &key(Family::Plain, number % KEYS)))
    });
    let mut woken = Contender::new("a bare waker", |slice| bare_waker(slice, cpus.owner));
    at_most(
        report,
        "set to a sleeping core / bare waker",
        2.0,
        &compare(&mut asleep, &mut woken, plan),
    );
    together(report, plan, &engine, &draws);
    pipelined(report, plan, &engine, &draws);
}

/// Writes that go together, and those of a closure, in nanoseconds each.
fn together(report: &mut Report, plan: &Plan, engine: &Engine, draws: &Draws) {
    let mut map = Hashbrown::filled(KEYS);
    let mut insert = Contender::new("hashbrown", |slice| {
        every(draws, slice, 1, |keys| map.put(&keys[0], &value(1)))
    });
    let mut apply = Contender::batches("apply of 64", draws, TOGETHER, |keys| {
        let batch = Batch::with_capacity(keys.len());
        let batch = keys.iter().fold(batch, |batch, key| batch.set(key, value(1)));
        engine.apply(batch).iter().map(|result| u64::from(result.is_ok())).sum()
    });
    nanoseconds_each(report, "apply of 64", &compare(&mut apply, &mut insert, plan));
    let mut run = Contender::batches("run_on with 64 sets", draws, TOGETHER, |keys| {
        let keys: [Key; TOGETHER] = keys.try_into().expect("so many");
        let run = engine.run_on(keys[0], move |shard| {
            keys.iter().map(|key| u64::from(shard.set(key, value(1)).is_ok())).sum()
        });
        run.expect("the closure runs")
    });
    nanoseconds_each(report, "run_on with 64 sets", &compare(&mut run, &mut insert, plan));
}

/// Writes that no caller waits for, one by one.
fn pipelined(report: &mut Report, plan: &Plan, engine: &Engine, draws: &Draws) {
    let (completions, options) = (Completions::new(UNDER_WAY), WriteOptions::new());
    let mut submit = Contender::batches("submitted sets", draws, 1, |keys| {
        loop {
            let submitted = engine.submit_set(&completions, keys[0], value(1), &options);
            while let Some(completion) = completions.try_next() {
                drop(completion);
            }
            if submitted.is_ok() {
                return 1;
            }
        }
    });
    let mut map = Hashbrown::filled(KEYS);
    let mut insert = Contender::new("hashbrown", |slice| {
        every(draws, slice, 1, |keys| map.put(&keys[0], &value(1)))
    });
    let comparison = compare(&mut submit, &mut insert, plan);
    at_most(report, "submitted sets / hashbrown inserts", 2.0, &comparison);
}

fn set(engine: &Engine, key: &Key) -> u64 {
    engine.set(key, [1; VALUE_BYTES]).expect("the engine takes a write");
    1
}

fn at_most(report: &mut Report, what: &str, figure: f64, comparison: &Comparison) {
    let Comparison { ratio, a, b } = comparison;
    let verdict = Verdict::at_most(figure, ratio.median);
    report.row(what, format!("{ratio}"), &format!("≤ {figure}"), verdict);
    report.info("", &format!("{:.0} ns against {:.0} ns", a.median, b.median));
}

fn nanoseconds_each(report: &mut Report, what: &str, comparison: &Comparison) {
    let Comparison { ratio, a, b } = comparison;
    let verdict = Verdict::at_most(100.0, a.median);
    report.row(&format!("{what}, ns each"), format!("{a:.0}"), "≤ 100", verdict);
    report.info("", &format!("{ratio} of a hashbrown insert, which took {:.0} ns", b.median));
}

/// Nanoseconds a key of what needs exclusive access.
fn every(draws: &Draws, slice: Duration, batch: usize, mut put: impl FnMut(&[Key])) -> f64 {
    let mut walk = draws.walk();
    let (start, mut keys) = (Instant::now(), 0_u64);
    while start.elapsed() < slice {
        for batch in walk.chunk().chunks_exact(batch) {
            put(batch);
            keys += batch.len() as u64;
        }
    }
    start.elapsed().as_nanos() as f64 / keys as f64
}

/// Nanoseconds of a call that comes long after the last one: the median.
fn after_pauses(slice: Duration, mut call: impl FnMut(u64)) -> f64 {
    let (start, mut taken, mut number) = (Instant::now(), Vec::new(), 0);
    while start.elapsed() < slice || taken.is_empty() {
        let alone = Instant::now();
        while alone.elapsed() < ALONE {
            spin_loop();
        }
        number += 1;
        let asked = Instant::now();
        call(number);
        taken.push(asked.elapsed().as_nanos() as f64);
    }
    taken.sort_by(f64::total_cmp);
    taken[taken.len() / 2]
}

// ── the bare primitives
// ─────────────────────────────────────────────────────────────────────────────────

/// Nanoseconds from a number in a queue to its answer, by a thread that looks for it all the time.
fn bare_queue(slice: Duration, cpu: usize) -> f64 {
    let queue = ArrayQueue::new(1024);
    let (answer, begin) = (CachePadded::new(AtomicU64::new(0)), Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(cpu);
            begin.wait();
            loop {
                match queue.pop() {
                    Some(END) => return,
                    Some(number) => answer.store(number, Ordering::Release),
                    None => spin_loop(),
                }
            }
        });
        begin.wait();
        let (start, mut number) = (Instant::now(), 0);
        while start.elapsed() < slice {
            for _ in 0..1000 {
                number += 1;
                queue.push(number).expect("there is room");
                while answer.load(Ordering::Acquire) != number {
                    spin_loop();
                }
            }
        }
        let taken = start.elapsed();
        queue.push(END).expect("there is room");
        taken.as_nanos() as f64 / number as f64
    })
}

/// Nanoseconds from waking a thread out of its poll to its answer, while the caller looks for that.
fn bare_waker(slice: Duration, cpu: usize) -> f64 {
    let mut poll = Poll::new().expect("a poll");
    let waker = Waker::new(poll.registry(), Token(0)).expect("a waker");
    let (asked, answer, begin) = (AtomicU64::new(0), AtomicU64::new(0), Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(cpu);
            begin.wait();
            let mut events = Events::with_capacity(8);
            while asked.load(Ordering::Acquire) != END {
                poll.poll(&mut events, None).expect("it polls");
                answer.store(asked.load(Ordering::Acquire), Ordering::Release);
            }
        });
        begin.wait();
        let ask = |number| {
            asked.store(number, Ordering::Release);
            waker.wake().expect("it wakes");
            while answer.load(Ordering::Acquire) != number {
                spin_loop();
            }
        };
        let taken = after_pauses(slice, ask);
        ask(END);
        taken
    })
}

// ── with nothing to do
// ──────────────────────────────────────────────────────────────────────────────────

/// What an engine takes that has nothing to do, in a process of its own.
pub(crate) fn idle(report: &mut Report, plan: &Plan, _: &Cpus) {
    let seconds = plan.pick(30, 2);
    report.note(&format!(
        "One engine in a process of its own, left alone for {seconds} s; from /proc."
    ));
    for (name, work) in [("standalone", "idle/standalone"), ("a node of a cluster", "idle/node")] {
        let lines = run_child(&format!("{work}/{seconds}"));
        let numbers: Vec<f64> =
            lines[0].split(' ').map(|number| number.parse().expect("a number")).collect();
        let (share, resident) = (numbers[0], numbers[1]);
        let what = format!("{name}: of one CPU");
        report.row(
            &what,
            format!("{:.3} %", share * 100.0),
            "≤ 0.2 %",
            Verdict::at_most(0.002, share),
        );
        let what = format!("{name}: resident");
        let verdict = Verdict::at_most(10.0, resident / 1e6);
        report.row(&what, format!("{:.1} MB", resident / 1e6), "≤ 10 MB", verdict);
    }
}

/// Prints the share of one CPU that an idle engine's process takes, and its resident bytes.
pub(crate) fn idle_child(kind: &str, seconds: u64) {
    let config = match kind {
        "standalone" => Config::standalone("idle"),
        _ => grid::config(),
    };
    let engine = Engine::start(config).expect("the engine starts");
    engine.wait_ready(Duration::from_secs(30)).expect("it is alone");
    engine.set("key", "value").expect("the engine takes a write");
    let (start, before) = (Instant::now(), cpu_seconds());
    thread::sleep(Duration::from_secs(seconds));
    println!("{} {}", (cpu_seconds() - before) / start.elapsed().as_secs_f64(), resident_bytes());
}

/// Processor time that this process has taken.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/schedstat").ok();
    let tasks = fs::read_dir("/proc/self/task").expect("/proc tells the threads");
    let of_task = |task: std::io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    };
    assert!(stat.is_some(), "the kernel counts");
    tasks.filter_map(of_task).sum::<f64>() / 1e9
}
