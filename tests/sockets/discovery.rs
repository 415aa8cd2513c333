//! How nodes find each other: names, what an app brings, IPv6, and addresses that differ from those
//! listened on.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use gridkv::{Config, Engine, Event, MemberState, NotReady};

use crate::support::{address, alive, node, start, wait_event, wait_settled, wait_until};

/// A node that listens there; silence is no sign of death for a while.
fn node_at(id: &str, address: &str) -> Config {
    Config::new(id, address).suspicion_timeout(Duration::from_secs(5)).replicas(2)
}

fn hint(engine: &Engine) -> Option<String> {
    match engine.wait_ready(Duration::ZERO) {
        Err(NotReady::TooFewMembers { hint, .. }) => hint,
        _ => None,
    }
}

#[test]
fn a_seed_may_be_a_name() {
    let first = start(node("first").replicas(2));
    let port = first.address().unwrap().port();
    let second = start(node("second").replicas(2).seeds([format!("localhost:{port}")]));
    wait_settled(&[first, second]);
}

#[test]
fn a_name_that_cannot_be_looked_up_is_in_the_error() {
    // Too long for a name server to be asked.
    let seed = format!("{}.example:8001", "x".repeat(64));
    let engine = start(node("lonely").replicas(2).seeds([&seed]));
    wait_until("the name is in the error", || {
        hint(&engine).is_some_and(|hint| hint.contains(&format!("the seed {seed:?}: ")))
    });
}

#[test]
fn what_an_app_finds_becomes_seeds() {
    let listed: Arc<Mutex<Result<Vec<SocketAddr>, String>>> =
        Arc::new(Mutex::new(Err("no registry".into())));
    let first = start(node("first").replicas(2));
    let asked = listed.clone();
    let discovery = move || asked.lock().unwrap().clone().map_err(Into::into);
    let second = start(node("second").replicas(2).discovery(discovery));
    wait_until("the failure is known", || {
        hint(&second)
            .is_some_and(|hint| hint == "looking for nodes failed: Config::discovery: no registry")
    });
    assert_eq!(alive(&second), 1);
    *listed.lock().unwrap() = Ok(vec![second.address().unwrap(), first.address().unwrap()]);
    let engines = [first, second];
    wait_settled(&engines);
    assert_eq!(hint(&engines[1]), None);
}

/// Resolving may take a minute, and a node does not wait for it.
#[test]
fn a_discovery_that_hangs_holds_nothing_up() {
    let (sender, hangs) = std::sync::mpsc::channel::<()>();
    let hangs = Mutex::new(hangs);
    let first = start(node("first").replicas(2));
    let discovery = move || {
        let _ = hangs.lock().unwrap().recv();
        Ok(Vec::new())
    };
    let second = start(node("second").replicas(2).seeds([address(&first)]).discovery(discovery));
    let engines = [first, second];
    wait_until("they see each other", || engines.iter().all(|engine| alive(engine) == 2));
    drop(engines);
    drop(sender);
}

fn has_ipv6() -> bool {
    let has = TcpListener::bind("[::1]:0").is_ok();
    if !has {
        eprintln!("skipped: this machine has no IPv6");
    }
    has
}

#[test]
fn ipv6_nodes_form_a_cluster() {
    if !has_ipv6() {
        return;
    }
    let first = start(node_at("first", "[::1]:0"));
    let second = start(node_at("second", "[::1]:0").seeds([address(&first)]));
    let engines = [first, second];
    wait_settled(&engines);
    engines[0].set("key", "value").unwrap();
    assert_eq!(engines[1].get("key").unwrap().as_deref(), Some(&b"value"[..]));
}

/// One listens on all addresses of both families, the others on one each.
#[test]
fn a_dual_stack_node_talks_to_both_families() {
    if !has_ipv6() {
        return;
    }
    let dual = start(node_at("dual", "[::]:0").advertise("127.0.0.1:0"));
    assert_eq!(dual.address().unwrap().ip().to_string(), "127.0.0.1");
    let v4 = start(node_at("v4", "127.0.0.1:0").seeds([address(&dual)]));
    let engines = [dual, v4];
    wait_settled(&engines);
    engines[1].set("key", "value").unwrap();
    assert_eq!(engines[0].get("key").unwrap().as_deref(), Some(&b"value"[..]));
}

#[test]
#[cfg(target_os = "linux")]
fn others_use_the_address_that_is_advertised() {
    // All of 127/8 is this machine, on Linux.
    let first = start(node_at("first", "0.0.0.0:0").advertise("127.0.0.2:0"));
    let second =
        start(node_at("second", "0.0.0.0:0").advertise("127.0.0.3:0").seeds([address(&first)]));
    let engines = [first, second];
    wait_settled(&engines);
    for engine in &engines {
        let mut addresses: Vec<String> =
            engine.members().iter().map(|it| it.address.ip().to_string()).collect();
        addresses.sort();
        assert_eq!(addresses, ["127.0.0.2", "127.0.0.3"]);
    }
    wait_until("round trips are measured", || {
        engines
            .iter()
            .all(|engine| engine.members().iter().all(|it| it.round_trip.is_some() != it.is_self))
    });
}

