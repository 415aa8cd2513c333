//! A host that answers a secured node as one without security would.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use crate::attacker::{HELLO, frame, read_frame, welcomed};
use crate::support::process::NodeProcess;
use crate::support::wait_until;
use crate::tls_attacker::{CLUSTER, OPENING_BYTES, random, read_all};
use crate::victims::{KeyFile, NODE, accept, assert_no_names, has, hello_of, listener, start_with};

/// A reason of a refusal, and its text, as rkyv has them.
fn refusal() -> Vec<u8> {
    let text = b"it is off here";
    let mut body = text.to_vec();
    body.resize(16, 0);
    // The reason: it has no security. Then a relative pointer to the text, and its length.
    body.extend([10, 0, 0, 0]);
    body.extend((-20i32).to_le_bytes());
    body.extend((text.len() as u32).to_le_bytes());
    frame(crate::attacker::REFUSED, &body)
}

/// Returns the WELCOME of a node without security.
fn welcome() -> Vec<u8> {
    let node = NodeProcess::start("plain", &["--cluster", CLUSTER]);
    let mut stream = crate::attacker::connect(node.address);
    stream.write_all(&hello_of("x")).unwrap();
    let (_, welcome) = read_frame(&mut stream).expect("a WELCOME");
    drop(welcomed(node.address, &hello_of("x")));
    welcome
}

/// Reads OPENING and what comes with it.
fn read_opening(dial: &mut TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; OPENING_BYTES + 5];
    dial.read_exact(&mut bytes).expect("OPENING, and TLS");
    bytes
}

/// Checks that these are OPENING and the handshake of TLS, with an alert perhaps.
fn assert_secured(what: &str, bytes: &[u8]) {
    assert!(bytes.starts_with(b"GKVS\x01\x01"), "{what}: {bytes:?}");
    assert_no_names(what, bytes);
    let mut rest = &bytes[OPENING_BYTES..];
    while let Some([kind, 3, _, high, low]) = rest.first_chunk() {
        // A change of ciphers, an alert, or the handshake.
        assert!((0x14..=0x16).contains(kind), "{what}: a record of type {kind}");
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        rest = rest.get(5 + length..).expect("whole records");
    }
    assert!(rest.is_empty(), "{what}: {rest:?}");
}

fn answers() -> [(&'static str, Vec<u8>); 6] {
    [
        ("a refusal", refusal()),
        ("a welcome", welcome()),
        ("HELLO", hello_of("x")),
        ("garbage", random::<200>().to_vec()),
        ("an end", Vec::new()),
        ("a reset", Vec::new()),
    ]
}

/// Answers the next dial, and returns all that came over it.
fn take(listener: &TcpListener, what: &str, answer: &[u8]) -> Vec<u8> {
    let mut dial = accept(listener);
    let mut bytes = read_opening(&mut dial);
    // It may be closed already.
    let _ = dial.write_all(answer);
    if what == "a reset" {
        SockRef::from(&dial).set_linger(Some(Duration::ZERO)).unwrap();
        return bytes;
    }
    if what == "an end" {
        let _ = dial.shutdown(std::net::Shutdown::Write);
    }
    bytes.extend(read_all(&mut dial));
    bytes
}

#[test]
fn a_node_that_requires_security_never_speaks_plainly() {
    let file = KeyFile::new();
    let (listener, seed) = listener();
    let node = start_with(&file, "a", &["--seed", &seed]);
    for (what, answer) in answers() {
        let mut bytes = take(&listener, what, &answer);
        if what == "a reset" {
            bytes.truncate(OPENING_BYTES);
        }
        assert_secured(what, &bytes);
    }
    // After all of them, too.
    let dial = take(&listener, "an end", &[]);
    assert_secured("the last", &dial);
    assert!(!node.stderr().contains("panicked"), "{}", node.stderr());
}

/// The search finds a HELLO if there is one.
#[test]
fn where_security_is_optional_a_refusal_is_followed_by_a_plain_hello() {
    let file = KeyFile::new();
    let (listener, seed) = listener();
    let node = start_with(&file, "a", &["--seed", &seed, "--security", "optional"]);
    take(&listener, "a refusal", &refusal());
    let mut plain = Vec::new();
    wait_until("it speaks plainly", || {
        let mut dial = accept(&listener);
        let first = crate::tls_attacker::read_at_most(&mut dial, 16);
        plain = first;
        if plain.starts_with(b"GKVS") {
            return false;
        }
        let length = u32::from_le_bytes(plain[..4].try_into().unwrap()) as usize;
        plain.extend(crate::tls_attacker::read_at_most(&mut dial, length));
        true
    });
    assert_eq!(plain[4], HELLO);
    assert!(has(&plain, NODE.as_bytes()) && has(&plain, CLUSTER.as_bytes()));
    drop(node);
}
