//! Calls that are more than one key and one answer: batches, loaders, closures on a core, and calls that nobody
//! waits for; and who waits for whom while they go on.
#![allow(clippy::disallowed_methods, reason = "tests are apps: they start threads, and wait")]

mod support;

use std::any::Any;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use gridkv::{
    Batch, Completed, Completions, Config, Count, Engine, IdleStrategy, LeaveError, LoadError, MAX_KEY_BYTES,
    MAX_VALUE_BYTES, NotApplied, NotReady, NotSafe, Quorum, ReadError, ReadOptions, RunError, SubmitError,
    Ticket, TimeToLive, WriteError, WriteOptions,
};
use support::{LATE, alive, cluster, node, start, wait_until};

const HOUR: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(30);

/// Long enough for a call that nothing is in the way of, on a machine that is busy with other tests too; and short
/// enough to be waited out.
const A_WHILE: Duration = Duration::from_millis(500);

fn standalone(cores: usize) -> Engine {
    start(Config::standalone("solo").cores(cores).request_timeout(LATE))
}

fn not_applied(error: NotApplied) -> Result<(), WriteError> {
    Err(WriteError::NotApplied(error))
}

fn value(engine: &Engine, key: &str) -> Option<String> {
    engine.get(key).unwrap().map(|value| String::from_utf8(value).unwrap())
}

fn is_expiring(engine: &Engine, key: &str) -> bool {
    match engine.ttl(key).unwrap() {
        Some(TimeToLive::Left(left)) => left <= HOUR && left > HOUR / 2,
        other => {
            assert_eq!(other, Some(TimeToLive::Forever), "{key}");
            false
        }
    }
}

/// A key that the same core owns, and one that another does.
fn same_and_other(engine: &Engine, key: &str) -> (String, String) {
    let found = engine.run_on(key, |shard| {
        let mut keys = (0..).map(|n| format!("other {n}"));
        let (same, other): (Vec<_>, Vec<_>) = keys.by_ref().take(50).partition(|key| shard.owns(key));
        (same[0].clone(), other[0].clone())
    });
    found.unwrap()
}

/// How many nodes hold this value of the key themselves.
fn holders(engines: &[Engine], key: &str, value: &str) -> usize {
    let local = ReadOptions::new().local();
    let holds = |engine: &&Engine| engine.get_with(key, &local).unwrap().as_deref() == Some(value.as_bytes());
    engines.iter().filter(holds).count()
}

fn panic_text(payload: Box<dyn Any + Send>) -> String {
    payload.downcast_ref::<&str>().map(|text| (*text).to_owned()).expect("a text")
}

// ── batches ─────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_batch_answers_each_of_its_writes_in_its_place() {
    for cores in 1..4 {
        let engine = standalone(cores);
        engine.set("old", "v").unwrap();
        let long_key = vec![7; MAX_KEY_BYTES + 1];
        let batch = Batch::with_capacity(9)
            .set("a", "1")
            .set(&long_key, "v")
            .set("b", vec![0; MAX_VALUE_BYTES + 1])
            .delete("old")
            .set_with_ttl("c", "3", Duration::ZERO)
            .delete(&long_key)
            .set_with_ttl("d", "4", HOUR)
            .delete("never")
            .set("", "");
        assert_eq!((batch.len(), batch.is_empty()), (9, false));
        let key_too_long = not_applied(NotApplied::KeyTooLong { length: MAX_KEY_BYTES + 1 });
        let expected = [
            Ok(()),
            key_too_long.clone(),
            not_applied(NotApplied::ValueTooLong { length: MAX_VALUE_BYTES + 1 }),
            Ok(()),
            not_applied(NotApplied::BadTtl { ttl: Duration::ZERO }),
            key_too_long,
            Ok(()),
            Ok(()),
            Ok(()),
        ];
        assert_eq!(engine.apply(batch), expected);
        assert_eq!(value(&engine, "a").as_deref(), Some("1"));
        assert_eq!(value(&engine, "").as_deref(), Some(""));
        assert!(!engine.contains("old").unwrap() && !engine.contains("b").unwrap());
        assert!(is_expiring(&engine, "d") && !is_expiring(&engine, "a"));
        assert_eq!(engine.stats().unwrap().keys, 3);
    }
}

#[test]
fn a_batch_of_nothing_is_nothing() {
    let engine = standalone(2);
    assert!(Batch::new().is_empty());
    assert_eq!(engine.apply(Batch::new()), []);
    let all_wrong = Batch::new().set(vec![0; MAX_KEY_BYTES + 1], "").set("k", vec![0; MAX_VALUE_BYTES + 1]);
    assert!(engine.apply(all_wrong).iter().all(Result::is_err));
    engine.abort();
    assert_eq!(engine.apply(Batch::new()), []);
    assert_eq!(engine.apply(Batch::new().set("k", "v")), [not_applied(NotApplied::ShutDown)]);
}