/// What the node says of itself once another one could not reach it, as an event and as an error.
fn unreachable(engine: &Engine, advertised: SocketAddr) -> String {
    let events = engine.events();
    let reason = wait_event(&events, "it is not reached", |event| match event {
        Event::Unreachable { by, address, reason } => {
            assert_eq!((by.as_str(), *address), ("first", advertised));
            Some(reason.clone())
        }
        _ => None,
    });
    wait_until("the error says so, too", || {
        hint(engine).is_none_or(|hint| hint == format!("first does not reach this node: {reason}"))
    });
    reason
}

#[test]
fn a_node_that_nobody_reaches_is_told_so() {
    let first = start(node("first").replicas(2));
    // No socket listens there any more.
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let second =
        start(node("second").replicas(2).advertise(nowhere.to_string()).seeds([address(&first)]));
    let reason = unreachable(&second, nowhere);
    assert!(reason.contains("nobody listens") && reason.contains("Config::advertise"), "{reason}");
}

/// Passes connections on, and no datagrams, as a firewall may.
fn forward_tcp(to: impl Fn() -> SocketAddr + Send + 'static) -> SocketAddr {
    fn copy(mut from: TcpStream, mut to: TcpStream) -> io::Result<()> {
        let mut buffer = [0; 1 << 12];
        loop {
            match from.read(&mut buffer)? {
                0 => return to.shutdown(Shutdown::Write),
                read => to.write_all(&buffer[..read])?,
            }
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for accepted in listener.incoming() {
            let (Ok(accepted), Ok(connected)) = (accepted, TcpStream::connect(to())) else {
                continue;
            };
            let (back, forth) = (accepted.try_clone().unwrap(), connected.try_clone().unwrap());
            thread::spawn(move || copy(accepted, connected));
            thread::spawn(move || copy(forth, back));
        }
    });
    address
}

#[test]
fn a_node_whose_datagrams_are_dropped_is_told_so() {
    let first = start(node("first").replicas(2));
    let real: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
    let to = real.clone();
    let advertised =
        forward_tcp(move || to.lock().unwrap().expect("it is known before anybody connects"));
    // Swallows what would be refused if no socket were there.
    let _silent = UdpSocket::bind(advertised).unwrap();
    // A number that is free now may be taken a moment later.
    let started = (0..10).find_map(|_| {
        let listens = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        *real.lock().unwrap() = Some(listens);
        let config =
            Config::new("second", listens.to_string()).suspicion_timeout(Duration::from_secs(5));
        let config = config.replicas(2).advertise(advertised.to_string()).seeds([address(&first)]);
        Engine::start(config).ok()
    });
    let second = started.expect("one of ten numbers is free");
    let reason = unreachable(&second, advertised);
    assert!(reason.contains("TCP") && reason.contains("no UDP datagram is answered"), "{reason}");
}

/// Whether a node sees the node of this id active at this address.
fn sees_at(engine: &Engine, id: &str, address: SocketAddr) -> bool {
    let is_active = |state| matches!(state, MemberState::Alive | MemberState::Suspect);
    engine
        .members()
        .iter()
        .any(|it| it.id.as_str() == id && it.address == address && is_active(it.state))
}

#[test]
#[cfg(target_os = "linux")]
fn a_second_node_of_one_id_is_refused_until_the_first_one_is_gone() {
    let first = start(node("first").replicas(2));
    let second = start(node("second").replicas(2).seeds([address(&first)]));
    let engines = [first, second];
    wait_settled(&engines);
    let there = engines[0].events();
    let twin = start(node_at("second", "127.0.0.2:0").seeds([address(&engines[0])]));
    let both = [engines[1].address().unwrap(), twin.address().unwrap()];
    let says_so = |text: &str| {
        text.contains("needs an id of its own")
            && both.iter().all(|it| text.contains(&it.to_string()))
    };
    for events in [there, twin.events()] {
        wait_event(&events, "a refusal that names both", |event| match event {
            Event::Refused { reason, .. } if says_so(reason) => Some(()),
            _ => None,
        });
    }
    wait_until("the error says so, too", || hint(&twin).is_some_and(|hint| says_so(&hint)));
    assert!(sees_at(&engines[0], "second", both[0]) && alive(&engines[0]) == 2);
    let [first, second] = engines;
    second.abort();
    drop(second);
    wait_until("the other one is let in", || sees_at(&first, "second", both[1]));
    wait_settled(&[first, twin]);
}
