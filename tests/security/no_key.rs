//! Hosts that have no cluster key, or a recording, or the key and say something wrong.

use std::io::Write;
use std::net::SocketAddr;

use crate::attacker::{REFUSED, WELCOME, connect};
use crate::tls_attacker::{
    ClusterKeys, MAC_AT, OPENING_BYTES, OwnKey, PROOF, ProofParts, Session, random, read_all,
    read_at_most, welcomed,
};
use crate::victims::{NODE, Victims, accept, assert_no_names, has, hello_of, listener};

/// Sends this, and returns all that is answered until the connection is closed.
fn answer(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(to);
    // It may be closed already.
    let _ = stream.write_all(bytes);
    read_all(&mut stream)
}

/// Checks that one refusal came, or nothing.
fn assert_refused(what: &str, answer: &[u8]) {
    assert_no_names(what, answer);
    let Some(first) = answer.first_chunk::<16>() else {
        assert!(answer.is_empty(), "{what}: {answer:?}");
        return;
    };
    let length = u32::from_le_bytes(first[..4].try_into().unwrap()) as usize;
    let is_whole = answer.len() == 16 + length.next_multiple_of(16);
    assert!(first[4] == REFUSED && is_whole, "{what}: {answer:?}");
}

#[test]
fn who_has_no_key_gets_no_further_than_the_opening() {
    let victims = Victims::start(2);
    let (target, key, keys) = (victims.target(), OwnKey::new(), victims.keys());
    let (_, welcome) = welcomed(target, &keys, &key, &hello_of("x"));
    let hello = hello_of("x");
    let opening = keys.opening(&key.hash);
    let other = ClusterKeys::of(&random()).opening(&key.hash);
    let mut no_mac = opening;
    no_mac[MAC_AT..].copy_from_slice(&random::<32>());
    let client_hello = key.client_hello();
    let opened = keys.opened(&opening, &key.hash);
    for (what, bytes) in [
        ("a plain HELLO", &hello[..]),
        ("a plain WELCOME", &welcome),
        ("an OPENING with a random MAC", &no_mac),
        ("an OPENING with another key", &other),
        ("an OPENED", &opened),
        ("TLS without OPENING", &client_hello),
        ("OPENING and HELLO", &[&no_mac[..], &hello].concat()),
    ] {
        assert_refused(what, &answer(target, bytes));
    }
    for at in 0..OPENING_BYTES {
        let mut flipped = opening;
        flipped[at] ^= 1 << (at % 8);
        assert_refused(&format!("byte {at} of OPENING"), &answer(target, &flipped));
    }
    victims.assert_again();
}

#[test]
fn a_recorded_opening_gets_the_servers_flight_and_nothing_more() {
    let victims = Victims::start(2);
    let (listener, seed) = listener();
    let node = victims.join("recorded", &seed);
    let recorded = read_at_most(&mut accept(&listener), OPENING_BYTES);
    drop(node);
    assert!(recorded.starts_with(b"GKVS"));
    let key = OwnKey::new();
    for hello in [false, true] {
        let mut session = Session::open(victims.target(), &recorded, &key).expect("its key opens");
        assert!(session.is_established());
        if hello {
            session.send(&hello_of("x"));
        }
        let kinds = session.until_closed();
        assert!(kinds.iter().all(|kind| *kind == REFUSED), "{kinds:?}");
        assert_no_names("a recorded OPENING", &session.seen);
    }
    // What was flipped of the handshake ends it.
    let mut flight = key.client_hello();
    for at in (0..flight.len()).step_by(16) {
        flight[at] ^= 0x40;
        let bytes = [&recorded[..], &flight].concat();
        flight[at] ^= 0x40;
        let mut stream = connect(victims.target());
        stream.write_all(&bytes).unwrap();
        let _ = stream.shutdown(std::net::Shutdown::Write);
        assert_no_names("a flipped ClientHello", &read_all(&mut stream));
    }
    victims.assert_again();
}