#[test]
fn options_of_a_batch_are_for_those_writes_that_have_none_of_their_own() {
    let engine = standalone(2);
    let short = Duration::from_millis(20);
    let batch = || Batch::new().set("a", "1").set_with_ttl("b", "2", short).delete("c");
    let options = WriteOptions::new().ttl(HOUR);
    assert_eq!(engine.apply_with(batch(), &options), [Ok(()), Ok(()), Ok(())]);
    assert!(is_expiring(&engine, "a"));
    wait_until("the short one has expired", || engine.ttl("b").unwrap().is_none());
    assert!(is_expiring(&engine, "a"));

    let ttl = Duration::MAX;
    let results = engine.apply_with(batch(), &WriteOptions::new().ttl(ttl));
    assert_eq!(results, [not_applied(NotApplied::BadTtl { ttl }), Ok(()), Ok(())]);

    let error =
        NotApplied::BadQuorum { asked: 2, write_quorum: Count::Exactly(1), replicas: Count::Exactly(1) };
    let results = engine.apply_with(batch(), &WriteOptions::new().quorum(Quorum::Count(2)));
    assert_eq!(results, vec![not_applied(error); 3]);

    // Each is made or not, and says so.
    let none = WriteOptions::new().timeout(Duration::ZERO);
    wait_until("no time is hardly ever enough", || {
        engine.delete("t").unwrap();
        let results = engine.apply_with(Batch::new().set("t", "v").set("t", "w"), &none);
        let found = value(&engine, "t");
        let overloaded = not_applied(NotApplied::Overloaded);
        match found.as_deref() {
            None => assert_eq!(results, [overloaded.clone(), overloaded]),
            Some("v") => assert_eq!(results, [Ok(()), overloaded]),
            _ => assert_eq!(results[1], Ok(())),
        }
        found.is_none()
    });
}

#[test]
fn writes_of_one_key_in_a_batch_take_effect_in_their_order() {
    let engine = standalone(3);
    let mut batch = Batch::new();
    for n in 0..2000 {
        let key = format!("k{}", n % 7);
        batch = if n % 3 == 0 { batch.delete(key) } else { batch.set(key, n.to_string()) };
    }
    assert!(engine.apply(batch).iter().all(Result::is_ok));
    for k in 0..7 {
        let last = (0..2000).rev().find(|n| n % 7 == k).unwrap();
        let expected = (last % 3 != 0).then(|| last.to_string());
        assert_eq!(value(&engine, &format!("k{k}")), expected, "k{k}");
    }
}

#[test]
fn a_batch_may_be_huge() {
    const WRITES: usize = 200_000;
    let engine = standalone(2);
    let mut batch = Batch::with_capacity(WRITES);
    for n in 0..WRITES {
        batch = batch.set(format!("k{n}"), n.to_string());
    }
    let results = engine.apply(batch);
    assert_eq!(results.len(), WRITES);
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(engine.stats().unwrap().keys, WRITES);
    let keys: Vec<String> = (0..WRITES).step_by(997).map(|n| format!("k{n}")).collect();
    for (key, value) in keys.iter().zip(engine.get_many(&keys).unwrap()) {
        assert_eq!(value.as_deref(), Some(&key.as_bytes()[1..]));
    }
}

#[test]
fn a_batch_with_more_bytes_than_may_be_under_way_is_made_all_the_same() {
    let engine = start(Config::standalone("solo").cores(2).max_memory(16 << 20).request_timeout(LATE));
    thread::scope(|scope| {
        for writer in 0..3 {
            let engine = &engine;
            scope.spawn(move || {
                for round in 0..3 {
                    let mut batch = Batch::new();
                    for n in 0..40 {
                        batch = batch.set(format!("{writer}:{n}"), vec![round; 100_000]);
                    }
                    assert!(engine.apply(batch).iter().all(Result::is_ok));
                }
            });
        }
    });
}

#[test]
fn a_batch_in_a_cluster_is_on_as_many_nodes_as_it_says() {
    let engines = cluster(3, |config| config.cores(2));
    for (from, engine) in engines.iter().enumerate() {
        let mut batch = Batch::new();
        for n in 0..1000 {
            batch = batch.set(format!("{from}:{n}"), n.to_string());
        }
        let results = engine.apply_with(batch, &WriteOptions::new().quorum(Quorum::All));
        assert!(results.iter().all(Result::is_ok), "{:?}", results.iter().find(|result| result.is_err()));
        for n in 0..1000 {
            assert_eq!(holders(&engines, &format!("{from}:{n}"), &n.to_string()), 3);
        }
    }
    // From another node than the one that wrote.
    let mut batch = Batch::new();
    for n in 0..1000 {
        let key = format!("0:{n}");
        batch = if n % 2 == 0 {
            batch.delete(key)
        } else {
            batch.set(key, "first").set(format!("0:{n}"), "last")
        };
    }
    assert!(engines[1].apply(batch).iter().all(Result::is_ok));
    let keys: Vec<String> = (0..1000).map(|n| format!("0:{n}")).collect();
    let current = ReadOptions::new().quorum(Quorum::Majority);
    for (n, key) in keys.iter().enumerate() {
        let found = engines[2].get_with(key, &current).unwrap();
        assert_eq!(found.as_deref(), (n % 2 == 1).then_some(&b"last"[..]), "{key}");
    }
}

#[test]
fn a_batch_that_too_few_nodes_can_take_is_refused_write_by_write() {
    let engine = start(node("a"));
    let error = not_applied(NotApplied::NotEnoughReplicas { alive: 1, needed: 2 });
    assert_eq!(engine.apply(Batch::new().set("a", "1").delete("b")), [error.clone(), error]);
}

#[test]
fn a_batch_under_way_when_the_engine_stops_is_answered() {
    for round in 0..10 {
        let engine = standalone(2);
        let mut batch = Batch::new();
        for n in 0..50_000 {
            batch = batch.set(format!("k{n}"), "v");
        }
        thread::scope(|scope| {
            let batch = scope.spawn(|| engine.apply(batch));
            if round % 2 == 0 {
                wait_until("it is under way", || engine.stats().unwrap().keys > 0);
            }
            engine.abort();
            let results = batch.join().unwrap();
            assert_eq!(results.len(), 50_000);
            let shut_down = not_applied(NotApplied::ShutDown);
            assert!(results.iter().all(|result| *result == Ok(()) || *result == shut_down));
        });
    }
}

