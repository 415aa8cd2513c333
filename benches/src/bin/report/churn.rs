//! `rss-churn`: the resident set of a process whose engine has a memory limit, while values of all
//! sizes come and go.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use gridkv::Engine;
use gridkv_benches::compare::Plan;
use gridkv_benches::grid;
use gridkv_benches::keys::{Family, Random, key};
use gridkv_benches::machine::{Cpus, most_resident_bytes, on_cpus, resident_bytes};

use crate::child::run_child;
use crate::report::{Report, Verdict, thousands};

const MIN_VALUE_BYTES: f64 = 16.0;
const MAX_VALUE_BYTES: f64 = 65536.0;
/// What a value has on average, its length's logarithm being uniform.
const MEAN_VALUE_BYTES: u64 = 7877;
/// The values of all keys together, as a multiple of the limit.
const OVERFLOW: u64 = 4;
const WRITERS: u64 = 8;
/// How many of a hundred calls delete, and how many read; the rest write.
const DELETES: u64 = 10;
const READS: u64 = 20;
const READS_END: u64 = DELETES + READS;
const SAMPLED_EVERY: Duration = Duration::from_millis(5);

pub(crate) fn resident(report: &mut Report, plan: &Plan, cpus: &Cpus) {
    let limit_bytes: u64 = plan.pick(512, 64) << 20;
    let written_bytes = limit_bytes * plan.pick(40, 6);
    report.note(&format!(
        "{WRITERS} callers write {} MiB of values of {MIN_VALUE_BYTES} to {MAX_VALUE_BYTES} bytes \
         (the logarithm uniform), delete and read,\n\
         over keys that take {OVERFLOW} times the limit of {} MiB, in a process of its own.",
        thousands(written_bytes >> 20),
        thousands(limit_bytes >> 20)
    ));
    let told = on_cpus(&cpus.all, || run_child(&format!("churn/{limit_bytes}/{written_bytes}")));
    let told: Vec<u64> = told.iter().map(|number| number.parse().expect("a number")).collect();
    let [before, late_mean, most, refused, keys] = told[..] else {
        panic!("the child tells five numbers")
    };
    let mib = |bytes: u64| thousands(bytes >> 20);
    report.info("resident before, MiB", &mib(before));
    report.info("resident, mean of the second half, MiB", &mib(late_mean));
    report.info("resident, most, MiB", &mib(most));
    report.info(
        "keys at the end, writes refused",
        &format!("{}, {}", thousands(keys), thousands(refused)),
    );
    let factor = most as f64 / limit_bytes as f64;
    let verdict = Verdict::at_most(1.2, factor);
    report.row("resident set, most / limit", format!("{factor:.3}"), "≤ 1.2", verdict);
}

/// Prints the resident set before, its mean in the second half and its most, how many writes were
/// refused, and how many keys are there.
pub(crate) fn child(limit_bytes: u64, written_bytes: u64) {
    let before = resident_bytes();
    let engine = grid::limited(limit_bytes as usize, &Cpus::given());
    let keys = OVERFLOW * limit_bytes / MEAN_VALUE_BYTES;
    let (written, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let late = thread::scope(|scope| {
        for number in 0..WRITERS {
            let (engine, written, refused) = (&engine, &written, &refused);
            scope.spawn(move || {
                let mut random = Random::new(number);
                while written.load(Ordering::Relaxed) < written_bytes {
                    step(engine, &mut random, keys, written, refused);
                }
            });
        }
        sample(&written, written_bytes)
    });
    let late_mean = late.iter().sum::<u64>() / late.len().max(1) as u64;
    let there = engine.stats().expect("a running engine tells its state").keys;
    println!("{before}\n{late_mean}\n{}\n{}\n{there}", most_resident_bytes(), refused.into_inner());
}

fn step(engine: &Engine, random: &mut Random, keys: u64, written: &AtomicU64, refused: &AtomicU64) {
    let key = key(Family::Plain, random.below(keys));
    match random.below(100) {
        0..DELETES => refused.fetch_add(u64::from(engine.delete(key).is_err()), Ordering::Relaxed),
        DELETES..READS_END => {
            engine.read(key, |value| value.len()).expect("a running engine reads").unwrap_or(0)
                as u64
        }
        _ => {
            let length = MIN_VALUE_BYTES * (MAX_VALUE_BYTES / MIN_VALUE_BYTES).powf(random.unit());
            let value = vec![random.next_u64() as u8; length as usize];
            refused.fetch_add(u64::from(engine.set(key, &value).is_err()), Ordering::Relaxed);
            written.fetch_add(value.len() as u64, Ordering::Relaxed)
        }
    };
}

/// The resident set, again and again, once half is written.
fn sample(written: &AtomicU64, written_bytes: u64) -> Vec<u64> {
    let mut late = Vec::new();
    loop {
        let now = written.load(Ordering::Relaxed);
        if now >= written_bytes {
            return late;
        }
        if now >= written_bytes / 2 {
            late.push(resident_bytes());
        }
        thread::sleep(SAMPLED_EVERY);
    }
}
