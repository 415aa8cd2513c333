//! The conventional suite: the calls of the public interface, one after another, on one thread.
//! Absolute times, to compare one commit with the next on one machine; rivals are the report's.
//!
//! `cargo bench -p gridkv-benches`

use std::hint::black_box;

use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main,
};
use gridkv::Engine;
use gridkv_benches::grid;
use gridkv_benches::keys::{Draws, Family, Key, value};
use gridkv_benches::machine::{Cpus, pin};

const KEYS: u64 = 10_000;
const BATCH: usize = 32;

fn store(criterion: &mut Criterion) {
    let cpus = Cpus::given();
    pin(cpus.reader);
    let engine = grid::filled(KEYS, &cpus);
    let draws = Draws::uniform(Family::Plain, KEYS, 32 * 1024);
    let mut group = criterion.benchmark_group("store");
    group.throughput(Throughput::Elements(1));
    each(&mut group, "read", &draws, |key| {
        black_box(grid::read(&engine, key));
    });
    each(&mut group, "get", &draws, |key| {
        black_box(engine.get(key).expect("a running engine reads"));
    });
    each(&mut group, "set", &draws, |key| {
        engine.set(key, value(1)).expect("the engine takes a write");
    });
    group.throughput(Throughput::Elements(BATCH as u64));
    get_many(&mut group, &draws, &engine);
    group.finish();
}

type Group<'a> = BenchmarkGroup<'a, criterion::measurement::WallTime>;

fn each(group: &mut Group<'_>, name: &str, draws: &Draws, call: impl Fn(&Key)) {
    let mut walk = draws.walk();
    let mut keys = walk.chunk().iter();
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let key = keys.next().unwrap_or_else(|| {
                keys = walk.chunk().iter();
                keys.next().expect("a chunk is not empty")
            });
            call(black_box(key));
        });
    });
}

fn get_many(group: &mut Group<'_>, draws: &Draws, engine: &Engine) {
    let mut walk = draws.walk();
    group.bench_function("get_many of 32", |bencher| {
        bencher.iter_batched(
            || &walk.chunk()[..BATCH],
            |keys| engine.get_many(keys).expect("a running engine reads"),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, store);
criterion_main!(benches);
