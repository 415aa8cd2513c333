//! Peers that take their time: they hold a connection, and what it costs, for as long as they can.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::attacker::{
    ASK_MEMBERS, LARGEST_BODY, MEMBERS, cannot_write, connect, frame, header, is_closed,
    recorded_hello, welcomed, write_some,
};
use crate::support::process::cluster;
use crate::support::{Before, memory_kib, wait_until};

/// How many large frames are begun: more than fit into the memory for them, which is 64 MiB.
const LARGE_FRAMES: usize = 10;

/// What ten large frames may take: the memory for them, two that go on without it, one for each
/// thread, and what the allocator keeps.
const LARGE_FRAMES_KIB: usize = (64 + 2 * 17 + 16) << 10;

#[test]
fn a_hello_of_a_byte_at_a_time_is_not_waited_for() {
    let hello = recorded_hello();
    let mut nodes = cluster(2, &[]);
    let before = Before::of(&nodes);
    let target = nodes[0].address;
    let mut streams: Vec<_> = (0..50).map(|_| connect(target)).collect();
    let start = Instant::now();
    let mut sent = 0;
    wait_until("all are closed", || {
        let due = start.elapsed().as_secs() as usize + 1;
        if sent < due {
            streams.iter_mut().for_each(|stream| {
                // It may be closed already.
                let _ = stream.write_all(&hello[sent..=sent]);
            });
            sent += 1;
        }
        streams.iter_mut().all(is_closed)
    });
    assert!(sent < hello.len() / 4, "{sent} bytes were waited for");
    drop(streams);
    before.assert_again(&mut nodes);
}

#[test]
fn large_frames_that_lack_their_last_byte_take_a_bounded_memory_and_end() {
    let hello = recorded_hello();
    let mut nodes = cluster(2, &[]);
    let before = Before::of(&nodes);
    let memory_before = memory_kib(&nodes[0]);
    let mut streams: Vec<_> =
        (0..LARGE_FRAMES).map(|_| welcomed(nodes[0].address, &hello)).collect();
    let mut most = header(MEMBERS, LARGEST_BODY);
    most.resize(16 + LARGEST_BODY - 1, 0);
    let (mut sent, mut largest) = (0, 0);
    for stream in &mut streams {
        sent += write_some(stream, &most, Duration::from_millis(500));
        largest = largest.max(memory_kib(&nodes[0]) - memory_before);
    }
    println!("{} MiB sent of large frames cost {} MiB", sent >> 20, largest >> 10);
    assert!(sent > 64 << 20, "{sent} bytes were taken");
    assert!(largest < LARGE_FRAMES_KIB, "{largest} KiB for {sent} bytes");
    nodes[0].ok("set during attack");
    wait_until("one that does not go on is ended", || streams.iter_mut().any(is_closed));
    drop(streams);
    before.assert_again(&mut nodes);
}

#[test]
fn who_never_reads_its_answers_costs_little() {
    let hello = recorded_hello();
    let mut nodes = cluster(2, &[]);
    let before = Before::of(&nodes);
    let memory_before = memory_kib(&nodes[0]);
    let mut streams: Vec<_> = (0..4).map(|_| welcomed(nodes[0].address, &hello)).collect();
    let requests = frame(ASK_MEMBERS, &[]).repeat(400_000);
    let mut largest = 0;
    for stream in &mut streams {
        write_some(stream, &requests, Duration::from_secs(2));
        largest = largest.max(memory_kib(&nodes[0]) - memory_before);
    }
    println!("answers that were not read cost {} MiB", largest >> 10);
    // Eight MiB for each, and what the allocator keeps.
    assert!(largest < (4 * 8 + 16) << 10, "{largest} KiB");
    wait_until("they are ended, as they take nothing", || streams.iter_mut().all(cannot_write));
    drop(streams);
    before.assert_again(&mut nodes);
}
