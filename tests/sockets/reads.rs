//! Reads on the caller's own thread, and the memory that they hold up.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use gridkv::{
    Config, Engine, Eviction, MAX_KEY_BYTES, NotApplied, ReadError, ReadOptions, WriteError,
    WriteOptions,
};

use crate::support::{LATE, processors, start, wait_until};

const MIB: usize = 1 << 20;

fn limited(memory: usize, eviction: Eviction) -> Engine {
    start(Config::standalone("solo").max_memory(memory).eviction(eviction))
}

fn is_overloaded(result: &Result<(), WriteError>) -> bool {
    matches!(result, Err(WriteError::NotApplied(NotApplied::Overloaded)))
}

/// Writes until nothing more is accepted, because of what a reader holds; how many writes that
/// took.
fn overwrite_until_overloaded(engine: &Engine, key: &str) -> usize {
    for n in 0..100_000 {
        let result = engine.set(key, [n as u8; 10_000]);
        if is_overloaded(&result) {
            return n;
        }
        result.unwrap();
    }
    panic!("a reader holds everything up, and nobody says so");
}

#[test]
fn a_read_inside_a_read_sees_what_is_current_then() {
    let (engine, other) = (start(Config::standalone("a")), start(Config::standalone("b")));
    engine.set("k", "old").unwrap();
    other.set("k", "theirs").unwrap();
    let seen = engine.read("k", |outer| {
        engine.set("k", "new").unwrap();
        engine.delete("gone").unwrap();
        let inner = engine.read("k", <[u8]>::to_vec).unwrap();
        let deep =
            engine.read("k", |_| other.read("k", |_| engine.get("k").unwrap()).unwrap()).unwrap();
        assert_eq!(engine.get_many(&["k", "gone"]).unwrap(), [Some(b"new".to_vec()), None]);
        assert_eq!(engine.local_keys("").count(), 1);
        (outer.to_vec(), inner, deep)
    });
    let new = Some(b"new".to_vec());
    assert_eq!(seen.unwrap(), Some((b"old".to_vec(), new.clone(), Some(Some(new)))));
    drop(engine);
    assert_eq!(other.get("k").unwrap(), Some(b"theirs".to_vec()));
}

#[test]
fn a_look_that_panics_lets_go_of_what_it_saw() {
    let engine = limited(MIB, Eviction::Sieve);
    engine.set("k", "v").unwrap();
    for _ in 0..10 {
        let nested = || engine.read("k", |_| engine.read("k", |_| panic!("as planned")));
        catch_unwind(AssertUnwindSafe(nested)).unwrap_err();
    }
    for n in 0..1000 {
        engine.set("k", [n as u8; 10_000]).unwrap();
    }
    assert_eq!(engine.read("k", |value| value[0]).unwrap(), Some(231));
    engine.delete("k").unwrap();
    wait_until("all of it is free", || engine.stats().unwrap().held_bytes == 0);
}

#[test]
fn a_look_that_takes_its_time_holds_writers_up_and_not_for_ever() {
    for eviction in [Eviction::Sieve, Eviction::None] {
        let engine = limited(MIB, eviction);
        engine.set("k", [7; 10_000]).unwrap();
        let ((looks, has_begun), (go_on, wait)) = (mpsc::channel(), mpsc::channel::<()>());
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let wait = wait;
                engine.read("k", |value| {
                    looks.send(()).unwrap();
                    wait.recv().unwrap();
                    value.iter().all(|byte| *byte == 7)
                })
            });
            has_begun.recv().unwrap();
            let writes = overwrite_until_overloaded(&engine, "k");
            assert!(writes > 10, "{writes} writes");
            let stats = engine.stats().unwrap();
            assert!(
                stats.held_bytes > MIB / 2 && stats.held_bytes + stats.bytes <= MIB,
                "{stats:?}"
            );
            assert!(engine.contains("k").unwrap());
            engine.delete("k").unwrap();
            assert!(!engine.contains("k").unwrap(), "a delete is not held up");
            go_on.send(()).unwrap();
            assert_eq!(
                reader.join().unwrap().unwrap(),
                Some(true),
                "it saw one value all the time"
            );
        });
        wait_until("writes are taken again", || engine.set("k", "v").is_ok());
        wait_until("all of it is free", || engine.stats().unwrap().held_bytes == 0);
    }
}