// ── who waits for whom ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn single_calls_are_answered_all_along_a_long_batch() {
    const WRITES: usize = 400_000;
    for idle in [IdleStrategy::default(), IdleStrategy::Park] {
        let engine = start(Config::standalone("solo").idle(idle).request_timeout(LATE));
        let mut batch = Batch::with_capacity(WRITES);
        for n in 0..WRITES {
            batch = batch.set(format!("k{n}"), "v");
        }
        let last = format!("k{}", WRITES - 1);
        let during = thread::scope(|scope| {
            let single = scope.spawn(|| {
                let mut during = 0;
                loop {
                    engine.set("single", "v").unwrap();
                    // The batch has been begun, and is not at its end: what was answered came in between.
                    if engine.contains("k0").unwrap() && !engine.contains(&last).unwrap() {
                        during += 1;
                    }
                    if engine.contains(&last).unwrap() {
                        return during;
                    }
                }
            });
            assert!(engine.apply(batch).iter().all(Result::is_ok));
            single.join().unwrap()
        });
        assert!(during >= 20, "{idle:?}: {during} calls were answered during a batch of {WRITES}");
    }
}

#[test]
fn a_short_batch_is_answered_before_a_long_one_ends() {
    const WRITES: usize = 300_000;
    let engine = standalone(1);
    let batch = |name: &str| {
        (0..WRITES).fold(Batch::with_capacity(WRITES), |batch, n| batch.set(format!("{name}{n}"), "v"))
    };
    let (long, short) = (batch("a"), Batch::new().set("short", "v").delete("short").set("short", "w"));
    thread::scope(|scope| {
        let long = scope.spawn(|| engine.apply(long));
        while !engine.contains("a0").unwrap() {
            thread::yield_now();
        }
        let shorts = (0..).take_while(|_| {
            assert_eq!(engine.apply(short.clone()), [Ok(()), Ok(()), Ok(())]);
            !engine.contains(format!("a{}", WRITES - 1)).unwrap()
        });
        assert!(shorts.count() >= 3);
        assert!(long.join().unwrap().iter().all(Result::is_ok));
    });
}

#[test]
fn whoever_floods_a_core_with_submitted_calls_leaves_others_their_turn() {
    for idle in [IdleStrategy::default(), IdleStrategy::Park] {
        let engine = start(Config::standalone("solo").idle(idle).request_timeout(LATE));
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let flood = scope.spawn(|| {
                // More than a core's queue holds.
                let completions = Completions::new(4096);
                let (mut submitted, mut completed, options) = (0u64, 0u64, WriteOptions::new());
                while !is_over.load(Ordering::Relaxed) {
                    match engine.submit_set(&completions, format!("f{}", submitted % 100), "v", &options) {
                        Ok(_) => submitted += 1,
                        Err(SubmitError::Full { .. } | SubmitError::NotApplied(NotApplied::Overloaded)) => {
                            completed += u64::from(completions.next_within(SOON).is_some());
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
                while completed < submitted {
                    assert_eq!(completions.next().unwrap().into_result(), Completed::Write(Ok(())));
                    completed += 1;
                }
                submitted
            });
            wait_until("it has begun", || engine.contains("f99").unwrap());
            let others: Vec<_> = (0..3)
                .map(|other| {
                    let engine = &engine;
                    scope.spawn(move || {
                        for n in 0..100 {
                            let key = format!("{other}:{n}");
                            engine.set(&key, "v").unwrap();
                            assert_eq!(engine.apply(Batch::new().set(&key, "w")), [Ok(())]);
                            assert_eq!(engine.run_on(&key, |shard| shard.core()), Ok(0));
                        }
                    })
                })
                .collect();
            let ends: Vec<_> = others.into_iter().map(|other| other.join()).collect();
            is_over.store(true, Ordering::Relaxed);
            assert!(flood.join().unwrap() > 1000, "it was a flood");
            ends.into_iter().for_each(|end| end.unwrap());
        });
    }
}

// ── many keys ───────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn many_keys_are_asked_for_over_cores_and_nodes() {
    // Half of the keys are not here, wherever one asks.
    let engines = cluster(4, |config| config.replicas(2).cores(2));
    let keys: Vec<String> = (0..3000).map(|n| format!("k{n}")).collect();
    let mut batch = Batch::new();
    for key in keys.iter().step_by(3) {
        batch = batch.set(key, key);
    }
    assert!(engines[0].apply(batch).iter().all(Result::is_ok));
    for engine in &engines {
        let values = engine.get_many(&keys).unwrap();
        assert_eq!(values.len(), keys.len());
        for (n, (key, value)) in keys.iter().zip(values).enumerate() {
            assert_eq!(value, (n % 3 == 0).then(|| key.clone().into_bytes()), "{key}");
        }
    }
}

// ── one loader at a time ────────────────────────────────────────────────────────────────────────────────

