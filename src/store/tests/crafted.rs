//! Keys that an attacker who knows the cluster's name made, to hit one place: no call may cost them
//! more than a few times what it costs as many random ones.
#![allow(clippy::disallowed_methods, reason = "the tests measure what a step takes")]

use std::time::{Duration, Instant};

use super::*;

type KeyOf = fn(u64) -> Vec<u8>;

/// One partition and one bucket, all of the path's bits that lead to segments used.
fn one_bucket(n: u64) -> Vec<u8> {
    key_of(3 << 52 | n << 31).to_vec()
}

/// All of the path's bits that lead to segments the same: these go to the tree.
fn one_path(n: u64) -> Vec<u8> {
    key_of(3 << 52 | n).to_vec()
}

fn one_hash(n: u64) -> Vec<u8> {
    twin(n).to_vec()
}

fn random(n: u64) -> Vec<u8> {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes().to_vec()
}

const STEPS: [&str; 7] = ["insert", "read", "miss", "parts", "keys", "overwrite", "delete"];

/// How long each of the steps takes with this many keys.
fn measure(key: KeyOf, count: u64, forward: bool) -> [Duration; STEPS.len()] {
    let mut store = store(Deletes::Forget);
    let mut times = [Duration::ZERO; STEPS.len()];
    let mut order: Vec<u64> = (0..count).collect();
    let put_all = |store: &mut Store, order: &[u64], version, value: Option<&[u8]>| {
        order.iter().for_each(|n| put(store, entry(&key(*n), version, 0, value)));
    };
    for (step, time) in times.iter_mut().enumerate() {
        let start = Instant::now();
        match STEPS[step] {
            "insert" => put_all(&mut store, &order, 1, Some(b"v")),
            "read" => {
                assert!(order.iter().all(|n| store.get(hash_of(&key(*n)), &key(*n)).is_some()))
            }
            "miss" => {
                let missing = |n: u64| store.get(hash_of(&key(n)), &key(n)).is_none();
                assert!((count..2 * count).all(missing));
            }
            "parts" => {
                let mut found = 0;
                for partition in Partition::all() {
                    let mut after = None;
                    loop {
                        let part = store.part(partition, after, 0, 64 << 10);
                        found += part.entries.len() as u64;
                        after = part.next;
                        if after.is_none() {
                            break;
                        }
                    }
                }
                assert_eq!(found, count);
            }
            "keys" => {
                let (mut found, mut from) = (0, Some(TablePosition::first(0)));
                while let Some(position) = from {
                    let keys = store.keys(&position, None, wall(0), 1000);
                    found += keys.keys.len() as u64;
                    from = keys.next;
                }
                assert_eq!(found, count);
            }
            "overwrite" => put_all(&mut store, &order, 2, Some(b"w")),
            _ => {
                if !forward {
                    order.reverse();
                }
                put_all(&mut store, &order, 3, None);
            }
        }
        *time = start.elapsed();
    }
    store.collect();
    assert_eq!((store.live(), store.bytes()), (0, 0));
    times
}

fn assert_no_key_is_worse_than_random(count: u64) {
    let expected = measure(random, count, true);
    let crafted: [(&str, KeyOf); 3] =
        [("one bucket", one_bucket), ("one path", one_path), ("one hash", one_hash)];
    for (name, key) in crafted {
        for forward in [true, false] {
            let times = measure(key, count, forward);
            for (step, (time, expected)) in STEPS.iter().zip(times.iter().zip(expected)) {
                println!("{count} keys of {name}, {step}: {time:?}; random ones: {expected:?}");
                // What is over at once says nothing.
                assert!(
                    *time < 20 * expected + Duration::from_millis(50),
                    "{name}, {step}: {time:?}, {expected:?}"
                );
            }
        }
    }
}

#[test]
fn crafted_keys_cost_little_more_than_random_ones() {
    assert_no_key_is_worse_than_random(40_000);
}

/// `cargo test --lib a_million_crafted -- --ignored --nocapture`
#[test]
#[ignore = "takes a minute and a gigabyte"]
fn a_million_crafted_keys_cost_little_more_than_random_ones() {
    assert_no_key_is_worse_than_random(1_000_000);
}

/// The timer knows a hash alone: of many keys with one hash each was looked at, from the first on.
#[test]
fn crafted_keys_that_expire_last_first_cost_little_more_than_random_ones() {
    let expire_all = |key: KeyOf| {
        let mut store = store(Deletes::Forget);
        let count = 20_000;
        (0..count).for_each(|n| put(&mut store, entry(&key(n), 1, 1 + count - n, Some(b"v"))));
        let start = Instant::now();
        for at in 1..count + 2 {
            while store.expire(wall(at), 256) == 256 {}
        }
        assert_eq!((store.live(), store.timers.len()), (0, 0));
        start.elapsed()
    };
    let expected = expire_all(random);
    let time = expire_all(one_hash);
    assert!(
        time < 20 * expected + Duration::from_millis(50),
        "{time:?}; random ones: {expected:?}"
    );
}

/// A caller that adds and removes one key over and over, where that splits segments and merges
/// them, gains little.
#[test]
fn a_key_that_comes_and_goes_at_a_brink_costs_little() {
    let turns = 20_000;
    let churn = |key: KeyOf, few: u64, many: u64| {
        let mut store = store(Deletes::Forget);
        let start = Instant::now();
        let mut version = 1;
        (0..few).for_each(|n| put(&mut store, entry(&key(n), 1, 0, Some(b"v"))));
        for _ in 0..turns / (many - few) {
            for (at, value) in [(few..many, Some(&b"v"[..])), (few..many, None)] {
                version += 1;
                at.for_each(|n| put(&mut store, entry(&key(n), version, 0, value)));
            }
        }
        start.elapsed()
    };
    let expected = churn(random, 40, 60);
    // They fill a bucket and the stash at 56; the path's bits are used up one by one to part them.
    let deep: KeyOf = |n| key_of(3 << 52 | (n % 2) << 36 | n).to_vec();
    for few in [40, 48, 50, 54, 55] {
        for key in [one_bucket as KeyOf, one_path, deep] {
            let time = churn(key, few, few + 20);
            assert!(
                time < 100 * expected + Duration::from_millis(50),
                "{few}: {time:?}; random: {expected:?}"
            );
        }
    }
}
