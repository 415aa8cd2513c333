//! `writer`: what a reader on one core sees while the owner of the keys writes flat out on another,
//! and what the writer loses by it.

use std::hint::{black_box, spin_loop};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gridkv_benches::compare::{Contender, Plan, Spread, compare, ns_per_key};
use gridkv_benches::grid;
use gridkv_benches::keys::{Draws, Family, Key, Random, key, value};
use gridkv_benches::machine::{Cpus, pin};
use gridkv_benches::rivals::{Dashmap, Papaya, Rival, Shared};
use hdrhistogram::Histogram;

use crate::report::{Report, Verdict, nanoseconds, thousands};

/// How many callers keep the owner of gridkv's keys busy. Each waits for its answer.
const DRIVERS: usize = 8;
/// How often a read is due in the open loop.
const DUE_EVERY: Duration = Duration::from_micros(1);
const P999: f64 = 0.999;
/// The p99.9 of the clock alone above which that of a read says nothing.
const RESTLESS_NS: f64 = 500.0;

pub(crate) fn beside(report: &mut Report, plan: &Plan, cpus: &Cpus) {
    if cpus.all.len() < 2 {
        report.note("Skipped: this machine has one CPU.");
        return;
    }
    let keys = plan.pick(100_000, 10_000);
    say_what_is_measured(report, cpus);
    let draws = Draws::uniform(Family::Plain, keys, 128 * 1024);
    let engine = grid::filled(keys, cpus);
    let (papaya, dashmap) = (Papaya::filled(keys), Dashmap::filled(keys));
    let set = |key: &Key, value: &[u8]| engine.set(key, value).is_ok();
    let drivers: Vec<usize> = cpus.drivers.iter().copied().cycle().take(DRIVERS).collect();
    let ours =
        Store { name: "gridkv", drivers, keys, read: &|key| grid::read(&engine, key), write: &set };
    let write = |key: &Key, value: &[u8]| {
        papaya.set(key, value);
        true
    };
    let papaya = Store {
        name: "papaya",
        drivers: vec![cpus.owner],
        keys,
        read: &look_in(&papaya),
        write: &write,
    };
    let write = |key: &Key, value: &[u8]| {
        dashmap.set(key, value);
        true
    };
    let dashmap = Store {
        name: "dashmap",
        drivers: vec![cpus.owner],
        keys,
        read: &look_in(&dashmap),
        write: &write,
    };
    writers_loss(report, plan, &draws, &ours, &[&papaya, &dashmap]);
    latencies(report, plan, &draws, &ours, &[&papaya, &dashmap]);
}

fn look_in<R: Rival>(rival: &R) -> impl Fn(&Key) -> u64 {
    |key| rival.read(key).expect("a loaded key is there")
}

fn say_what_is_measured(report: &Report, cpus: &Cpus) {
    report.note(&format!(
        "{DRIVERS} callers overwrite random keys of gridkv, each waiting for its answer; a \
         rival's one writer\n\
         writes on the engine's CPU, at the same rate where latencies are compared."
    ));
    if cpus.drivers_share() {
        report.note(
            "There are two CPUs: the callers share one with the engine's threads, so that the \
             owner gets\n\
             only a part of it, and the writes a second are of the whole path from the call to \
             its answer,\n\
             not of the owner alone. The reader has the other CPU to itself. Writes flat out by \
             an owner\n\
             that has a CPU to itself need three.",
        );
    }
}

type Read<'a> = &'a (dyn Fn(&Key) -> u64 + Sync);
type Write<'a> = &'a (dyn Fn(&Key, &[u8]) -> bool + Sync);

/// Something read by one thread and written by others. The calls go through a pointer, for
/// everybody.
struct Store<'a> {
    name: &'static str,
    /// One writing thread on each.
    drivers: Vec<usize>,
    keys: u64,
    read: Read<'a>,
    /// Whether the write was done.
    write: Write<'a>,
}

