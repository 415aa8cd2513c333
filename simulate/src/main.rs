//! Runs the schedules of many seeds, on all processors, and reports those that broke a promise.
//!
//! ```sh
//! cargo run --release -p gridkv-simulate -- --seeds 0..1000
//! cargo run --release -p gridkv-simulate -- --seeds 17..18 --profile lossy --trace FILE
//! ```
//!
//! | flag | what it does |
//! |---|---|
//! | `--seeds FROM..TO` | runs these seeds; 0..100 if it is absent |
//! | `--long` | simulates ten minutes of faults for each seed instead of one |
//! | `--profile NAME` | makes one kind of trouble only |
//! | `--trace FILE` | writes every event of the first seed that fails |
//! | `--mutant NAME` | leaves out a rule of the protocol, which the checkers should notice |
//! | `--first` | stops at the first failure |
//! | `--hashes FILE` | writes the trace hash of each seed |
//!
//! A change that should change no history is run before and after with `--hashes`: the two files
//! are equal. The exit status is 1 if a seed failed, and 2 if the arguments are wrong.
//!
//! `RESULTS.md` has what was run so far.
#![expect(
    clippy::disallowed_methods,
    reason = "a program with threads and a clock of its own, and an exit status"
)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use gridkv::sim::ProtocolMutant;
use gridkv::sim::chaos::{self, ChaosOptions, Failure, Linearizable, Profile, Summary};

const USAGE: &str = "usage: simulate [--seeds FROM..TO] [--long] [--profile NAME] [--trace FILE] \
                     [--mutant NAME] [--first] [--hashes FILE]";

struct Arguments {
    seeds: Range<u64>,
    options: ChaosOptions,
    /// Whether the first failure ends the run.
    stops: bool,
    trace: Option<String>,
    hashes: Option<String>,
}

fn arguments() -> Result<Arguments, String> {
    let mut all = std::env::args().skip(1);
    let mut found = Arguments {
        seeds: 0..100,
        options: ChaosOptions::default(),
        stops: false,
        trace: None,
        hashes: None,
    };
    while let Some(name) = all.next() {
        let mut value = || all.next().ok_or(format!("{name} wants a value"));
        match name.as_str() {
            "--seeds" => found.seeds = range(&value()?).ok_or("--seeds wants FROM..TO")?,
            "--long" => found.options.long = true,
            "--profile" => {
                let names = Profile::ALL.map(Profile::name).join(", ");
                let profile = Profile::by_name(&value()?);
                found.options.profile =
                    Some(profile.ok_or(format!("--profile is one of {names}"))?);
            }
            "--first" => found.stops = true,
            "--hashes" => found.hashes = Some(value()?),
            "--trace" => found.trace = Some(value()?),
            "--mutant" => {
                let name = value()?;
                let mutant =
                    ProtocolMutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name);
                let names = format!("--mutant is one of {:?}", ProtocolMutant::ALL);
                found.options.mutant = Some(mutant.ok_or(names)?);
            }
            _ => return Err(format!("{name} means nothing here")),
        }
    }
    Ok(found)
}

fn range(text: &str) -> Option<Range<u64>> {
    let (from, to) = text.split_once("..")?;
    Some(from.parse().ok()?..to.parse().ok()?)
}

#[derive(Default)]
struct Totals {
    runs: u64,
    simulated: Duration,
    events: u64,
    operations: usize,
    answered: usize,
    linearizable: Linearizable,
    settled_after: Duration,
    equal_after: Duration,
    faults: BTreeMap<&'static str, usize>,
    /// The numbers of runs and failures of each profile.
    profiles: BTreeMap<Profile, (u64, u64)>,
    failures: Vec<Failure>,
    /// The trace hash of each seed that kept its promises.
    hashes: BTreeMap<u64, u64>,
}

impl Totals {
    fn add(&mut self, seed: u64, result: Result<Summary, Box<Failure>>) {
        self.runs += 1;
        let profile =
            result.as_ref().map_or_else(|failure| failure.profile, |summary| summary.profile);
        let (runs, failures) = self.profiles.entry(profile).or_default();
        *runs += 1;
        *failures += u64::from(result.is_err());
        match result {
            Ok(summary) => {
                self.simulated += summary.simulated;
                self.hashes.insert(seed, summary.trace_hash);
                self.events += summary.events;
                self.operations += summary.operations;
                self.answered += summary.answered;
                self.linearizable += summary.linearizable;
                self.settled_after = self.settled_after.max(summary.settled_after);
                self.equal_after = self.equal_after.max(summary.equal_after);
                for (kind, count) in summary.faults {
                    *self.faults.entry(kind).or_default() += count;
                }
            }
            Err(failure) => {
                self.simulated += failure.simulated;
                println!("{failure}\n");
                self.failures.push(*failure);
            }
        }
    }

    fn report(&self, took: Duration, threads: usize) {
        let seconds = took.as_secs_f64();
        println!(
            "{} histories in {seconds:.1} s on {threads} threads: {:.2} a second",
            self.runs,
            self.runs as f64 / seconds
        );
        println!(
            "{:.0} s simulated: {:.0} for each second on each thread; {} events, {:.2} million a \
             second",
            self.simulated.as_secs_f64(),
            self.simulated.as_secs_f64() / seconds / threads as f64,
            self.events,
            self.events as f64 / seconds / 1e6
        );
        println!("{} operations checked, {} of them had an answer", self.operations, self.answered);
        let Linearizable { keys, undecided, over_changes, parted, .. } = self.linearizable;
        println!(
            "{keys} keys were linearizable, {undecided} undecided; {over_changes} of them over \
             changes of lists, {parted} until a fork"
        );
        println!(
            "at the latest, all copies were there after {:.1} s and equal after {:.1} s",
            self.settled_after.as_secs_f64(),
            self.equal_after.as_secs_f64()
        );
        let faults = self.faults.iter().map(|(kind, count)| format!("{count} {kind}"));
        println!("faults: {}", faults.collect::<Vec<_>>().join(", "));
        for (profile, (runs, failures)) in &self.profiles {
            println!("  {:15} {runs:6} histories, {failures} failed", profile.name());
        }
        let mut seeds: Vec<u64> = self.failures.iter().map(|failure| failure.seed).collect();
        seeds.sort_unstable();
        if !seeds.is_empty() {
            println!("failed: {seeds:?}");
        }
    }
}

fn main() -> ExitCode {
    let Arguments { seeds, mut options, stops, trace, hashes } = match arguments() {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(seeds.start);
    let totals = Mutex::new(Totals::default());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let result = chaos::run(seed, &options);
                    if stops && result.is_err() {
                        next.store(seeds.end, Ordering::Relaxed);
                    }
                    totals.lock().unwrap_or_else(PoisonError::into_inner).add(seed, result);
                }
            });
        }
    });
    let totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    totals.report(began.elapsed(), threads);
    if let Some(path) = hashes {
        let lines = totals.hashes.iter().map(|(seed, hash)| format!("{seed} {hash:016x}\n"));
        if let Err(error) = std::fs::write(&path, lines.collect::<String>()) {
            eprintln!("{path}: {error}");
        }
    }
    let first = totals.failures.iter().min_by_key(|failure| failure.seed);
    if let (Some(failure), Some(path)) = (first, trace) {
        options.keep_trace = true;
        if let Err(failure) = chaos::run(failure.seed, &options)
            && let Err(error) = std::fs::write(&path, &failure.trace)
        {
            eprintln!("{path}: {error}");
        }
    }
    if totals.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
