//! Clusters over loopback: every call, through every node.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use gridkv::{
    Config, Count, Engine, MAX_VALUE_BYTES, NotApplied, NotReady, NotSafe, Quorum, ReadError,
    ReadOptions, Risk, TimeToLive, WriteError, WriteOptions,
};

use crate::support::{
    LATE, address, alive, cluster, keys, node, not_applied, processors, start, wait_settled,
    wait_until,
};

#[test]
fn a_lone_node_refuses_writes_and_says_what_is_missing() {
    let engine = start(node("a"));
    let alone = NotApplied::NotEnoughReplicas { alive: 1, needed: 2 };
    assert_eq!(engine.set("k", "v"), not_applied(alone.clone()));
    assert_eq!(engine.delete("k"), not_applied(alone));
    let text = engine.set("k", "v").unwrap_err().to_string();
    assert!(text.contains("start more nodes") && text.contains("Config::standalone"), "{text}");
    let all = WriteOptions::new().quorum(Quorum::All);
    let error = NotApplied::NotEnoughReplicas { alive: 1, needed: 3 };
    assert_eq!(engine.set_with("k", "v", &all), not_applied(error));
    let two = ReadOptions::new().quorum(Quorum::Count(2));
    assert_eq!(
        engine.get_with("k", &two),
        Err(ReadError::NotEnoughReplicas { alive: 1, needed: 2 })
    );
    assert_eq!(engine.get_with("k", &ReadOptions::new().local()), Err(ReadError::NotLocal));
    let soon = ReadOptions::new().timeout(Duration::from_millis(20));
    assert_eq!(engine.get_with("k", &soon), Err(ReadError::TimedOut { answered: 0, needed: 1 }));
    let error = NotReady::TooFewMembers { members: 1, needed: 2, hint: None };
    assert_eq!(engine.wait_ready(Duration::from_millis(20)), Err(error));
    assert_eq!(keys(&engine, ""), [""; 0]);
    engine.leave(LATE).unwrap();
}

#[test]
fn a_node_that_cannot_tell_whether_there_is_data_waits() {
    // The seed takes connections and says nothing: it may know of a cluster.
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    let seed = hole.local_addr().unwrap().to_string();
    let engine = start(node("a").seeds([seed]).write_quorum(1));
    let soon = Duration::from_millis(50);
    assert_eq!(engine.wait_ready(soon), Err(NotReady::Settling { members: 1, hint: None }));
    let result = engine.set_with("k", "v", &WriteOptions::new().timeout(soon));
    assert_eq!(result, not_applied(NotApplied::Unavailable));
    let result = engine.get_with("k", &ReadOptions::new().timeout(soon));
    assert_eq!(result, Err(ReadError::TimedOut { answered: 0, needed: 1 }));
}

#[test]
fn two_of_three_write_and_read() {
    let engines = cluster(2, |config| config);
    engines[0].set("k", "v").unwrap();
    assert_eq!(engines[1].get("k").unwrap().as_deref(), Some(&b"v"[..]));
    let all = WriteOptions::new().quorum(Quorum::All);
    let error = NotApplied::NotEnoughReplicas { alive: 2, needed: 3 };
    assert_eq!(engines[0].set_with("k", "v", &all), not_applied(error));
    engines[1].delete("k").unwrap();
    assert_eq!(engines[0].get("k").unwrap(), None);
}