/// What a host with the cluster key sends once TLS is up.
type Says = fn(&ClusterKeys, &OwnKey, &Session) -> Vec<u8>;

fn right(keys: &ClusterKeys, key: &OwnKey, session: &Session) -> ProofParts {
    ProofParts::right(keys, key, session, &hello_of("x"))
}

/// What is wrong, a part of the refusal if there is one, and the frames. The HELLO of a host that
/// is no victim follows them.
const WRONG: [(&str, &str, Says); 12] = [
    ("HELLO without PROOF", "sends no proof", |_, _, _| hello_of("x")),
    ("PROOF of zeros", "", |_, _, _| crate::attacker::frame(PROOF, &[0; 240])),
    ("PROOF with a MAC of zeros", "proof of the cluster key is wrong", |keys, key, session| {
        ProofParts { mac: vec![0; 32], ..right(keys, key, session) }.frame()
    }),
    ("PROOF of another session", "proof of the cluster key is wrong", |keys, key, session| {
        // The MAC of another exporter.
        let other = ClusterKeys::of(&random());
        let mac = ProofParts::right(&other, key, session, &hello_of("x")).mac;
        ProofParts { mac, ..right(keys, key, session) }.frame()
    }),
    ("PROOF of the other role", "proof of the cluster key is wrong", |keys, key, session| {
        ProofParts::reflected(keys, key, session, &hello_of("x")).frame()
    }),
    (
        "the introduction of another node's key",
        "introduction is not signed",
        |keys, key, session| {
            let other = OwnKey::new();
            let theirs = right(keys, &other, session);
            let mac = right(keys, key, session).mac;
            ProofParts { mac, ..theirs }.frame()
        },
    ),
    (
        "an introduction signed by another key",
        "introduction is not signed",
        |keys, key, session| {
            let signature = right(keys, &OwnKey::new(), session).signature;
            ProofParts { signature, ..right(keys, key, session) }.frame()
        },
    ),
    ("an introduction of another life", "introduction is not signed", |keys, key, session| {
        let mut proof = right(keys, key, session);
        proof.identity[8] ^= 1;
        proof.frame()
    }),
    ("flags that are not signed", "introduction is not signed", |keys, key, session| {
        ProofParts { flags: 3, ..right(keys, key, session) }.frame()
    }),
    ("another key id", "proves the cluster key", |keys, key, session| {
        ProofParts { key_id: [7; 4], ..right(keys, key, session) }.frame()
    }),
    ("a signature of the session", "signs what is to be signed", |keys, key, session| {
        ProofParts { session_signature: vec![1; 64], ..right(keys, key, session) }.frame()
    }),
    ("HELLO of another node", "", |keys, key, session| {
        [right(keys, key, session).frame(), hello_of("y")].concat()
    }),
];

#[test]
fn with_the_key_each_wrong_proof_is_refused_and_the_right_one_welcome() {
    let victims = Victims::start(2);
    let (target, keys, key) = (victims.target(), victims.keys(), OwnKey::new());
    let hello = hello_of("x");
    for (what, refusal, says) in WRONG {
        let mut session =
            Session::open(target, &keys.opening(&key.hash), &key).expect("the key opens");
        let first = says(&keys, &key, &session);
        session.send(&[first, hello.clone()].concat());
        let kinds = session.until_closed();
        assert!(!kinds.contains(&WELCOME), "{what}: {kinds:?}");
        // A right PROOF can be answered before the HELLO behind it is looked at.
        assert!(!kinds.contains(&PROOF) || what == "HELLO of another node", "{what}: {kinds:?}");
        assert!(has(&session.seen, refusal.as_bytes()), "{what}: it is not refused for that");
        assert_no_names(what, &session.seen);
    }
    let (mut twice, welcome) = welcomed(target, &keys, &key, &hello);
    assert!(has(&welcome, NODE.as_bytes()), "a WELCOME has the name");
    let proof = right(&keys, &key, &twice).frame();
    twice.send(&proof);
    assert!(!twice.until_closed().contains(&WELCOME));
    victims.assert_again();
}

