//! What those who can connect may cost: each limit is reached, and shown to hold.

use std::net::TcpStream;

use super::*;
use crate::runtime::net::accepted::{ACCEPT_AGAIN_AFTER, ACCEPTS_PER_PASS};
use crate::runtime::net::dials::{MOST_CONTROL_DIALS, MOST_DIALS};
use crate::runtime::net::patience::{FULL_TIMEOUT, STALL_TIMEOUT};
use crate::wire::frame::BUFFER_BYTES;

fn hello(of: &Node) -> Encoded {
    handshake(Message::Hello(of.local.hello(of.identity, Channel::Control, None)))
}

/// A connection over which anything can be sent, welcomed.
fn welcomed(b: &mut Node, opener: &Node) -> (TcpStream, ConnectionId) {
    let mut stream = raw(b);
    stream.write_all(&hello(opener)).unwrap();
    let (connection, hello) = until(b, Node::greeted);
    let welcome = b.verdict(&hello).unwrap();
    b.net.welcome(connection, welcome);
    (stream, connection)
}

/// Sends without waiting for room, and lets the node read in between.
fn push(b: &mut Node, stream: &mut TcpStream, mut bytes: &[u8]) {
    stream.set_nonblocking(true).unwrap();
    let mut idle = 0;
    while !bytes.is_empty() && idle < 20 {
        match stream.write(bytes) {
            Ok(count) => {
                bytes = &bytes[count..];
                idle = 0;
            }
            Err(_) => idle += 1,
        }
        b.pass();
    }
    stream.set_nonblocking(false).unwrap();
}

fn excess_bytes(b: &Node) -> usize {
    b.net.links.values().map(|link| link.connection.excess_bytes()).sum()
}

/// The control thread accepted for as long as others connected.
#[test]
fn a_pass_accepts_some_and_the_rest_comes_without_an_event() {
    let mut b = node("b");
    let strangers: Vec<_> = (0..ACCEPTS_PER_PASS + 9).map(|_| raw(&b)).collect();
    // All have come once these do not wait to be accepted any more.
    b.net.accept_some(NOW, &b.listener);
    assert_eq!(b.net.counters().accepted, ACCEPTS_PER_PASS as u64);
    assert!(b.net.must_accept(NOW) && b.net.deadline() <= Some(NOW));
    b.net.accept_some(NOW, &b.listener);
    assert_eq!(b.net.counters().accepted, strangers.len() as u64);
    assert!(!b.net.must_accept(NOW + HELLO_TIMEOUT));
}

/// What waited stayed so until another connection came: the poll says once that one is there.
#[test]
fn after_an_error_it_is_tried_again_to_accept() {
    let mut b = node("b");
    // It does not listen yet, so accepting fails as it does without a descriptor.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    let listener = TcpListener::from_std(socket.into());
    b.net.accept_some(NOW, &listener);
    assert_eq!(b.net.counters().not_accepted, 1);
    assert!(!b.net.must_accept(NOW));
    assert_eq!(b.net.deadline(), Some(NOW + ACCEPT_AGAIN_AFTER));
    SockRef::from(&listener).listen(8).unwrap();
    let _stranger = TcpStream::connect(addr).unwrap();
    assert!(b.net.must_accept(NOW + ACCEPT_AGAIN_AFTER));
    b.net.accept_some(NOW + ACCEPT_AGAIN_AFTER, &listener);
    assert_eq!(b.net.counters().accepted, 1);
    assert_eq!(b.net.deadline(), Some(NOW + ACCEPT_AGAIN_AFTER + HELLO_TIMEOUT));
}

/// It was 256 KiB, into a buffer that grew for it.
#[test]
fn little_is_read_of_a_stranger() {
    let (mut b, a) = (node("b"), node("a"));
    let mut stream = raw(&b);
    let bytes = [&hello(&a)[..], &vec![0; 100 << 10]].concat();
    stream.write_all(&bytes).unwrap();
    let (connection, _) = until(&mut b, Node::greeted);
    b.pass();
    assert!(b.net.counters().bytes_in <= HANDSHAKE_BUDGET_BYTES as u64);
    assert!(b.net.links.contains_key(&connection.0));
}

