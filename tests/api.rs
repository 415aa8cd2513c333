//! Every call and every error of the public interface, on one engine and on clusters over loopback.
#![allow(clippy::disallowed_methods, reason = "tests are apps: they start threads, and wait")]

mod support;

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use gridkv::{
    Config, ConfigError, Count, Engine, Error, Event, Eviction, LeaveError, MAX_KEY_BYTES, MAX_VALUE_BYTES,
    MemberState, NotApplied, NotReady, NotSafe, Quorum, ReadError, ReadOptions, Risk, StartError, TimeToLive,
    WriteError, WriteOptions,
};
use support::{LATE, address, alive, cluster, node, start, wait_event, wait_settled, wait_until};

fn standalone() -> Engine {
    start(Config::standalone("solo"))
}

fn not_applied(error: NotApplied) -> Result<(), WriteError> {
    Err(WriteError::NotApplied(error))
}

/// Which keys a node holds, sorted.
fn keys(engine: &Engine, prefix: &str) -> Vec<String> {
    let keys = engine.local_keys(prefix).map(|key| String::from_utf8(key.unwrap()).unwrap());
    let mut keys: Vec<String> = keys.collect();
    keys.sort();
    keys
}

// ── one engine ──────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_handle_can_be_shared() {
    fn is_shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    is_shared(&standalone());
}

