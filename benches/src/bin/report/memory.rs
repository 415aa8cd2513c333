//! `memory`: measures what a key takes beyond its own bytes and its value's, by the resident set of
//! a process that holds nothing else.

use std::io::{Write, stdout};

use gridkv_benches::compare::Plan;
use gridkv_benches::grid;
use gridkv_benches::keys::{Family, KEY_BYTES, VALUE_BYTES, key, value};
use gridkv_benches::machine::{Cpus, most_resident_bytes, on_cpus, resident_bytes};
use gridkv_benches::rivals::{
    Dashmap, Hashbrown, HashbrownInline, Moka, Papaya, QuickCache, Rival, Scc,
};

use crate::child::run_child;
use crate::report::{Report, Verdict, thousands};

/// Tables double: from half of the last point to it, in steps of the eighth root of two.
const STEPS: i32 = 8;

pub(crate) fn overhead(report: &mut Report, plan: &Plan, cpus: &Cpus) {
    let keys = plan.pick(1 << 20, 1 << 17);
    let points: Vec<u64> = points(keys).collect();
    report.note(&format!(
        "Bytes a key beyond its {KEY_BYTES} and its value's {VALUE_BYTES}, in a process of its \
         own, at {} points\n\
         from {} to {} keys. \"peak\" is the largest resident set ever, copies during growth\n\
         included, for the last point's keys.",
        points.len(),
        thousands(points[0]),
        thousands(keys)
    ));
    let heading: String =
        points.iter().map(|&keys| format!("{:>7}", format!("{}k", keys / 1000))).collect();
    report.note(&format!("{:<22}{heading}{:>9}", "", "peak"));
    let ours = measured(report, "gridkv", keys, cpus);
    for name in RIVALS {
        let theirs = measured(report, name, keys, cpus);
        if theirs < ours {
            report.lose(format!(
                "{name} takes {theirs:.0} bytes a key at its worst, gridkv {ours:.0}"
            ));
        }
    }
    let verdict = Verdict::gate_and_goal(64.0, 48.0, ours);
    report.row("gridkv, worst point", format!("{ours:.1} bytes a key"), "≤ 64, goal ≤ 48", verdict);
}

const RIVALS: [&str; 7] = [
    Hashbrown::NAME,
    HashbrownInline::NAME,
    Dashmap::NAME,
    Papaya::NAME,
    Scc::NAME,
    QuickCache::NAME,
    Moka::NAME,
];

fn points(keys: u64) -> impl Iterator<Item = u64> {
    (-STEPS..=0)
        .map(move |step| (keys as f64 * 2_f64.powf(f64::from(step) / f64::from(STEPS))) as u64)
}

/// Prints a store's points and gives the worst.
fn measured(report: &Report, name: &str, keys: u64, cpus: &Cpus) -> f64 {
    let work = format!("memory/{name}/{keys}");
    let lines = on_cpus(&cpus.all, || run_child(&work));
    let beyond: Vec<f64> = lines
        .iter()
        .map(|line| {
            let numbers: Vec<u64> =
                line.split(' ').map(|number| number.parse().expect("a number")).collect();
            numbers[1] as f64 / numbers[0] as f64 - (KEY_BYTES + VALUE_BYTES) as f64
        })
        .collect();
    let (peak, points) = beyond.split_last().expect("the child has told its peak");
    let cells: String = points.iter().map(|beyond| format!("{beyond:>7.1}")).collect();
    report.note(&format!("{name:<22}{cells}{peak:>9.1}"));
    points.iter().copied().fold(f64::MIN, f64::max)
}

/// Fills a store, and prints the number of keys and the bytes at each point, then at the peak.
pub(crate) fn fill_store(name: &str, keys: u64) {
    match name {
        "gridkv" => fill_engine(keys),
        Hashbrown::NAME => fill::<Hashbrown>(keys),
        HashbrownInline::NAME => fill::<HashbrownInline>(keys),
        Dashmap::NAME => fill::<Dashmap>(keys),
        Papaya::NAME => fill::<Papaya>(keys),
        Scc::NAME => fill::<Scc>(keys),
        QuickCache::NAME => fill::<QuickCache>(keys),
        Moka::NAME => fill::<Moka>(keys),
        _ => panic!("there is no store {name}"),
    }
}

fn fill_engine(keys: u64) {
    let before = resident_bytes();
    let engine = grid::start(grid::config(), &Cpus::given());
    let mut filled = 0;
    for point in points(keys) {
        grid::load(&engine, Family::Plain, filled..point);
        filled = point;
        tell(point, resident_bytes() - before);
    }
    tell(keys, most_resident_bytes() - before);
}

fn fill<R: Rival>(keys: u64) {
    let before = resident_bytes();
    let mut rival = R::empty(keys);
    let mut filled = 0;
    for point in points(keys) {
        for number in filled..point {
            rival.put(&key(Family::Plain, number), &value(number));
        }
        filled = point;
        rival.settle();
        tell(point, resident_bytes() - before);
    }
    tell(keys, most_resident_bytes() - before);
}

fn tell(keys: u64, bytes: u64) {
    println!("{keys} {bytes}");
    stdout().flush().expect("somebody listens");
}