#[test]
fn a_frame_that_does_not_go_on_ends_its_connection() {
    let (mut b, a) = (node("b"), node("a"));
    let (mut stream, connection) = welcomed(&mut b, &a);
    let request = codec::encode(&read(1));
    stream.write_all(&request[..5]).unwrap();
    let first = NOW + STALL_TIMEOUT;
    until(&mut b, |b| (b.net.deadline() == Some(first)).then_some(()));
    // A byte later, it has that time again.
    b.now = NOW + STALL_TIMEOUT / 2;
    stream.write_all(&request[5..6]).unwrap();
    until(&mut b, |b| (b.net.links[&connection.0].heard_at == b.now).then_some(()));
    b.net.handle_timers(first, &mut b.events);
    let second = first + STALL_TIMEOUT / 2;
    assert_eq!((b.net.deadline(), b.closed()), (Some(second), None));
    // The whole frame, and nothing more is waited for.
    stream.write_all(&request[6..]).unwrap();
    assert_eq!(until(&mut b, Node::request), (connection, read(1)));
    b.net.handle_timers(second, &mut b.events);
    assert_eq!((b.net.deadline(), b.closed()), (None, None));
    // Half a frame again.
    b.now = second;
    stream.write_all(&request[..20]).unwrap();
    until(&mut b, |b| b.net.deadline());
    b.net.handle_timers(second + STALL_TIMEOUT, &mut b.events);
    assert_eq!((b.closed(), b.net.counters().stalled), (Some(connection), 1));
}

#[test]
fn an_answer_that_does_not_go_on_ends_its_connection_too() {
    let (mut a, mut b) = (node("a"), node("b"));
    let (target, connection) = connect(&mut a, &mut b);
    assert!(a.net.send(NOW, target, &read(1)));
    until_both(&mut a, &mut b, |_, b| b.request());
    let answer = codec::encode(&found(1, 500));
    let mut stream = b.net.links[&connection.0].connection.stream();
    stream.write_all(&answer[..30]).unwrap();
    let silent = |a: &mut Node| a.net.links.values().any(|link| link.connection.is_in_frame());
    until(&mut a, |a| silent(a).then_some(()));
    a.net.handle_timers(NOW + SILENCE, &mut a.events);
    assert_eq!((a.net.deadline(), a.lost()), (Some(NOW + STALL_TIMEOUT), None));
    a.net.handle_timers(NOW + STALL_TIMEOUT, &mut a.events);
    assert_eq!(a.lost(), Some(LossCause::Ended));
}

/// Its connection stayed, with eight MiB of answers, for as long as its host answered probes.
#[test]
fn a_peer_that_takes_no_answers_loses_its_connection() {
    let (mut a, mut b) = (node("a"), node("b"));
    let (target, connection) = connect(&mut a, &mut b);
    for id in 0..200 {
        assert!(a.net.send(NOW, target, &read(id)));
    }
    a.net.flush(&mut a.events);
    // From here `a` does nothing.
    let mut answer = |b: &mut Node| {
        while b.request().is_some() {
            b.net.answer(connection, &found(1, 1 << 20));
        }
        (b.net.deadline() == Some(NOW + FULL_TIMEOUT)).then_some(())
    };
    until(&mut b, &mut answer);
    // What the sockets take is taken, and then nothing more.
    (0..20).for_each(|_| b.pass());
    for second in 1..10 {
        b.net.handle_timers(NOW + second * FULL_TIMEOUT, &mut b.events);
        assert_eq!(b.closed(), None);
    }
    b.net.handle_timers(NOW + STALL_TIMEOUT, &mut b.events);
    assert_eq!((b.closed(), b.net.counters().stalled), (Some(connection), 1));
}

/// Each of eight thousand connections could have eight MiB of answers waiting.
#[test]
fn when_too_many_answers_wait_a_peer_that_takes_none_loses_its_connection_soon() {
    let limits = Limits::with_bytes(2 << 20);
    let (mut a, mut c) = (node("a"), node("c"));
    let mut b = node_with("shop", "b", limits.clone());
    let (target, greedy) = connect(&mut a, &mut b);
    let (_, modest) = connect(&mut c, &mut b);
    for id in 0..20 {
        assert!(a.net.send(NOW, target, &read(id)));
    }
    a.net.flush(&mut a.events);
    // It has asked, and reads nothing. What the sockets take is taken.
    until(&mut b, |b| {
        while b.request().is_some() {
            b.net.answer(greedy, &found(1, 1 << 20));
        }
        (limits.answer_bytes() > 4 << 20).then_some(())
    });
    (0..20).for_each(|_| b.pass());
    assert!(limits.answer_bytes() > 2 << 20);
    // Another one reads what it gets.
    b.now = NOW + FULL_TIMEOUT;
    for _ in 0..4 {
        b.net.answer(modest, &found(1, 1 << 20));
    }
    until_both(&mut b, &mut c, |b, _| (b.net.links[&modest.0].taken_at == b.now).then_some(()));
    b.net.handle_timers(b.now, &mut b.events);
    assert_eq!((b.closed(), b.closed(), b.net.counters().stalled), (Some(greedy), None, 1));
    until_both(&mut b, &mut c, |_, _| (limits.answer_bytes() == 0).then_some(()));
}