#[test]
fn standalone_serves_every_call_at_once() {
    let engine = standalone();
    engine.wait_ready(Duration::ZERO).unwrap();
    assert_eq!(engine.get("k").unwrap(), None);
    engine.set("k", "v").unwrap();
    assert_eq!(engine.get("k").unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(engine.read("k", <[u8]>::len).unwrap(), Some(1));
    assert_eq!(engine.read("none", <[u8]>::len).unwrap(), None);
    assert!(engine.contains("k").unwrap());
    assert_eq!(engine.get_with("k", &ReadOptions::new().local()).unwrap().as_deref(), Some(&b"v"[..]));
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
    assert!(members[0].id == *"solo" && members[0].is_self && members[0].state == MemberState::Alive);
    assert!(format!("{engine:?}").contains("solo"));
    engine.leave(LATE).unwrap();
}

#[test]
fn keys_and_values_may_be_empty_binary_and_as_long_as_the_limits() {
    let engine = standalone();
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
    let engine = standalone();
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
    let engine = standalone();
    for ttl in [Duration::ZERO, Duration::from_micros(999), Duration::MAX] {
        let options = WriteOptions::new().ttl(ttl);
        assert_eq!(engine.set_with("k", "v", &options), not_applied(NotApplied::BadTtl { ttl }));
        assert_eq!(engine.touch("k", ttl), Err(NotApplied::BadTtl { ttl }.into()));
    }
    for asked in [0, 2] {
        let write = WriteOptions::new().quorum(Quorum::Count(asked));
        let error =
            NotApplied::BadQuorum { asked, write_quorum: Count::Exactly(1), replicas: Count::Exactly(1) };
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
    let engine = standalone();
    let ttl = Duration::from_millis(60);
    let start = Instant::now();
    let options = WriteOptions::new().ttl(ttl);
    engine.set_with("short", "v", &options).unwrap();
    engine.set_with("overwritten", "v", &options).unwrap();
    engine.set("overwritten", "w").unwrap();
    engine.set_with("long", "v", &WriteOptions::new().ttl(Duration::from_secs(3600))).unwrap();
    wait_until("it has expired", || engine.get("short").unwrap().is_none());
    assert!(start.elapsed() >= ttl - Duration::from_millis(1), "it lived for {:?}", start.elapsed());
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
    // A walk goes on after the handle that began it, and beside writes.
    let mut walk = engine.local_keys("user:");
    walk.next().unwrap().unwrap();
    engine.set("user:new", "v").unwrap();
    drop(engine);
    assert!(walk.map(Result::unwrap).count() >= 4999);
}

#[test]
fn two_engines_in_one_process_are_two() {
    let (a, b) = (standalone(), standalone());
    a.set("k", "a").unwrap();
    assert_eq!(b.get("k").unwrap(), None);
    b.set("k", "b").unwrap();
    drop(b);
    assert_eq!(a.get("k").unwrap().as_deref(), Some(&b"a"[..]));
}

#[test]
fn the_last_handle_stops_the_engine_whichever_it_is() {
    let first = standalone();
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

// ── starting ────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_port_in_use_is_named_whichever_protocol_uses_it() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let error = Engine::start(Config::new("a", address.to_string())).unwrap_err();
    assert!(matches!(error, StartError::AddressInUse { address: named } if named == address));
    assert!(error.to_string().contains(&address.to_string()), "{error}");

    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = udp.local_addr().unwrap();
    let error = Engine::start(Config::new("a", address.to_string())).unwrap_err();
    assert!(matches!(error, StartError::AddressInUse { address: named } if named == address));

    let engine = start(node("a"));
    let error = Engine::start(Config::new("b", support::address(&engine))).unwrap_err();
    assert!(matches!(error, StartError::AddressInUse { .. }));
    let address = support::address(&engine);
    drop(engine);
    start(Config::new("b", address));
}

#[test]
fn an_address_of_another_machine_is_named() {
    let error = Engine::start(Config::new("a", "192.0.2.1:0")).unwrap_err();
    assert!(matches!(error, StartError::AddressNotAvailable { .. }), "{error:?}");
}

#[test]
fn a_mistake_in_the_configuration_starts_nothing() {
    let error = Engine::start(Config::new("", "127.0.0.1:0")).unwrap_err();
    assert!(matches!(error, StartError::Config(ConfigError::EmptyNodeId)));
    assert!(error.to_string().contains("give every node a name"), "{error}");
}

#[test]
fn every_error_converts_into_one_type() {
    fn run() -> Result<(), Error> {
        let engine = Engine::start(Config::standalone("solo"))?;
        engine.wait_ready(LATE)?;
        engine.set("k", "v")?;
        engine.get("k")?;
        engine.leave(LATE)?;
        engine.leave(LATE)?;
        Ok(())
    }
    let error = run().unwrap_err();
    assert!(matches!(error, Error::Leave(LeaveError::ShutDown)), "{error:?}");
}

// ── stopping ────────────────────────────────────────────────────────────────────────────────────────────

fn assert_shut_down(engine: &Engine) {
    assert_eq!(engine.set("k", "v"), not_applied(NotApplied::ShutDown));
    assert_eq!(engine.delete("k"), not_applied(NotApplied::ShutDown));
    assert_eq!(engine.get("k"), Err(ReadError::ShutDown));
    assert_eq!(engine.read("k", <[u8]>::len), Err(ReadError::ShutDown));
    assert_eq!(engine.ttl("k"), Err(ReadError::ShutDown));
    assert_eq!(engine.contains("k"), Err(ReadError::ShutDown));
    assert_eq!(engine.get_many(&["k"]), Err(ReadError::ShutDown));
    assert_eq!(engine.stats(), Err(ReadError::ShutDown));
    assert_eq!(engine.wait_ready(LATE), Err(NotReady::ShutDown));
    assert_eq!(engine.leave(LATE), Err(LeaveError::ShutDown));
    assert_eq!(engine.local_keys("").collect::<Vec<_>>(), [Err(ReadError::ShutDown)]);
    assert_eq!(engine.events().next_within(LATE), None);
    engine.abort();
}

#[test]
fn after_the_end_every_call_says_so() {
    for config in [Config::standalone("solo"), node("a").replicas(1)] {
        let left = start(config.clone());
        let other = left.clone();
        left.leave(LATE).unwrap();
        assert_shut_down(&left);
        assert_shut_down(&other);

        let aborted = start(config);
        aborted.abort();
        assert_shut_down(&aborted);
    }
}

#[test]
fn callers_who_wait_when_the_engine_stops_are_told() {
    // It never gets a second member, and its seed takes connections and says nothing.
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    let seed = hole.local_addr().unwrap().to_string();
    let engine = start(node("a").seeds([seed]).write_quorum(1).request_timeout(LATE));
    let begun = Instant::now();
    thread::scope(|scope| {
        let write = scope.spawn(|| engine.set("k", "v"));
        let read = scope.spawn(|| engine.get("k"));
        let ready = scope.spawn(|| engine.wait_ready(LATE));
        wait_until("both calls have arrived", || engine.stats().unwrap().calls_in_flight == 2);
        engine.abort();
        assert_eq!(write.join().unwrap(), not_applied(NotApplied::ShutDown));
        assert_eq!(read.join().unwrap(), Err(ReadError::ShutDown));
        assert_eq!(ready.join().unwrap(), Err(NotReady::ShutDown));
    });
    assert!(begun.elapsed() < LATE / 2);
}

#[test]
fn calls_that_race_with_the_stop_end_and_say_how() {
    for round in 0..20 {
        let engine = start(Config::standalone("solo").cores(2));
        thread::scope(|scope| {
            for thread in 0..4 {
                let engine = engine.clone();
                scope.spawn(move || {
                    for n in 0u32.. {
                        match engine.set(format!("{thread}:{n}"), "v") {
                            Ok(()) => {}
                            error => return assert_eq!(error, not_applied(NotApplied::ShutDown)),
                        }
                    }
                });
            }
            wait_until("they are under way", || engine.stats().unwrap().keys > round * 10);
            engine.abort();
        });
    }
}

#[test]
fn nodes_can_be_dropped_in_any_order() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut engines: Vec<Option<Engine>> = cluster(3, |config| config).into_iter().map(Some).collect();
        engines[order[0]].as_ref().unwrap().set("k", "v").unwrap();
        for (gone, &index) in order.iter().enumerate() {
            engines[index] = None;
            if let Some(engine) = engines.iter().flatten().next() {
                let left = 2 - gone;
                wait_until("the others have noticed", || alive(engine) == left);
            }
        }
    }
}

