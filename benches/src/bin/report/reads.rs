//! Reads without a writer: `read`, `ttl`, `read-1m`, `get-many`, `two-readers`.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use gridkv::Engine;
use gridkv_benches::compare::{Contender, Plan, against_itself, compare, ns_per_key};
use gridkv_benches::grid;
use gridkv_benches::keys::{Draws, Family, Key, look};
use gridkv_benches::machine::{Cpus, pin};
use gridkv_benches::rivals::{
    Dashmap, Hashbrown, HashbrownInline, Moka, Papaya, QuickCache, Rival, Scc,
};

use crate::report::{Report, Verdict};

const RESIDENT: u64 = 10_000;
/// Enough draws that no predictor learns them, few enough to stay in the cache together with the
/// keys.
const RESIDENT_DRAWS: usize = 32 * 1024;
const BATCH: usize = 32;

/// How many keys the sections of a million read, and how many draws of them.
fn many_keys(plan: &Plan) -> (u64, usize) {
    plan.pick((1_000_000, 1 << 20), (100_000, 1 << 17))
}

fn ours<'a>(engine: &'a Engine, draws: &'a Draws) -> Contender<'a> {
    Contender::reads("gridkv", draws, |key| grid::read(engine, key))
}

fn theirs<'a, R: Rival>(rival: &'a R, draws: &'a Draws) -> Contender<'a> {
    Contender::reads(R::NAME, draws, |key| rival.read(key).expect("a loaded key is there"))
}

pub(crate) fn resident(report: &mut Report, plan: &Plan, cpus: &Cpus) {
    let draws = Draws::uniform(Family::Plain, RESIDENT, RESIDENT_DRAWS);
    let hashbrown = Hashbrown::filled(RESIDENT);
    report.check_itself(&mut theirs(&hashbrown, &draws), plan);
    controls(report, plan, &draws);

    let engine = grid::filled(RESIDENT, cpus);
    let mut ours = ours(&engine, &draws);
    let comparison = compare(&mut ours, &mut theirs(&hashbrown, &draws), plan);
    let verdict = Verdict::gate_and_goal(1.5, 1.3, comparison.ratio.median);
    report.rivalry("hashbrown", &comparison, "≤ 1.5, goal ≤ 1.3", verdict);
    let ns = comparison.a.median;
    if (22.0..=30.0).contains(&comparison.b.median) {
        report.row("gridkv, ns a read", format!("{ns:.1}"), "< 43 ns", Verdict::at_most(43.0, ns));
    } else {
        report
            .note("hashbrown does not take 22–30 ns here, so the figure of 43 ns does not apply.");
    }
    in_turn(report, plan, &engine, &hashbrown, &draws);
    versus_rivals(report, plan, &mut ours, RESIDENT, &draws);
}

pub(crate) fn million(report: &mut Report, plan: &Plan, cpus: &Cpus) {
    let (keys, draws) = many_keys(plan);
    let draws = Draws::uniform(Family::Plain, keys, draws);
    let hashbrown = Hashbrown::filled(keys);
    report.check_itself(&mut theirs(&hashbrown, &draws), plan);
    controls(report, plan, &draws);

    let engine = grid::filled(keys, cpus);
    let mut ours = ours(&engine, &draws);
    let comparison = compare(&mut ours, &mut theirs(&hashbrown, &draws), plan);
    let verdict = Verdict::at_most(1.15, comparison.ratio.median);
    report.rivalry("hashbrown", &comparison, "≤ 1.15", verdict);
    in_turn(report, plan, &engine, &hashbrown, &draws);
    versus_rivals(report, plan, &mut ours, keys, &draws);
}

/// The latency of a read, where the rows above are its throughput.
fn in_turn(
    report: &mut Report,
    plan: &Plan,
    engine: &Engine,
    hashbrown: &Hashbrown,
    draws: &Draws,
) {
    let mut ours = Contender::reads_in_turn("gridkv", draws, |key| grid::read(engine, key));
    let mut theirs = Contender::reads_in_turn("hashbrown, in turn", draws, |key| {
        hashbrown.read(key).expect("a loaded key is there")
    });
    report.beside(&mut ours, &mut theirs, plan);
}