#[test]
fn beyond_the_limit_a_connection_is_told_so_and_a_stranger_goes_first() {
    let limits = Limits::new(Some(3), None);
    let mut b = node_with("shop", "b", limits.clone());
    let openers = ["a", "c", "d"].map(node);
    let mut streams: Vec<_> = openers.iter().map(|it| welcomed(&mut b, it)).collect();
    let mut e = node("e");
    e.net.open(NOW, b.target(Channel::Control));
    let cause = until_both(&mut e, &mut b, |e, _| e.lost());
    let is_told = matches!(&cause, LossCause::Refused(it) if it.reason == RefusalReason::Full);
    assert!(is_told, "{cause:?}");
    assert_eq!((limits.taken().0, b.net.counters().turned_away), (3, 1));

    // One that ends makes room, and one that says nothing does not keep it.
    drop(streams.pop());
    until(&mut b, Node::closed);
    let mut silent = raw(&b);
    until(&mut b, |b| (b.net.strangers.len() == 1).then_some(()));
    e.net.open(NOW, b.target(Channel::Control));
    until_both(&mut e, &mut b, |_, b| b.greeted());
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!((limits.taken().0, b.net.counters().strangers_closed), (3, 1));
}

/// Each one took a descriptor, and their number had no limit.
#[test]
fn a_connection_that_waits_for_a_busy_core_counts() {
    let limits = Limits::new(Some(1), None);
    let mut b = node_with("shop", "b", limits.clone());
    let a = node("a");
    let mut stream = raw(&b);
    let to_core = a.local.hello(a.identity, Channel::Core(CoreId(1)), None);
    stream.write_all(&handshake(Message::Hello(to_core))).unwrap();
    let (connection, hello) = until(&mut b, Node::greeted);
    let welcome = b.verdict(&hello).unwrap();
    let handover = b.net.hand_over(connection, welcome).unwrap();
    assert!(b.net.links.is_empty());
    let _other = raw(&b);
    until(&mut b, |b| (b.net.counters().turned_away == 1).then_some(()));
    drop(handover);
    assert_eq!(limits.taken().0, 0);
}

/// Three hundred frames of 17 MB, sent to their last bytes but one, took nine gigabytes.
#[test]
fn large_frames_share_a_limit_and_all_of_them_come_through() {
    let limits = Limits::with_bytes(1 << 20);
    let mut b = node_with("shop", "b", limits.clone());
    let a = node("a");
    let mut peers: Vec<_> = (0..4).map(|_| welcomed(&mut b, &a)).collect();
    let large = codec::encode(&written(1, 4 << 20));
    let last = large.len() - 1;
    for (stream, _) in &mut peers {
        push(&mut b, stream, &large[..last]);
    }
    let most = (1 << 20) + large.len() + BUFFER_BYTES;
    assert!(excess_bytes(&b) <= most, "{} of {most}", excess_bytes(&b));
    assert_eq!(limits.taken().1, excess_bytes(&b));
    assert!(b.net.counters().reads_paused > 0);
    assert!(b.request().is_none());
    // Small requests of others do not wait for them.
    let (mut small, connection) = welcomed(&mut b, &a);
    small.write_all(&codec::encode(&read(7))).unwrap();
    assert_eq!(until(&mut b, Node::request), (connection, read(7)));
}

