//! Hosts that send what comes before frames a byte at a time.

use std::io::Write;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::attacker::{MEMBERS, connect, connect_from, frame, is_closed};
use crate::support::process::wait_settled;
use crate::support::{memory_kib, wait_until};
use crate::tls_attacker::{OwnKey, ProofParts, Session, welcomed};
use crate::victims::{Victims, hello_of};

/// An address of this host at which no node is.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 7);

/// How many connections come with one recorded OPENING.
const FLOOD: usize = 300;

/// What they may cost while they are held: sessions for as many as one address may have, and what
/// the allocator keeps.
const MOST_MEMORY_KIB: usize = 16 << 10;

/// How many connections take their time.
const SLOW: usize = 20;

/// For how long a node waits for all that comes before its welcome is two seconds; the rest is for
/// a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(8);

#[test]
fn an_opening_and_a_client_hello_of_a_byte_at_a_time_are_not_waited_for() {
    let mut victims = Victims::start(2);
    let key = OwnKey::new();
    let opening = victims.keys().opening(&key.hash);
    let client_hello = key.client_hello();
    // Half of them send OPENING slowly; the others send it at once, and then TLS slowly.
    let mut streams: Vec<_> = (0..SLOW).map(|_| connect(victims.target())).collect();
    let (_, of_tls) = streams.split_at_mut(SLOW / 2);
    of_tls.iter_mut().for_each(|stream| stream.write_all(&opening).unwrap());
    // These have the key, and say nothing more after TLS, and after PROOF.
    let open = || Session::open(victims.target(), &opening, &key).expect("the key opens");
    let after_tls = open();
    let mut after_proof = open();
    let proof = ProofParts::right(&victims.keys(), &key, &after_proof, &hello_of("x"));
    after_proof.send(&proof.frame());
    streams.extend([after_tls.stream, after_proof.stream]);
    let start = Instant::now();
    let mut sent = 0;
    let mut joined = None;
    wait_until("all are closed", || {
        if sent < start.elapsed().as_secs() as usize + 1 {
            for (number, stream) in streams[..SLOW].iter_mut().enumerate() {
                let bytes = if number < SLOW / 2 { &opening[..] } else { &client_hello };
                // It may be closed already.
                let _ = stream.write_all(&bytes[sent..=sent]);
            }
            sent += 1;
        }
        joined.get_or_insert_with(|| victims.join("d", &victims.nodes[0].seed()));
        streams.iter_mut().all(is_closed)
    });
    assert!(start.elapsed() < ENDS_WITHIN, "{:?}", start.elapsed());
    victims.nodes.extend(joined);
    wait_settled(&mut victims.nodes);
    let leaver = victims.nodes.pop().expect("it joined");
    assert!(leaver.end().success());
    victims.assert_again();
}

/// Each of them costs the node a key agreement and a signature, and the memory of a session.
#[test]
fn recorded_openings_in_great_numbers_keep_no_node_out() {
    let mut victims = Victims::start(2);
    let key = OwnKey::new();
    let opening = victims.keys().opening(&key.hash);
    let bytes = [&opening[..], &key.client_hello()].concat();
    let memory = memory_kib(&victims.nodes[0]);
    let mut streams = Vec::new();
    for _ in 0..FLOOD {
        let mut stream = connect_from(ATTACKER, victims.target()).expect("it listens");
        // It may be closed already.
        let _ = stream.write_all(&bytes);
        streams.push(stream);
    }
    victims.nodes.push(victims.join("d", &victims.nodes[0].seed()));
    wait_settled(&mut victims.nodes);
    let more = memory_kib(&victims.nodes[0]).saturating_sub(memory);
    println!("{FLOOD} recorded openings cost {more} KiB");
    assert!(more < MOST_MEMORY_KIB, "{more} KiB");
    wait_until("all are closed", || streams.iter_mut().all(is_closed));
    let leaver = victims.nodes.pop().expect("it joined");
    assert!(leaver.end().success());
    victims.assert_again();
}

#[test]
fn a_record_that_is_begun_and_not_ended_is_not_waited_for() {
    let victims = Victims::start(2);
    let key = OwnKey::new();
    let (mut session, _) = welcomed(victims.target(), &victims.keys(), &key, &hello_of("x"));
    let sealed = session.sealed(&frame(MEMBERS, &[0; 16_000]));
    session.stream.write_all(&sealed[..sealed.len() / 2]).unwrap();
    wait_until("it is closed", || is_closed(&mut session.stream));
    victims.assert_again();
}