/// One rival at a time, so that they share neither memory nor cache.
fn versus_rivals(
    report: &mut Report,
    plan: &Plan,
    ours: &mut Contender<'_>,
    keys: u64,
    draws: &Draws,
) {
    versus::<Dashmap>(report, plan, ours, keys, draws);
    versus::<Papaya>(report, plan, ours, keys, draws);
    versus::<Scc>(report, plan, ours, keys, draws);
    versus::<QuickCache>(report, plan, ours, keys, draws);
    versus::<Moka>(report, plan, ours, keys, draws);
    let inline = HashbrownInline::filled(keys);
    report.beside(ours, &mut theirs(&inline, draws), plan);
}

fn versus<R: Rival>(
    report: &mut Report,
    plan: &Plan,
    ours: &mut Contender<'_>,
    keys: u64,
    draws: &Draws,
) {
    let rival = R::filled(keys);
    report.ahead(ours, &mut theirs(&rival, draws), plan);
}

/// What a loop costs that draws keys and looks nothing up, and one that reads the clock.
fn controls(report: &Report, plan: &Plan, draws: &Draws) {
    let mut drawing = Contender::reads("drawing", draws, |key| look(key));
    let mut clock = Contender::reads("clock", draws, |_| {
        u64::from(black_box(Instant::now()).elapsed().subsec_nanos())
    });
    let controls = compare(&mut drawing, &mut clock, &Plan { pairs: plan.pairs.min(5), ..*plan });
    report.info("control: draws alone, ns", &format!("{:.1}", controls.a));
    report.info("control: two looks at the clock, ns", &format!("{:.1}", controls.b));
}

pub(crate) fn expiring(report: &mut Report, plan: &Plan, cpus: &Cpus) {
    let engine = grid::filled(RESIDENT, cpus);
    grid::load(&engine, Family::Expiring, 0..RESIDENT);
    let plain = Draws::uniform(Family::Plain, RESIDENT, RESIDENT_DRAWS);
    let expiring = Draws::uniform(Family::Expiring, RESIDENT, RESIDENT_DRAWS);
    report.check_itself(&mut ours(&engine, &plain), plan);
    let comparison = compare(&mut ours(&engine, &expiring), &mut ours(&engine, &plain), plan);
    let ratio = comparison.ratio;
    let verdict = Verdict::at_most(1.2, ratio.median);
    report.row("with a time to live / without", format!("{ratio}"), "≤ 1.2", verdict);
    report
        .info("", &format!("{:.1} ns against {:.1} ns", comparison.a.median, comparison.b.median));
}

pub(crate) fn many(report: &mut Report, plan: &Plan, cpus: &Cpus) {
    let (keys, draws) = many_keys(plan);
    let draws = Draws::uniform(Family::Plain, keys, draws);
    let hashbrown = Hashbrown::filled(keys);
    let mut copying = Contender::batches("hashbrown, copying", &draws, BATCH, |keys| {
        let values: Vec<Option<Vec<u8>>> =
            keys.iter().map(|key| hashbrown.0.get(&key[..]).map(|value| value.to_vec())).collect();
        look_at_all(&values)
    });
    report.check_itself(&mut copying, plan);

    let engine = grid::filled(keys, cpus);
    let mut ours = Contender::batches("gridkv", &draws, BATCH, |keys| {
        look_at_all(&engine.get_many(keys).expect("a running engine reads"))
    });
    let comparison = compare(&mut ours, &mut copying, plan);
    let verdict = Verdict::at_most(0.5, comparison.ratio.median);
    report.rivalry(copying.name, &comparison, "≤ 0.5 a key", verdict);
    let mut looking = theirs(&hashbrown, &draws);
    looking.name = "hashbrown, not copying";
    report.beside(&mut ours, &mut looking, plan);
}

