//! A host with a cluster key that was replaced.

use std::time::{Duration, Instant};

use crate::attacker::is_closed;
use crate::datagrams::Name;
use crate::sealed::{Stranger, wait_for};
use crate::support::wait_until;
use crate::tls_attacker::{OwnKey, Session, welcomed};
use crate::victims::{KeyFile, Victims, assert_no_names, hello_of};

/// Over how long a node ends the connections of an old key, and some time of a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// Returns the same HELLO for this core: the number is 64 bytes behind the identity's first.
fn for_core(hello: &[u8], core: u16) -> Vec<u8> {
    let (_, at) = Name::in_frame(hello);
    let mut hello = hello.to_vec();
    assert_eq!(hello[at + 64..at + 66], [0xff, 0xff], "it is for the control thread");
    hello[at + 64..at + 66].copy_from_slice(&core.to_le_bytes());
    hello
}

#[test]
fn a_replaced_key_opens_nothing_and_ends_what_it_has_opened() {
    let mut victims = Victims::start(3);
    let new = KeyFile::new();
    let (target, key, hello) = (victims.target(), OwnKey::new(), hello_of("x"));
    let (mut old, welcome) = welcomed(target, &victims.keys(), &key, &hello);
    let (mut of_core, _) = welcomed(target, &victims.keys(), &key, &for_core(&hello, 0));
    let (first, second) = (victims.file.path().to_owned(), new.path());
    for keys in [format!("{first} {second}"), format!("{second} {first}")] {
        for node in &mut victims.nodes {
            node.ok(&format!("security required {keys}"));
        }
        assert!(!is_closed(&mut old.stream), "the old key is accepted still");
        welcomed(target, &victims.keys(), &key, &hello);
        welcomed(target, &new.keys(), &key, &hello);
    }
    for node in &mut victims.nodes {
        let last = format!("security required {second}");
        wait_until("no member uses the old key", || node.ask(&last) == "ok");
    }
    let since = Instant::now();
    let opening = victims.keys().opening(&key.hash);
    let said = Session::open(target, &opening, &key).err().expect("the old key is refused");
    assert_no_names("a refusal of the old key", &said);
    let first = Name::in_frame(&welcome).0;
    let old_stranger = Stranger::new(1);
    let datagram = victims.keys().sealer().seal(&old_stranger.announce(first), first.addr);
    old_stranger.send(first, &datagram);
    wait_for(&mut new.keys().sealer(), first, 2);
    assert!(!old_stranger.is_dialled(), "the old key opens no datagram");
    wait_until("what the old key opened is closed", || {
        is_closed(&mut old.stream) && is_closed(&mut of_core.stream)
    });
    println!("it was closed after {:?}", since.elapsed());
    assert!(since.elapsed() < ENDS_WITHIN);
    let (mut present, _) = welcomed(target, &new.keys(), &key, &hello);
    for node in &mut victims.nodes {
        node.ok("set k v");
    }
    assert!(!is_closed(&mut present.stream), "the new key stays");
    victims.assert_again();
}
