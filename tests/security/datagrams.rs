//! Datagrams of hosts that are no nodes.

use std::io::{ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use crate::attacker::{REFUSED, connect, header, read_frame, recorded_hello, welcomed};
use crate::support::process::{NodeProcess, cluster};
use crate::support::{Before, LATE, descriptors, wait_until};

pub(crate) const ANNOUNCE: u8 = 6;
pub(crate) const GOSSIP: u8 = 8;
const TURN_UNDEAD: u8 = 10;

const ALIVE: u8 = 0;
pub(crate) const DOWN: u8 = 2;

/// What a member claims of itself.
const LEAVING: u8 = 1;
pub(crate) const LEFT: u8 = 2;

/// A node as datagrams name it.
#[derive(Clone, Copy)]
pub(crate) struct Name {
    pub(crate) node: u64,
    pub(crate) boot: u64,
    pub(crate) returns: u16,
    pub(crate) addr: SocketAddr,
}

impl Name {
    /// Returns the name in a HELLO or a WELCOME: the first 40 of its last 112 bytes.
    pub(crate) fn in_frame(frame: &[u8]) -> (Self, usize) {
        let length = u32::from_le_bytes(frame[..4].try_into().unwrap()) as usize;
        let at = 16 + length - 112;
        let number = |from: usize| u64::from_le_bytes(frame[from..from + 8].try_into().unwrap());
        let short = |from: usize| u16::from_le_bytes(frame[from..from + 2].try_into().unwrap());
        let ip: [u8; 16] = frame[at + 16..at + 32].try_into().unwrap();
        let addr = SocketAddr::new(IpAddr::from(ip).to_canonical(), short(at + 32));
        let name = Self { node: number(at), boot: number(at + 8), returns: short(at + 34), addr };
        (name, at)
    }

    pub(crate) fn put(&self, bytes: &mut Vec<u8>) {
        let IpAddr::V4(ip) = self.addr.ip() else { panic!("these tests know IPv4 alone") };
        bytes.push(4);
        bytes.extend(ip.octets());
        bytes.extend(self.addr.port().to_le_bytes());
        bytes.extend(self.boot.to_le_bytes());
        bytes.extend(self.returns.to_le_bytes());
        bytes.extend(self.node.to_le_bytes());
    }
}

/// A host with a UDP socket, which knows the hash of the cluster.
pub(crate) struct Attacker {
    pub(crate) udp: UdpSocket,
    /// Version, partitions and cluster, as a node sends them.
    pub(crate) envelope: Vec<u8>,
    pub(crate) me: Name,
}

impl Attacker {
    /// Says HELLO to a node as another one that stands here, asks to be dialled back, refuses that,
    /// and reads the envelope of the ping.
    fn at(node: &NodeProcess) -> Self {
        let (udp, tcp) = host();
        let mut hello = recorded_hello();
        let refusal = recorded_refusal(node, &hello);
        let (name, at) = Name::in_frame(&hello);
        let addr = udp.local_addr().unwrap();
        hello[at + 32..at + 34].copy_from_slice(&addr.port().to_le_bytes());
        let mut stream = welcomed(node.address, &hello);
        let mut question = header(9, 40);
        question[8] = 1;
        question.extend_from_slice(&hello[at..at + 40]);
        question.resize(question.len().next_multiple_of(16), 0);
        stream.write_all(&question).unwrap();
        let mut dial = take_dial(&tcp);
        read_frame(&mut dial).expect("a HELLO");
        dial.write_all(&refusal).unwrap();
        let mut ping = [0; 1500];
        udp.set_read_timeout(Some(LATE)).unwrap();
        let (length, _) = udp.recv_from(&mut ping).expect("a ping");
        assert!(length > 20);
        Self { udp, envelope: ping[..11].to_vec(), me: Name { addr, ..name } }
    }

    pub(crate) fn datagram(
        &self,
        from: Name,
        to: Name,
        message: u8,
        updates: &[(Name, u8)],
    ) -> Vec<u8> {
        let mut bytes = self.envelope.clone();
        bytes.extend([0; 9]);
        from.put(&mut bytes);
        bytes.extend([0; 2]);
        to.put(&mut bytes);
        bytes.push(message);
        if message != ANNOUNCE {
            bytes.extend((updates.len() as u16).to_be_bytes());
        }
        for (name, state) in updates {
            name.put(&mut bytes);
            bytes.extend([0, 0, *state]);
        }
        assert!(bytes.len() <= 1200);
        bytes
    }

    pub(crate) fn send(&self, to: Name, datagram: &[u8]) {
        // What a full queue drops is sent again by no attacker.
        let _ = self.udp.send_to(datagram, to.addr);
    }

    /// Waits until a node has taken up all that was sent to it so far: it dials who speaks in a
    /// name of its own.
    fn wait_for(&self, node: Name, number: u64) {
        let (udp, tcp) = host();
        let addr = udp.local_addr().unwrap();
        let me = Name { addr, boot: self.me.boot + number, ..self.me };
        let hello = self.datagram(me, node, ANNOUNCE, &[]);
        wait_until("it dials", || {
            let _ = udp.send_to(&hello, node.addr);
            tcp.accept().is_ok()
        });
    }
}

/// Returns what a node says to one of another cluster.
fn recorded_refusal(node: &NodeProcess, hello: &[u8]) -> Vec<u8> {
    let mut hello = hello.to_vec();
    let name = hello.windows(6).position(|it| it == b"gridkv").expect("the name of the cluster");
    hello[name + 5] = b'w';
    let mut stream = connect(node.address);
    stream.write_all(&hello).unwrap();
    let (kind, refusal) = read_frame(&mut stream).expect("an answer");
    assert_eq!(kind, REFUSED);
    refusal
}

/// Waits until a node dials.
fn take_dial(tcp: &TcpListener) -> TcpStream {
    let mut dial = None;
    wait_until("it is dialled", || match tcp.accept() {
        Ok((stream, _)) => {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(LATE)).unwrap();
            dial = Some(stream);
            true
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    });
    dial.expect("it has come")
}

pub(crate) fn host() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
            tcp.set_nonblocking(true).unwrap();
            return (udp, tcp);
        }
    }
}