/// A node's own key that TLS proves, and OPENING does not name.
#[test]
fn another_key_than_the_one_that_was_named_is_refused() {
    let victims = Victims::start(2);
    let (keys, key) = (victims.keys(), OwnKey::new());
    let opening = keys.opening(&OwnKey::new().hash);
    let mut session = Session::open(victims.target(), &opening, &key).expect("the key opens");
    let proof = right(&keys, &key, &session).frame();
    session.send(&[proof, hello_of("x")].concat());
    assert_eq!(session.until_closed(), [REFUSED]);
    assert_no_names("another key", &session.seen);
    victims.assert_again();
}

#[test]
fn a_node_that_is_full_does_not_tell_its_name_to_a_host_without_the_key() {
    let victims = Victims::start_with(2, &["--max-connections", "32"]);
    let (target, keys, key) = (victims.target(), victims.keys(), OwnKey::new());
    let hello = hello_of("x");
    let mut held = Vec::new();
    let said = loop {
        let said = match Session::open(target, &keys.opening(&key.hash), &key) {
            Err(said) => said,
            Ok(mut session) => {
                let proof = right(&keys, &key, &session).frame();
                session.send(&[&proof[..], &hello].concat());
                assert_eq!(session.next_frame().map(|frame| frame.0), Some(PROOF));
                assert_eq!(session.next_frame().map(|frame| frame.0), Some(WELCOME));
                held.push(session);
                Vec::new()
            }
        };
        if !said.is_empty() || held.len() > 32 {
            break said;
        }
    };
    assert!(held.len() <= 32, "it is never full");
    assert_refused("it is full", &said);
    drop(held);
    victims.assert_again();
}

/// The key of the cluster is there, and TLS is not the one that nodes speak.
#[test]
fn tls_that_is_weaker_than_that_of_nodes_is_refused() {
    let victims = Victims::start(2);
    let (target, keys, key) = (victims.target(), victims.keys(), OwnKey::new());
    for (what, tls) in [
        ("no protocol", key.client_that_speaks(&[])),
        ("another protocol", key.client_that_speaks(&[b"h2"])),
        ("no key", OwnKey::client_without_key()),
    ] {
        let opening = keys.opening(&key.hash);
        let mut session = match Session::begin(target, &opening, tls) {
            Ok((session, _)) => session.established(),
            // An alert can come before OPENED.
            Err(said) => {
                assert_no_names(what, &said);
                assert!(said.is_empty() || matches!(said[0], 0x14..=0x16), "{what}: {said:?}");
                continue;
            }
        };
        if session.is_established() {
            session.send(&hello_of("x"));
        }
        let kinds = session.until_closed();
        assert!(kinds.is_empty(), "{what}: {kinds:?}");
        assert_no_names(what, &session.seen);
    }
    // TLS 1.3 is all that is offered: here 1.2 is, in its place.
    let mut older = key.client_hello();
    let offer = [0, 0x2b, 0, 3, 2, 3, 4];
    let at = older.windows(offer.len()).position(|here| here == offer).expect("TLS 1.3");
    older[at + offer.len() - 1] = 3;
    let answer = answer(target, &[&keys.opening(&key.hash)[..], &older].concat());
    assert_no_names("TLS 1.2", &answer);
    assert!(answer.get(OPENING_BYTES).is_none_or(|kind| *kind == 0x15), "no more than an alert");
    victims.assert_again();
}

/// An opener that is refused inside TLS takes what comes for OPENED, and cannot tell why.
#[test]
fn an_alert_comes_behind_opened() {
    let victims = Victims::start(2);
    let (keys, key) = (victims.keys(), OwnKey::new());
    let opening = keys.opening(&key.hash);
    let tls = key.client_that_speaks(&[b"h2"]);
    let begun = Session::begin(victims.target(), &opening, tls);
    assert!(begun.is_ok(), "the first byte is {:?}", begun.err().map(|said| said[0]));
    victims.assert_again();
}