impl Store<'_> {
    /// Writes during a slice, flat out or at a rate, while `meanwhile` runs on this thread. Gives
    /// the writes a second.
    fn written<T>(&self, writes_a_second: Option<f64>, meanwhile: impl FnOnce() -> T) -> (f64, T) {
        let (start, stop) = (Barrier::new(self.drivers.len() + 1), AtomicBool::new(false));
        thread::scope(|scope| {
            let driver = |(number, &cpu): (usize, &usize)| {
                let (start, stop) = (&start, &stop);
                scope.spawn(move || {
                    pin(cpu);
                    start.wait();
                    self.drive(number as u64, writes_a_second, stop)
                })
            };
            let drivers: Vec<_> = self.drivers.iter().enumerate().map(driver).collect();
            start.wait();
            let started = Instant::now();
            let result = meanwhile();
            stop.store(true, Ordering::Relaxed);
            let elapsed = started.elapsed();
            let writes: u64 =
                drivers.into_iter().map(|driver| driver.join().expect("the driver writes")).sum();
            (writes as f64 / elapsed.as_secs_f64(), result)
        })
    }

    /// Gives how many writes were done.
    fn drive(&self, number: u64, writes_a_second: Option<f64>, stop: &AtomicBool) -> u64 {
        let mut random = Random::new(number);
        let interval = writes_a_second.map(|rate| Duration::from_secs_f64(1.0 / rate.max(1.0)));
        let (started, mut done, mut calls) = (Instant::now(), 0, 0_u32);
        while !stop.load(Ordering::Relaxed) {
            if interval.is_some_and(|interval| started.elapsed() < interval * calls) {
                spin_loop();
                continue;
            }
            let number = random.below(self.keys);
            done += u64::from((self.write)(&key(Family::Plain, number), &value(number)));
            calls += 1;
        }
        done
    }

    /// Reads flat out during a slice.
    fn read_on(&self, draws: &Draws, slice: Duration) {
        ns_per_key(draws, slice, 1, |keys| (self.read)(black_box(&keys[0])));
    }

    /// Latencies during a slice of writing.
    fn observed(&self, rate: Option<f64>, draws: &Draws, slice: Duration) -> (f64, Latencies) {
        self.written(rate, || Latencies::measure(draws, slice, self.read))
    }
}

// ── what the writer loses
// ───────────────────────────────────────────────────────────────────────────────

fn writers_loss(
    report: &mut Report,
    plan: &Plan,
    draws: &Draws,
    ours: &Store<'_>,
    rivals: &[&Store<'_>],
) {
    let itself = gridkv_benches::compare::against_itself(&mut writes_alone(ours), plan);
    report.check_even("gridkv's writes a second", &itself.ratio);
    let (ratio, rate) = kept(plan, draws, ours);
    let what = "gridkv's writes, with a reader / without";
    report.row(what, format!("{ratio}"), "≥ 0.90", Verdict::at_least(0.9, ratio.median));
    report.info("", &format!("{} writes a second without", thousands(rate as u64)));
    for rival in rivals {
        let (theirs, rate) = kept(plan, draws, rival);
        report.info(&format!("{}'s, with a reader / without", rival.name), &format!("{theirs}"));
        report.info("", &format!("{} writes a second without", thousands(rate as u64)));
        if theirs.median > ratio.median {
            let (theirs, ours) = (theirs.median, ratio.median);
            report.lose(format!(
                "{}'s writer keeps {theirs:.2} beside a reader, gridkv's {ours:.2}",
                rival.name
            ));
        }
    }
}

fn writes_alone<'a>(store: &'a Store<'_>) -> Contender<'a> {
    Contender::new(store.name, |slice| store.written(None, || thread::sleep(slice)).0)
}

/// Which part of its rate the writer keeps, and its rate alone.
fn kept(plan: &Plan, draws: &Draws, store: &Store<'_>) -> (Spread, f64) {
    let mut beside =
        Contender::new(store.name, |slice| store.written(None, || store.read_on(draws, slice)).0);
    let comparison = compare(&mut beside, &mut writes_alone(store), plan);
    (comparison.ratio, comparison.b.median)
}

// ── what the reader sees
// ────────────────────────────────────────────────────────────────────────────────

/// The latencies of calls back to back, and of calls that are due at fixed times, measured from
/// when they were due.
struct Latencies {
    calls: Histogram<u64>,
    due: Histogram<u64>,
}

impl Latencies {
    fn none() -> Self {
        let empty =
            || Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order");
        Self { calls: empty(), due: empty() }
    }

    /// Half a slice of each.
    fn measure(draws: &Draws, slice: Duration, read: Read<'_>) -> Self {
        let mut measured = Self::none();
        measured.back_to_back(draws, slice / 2, read);
        measured.when_due(draws, slice / 2, read);
        measured
    }

    fn back_to_back(&mut self, draws: &Draws, length: Duration, read: Read<'_>) {
        let (mut walk, started) = (draws.walk(), Instant::now());
        loop {
            for key in walk.chunk() {
                let before = Instant::now();
                black_box(read(black_box(key)));
                let after = Instant::now();
                record(&mut self.calls, after - before);
                if after - started >= length {
                    return;
                }
            }
        }
    }

    fn when_due(&mut self, draws: &Draws, length: Duration, read: Read<'_>) {
        let mut walk = draws.walk();
        let started = Instant::now();
        let mut due = started;
        loop {
            for key in walk.chunk() {
                due += DUE_EVERY;
                while Instant::now() < due {
                    spin_loop();
                }
                black_box(read(black_box(key)));
                let after = Instant::now();
                record(&mut self.due, after - due);
                if after - started >= length {
                    return;
                }
            }
        }
    }

    fn add(&mut self, other: &Self) {
        self.calls.add(&other.calls).expect("the bounds are the same");
        self.due.add(&other.due).expect("the bounds are the same");
    }
}

fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(latency.as_nanos() as u64);
}

/// A store's rounds.
struct Rounds {
    name: &'static str,
    all: Latencies,
    calls_p999: Vec<f64>,
    due_p999: Vec<f64>,
    rates: Vec<f64>,
}

