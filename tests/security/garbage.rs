//! Frames that make no sense, before and after the welcome.

use std::io::Write;

use crate::attacker::{REFUSED, WELCOME, connect, frame, is_closed, recorded_hello, welcomed};
use crate::support::process::cluster;
use crate::support::{Before, wait_until};

/// The types of messages that there are, and some that there are not.
const KINDS: std::ops::Range<u8> = 0..64;

#[test]
fn garbage_of_each_kind_ends_its_connection_and_nothing_else() {
    let hello = recorded_hello();
    let mut nodes = cluster(2, &[]);
    let before = Before::of(&nodes);
    let target = nodes[0].address;
    for kind in KINDS {
        for body in [&[0; 0][..], &[0; 512], &[0xff; 512], &[0; 4096]] {
            let garbage = frame(kind, body);
            let mut stranger = connect(target);
            let mut peer = welcomed(target, &hello);
            // Either may be closed already. A second HELLO makes no sense after any of them.
            let _ = stranger.write_all(&garbage).and_then(|()| stranger.write_all(&garbage));
            let _ = peer.write_all(&garbage).and_then(|()| peer.write_all(&hello));
            wait_until("both are closed", || is_closed(&mut stranger) && is_closed(&mut peer));
        }
    }
    before.assert_again(&mut nodes);
    let lines = nodes[0].stderr().lines().count();
    assert!(lines < 100, "{lines} lines");
}

#[test]
fn a_second_hello_and_the_wrong_direction_end_the_connection() {
    let hello = recorded_hello();
    let mut nodes = cluster(2, &[]);
    let before = Before::of(&nodes);
    let target = nodes[0].address;
    let with_kind = |kind| {
        let mut bytes = hello.clone();
        bytes[4] = kind;
        bytes
    };
    for bytes in [hello.clone(), with_kind(WELCOME), frame(REFUSED, &[0; 64])] {
        let mut peer = welcomed(target, &hello);
        peer.write_all(&bytes).unwrap();
        wait_until("it is closed", || is_closed(&mut peer));
    }
    let mut stranger = connect(target);
    stranger.write_all(&with_kind(WELCOME)).unwrap();
    wait_until("it is closed", || is_closed(&mut stranger));
    before.assert_again(&mut nodes);
}
