//! Real sockets on the loopback interface, real polls, and a clock that stands still unless a test
//! says otherwise.

mod limits;
#[cfg(feature = "security")]
mod secured;

use std::io::{Read, Write};

use mio::net::TcpListener;
use mio::{Events, Interest, Poll};
use socket2::SockRef;

use super::bind::bind;
use super::link::HANDSHAKE_BUDGET_BYTES;
use super::strangers::MAX_STRANGERS;
use super::*;
use crate::clock::Version;
use crate::entry::{Content, Entry};
use crate::options::OnPartition;
use crate::placement::{ListRef, Site};
use crate::quorums::Quorums;
use crate::types::{Boot, ClusterHash, CoreId, NodeHash};
use crate::wire::frame::{HEADER_BYTES, MAX_BODY_BYTES};
use crate::wire::message::{
    Answer, Channel, ControlMessage, Found, Refusal, RefusalReason, Request, Want,
};

const NOW: Instant = Instant::from_nanos(1_000_000_000);
const LISTENER: Token = Token(0);
const FIRST_TOKEN: usize = 10;
/// How many passes of the loop a test waits for. Each takes at most 10 ms.
const MAX_PASSES: usize = 3000;

struct Node {
    poll: Poll,
    net: Net,
    listener: TcpListener,
    local: Local,
    identity: Identity,
    events: Vec<NetEvent>,
    now: Instant,
}

fn node_of(cluster_name: &str, id: &str) -> Node {
    node_with(cluster_name, id, Limits::new(None, None))
}

fn node_with(cluster_name: &str, id: &str, limits: Arc<Limits>) -> Node {
    let poll = Poll::new().unwrap();
    let mut bound = bind(([127, 0, 0, 1], 0).into()).unwrap();
    poll.registry().register(&mut bound.listener, LISTENER, Interest::READABLE).unwrap();
    let local = Local {
        cluster: cluster_name.into(),
        node_id: id.into(),
        cores: 2,
        quorums: Quorums::exactly(3, 2, 1),
        on_partition: OnPartition::Serve,
        site: Site::default(),
    };
    let node = NodeHash::of(ClusterHash::of("shop"), id);
    let identity = Identity { node, boot: Boot(5), returns: 0, addr: bound.addr };
    let registry = poll.registry().try_clone().unwrap();
    let mut net = Net::new(registry, FIRST_TOKEN, local.clone(), limits);
    net.set_identity(identity);
    let (listener, events) = (bound.listener, Vec::new());
    Node { poll, net, listener, local, identity, events, now: NOW }
}

fn node(id: &str) -> Node {
    node_of("shop", id)
}

impl Node {
    fn target(&self, channel: Channel) -> Destination {
        Destination {
            addr: self.identity.addr,
            expects: Some((self.identity.node, self.identity.boot)),
            channel,
        }
    }

    fn pass(&mut self) {
        let wait = if self.net.owes() { Duration::ZERO } else { Duration::from_millis(10) };
        let mut ready = Events::with_capacity(64);
        self.poll.poll(&mut ready, Some(wait)).unwrap();
        for event in &ready {
            match event.token() {
                LISTENER => self.net.accept_some(self.now, &self.listener),
                _ => self.net.ready(self.now, event, &mut self.events),
            }
        }
        self.net.read_pending(self.now, &mut self.events);
        self.net.flush(&mut self.events);
    }

    /// The first event that `pick` wants; the others stay.
    fn take<T>(&mut self, pick: impl Fn(&NetEvent) -> Option<T>) -> Option<T> {
        let at = self.events.iter().position(|event| pick(event).is_some())?;
        pick(&self.events.remove(at))
    }

    fn greeted(&mut self) -> Option<(ConnectionId, Hello)> {
        self.take(|event| match event {
            NetEvent::Greeted { connection, hello, .. } => Some((*connection, hello.clone())),
            _ => None,
        })
    }