impl Rounds {
    fn of(name: &'static str) -> Self {
        let (calls_p999, due_p999, rates) = (Vec::new(), Vec::new(), Vec::new());
        Self { name, all: Latencies::none(), calls_p999, due_p999, rates }
    }

    fn add(&mut self, (rate, round): (f64, Latencies)) {
        self.calls_p999.push(round.calls.value_at_quantile(P999) as f64);
        self.due_p999.push(round.due.value_at_quantile(P999) as f64);
        self.rates.push(rate);
        self.all.add(&round);
    }

    fn rate(&self) -> f64 {
        Spread::of(self.rates.clone()).median
    }
}

fn latencies(
    report: &mut Report,
    plan: &Plan,
    draws: &Draws,
    ours: &Store<'_>,
    rivals: &[&Store<'_>],
) {
    let mut tail = Contender::new("gridkv's p99.9", |slice| {
        ours.observed(None, draws, slice).1.calls.value_at_quantile(P999) as f64
    });
    report.check_itself(&mut tail, plan);
    let (ours, rivals, control) = rounds(plan, draws, ours, rivals);
    print_latencies(report, [&ours, &control].into_iter().chain(&rivals));
    for (loop_name, measured, histogram, quiet) in [
        ("a call", &ours.calls_p999, &ours.all.calls, &control.all.calls),
        ("from when due", &ours.due_p999, &ours.all.due, &control.all.due),
    ] {
        let p999 = histogram.value_at_quantile(P999) as f64;
        let (what, quiet) =
            (format!("read p99.9, {loop_name}"), quiet.value_at_quantile(P999) as f64);
        let text = format!("{}; rounds {:.0}", nanoseconds(p999), Spread::of(measured.clone()));
        let is_restless = quiet > RESTLESS_NS;
        let verdict = if is_restless { Verdict::Void } else { Verdict::at_most(1000.0, p999) };
        report.row(&what, text, "≤ 1 µs", verdict);
        if is_restless {
            report.note(&format!(
                "The control, which only reads the clock, has a p99.9 of {} here: the machine is \
                 too restless\n\
                 for this figure.",
                nanoseconds(quiet)
            ));
        }
    }
    for rival in &rivals {
        let loops = [
            ("a call", &ours.calls_p999, &rival.calls_p999),
            ("from when due", &ours.due_p999, &rival.due_p999),
        ];
        for (loop_name, ours, theirs) in loops {
            let ratio =
                Spread::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect());
            let what = format!("p99.9 {loop_name}, gridkv / {}", rival.name);
            report.row(
                &what,
                format!("{ratio}"),
                "< 1: below",
                Verdict::at_most(1.0, ratio.median),
            );
            if ratio.median > 1.0 {
                report.lose(format!(
                    "{}'s p99.9 {loop_name} is lower: gridkv / it {:.2}",
                    rival.name, ratio.median
                ));
            }
        }
    }
}

/// Ours, the rivals in turn, the control; then the other way round. A rival's writer keeps to the
/// rate that ours had in the round before.
fn rounds(
    plan: &Plan,
    draws: &Draws,
    ours: &Store<'_>,
    rivals: &[&Store<'_>],
) -> (Rounds, Vec<Rounds>, Rounds) {
    let (mut rate, _) = ours.observed(None, draws, plan.slice);
    let (mut own, mut control) = (Rounds::of(ours.name), Rounds::of("control: clock alone"));
    let mut theirs: Vec<Rounds> = rivals.iter().map(|rival| Rounds::of(rival.name)).collect();
    for round in 0..plan.pairs {
        let mut order: Vec<usize> = (0..rivals.len() + 2).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for turn in order {
            match turn {
                0 => {
                    let observed = ours.observed(None, draws, plan.slice);
                    rate = observed.0;
                    own.add(observed);
                }
                turn if turn <= rivals.len() => {
                    theirs[turn - 1].add(rivals[turn - 1].observed(Some(rate), draws, plan.slice));
                }
                _ => control
                    .add((0.0, Latencies::measure(draws, plan.slice, &|key| u64::from(key[0])))),
            }
        }
    }
    (own, theirs, control)
}

fn print_latencies<'a>(report: &Report, all: impl Iterator<Item = &'a Rounds>) {
    report.note(&format!(
        "{:<24}{:<14}{:>10}{:>10}{:>10}{:>10}{:>12}",
        "", "", "p50", "p99", "p99.9", "max", "writes/s"
    ));
    for rounds in all {
        for (loop_name, histogram) in
            [("a call", &rounds.all.calls), ("from when due", &rounds.all.due)]
        {
            let at = |quantile| nanoseconds(histogram.value_at_quantile(quantile) as f64);
            report.note(&format!(
                "{:<24}{:<14}{:>10}{:>10}{:>10}{:>10}{:>12}",
                rounds.name,
                loop_name,
                at(0.5),
                at(0.99),
                at(P999),
                nanoseconds(histogram.max() as f64),
                thousands(rounds.rate() as u64)
            ));
        }
    }
}
