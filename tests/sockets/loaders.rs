//! Loaders: one at a time for each key.

use std::any::Any;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use gridkv::{Config, Engine, LoadError, MAX_KEY_BYTES, MAX_VALUE_BYTES, NotApplied, ReadError};

use crate::support::{
    A_WHILE, HOUR, LATE, SOON, alive, cluster, is_expiring, node, patient_solo, start, wait_until,
};

fn panic_text(payload: Box<dyn Any + Send>) -> String {
    payload.downcast_ref::<&str>().map(|text| (*text).to_owned()).expect("a text")
}

#[test]
fn one_of_many_who_miss_a_key_loads_it_for_all() {
    const THREADS: usize = 12;
    let engine = patient_solo(2);
    for round in 0..20 {
        let key = format!("k{round}");
        let (loads, arrived) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            let callers: Vec<_> = (0..THREADS)
                .map(|caller| {
                    let (engine, key, loads, arrived) = (&engine, &key, &loads, &arrived);
                    scope.spawn(move || {
                        arrived.fetch_add(1, Ordering::SeqCst);
                        engine.get_or_insert_with(key, None, || {
                            loads.fetch_add(1, Ordering::SeqCst);
                            // The others wait, or are about to.
                            wait_until("all are here", || {
                                arrived.load(Ordering::SeqCst) == THREADS
                            });
                            caller.to_string()
                        })
                    })
                })
                .collect();
            let values: BTreeSet<_> =
                callers.into_iter().map(|caller| caller.join().unwrap().unwrap()).collect();
            assert_eq!((values.len(), loads.load(Ordering::SeqCst)), (1, 1));
            assert_eq!(engine.get(&key).unwrap(), values.into_iter().next());
        });
    }
}

#[test]
fn what_is_there_is_not_loaded() {
    let engine = patient_solo(1);
    engine.set("k", "v").unwrap();
    let never = || -> Vec<u8> { panic!("it is there") };
    assert_eq!(engine.get_or_insert_with("k", None, never), Ok(b"v".to_vec()));
    let length = MAX_KEY_BYTES + 1;
    let error = LoadError::Read(ReadError::KeyTooLong { length });
    assert_eq!(engine.get_or_insert_with(vec![0; length], None, never), Err(error));
    engine.abort();
    let error = LoadError::Read(ReadError::ShutDown);
    assert_eq!(engine.get_or_insert_with("new", None, never), Err(error));
}

#[test]
fn different_keys_are_loaded_at_the_same_time() {
    const KEYS: usize = 5;
    let engine = patient_solo(1);
    let loading = AtomicUsize::new(0);
    thread::scope(|scope| {
        for n in 0..KEYS {
            let (engine, loading) = (&engine, &loading);
            scope.spawn(move || {
                let load = || {
                    loading.fetch_add(1, Ordering::SeqCst);
                    wait_until("all of them load", || loading.load(Ordering::SeqCst) == KEYS);
                    n.to_string()
                };
                let loaded = engine.get_or_insert_with(format!("k{n}"), None, load);
                assert_eq!(loaded, Ok(n.to_string().into_bytes()));
            });
        }
    });
}