#[test]
fn a_frame_that_waited_for_memory_goes_on() {
    let limits = Limits::with_bytes(1 << 20);
    let mut b = node_with("shop", "b", limits.clone());
    let a = node("a");
    let mut peers: Vec<_> = (0..4).map(|_| welcomed(&mut b, &a)).collect();
    let large = codec::encode(&written(1, 4 << 20));
    let writers: Vec<_> = peers
        .drain(..)
        .map(|(mut stream, _)| {
            let large = large.clone();
            let write = move || {
                stream.write_all(&large).unwrap();
                stream
            };
            std::thread::Builder::new().spawn(write).unwrap()
        })
        .collect();
    for _ in 0..writers.len() {
        until(&mut b, |b| {
            b.now = b.now + Duration::from_millis(20);
            b.net.handle_timers(b.now, &mut b.events);
            b.request()
        });
    }
    for writer in writers {
        writer.join().unwrap();
    }
    b.pass();
    assert_eq!((limits.taken().1, b.net.counters().stalled), (0, 0));
}

/// A byte now and then would have kept the memory of all.
#[test]
fn a_slow_large_frame_ends_when_others_wait_for_its_memory() {
    let limits = Limits::with_bytes(1 << 20);
    let mut b = node_with("shop", "b", limits);
    let a = node("a");
    let large = codec::encode(&written(1, 4 << 20));
    let (mut slow, slow_id) = welcomed(&mut b, &a);
    push(&mut b, &mut slow, &large[..large.len() - 30]);
    let (mut other, other_id) = welcomed(&mut b, &a);
    push(&mut b, &mut other, &large[..large.len() - 30]);
    assert!(b.net.starved.contains(&other_id.0));
    // It is never silent for as long as that.
    for byte in 0..4 {
        b.now = b.now + STALL_TIMEOUT / 3;
        slow.write_all(&large[large.len() - 30 + byte..][..1]).unwrap();
        b.pass();
        b.pass();
        b.net.handle_timers(b.now, &mut b.events);
    }
    assert_eq!(b.closed(), Some(slow_id));
    until(&mut b, |b| {
        (!b.net.starved.contains(&other_id.0) && b.net.exempt == Some(other_id.0)).then_some(())
    });
}

/// A peer that refused was dialled as fast as frames came, thousands of times a second.
#[test]
fn a_core_does_not_dial_at_once_again_where_a_dial_failed() {
    let mut a = node("a");
    let c = node("c");
    let target = c.target(Channel::Core(CoreId(0)));
    let addr = c.identity.addr;
    drop(c);
    assert!(a.net.send(NOW, target, &read(1)));
    assert_eq!(until(&mut a, Node::lost), LossCause::ConnectRefused);
    assert!(!a.net.send(NOW, target, &read(2)), "what cannot be sent is handed back");
    assert_eq!((a.net.links.len(), a.net.counters().dials_put_off), (0, 1));
    a.now = NOW + Duration::from_millis(5);
    assert!(a.net.send(a.now, target, &read(3)));
    assert_eq!(until(&mut a, Node::lost), LossCause::ConnectRefused);
    assert!(!a.net.send(a.now, target, &read(4)));
    // Another target at that address is not to blame, and control threads have their own pauses.
    let control = Destination { channel: Channel::Control, ..target };
    for _ in 0..2 {
        assert!(a.net.send(a.now, control, &read(5)));
        assert_eq!(until(&mut a, Node::lost), LossCause::ConnectRefused);
    }
    assert_eq!(addr, target.addr);
}

#[test]
fn only_some_connections_are_opened_at_a_time() {
    let (mut a, b) = (node("a"), node("b"));
    let to = |core| b.target(Channel::Core(CoreId(core)));
    let taken = (0..MOST_DIALS as u16 + 9).filter(|core| a.net.send(NOW, to(*core), &read(1)));
    assert_eq!(taken.count(), MOST_DIALS);
    assert_eq!(a.net.links.len(), MOST_DIALS);
    // One that is given up makes room.
    a.net.close(to(0));
    assert!(a.net.send(NOW, to(MOST_DIALS as u16), &read(1)));
    // The control thread hears that it has to try again.
    let control = |boot| Destination {
        expects: Some((b.identity.node, Boot(boot))),
        ..b.target(Channel::Control)
    };
    let left = (MOST_CONTROL_DIALS - MOST_DIALS) as u64;
    (0..=left).for_each(|boot| a.net.open(NOW, control(boot)));
    assert_eq!(a.net.links.len(), MOST_CONTROL_DIALS);
    assert_eq!(until(&mut a, Node::lost), LossCause::PutOff);
}
