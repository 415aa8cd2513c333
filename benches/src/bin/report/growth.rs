//! `growth`: the longest pause of any operation while the store grows, beside loops that do nothing.

use std::hint::black_box;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use gridkv::Engine;
use gridkv_benches::compare::Plan;
use gridkv_benches::grid;
use gridkv_benches::keys::{Family, Random, key, value};
use gridkv_benches::machine::{Cpus, on_cpus};
use hdrhistogram::Histogram;

use crate::report::{Report, Verdict, nanoseconds, thousands};

/// Work, then the controls, so often that they see the same seconds.
const WINDOW: Duration = Duration::from_millis(20);
/// How many of the longest pauses are told.
const TOLD: usize = 5;
const ALLOWED_NS: f64 = 1e6;

pub(crate) fn pauses(report: &mut Report, plan: &Plan, cpus: &Cpus) {
    let keys = plan.pick(10_000_000, 1_000_000);
    report.note(&format!(
        "One thread sets {} new keys and reads an old one after each. In turn with it, for as long: a\n\
         loop that only reads the clock (the figure is above this one), and one whose every step is\n\
         answered by a sleeping thread on the engine's CPU (what a call by message cannot be better\n\
         than). One run, so no pairs and no A/A: compare the controls.",
        thousands(keys)
    ));
    let engine = grid::start(grid::config(), cpus);
    let echo = on_cpus(&[cpus.owner], Echo::start);
    let mut growth = Growth::default();
    while growth.keys < keys {
        growth.work(&engine, keys);
        growth.clock.window(|| ());
        growth.echo.window(|| echo.ask());
    }
    let stats = engine.stats().expect("a running engine tells its state");
    assert_eq!(stats.keys as u64, keys, "every key is there");
    growth.print(report);
}

#[derive(Default)]
struct Growth {
    keys: u64,
    sets: Pauses,
    reads: Pauses,
    clock: Pauses,
    echo: Pauses,
}

impl Growth {
    fn work(&mut self, engine: &Engine, most: u64) {
        let started = Instant::now();
        let mut random = Random::new(self.keys);
        while started.elapsed() < WINDOW && self.keys < most {
            let number = self.keys;
            let (new, value) = (key(Family::Plain, number), value(number));
            self.sets.time(number, || engine.set(new, value).expect("the engine takes a write"));
            self.keys += 1;
            let old = key(Family::Plain, random.below(self.keys));
            self.reads.time(number, || black_box(grid::read(engine, &old)));
        }
    }

    fn print(&self, report: &mut Report) {
        let rows = [
            ("set", &self.sets),
            ("read", &self.reads),
            ("control: clock", &self.clock),
            ("control: echo", &self.echo),
        ];
        report.note(&format!("{:<16}{:>10}{:>10}{:>10}{:>12}", "", "p50", "p99.9", "max", "times"));
        for (name, pauses) in rows {
            let at = |quantile| nanoseconds(pauses.all.value_at_quantile(quantile) as f64);
            report.note(&format!(
                "{name:<16}{:>10}{:>10}{:>10}{:>12}",
                at(0.5),
                at(0.999),
                nanoseconds(pauses.all.max() as f64),
                thousands(pauses.all.len())
            ));
        }
        for (name, pauses) in &rows[..2] {
            let longest = pauses.longest.iter().rev();
            let told: Vec<String> = longest
                .map(|&(ns, keys)| format!("{} at {} keys", nanoseconds(ns as f64), thousands(keys)))
                .collect();
            report.note(&format!("the longest of {name}: {}", told.join(", ")));
        }
        let longest = self.sets.all.max().max(self.reads.all.max()) as f64;
        let above = longest - self.clock.all.max() as f64;
        let measured = format!(
            "{} ({} − {})",
            nanoseconds(above),
            nanoseconds(longest),
            nanoseconds(self.clock.all.max() as f64)
        );
        let verdict = Verdict::at_most(ALLOWED_NS, above);
        report.row("longest pause above the clock's", measured, "≤ 1 ms", verdict);
    }
}

struct Pauses {
    all: Histogram<u64>,
    /// With the number of keys at that time, shortest first.
    longest: Vec<(u64, u64)>,
}

impl Default for Pauses {
    fn default() -> Self {
        let all = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order");
        Self { all, longest: Vec::new() }
    }
}

impl Pauses {
    fn time<T>(&mut self, keys: u64, work: impl FnOnce() -> T) {
        let before = Instant::now();
        work();
        let ns = before.elapsed().as_nanos() as u64;
        self.all.saturating_record(ns);
        if self.longest.len() < TOLD || ns > self.longest[0].0 {
            if self.longest.len() == TOLD {
                self.longest.remove(0);
            }
            let place = self.longest.partition_point(|&(other, _)| other < ns);
            self.longest.insert(place, (ns, keys));
        }
    }

    /// The same step again and again.
    fn window(&mut self, mut step: impl FnMut()) {
        let started = Instant::now();
        while started.elapsed() < WINDOW {
            self.time(0, &mut step);
        }
    }
}

/// A thread that sleeps until it is asked, and answers.
struct Echo {
    questions: SyncSender<()>,
    answers: Receiver<()>,
}

impl Echo {
    fn start() -> Self {
        let (questions, asked) = sync_channel(1);
        let (answer, answers) = sync_channel(1);
        // It ends when its questions do.
        thread::spawn(move || asked.into_iter().try_for_each(|()| answer.send(())));
        Self { questions, answers }
    }

    fn ask(&self) {
        self.questions.send(()).expect("the thread listens");
        self.answers.recv().expect("the thread answers");
    }
}