/// One caller loads with `first`; a second one comes while it does, and the first goes on then.
/// What both got.
fn first_and_second<T: Send>(
    engine: &Engine,
    first: impl FnOnce() -> Result<&'static str, &'static str> + Send,
    seen: impl FnOnce(thread::Result<Result<Vec<u8>, LoadError<&'static str>>>) -> T + Send,
) -> (T, Result<Vec<u8>, LoadError<Infallible>>) {
    let (go_on, wait) = flume::unbounded();
    let is_loading = AtomicBool::new(false);
    thread::scope(|scope| {
        let loader = scope.spawn(|| {
            let load = || {
                is_loading.store(true, Ordering::SeqCst);
                wait.recv_timeout(LATE).unwrap();
                first()
            };
            let wait_and_load = || engine.get_or_try_insert_with("k", HOUR, load);
            seen(catch_unwind(AssertUnwindSafe(wait_and_load)))
        });
        wait_until("the first one loads", || is_loading.load(Ordering::SeqCst));
        let waiter = scope.spawn(|| {
            go_on.send(()).unwrap();
            engine.get_or_insert_with("k", HOUR, || "second")
        });
        (loader.join().unwrap(), waiter.join().unwrap())
    })
}

#[test]
fn when_a_loader_panics_its_caller_sees_it_and_another_loads() {
    let engine = patient_solo(1);
    for _ in 0..20 {
        let (text, second) =
            first_and_second(&engine, || panic!("as planned"), |end| panic_text(end.unwrap_err()));
        assert_eq!((text.as_str(), second), ("as planned", Ok(b"second".to_vec())));
        assert!(is_expiring(&engine, "k"));
        engine.delete("k").unwrap();
    }
}

#[test]
fn when_a_loader_fails_its_caller_gets_the_error_and_another_loads() {
    let engine = patient_solo(1);
    for _ in 0..20 {
        let (first, second) = first_and_second(&engine, || Err("no"), |end| end.unwrap());
        assert_eq!((first, second), (Err(LoadError::Loader("no")), Ok(b"second".to_vec())));
        engine.delete("k").unwrap();
        let (first, second) = first_and_second(&engine, || Ok("first"), |end| end.unwrap());
        assert_eq!((first, second), (Ok(b"first".to_vec()), Ok(b"first".to_vec())));
        engine.delete("k").unwrap();
    }
}

#[test]
fn a_loader_that_asks_for_its_own_key_is_told_and_for_others_is_served() {
    let engine = patient_solo(1);
    let mut inner = None;
    let value = engine.get_or_insert_with("k", None, || {
        inner = Some(engine.get_or_insert_with("k", None, || "inner"));
        assert_eq!(engine.get_or_insert_with("other", None, || "theirs"), Ok(b"theirs".to_vec()));
        "outer"
    });
    assert_eq!(value, Ok(b"outer".to_vec()));
    assert_eq!(inner, Some(Err(LoadError::Recursive)));
    assert_eq!(engine.stats().unwrap().keys, 2);
}

#[test]
fn whoever_waits_too_long_for_a_loader_is_told() {
    let engine = start(Config::standalone("solo").request_timeout(A_WHILE));
    let (go_on, wait) = flume::unbounded();
    let is_loading = AtomicBool::new(false);
    thread::scope(|scope| {
        let loader = scope.spawn(|| {
            engine.get_or_insert_with("k", None, || {
                is_loading.store(true, Ordering::SeqCst);
                wait.recv_timeout(LATE).unwrap();
                "v"
            })
        });
        wait_until("the first one loads", || is_loading.load(Ordering::SeqCst));
        let waited = engine.get_or_insert_with("k", None, || "never");
        assert_eq!(waited, Err(LoadError::TimedOut { waited: A_WHILE }));
        assert!(waited.unwrap_err().to_string().contains("raise Config::request_timeout"));
        // The key itself is free.
        engine.set("k", "set").unwrap();
        assert_eq!(engine.get_or_insert_with("k", None, || "never"), Ok(b"set".to_vec()));
        go_on.send(()).unwrap();
        loader.join().unwrap().unwrap();
    });
}

#[test]
fn what_was_loaded_lives_as_long_as_it_is_told() {
    let engine = patient_solo(1);
    assert_eq!(engine.get_or_insert_with("k", HOUR, || "v"), Ok(b"v".to_vec()));
    assert!(is_expiring(&engine, "k"));
    assert_eq!(engine.get_or_insert_with("ever", None, || "v"), Ok(b"v".to_vec()));
    assert!(!is_expiring(&engine, "ever"));
    let mut loads = 0;
    for _ in 0..3 {
        let ttl = Duration::from_millis(5);
        wait_until("it is loaded again", || {
            let before = loads;
            let load = || {
                loads += 1;
                "v"
            };
            assert_eq!(engine.get_or_insert_with("short", ttl, load), Ok(b"v".to_vec()));
            loads > before
        });
    }
    assert_eq!(loads, 3);
}

#[test]
fn what_was_loaded_and_not_stored_is_not_lost() {
    let engine = patient_solo(1);
    let value = vec![7; MAX_VALUE_BYTES + 1];
    let error = NotApplied::ValueTooLong { length: value.len() }.into();
    let expected = Err(LoadError::NotStored { value: value.clone(), error });
    assert_eq!(engine.get_or_insert_with("k", None, || value.clone()), expected);
    let error = NotApplied::BadTtl { ttl: Duration::ZERO }.into();
    let expected = Err(LoadError::NotStored { value: b"v".to_vec(), error });
    assert_eq!(engine.get_or_insert_with("k", Duration::ZERO, || "v"), expected);
    assert!(!engine.contains("k").unwrap());

    // Two copies that must both be written, and one of two nodes.
    let mut engines = cluster(2, |config| config.replicas(2));
    assert_eq!(engines[0].get_or_insert_with("k", None, || "v"), Ok(b"v".to_vec()));
    assert_eq!(engines[1].get_or_insert_with("k", None, || "never"), Ok(b"v".to_vec()));
    engines.pop().unwrap().abort();
    wait_until("the other one is known to be dead", || alive(&engines[0]) == 1);
    assert_eq!(engines[0].get_or_insert_with("k", None, || "never"), Ok(b"v".to_vec()));
    let error = NotApplied::NotEnoughReplicas { alive: 1, needed: 2 }.into();
    let expected = Err(LoadError::NotStored { value: b"w".to_vec(), error });
    assert_eq!(engines[0].get_or_insert_with("new", None, || "w"), expected);

    // A node that cannot tell whether there is a value loads nothing.
    let lone = start(node("lone").request_timeout(SOON));
    let error = ReadError::TimedOut { answered: 0, needed: 1 };
    let loaded = lone.get_or_insert_with("k", None, || -> Vec<u8> { panic!("nobody knows") });
    assert_eq!(loaded, Err(LoadError::Read(error)));
}