    fn request(&mut self) -> Option<(ConnectionId, Frame)> {
        loop {
            let (connection, frame) = self.take(|event| match event {
                NetEvent::Request { connection, frame } => Some((*connection, frame.clone())),
                _ => None,
            })?;
            let event = self.net.admit(NetEvent::Request { connection, frame });
            if let Some(NetEvent::Request { connection, frame }) = event {
                return Some((connection, frame));
            }
        }
    }

    fn answered(&mut self) -> Option<Frame> {
        self.take(|event| match event {
            NetEvent::Answer { frame, .. } => Some(frame.clone()),
            _ => None,
        })
    }

    fn opened(&mut self) -> Option<Hello> {
        self.take(|event| match event {
            NetEvent::Opened { welcome, .. } => Some(welcome.clone()),
            _ => None,
        })
    }

    fn lost(&mut self) -> Option<LossCause> {
        self.take(|event| match event {
            NetEvent::Lost { cause, .. } => Some(cause.clone()),
            _ => None,
        })
    }

    fn closed(&mut self) -> Option<ConnectionId> {
        self.take(|event| match event {
            NetEvent::Closed { connection } => Some(*connection),
            _ => None,
        })
    }

    fn verdict(&self, hello: &Hello) -> Result<Hello, Refusal> {
        self.local.judge_hello(self.identity, hello)
    }
}

/// Runs one node until something is there.
fn until<T>(node: &mut Node, mut there: impl FnMut(&mut Node) -> Option<T>) -> T {
    for _ in 0..MAX_PASSES {
        if let Some(it) = there(node) {
            return it;
        }
        node.pass();
    }
    panic!("it never came; there was {:?}", node.events);
}

/// Runs two nodes until something is there.
fn until_both<T>(
    a: &mut Node,
    b: &mut Node,
    mut there: impl FnMut(&mut Node, &mut Node) -> Option<T>,
) -> T {
    for _ in 0..MAX_PASSES {
        if let Some(it) = there(a, b) {
            return it;
        }
        a.pass();
        b.pass();
    }
    panic!("it never came; there was {:?} and {:?}", a.events, b.events);
}

fn frame(request_id: u64, message: Message) -> Frame {
    Frame { partition: Partition::new(7).unwrap(), request_id, message }
}

fn read(request_id: u64) -> Frame {
    let list = ListRef { number: 1, digest: 2 };
    frame(
        request_id,
        Message::Request(Request::Read { list, key: b"key".as_slice().into(), want: Want::Entry }),
    )
}

fn written(request_id: u64, value_bytes: usize) -> Frame {
    let entry = Entry::new(b"key", Content::Value(&vec![7; value_bytes]), Version(3), None);
    let list = ListRef { number: 1, digest: 2 };
    frame(request_id, Message::Request(Request::Write { list, entry }))
}

fn found(request_id: u64, value_bytes: usize) -> Frame {
    let value: Vec<u8> = (0..value_bytes).map(|byte| byte as u8).collect();
    let entry = Entry::new(b"key", Content::Value(&value), Version(3), None);
    let answer = Answer::Found { found: Found::Entry(entry), synced: true };
    frame(request_id, Message::Answer(answer))
}

/// `a` opens to the control thread of `b`, which welcomes it.
fn connect(a: &mut Node, b: &mut Node) -> (Destination, ConnectionId) {
    connect_to(a, b, Channel::Control)
}

fn connect_to(a: &mut Node, b: &mut Node, channel: Channel) -> (Destination, ConnectionId) {
    let target = b.target(channel);
    a.net.open(NOW, target);
    let (connection, hello) = until_both(a, b, |_, b| b.greeted());
    let welcome = b.verdict(&hello).unwrap();
    b.net.welcome(connection, welcome);
    until_both(a, b, |a, _| a.opened());
    (target, connection)
}

/// A stranger that has not read the protocol.
fn raw(to: &Node) -> std::net::TcpStream {
    std::net::TcpStream::connect(to.identity.addr).unwrap()
}

