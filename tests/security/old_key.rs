//! A host with a cluster key that was replaced.

use std::time::{Duration, Instant};

use crate::attacker::is_closed;
use crate::support::wait_until;
use crate::tls_attacker::{OwnKey, Session, welcomed};
use crate::victims::{KeyFile, Victims, assert_no_names, hello_of};

/// Over how long a node ends the connections of an old key, and some time of a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn a_replaced_key_opens_nothing_and_ends_what_it_has_opened() {
    let mut victims = Victims::start(3);
    let new = KeyFile::new();
    let (target, key, hello) = (victims.target(), OwnKey::new(), hello_of("x"));
    let (mut old, _) = welcomed(target, &victims.keys(), &key, &hello);
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
        node.ok(&format!("security required {second}"));
    }
    let since = Instant::now();
    let opening = victims.keys().opening(&key.hash);
    let said = Session::open(target, &opening, &key).err().expect("the old key is refused");
    assert_no_names("a refusal of the old key", &said);
    wait_until("what the old key opened is closed", || is_closed(&mut old.stream));
    println!("it was closed after {:?}", since.elapsed());
    assert!(since.elapsed() < ENDS_WITHIN);
    let (mut present, _) = welcomed(target, &new.keys(), &key, &hello);
    for node in &mut victims.nodes {
        node.ok("set k v");
    }
    assert!(!is_closed(&mut present.stream), "the new key stays");
    victims.assert_again();
}