/// What each node tells of itself to who says HELLO.
fn names(nodes: &[NodeProcess]) -> Vec<Name> {
    let hello = recorded_hello();
    let welcome = |node: &NodeProcess| {
        let mut stream = connect(node.address);
        stream.write_all(&hello).unwrap();
        let (_, bytes) = read_frame(&mut stream).expect("a WELCOME");
        Name::in_frame(&bytes).0
    };
    nodes.iter().map(welcome).collect()
}

fn all_alive(nodes: &mut [NodeProcess]) -> bool {
    let count = nodes.len();
    nodes.iter_mut().all(|node| {
        node.list("members").iter().filter(|line| line.ends_with(" Alive")).count() == count
    })
}

/// One datagram of 65 bytes had all nodes send 49 times as many to an address in it, and dial it.
#[test]
fn a_node_sends_nothing_to_an_address_because_a_datagram_names_it() {
    let mut nodes = cluster(3, &[]);
    let before = Before::of(&nodes);
    let names = names(&nodes);
    let attacker = Attacker::at(&nodes[0]);
    let (udp, tcp) = host();
    let victim = Name { node: 99, addr: udp.local_addr().unwrap(), ..attacker.me };
    for node in &names {
        for message in [ANNOUNCE, GOSSIP, TURN_UNDEAD] {
            attacker.send(*node, &attacker.datagram(victim, *node, message, &[]));
        }
    }
    for (number, node) in names.iter().enumerate() {
        attacker.wait_for(*node, 1 + number as u64);
    }
    udp.set_nonblocking(true).unwrap();
    assert_eq!(udp.recv_from(&mut [0; 1500]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(tcp.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(all_alive(&mut nodes));
    before.assert_again(&mut nodes);
}

/// One datagram to each of two nodes named a life of the third that began at the end of time. It
/// was out for a day, across starts.
#[test]
fn no_datagram_ends_a_life_by_a_later_one() {
    let mut nodes = cluster(3, &[]);
    let before = Before::of(&nodes);
    let names = names(&nodes);
    let attacker = Attacker::at(&nodes[0]);
    let third = names[2];
    for boot in [u64::MAX, third.boot + 1] {
        let later = Name { boot, ..third };
        for node in &names[..2] {
            attacker.send(*node, &attacker.datagram(later, *node, ANNOUNCE, &[]));
            attacker.send(*node, &attacker.datagram(attacker.me, *node, GOSSIP, &[(later, DOWN)]));
        }
    }
    for (number, node) in names.iter().enumerate() {
        attacker.wait_for(*node, 1 + number as u64);
    }
    assert!(all_alive(&mut nodes));
    nodes[2].ok("set k v");
    before.assert_again(&mut nodes);
}

/// 195 KB of datagrams made a node dead to the others, took 800 descriptors of theirs, and writes
/// failed. Here they come in the name of a member, from its own IP address.
#[test]
fn phantoms_cost_little_and_no_member_its_place() {
    let mut nodes = cluster(3, &[]);
    let before = Before::of(&nodes);
    let names = names(&nodes);
    let attacker = Attacker::at(&nodes[0]);
    let fds: usize = descriptors(&nodes[0]);
    for number in 0..3000u32 {
        let [_, _, high, low] = number.to_be_bytes();
        // Nothing listens there.
        let addr = SocketAddr::from(([127, 9, high, low], 9));
        let phantom = Name { node: u64::from(number) << 32 | 7, addr, ..attacker.me };
        attacker.send(names[0], &attacker.datagram(phantom, names[0], ANNOUNCE, &[]));
        let update = [(phantom, ALIVE)];
        attacker.send(names[0], &attacker.datagram(names[1], names[0], GOSSIP, &update));
        if number % 100 == 0 {
            nodes[2].ok(&format!("set k{number} v"));
            let held = descriptors(&nodes[0]);
            assert!(held < fds + 100, "{held} descriptors, {fds} before");
        }
    }
    // On a busy machine a member may be suspected for a moment.
    for node in &mut nodes {
        let members = node.list("members");
        let is_there = |line: &&String| line.ends_with(" Alive") || line.ends_with(" Suspect");
        assert_eq!(members.iter().filter(is_there).count(), 3, "{members:?}");
    }
    wait_until("all are there", || all_alive(&mut nodes));
    nodes[1].ok("set k v");
    before.assert_again(&mut nodes);
}

/// Each "you are dead" cost a return, of which a life has 65,535, and all connections.
#[test]
fn who_is_told_without_end_that_it_is_dead_serves_on() {
    let mut nodes = cluster(3, &[]);
    let before = Before::of(&nodes);
    let names = names(&nodes);
    let attacker = Attacker::at(&nodes[0]);
    for number in 0..20_000u32 {
        // From its own name, which no member has told of, and from that of a member.
        let from = if number % 2 == 0 { attacker.me } else { names[1] };
        attacker.send(names[0], &attacker.datagram(from, names[0], TURN_UNDEAD, &[]));
        if number % 1000 == 0 {
            nodes[0].ok(&format!("set k{number} v"));
        }
    }
    wait_until("all are there", || all_alive(&mut nodes));
    before.assert_again(&mut nodes);
}

/// One datagram in a member's own name ended it: that it is dead, or has left, or has begun again
/// in the last year that is possible.
#[test]
fn what_is_said_in_a_members_own_name_ends_no_member_that_answers() {
    let mut nodes = cluster(3, &[]);
    let before = Before::of(&nodes);
    let names = names(&nodes);
    let attacker = Attacker::at(&nodes[0]);
    let third = names[2];
    let late = Name { boot: 4_102_444_800_000, ..third };
    for node in &names[..2] {
        attacker.send(*node, &attacker.datagram(third, *node, GOSSIP, &[(third, DOWN)]));
        for kind in [LEAVING, LEFT] {
            let mut says = attacker.datagram(third, *node, GOSSIP, &[]);
            let mut claim = vec![kind];
            third.put(&mut claim);
            says.extend((claim.len() as u16).to_be_bytes());
            says.extend(claim);
            attacker.send(*node, &says);
        }
        for state in [DOWN, ALIVE] {
            attacker.send(*node, &attacker.datagram(third, *node, GOSSIP, &[(late, state)]));
        }
    }
    for (number, node) in names.iter().enumerate() {
        attacker.wait_for(*node, 1 + number as u64);
    }
    // It has returned, as it was said to leave.
    wait_until("all are there", || all_alive(&mut nodes));
    nodes[2].ok("set k v");
    before.assert_again(&mut nodes);
}
