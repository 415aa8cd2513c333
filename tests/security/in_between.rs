//! A host that stands between two nodes, without the cluster key: it speaks TLS with both.

use std::io::Write;
use std::net::TcpStream;

use crate::attacker::{HELLO, REFUSED};
use crate::tls_attacker::{OPENING_BYTES, OwnKey, PROOF, Session, random, read_all, read_at_most};
use crate::victims::{KeyFile, Victims, accept, assert_no_names, listener, start_with};

/// Answers a dial with this and TLS of its own, and returns what the opener said inside and
/// outside of TLS.
fn terminate(mut dial: TcpStream, opened: &[u8], key: &OwnKey) -> Session {
    dial.write_all(opened).unwrap();
    let mut session = Session::over(dial, key.server()).established();
    while session.next_frame().is_some() {}
    session.seen.extend(read_all(&mut session.stream));
    session
}

#[test]
fn an_opener_says_nothing_inside_tls_to_a_host_without_the_key() {
    let file = KeyFile::new();
    let (listener, seed) = listener();
    let node = start_with(&file, "a", &["--seed", &seed]);
    let key = OwnKey::new();
    let keys = file.keys();
    let mut before: Option<Vec<u8>> = None;
    for what in ["nothing", "random", "no MAC", "its own OPENING", "as OPENED", "an earlier one"] {
        let mut dial = accept(&listener);
        let opening = read_at_most(&mut dial, OPENING_BYTES);
        assert!(opening.starts_with(b"GKVS\x01\x01"));
        let right = keys.opened(&opening, &key.hash).to_vec();
        let mut opened = right.clone();
        match what {
            "nothing" => opened.clear(),
            "random" => opened = random::<OPENING_BYTES>().to_vec(),
            "no MAC" => opened[72..].fill(0),
            "its own OPENING" => opened = opening,
            "as OPENED" => {
                opened = opening;
                opened[5] = 2;
            }
            _ => opened = before.clone().expect("there was one"),
        }
        before = Some(right);
        let session = terminate(dial, &opened, &key);
        let plain = String::from_utf8_lossy(&session.plain);
        assert!(session.plain.is_empty(), "{what}: {plain}");
        assert_no_names(what, &session.seen);
    }
    // One that has the key hears it: what came is looked at in the right way.
    let mut dial = accept(&listener);
    let opening = read_at_most(&mut dial, OPENING_BYTES);
    dial.write_all(&keys.opened(&opening, &key.hash)).unwrap();
    let mut session = Session::over(dial, key.server()).established();
    let kinds = [session.next_frame(), session.next_frame()].map(|frame| frame.map(|it| it.0));
    assert_eq!(kinds, [Some(PROOF), Some(HELLO)]);
    assert!(!node.stderr().contains("panicked"), "{}", node.stderr());
}

#[test]
fn two_tls_sessions_with_one_host_in_between_come_to_nothing() {
    let victims = Victims::start(2);
    let (listener, seed) = listener();
    let opener = victims.join("opener", &seed);
    let key = OwnKey::new();
    let mut dial = accept(&listener);
    let opening = read_at_most(&mut dial, OPENING_BYTES);
    let (acceptor, opened) =
        Session::begin(victims.target(), &opening, key.client()).expect("OPENING is right");
    let mut acceptor = acceptor.established();
    assert!(acceptor.is_established());
    let session = terminate(dial, &opened, &key);
    assert!(session.plain.is_empty(), "{}", String::from_utf8_lossy(&session.plain));
    assert_no_names("the opener", &session.seen);
    assert_eq!(acceptor.until_closed(), [REFUSED]);
    assert_no_names("the acceptor", &acceptor.seen);
    drop(opener);
    victims.assert_again();
}
