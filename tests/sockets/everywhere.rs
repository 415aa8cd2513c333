//! A copy of every key on every node.

use std::time::Duration;

use gridkv::{
    Config, ConfigError, Count, Engine, NotApplied, Quorum, ReadOptions, Replicas, WriteError,
    WriteOptions,
};

use crate::support::{address, cluster, node, processors, start, wait_settled, wait_until};

const KEYS: usize = 200;

fn all(config: Config) -> Config {
    config.replicas(Replicas::All).suspicion_timeout(Duration::from_millis(500))
}

fn name(key: usize) -> String {
    format!("key-{key}")
}

fn holds_all(engine: &Engine, value: &str) -> bool {
    let local = ReadOptions::new().local();
    let is_here = |key| {
        engine
            .get_with(name(key), &local)
            .is_ok_and(|found| found.as_deref() == Some(value.as_bytes()))
    };
    (0..KEYS).all(is_here)
}

fn write(engine: &Engine, value: &str) {
    (0..KEYS).for_each(|key| engine.set(name(key), value).unwrap());
}

#[test]
fn every_node_reads_every_key_from_its_own_memory_whoever_comes_and_goes() {
    let _processors = processors();
    let mut engines = cluster(4, all);
    write(&engines[1], "first");
    for engine in &engines {
        wait_until("a copy on every node", || holds_all(engine, "first"));
    }
    engines.remove(3).abort();
    write(&engines[0], "second");
    wait_settled(&engines);
    for engine in &engines {
        wait_until("the copies of those that are left", || holds_all(engine, "second"));
    }
    let seeds = [address(&engines[0])];
    engines.push(start(all(node("new")).seeds(seeds)));
    wait_settled(&engines);
    assert!(holds_all(&engines[3], "second"), "a newcomer is complete once it is settled");
    engines[0].wait_until_safe(Duration::from_secs(10)).unwrap();

    // Down to one.
    while engines.len() > 1 {
        engines.pop().unwrap().leave(Duration::from_secs(20)).unwrap();
        wait_settled(&engines);
        assert!(holds_all(&engines[0], "second"));
    }
    assert!(
        engines[0].wait_until_safe(Duration::from_millis(200)).is_err(),
        "all that there is is on one node"
    );
    write(&engines[0], "third");
    assert!(holds_all(&engines[0], "third"));
}

#[test]
fn quorums_follow_the_number_of_nodes() {
    let engines = cluster(3, |config| all(config).read_quorum(2));
    let every = WriteOptions::new().quorum(Quorum::All);
    engines[0].set_with("k", "v", &every).unwrap();
    for quorum in [Quorum::Configured, Quorum::Majority, Quorum::All, Quorum::Count(3)] {
        let options = ReadOptions::new().quorum(quorum);
        assert_eq!(engines[2].get_with("k", &options).unwrap().as_deref(), Some(&b"v"[..]));
    }
    let too_many = ReadOptions::new().quorum(Quorum::Count(200));
    assert!(engines[2].get_with("k", &too_many).is_err());
    for quorum in [Quorum::Count(1), Quorum::Count(3)] {
        let error = engines[0].set_with("k", "v", &WriteOptions::new().quorum(quorum)).unwrap_err();
        assert!(matches!(error, WriteError::NotApplied(NotApplied::BadQuorum { .. })));
        assert!(error.to_string().contains("ask for Quorum::Configured or Quorum::All"), "{error}");
    }
}

#[test]
fn settings_that_make_no_sense_are_refused_in_clear_words() {
    let error = |config: Config| match Engine::start(config) {
        Err(gridkv::StartError::Config(error)) => error,
        other => panic!("{other:?}"),
    };
    let config = || node("a").replicas(Replicas::All);
    assert_eq!(error(config().write_quorum(2)), ConfigError::WriteQuorumOfAll);
    assert_eq!(
        error(config().unacknowledged(17)),
        ConfigError::BadUnacknowledged { unacknowledged: 17 }
    );
    let too_many = ConfigError::TooManyUnacknowledged { unacknowledged: 2, read_quorum: 2 };
    assert_eq!(error(config().unacknowledged(2).read_quorum(2)), too_many);
    let without = ConfigError::UnacknowledgedWithoutAll { replicas: Count::Exactly(3) };
    assert_eq!(error(node("a").unacknowledged(1)), without);
    assert_eq!(error(config().expect(0)), ConfigError::BadExpect { nodes: 0 });

    // A number on one node, and all on the other.
    let one = start(all(node("one")));
    let other = start(node("other").replicas(3).seeds([address(&one)]));
    wait_until("they refuse each other", || {
        let error = other.wait_ready(Duration::from_millis(10)).unwrap_err().to_string();
        error.contains("Replicas::All") && error.contains("N = 3")
    });
}
