//! Every call and every error of the public interface, on one engine.

use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use gridkv::{
    Batch, Completions, Config, ConfigError, Count, Engine, Event, Events, Eviction, LocalKeys,
    MAX_KEY_BYTES, MAX_VALUE_BYTES, MemberState, NotApplied, Quorum, ReadError, ReadOptions,
    StartError, TimeToLive, WriteOptions,
};

use crate::support::{LATE, keys, node, not_applied, solo, start, wait_event, wait_until};

#[test]
fn a_handle_can_be_shared() {
    fn is_shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    is_shared(&solo());
    // By what catches panics, too: a handler of requests in a server, for example.
    fn is_unwind_safe<T: UnwindSafe + RefUnwindSafe>() {}
    is_unwind_safe::<Engine>();
    is_unwind_safe::<Config>();
    is_unwind_safe::<Completions>();
    is_unwind_safe::<Events>();
    is_unwind_safe::<Batch>();
    is_unwind_safe::<LocalKeys>();
}

#[test]
fn standalone_serves_every_call_at_once() {
    let engine = solo();
    engine.wait_ready(Duration::ZERO).unwrap();
    assert_eq!(engine.get("k").unwrap(), None);
    engine.set("k", "v").unwrap();
    assert_eq!(engine.get("k").unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(engine.read("k", <[u8]>::len).unwrap(), Some(1));
    assert_eq!(engine.read("none", <[u8]>::len).unwrap(), None);
    assert!(engine.contains("k").unwrap());
    assert_eq!(
        engine.get_with("k", &ReadOptions::new().local()).unwrap().as_deref(),
        Some(&b"v"[..])
    );
    assert_eq!(engine.get_with("none", &ReadOptions::new().local()).unwrap(), None);
    engine.set("k", "w").unwrap();
    assert_eq!(engine.get("k").unwrap().as_deref(), Some(&b"w"[..]));
    let stats = engine.stats().unwrap();
    assert_eq!((stats.keys, stats.synced_partitions, stats.pending_partitions), (1, 4096, 0));
    assert!(stats.bytes > 0);
    engine.delete("k").unwrap();
    engine.delete("k").unwrap();
    engine.delete_with("never", &WriteOptions::new().quorum(Quorum::All)).unwrap();
    assert!(!engine.contains("k").unwrap());
    assert_eq!(engine.stats().unwrap().keys, 0);
    assert_eq!(engine.address(), None);
    let members = engine.members();
    assert_eq!(members.len(), 1);
    assert!(
        members[0].id == *"solo" && members[0].is_self && members[0].state == MemberState::Alive
    );
    assert!(format!("{engine:?}").contains("solo"));
    engine.leave(LATE).unwrap();
}

#[test]
fn keys_and_values_may_be_empty_binary_and_as_long_as_the_limits() {
    let engine = solo();
    let long_key = vec![7; MAX_KEY_BYTES];
    let long_value: Vec<u8> = (0..MAX_VALUE_BYTES).map(|n| ((n * 31) >> 3) as u8).collect();
    engine.set("", "").unwrap();
    engine.set([0, 255, 10], [255, 0]).unwrap();
    engine.set(&long_key, &long_value).unwrap();
    assert_eq!(engine.get("").unwrap(), Some(Vec::new()));
    assert!(engine.contains("").unwrap());
    assert_eq!(engine.get([0, 255, 10]).unwrap(), Some(vec![255, 0]));
    assert_eq!(engine.read(&long_key, |value| value == long_value).unwrap(), Some(true));
}

#[test]
fn what_is_too_long_is_refused_by_every_call() {
    let engine = solo();
    let length = MAX_KEY_BYTES + 1;
    let key = vec![0; length];
    assert_eq!(engine.set(&key, "v"), not_applied(NotApplied::KeyTooLong { length }));
    assert_eq!(engine.delete(&key), not_applied(NotApplied::KeyTooLong { length }));
    assert_eq!(engine.touch(&key, LATE), Err(NotApplied::KeyTooLong { length }.into()));
    assert_eq!(engine.persist(&key), Err(NotApplied::KeyTooLong { length }.into()));
    assert_eq!(engine.ttl(&key), Err(ReadError::KeyTooLong { length }));
    assert_eq!(engine.get(&key), Err(ReadError::KeyTooLong { length }));
    assert_eq!(engine.contains(&key), Err(ReadError::KeyTooLong { length }));
    assert_eq!(engine.read(&key, <[u8]>::len), Err(ReadError::KeyTooLong { length }));
    assert_eq!(engine.get_many(&[b"a".to_vec(), key]), Err(ReadError::KeyTooLong { length }));
    let length = MAX_VALUE_BYTES + 1;
    assert_eq!(engine.set("k", vec![0; length]), not_applied(NotApplied::ValueTooLong { length }));
    assert_eq!(engine.get("k").unwrap(), None);
}

#[test]
fn options_that_cannot_be_kept_are_refused() {
    let engine = solo();
    for ttl in [Duration::ZERO, Duration::from_micros(999), Duration::MAX] {
        let options = WriteOptions::new().ttl(ttl);
        assert_eq!(engine.set_with("k", "v", &options), not_applied(NotApplied::BadTtl { ttl }));
        assert_eq!(engine.touch("k", ttl), Err(NotApplied::BadTtl { ttl }.into()));
    }
    for asked in [0, 2] {
        let write = WriteOptions::new().quorum(Quorum::Count(asked));
        let error = NotApplied::BadQuorum {
            asked,
            write_quorum: Count::Exactly(1),
            replicas: Count::Exactly(1),
        };
        assert_eq!(engine.set_with("k", "v", &write), not_applied(error.clone()));
        assert_eq!(engine.delete_with("k", &write), not_applied(error));
        let read = ReadOptions::new().quorum(Quorum::Count(asked));
        assert_eq!(
            engine.get_with("k", &read),
            Err(ReadError::BadQuorum { asked, replicas: Count::Exactly(1) })
        );
    }
    let no_time = WriteOptions::new().timeout(Duration::ZERO);
    wait_until("no time is hardly ever enough", || {
        engine.delete("k").unwrap();
        let result = engine.set_with("k", "v", &no_time);
        let has_happened = engine.contains("k").unwrap();
        assert_eq!(result, if has_happened { Ok(()) } else { not_applied(NotApplied::Overloaded) });
        !has_happened
    });
    let all_the_time = WriteOptions::new().timeout(Duration::MAX).ttl(Duration::from_secs(3600));
    engine.set_with("k", "v", &all_the_time).unwrap();
    let all_the_time = ReadOptions::new().timeout(Duration::MAX).quorum(Quorum::Majority);
    assert_eq!(engine.get_with("k", &all_the_time).unwrap().as_deref(), Some(&b"v"[..]));
}

#[test]
fn a_value_lives_as_long_as_its_time_to_live() {
    let engine = solo();
    let ttl = Duration::from_millis(60);
    let start = Instant::now();
    let options = WriteOptions::new().ttl(ttl);
    engine.set_with("short", "v", &options).unwrap();
    engine.set_with("overwritten", "v", &options).unwrap();
    engine.set("overwritten", "w").unwrap();
    engine.set_with("long", "v", &WriteOptions::new().ttl(Duration::from_secs(3600))).unwrap();
    wait_until("it has expired", || engine.get("short").unwrap().is_none());
    assert!(
        start.elapsed() >= ttl - Duration::from_millis(1),
        "it lived for {:?}",
        start.elapsed()
    );
    assert!(!engine.contains("short").unwrap());
    assert_eq!(keys(&engine, ""), ["long", "overwritten"]);
    wait_until("its memory is free", || engine.stats().unwrap().keys == 2);
    engine.set("short", "again").unwrap();
    assert!(engine.contains("short").unwrap());
}

#[test]
fn a_time_to_live_can_be_looked_at_changed_and_removed() {
    let engine = start(Config::standalone("solo").cores(2));
    let hour = Duration::from_secs(3600);
    assert_eq!(engine.ttl("k").unwrap(), None);
    assert!(!engine.touch("k", hour).unwrap() && !engine.persist("k").unwrap());
    assert!(!engine.contains("k").unwrap(), "touching creates nothing");
    // One value that is short, and one that is long enough to be shared by its versions.
    for value in [b"v".to_vec(), vec![7; 100_000]] {
        engine.set("k", &value).unwrap();
        assert_eq!(engine.ttl("k").unwrap(), Some(TimeToLive::Forever));
        assert!(!engine.persist("k").unwrap(), "it had no time to live");
        assert!(engine.touch("k", hour).unwrap());
        let left = |engine: &Engine| match engine.ttl("k").unwrap() {
            Some(TimeToLive::Left(left)) => left,
            other => panic!("{other:?}"),
        };
        assert!(left(&engine) <= hour && left(&engine) > hour / 2);
        assert!(engine.touch("k", 2 * hour).unwrap(), "longer than it was");
        assert!(left(&engine) > hour);
        assert!(engine.touch("k", hour).unwrap(), "shorter than it was");
        assert!(left(&engine) <= hour);
        assert!(engine.persist("k").unwrap() && !engine.persist("k").unwrap());
        assert_eq!(engine.ttl("k").unwrap(), Some(TimeToLive::Forever));
        assert_eq!(engine.read("k", |found| found == value).unwrap(), Some(true));
    }
    assert_eq!(engine.stats().unwrap().keys, 1);
    assert!(engine.touch("k", Duration::from_millis(5)).unwrap());
    wait_until("it has expired", || engine.ttl("k").unwrap().is_none());
    assert!(!engine.touch("k", hour).unwrap() && !engine.persist("k").unwrap(), "it is gone");
    wait_until("its memory is free", || engine.stats().unwrap().keys == 0);
    engine.set("k", "again").unwrap();
    engine.leave(LATE).unwrap();
    assert_eq!(engine.touch("k", hour), Err(NotApplied::ShutDown.into()));
    assert_eq!(engine.persist("k"), Err(NotApplied::ShutDown.into()));
}

#[test]
fn a_memory_limit_is_split_over_the_cores_and_must_reach_for_all() {
    let limited = |bytes| Config::standalone("solo").cores(4).max_memory(bytes);
    let error = Engine::start(limited(1 << 20)).unwrap_err();
    let expected = ConfigError::BadMemory { max_memory: 1 << 20, least: 4 << 20 };
    assert!(matches!(&error, StartError::Config(error) if *error == expected), "{error:?}");
    assert!(error.to_string().contains("1 MiB for each core"), "{error}");
    for eviction in [Eviction::Sieve, Eviction::None] {
        let engine = start(limited(4 << 20).eviction(eviction));
        engine.set("k", "v").unwrap();
        assert!(engine.contains("k").unwrap());
    }
}

#[test]
fn one_handle_serves_eight_threads() {
    let engine = start(Config::standalone("solo").cores(2));
    thread::scope(|scope| {
        for thread in 0..8u32 {
            let engine = engine.clone();
            scope.spawn(move || {
                for n in 0..500u32 {
                    let key = format!("{thread}:{n}");
                    engine.set(&key, n.to_le_bytes()).unwrap();
                    assert_eq!(engine.get(&key).unwrap(), Some(n.to_le_bytes().to_vec()));
                    engine.set("shared", &key).unwrap();
                }
            });
        }
    });
    assert_eq!(engine.stats().unwrap().keys, 8 * 500 + 1);
    let last = String::from_utf8(engine.get("shared").unwrap().unwrap()).unwrap();
    assert!(last.ends_with(":499"), "{last} was not the last that its thread wrote");
}

#[test]
fn many_keys_are_read_in_their_order_with_their_misses() {
    let engine = start(Config::standalone("solo").cores(3));
    // More than fit into a core's queue.
    let all: Vec<String> = (0..20_000).map(|n| format!("k{n}")).collect();
    for key in all.iter().step_by(2) {
        engine.set(key, key).unwrap();
    }
    let values = engine.get_many(&all).unwrap();
    assert_eq!(values.len(), all.len());
    for (n, (key, value)) in all.iter().zip(values).enumerate() {
        assert_eq!(value, (n % 2 == 0).then(|| key.clone().into_bytes()), "{key}");
    }
    assert_eq!(
        engine.get_many(&["k0", "k1", "k0"]).unwrap(),
        [Some(b"k0".to_vec()), None, Some(b"k0".to_vec())]
    );
    assert_eq!(engine.get_many::<&str>(&[]).unwrap(), []);
}

#[test]
fn local_keys_walks_all_cores_and_sees_only_the_prefix() {
    let engine = start(Config::standalone("solo").cores(4));
    let mut users = Vec::new();
    for n in 0..5000 {
        users.push(format!("user:{n}"));
        engine.set(&users[n], "v").unwrap();
        engine.set(format!("session:{n}"), "v").unwrap();
    }
    for n in 0..100 {
        engine.delete(format!("session:{n}")).unwrap();
    }
    users.sort();
    assert_eq!(keys(&engine, "user:"), users);
    assert_eq!(keys(&engine, "session:").len(), 4900);
    assert_eq!(keys(&engine, "").len(), 9900);
    assert_eq!(keys(&engine, "nothing"), [""; 0]);
    // A walk goes on after the handle that began it, and during writes.
    let mut walk = engine.local_keys("user:");
    walk.next().unwrap().unwrap();
    engine.set("user:new", "v").unwrap();
    drop(engine);
    assert!(walk.map(Result::unwrap).count() >= 4999);
}

#[test]
fn two_engines_in_one_process_are_two() {
    let (a, b) = (solo(), solo());
    a.set("k", "a").unwrap();
    assert_eq!(b.get("k").unwrap(), None);
    b.set("k", "b").unwrap();
    drop(b);
    assert_eq!(a.get("k").unwrap().as_deref(), Some(&b"a"[..]));
}

#[test]
fn the_last_handle_stops_the_engine_whichever_it_is() {
    let first = solo();
    let second = first.clone();
    let third = second.clone();
    let events = third.events();
    drop(first);
    third.set("k", "v").unwrap();
    drop(third);
    assert_eq!(second.get("k").unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(events.try_next(), None);
    drop(second);
    assert_eq!(events.count(), 0, "the end of the engine is the end of its events");
}

#[test]
fn expired_keys_give_their_memory_back_as_fast_as_they_come() {
    let engine = solo();
    let options = WriteOptions::new().ttl(Duration::from_millis(20));
    for n in 0..20_000 {
        engine.set_with(format!("k{n}"), "v", &options).unwrap();
    }
    wait_until("all have expired", || engine.stats().unwrap().bytes == 0);
    assert_eq!(engine.stats().unwrap().keys, 0);
}

/// Which core stands still was looked at by the control thread alone, whenever that was awake for
/// another reason. A standalone engine has none, and one that sleeps was woken by nothing: the app
/// was told nothing of its closure that waited.
#[test]
fn an_engine_without_other_nodes_says_that_a_core_is_stuck() {
    for engine in [solo(), start(node("alone").cores(2))] {
        let events = engine.events();
        for _ in 0..2 {
            let (release, held) = mpsc::channel::<()>();
            thread::scope(|scope| {
                let stuck = scope.spawn(|| engine.run_on("k", move |_| held.recv().is_err()));
                let core = wait_event(&events, "stuck", |event| match event {
                    Event::CoreStuck { core } => Some(*core),
                    _ => None,
                });
                drop(release);
                assert_eq!(stuck.join().unwrap(), Ok(true));
                wait_event(&events, "it goes on", |event| {
                    matches!(event, Event::CoreGoesOn { core: that, .. } if *that == core)
                        .then_some(())
                });
            });
        }
    }
}
