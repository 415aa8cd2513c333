//! The engine under test: one node of a cluster that holds every partition, synced.

use std::thread;
use std::time::Duration;

use gridkv::{Config, Engine, Eviction, WriteOptions};

use crate::keys::{self, Family};
use crate::machine::{Cpus, on_cpus};

/// How many partitions a cluster has, which the single node holds.
const PARTITIONS: usize = 4096;
/// How many threads load an engine. Each waits for its answers; together they keep the owner busy.
const LOADERS: u64 = 8;
const LATE: Duration = Duration::from_secs(30);
/// What the keys of [`Family::Expiring`] are given: none expires during a run.
const TTL: Duration = Duration::from_secs(24 * 3600);

/// A node of a cluster, with one copy of each key, on loopback.
pub fn config() -> Config {
    Config::new("bench", "127.0.0.1:0").replicas(1)
}

/// Starts an engine whose threads are pinned to the owner's CPU, and waits until every partition is
/// there.
///
/// # Panics
///
/// If the engine does not start.
pub fn start(config: Config, cpus: &Cpus) -> Engine {
    let engine = on_cpus(&[cpus.owner], || Engine::start(config).expect("the engine starts"));
    engine.wait_ready(LATE).expect("a single node is ready");
    while engine.stats().expect("a running engine tells its state").synced_partitions < PARTITIONS {
        thread::sleep(Duration::from_millis(1));
    }
    engine
}

/// An empty engine that keeps within a limit by evicting.
pub fn limited(limit_bytes: usize, cpus: &Cpus) -> Engine {
    start(config().max_memory(limit_bytes).eviction(Eviction::Sieve), cpus)
}

/// An engine with the first `keys` keys of a family.
pub fn filled(keys: u64, cpus: &Cpus) -> Engine {
    let engine = start(config(), cpus);
    load(&engine, Family::Plain, 0..keys);
    engine
}

/// Sets these keys. The keys of [`Family::Expiring`] get a time to live.
///
/// # Panics
///
/// If a write fails.
pub fn load(engine: &Engine, family: Family, numbers: std::ops::Range<u64>) {
    let options = match family {
        Family::Plain => WriteOptions::new(),
        Family::Expiring => WriteOptions::new().ttl(TTL),
    };
    thread::scope(|scope| {
        for loader in 0..LOADERS {
            let (numbers, options) = (numbers.clone(), &options);
            scope.spawn(move || {
                for number in numbers.skip(loader as usize).step_by(LOADERS as usize) {
                    let key = keys::key(family, number);
                    engine
                        .set_with(key, keys::value(number), options)
                        .expect("the engine takes a write");
                }
            });
        }
    });
}

/// Reads a key that is there.
///
/// # Panics
///
/// If it is not.
#[inline]
pub fn read(engine: &Engine, key: &keys::Key) -> u64 {
    engine.read(key, keys::look).expect("a running engine reads").expect("a loaded key is there")
}