#[test]
fn many_keys_are_found_missed_and_expired_in_their_places() {
    let engine = start(Config::standalone("solo").cores(2));
    let soon = WriteOptions::new().ttl(Duration::from_millis(1));
    let keys: Vec<String> = (0..333).map(|n| format!("k{n}")).collect();
    for (n, key) in keys.iter().enumerate() {
        match n % 4 {
            0 => engine.set(key, key).unwrap(),
            1 => engine.set_with(key, key, &soon).unwrap(),
            2 => {
                engine.set(key, key).unwrap();
                engine.delete(key).unwrap();
            }
            _ => {}
        }
    }
    wait_until("some have expired", || {
        keys.iter().skip(1).step_by(4).all(|key| !engine.contains(key).unwrap())
    });
    for some in
        [&keys[..0], &keys[..1], &keys[..31], &keys[..32], &keys[..33], &keys[3..], &keys[..]]
    {
        let first = keys.len() - some.len();
        let first = if some.first() == keys.first() { 0 } else { first };
        let values = engine.get_many(some).unwrap();
        assert_eq!(values.len(), some.len());
        for (n, (key, value)) in some.iter().zip(values).enumerate() {
            let expected = ((first + n) % 4 == 0).then(|| key.clone().into_bytes());
            assert_eq!(value, expected, "{key}");
        }
    }
    // Wherever the key is that cannot be.
    for at in [0, 31, 32, 99] {
        let mut keys: Vec<Vec<u8>> = (0..100).map(|n| vec![n]).collect();
        keys[at] = vec![0; MAX_KEY_BYTES + 1];
        let error = ReadError::KeyTooLong { length: MAX_KEY_BYTES + 1 };
        assert_eq!(engine.get_many(&keys), Err(error));
    }
}

#[test]
fn a_walk_beside_writers_sees_every_key_that_stays_once() {
    let _processors = processors();
    let engine = start(Config::standalone("solo").cores(2));
    let stable: Vec<String> = (0..20_000).map(|n| format!("stable:{n}")).collect();
    stable.iter().for_each(|key| engine.set(key, "v").unwrap());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            // Up and down, so that segments split and merge.
            while !is_over.load(Ordering::Relaxed) {
                for n in 0..30_000 {
                    engine.set(format!("other:{n}"), "v").unwrap();
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                }
                for n in 0..30_000 {
                    engine.delete(format!("other:{n}")).unwrap();
                }
            }
        });
        for round in 0..20 {
            let prefix = if round % 2 == 0 { "" } else { "stable:" };
            let mut seen = BTreeMap::new();
            for key in engine.local_keys(prefix) {
                let key = String::from_utf8(key.unwrap()).unwrap();
                *seen.entry(key).or_insert(0) += 1;
            }
            for key in &stable {
                assert_eq!(seen.get(key), Some(&1), "{key}");
            }
            assert!(seen.values().all(|count| *count == 1) || prefix.is_empty());
        }
        is_over.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
}

#[test]
fn an_entry_that_is_too_large_is_told_how_large_and_for_what() {
    let engine = start(Config::standalone("solo").cores(2).max_memory(4 * MIB));
    let error = engine.set("k", vec![7; 3 * MIB]).unwrap_err();
    let WriteError::NotApplied(NotApplied::EntryTooLarge { bytes, share }) = error.clone() else {
        panic!("{error:?}");
    };
    assert!(bytes > 3 * MIB && share < 2 * MIB, "{bytes}, {share}");
    let text = error.to_string();
    assert!(text.contains(&bytes.to_string()) && text.contains(&share.to_string()), "{text}");
    engine.set("k", vec![7; share - share / 8 - 100]).unwrap();
    // The room is there, with any number of other entries.
    for n in 0..20_000 {
        engine.set(format!("k{n}"), [7; 100]).unwrap();
    }
    for n in 0..10 {
        engine.set(format!("large {n}"), vec![7; share - share / 8 - 100]).unwrap();
    }
}

#[test]
fn without_eviction_a_full_engine_says_so_and_keeps_what_it_has() {
    let engine = limited(MIB, Eviction::None);
    let full = NotApplied::OutOfMemory { max_memory: MIB };
    let mut count = 0;
    let error = loop {
        match engine.set(format!("k{count}"), [7; 1000]) {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, WriteError::NotApplied(full));
    assert!(error.to_string().contains(&MIB.to_string()), "{error}");
    assert!(count > 700, "{count} keys");
    assert!((0..count).all(|n| engine.contains(format!("k{n}")).unwrap()));
    engine.set("k0", [8; 1000]).unwrap();
    for n in 0..count {
        engine.delete(format!("k{n}")).unwrap();
    }
    engine.set("new", [7; 1000]).unwrap();
    assert_eq!(engine.stats().unwrap().keys, 1);
}

#[test]
fn with_eviction_the_limit_is_kept_whatever_is_written() {
    let _processors = processors();
    let limit = 4 * MIB;
    let engine = start(Config::standalone("solo").cores(2).max_memory(limit));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let stats = engine.stats().unwrap();
                assert!(stats.bytes + stats.held_bytes <= limit, "{stats:?}");
            }
        });
        let writers: Vec<_> = (0..3usize)
            .map(|writer| {
                let engine = &engine;
                scope.spawn(move || {
                    for n in 0..10_000usize {
                        let length = if n % 500 == 0 { 300_000 } else { n * 37 % 2000 };
                        let ttl = WriteOptions::new().ttl(Duration::from_millis(50));
                        let options = if n % 3 == 0 { ttl } else { WriteOptions::new() };
                        engine
                            .set_with(format!("{writer}:{n}"), vec![7; length], &options)
                            .unwrap();
                        engine.get(format!("{writer}:{}", n / 2)).unwrap();
                    }
                })
            })
            .collect();
        let ends: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        watcher.join().unwrap();
        ends.into_iter().for_each(|end| end.unwrap());
    });
    assert!(engine.stats().unwrap().keys > 500);
}