#[test]
fn one_of_many_who_miss_a_key_loads_it_for_all() {
    const THREADS: usize = 12;
    let engine = standalone(2);
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
                            wait_until("all are here", || arrived.load(Ordering::SeqCst) == THREADS);
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
    let engine = standalone(1);
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
    let engine = standalone(1);
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

/// One caller loads with `first`; a second one comes while it does, and the first goes on then. What both got.
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
    let engine = standalone(1);
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
    let engine = standalone(1);
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
    let engine = standalone(1);
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
    let engine = standalone(1);
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
    let engine = standalone(1);
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

// ── closures on a core ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_closure_sees_what_it_wrote_and_what_others_did() {
    let engine = standalone(3);
    engine.set("k", "outside").unwrap();
    let (same, other) = same_and_other(&engine, "k");
    let (near, far) = (same.clone(), other.clone());
    let returned = engine.run_on("k", move |shard| {
        assert_eq!(shard.get("k"), Ok(Some(&b"outside"[..])));
        shard.set("k", "inside").unwrap();
        assert_eq!(shard.get("k"), Ok(Some(&b"inside"[..])));
        shard.delete("k").unwrap();
        assert_eq!((shard.get("k"), shard.contains("k")), (Ok(None), Ok(false)));
        shard.set("k", "again").unwrap();
        shard.set_with(&near, "near", &WriteOptions::new().ttl(HOUR)).unwrap();
        assert_eq!(shard.contains(&near), Ok(true));

        assert!(shard.owns("k") && shard.owns(&near) && !shard.owns(&far));
        assert_eq!(shard.set(&far, "v"), Err(NotApplied::OtherCore));
        assert_eq!(shard.delete(&far), Err(NotApplied::OtherCore));
        assert_eq!(shard.get(&far), Err(ReadError::OtherCore));
        assert_eq!(shard.contains(&far), Err(ReadError::OtherCore));

        let long_key = vec![0; MAX_KEY_BYTES + 1];
        assert_eq!(shard.set(&long_key, "v"), Err(NotApplied::KeyTooLong { length: long_key.len() }));
        assert_eq!(shard.get(&long_key), Err(ReadError::KeyTooLong { length: long_key.len() }));
        let no_ttl = WriteOptions::new().ttl(Duration::ZERO);
        assert_eq!(shard.set_with("k", "v", &no_ttl), Err(NotApplied::BadTtl { ttl: Duration::ZERO }));
        vec!["any", "type"]
    });
    assert_eq!(returned, Ok(vec!["any", "type"]));
    assert_eq!(value(&engine, "k").as_deref(), Some("again"));
    assert!(is_expiring(&engine, &same) && !engine.contains(&other).unwrap());
}

#[test]
fn nothing_comes_between_a_closures_read_and_its_write() {
    let engine = standalone(2);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let count = engine.run_on("count", |shard| {
                        let count = shard.get("count").unwrap();
                        let count =
                            count.map_or(0, |count| u64::from_le_bytes(count.try_into().unwrap())) + 1;
                        shard.set("count", count.to_le_bytes()).unwrap();
                        count
                    });
                    assert!(count.unwrap() > 0);
                }
            });
        }
    });
    assert_eq!(engine.get("count").unwrap(), Some(3000u64.to_le_bytes().to_vec()));
}

#[test]
fn a_closure_that_panics_fails_its_own_call_and_nothing_else() {
    let engine = standalone(1);
    let (is_over, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                engine.set("other", "v").unwrap();
                calls.fetch_add(1, Ordering::Relaxed);
            }
        });
        wait_until("others call", || calls.load(Ordering::Relaxed) > 0);
        for n in 0..50 {
            let key = format!("k{n}");
            let inside = key.clone();
            let error = engine.run_on(&key, move |shard| -> u8 {
                shard.set(&inside, "written").unwrap();
                panic!("closure {inside}");
            });
            assert_eq!(error, Err(RunError::Panicked { message: format!("closure {key}") }));
            assert_eq!(value(&engine, &key).as_deref(), Some("written"));
            let error = engine.run_on(&key, |_| panic!("as planned"));
            assert_eq!(error, Err::<(), _>(RunError::Panicked { message: "as planned".to_owned() }));
            let error = engine.run_on(&key, |_| std::panic::panic_any(7));
            assert!(matches!(error, Err::<(), _>(RunError::Panicked { .. })));
        }
        let before = calls.load(Ordering::Relaxed);
        wait_until("others still call", || calls.load(Ordering::Relaxed) > before);
        is_over.store(true, Ordering::Relaxed);
        other.join().unwrap();
    });
    assert_eq!(engine.failure(), None);
    assert_eq!(engine.run_on("k", |shard| shard.core()), Ok(0));
}

/// Panics when it is dropped.
struct Grenade;

impl Drop for Grenade {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic!("dropped");
        }
    }
}

#[test]
fn what_panics_when_it_is_dropped_on_a_core_harms_nobody() {
    let engine = standalone(1);
    let grenade = Grenade;
    let error = engine.run_on("k", move |_| drop(grenade));
    assert_eq!(error, Err(RunError::Panicked { message: "dropped".to_owned() }));
    let error = engine.run_on("k", |_| std::panic::panic_any(Grenade));
    assert!(matches!(error, Err::<(), _>(RunError::Panicked { .. })), "{error:?}");
    engine.set("k", "v").unwrap();
    assert_eq!(engine.failure(), None);
}