#[test]
fn a_request_waits_for_the_welcome_and_is_answered() {
    let (mut a, mut b) = (node("a"), node("b"));
    let target = b.target(Channel::Control);
    assert!(a.net.send(NOW, target, &read(1)));
    let (connection, hello) = until_both(&mut a, &mut b, |_, b| b.greeted());
    assert_eq!(hello.identity, a.identity);
    assert_eq!(hello.expects, target.expects);
    let welcome = b.verdict(&hello).unwrap();
    b.net.welcome(connection, welcome);
    assert!(a.net.send(NOW, target, &read(2)));
    assert_eq!(until_both(&mut a, &mut b, |_, b| b.request()), (connection, read(1)));
    assert_eq!(until_both(&mut a, &mut b, |_, b| b.request()), (connection, read(2)));
    assert_eq!(a.opened().unwrap().identity, b.identity);
    b.net.answer(connection, &found(1, 100));
    assert_eq!(until_both(&mut a, &mut b, |a, _| a.answered()), found(1, 100));
    a.net.handle_timers(NOW + SILENCE, &mut a.events);
    assert_eq!((a.net.deadline(), a.lost()), (None, None), "it is not silent");
    assert_eq!((a.net.counters().opened, b.net.counters().accepted), (1, 1));
    assert_eq!((a.net.counters().frames_out, a.net.counters().frames_in), (3, 2));
    until_both(&mut a, &mut b, |a, b| {
        (a.net.counters().bytes_out == b.net.counters().bytes_in).then_some(())
    });
}

#[test]
fn a_connection_moves_to_a_core_with_what_was_read_and_not_yet_written() {
    let (mut control, mut core) = (node("b"), node("b"));
    let opener = node("a");
    let mut stream = raw(&control);
    let hello = opener.local.hello(opener.identity, Channel::Core(CoreId(1)), None);
    let mut bytes = handshake(Message::Hello(hello)).to_vec();
    for id in 0..200 {
        bytes.extend_from_slice(&codec::encode(&read(id)));
    }
    let half = bytes.len() - 24;
    stream.write_all(&bytes[..half]).unwrap();
    let (connection, hello) = until(&mut control, Node::greeted);
    let welcome = control.verdict(&hello).unwrap();
    let handover = control.net.hand_over(connection, welcome.clone()).unwrap();
    assert!(control.net.hand_over(connection, welcome).is_none());
    stream.write_all(&bytes[half..]).unwrap();

    let thread = std::thread::Builder::new().spawn(move || handover).unwrap();
    let handover = thread.join().unwrap();
    let connection = core.net.adopt(NOW, handover, &mut core.events);
    for id in 0..200 {
        assert_eq!(until(&mut core, Node::request), (connection, read(id)));
    }
    core.net.answer(connection, &found(0, 10));
    core.pass();
    let expected = found(0, 10);
    let mut buffer = crate::wire::frame::FrameBuffer::new();
    let mut got = Vec::new();
    while got.len() < 2 {
        let count = stream.read(buffer.space()).unwrap();
        buffer.received(count);
        while let Some((header, body)) = buffer.next().unwrap() {
            got.push(codec::decode(header, body).unwrap());
        }
    }
    assert!(matches!(got[0].message, Message::Welcome(_)));
    assert_eq!(got[1], expected);
    drop(stream);
    assert_eq!(until(&mut core, Node::closed), connection);
    assert!(control.events.is_empty());
}

#[test]
fn a_refusal_reaches_the_opener_with_its_text() {
    let (mut a, mut b) = (node_of("other", "a"), node("b"));
    // Its requests, sent ahead of any welcome, do not reset the connection before the text is read.
    assert!(a.net.send(NOW, b.target(Channel::Control), &read(1)));
    let (connection, hello) = until_both(&mut a, &mut b, |_, b| b.greeted());
    let refusal = b.verdict(&hello).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::Cluster);
    b.net.refuse(connection, refusal.clone());
    assert_eq!(until_both(&mut a, &mut b, |a, _| a.lost()), LossCause::Refused(refusal));
    until_both(&mut a, &mut b, |_, b| b.net.links.is_empty().then_some(()));
    assert!(b.events.is_empty() && b.net.timers.is_empty() && b.net.strangers.is_empty());
}

