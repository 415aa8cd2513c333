//! A host that keeps all that passes between nodes, and sends it again.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::attacker::connect;
use crate::datagrams::Name;
use crate::sealed::{Stranger, wait_read};
use crate::support::process::{NodeProcess, wait_settled};
use crate::support::{Before, wait_until};
use crate::tap::Tap;
use crate::tls_attacker::{OPENING_BYTES, OwnKey, read_all, welcomed};
use crate::victims::{KeyFile, assert_no_names, hello_of, id, living, start_with};

/// Datagrams that pass a node in some ten seconds.
const RECORDED: usize = 300;

/// For how long a node that was started again may see members that are none, with some time of a
/// busy machine.
const SEEN_FOR: Duration = Duration::from_secs(5);

/// What an acceptor says to a recorded OPENING: OPENED, its part of TLS' handshake, and an alert.
const MOST_ANSWERED: usize = 2 << 10;

/// Nodes that require a key, each behind a tap.
struct Tapped {
    nodes: Vec<NodeProcess>,
    taps: Vec<Tap>,
    file: KeyFile,
    /// The key of the host that sends.
    key: OwnKey,
}

impl Tapped {
    fn start(count: usize) -> Self {
        let taps = (0..count).map(|_| Tap::new()).collect();
        let mut tapped = Self { nodes: Vec::new(), taps, file: KeyFile::new(), key: OwnKey::new() };
        for at in 0..count {
            let node = tapped.start_one(at);
            tapped.nodes.push(node);
        }
        wait_settled(&mut tapped.nodes);
        tapped
    }

    /// Starts the node behind a tap. It seeds the others.
    fn start_one(&self, at: usize) -> NodeProcess {
        let own = self.taps[at].flags();
        let mut flags: Vec<&str> = own.iter().map(String::as_str).collect();
        let seeds: Vec<String> = self.taps.iter().map(|tap| tap.front.to_string()).collect();
        let others = seeds.iter().enumerate().filter(|(number, _)| *number != at);
        flags.extend(others.flat_map(|(_, seed)| ["--seed", seed]));
        start_with(&self.file, ["a", "b", "c"][at], &flags)
    }

    /// Returns where a node listens, past its tap.
    fn behind(&self, at: usize) -> SocketAddr {
        self.taps[at].flags()[1].parse().expect("an address")
    }

    /// Sends datagrams to a node, and waits until it has taken all of them up.
    fn send_again(&mut self, datagrams: &[Vec<u8>], at: usize, mut each: impl FnMut(&mut Self)) {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = self.behind(at);
        for (number, datagram) in datagrams.iter().enumerate() {
            // What a full queue drops is sent again by no attacker.
            let _ = udp.send_to(datagram, to);
            if number % 50 == 0 {
                wait_read(to);
                each(self);
            }
        }
        wait_read(to);
        self.wait_taken_up(at);
    }

    /// Waits until a node has taken up all that it has read: it dials a stranger with the key.
    fn wait_taken_up(&self, at: usize) {
        let (keys, front) = (self.file.keys(), self.taps[at].front);
        let (_, welcome) = welcomed(front, &keys, &self.key, &hello_of("x"));
        let name = Name::in_frame(&welcome).0;
        let stranger = Stranger::new(2);
        let plain = stranger.announce(name);
        let past_the_tap = Name { addr: self.behind(at), ..name };
        let mut sealer = keys.sealer();
        wait_until("it dials", || {
            stranger.send(past_the_tap, &sealer.seal(&plain, front));
            stranger.is_dialled()
        });
    }

    /// Returns what a node has told of members that came and went.
    fn changes(&self, at: usize) -> Vec<String> {
        let said = self.nodes[at].stderr();
        let is_change = |line: &&str| {
            let of = ["Joined", "Left", "Died", "Leaving"];
            of.iter().any(|what| line.starts_with(&format!("event: {what} ")))
        };
        said.lines().filter(is_change).map(str::to_owned).collect()
    }
}

