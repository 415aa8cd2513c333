//! Hosts that have the key, and end their connections in the wrong place.

use std::io::Write;
use std::net::Shutdown;

use crate::attacker::{ASK_MEMBERS, MEMBERS, frame};
use crate::tls_attacker::{OwnKey, welcomed};
use crate::victims::{Victims, hello_of};

#[test]
fn a_connection_that_is_cut_in_any_place_of_tls_harms_no_node() {
    let mut victims = Victims::start(2);
    let (target, keys, key, hello) =
        (victims.target(), victims.keys(), OwnKey::new(), hello_of("x"));
    let welcomed = || welcomed(target, &keys, &key, &hello).0;
    let question = frame(ASK_MEMBERS, &[]);

    // Inside a record: at its header, in its body, before its last byte.
    for cut in [1, 5, 6, 20] {
        let mut session = welcomed();
        let sealed = session.sealed(&question);
        session.stream.write_all(&sealed[..cut]).unwrap();
        session.stream.shutdown(Shutdown::Write).unwrap();
        session.until_closed();
    }
    // Between records, with half of a frame in one.
    for length in [0, 8, 16] {
        let mut session = welcomed();
        session.send(&frame(MEMBERS, &[0; 64])[..length]);
        session.stream.shutdown(Shutdown::Write).unwrap();
        session.until_closed();
    }
    // After it has said that no more comes, with more behind it.
    for more in [&[][..], &question] {
        let mut session = welcomed();
        session.tls.send_close_notify();
        session.flush().unwrap();
        // It may be closed already.
        let _ = session.stream.write_all(more);
        session.until_closed();
    }
    // Records that are none.
    for garbage in [&[0x17, 3, 3, 0, 32][..], &[0x17, 3, 3, 0xff, 0xff], b"GKVS", &[0x16; 64]] {
        let mut session = welcomed();
        let _ = session.stream.write_all(&[garbage, &[0xee; 64]].concat());
        session.until_closed();
    }
    // A record that was altered.
    let mut session = welcomed();
    let mut sealed = session.sealed(&question);
    sealed[10] ^= 1;
    session.stream.write_all(&sealed).unwrap();
    session.until_closed();

    // One that stops in the middle of a large record, for good, while others are served.
    let mut held = welcomed();
    let sealed = held.sealed(&frame(MEMBERS, &[0; 16_000]));
    held.stream.write_all(&sealed[..sealed.len() / 2]).unwrap();
    for node in &mut victims.nodes {
        node.ok("set k v");
    }
    drop(held);
    victims.assert_again();
}