#[test]
fn a_refused_opener_that_never_closes_is_closed_and_a_long_text_is_cut() {
    let (mut b, a) = (node("b"), node("a"));
    let mut stream = raw(&b);
    let hello = handshake(Message::Hello(a.local.hello(a.identity, Channel::Control, None)));
    stream.write_all(&hello).unwrap();
    stream.write_all(&[1; 10_000]).unwrap();
    let (connection, _) = until(&mut b, Node::greeted);
    let text = "ä".repeat(5000);
    b.net.refuse(connection, Refusal { reason: RefusalReason::Other, text });
    until(&mut b, |b| (b.net.counters().bytes_out > 0).then_some(()));
    b.net.handle_timers(NOW + LINGER, &mut b.events);
    assert!(b.net.links.is_empty() && b.events.is_empty());
    let mut told = Vec::new();
    stream.read_to_end(&mut told).unwrap();
    assert!(told.len() > 1000 && told.len() < 4096);
}

#[test]
fn nobody_listening_is_told_from_a_silent_host() {
    let (mut a, b) = (node("a"), node("b"));
    let silent = b.target(Channel::Control);
    let gone = node("c").target(Channel::Control);
    assert!(a.net.send(NOW, gone, &read(1)));
    assert_eq!(until(&mut a, Node::lost), LossCause::ConnectRefused);

    assert!(a.net.send(NOW, silent, &read(1)));
    a.pass();
    assert_eq!(a.net.deadline(), Some(NOW + OPEN_TIMEOUT));
    a.net.handle_timers(NOW + OPEN_TIMEOUT, &mut a.events);
    assert_eq!(a.lost(), Some(LossCause::Unreachable(io::ErrorKind::TimedOut)));
    assert!(a.net.links.is_empty() && a.net.targets.is_empty());
}

#[test]
fn each_side_learns_that_the_other_closed() {
    let (mut a, mut b) = (node("a"), node("b"));
    let (target, connection) = connect(&mut a, &mut b);
    a.net.close(target);
    assert_eq!(until_both(&mut a, &mut b, |_, b| b.closed()), connection);
    assert_eq!(a.lost(), None, "who closes is not told");

    let (target, _) = connect(&mut a, &mut b);
    assert!(a.net.send(NOW, target, &read(1)));
    drop(b);
    assert_eq!(until(&mut a, Node::lost), LossCause::Ended);
    assert!(a.net.send(NOW, target, &read(2)));
    assert_eq!(until(&mut a, Node::lost), LossCause::ConnectRefused);
}

#[test]
fn the_largest_value_crosses_small_socket_buffers() {
    let (mut a, mut b) = (node("a"), node("b"));
    let (target, connection) = connect(&mut a, &mut b);
    for net in [&a.net, &b.net] {
        for link in net.links.values() {
            let socket = SockRef::from(link.connection.stream());
            socket.set_send_buffer_size(64 << 10).unwrap();
        }
    }
    assert!(a.net.send(NOW, target, &read(1)));
    until_both(&mut a, &mut b, |_, b| b.request());
    b.net.answer(connection, &found(1, 16 << 20));
    b.net.answer(connection, &found(2, 5));
    let large = until_both(&mut a, &mut b, |a, _| a.answered());
    assert!(large == found(1, 16 << 20));
    assert_eq!(until_both(&mut a, &mut b, |a, _| a.answered()), found(2, 5));
}