#[test]
fn three_nodes_keep_three_copies_whatever_their_cores() {
    let cores = |config: Config, id: &str| config.cores(if id == "n1" { 3 } else { 1 });
    let first = start(cores(node("n0"), "n0"));
    let seeds = [address(&first)];
    let engines =
        [first, start(cores(node("n1").seeds(&seeds), "n1")), start(node("n2").seeds(&seeds))];
    wait_settled(&engines);
    let all = WriteOptions::new().quorum(Quorum::All);
    for n in 0..300 {
        engines[n % 3].set_with(format!("k{n}"), n.to_string(), &all).unwrap();
    }
    let wanted: Vec<String> = (0..300).map(|n| format!("k{n}")).collect();
    let mut sorted = wanted.clone();
    sorted.sort();
    for engine in &engines {
        assert_eq!(keys(engine, "k"), sorted);
        let values = engine.get_many(&wanted).unwrap();
        for (n, value) in values.into_iter().enumerate() {
            assert_eq!(value, Some(n.to_string().into_bytes()));
        }
        assert_eq!(engine.members().len(), 3);
        assert_eq!(engine.members().iter().filter(|member| member.is_self).count(), 1);
    }
}

#[test]
fn more_nodes_than_copies_share_the_keys_and_answer_for_all() {
    let engines = cluster(4, |config| config.replicas(2).cores(2));
    for n in 0..400 {
        let all = WriteOptions::new().quorum(Quorum::All);
        engines[n % 4].set_with(format!("k{n}"), n.to_string(), &all).unwrap();
    }
    let copies: usize = engines.iter().map(|engine| keys(engine, "k").len()).sum();
    assert_eq!(copies, 800);
    for engine in &engines {
        assert!(keys(engine, "k").len() > 100, "the keys are spread");
        for n in 0..400 {
            assert_eq!(engine.get(format!("k{n}")).unwrap(), Some(n.to_string().into_bytes()));
        }
        let local = ReadOptions::new().local();
        let on_others = (0..400)
            .filter(|n| engine.get_with(format!("k{n}"), &local) == Err(ReadError::NotLocal));
        assert_eq!(on_others.count(), 400 - keys(engine, "k").len());
    }
}

#[test]
fn a_read_of_two_sees_every_write_from_anywhere() {
    let engines = cluster(3, |config| config.read_quorum(2));
    for n in 0..200usize {
        engines[n % 3].set("k", n.to_string()).unwrap();
        let value = engines[(n + 1) % 3].get("k").unwrap();
        assert_eq!(value, Some(n.to_string().into_bytes()));
    }
    engines[0].delete("k").unwrap();
    assert_eq!(engines[1].get("k").unwrap(), None);
    for quorum in [Quorum::All, Quorum::Majority, Quorum::Count(3), Quorum::Configured] {
        engines[0].set_with("q", "v", &WriteOptions::new().quorum(quorum)).unwrap();
        let value = engines[2].get_with("q", &ReadOptions::new().quorum(quorum)).unwrap();
        assert_eq!(value.as_deref(), Some(&b"v"[..]));
    }
    let error = NotApplied::BadQuorum {
        asked: 1,
        write_quorum: Count::Exactly(2),
        replicas: Count::Exactly(3),
    };
    let one = WriteOptions::new().quorum(Quorum::Count(1));
    assert_eq!(engines[0].set_with("q", "v", &one), not_applied(error));
}

#[test]
fn a_time_to_live_ends_on_every_node() {
    let engines = cluster(3, |config| config);
    let options = WriteOptions::new().ttl(Duration::from_millis(200)).quorum(Quorum::All);
    engines[0].set_with("k", "v", &options).unwrap();
    for engine in &engines {
        wait_until("it has expired here too", || engine.get("k").unwrap().is_none());
    }
}