// ── a cluster ───────────────────────────────────────────────────────────────────────────────────────────

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
    assert_eq!(engine.get_with("k", &two), Err(ReadError::NotEnoughReplicas { alive: 1, needed: 2 }));
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
    assert_eq!(engine.wait_ready(soon), Err(NotReady::Settling { members: 1 }));
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
    let engines = [first, start(cores(node("n1").seeds(&seeds), "n1")), start(node("n2").seeds(&seeds))];
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
        let elsewhere =
            (0..400).filter(|n| engine.get_with(format!("k{n}"), &local) == Err(ReadError::NotLocal));
        assert_eq!(elsewhere.count(), 400 - keys(engine, "k").len());
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
    let error =
        NotApplied::BadQuorum { asked: 1, write_quorum: Count::Exactly(2), replicas: Count::Exactly(3) };
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
            // Whoever is asked next sees it, if all of the copies do.
            let is_everywhere = |wanted: &dyn Fn(TimeToLive) -> bool| {
                wait_until("all copies have it", || {
                    engines.iter().all(|engine| engine.ttl("k").unwrap().is_some_and(wanted))
                });
            };
            for (ttl, what) in [(3 * hour, "longer"), (2 * hour, "shorter"), (hour, "shorter again")] {
                assert!(engine.touch("k", ttl).unwrap(), "{what}");
                is_everywhere(
                    &|left| matches!(left, TimeToLive::Left(left) if left <= ttl && left > ttl - hour / 2),
                );
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
        wait_until("nobody has it", || engines.iter().all(|engine| engine.get("k").unwrap().is_none()));

        engines[0].set("soon", "v").unwrap();
        assert!(engines[1].touch("soon", Duration::from_millis(20)).unwrap());
        wait_until("it has expired", || engines.iter().all(|engine| engine.get("soon").unwrap().is_none()));
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
            scope.spawn(|| assert_eq!(engine.wait_until_safe(LATE), Ok(()), "{:?}", engines[0].stats()));
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

/// A leaver answers the calls that it took, and what it acknowledged is with every replica before it goes.
#[test]
fn a_node_that_leaves_under_load_fails_nobodys_calls() {
    let mut engines = cluster(4, |config| config);
    let leaver = engines.remove(1);
    let is_over = AtomicBool::new(false);
    let is_over = &is_over;
    let write = move |engine: &Engine, name: String| {
        let mut acknowledged = 0u64;
        while !is_over.load(Relaxed) {
            match engine.set(format!("{name}-{}", acknowledged % 100), acknowledged.to_le_bytes()) {
                Ok(()) => acknowledged += 1,
                Err(WriteError::NotApplied(NotApplied::ShutDown)) => break,
                Err(error) => panic!("{name}: {error}"),
            }
            let key = format!("{name}-{}", (acknowledged - 1) % 100);
            match engine.get(&key) {
                Ok(found) => assert_eq!(found, Some((acknowledged - 1).to_le_bytes().to_vec()), "{key}"),
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
        is_over.store(true, Relaxed);
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

// ── who comes and goes ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn events_tell_who_joined_died_and_left() {
    let first = start(node("n0"));
    let events = first.events();
    let seeds = [address(&first)];
    let second = start(node("n1").seeds(&seeds));
    // Who changes the members while the cluster is being born may make a joiner of the first node.
    wait_settled(&[first.clone(), second.clone()]);
    let third = start(node("n2").seeds(&seeds));
    for (name, engine) in [("n1", &second), ("n2", &third)] {
        let at = engine.address().unwrap();
        let all = first.events();
        // It may have joined before this line.
        if !first.members().iter().any(|member| member.id == *name) {
            wait_event(&all, "joined", |event| {
                matches!(event, Event::Joined { node, .. } if *node == *name).then_some(())
            });
        }
        wait_until("it is a member", || {
            first.members().iter().any(|member| member.id == *name && member.address == at)
        });
    }
    wait_settled(&[first.clone(), second.clone(), third.clone()]);
    third.leave(LATE).unwrap();
    wait_event(&events, "born", |event| matches!(event, Event::Born { .. }).then_some(()));
    wait_event(&events, "left", |event| {
        matches!(event, Event::Left { node } if *node == *"n2").then_some(())
    });
    second.abort();
    wait_event(&events, "died", |event| {
        matches!(event, Event::Died { node } if *node == *"n1").then_some(())
    });
    let states: Vec<MemberState> = first.members().iter().map(|member| member.state).collect();
    assert_eq!(states, [MemberState::Alive, MemberState::Dead, MemberState::Left]);
    assert_eq!(events.dropped(), 0);
    drop(first);
    // No more come, and nobody waits for them.
    assert!(events.count() < 100);
}

#[test]
fn after_each_change_a_node_says_when_it_holds_everything() {
    let mut engines = cluster(2, |config| config.replicas(2));
    for n in 0..200 {
        engines[n % 2].set(format!("k{n}"), n.to_string()).unwrap();
    }
    let events = engines[0].events();
    engines.push(start(node("n2").replicas(2).seeds([address(&engines[0])])));
    wait_event(&events, "placed anew", |event| {
        matches!(event, Event::PlacementChanged { members: 3 }).then_some(())
    });
    wait_event(&events, "it holds everything", |event| (*event == Event::Synced).then_some(()));
    assert_eq!(engines[0].stats().unwrap().pending_partitions, 0);
    wait_settled(&engines);
    assert!(!keys(&engines[2], "k").is_empty(), "it has its share");
}

#[test]
fn a_whole_zone_may_die_at_once() {
    let mut engines: Vec<Engine> = Vec::new();
    for (id, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")] {
        let seeds: Vec<String> = engines.first().map(address).into_iter().collect();
        engines.push(start(node(id).zone(zone).weight(50).replicas(2).seeds(seeds)));
    }
    wait_settled(&engines);
    for n in 0..200 {
        engines[n % 4].set(format!("k{n}"), n.to_string()).unwrap();
    }
    let zones: Vec<Option<String>> = engines[0].members().into_iter().map(|member| member.zone).collect();
    assert_eq!(zones, ["a", "a", "b", "b"].map(|zone| Some(zone.to_owned())));
    // Whoever is told of it looks only for the other one's copies.
    engines.drain(2..).for_each(|engine| engine.abort());
    for n in 0..200 {
        assert_eq!(engines[n % 2].get(format!("k{n}")).unwrap(), Some(n.to_string().into_bytes()));
    }
    wait_settled(&engines);
}

#[test]
fn whoever_leaves_takes_nothing_along() {
    let engines = cluster(3, |config| config.replicas(2));
    for n in 0..200 {
        engines[n % 3].set(format!("k{n}"), n.to_string()).unwrap();
    }
    engines[2].leave(LATE).unwrap();
    let left = &engines[..2];
    wait_settled(left);
    for engine in left {
        assert_eq!(keys(engine, "k").len(), 200, "with two nodes and two copies each holds all");
        for n in 0..200 {
            assert_eq!(engine.get(format!("k{n}")).unwrap(), Some(n.to_string().into_bytes()));
        }
    }
    left[0].leave(LATE).unwrap();
    left[1].leave(LATE).unwrap();
}

#[test]
fn leaving_without_time_is_dying() {
    let engines = cluster(3, |config| config.replicas(2));
    for n in 0..100 {
        engines[n % 3].set(format!("k{n}"), "v").unwrap();
    }
    let error = engines[2].leave(Duration::ZERO).unwrap_err();
    assert!(matches!(error, LeaveError::TimedOut { .. }), "{error:?}");
    assert_shut_down(&engines[2]);
    wait_settled(&engines[..2]);
    for engine in &engines[..2] {
        assert_eq!(keys(engine, "k").len(), 100);
    }
}

#[test]
fn after_a_death_the_copies_are_restored() {
    let mut engines = cluster(3, |config| config.replicas(2).cores(2));
    for n in 0..500 {
        engines[n % 3].set(format!("k{n}"), n.to_string()).unwrap();
    }
    engines.pop().unwrap().abort();
    wait_settled(&engines);
    for engine in &engines {
        assert_eq!(keys(engine, "k").len(), 500, "each of two nodes holds one of two copies");
    }
    engines.push(start(node("n3").seeds([address(&engines[1])]).replicas(2)));
    wait_settled(&engines);
    let copies: usize = engines.iter().map(|engine| keys(engine, "k").len()).sum();
    assert_eq!(copies, 1000);
    for n in 0..500 {
        assert_eq!(engines[2].get(format!("k{n}")).unwrap(), Some(n.to_string().into_bytes()));
    }
}

#[test]
fn what_only_the_dead_had_is_reported_lost() {
    let engines = cluster(2, |config| config.replicas(1));
    for n in 0..50 {
        engines[0].set(format!("k{n}"), "v").unwrap();
    }
    let events = engines[0].events();
    let held = keys(&engines[0], "k").len();
    engines[1].abort();
    let lost = wait_event(&events, "data lost", |event| match event {
        Event::DataAtRisk { partitions } => Some(*partitions),
        _ => None,
    });
    assert!(lost > 0);
    wait_settled(&engines[..1]);
    let found = (0..50).filter(|n| engines[0].contains(format!("k{n}")).unwrap()).count();
    assert_eq!(found, held);
}

#[test]
fn a_node_that_does_not_fit_is_refused_on_both_sides() {
    let engines = cluster(2, |config| config.cluster("shop"));
    let seeds = [address(&engines[0])];
    let there = engines[0].events();
    for (stranger, text) in [
        (node("x").cluster("stock"), "of cluster \"stock\""),
        (node("x").cluster("shop").replicas(2), "replicas and write_quorum must be the same"),
        (node("x").cluster("shop").write_quorum(3), "replicas and write_quorum must be the same"),
        (node("n0").cluster("shop"), "the node id \"n0\" is in use"),
    ] {
        let stranger = start(stranger.seeds(&seeds));
        let refused = |event: &Event| match event {
            Event::Refused { reason, .. } if reason.contains(text) => Some(()),
            _ => None,
        };
        wait_event(&there, text, refused);
        wait_until("the one outside knows why", || match stranger.wait_ready(Duration::from_millis(1)) {
            Err(error @ NotReady::TooFewMembers { hint: Some(_), .. }) => error.to_string().contains(text),
            _ => false,
        });
        assert_eq!(alive(&engines[0]), 2);
    }
    engines[0].set("k", "v").unwrap();
}

/// More bytes at once than the queue to one peer takes: they are sent one after the other, and no
/// connection is given up for it.
#[test]
fn many_large_writes_at_once_all_arrive() {
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

#[test]
fn expired_keys_give_their_memory_back_as_fast_as_they_come() {
    let engine = standalone();
    let options = WriteOptions::new().ttl(Duration::from_millis(20));
    for n in 0..20_000 {
        engine.set_with(format!("k{n}"), "v", &options).unwrap();
    }
    wait_until("all have expired", || engine.stats().unwrap().bytes == 0);
    assert_eq!(engine.stats().unwrap().keys, 0);
}