#[test]
fn nonsense_ends_its_connection_is_counted_and_disturbs_nobody() {
    let (mut a, mut b) = (node("a"), node("b"));
    let (target, connection) = connect(&mut a, &mut b);
    let hello = handshake(Message::Hello(a.local.hello(a.identity, Channel::Control, None)));
    let too_long = |limit: usize| {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&(limit as u32 + 1).to_le_bytes());
        header
    };
    let noise: Vec<u8> =
        (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut cases: Vec<Vec<u8>> = vec![
        noise,
        too_long(crate::wire::frame::MAX_HANDSHAKE_BYTES).to_vec(),
        codec::encode(&read(1)).to_vec(),
        codec::encode(&found(1, 3)).to_vec(),
    ];
    let mut errors = 0;
    for bytes in cases.drain(..) {
        let mut stream = raw(&b);
        stream.write_all(&bytes).unwrap();
        errors += 1;
        until(&mut b, |b| (b.net.counters().protocol_errors == errors).then_some(()));
        assert!(matches!(stream.read(&mut [0; 9]), Ok(0) | Err(_)));
    }
    // After the welcome: a second HELLO, an answer, and an overlong frame.
    for bytes in
        [hello.to_vec(), codec::encode(&found(1, 3)).to_vec(), too_long(MAX_BODY_BYTES).to_vec()]
    {
        let mut stream = raw(&b);
        stream.write_all(&hello).unwrap();
        let (stranger, greeting) = until(&mut b, Node::greeted);
        let welcome = b.verdict(&greeting).unwrap();
        b.net.welcome(stranger, welcome);
        stream.write_all(&bytes).unwrap();
        assert_eq!(until(&mut b, Node::closed), stranger);
        errors += 1;
        assert_eq!(b.net.counters().protocol_errors, errors);
    }
    // Half a frame, and gone: no protocol error, only an end.
    let mut stream = raw(&b);
    stream.write_all(&hello[..hello.len() / 2]).unwrap();
    drop(stream);
    until(&mut b, |b| (b.net.counters().accepted == 9).then_some(()));
    until(&mut b, |b| (b.net.links.len() == 1).then_some(()));
    assert_eq!(b.net.counters().protocol_errors, errors);

    assert!(b.events.is_empty(), "{:?}", b.events);
    assert!(a.net.send(NOW, target, &read(9)));
    assert_eq!(until_both(&mut a, &mut b, |_, b| b.request()), (connection, read(9)));
}

#[test]
fn an_acceptor_that_asks_or_does_not_greet_is_left() {
    let (mut a, mut b) = (node("a"), node("b"));
    let (_, connection) = connect(&mut a, &mut b);
    b.net.answer(connection, &read(1));
    assert_eq!(until_both(&mut a, &mut b, |a, _| a.lost()), LossCause::Ended);

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    a.net.open(NOW, Destination { addr, expects: None, channel: Channel::Control });
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"SSH-2.0-OpenSSH_9.6p1\r\n").unwrap();
    assert_eq!(until(&mut a, Node::lost), LossCause::Unreachable(io::ErrorKind::InvalidData));
    assert_eq!(a.net.counters().protocol_errors, 2);
}

#[test]
fn another_life_at_the_same_address_is_not_spoken_to() {
    let (mut a, mut b) = (node("a"), node("b"));
    let target =
        Destination { expects: Some((b.identity.node, Boot(4))), ..b.target(Channel::Control) };
    let not_me = |cause| match cause {
        LossCause::Refused(refusal) => refusal.reason == RefusalReason::NotMe,
        _ => false,
    };
    a.net.open(NOW, target);
    let (connection, hello) = until_both(&mut a, &mut b, |_, b| b.greeted());
    let refusal = b.verdict(&hello).unwrap_err();
    b.net.refuse(connection, refusal);
    assert!(not_me(until_both(&mut a, &mut b, |a, _| a.lost())));

    // An acceptor that welcomes every opener is judged by the opener.
    a.net.open(NOW, target);
    let (connection, hello) = until_both(&mut a, &mut b, |_, b| b.greeted());
    b.net.welcome(connection, b.local.hello(b.identity, hello.channel, None));
    assert!(not_me(until_both(&mut a, &mut b, |a, _| a.lost())));
    assert_eq!(until_both(&mut a, &mut b, |_, b| b.closed()), connection);
}

