//! `growth`: the longest pause of any operation while the store grows, compared with loops that do
//! nothing.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use gridkv::Engine;
use gridkv_benches::compare::Plan;
use gridkv_benches::grid;
use gridkv_benches::keys::{Family, Random, key, value};
use gridkv_benches::machine::{Cpus, pin};
use hdrhistogram::Histogram;

use crate::report::{Report, Verdict, nanoseconds, thousands};

/// Operations, then a control for as long, so often that they see the same seconds.
const WINDOW: Duration = Duration::from_millis(50);
/// The other control needs less.
const ECHO_WINDOW: Duration = Duration::from_millis(10);
/// How many of the longest pauses are told.
const TOLD: usize = 5;
const ALLOWED_NS: f64 = 1e6;

pub(crate) fn pauses(report: &mut Report, plan: &Plan, cpus: &Cpus) {
    let keys = plan.pick(10_000_000, 1_000_000);
    report.note(&format!(
        "One thread, on the engine's CPU, sets {} new keys; another, on the other CPU, reads old \
         ones\n\
         meanwhile. In turn with them, for as long, both only read the clock (the figure is above \
         the\n\
         longest gap of these loops); then the first asks a sleeping thread on its CPU for an echo \
         (what\n\
         a call by message cannot be better than). One run: there are no pairs, and the controls \
         stand\n\
         for A/A.",
        thousands(keys)
    ));
    let engine = grid::start(grid::config(), cpus);
    let (set, phase) = (AtomicU64::new(0), Barrier::new(2));
    let (setter, reader) = thread::scope(|scope| {
        let setter = scope.spawn(|| {
            pin(cpus.owner);
            Setter::default().run(&engine, &set, keys, &phase)
        });
        let reader = Reader::default().run(&engine, &set, keys, &phase);
        (setter.join().expect("the setter sets"), reader)
    });
    let stats = engine.stats().expect("a running engine tells its state");
    assert_eq!(stats.keys as u64, keys, "every key is there");
    print(report, &setter, &reader);
}

/// Grows the store.
#[derive(Default)]
struct Setter {
    sets: Pauses,
    clock: Pauses,
    echo: Pauses,
}

impl Setter {
    fn run(mut self, engine: &Engine, set: &AtomicU64, most: u64, phase: &Barrier) -> Self {
        let echo = Echo::start();
        loop {
            self.window(engine, set, most);
            phase.wait();
            if set.load(Ordering::Relaxed) == most {
                return self;
            }
            self.clock.window(WINDOW, || ());
            phase.wait();
            self.echo.window(ECHO_WINDOW, || echo.ask());
            phase.wait();
        }
    }

    fn window(&mut self, engine: &Engine, set: &AtomicU64, most: u64) {
        let (started, mut number) = (Instant::now(), set.load(Ordering::Relaxed));
        while started.elapsed() < WINDOW && number < most {
            let (key, value) = (key(Family::Plain, number), value(number));
            self.sets.time(number, || engine.set(key, value).expect("the engine takes a write"));
            number += 1;
            set.store(number, Ordering::Release);
        }
    }
}

/// Reads what is there already.
#[derive(Default)]
struct Reader {
    reads: Pauses,
    clock: Pauses,
}

impl Reader {
    fn run(mut self, engine: &Engine, set: &AtomicU64, most: u64, phase: &Barrier) -> Self {
        let mut random = Random::new(most);
        loop {
            self.window(engine, set, &mut random);
            phase.wait();
            if set.load(Ordering::Relaxed) == most {
                return self;
            }
            self.clock.window(WINDOW, || ());
            phase.wait();
            phase.wait();
        }
    }

    fn window(&mut self, engine: &Engine, set: &AtomicU64, random: &mut Random) {
        let started = Instant::now();
        while started.elapsed() < WINDOW {
            let there = set.load(Ordering::Acquire);
            if there > 0 {
                let old = key(Family::Plain, random.below(there));
                self.reads.time(there, || black_box(grid::read(engine, &old)));
            }
        }
    }
}

fn print(report: &mut Report, setter: &Setter, reader: &Reader) {
    let rows = [
        ("set", &setter.sets),
        ("read", &reader.reads),
        ("control: clock, setter's CPU", &setter.clock),
        ("control: clock, reader's CPU", &reader.clock),
        ("control: echo", &setter.echo),
    ];
    report.note(&format!("{:<30}{:>10}{:>10}{:>10}{:>14}", "", "p50", "p99.9", "max", "times"));
    for (name, pauses) in rows {
        let at = |quantile| nanoseconds(pauses.all.value_at_quantile(quantile) as f64);
        let (longest, times) =
            (nanoseconds(pauses.longest_ns() as f64), thousands(pauses.all.len()));
        report.note(&format!("{name:<30}{:>10}{:>10}{longest:>10}{times:>14}", at(0.5), at(0.999)));
    }
    for (name, pauses) in &rows[..2] {
        let told = pauses.longest.iter().rev();
        let told =
            told.map(|&(ns, keys)| format!("{} at {}", nanoseconds(ns as f64), thousands(keys)));
        report.note(&format!(
            "the longest of {name}, at so many keys: {}",
            told.collect::<Vec<_>>().join(", ")
        ));
    }
    let longest = setter.sets.longest_ns().max(reader.reads.longest_ns()) as f64;
    let control = setter.clock.longest_ns().max(reader.clock.longest_ns()) as f64;
    let above = longest - control;
    let measured =
        format!("{} ({} − {})", nanoseconds(above), nanoseconds(longest), nanoseconds(control));
    let is_restless = control > ALLOWED_NS;
    let verdict = if is_restless { Verdict::Void } else { Verdict::at_most(ALLOWED_NS, above) };
    report.row("longest pause above the clock's", measured, "≤ 1 ms", verdict);
    if is_restless {
        report.note(
            "The machine itself pauses for longer than the figure: run it again when it is quiet.",
        );
    }
}

struct Pauses {
    all: Histogram<u64>,
    /// The longest pauses, shortest first, each with the number of keys at that time.
    longest: Vec<(u64, u64)>,
}

impl Default for Pauses {
    fn default() -> Self {
        let all =
            Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order");
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

    /// Times one step again and again, for `length`.
    fn window(&mut self, length: Duration, mut step: impl FnMut()) {
        let started = Instant::now();
        while started.elapsed() < length {
            self.time(0, &mut step);
        }
    }

    fn longest_ns(&self) -> u64 {
        self.longest.last().map_or(0, |&(ns, _)| ns)
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
