//! Datagrams at nodes that require the cluster key.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use crate::datagrams::{ANNOUNCE, Attacker, DOWN, GOSSIP, LEFT, Name, host};
use crate::support::process::NodeProcess;
use crate::support::wait_until;
use crate::tls_attacker::{OwnKey, Sealer, envelope, random, welcomed};
use crate::victims::{Victims, hello_of};

/// How many hundredths of a second of a processor a thousand replays may take, with what the node
/// does anyway.
const MOST_TICKS: u64 = 300;

/// A name that no member has, at sockets of this test. A node dials it if it hears of it.
pub(crate) struct Stranger {
    attacker: Attacker,
    tcp: TcpListener,
}

impl Stranger {
    pub(crate) fn new(number: u64) -> Self {
        let (udp, tcp) = host();
        let (x, _) = Name::in_frame(&hello_of("x"));
        let addr = udp.local_addr().unwrap();
        // Below the year 2100.
        let me = Name { addr, boot: x.boot + number, ..x };
        Self { attacker: Attacker { udp, envelope: envelope(), me }, tcp }
    }

    pub(crate) fn announce(&self, to: Name) -> Vec<u8> {
        self.attacker.datagram(self.attacker.me, to, ANNOUNCE, &[])
    }

    pub(crate) fn send(&self, to: Name, datagram: &[u8]) {
        self.attacker.send(to, datagram);
    }

    pub(crate) fn is_dialled(&self) -> bool {
        match self.tcp.accept() {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                false
            }
        }
    }
}

/// Waits until a node has taken up all that was sent to it so far: it dials who speaks in a name
/// of its own, and has the key.
pub(crate) fn wait_for(sealer: &mut Sealer, to: Name, number: u64) {
    let stranger = Stranger::new(number);
    let plain = stranger.announce(to);
    wait_until("it dials", || {
        stranger.send(to, &sealer.seal(&plain, to.addr));
        stranger.is_dialled()
    });
}

/// Returns what each node tells of itself to a host that has the key.
fn names(victims: &Victims) -> Vec<Name> {
    let key = OwnKey::new();
    let name = |node: &NodeProcess| {
        let (_, welcome) = welcomed(node.address, &victims.keys(), &key, &hello_of("x"));
        Name::in_frame(&welcome).0
    };
    victims.nodes.iter().map(name).collect()
}

/// Waits until the node that listens here has read all datagrams that were sent to it so far.
pub(crate) fn wait_read(addr: SocketAddr) {
    let IpAddr::V4(ip) = addr.ip() else { panic!("these tests know IPv4 alone") };
    let socket = format!("{:08X}:{:04X}", u32::from_le_bytes(ip.octets()), addr.port());
    wait_until("it has read all datagrams", || {
        let sockets = fs::read_to_string("/proc/net/udp").unwrap();
        let of_node = sockets.lines().filter(|line| line.contains(&socket));
        // The state, then what waits to be sent and to be read.
        of_node
            .filter_map(|line| line.split_whitespace().nth(4))
            .all(|it| it.ends_with(":00000000"))
    });
}

fn send_from(from: &UdpSocket, to: SocketAddr, bytes: &[u8]) {
    // What a full queue drops is sent again by no attacker.
    let _ = from.send_to(bytes, to);
}

/// Returns the processor time of a node, in hundredths of a second.
fn ticks(node: &NodeProcess) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", node.child.id())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    let fields: Vec<&str> = fields.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn datagrams_without_the_key_change_nothing() {
    let victims = Victims::start(3);
    let names = names(&victims);
    let stranger = Stranger::new(1);
    let (third, me) = (names[2], stranger.attacker.me);
    for node in &names[..2] {
        stranger.send(*node, &stranger.announce(*node));
        for from in [third, me] {
            let attacker = &stranger.attacker;
            for update in [(third, DOWN), (me, 0)] {
                stranger.send(*node, &attacker.datagram(from, *node, GOSSIP, &[update]));
            }
            stranger.send(*node, &attacker.datagram(from, *node, ANNOUNCE, &[]));
            let mut left = attacker.datagram(third, *node, GOSSIP, &[]);
            let mut claim = vec![LEFT];
            third.put(&mut claim);
            left.extend((claim.len() as u16).to_be_bytes());
            left.extend(claim);
            stranger.send(*node, &left);
        }
        // Sealed with another key, whose id is named as that of the cluster.
        let wrong = crate::tls_attacker::ClusterKeys::of(&random());
        let mut forged = wrong.sealer().seal(&stranger.announce(*node), node.addr);
        stranger.send(*node, &forged);
        let right = victims.keys().sealer().seal(&stranger.announce(*node), node.addr);
        forged[..5].copy_from_slice(&right[..5]);
        stranger.send(*node, &forged);
        for length in 0..200 {
            let mut garbage = random::<200>();
            garbage[..5].copy_from_slice(&right[..5]);
            send_from(&stranger.attacker.udp, node.addr, &garbage[..length]);
            send_from(&stranger.attacker.udp, node.addr, &random::<200>()[..length]);
        }
        wait_for(&mut victims.keys().sealer(), *node, 2);
    }
    assert!(!stranger.is_dialled(), "what it sent was opened");
    victims.assert_again();
}

#[test]
fn a_sealed_datagram_with_a_flipped_bit_or_for_another_node_is_not_opened() {
    let victims = Victims::start(2);
    let names = names(&victims);
    let (first, second) = (names[0], names[1]);
    let mut fence = victims.keys().sealer();
    let stranger = Stranger::new(1);
    let datagram = victims.keys().sealer().seal(&stranger.announce(first), first.addr);
    for bit in 0..8 * datagram.len() {
        let mut flipped = datagram.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        stranger.send(first, &flipped);
        if bit % 50 == 0 {
            wait_read(first.addr);
        }
    }
    for cut in 0..datagram.len() {
        stranger.send(first, &datagram[..cut]);
    }
    stranger.send(second, &datagram);
    wait_for(&mut fence, first, 2);
    wait_for(&mut fence, second, 2);
    assert!(!stranger.is_dialled(), "what was altered was opened");
    // It opens as it was, at the node for which it is.
    stranger.send(first, &datagram);
    wait_until("it is dialled", || stranger.is_dialled());
    victims.assert_again();
}

#[test]
fn a_thousand_replays_of_one_datagram_change_nothing_and_cost_little() {
    let victims = Victims::start(2);
    let names = names(&victims);
    let stranger = Stranger::new(1);
    let mut sealer = victims.keys().sealer();
    let datagram = sealer.seal(&stranger.announce(names[0]), names[0].addr);
    let before = ticks(&victims.nodes[0]);
    for number in 0..1000 {
        stranger.send(names[0], &datagram);
        if number % 50 == 0 {
            wait_read(names[0].addr);
        }
    }
    wait_for(&mut sealer, names[0], 2);
    let took = ticks(&victims.nodes[0]) - before;
    println!("a thousand replays, with the rest: {took} ticks");
    assert!(took < MOST_TICKS, "{took} ticks");
    victims.assert_again();
}
