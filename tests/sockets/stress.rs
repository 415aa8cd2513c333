//! Many threads on one engine, for as many seconds as `GRIDKV_STRESS_SECONDS` says: every value
//! says which key and version it is and how long, and what a reader sees of a key never goes back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gridkv::{Config, Engine, NotApplied, WriteError, WriteOptions};

use crate::support::{Dice, check, processors, start, stress_time, value, wait_until};

const WRITERS: u64 = 2;
const READERS: u64 = 4;
const KEYS: u64 = 20_000;

fn write(engine: &Engine, writer: u64, newest: &[AtomicU64], end: Instant) {
    let mut dice = Dice(100 + writer);
    let mut version = 0;
    while Instant::now() < end {
        version += 1;
        // Each key has one writer. How many there are comes and goes.
        let keys = if version / 20_000 % 2 == 0 { KEYS } else { 400 };
        let n = dice.roll(keys / WRITERS) * WRITERS + writer;
        let key = format!("key {n}");
        newest[n as usize].store(version, Ordering::Release);
        let length = if dice.roll(100) == 0 { 10_000 } else { 24 + dice.roll(200) as usize };
        let result = match dice.roll(10) {
            0..4 => engine.delete(&key),
            4 => {
                let ttl = WriteOptions::new().ttl(Duration::from_millis(1 + dice.roll(30)));
                engine.set_with(&key, value(n, version, length), &ttl)
            }
            _ => engine.set(&key, value(n, version, length)),
        };
        match result {
            Ok(()) | Err(WriteError::NotApplied(NotApplied::Overloaded)) => {}
            error => panic!("{error:?}"),
        }
    }
}

fn read(engine: &Engine, reader: u64, newest: &[AtomicU64], is_over: &AtomicBool) -> u64 {
    let mut dice = Dice(200 + reader);
    let mut last = vec![0; newest.len()];
    let mut found = 0;
    let mut see = |n: u64, version: u64| {
        let last: &mut u64 = &mut last[n as usize];
        assert!(version >= *last, "{n}: version {version} after {last}");
        assert!(version <= newest[n as usize].load(Ordering::Acquire));
        *last = version;
        found += 1;
    };
    while !is_over.load(Ordering::Relaxed) {
        let n = dice.roll(KEYS);
        match dice.roll(200) {
            0 => engine
                .local_keys("")
                .take(2000)
                .for_each(|key| assert!(key.unwrap().starts_with(b"key "))),
            1..20 => {
                let some: Vec<u64> = (0..dice.roll(80)).map(|_| dice.roll(KEYS)).collect();
                let keys: Vec<String> = some.iter().map(|n| format!("key {n}")).collect();
                for (n, value) in some.iter().zip(engine.get_many(&keys).unwrap()) {
                    value.into_iter().for_each(|value| see(*n, check(*n, &value)));
                }
            }
            20 => {
                // Looks twice, with time in between.
                let look = |value: &[u8]| {
                    let version = check(n, value);
                    (0..20).for_each(|_| thread::yield_now());
                    assert_eq!(check(n, value), version);
                    version
                };
                let version = engine.read(format!("key {n}"), look).unwrap();
                version.into_iter().for_each(|version| see(n, version));
            }
            _ => {
                let version = engine.read(format!("key {n}"), |value| check(n, value)).unwrap();
                version.into_iter().for_each(|version| see(n, version));
            }
        }
    }
    found
}

fn run(config: Config) {
    let engine = start(config);
    let newest: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let is_over = AtomicBool::new(false);
    let end = Instant::now() + stress_time() / 2;
    thread::scope(|scope| {
        let (engine, newest, is_over) = (&engine, &newest, &is_over);
        let readers: Vec<_> = (0..READERS)
            .map(|reader| scope.spawn(move || read(engine, reader, newest, is_over)))
            .collect();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| scope.spawn(move || write(engine, writer, newest, end)))
            .collect();
        let written: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        let found: Vec<u64> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        written.into_iter().for_each(|end| end.unwrap());
        assert!(found.iter().sum::<u64>() > 0, "nobody found anything");
    });
    wait_until("what readers held is free", || engine.stats().unwrap().held_bytes == 0);
    for n in 0..KEYS {
        engine.delete(format!("key {n}")).unwrap();
    }
    assert_eq!(engine.stats().unwrap().keys, 0);
}

#[test]
fn readers_beside_writers_of_a_cache_see_whole_values_of_rising_versions() {
    let _processors = processors();
    run(Config::standalone("solo").cores(2).max_memory(4 << 20));
}

#[test]
fn readers_beside_writers_see_whole_values_of_rising_versions() {
    let _processors = processors();
    run(Config::standalone("solo").cores(2));
}
