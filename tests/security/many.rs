//! Connections in great numbers.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::attacker::{
    REFUSED, WELCOME, connect, connect_from, frame, is_closed, read_frame, recorded_hello,
};
use crate::support::process::{NodeProcess, cluster, wait_settled};
use crate::support::{Before, descriptors, wait_until};

/// An address of this host at which no node is.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 7);

/// How many silent connections the flood keeps open.
const FLOOD: usize = 400;

/// How many connections of one address may wait for their welcome.
const STRANGERS_PER_ADDRESS: usize = 64;

/// How many connections come one after the other.
const ONE_AFTER_THE_OTHER: usize = 5000;

#[test]
fn a_node_joins_while_one_address_floods_the_cluster_with_connections() {
    let mut nodes = cluster(2, &[]);
    let before = Before::of(&nodes);
    let fds_before = descriptors(&nodes[0]);
    let (is_over, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let target = nodes[0].address;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut held = std::collections::VecDeque::new();
            while !is_over.load(Ordering::Relaxed) {
                if let Ok(stream) = connect_from(ATTACKER, target) {
                    held.push_back(stream);
                    made.fetch_add(1, Ordering::Relaxed);
                }
                if held.len() > FLOOD {
                    held.pop_front();
                }
            }
        });
        let _over = Over(&is_over);
        wait_until("the flood has begun", || made.load(Ordering::Relaxed) > FLOOD);
        let seed = nodes[0].seed();
        nodes.push(NodeProcess::start("c", &["--seed", &seed]));
        wait_settled(&mut nodes);
        let fds = descriptors(&nodes[0]);
        assert!(fds < fds_before + STRANGERS_PER_ADDRESS + 24, "{fds} of {fds_before} before");
    });
    println!("{} connections", made.load(Ordering::Relaxed));
    let leaver = nodes.pop().expect("it joined");
    assert!(leaver.end().success());
    before.assert_again(&mut nodes);
}

/// Says that it is over when it is dropped, so that the flood ends if the test fails as well.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn thousands_of_connections_one_after_the_other_leave_nothing() {
    let mut nodes = cluster(2, &[]);
    let before = Before::of(&nodes);
    let nonsense = frame(77, &[7; 24]);
    for number in 0..ONE_AFTER_THE_OTHER {
        let mut stream = connect(nodes[0].address);
        if number % 2 == 0 {
            // It may be closed already.
            let _ = stream.write_all(&nonsense);
        }
    }
    before.assert_again(&mut nodes);
    let lines = nodes[0].stderr().lines().count();
    assert!(lines < 100, "{lines} lines for {ONE_AFTER_THE_OTHER} connections");
}

#[test]
fn a_node_with_all_the_connections_that_it_may_have_says_so() {
    let hello = recorded_hello();
    let mut nodes = cluster(2, &["--max-connections", "16"]);
    // Each core has its connection before others take all the places.
    for node in &mut nodes {
        node.ok("set before attack");
    }
    let before = Before::of(&nodes);
    let fds_before = descriptors(&nodes[0]);
    let mut welcome = Vec::new();
    let mut refused = 0;
    for _ in 0..40 {
        let mut stream = connect(nodes[0].address);
        // It may be closed already.
        let _ = stream.write_all(&hello);
        match read_frame(&mut stream) {
            Some((WELCOME, _)) => welcome.push(stream),
            Some((REFUSED, bytes)) => {
                let text = String::from_utf8_lossy(&bytes);
                assert!(text.contains("has 16 connections"), "{text}");
                refused += 1;
            }
            // A reset came before it was read.
            None => {}
            Some((kind, _)) => panic!("a frame of type {kind}"),
        }
    }
    println!("{} were welcome, {refused} were told why not", welcome.len());
    assert!(welcome.len() <= 16 && refused > 0);
    assert!(descriptors(&nodes[0]) <= fds_before + 16);
    assert!(!is_closed(&mut welcome[0]));
    // Those that are there are served.
    nodes[1].ok("set during attack");
    drop(welcome);
    let mut late = connect(nodes[0].address);
    wait_until("there is room again", || {
        late = connect(nodes[0].address);
        let _ = late.write_all(&hello);
        matches!(read_frame(&mut late), Some((WELCOME, _)))
    });
    drop(late);
    before.assert_again(&mut nodes);
}

#[test]
fn silent_connections_are_closed_after_a_while() {
    let mut nodes = cluster(2, &[]);
    let before = Before::of(&nodes);
    let streams: Vec<_> = (0..50).map(|_| connect(nodes[0].address)).collect();
    for mut stream in streams {
        assert!(matches!(stream.read(&mut [0; 16]), Ok(0) | Err(_)));
    }
    before.assert_again(&mut nodes);
}