/// A stopped peer could cost 64 MiB on each core, however small the limit of the node's memory.
#[test]
fn what_waits_for_a_peer_that_does_not_read_is_a_part_of_the_memory() {
    let (mut a, mut b) = (node("a"), node("b"));
    a.net.limit_memory(32 << 20);
    let (target, _) = connect(&mut a, &mut b);
    let value = 100 << 10;
    let taken = (0..1000).take_while(|id| a.net.send(NOW, target, &written(*id, value))).count();
    assert!((20..22).contains(&taken), "{taken} taken");
    // However little there is, one that is longer fits alone.
    a.net.limit_memory(0);
    assert!(!a.net.send(NOW, target, &written(1000, value)));
    let (mut a, mut b) = (node("a"), node("b"));
    let (target, _) = connect(&mut a, &mut b);
    a.net.limit_memory(0);
    assert!(a.net.send(NOW, target, &written(0, 1 << 20)));
    assert!(!a.net.send(NOW, target, &written(1, 1)));
}

#[test]
fn a_peer_that_takes_no_answers_gets_no_more_requests_read_until_it_does() {
    let (mut a, mut b) = (node("a"), node("b"));
    let (target, connection) = connect(&mut a, &mut b);
    for id in 0..2000 {
        assert!(a.net.send(NOW, target, &read(id)));
    }
    a.net.flush(&mut a.events);
    // From here `a` does nothing, so the answers of `b` stay.
    let mut answered = 0;
    let mut most = 0;
    for _ in 0..100 {
        while b.request().is_some() {
            b.net.answer(connection, &found(answered, 1 << 20));
            answered += 1;
            most = most.max(b.net.links[&connection.0].connection.queued_bytes());
        }
        b.pass();
    }
    assert!((8..200).contains(&answered), "{answered} answered");
    let link = &b.net.links[&connection.0];
    assert!(matches!(link.stage, LinkStage::Serving { paused: true }));
    // It was up to sixteen answers more, however large they are.
    let one = (1 << 20) + 256;
    assert!((ANSWERS_HIGH_BYTES..ANSWERS_HIGH_BYTES + one).contains(&most), "{most}");
    assert!(b.net.counters().held_back > 0);
    assert!(!b.net.owes(), "a paused connection must not keep its thread awake");

    let mut got = 0;
    until_both(&mut a, &mut b, |a, b| {
        while b.request().is_some() {
            b.net.answer(connection, &found(answered, 100));
            answered += 1;
        }
        while let Some(frame) = a.answered() {
            assert_eq!(frame.request_id, got);
            got += 1;
        }
        (got == 2000).then_some(())
    });
}

#[test]
fn a_peer_that_takes_no_requests_gets_no_more_and_keeps_its_connection() {
    let (mut a, mut b) = (node("a"), node("b"));
    let (target, _) = connect(&mut a, &mut b);
    let large = found(1, 1 << 20);
    let taken = (0..70).filter(|_| a.net.send(NOW, target, &large)).count();
    assert_eq!(taken, 64, "what does not fit is handed back");
    assert!(a.net.targets.contains_key(&target) && !a.net.owes());

    // The same while the welcome is still awaited.
    let other = Destination { channel: Channel::Core(CoreId(0)), ..target };
    let taken = (0..70).filter(|_| a.net.send(NOW, other, &large)).count();
    assert_eq!(taken, 64);
    assert_eq!(a.lost(), None);
}