/// A caller that no longer waited for its closure left what that returned to the core, which dropped it: where
/// that panicked, the engine failed.
#[test]
fn what_nobody_waits_for_any_more_may_panic_when_it_is_dropped() {
    let engine = start(Config::standalone("solo").request_timeout(A_WHILE));
    let (go_on, wait) = flume::unbounded();
    let result = engine.run_on("k", move |_| {
        wait.recv_timeout(LATE).unwrap();
        Grenade
    });
    assert!(matches!(result, Err(RunError::Indeterminate)));
    go_on.send(()).unwrap();
    wait_until("the core goes on", || match engine.set("k", "v") {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error, WriteError::NotApplied(NotApplied::Overloaded));
            false
        }
    });
    assert_eq!(engine.failure(), None);
}

#[test]
fn a_closure_that_comes_too_late_is_not_run() {
    let engine = start(Config::standalone("solo").request_timeout(A_WHILE));
    let (go_on, wait) = flume::unbounded();
    let (running, is_running) = flume::unbounded();
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            engine.run_on("k", move |_| {
                running.send(()).unwrap();
                wait.recv_timeout(LATE).unwrap();
            })
        });
        is_running.recv_timeout(LATE).unwrap();
        let late = engine.run_on("k", |shard| shard.set("late", "v").unwrap());
        assert_eq!(late, Err(RunError::Indeterminate), "nobody knows yet");
        assert_eq!(first.join().unwrap(), Err(RunError::Indeterminate));
        go_on.send(()).unwrap();
    });
    wait_until("the core goes on", || engine.run_on("k", |_| ()).is_ok());
    assert!(!engine.contains("late").unwrap());
}

#[test]
fn a_closure_that_calls_an_engine_is_told_where_it_would_wait() {
    // Two nodes with one copy of each key: some keys are not here.
    let engines = cluster(2, |config| config.replicas(1).request_timeout(LATE));
    engines[0].set("k", "v").unwrap();
    let local = ReadOptions::new().local();
    let far = (0..).map(|n| format!("far {n}"));
    let far =
        far.into_iter().find(|key| engines[0].get_with(key, &local) == Err(ReadError::NotLocal)).unwrap();
    let near = (0..).map(|n| format!("near {n}"));
    let near = near.into_iter().find(|key| engines[0].get_with(key, &local) == Ok(None)).unwrap();
    engines[0].set(&far, "far").unwrap();
    engines[0].set(&near, "near").unwrap();
    for engine in [engines[0].clone(), standalone(1)] {
        let is_cluster = engine.address().is_some();
        let (inside, far, near) = (engine.clone(), far.clone(), near.clone());
        let completions = Completions::new(3);
        let submitted = completions.clone();
        let result = engine.run_on("k", move |_| {
            let would_block = not_applied(NotApplied::WouldBlockCore);
            assert_eq!(inside.set("k", "w"), would_block);
            assert_eq!(inside.set("k", vec![0; 100_000]), would_block);
            assert_eq!(inside.delete("k"), would_block);
            assert_eq!(inside.apply(Batch::new().set("k", "w").delete("k")), vec![would_block; 2]);
            assert_eq!(inside.run_on("k", |_| ()), Err(RunError::NotApplied(NotApplied::WouldBlockCore)));
            assert_eq!(inside.wait_ready(LATE), Err(NotReady::WouldBlockCore));
            assert_eq!(inside.leave(LATE), Err(LeaveError::WouldBlockCore));
            assert_eq!(inside.stats(), Err(ReadError::WouldBlockCore));
            assert_eq!(inside.wait_until_safe(LATE), Err(NotSafe::WouldBlockCore));
            if is_cluster {
                // What is here can be read.
                assert_eq!(inside.get(&near), Ok(Some(b"near".to_vec())));
                assert_eq!(inside.get(&far), Err(ReadError::WouldBlockCore));
                assert_eq!(inside.contains(&far), Err(ReadError::WouldBlockCore));
                assert_eq!(inside.ttl(&far), Err(ReadError::WouldBlockCore));
                assert_eq!(inside.get_many(&[&near, &far]), Err(ReadError::WouldBlockCore));
            } else {
                assert_eq!(inside.get("none"), Ok(None));
                assert_eq!(inside.touch("k", LATE), Err(NotApplied::WouldBlockCore.into()));
            }
            assert!(!inside.members().is_empty() && inside.failure().is_none());
            // Nobody waits for these.
            let options = WriteOptions::new();
            inside.submit_set(&submitted, "s", "v", &options).unwrap();
            inside.submit_delete(&submitted, "s", &options).unwrap();
            inside.submit_get(&submitted, &far, &ReadOptions::new()).unwrap();
        });
        assert_eq!(result, Ok(()));
        let results: Vec<Completed> =
            (0..3).map(|_| completions.next_within(LATE).unwrap().into_result()).collect();
        let far = Completed::Read(Ok(is_cluster.then(|| b"far".to_vec())));
        assert!(results.contains(&far), "{results:?}");
        assert_eq!(results.iter().filter(|result| **result == Completed::Write(Ok(()))).count(), 2);
    }
}

/// A closure that asked for a key which another thread was loading waited for it on the core, while that thread
/// waited for the core to store it.
#[test]
fn a_closure_that_misses_a_key_neither_loads_it_nor_waits_for_who_does() {
    let engine = standalone(1);
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
        wait_until("somebody loads", || is_loading.load(Ordering::SeqCst));
        for key in ["k", "new"] {
            let inside = engine.clone();
            let result = engine.run_on(key, move |_| inside.get_or_insert_with(key, None, || "inside"));
            assert_eq!(result, Ok(Err(LoadError::Read(ReadError::WouldBlockCore))));
        }
        go_on.send(()).unwrap();
        assert_eq!(loader.join().unwrap(), Ok(b"v".to_vec()));
    });
    let inside = engine.clone();
    let result = engine.run_on("k", move |_| inside.get_or_insert_with("k", None, || "inside"));
    assert_eq!(result, Ok(Ok(b"v".to_vec())));
    assert_eq!(engine.get("new"), Ok(None));
}