#[test]
fn what_has_expired_is_invisible_though_its_owner_has_not_looked() {
    let engine = start(Config::standalone("solo"));
    let options = WriteOptions::new().ttl(Duration::from_millis(3));
    for n in 0..200 {
        let key = format!("k{n}");
        engine.set_with(&key, "v", &options).unwrap();
        wait_until("it has expired", || engine.ttl(&key).unwrap().is_none());
        // No call sees it again.
        wait_until("for every call", || engine.read(&key, <[u8]>::len).unwrap().is_none());
        for _ in 0..20 {
            assert_eq!(engine.read(&key, <[u8]>::len).unwrap(), None);
            assert!(!engine.contains(&key).unwrap());
            assert_eq!(engine.get_with(&key, &ReadOptions::new().local()).unwrap(), None);
            assert_eq!(engine.get_many(&[&key]).unwrap(), [None]);
        }
    }
}

#[test]
fn a_read_that_is_under_way_outlives_the_stop() {
    let engine = start(Config::standalone("solo").cores(2));
    engine.set("k", [7; 5000]).unwrap();
    let mut walk = engine.local_keys("");
    let seen = engine.read("k", |value| {
        engine.abort();
        assert_eq!(engine.get("k"), Err(ReadError::ShutDown));
        assert_eq!(engine.get_many(&["k"]), Err(ReadError::ShutDown));
        assert_eq!(engine.contains("k"), Err(ReadError::ShutDown));
        assert_eq!(engine.ttl("k"), Err(ReadError::ShutDown));
        value.iter().all(|byte| *byte == 7)
    });
    assert_eq!(seen, Ok(Some(true)));
    assert_eq!(walk.next(), Some(Err(ReadError::ShutDown)));
    assert_eq!(walk.next(), None);
    drop(engine);
}

/// Reads when its thread ends, whether or not the engine's own thread-locals are there still.
struct LastRead(Engine, mpsc::Sender<(bool, bool, usize)>);

impl Drop for LastRead {
    fn drop(&mut self) {
        let found = self.0.read("k", |value| value == b"v").unwrap() == Some(true);
        let many = self.0.get_many(&["k", "none"]).unwrap() == [Some(b"v".to_vec()), None];
        assert!(self.0.get_many(&[vec![0; MAX_KEY_BYTES + 1]]).is_err());
        let _ = self.1.send((found, many, self.0.local_keys("").filter(Result::is_ok).count()));
    }
}

#[test]
fn a_thread_that_ends_can_still_read() {
    thread_local! {
        static FIRST: RefCell<Option<LastRead>> = const { RefCell::new(None) };
        static LAST: RefCell<Option<LastRead>> = const { RefCell::new(None) };
    }
    let engine = start(Config::standalone("solo").cores(2));
    engine.set("k", "v").unwrap();
    for _ in 0..20 {
        let (send, receive) = mpsc::channel();
        let (first, last) =
            (LastRead(engine.clone(), send.clone()), LastRead(engine.clone(), send));
        let reader = engine.clone();
        thread::spawn(move || {
            // One is registered before the engine's, and one after: either may go first.
            FIRST.set(Some(first));
            assert!(reader.contains("k").unwrap());
            LAST.set(Some(last));
        })
        .join()
        .unwrap();
        assert_eq!(receive.recv_timeout(LATE), Ok((true, true, 1)));
        assert_eq!(receive.recv_timeout(LATE), Ok((true, true, 1)));
    }
    // A thread that has ended holds nothing up.
    (0..1000).for_each(|n: u32| engine.set("k", [n as u8; 5000]).unwrap());
    wait_until("all of it is free", || engine.stats().unwrap().held_bytes == 0);
}
