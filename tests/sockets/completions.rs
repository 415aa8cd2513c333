//! Calls whose callers do not wait, and their completions.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use gridkv::{
    Completed, Completions, Config, Count, MAX_KEY_BYTES, NotApplied, Quorum, ReadError,
    ReadOptions, SubmitError, Ticket, WriteError, WriteOptions,
};

use crate::support::{LATE, SOON, cluster, node, patient_solo, start, wait_until};

#[test]
fn each_completion_has_its_calls_ticket() {
    let engine = patient_solo(2);
    let completions = Completions::new(1000);
    let (writing, reading) = (WriteOptions::new(), ReadOptions::new());
    engine.set("there", "v").unwrap();
    let mut expected: Vec<(Ticket, Completed)> = Vec::new();
    let written = Completed::Write(Ok(()));
    for n in 0..200 {
        let key = format!("k{n}");
        expected.push((
            engine.submit_set(&completions, &key, &key, &writing).unwrap(),
            written.clone(),
        ));
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
    let engine = patient_solo(1);
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
    assert_eq!(
        engine.submit_set(&completions, "b", "v", &writing),
        Err(full),
        "they are taken, and kept"
    );
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
    let engine = patient_solo(1);
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
    let error = NotApplied::BadQuorum {
        asked: 2,
        write_quorum: Count::Exactly(1),
        replicas: Count::Exactly(1),
    };
    let two = writing.clone().quorum(Quorum::Count(2));
    assert_eq!(
        engine.submit_set(&completions, "k", "v", &two),
        Err(SubmitError::NotApplied(error))
    );
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
                            let set =
                                engine.submit_set(&completions, &key, "v", &WriteOptions::new());
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
                assert!(
                    tickets.into_iter().all(|ticket| submitted.insert(ticket)),
                    "a ticket twice"
                );
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
    let engine = patient_solo(2);
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
    let engine = patient_solo(1);
    let completions = Completions::new(4);
    let (work, works) = flume::unbounded::<&str>();
    let next = || {
        flume::Selector::new()
            .recv(completions.receiver(), |completion| {
                format!("{:?}", completion.unwrap().into_result())
            })
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
    let engine = patient_solo(2);
    let completions = Completions::new(64);
    let seen = AtomicUsize::new(0);
    thread::scope(|scope| {
        let takers: Vec<_> = (0..3)
            .map(|_| {
                let (completions, seen) = (completions.clone(), &seen);
                scope.spawn(move || {
                    let mut tickets = Vec::new();
                    while seen.load(Ordering::SeqCst) < CALLS {
                        if let Some(completion) = completions.next_within(Duration::from_millis(5))
                        {
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
        let tickets: BTreeSet<Ticket> =
            takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect();
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

/// `Completions::next` in a closure waited for an answer that the core could only give when the
/// closure had ended.
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