#[test]
fn the_last_handle_may_end_on_a_core() {
    // On another engine's core.
    let host = standalone(1);
    for config in [Config::standalone("guest").cores(2), node("guest").cores(2)] {
        let guest = start(config);
        let events = guest.events();
        assert_eq!(host.run_on("k", move |_| drop(guest)), Ok(()));
        assert_eq!(events.count(), 0, "its end is the end of its events");
        host.set("k", "v").unwrap();
    }
    // On its own: by the closure, or with what it returns, when its caller has gone.
    for is_returned in [false, true] {
        for config in [Config::standalone("solo").cores(2), node("solo").cores(2)] {
            let engine = start(config.request_timeout(A_WHILE));
            let events = engine.events();
            let (go_on, wait) = flume::unbounded::<()>();
            let inside = engine.clone();
            let result = engine.run_on("k", move |_| {
                wait.recv_timeout(LATE).unwrap();
                is_returned.then_some(inside)
            });
            assert!(matches!(result, Err(RunError::Indeterminate)), "{result:?}");
            drop(engine);
            go_on.send(()).unwrap();
            assert_eq!(events.count(), 0);
        }
    }
}

#[test]
fn a_closures_writes_are_on_a_quorum_when_its_caller_hears_of_it() {
    let engines = cluster(3, |config| config.cores(2));
    for round in 0..30 {
        let engine = &engines[round % 3];
        let key = format!("k{round}");
        let written = engine.run_on(&key, move |shard| {
            let keys = (0..).map(|n| format!("{round}:{n}")).filter(|key| shard.owns(key));
            let keys: Vec<String> = keys.take(20).collect();
            for key in &keys {
                shard.set(key, "old").unwrap();
                shard.set(key, "new").unwrap();
                assert_eq!(shard.get(key), Ok(Some(&b"new"[..])));
            }
            shard.delete(&keys[0]).unwrap();
            keys
        });
        let written = written.unwrap();
        for key in &written[1..] {
            assert!(holders(&engines, key, "new") >= 2, "{key}");
        }
        assert!(holders(&engines, &written[0], "new") <= 1);
        for engine in &engines {
            let current = ReadOptions::new().quorum(Quorum::Majority);
            assert_eq!(engine.get_with(&written[0], &current), Ok(None));
        }
    }
    // Where W cannot be had, the closure hears so itself.
    let lone = start(node("lone"));
    let result = lone.run_on("k", |shard| shard.set("k", "v"));
    assert_eq!(result, Ok(Err(NotApplied::NotEnoughReplicas { alive: 1, needed: 2 })));
}

#[test]
fn after_the_end_no_closure_is_run() {
    let engine = standalone(1);
    engine.abort();
    let result = engine.run_on("k", |_| panic!("it has ended"));
    assert_eq!(result, Err::<(), _>(RunError::NotApplied(NotApplied::ShutDown)));
    assert_eq!(engine.failure(), None, "it was stopped");
}

// ── calls that nobody waits for ─────────────────────────────────────────────────────────────────────────

#[test]
fn each_completion_has_its_calls_ticket() {
    let engine = standalone(2);
    let completions = Completions::new(1000);
    let (writing, reading) = (WriteOptions::new(), ReadOptions::new());
    engine.set("there", "v").unwrap();
    let mut expected: Vec<(Ticket, Completed)> = Vec::new();
    let written = Completed::Write(Ok(()));
    for n in 0..200 {
        let key = format!("k{n}");
        expected.push((engine.submit_set(&completions, &key, &key, &writing).unwrap(), written.clone()));
        let delete = engine.submit_delete(&completions, format!("{n}"), &writing).unwrap();
        expected.push((delete, written.clone()));
        let there = Completed::Read(Ok(Some(b"v".to_vec())));
        expected.push((engine.submit_get(&completions, "there", &reading).unwrap(), there));
        let missing = engine.submit_get(&completions, format!("none {n}"), &reading).unwrap();
        expected.push((missing, Completed::Read(Ok(None))));
    }
    assert_eq!(completions.in_use(), 800);
    let mut found: Vec<(Ticket, Completed)> = Vec::new();
    for _ in 0..800 {
        let completion = completions.next().unwrap();
        found.push((completion.ticket(), completion.into_result()));
    }
    found.sort_by_key(|(ticket, _)| *ticket);
    expected.sort_by_key(|(ticket, _)| *ticket);
    assert_eq!(found, expected);
    assert_eq!((completions.in_use(), completions.capacity()), (0, 1000));
    assert!(completions.try_next().is_none() && completions.next_within(Duration::ZERO).is_none());
    for n in 0..200 {
        assert!(engine.contains(format!("k{n}")).unwrap());
    }
}