/// The gossip is that of a cluster which a node joins and leaves.
#[test]
fn recorded_gossip_that_is_sent_again_changes_no_member() {
    let mut tapped = Tapped::start(3);
    let expected = ["a", "b", "c"].map(id);
    let mut guest = start_with(&tapped.file, "d", &["--seed", &tapped.taps[0].front.to_string()]);
    wait_until("the guest is there", || living(&mut guest).len() == 4);
    wait_until("it is known", || tapped.nodes.iter_mut().all(|node| living(node).len() == 4));
    assert!(guest.end().success());
    wait_until("it has left", || tapped.nodes.iter_mut().all(|node| living(node) == expected));
    wait_until("enough has passed", || {
        tapped.taps.iter().all(|tap| tap.passed().1.len() > RECORDED)
    });
    let recorded: Vec<Vec<u8>> = tapped.taps.iter().flat_map(|tap| tap.passed().1).collect();
    assert!(recorded.iter().all(|datagram| datagram[0] >= 0x80), "each is sealed");

    let before = Before::of(&tapped.nodes);
    for at in 0..3 {
        let changes = tapped.changes(at);
        tapped.send_again(&recorded, at, |_| {});
        assert_eq!(tapped.changes(at), changes, "a member came or went");
        assert_eq!(living(&mut tapped.nodes[at]), expected);
    }
    before.assert_again(&mut tapped.nodes);

    // A node that was started again knows no sender.
    drop(tapped.nodes.remove(0));
    let node = tapped.start_one(0);
    tapped.nodes.insert(0, node);
    wait_settled(&mut tapped.nodes);
    let before = Before::of(&tapped.nodes);
    let (mut wrong_since, mut longest) = (None, Duration::ZERO);
    tapped.send_again(&recorded, 0, |tapped| {
        if living(&mut tapped.nodes[0]) == expected {
            wrong_since = None;
        } else {
            let since = *wrong_since.get_or_insert_with(Instant::now);
            longest = longest.max(since.elapsed());
        }
    });
    let start = Instant::now();
    wait_until("the members are what they were", || living(&mut tapped.nodes[0]) == expected);
    longest = longest.max(start.elapsed());
    println!("{} datagrams; other members were seen for {longest:?}", recorded.len());
    assert!(longest < SEEN_FOR, "{longest:?}");
    let said = tapped.changes(0);
    let of_others = said.iter().filter(|line| line.contains("Died") || line.contains("Left"));
    let wrong: Vec<&String> =
        of_others.filter(|line| expected.iter().any(|id| line.contains(id))).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    before.assert_again(&mut tapped.nodes);
}

/// What comes over the connection is a write, which a later one has replaced.
#[test]
fn a_recorded_connection_that_is_sent_again_is_not_served() {
    let mut tapped = Tapped::start(2);
    let before = Before::of(&tapped.nodes);
    for value in ["earlier", "later"] {
        for node in &mut tapped.nodes {
            node.ok(&format!("set marker {value}"));
        }
    }
    let changes = [tapped.changes(0), tapped.changes(1)];
    let mut longest = 0;
    for at in 0..2 {
        let (directions, _) = tapped.taps[at].passed();
        let to = tapped.behind(at);
        let recorded: Vec<&Vec<u8>> =
            directions.iter().filter(|bytes| bytes.len() > OPENING_BYTES).collect();
        assert!(recorded.len() > 1, "the nodes have no connections");
        for bytes in recorded {
            // To the end of its time, and cut off; also what its acceptor said.
            for is_cut in [false, true] {
                let mut stream = connect(to);
                // It may be closed already.
                let _ = stream.write_all(bytes);
                if is_cut {
                    let _ = stream.shutdown(Shutdown::Write);
                }
                let answer = read_all(&mut stream);
                assert!(answer.len() < MOST_ANSWERED, "{} bytes", answer.len());
                assert_no_names("a recorded connection", &answer);
                longest = longest.max(answer.len());
            }
        }
    }
    println!("at most {longest} bytes were answered");
    for node in &mut tapped.nodes {
        assert_eq!(node.ask("get marker"), "value later");
    }
    assert_eq!([tapped.changes(0), tapped.changes(1)], changes);
    before.assert_again(&mut tapped.nodes);
}