#[test]
fn a_time_to_live_is_seen_and_changed_from_every_node() {
    for (nodes, replicas, quorum) in [(4, 3, 2), (3, 3, 3), (3, 2, 1), (2, 1, 1)] {
        let engines = cluster(nodes, |config| config.replicas(replicas).write_quorum(quorum));
        let hour = Duration::from_secs(3600);
        engines[0].set_with("k", "v", &WriteOptions::new().ttl(hour)).unwrap();
        engines[0].set("always", "v").unwrap();
        for engine in &engines {
            assert!(!engine.touch("none", hour).unwrap() && !engine.persist("none").unwrap());
            assert!(!engine.persist("always").unwrap(), "it had no time to live");
            // The node that is asked next sees it, if all of the copies do.
            let is_everywhere = |wanted: &dyn Fn(TimeToLive) -> bool| {
                wait_until("all copies have it", || {
                    engines.iter().all(|engine| engine.ttl("k").unwrap().is_some_and(wanted))
                });
            };
            for (ttl, what) in
                [(3 * hour, "longer"), (2 * hour, "shorter"), (hour, "shorter again")]
            {
                assert!(engine.touch("k", ttl).unwrap(), "{what}");
                let near = ttl - hour / 2;
                is_everywhere(&|left| match left {
                    TimeToLive::Left(left) => left <= ttl && left > near,
                    _ => false,
                });
            }
            assert!(engine.persist("k").unwrap());
            is_everywhere(&|left| left == TimeToLive::Forever);
            assert!(!engine.persist("k").unwrap());
            assert_eq!(engine.get("k").unwrap().as_deref(), Some(&b"v"[..]));
        }
        engines[0].delete("k").unwrap();
        for engine in &engines {
            assert!(!engine.touch("k", hour).unwrap(), "it is deleted");
        }
        wait_until("nobody has it", || {
            engines.iter().all(|engine| engine.get("k").unwrap().is_none())
        });

        engines[0].set("soon", "v").unwrap();
        assert!(engines[1].touch("soon", Duration::from_millis(20)).unwrap());
        wait_until("it has expired", || {
            engines.iter().all(|engine| engine.get("soon").unwrap().is_none())
        });
        assert!(!engines[1].touch("soon", hour).unwrap(), "it is gone");
    }
}

#[test]
fn it_is_safe_when_no_copy_is_missing_anywhere_and_else_the_error_says_where() {
    let alone = start(Config::standalone("alone"));
    assert_eq!(alone.wait_until_safe(Duration::ZERO), Ok(()));
    assert_eq!(alone.stats().unwrap().redundancy_debt, 0);

    let debt = |engines: &[Engine]| -> usize {
        engines.iter().map(|engine| engine.stats().unwrap().redundancy_debt).sum()
    };
    let mut engines = cluster(2, |config| config);
    let seeds = [address(&engines[0])];
    engines[0].set("k", "v").unwrap();
    wait_until("nothing moves any more", || debt(&engines) == 4096);
    let error = engines[0].wait_until_safe(Duration::from_millis(300)).unwrap_err();
    let NotSafe::TimedOut { risks } = &error else { panic!("{error:?}") };
    let missing = risks.iter().map(|risk| match risk {
        Risk::Owes { copies, writes: 0, .. } => *copies,
        other => panic!("{other:?}"),
    });
    assert_eq!(missing.sum::<usize>(), 4096, "one of three copies of each partition: {error}");
    assert!(error.to_string().contains("copies of partitions are missing"), "{error}");

    engines.push(start(node("n2").seeds(&seeds)));
    thread::scope(|scope| {
        for engine in &engines {
            scope.spawn(|| {
                assert_eq!(engine.wait_until_safe(LATE), Ok(()), "{:?}", engines[0].stats())
            });
        }
    });
    assert_eq!(debt(&engines), 0);

    // It says nothing more, and is not known to be dead for a while.
    engines[2].abort();
    let error = engines[0].wait_until_safe(Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, NotSafe::TimedOut { .. }), "{error:?}");
    assert_eq!(engines[2].wait_until_safe(LATE), Err(NotSafe::ShutDown));
    assert_eq!(engines[0].get("k").unwrap().as_deref(), Some(&b"v"[..]));
}

