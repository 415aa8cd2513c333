//! Who waits for whom while long calls go on, and cores under each idle strategy.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use gridkv::{
    Batch, Completed, Completions, Config, IdleStrategy, NotApplied, SubmitError, WriteOptions,
};

use crate::support::{LATE, SOON, cluster, patient_solo, processors, start, text, wait_until};

#[test]
fn single_calls_are_answered_all_along_a_long_batch() {
    let _processors = processors();
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
                    // The batch has been begun, and is not at its end: what was answered came in
                    // between.
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
    let _processors = processors();
    const WRITES: usize = 300_000;
    let engine = patient_solo(1);
    let batch = |name: &str| {
        (0..WRITES)
            .fold(Batch::with_capacity(WRITES), |batch, n| batch.set(format!("{name}{n}"), "v"))
    };
    let (long, short) =
        (batch("a"), Batch::new().set("short", "v").delete("short").set("short", "w"));
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
    let _processors = processors();
    for idle in [IdleStrategy::default(), IdleStrategy::Park] {
        let engine = start(Config::standalone("solo").idle(idle).request_timeout(LATE));
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let flood = scope.spawn(|| {
                // More than a core's queue holds.
                let completions = Completions::new(4096);
                let (mut submitted, mut completed, options) = (0u64, 0u64, WriteOptions::new());
                while !is_over.load(Ordering::Relaxed) {
                    match engine.submit_set(
                        &completions,
                        format!("f{}", submitted % 100),
                        "v",
                        &options,
                    ) {
                        Ok(_) => submitted += 1,
                        Err(
                            SubmitError::Full { .. }
                            | SubmitError::NotApplied(NotApplied::Overloaded),
                        ) => {
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

#[test]
fn a_cluster_works_under_every_idle_strategy() {
    let _processors = processors();
    let adaptive = |micros| IdleStrategy::Adaptive { max_spin: Duration::from_micros(micros) };
    for idle in
        [IdleStrategy::Park, adaptive(0), adaptive(50), adaptive(10_000), IdleStrategy::Busy]
    {
        // The timeout is the default one.
        let engines =
            cluster(3, |config| config.idle(idle).request_timeout(Duration::from_secs(2)));
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
        assert_eq!(text(&engine, "k").as_deref(), Some("v"));
    }
}