#[test]
fn a_call_without_a_place_is_not_made() {
    let engine = standalone(1);
    let completions = Completions::new(2);
    let (writing, reading) = (WriteOptions::new(), ReadOptions::new());
    engine.submit_set(&completions, "a", "v", &writing).unwrap();
    engine.submit_get(&completions, "a", &reading).unwrap();
    let full = SubmitError::Full { capacity: 2 };
    assert_eq!(engine.submit_set(&completions, "b", "v", &writing), Err(full.clone()));
    assert_eq!(engine.submit_delete(&completions, "a", &writing), Err(full.clone()));
    assert_eq!(engine.submit_get(&completions, "a", &reading), Err(full.clone()));
    let first = completions.next().unwrap();
    let second = completions.next_within(LATE).unwrap();
    assert_eq!(engine.submit_set(&completions, "b", "v", &writing), Err(full), "they are taken, and kept");
    drop(first);
    engine.submit_set(&completions, "c", "v", &writing).unwrap();
    drop(second);
    assert_eq!(completions.next().unwrap().into_result(), Completed::Write(Ok(())));
    assert_eq!((completions.in_use(), completions.capacity()), (0, 2));
    assert!(engine.contains("c").unwrap() && !engine.contains("b").unwrap());
    assert_eq!(Completions::new(0).capacity(), 1);
}

#[test]
fn a_call_that_cannot_be_made_takes_no_place() {
    let engine = standalone(1);
    let completions = Completions::new(1);
    let long_key = vec![0; MAX_KEY_BYTES + 1];
    let too_long = SubmitError::NotApplied(NotApplied::KeyTooLong { length: long_key.len() });
    let (writing, reading) = (WriteOptions::new(), ReadOptions::new());
    assert_eq!(engine.submit_set(&completions, &long_key, "v", &writing), Err(too_long.clone()));
    assert_eq!(engine.submit_delete(&completions, &long_key, &writing), Err(too_long.clone()));
    assert_eq!(engine.submit_get(&completions, &long_key, &reading), Err(too_long));
    let ttl = Duration::ZERO;
    let error = SubmitError::NotApplied(NotApplied::BadTtl { ttl });
    assert_eq!(engine.submit_set(&completions, "k", "v", &writing.clone().ttl(ttl)), Err(error));
    let error =
        NotApplied::BadQuorum { asked: 2, write_quorum: Count::Exactly(1), replicas: Count::Exactly(1) };
    let two = writing.clone().quorum(Quorum::Count(2));
    assert_eq!(engine.submit_set(&completions, "k", "v", &two), Err(SubmitError::NotApplied(error)));
    let two = ReadOptions::new().quorum(Quorum::Count(2));
    let error = SubmitError::BadReadQuorum { asked: 2, replicas: Count::Exactly(1) };
    assert_eq!(engine.submit_get(&completions, "k", &two), Err(error));
    assert_eq!(completions.in_use(), 0);
    engine.abort();
    let error = SubmitError::NotApplied(NotApplied::ShutDown);
    assert_eq!(engine.submit_set(&completions, "k", "v", &writing), Err(error.clone()));
    assert_eq!(engine.submit_get(&completions, "k", &reading), Err(error));
    assert_eq!(completions.in_use(), 0);
    assert!(completions.try_next().is_none());
}

#[test]
fn every_submitted_call_completes_once_though_the_engine_is_gone() {
    let configs = [Config::standalone("solo").cores(2), node("a").replicas(1), node("b")];
    for (round, config) in configs.iter().cycle().take(30).enumerate() {
        let engine = start(config.clone());
        let completions = Completions::new(5000);
        let mut submitted = BTreeSet::new();
        thread::scope(|scope| {
            let submitters: Vec<_> = (0..3)
                .map(|submitter| {
                    let (engine, completions) = (engine.clone(), completions.clone());
                    scope.spawn(move || {
                        let mut tickets = Vec::new();
                        for n in 0..500 {
                            let key = format!("{submitter}:{n}");
                            let set = engine.submit_set(&completions, &key, "v", &WriteOptions::new());
                            let get = engine.submit_get(&completions, &key, &ReadOptions::new());
                            tickets.extend(set.into_iter().chain(get));
                        }
                        tickets
                    })
                })
                .collect();
            if round % 2 == 0 {
                engine.abort();
            }
            drop(engine);
            for submitter in submitters {
                let tickets = submitter.join().unwrap();
                assert!(tickets.into_iter().all(|ticket| submitted.insert(ticket)), "a ticket twice");
            }
        });
        let mut completed = BTreeSet::new();
        while completed.len() < submitted.len() {
            let completion = completions.next_within(LATE).expect("one for each");
            assert!(completed.insert(completion.ticket()), "a completion twice");
            match completion.into_result() {
                Completed::Write(Err(WriteError::EngineFailed))
                | Completed::Read(Err(ReadError::EngineFailed)) => {
                    panic!("it was stopped")
                }
                _ => {}
            }
        }
        assert_eq!(completed, submitted);
        assert_eq!((completions.in_use(), completions.try_next().is_none()), (0, true));
    }
}

#[test]
fn completions_that_nobody_wants_any_more_harm_nobody() {
    let engine = standalone(2);
    let options = WriteOptions::new();
    for round in 0..100 {
        let completions = Completions::new(16);
        for n in 0..16 {
            engine.submit_set(&completions, format!("{round}:{n}"), "v", &options).unwrap();
        }
        let kept = (round % 2 == 0).then(|| completions.next().unwrap());
        drop(completions);
        drop(kept);
    }
    wait_until("all are written", || engine.stats().unwrap().keys == 1600);
    assert_eq!(engine.stats().unwrap().calls_in_flight, 0);
}

