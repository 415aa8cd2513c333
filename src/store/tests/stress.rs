//! One writer and four readers, for as many seconds as `GRIDKV_STRESS_SECONDS` says.
#![allow(clippy::disallowed_methods, reason = "the stress ends by the clock")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::types::CoreId;

/// Divided among its tests.
fn duration() -> Duration {
    let seconds =
        std::env::var("GRIDKV_STRESS_SECONDS").map_or(2.0, |text| text.parse().expect("a number"));
    Duration::from_secs_f64(seconds / 2.0)
}

const KEYS: u64 = 30_000;

/// Returns one of the keys. They are in few partitions and segments, so that those split, and some
/// are in the tree.
fn stress_key(n: u64) -> Vec<u8> {
    match n % 8 {
        0 if n < 2000 => key_of(1 << 52 | n).to_vec(),
        0..5 => key_of((n % 3) << 52 | Dice(n).roll(1 << 52)).to_vec(),
        _ => format!("key {n}").into_bytes(),
    }
}

/// Says which key and version it is, how long, and that none of it is another's.
fn stress_value(n: u64, version: u64, length: usize) -> Vec<u8> {
    let length = length.max(24);
    let mut value = Vec::with_capacity(length);
    [n, version, length as u64]
        .iter()
        .for_each(|word| value.extend_from_slice(&word.to_le_bytes()));
    value.resize(length, (n ^ version) as u8);
    value
}

/// Its version, if it is what [`stress_value`] made of this key.
fn check_value(n: u64, value: &[u8]) -> u64 {
    let word = |at: usize| u64::from_le_bytes(value[8 * at..8 * at + 8].try_into().unwrap());
    let version = word(1);
    assert_eq!(
        (word(0), word(2)),
        (n, value.len() as u64),
        "another key's value, or a part of one"
    );
    assert!(value[24..].iter().all(|byte| *byte == (n ^ version) as u8), "a torn value");
    version
}

struct SharedViews {
    views: Views,
    keys: Vec<(KeyHash, Vec<u8>)>,
    /// The newest version that may be seen of each key.
    newest: Vec<AtomicU64>,
    is_over: AtomicBool,
}

