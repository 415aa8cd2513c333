//! Hosts that send what comes before frames a byte at a time.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::attacker::{connect, is_closed};
use crate::support::process::wait_settled;
use crate::support::wait_until;
use crate::tls_attacker::OwnKey;
use crate::victims::Victims;

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
    let start = Instant::now();
    let mut sent = 0;
    let mut joined = None;
    wait_until("all are closed", || {
        if sent < start.elapsed().as_secs() as usize + 1 {
            for (number, stream) in streams.iter_mut().enumerate() {
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