#[test]
fn completions_can_be_waited_for_beside_other_things() {
    let engine = standalone(1);
    let completions = Completions::new(4);
    let (work, works) = flume::unbounded::<&str>();
    let next = || {
        flume::Selector::new()
            .recv(completions.receiver(), |completion| format!("{:?}", completion.unwrap().into_result()))
            .recv(&works, |work| work.unwrap().to_owned())
            .wait_timeout(LATE)
            .unwrap()
    };
    engine.submit_set(&completions, "k", "v", &WriteOptions::new()).unwrap();
    assert_eq!(next(), "Write(Ok(()))");
    work.send("work").unwrap();
    assert_eq!(next(), "work");
    engine.submit_get(&completions, "none", &ReadOptions::new()).unwrap();
    assert_eq!(next(), "Read(Ok(None))");
    assert_eq!(completions.in_use(), 0);
}

#[test]
fn several_threads_take_from_one_queue_and_each_completion_reaches_one() {
    const CALLS: usize = 4000;
    let engine = standalone(2);
    let completions = Completions::new(64);
    let seen = AtomicUsize::new(0);
    thread::scope(|scope| {
        let takers: Vec<_> = (0..3)
            .map(|_| {
                let (completions, seen) = (completions.clone(), &seen);
                scope.spawn(move || {
                    let mut tickets = Vec::new();
                    while seen.load(Ordering::SeqCst) < CALLS {
                        if let Some(completion) = completions.next_within(Duration::from_millis(5)) {
                            seen.fetch_add(1, Ordering::SeqCst);
                            tickets.push(completion.ticket());
                            assert_eq!(completion.into_result(), Completed::Write(Ok(())));
                        }
                    }
                    tickets
                })
            })
            .collect();
        for n in 0..CALLS {
            wait_until("there is a place", || {
                match engine.submit_set(&completions, format!("k{n}"), "v", &WriteOptions::new()) {
                    Ok(_) => true,
                    Err(error) => {
                        assert_eq!(error, SubmitError::Full { capacity: 64 });
                        thread::yield_now();
                        false
                    }
                }
            });
        }
        let tickets: BTreeSet<Ticket> = takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect();
        assert_eq!(tickets.len(), CALLS);
    });
    assert_eq!(engine.stats().unwrap().keys, CALLS);
}

#[test]
fn submitted_calls_of_a_cluster_complete_through_every_node() {
    let engines = cluster(3, |config| config.cores(2));
    let all = WriteOptions::new().quorum(Quorum::All);
    let completions = Completions::new(600);
    for (from, engine) in engines.iter().enumerate() {
        for n in 0..200 {
            engine.submit_set(&completions, format!("{from}:{n}"), "v", &all).unwrap();
        }
    }
    for _ in 0..600 {
        let completion = completions.next_within(LATE).expect("one for each");
        assert_eq!(completion.into_result(), Completed::Write(Ok(())));
    }
    let majority = ReadOptions::new().quorum(Quorum::Majority);
    for engine in &engines {
        for n in 0..200 {
            engine.submit_get(&completions, format!("{}:{n}", n % 3), &majority).unwrap();
            engine.submit_get(&completions, format!("none {n}"), &majority).unwrap();
        }
        let mut found = 0;
        for _ in 0..400 {
            match completions.next_within(LATE).expect("one for each").into_result() {
                Completed::Read(Ok(value)) => found += usize::from(value.is_some()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(found, 200);
    }
    // None of the others is there, and the call has little time.
    let lone = start(node("lone"));
    let soon = ReadOptions::new().timeout(SOON);
    lone.submit_get(&completions, "k", &soon).unwrap();
    let expected = Completed::Read(Err(ReadError::TimedOut { answered: 0, needed: 1 }));
    assert_eq!(completions.next_within(LATE).unwrap().into_result(), expected);
}

// ── what cores do when there is nothing to do ───────────────────────────────────────────────────────────

#[test]
fn a_cluster_works_under_every_idle_strategy() {
    let adaptive = |micros| IdleStrategy::Adaptive { max_spin: Duration::from_micros(micros) };
    for idle in [IdleStrategy::Park, adaptive(0), adaptive(50), adaptive(10_000), IdleStrategy::Busy] {
        // The timeout is the default one.
        let engines = cluster(3, |config| config.idle(idle).request_timeout(Duration::from_secs(2)));
        for (from, engine) in engines.iter().enumerate() {
            for n in 0..50 {
                engine
                    .set(format!("{from}:{n}"), n.to_string())
                    .unwrap_or_else(|error| panic!("{idle:?}: {error}"));
            }
        }
        for engine in &engines {
            for n in 0..150 {
                let key = format!("{}:{}", n / 50, n % 50);
                let found = engine.get(&key).unwrap_or_else(|error| panic!("{idle:?}: {error}"));
                assert_eq!(found, Some((n % 50).to_string().into_bytes()), "{idle:?}");
            }
        }
        let engine = start(Config::standalone("solo").cores(2).idle(idle));
        engine.set("k", "v").unwrap();
        assert_eq!(value(&engine, "k").as_deref(), Some("v"));
    }
}

/// `Completions::next` in a closure waited for an answer that the core could only give when the closure had ended.
#[test]
fn completions_are_not_waited_for_on_a_core() {
    let engine = start(Config::standalone("solo"));
    let completions = Completions::new(10);
    let (its_engine, its_completions) = (engine.clone(), completions.clone());
    let found = engine.run_on("k", move |_| {
        its_engine.submit_set(&its_completions, "k", "v", &WriteOptions::new()).unwrap();
        let found = its_completions.next().is_some();
        found || its_completions.next_within(LATE).is_some()
    });
    assert_eq!(found, Ok(false));
    assert_eq!(completions.next().unwrap().into_result(), Completed::Write(Ok(())));
}
