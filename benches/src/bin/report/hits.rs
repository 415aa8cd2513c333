//! `hit-ratio`: how often a cache holds what is asked for, at equal numbers of entries.

use gridkv_benches::compare::Plan;
use gridkv_benches::grid;
use gridkv_benches::keys::{Family, Key, Random, key, look, value};
use gridkv_benches::machine::{Cpus, on_cpus};
use gridkv_benches::rivals::{Lru, Moka, QuickCache, Rival, Shared};

use crate::report::{Report, thousands};

/// How unequal the keys are.
const SKEW: f64 = 0.99;
/// How many of a hundred accesses of the polluted trace belong to scans.
const SCANNED_PERCENT: u64 = 30;
/// How long a scan is: nothing of it is asked for again.
const SCAN: u64 = 20_000;

pub(crate) fn ratios(report: &mut Report, plan: &Plan, cpus: &Cpus) {
    let keys = plan.pick(1_000_000, 100_000);
    let traces = Trace::all(keys, plan.pick(10_000_000, 500_000));
    report.note(&format!(
        "Zipf {SKEW} over {} keys; the polluted trace has scans of {} keys that never come again, \
         {SCANNED_PERCENT} % of\n\
         the accesses. A miss stores the key. The first fifth of a trace warms up. Hits of all \
         accesses,\n\
         and of those that are not scans. The rivals have room for as many entries as gridkv holds \
         at the\n\
         end of the trace.",
        thousands(keys),
        thousands(SCAN)
    ));
    for trace in &traces {
        for limit_mib in plan.pick([32, 8], [8, 4]) {
            at_limit(report, trace, limit_mib, cpus);
        }
    }
}

fn at_limit(report: &mut Report, trace: &Trace, limit_mib: usize, cpus: &Cpus) {
    let engine = grid::limited(limit_mib << 20, cpus);
    // On the engine's own CPU: nothing is timed, and a call is answered sooner there.
    let ours = on_cpus(&[cpus.owner], || {
        trace.replay(|key, number| {
            let hit = engine.read(key, look).expect("a running engine reads").is_some();
            if !hit {
                engine.set(key, value(number)).expect("an engine that evicts takes a write");
            }
            hit
        })
    });
    let capacity = engine.stats().expect("a running engine tells its state").keys as u64;
    drop(engine);
    report.note(&format!("{}, {limit_mib} MiB: {} entries", trace.name, thousands(capacity)));
    report.info("  gridkv, SIEVE", &ours.text());
    for (name, theirs) in rivals(trace, capacity) {
        report.info(&format!("  {name}"), &theirs.text());
        if theirs.all > ours.all {
            report.lose(format!(
                "{name} hits {:.2} % of {}, gridkv {:.2} %, at {} entries",
                100.0 * theirs.all,
                trace.name,
                100.0 * ours.all,
                thousands(capacity)
            ));
        }
    }
}

/// The rivals' hit ratios with this many entries.
fn rivals(trace: &Trace, capacity: u64) -> [(&'static str, Hits); 3] {
    let mut lru = Lru::empty(capacity);
    let moka = Moka::empty(capacity);
    let quick_cache = QuickCache::empty(capacity);
    [
        ("LRU", trace.replay(|key, _| lru.touch(key))),
        (Moka::NAME, trace.replay(|key, number| seen(&moka, key, number))),
        (QuickCache::NAME, trace.replay(|key, number| seen(&quick_cache, key, number))),
    ]
}

/// Whether a cache had the key. It is offered it where not.
fn seen<R: Shared>(cache: &R, key: &Key, number: u64) -> bool {
    let hit = cache.read(key).is_some();
    if !hit {
        cache.set(key, &value(number));
    }
    hit
}

/// Which keys are asked for, in order. Numbers beyond the keys of the distribution are scans.
struct Trace {
    name: &'static str,
    keys: u64,
    numbers: Vec<u64>,
}

/// How many of the accesses found their key, in all and of those that are not scans.
struct Hits {
    all: f64,
    unscanned: f64,
}

impl Hits {
    fn text(&self) -> String {
        format!("{:.2} % of all, {:.2} % without scans", 100.0 * self.all, 100.0 * self.unscanned)
    }
}

impl Trace {
    fn all(keys: u64, accesses: usize) -> [Self; 2] {
        let zipf = Zipf::new(keys);
        let mut random = Random::new(99);
        let plain = (0..accesses).map(|_| zipf.draw(&mut random)).collect();
        let mut polluted = Vec::with_capacity(accesses);
        let mut scanned = keys;
        while polluted.len() < accesses {
            polluted.extend(scanned..scanned + SCAN);
            scanned += SCAN;
            let between = SCAN * (100 - SCANNED_PERCENT) / SCANNED_PERCENT;
            polluted.extend((0..between).map(|_| zipf.draw(&mut random)));
        }
        [
            Self { name: "Zipf", keys, numbers: plain },
            Self { name: "Zipf and scans", keys, numbers: polluted },
        ]
    }

    /// Asks `seen` for each key; it says whether the key was there.
    fn replay(&self, mut seen: impl FnMut(&Key, u64) -> bool) -> Hits {
        let (mut hits, mut asked) = ([0_u64; 2], [0_u64; 2]);
        let warm = self.numbers.len() / 5;
        for (place, &number) in self.numbers.iter().enumerate() {
            let hit = seen(&key(Family::Plain, number), number);
            if place >= warm {
                let is_scan = usize::from(number >= self.keys);
                hits[is_scan] += u64::from(hit);
                asked[is_scan] += 1;
            }
        }
        let [in_all, asked_in_all] = [hits[0] + hits[1], asked[0] + asked[1]];
        Hits {
            all: in_all as f64 / asked_in_all as f64,
            unscanned: hits[0] as f64 / asked[0] as f64,
        }
    }
}

/// The most frequent key is number 0, and the k-th is asked for 1 / k^[`SKEW`] times as often.
struct Zipf {
    /// The share of the keys up to each.
    up_to: Vec<f64>,
}

impl Zipf {
    fn new(keys: u64) -> Self {
        let mut sum = 0.0;
        let mut up_to: Vec<f64> = (1..=keys)
            .map(|place| {
                sum += (place as f64).powf(-SKEW);
                sum
            })
            .collect();
        up_to.iter_mut().for_each(|share| *share /= sum);
        Self { up_to }
    }

    fn draw(&self, random: &mut Random) -> u64 {
        let share = random.unit();
        self.up_to.partition_point(|&up_to| up_to <= share).min(self.up_to.len() - 1) as u64
    }
}
