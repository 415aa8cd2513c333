//! Closures on the core that owns a key.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use gridkv::{
    Batch, Completed, Completions, Config, Engine, LeaveError, LoadError, MAX_KEY_BYTES,
    NotApplied, NotReady, NotSafe, Quorum, ReadError, ReadOptions, RunError, WriteError,
    WriteOptions,
};

use crate::support::{
    A_WHILE, HOUR, LATE, cluster, holders, is_expiring, node, not_applied, patient_solo, start,
    text, wait_until,
};

/// A key that the same core owns, and one that another does.
fn same_and_other(engine: &Engine, key: &str) -> (String, String) {
    let found = engine.run_on(key, |shard| {
        let mut keys = (0..).map(|n| format!("other {n}"));
        let (same, other): (Vec<_>, Vec<_>) =
            keys.by_ref().take(50).partition(|key| shard.owns(key));
        (same[0].clone(), other[0].clone())
    });
    found.unwrap()
}

#[test]
fn a_closure_sees_what_it_wrote_and_what_others_did() {
    let engine = patient_solo(3);
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
        assert_eq!(
            shard.set(&long_key, "v"),
            Err(NotApplied::KeyTooLong { length: long_key.len() })
        );
        assert_eq!(shard.get(&long_key), Err(ReadError::KeyTooLong { length: long_key.len() }));
        let no_ttl = WriteOptions::new().ttl(Duration::ZERO);
        assert_eq!(
            shard.set_with("k", "v", &no_ttl),
            Err(NotApplied::BadTtl { ttl: Duration::ZERO })
        );
        vec!["any", "type"]
    });
    assert_eq!(returned, Ok(vec!["any", "type"]));
    assert_eq!(text(&engine, "k").as_deref(), Some("again"));
    assert!(is_expiring(&engine, &same) && !engine.contains(&other).unwrap());
}

#[test]
fn nothing_comes_between_a_closures_read_and_its_write() {
    let engine = patient_solo(2);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let count = engine.run_on("count", |shard| {
                        let count = shard.get("count").unwrap();
                        let count = count
                            .map_or(0, |count| u64::from_le_bytes(count.try_into().unwrap()))
                            + 1;
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
    let engine = patient_solo(1);
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
            assert_eq!(text(&engine, &key).as_deref(), Some("written"));
            let error = engine.run_on(&key, |_| panic!("as planned"));
            assert_eq!(
                error,
                Err::<(), _>(RunError::Panicked { message: "as planned".to_owned() })
            );
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

/// Panics when it is dropped, without a word: printing where a core panicked takes longer than
/// [`A_WHILE`] on a busy machine.
struct Grenade;

impl Drop for Grenade {
    fn drop(&mut self) {
        if !thread::panicking() {
            resume_unwind(Box::new("dropped"));
        }
    }
}

#[test]
fn what_panics_when_it_is_dropped_on_a_core_harms_nobody() {
    let engine = patient_solo(1);
    let grenade = Grenade;
    let error = engine.run_on("k", move |_| drop(grenade));
    assert_eq!(error, Err(RunError::Panicked { message: "dropped".to_owned() }));
    let error = engine.run_on("k", |_| std::panic::panic_any(Grenade));
    assert!(matches!(error, Err::<(), _>(RunError::Panicked { .. })), "{error:?}");
    engine.set("k", "v").unwrap();
    assert_eq!(engine.failure(), None);
}

/// A caller that no longer waited for its closure left what that returned to the core, which
/// dropped it: where that panicked, the engine failed.
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
    let far = far
        .into_iter()
        .find(|key| engines[0].get_with(key, &local) == Err(ReadError::NotLocal))
        .unwrap();
    let near = (0..).map(|n| format!("near {n}"));
    let near = near.into_iter().find(|key| engines[0].get_with(key, &local) == Ok(None)).unwrap();
    engines[0].set(&far, "far").unwrap();
    engines[0].set(&near, "near").unwrap();
    for engine in [engines[0].clone(), patient_solo(1)] {
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
            assert_eq!(
                inside.run_on("k", |_| ()),
                Err(RunError::NotApplied(NotApplied::WouldBlockCore))
            );
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
            // No caller waits for these.
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

/// A closure that asked for a key which another thread was loading waited for it on the core, while
/// that thread waited for the core to store it.
#[test]
fn a_closure_that_misses_a_key_neither_loads_it_nor_waits_for_who_does() {
    let engine = patient_solo(1);
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
            let result =
                engine.run_on(key, move |_| inside.get_or_insert_with(key, None, || "inside"));
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
    let host = patient_solo(1);
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
    let engine = patient_solo(1);
    engine.abort();
    let result = engine.run_on("k", |_| panic!("it has ended"));
    assert_eq!(result, Err::<(), _>(RunError::NotApplied(NotApplied::ShutDown)));
    assert_eq!(engine.failure(), None, "it was stopped");
}
