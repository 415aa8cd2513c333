//! How an engine starts, or says why not, and what callers hear when it stops.

use std::net::{TcpListener, UdpSocket};
use std::thread;
use std::time::Instant;

use gridkv::{
    Config, ConfigError, Engine, Error, LeaveError, NotApplied, NotReady, ReadError, StartError,
};

use crate::support::{
    LATE, alive, assert_shut_down, cluster, node, not_applied, start, wait_until,
};

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
    let error = Engine::start(Config::new("b", crate::support::address(&engine))).unwrap_err();
    assert!(matches!(error, StartError::AddressInUse { .. }));
    let address = crate::support::address(&engine);
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
        let mut engines: Vec<Option<Engine>> =
            cluster(3, |config| config).into_iter().map(Some).collect();
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