/// A leaver answers the calls that it took, and what it acknowledged is with every replica before
/// it goes.
#[test]
fn a_node_that_leaves_under_load_fails_nobodys_calls() {
    let _processors = processors();
    let mut engines = cluster(4, |config| config);
    let leaver = engines.remove(1);
    let is_over = AtomicBool::new(false);
    let is_over = &is_over;
    let write = move |engine: &Engine, name: String| {
        let mut acknowledged = 0u64;
        while !is_over.load(Ordering::Relaxed) {
            match engine.set(format!("{name}-{}", acknowledged % 100), acknowledged.to_le_bytes()) {
                Ok(()) => acknowledged += 1,
                Err(WriteError::NotApplied(NotApplied::ShutDown)) => break,
                Err(error) => panic!("{name}: {error}"),
            }
            let key = format!("{name}-{}", (acknowledged - 1) % 100);
            match engine.get(&key) {
                Ok(found) => {
                    assert_eq!(found, Some((acknowledged - 1).to_le_bytes().to_vec()), "{key}")
                }
                Err(ReadError::ShutDown) => break,
                Err(error) => panic!("{name}: {error}"),
            }
        }
        acknowledged
    };
    let counts: Vec<u64> = thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|at| {
                let engine = engines.get(at % 4).unwrap_or(&leaver);
                scope.spawn(move || write(engine, format!("w{at}")))
            })
            .collect();
        wait_until("they write", || leaver.stats().unwrap().keys > 400);
        leaver.leave(LATE).unwrap();
        assert!(engines[0].stats().unwrap().keys > 0);
        wait_until("it is known to have left", || engines.iter().all(|engine| alive(engine) == 3));
        is_over.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    assert_eq!(engines[0].wait_until_safe(LATE), Ok(()));
    for (at, count) in counts.into_iter().enumerate() {
        for last in count.saturating_sub(100)..count {
            let key = format!("w{at}-{}", last % 100);
            for engine in &engines {
                assert_eq!(engine.get(&key).unwrap(), Some(last.to_le_bytes().to_vec()), "{key}");
            }
        }
    }
}

#[test]
fn the_largest_value_reaches_every_node() {
    let engines = cluster(3, |config| config.request_timeout(LATE));
    let value: Vec<u8> = (0..MAX_VALUE_BYTES).map(|n| ((n * 131) >> 5) as u8).collect();
    let all = WriteOptions::new().quorum(Quorum::All);
    engines[0].set_with("big", &value, &all).unwrap();
    for engine in &engines {
        assert_eq!(engine.read("big", |found| found == value).unwrap(), Some(true));
    }
    let everybody = ReadOptions::new().quorum(Quorum::All);
    assert!(engines[1].get_with("big", &everybody).unwrap().is_some_and(|found| found == value));
}

#[test]
fn eight_threads_write_through_three_nodes() {
    let engines = cluster(3, |config| config.cores(2));
    thread::scope(|scope| {
        for thread in 0..8 {
            let engine = engines[thread % 3].clone();
            scope.spawn(move || {
                for n in 0..100 {
                    engine.set(format!("{thread}:{n}"), n.to_string()).unwrap();
                }
            });
        }
    });
    for engine in &engines {
        for thread in 0..8 {
            for n in 0..100 {
                let value = engine.get(format!("{thread}:{n}")).unwrap();
                assert_eq!(value, Some(n.to_string().into_bytes()));
            }
        }
    }
}

/// More bytes at once than the queue to one peer takes: they are sent one after the other, and no
/// connection is given up for it.
#[test]
fn many_large_writes_at_once_all_arrive() {
    let _processors = processors();
    let engines = cluster(3, |config| config);
    let value = vec![7; MAX_VALUE_BYTES];
    thread::scope(|scope| {
        for writer in 0..6 {
            let (engine, value) = (&engines[0], &value);
            scope.spawn(move || {
                let options = WriteOptions::new().timeout(LATE);
                engine.set_with(format!("k{writer}"), value, &options).unwrap();
            });
        }
    });
    for writer in 0..6 {
        let length = engines[1].read(format!("k{writer}"), <[u8]>::len).unwrap();
        assert_eq!(length, Some(MAX_VALUE_BYTES));
    }
}