#[test]
fn strangers_are_bounded_in_number_and_time() {
    let mut b = node("b");
    let mut strangers: Vec<_> = Vec::new();
    for accepted in 1..=40 {
        strangers.push(raw(&b));
        until(&mut b, |b| (b.net.counters().accepted == accepted).then_some(()));
    }
    assert_eq!(b.net.strangers.len(), MAX_STRANGERS);
    assert_eq!(strangers[7].read(&mut [0; 1]).unwrap(), 0, "the oldest are closed");
    strangers[8].set_nonblocking(true).unwrap();
    assert!(strangers[8].read(&mut [0; 1]).is_err(), "the others are still heard");
    strangers[8].set_nonblocking(false).unwrap();
    assert_eq!(b.net.deadline(), Some(NOW + HELLO_TIMEOUT));
    b.net.handle_timers(NOW + HELLO_TIMEOUT, &mut b.events);
    assert!(b.net.links.is_empty() && b.net.strangers.is_empty() && b.net.timers.is_empty());
    assert!(b.events.is_empty());
    for mut stream in strangers {
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
}

/// Found by a review: a proxy that had lost its other side went on taking what was sent to it. The
/// connection stayed, and every call over it ran into its timeout.
#[test]
fn a_core_that_was_asked_and_says_nothing_loses_its_connection() {
    let (mut a, mut b) = (node("a"), node("b"));
    let (target, connection) = connect_to(&mut a, &mut b, Channel::Core(CoreId(0)));
    let at = |silence: f64| NOW + SILENCE.mul_f64(silence);
    assert_eq!(a.net.deadline(), None, "nothing is asked");
    assert!(a.net.send(NOW, target, &read(1)));
    assert!(a.net.send(at(0.5), target, &read(2)));
    until_both(&mut a, &mut b, |_, b| b.request());
    // Any answer will do, and then the silence begins with the next request.
    b.net.answer(connection, &found(2, 10));
    until_both(&mut a, &mut b, |a, _| a.answered());
    a.net.handle_timers(at(1.0), &mut a.events);
    assert_eq!((a.net.deadline(), a.lost()), (None, None));
    assert!(a.net.send(at(9.0), target, &read(3)));
    assert!(a.net.send(at(9.9), target, &read(4)));
    a.net.handle_timers(at(9.9), &mut a.events);
    assert_eq!((a.net.deadline(), a.lost()), (Some(at(10.0)), None));
    a.net.handle_timers(at(10.0), &mut a.events);
    assert_eq!(a.lost(), Some(LossCause::Ended));
    // The next request opens another one.
    assert!(a.net.send(at(10.1), target, &read(5)));
    until_both(&mut a, &mut b, |_, b| b.greeted());
}

/// Found by nodes behind a forwarder: links between control threads that delivered nothing stayed
/// for ever, and no member said any more what it owed.
#[test]
fn a_control_thread_that_was_asked_and_says_nothing_loses_its_connection() {
    let (mut a, mut b) = (node("a"), node("b"));
    let (target, _) = connect(&mut a, &mut b);
    let ask = |of| frame(0, Message::Control(ControlMessage::AskDebt { round: 1, of }));
    // What another member owes its helper does not know.
    assert!(a.net.send(NOW, target, &ask(Some(b.identity))));
    a.net.handle_timers(NOW + 10 * SILENCE, &mut a.events);
    assert_eq!((a.net.deadline(), a.lost()), (None, None));
    assert!(a.net.send(NOW, target, &ask(None)));
    a.net.handle_timers(NOW + SILENCE, &mut a.events);
    assert_eq!(a.lost(), Some(LossCause::Ended));
}

#[test]
fn what_waited_for_the_welcome_is_asked_too() {
    let (mut a, mut b) = (node("a"), node("b"));
    let target = b.target(Channel::Control);
    assert!(a.net.send(NOW, target, &frame(0, Message::Control(ControlMessage::AskMembers))));
    let (connection, hello) = until_both(&mut a, &mut b, |_, b| b.greeted());
    let welcome = b.verdict(&hello).unwrap();
    b.net.welcome(connection, welcome);
    until_both(&mut a, &mut b, |a, _| a.opened());
    assert_eq!(a.net.deadline(), Some(NOW + SILENCE));
}