fn read(shared: &SharedViews, seed: u64) -> [u64; 3] {
    let mut dice = Dice(seed);
    let mut last = vec![0; shared.keys.len()];
    let mut counts = [0; 3];
    while !shared.is_over.load(Ordering::Relaxed) {
        let pinned = shared.views.pin().expect("the thread lives");
        let mut kept: Vec<(u64, EntryRef<'_>, u64)> = Vec::new();
        for _ in 0..1 + dice.roll(40) {
            let n = dice.roll(KEYS);
            let (hash, key) = &shared.keys[n as usize];
            if dice.roll(4) == 0 {
                pinned.prefetch_bucket(*hash);
                pinned.prefetch_entry(*hash);
            }
            match pinned.get(*hash, key) {
                Local::Found(entry) => {
                    counts[0] += 1;
                    assert_eq!(entry.key(), key);
                    let version = entry.version().0;
                    assert!(
                        version >= last[n as usize],
                        "{n}: version {version} after {}",
                        last[n as usize]
                    );
                    assert!(version <= shared.newest[n as usize].load(Ordering::Acquire));
                    last[n as usize] = version;
                    if let Some(value) = entry.value() {
                        assert_eq!(check_value(n, value), version);
                        kept.push((n, entry, version));
                    }
                }
                Local::Absent => counts[1] += 1,
                Local::AskOwner => counts[2] += 1,
            }
        }
        if dice.roll(200) == 0 {
            let mut path = Some(dice.roll(8) << 52);
            for _ in 0..20 {
                let Some(at) = path else { break };
                path = pinned.walk(CoreId(0), at, |_, entry| assert!(entry.key().len() < 20)).0;
            }
        }
        if dice.roll(50) == 0 {
            (0..dice.roll(20)).for_each(|_| thread::yield_now());
        }
        // All of it stays as long as the guard does.
        for (n, entry, version) in kept {
            assert_eq!(check_value(n, entry.value().unwrap()), version);
        }
    }
    counts
}

fn write(shared: &SharedViews, store: &mut Store) -> u64 {
    let (end, mut dice, mut version) = (Instant::now() + duration(), Dice(5), 0);
    let mut at = 1;
    while version % 64 != 0 || Instant::now() < end {
        version += 1;
        // How many keys there are comes and goes, so that segments split and merge.
        let keys = if version / 100_000 % 2 == 0 { KEYS } else { 300 };
        let grows = version / 50_000 % 2 == 0;
        let n = dice.roll(keys);
        let (hash, key) = &shared.keys[n as usize];
        let expires = if dice.roll(4) == 0 { at + dice.roll(200) } else { 0 };
        let length = if dice.roll(100) == 0 { 5000 } else { 24 + dice.roll(100) as usize };
        let value =
            (dice.roll(10) < if grows { 9 } else { 2 }).then(|| stress_value(n, version, length));
        let entry = entry(key, version, expires, value.as_deref());
        shared.newest[n as usize].store(version, Ordering::Release);
        let room = loop {
            match store.make_room(*hash, &entry) {
                Admission::Later => {}
                room => break room,
            }
        };
        if room == Admission::Enough {
            store.apply(*hash, entry);
            // Deletes pass however much readers hold up, and each merge of segments takes one more.
            let most = store.config.memory.map_or(usize::MAX, |memory| memory + memory / 8);
            assert!(store.used() + store.retired_bytes() <= most);
            if let (Some(value), false) = (&value, expires > 0 && expires <= at) {
                assert_eq!(store.get(*hash, key).unwrap().value(), Some(&value[..]));
            }
        } else {
            assert_eq!(room, Admission::HeldByReaders);
            store.collect();
        }
        match dice.roll(2000) {
            0 => {
                let partition = Partition::new(dice.roll(4) as u16).unwrap();
                store.serve(partition, false);
                store.drop_partition(partition);
                store.serve(partition, true);
            }
            1..20 => {
                at += 1;
                store.expire(wall(at), 100);
            }
            20..40 => store.collect(),
            _ => {}
        }
    }
    version
}

fn run(memory: Option<usize>, deletes: Deletes) {
    let readers = Arc::new(Readers::new(None));
    let mut store = Store::new(StoreConfig { memory, ..config(deletes) }, readers.clone());
    Partition::all().for_each(|partition| store.serve(partition, true));
    let keys = (0..KEYS).map(stress_key).map(|key| (hash_of(&key), key)).collect();
    let shared = SharedViews {
        views: Views::new([store.view().clone()], readers),
        keys,
        newest: (0..KEYS).map(|_| AtomicU64::new(0)).collect(),
        is_over: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|seed| {
                let shared = &shared;
                scope.spawn(move || read(shared, seed))
            })
            .collect();
        // However it ends, the readers do too.
        let written =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| write(&shared, &mut store)));
        shared.is_over.store(true, Ordering::Relaxed);
        let counts: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        println!("{written:?} writes; found, absent, ask the owner: {counts:?}");
        assert!(written.is_ok(), "the writer failed");
        let found: u64 = counts.iter().map(|counts| counts[0]).sum();
        assert!(found > 0, "the readers found nothing");
    });
    // As many pieces as there are, a number of them at a time.
    for _ in 0..1000 {
        store.collect();
    }
    assert_eq!(store.retired_bytes(), 0, "all readers have gone");
    assert_sums(&store);
    // What the writer leaves to the readers' side goes with it.
    put(&mut store, entry(b"last", u64::MAX, 0, Some(b"v")));
    drop(store);
    let pinned = shared.views.pin().unwrap();
    assert!(matches!(pinned.get(hash_of(b"last"), b"last"), Local::Found(_)));
}

#[test]
fn readers_beside_a_writer_that_evicts_see_whole_values_of_rising_versions() {
    run(Some(2 << 20), Deletes::Forget);
}

#[test]
fn readers_beside_a_writer_that_keeps_deletes_see_whole_values_of_rising_versions() {
    run(None, Deletes::Keep);
}
