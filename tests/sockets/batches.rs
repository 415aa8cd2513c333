//! Batches, and reads of many keys.

use std::thread;
use std::time::Duration;

use gridkv::{
    Batch, Config, Count, MAX_KEY_BYTES, MAX_VALUE_BYTES, NotApplied, Quorum, ReadOptions,
    WriteOptions,
};

use crate::support::{
    HOUR, LATE, cluster, holders, is_expiring, node, not_applied, patient_solo, start, text,
    wait_until,
};

#[test]
fn a_batch_answers_each_of_its_writes_in_its_place() {
    for cores in 1..4 {
        let engine = patient_solo(cores);
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
        assert_eq!(text(&engine, "a").as_deref(), Some("1"));
        assert_eq!(text(&engine, "").as_deref(), Some(""));
        assert!(!engine.contains("old").unwrap() && !engine.contains("b").unwrap());
        assert!(is_expiring(&engine, "d") && !is_expiring(&engine, "a"));
        assert_eq!(engine.stats().unwrap().keys, 3);
    }
}

#[test]
fn a_batch_of_nothing_is_nothing() {
    let engine = patient_solo(2);
    assert!(Batch::new().is_empty());
    assert_eq!(engine.apply(Batch::new()), []);
    let all_wrong =
        Batch::new().set(vec![0; MAX_KEY_BYTES + 1], "").set("k", vec![0; MAX_VALUE_BYTES + 1]);
    assert!(engine.apply(all_wrong).iter().all(Result::is_err));
    engine.abort();
    assert_eq!(engine.apply(Batch::new()), []);
    assert_eq!(engine.apply(Batch::new().set("k", "v")), [not_applied(NotApplied::ShutDown)]);
}

#[test]
fn options_of_a_batch_are_for_those_writes_that_have_none_of_their_own() {
    let engine = patient_solo(2);
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

    let error = NotApplied::BadQuorum {
        asked: 2,
        write_quorum: Count::Exactly(1),
        replicas: Count::Exactly(1),
    };
    let results = engine.apply_with(batch(), &WriteOptions::new().quorum(Quorum::Count(2)));
    assert_eq!(results, vec![not_applied(error); 3]);

    // Each is made or not, and says so.
    let none = WriteOptions::new().timeout(Duration::ZERO);
    wait_until("no time is hardly ever enough", || {
        engine.delete("t").unwrap();
        let results = engine.apply_with(Batch::new().set("t", "v").set("t", "w"), &none);
        let found = text(&engine, "t");
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
    let engine = patient_solo(3);
    let mut batch = Batch::new();
    for n in 0..2000 {
        let key = format!("k{}", n % 7);
        batch = if n % 3 == 0 { batch.delete(key) } else { batch.set(key, n.to_string()) };
    }
    assert!(engine.apply(batch).iter().all(Result::is_ok));
    for k in 0..7 {
        let last = (0..2000).rev().find(|n| n % 7 == k).unwrap();
        let expected = (last % 3 != 0).then(|| last.to_string());
        assert_eq!(text(&engine, &format!("k{k}")), expected, "k{k}");
    }
}

#[test]
fn a_batch_may_be_huge() {
    const WRITES: usize = 200_000;
    let engine = patient_solo(2);
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
    let engine =
        start(Config::standalone("solo").cores(2).max_memory(16 << 20).request_timeout(LATE));
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
        assert!(
            results.iter().all(Result::is_ok),
            "{:?}",
            results.iter().find(|result| result.is_err())
        );
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
        let engine = patient_solo(2);
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