fn look_at_all(values: &[Option<Vec<u8>>]) -> u64 {
    values.iter().map(|value| look(value.as_deref().expect("a loaded key is there"))).sum()
}

pub(crate) fn two_readers(report: &mut Report, plan: &Plan, cpus: &Cpus) {
    if cpus.all.len() < 2 {
        report.note("Skipped: this machine has one CPU.");
        return;
    }
    report.note(
        "Total reads of two threads, one on each CPU, over those of one. hashbrown, which nobody",
    );
    report
        .note("writes to, shows what the machine allows: where it stays below, so must everybody.");
    let (keys, draws) = (RESIDENT, Draws::uniform(Family::Plain, RESIDENT, RESIDENT_DRAWS));
    let limit = scaling(report, plan, cpus, &draws, "hashbrown", {
        let rival = Hashbrown::filled(keys);
        move |key| rival.read(key).expect("a loaded key is there")
    });
    if limit < 1.9 {
        report.note("This machine does not let even hashbrown's readers scale to 1.9 now.");
    }
    let engine = grid::filled(keys, cpus);
    let ours = scaling(report, plan, cpus, &draws, "gridkv", move |key| grid::read(&engine, key));
    let (figure, measured) = ("≥ 1.9", format!("{ours:.2} (hashbrown {limit:.2})"));
    report.row("gridkv, two readers / one", measured, figure, Verdict::at_least(1.9, ours));
    for (name, factor) in [
        rival_scaling::<Dashmap>(report, plan, cpus, &draws),
        rival_scaling::<Papaya>(report, plan, cpus, &draws),
    ] {
        if factor > ours {
            report.lose(format!("{name}'s readers scale to {factor:.2}, gridkv's to {ours:.2}"));
        }
    }
}

fn rival_scaling<R: Rival + Sync + Send>(
    report: &mut Report,
    plan: &Plan,
    cpus: &Cpus,
    draws: &Draws,
) -> (&'static str, f64) {
    let rival = R::filled(RESIDENT);
    let read = move |key: &Key| rival.read(key).expect("a loaded key is there");
    (R::NAME, scaling(report, plan, cpus, draws, R::NAME, read))
}

/// Reads a second of two threads over those of one, which changes its CPU from pair to pair.
fn scaling(
    report: &mut Report,
    plan: &Plan,
    cpus: &Cpus,
    draws: &Draws,
    name: &'static str,
    read: impl Fn(&Key) -> u64 + Sync,
) -> f64 {
    let read = &read;
    let pair = [cpus.reader, cpus.owner];
    let mut turn = 0;
    let mut alone = Contender::new(name, |slice| {
        turn += 1;
        // Twice on the one, twice on the other: both sides of an A/A pair see the same CPU.
        reads_a_second(&pair[turn / 2 % 2..][..1], draws, slice, read)
    });
    if name == "hashbrown" {
        let itself = against_itself(&mut alone, plan).ratio;
        report.check_even(name, &itself);
    }
    let mut both = Contender::new(name, |slice| reads_a_second(&pair, draws, slice, read));
    let ratio = compare(&mut both, &mut alone, plan).ratio;
    report.info(&format!("{name}, two readers / one"), &format!("{ratio}"));
    ratio.median
}

/// The total of one thread on each of these CPUs.
fn reads_a_second(
    cpus: &[usize],
    draws: &Draws,
    slice: Duration,
    read: &(impl Fn(&Key) -> u64 + Sync),
) -> f64 {
    let start = Barrier::new(cpus.len());
    thread::scope(|scope| {
        let reader = |&cpu: &usize| {
            let start = &start;
            scope.spawn(move || {
                pin(cpu);
                start.wait();
                1e9 / ns_per_key(draws, slice, 1, |keys| read(black_box(&keys[0])))
            })
        };
        let readers: Vec<_> = cpus.iter().map(reader).collect();
        readers.into_iter().map(|reader| reader.join().expect("the reader reads")).sum()
    })
}
