//! How soon members that fall silent are found dead, and how often members that live are: membership alone, of so many
//! nodes that whole ones would not fit.
//!
//! # Figures
//!
//! On two processors, at the defaults, by `cargo run --release -p gridkv-simulate --bin detection` (ten minutes), which also
//! kills and stops processes: each observer of each death counts once.
//!
//! Until a member that ends is dead to each of the others:
//!
//! | nodes | how it ends | rounds | median | p99 | at most |
//! | ---: | --- | ---: | ---: | ---: | ---: |
//! | 3 | killed, process | 30 | 42 ms | 48 ms | 49 ms |
//! | 3 | stopped, process | 30 | 743 ms | 945 ms | 997 ms |
//! | 20 | killed, process | 30 | 67 ms | 100 ms | 139 ms |
//! | 20 | stopped, process | 30 | 798 ms | 1488 ms | 1516 ms |
//! | 3 | silent, simulated | 90 | 701 ms | 994 ms | 1008 ms |
//! | 20 | silent, simulated | 90 | 781 ms | 1473 ms | 1617 ms |
//! | 100 | silent, simulated | 90 | 820 ms | 1941 ms | 2620 ms |
//! | 1000 | silent, simulated | 10 | 953 ms | 1194 ms | 2708 ms |
//!
//! Members that live and are taken for dead, with local health and without:
//!
//! | where | time | with | without |
//! | --- | ---: | ---: | ---: |
//! | 50 nodes, 5 % lost, simulated | 20 min | 0 | 0 |
//! | 50 nodes, 10 % lost, simulated | 20 min | 0 | 0 |
//! | 50 nodes, 20 % lost, simulated | 20 min | 0 | 0 |
//! | 50 nodes, 30 % lost, simulated | 20 min | 1 | 0 |
//! | 100 nodes, of which 10 are stuck for 0 to 2 s every 0 to 2 s, 0 % lost: the other 90, simulated | 20 min | 0 | 0 |
//! | the 10 themselves | 20 min | 2954 | 3087 |
//! | 100 nodes, of which 10 are stuck for 0 to 2 s every 0 to 2 s, 5 % lost: the other 90, simulated | 20 min | 0 | 0 |
//! | the 10 themselves | 20 min | 2976 | 2998 |
//! | 10 processes beside 8 that spin, 2 CPUs | 60 s | 0 | 0 |
//!
//! Members in trouble, simulated: living ones that are taken for dead, and how soon all agree afterwards:
//!
//! | nodes | trouble | taken for dead | agree after |
//! | ---: | --- | ---: | ---: |
//! | 100 | 100 end in 20 s, and others begin at their addresses, 2 % lost | 0 | 0.4 s |
//! | 300 | 100 end in 20 s, and others begin at their addresses, 2 % lost | 0 | 0.5 s |
//! | 1000 | 100 end in 20 s, and others begin at their addresses, 2 % lost | 0 | 17.0 s |
//! | 100 | 500 pairs reach each other one way only, for 60 s | 0 | 0.0 s |
//! | 100 | 5 hear nothing and are heard, for 60 s | 0 | 0.0 s |
//! | 100 | in 3 places, 5 ms to a later one and 150 ms back, for 60 s | 0 | 0.0 s |
//! | 100 | 20 more of another cluster that know and address all, for 60 s | 0 | 0.0 s |
//!
//! What a node sends in a second where nothing happens, headers and the exchange of members included, simulated:
//!
//! | nodes | bytes |
//! | ---: | ---: |
//! | 3 | 980 |
//! | 10 | 1019 |
//! | 50 | 1243 |
//! | 100 | 1486 |
//! | 1000 | 1801 |
//!
//! With or without local health nobody dies who is well: an accuser tells the suspect seven times before it has it declared
//! dead, and whoever wakes up reads what came meanwhile before it looks at the time.
//!
//! # Example
//!
//! ```
//! use gridkv::sim::detection::{self, DetectionOptions};
//!
//! let mut options = DetectionOptions::default();
//! (options.nodes, options.rounds) = (20, 3);
//! let found = detection::run(1, &options);
//! assert_eq!(found.times.len(), 3 * 19);
//! assert!(found.times.iter().all(|time| time.as_secs() < 3));
//! ```

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeSet, BinaryHeap};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::clock::Instant;
use crate::config::{DEFAULT_PROBE_PERIOD, DEFAULT_SUSPICION_TIMEOUT};
use crate::membership::{
    Change, EXCHANGE_SOON, Membership, MembershipAction, MembershipConfig, exchange_period,
};
use crate::types::{Boot, ClusterHash, Identity, NodeHash};

/// How many nodes there are, and what happens to them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DetectionOptions {
    /// How many nodes, 2 to 10,000.
    pub nodes: usize,
    /// How often one of them falls silent; it is started again after that.
    pub rounds: usize,
    /// How long all goes on where there are no rounds.
    pub time: Duration,
    /// The shortest and longest time that a datagram takes.
    pub delay: (Duration, Duration),
    /// Of a thousand datagrams, how many are lost.
    pub lost_per_mille: u32,
    /// How many nodes get stuck from time to time, and do nothing: the first ones.
    pub stuck_nodes: usize,
    /// How long they run in between, and then stand still: up to twice this each, at random.
    pub stuck: (Duration, Duration),
    /// [`Config::local_health`](crate::Config::local_health).
    pub local_health: bool,
    /// How many times a node is killed and another life begins at its address soon after: its own next one, or, every
    /// other time, that of another node. Five in a second.
    pub changes: usize,
    /// In how many places the nodes stand, in turn, and how long a datagram takes from a place to a later one, and back.
    pub places: usize,
    /// See there.
    pub far: (Duration, Duration),
    /// For how many pairs of nodes all datagrams from the one to the other are lost. Those back are not.
    pub one_way_cuts: usize,
    /// How many nodes hear nothing, though they are heard: the first ones.
    pub deaf_nodes: usize,
    /// How many more nodes know all the others and send to them, but are of another cluster.
    pub strangers: usize,
}

impl Default for DetectionOptions {
    /// Twenty nodes on a LAN without faults, of which one after the other falls silent.
    fn default() -> Self {
        Self {
            nodes: 20,
            rounds: 10,
            time: Duration::from_secs(60),
            delay: (Duration::from_micros(50), Duration::from_millis(1)),
            lost_per_mille: 0,
            stuck_nodes: 0,
            stuck: (Duration::from_secs(1), Duration::from_secs(1)),
            local_health: true,
            changes: 0,
            places: 1,
            far: (Duration::ZERO, Duration::ZERO),
            one_way_cuts: 0,
            deaf_nodes: 0,
            strangers: 0,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Detection {
    /// Of every node that fell silent and every other node, after how long the one was dead to the other.
    pub times: Vec<Duration>,
    /// How many pairs there were where that took more than [`LIMIT`].
    pub unnoticed: usize,
    /// How often a node that ran all the time was found dead by somebody.
    pub healthy_found_dead: usize,
    /// How often one that was stuck from time to time, or deaf, was.
    pub stuck_found_dead: usize,
    /// Where members changed, or were in trouble: how long it took in the end until all that hear saw each other, and
    /// nobody else. `None` where it took more than [`LIMIT`].
    pub agreed_after: Option<Duration>,
    /// How many bytes each node sent in a second, headers of IP and UDP (28 bytes) included, in the mean over those that
    /// ran.
    pub bytes_per_second: f64,
    /// How long all went on.
    pub simulated: Duration,
}

/// How long it is waited for a node that fell silent to be found dead.
pub const LIMIT: Duration = Duration::from_secs(30);

/// How long nodes are left alone once they have joined, so that gossip about that ends.
const QUIET: Duration = Duration::from_secs(15);

/// How far apart changes of members are.
const CHANGES_EVERY: Duration = Duration::from_millis(200);

const HEADERS: usize = 28;

/// What telling of one member takes.
const EXCHANGED_BYTES: usize = 48;

/// Runs it; equal seeds and options give equal results.
///
/// # Panics
///
/// Where there are fewer than 2 nodes or more than 10,000, or the shortest delay is above the longest.
pub fn run(seed: u64, options: &DetectionOptions) -> Detection {
    assert!((2..=10_000).contains(&options.nodes), "2 to 10,000 nodes");
    assert!(options.delay.0 <= options.delay.1, "the shortest delay is above the longest");
    let mut net = Net::new(seed, options.clone());
    net.join_all();
    net.run_until(net.now + QUIET);
    net.count_from_here();
    net.begin_to_get_stuck();
    net.cut_one_way();
    if options.rounds == 0 {
        net.run_until(net.now + options.time);
    }
    for _ in 0..options.rounds {
        net.silence_one();
    }
    net.change_members();
    let has_trouble = options.one_way_cuts + options.deaf_nodes + options.strangers > 0;
    if options.changes > 0 || has_trouble {
        net.wait_for_agreement();
    }
    let seconds = net.now.since(net.began).as_secs_f64();
    net.found.bytes_per_second = net.bytes as f64 / options.nodes as f64 / seconds;
    net.found.simulated = net.now.since(Instant::default());
    net.found
}

/// At equal times datagrams come before timers, as on a node that has slept.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives {
        to: usize,
        from: SocketAddr,
        datagram: Vec<u8>,
    },
    Wakes {
        node: usize,
    },
    GetsStuck {
        node: usize,
    },
    /// It asks another one whom it knows, over a connection.
    Exchanges {
        node: usize,
    },
}

struct Node {
    membership: Membership,
    identity: Identity,
    /// It sends and receives nothing any more.
    is_silent: bool,
    stuck_until: Instant,
    /// For when an event is under way that wakes it.
    wakes_at: Option<Instant>,
}

struct Net {
    options: DetectionOptions,
    random: SmallRng,
    seed: u64,
    now: Instant,
    began: Instant,
    bytes: usize,
    nodes: Vec<Node>,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    events_made: u64,
    /// Who has not noticed yet that the silent one is, since when.
    silent: Option<(usize, Instant, BTreeSet<usize>)>,
    /// Lives that somebody took for over while they were not.
    found_dead: BTreeSet<Identity>,
    /// Nothing gets from the one to the other.
    cuts: BTreeSet<(usize, usize)>,
    found: Detection,
}

impl Net {
    fn new(seed: u64, options: DetectionOptions) -> Self {
        let mut net = Self {
            random: SmallRng::seed_from_u64(seed),
            seed,
            now: Instant::from_nanos(1),
            began: Instant::default(),
            bytes: 0,
            nodes: Vec::new(),
            events: BinaryHeap::new(),
            events_made: 0,
            silent: None,
            found_dead: BTreeSet::new(),
            cuts: BTreeSet::new(),
            found: Detection::default(),
            options,
        };
        for node in 0..net.options.nodes + net.options.strangers {
            let ip = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 1).to_bits() + node as u32);
            let hash = NodeHash::of(cluster(), &format!("node-{node}"));
            let identity = Identity { node: hash, boot: Boot(1), returns: 0, addr: (ip, 8000).into() };
            let membership = net.membership(node, identity);
            let (is_silent, stuck_until) = (false, Instant::default());
            net.nodes.push(Node { membership, identity, is_silent, stuck_until, wakes_at: None });
        }
        net
    }

    fn membership(&self, node: usize, identity: Identity) -> Membership {
        let is_stranger = node >= self.options.nodes;
        Membership::new(MembershipConfig {
            cluster: if is_stranger { ClusterHash::of("another") } else { cluster() },
            identity,
            probe_period: DEFAULT_PROBE_PERIOD,
            suspicion_timeout: DEFAULT_SUSPICION_TIMEOUT,
            local_health: self.options.local_health,
            seed: self.seed ^ identity.node.0 ^ identity.boot.0,
        })
    }

    /// All know all, from some moment of the first second on.
    fn join_all(&mut self) {
        let ours = self.nodes.iter().take(self.options.nodes);
        let records: Vec<_> = ours.flat_map(|node| node.membership.records()).collect();
        let mut order: Vec<(Instant, usize)> = Vec::new();
        for node in 0..self.nodes.len() {
            order.push((self.now + self.random_up_to(DEFAULT_PROBE_PERIOD), node));
        }
        order.sort_unstable();
        for (at, node) in order {
            self.run_until(at);
            self.act(node, |membership, now, actions| membership.learn(now, &records, actions));
            self.push(self.now + EXCHANGE_SOON, Event::Exchanges { node });
        }
    }

    fn count_from_here(&mut self) {
        (self.began, self.bytes) = (self.now, 0);
        self.found_dead.clear();
        (self.found.healthy_found_dead, self.found.stuck_found_dead) = (0, 0);
    }

    fn cut_one_way(&mut self) {
        while self.cuts.len() < self.options.one_way_cuts {
            let (from, to) = (self.pick(), self.pick());
            if from != to {
                self.cuts.insert((from, to));
            }
        }
    }

    fn begin_to_get_stuck(&mut self) {
        for node in 0..self.options.stuck_nodes.min(self.nodes.len()) {
            let at = self.now + self.random_up_to(self.options.stuck.0 * 2);
            self.push(at, Event::GetsStuck { node });
        }
    }

    fn random_up_to(&mut self, most: Duration) -> Duration {
        Duration::from_nanos(self.random.random_range(0..=most.as_nanos() as u64))
    }

    /// One of those that are never stuck falls silent; once all have noticed, it is started again.
    fn silence_one(&mut self) {
        let after = self.random_up_to(DEFAULT_PROBE_PERIOD);
        self.run_until(self.now + after);
        let victim = self.pick();
        let observers = (0..self.options.nodes).filter(|node| *node != victim).collect();
        self.nodes[victim].is_silent = true;
        self.silent = Some((victim, self.now, observers));
        let until = self.now + LIMIT;
        while self.now < until && self.silent.as_ref().is_some_and(|(.., left)| !left.is_empty()) {
            self.run_until((self.now + Duration::from_millis(10)).min(until));
        }
        self.found.unnoticed += self.silent.take().map_or(0, |(.., left)| left.len());
        self.start_again(victim, self.nodes[victim].identity.node);
        self.run_until(self.now + QUIET / 3);
    }

    /// One of those that are neither stuck nor deaf from time to time.
    fn pick(&mut self) -> usize {
        let troubled = self.options.stuck_nodes.max(self.options.deaf_nodes);
        self.random.random_range(troubled.min(self.options.nodes - 1)..self.options.nodes)
    }

    /// A life of `id` begins at the node's address: it is told of the others by one that runs, and says that it is there.
    fn start_again(&mut self, node: usize, id: NodeHash) {
        let before = self.nodes[node].identity;
        let identity = Identity { node: id, boot: Boot(before.boot.0 + 1), returns: 0, ..before };
        let runs = |other: &usize| *other != node && !self.nodes[*other].is_silent;
        let Some(seed) = (node + 1..self.options.nodes).chain(0..node).find(runs) else { return };
        let (records, seed) = (self.nodes[seed].membership.records(), self.nodes[seed].identity);
        self.nodes[node].membership = self.membership(node, identity);
        (self.nodes[node].identity, self.nodes[node].is_silent) = (identity, false);
        self.act(node, |membership, now, actions| {
            membership.learn(now, &records, actions);
            membership.announce_to(now, seed, actions);
        });
        self.push(self.now + EXCHANGE_SOON, Event::Exchanges { node });
    }

    /// Nodes are killed, and others begin where they were.
    fn change_members(&mut self) {
        let mut down: Vec<(Instant, usize)> = Vec::new();
        for change in 0..self.options.changes {
            let node = self.pick();
            if !self.nodes[node].is_silent {
                self.nodes[node].is_silent = true;
                let back_at = self.now + self.random_up_to(CHANGES_EVERY * 10);
                down.push((back_at, node));
            }
            self.run_until(self.now + CHANGES_EVERY);
            let is_last = change + 1 == self.options.changes;
            for (_, node) in down.extract_if(.., |(at, _)| is_last || *at <= self.now).collect::<Vec<_>>() {
                let own = self.nodes[node].identity.node;
                let id = if change % 2 == 0 { own } else { NodeHash(own.0 ^ (change as u64 + 1)) };
                self.start_again(node, id);
            }
        }
    }

    fn wait_for_agreement(&mut self) {
        let from = self.now;
        while self.now < from + LIMIT {
            if self.all_agree() {
                self.found.agreed_after = Some(self.now.since(from));
                return;
            }
            self.run_until(self.now + CHANGES_EVERY / 2);
        }
    }

    fn all_agree(&self) -> bool {
        let heard = || self.nodes[..self.options.nodes].iter().skip(self.options.deaf_nodes);
        let alive: BTreeSet<Identity> = heard().map(|node| node.identity.life()).collect();
        heard().all(|node| {
            let records = node.membership.records().into_iter().filter(|known| known.state.is_active());
            records.map(|known| known.identity.life()).collect::<BTreeSet<_>>() == alive
        })
    }

    fn push(&mut self, at: Instant, event: Event) {
        self.events_made += 1;
        self.events.push(Reverse((at, self.events_made, event)));
    }

    fn run_until(&mut self, end: Instant) {
        while self.events.peek().is_some_and(|Reverse((at, ..))| *at <= end) {
            let Some(Reverse((at, _, event))) = self.events.pop() else { break };
            self.now = at;
            self.happens(event);
        }
        self.now = end;
    }

    fn happens(&mut self, event: Event) {
        let node = match event {
            Event::Arrives { to, .. } => to,
            Event::Wakes { node } | Event::GetsStuck { node } | Event::Exchanges { node } => node,
        };
        let stuck_until = self.nodes[node].stuck_until;
        if stuck_until > self.now {
            // It reads what waits for it before it looks at the time.
            let after = Duration::from_nanos(u64::from(matches!(event, Event::Wakes { .. })));
            return self.push(stuck_until + after, event);
        }
        match event {
            Event::Arrives { from, datagram, .. } if !self.nodes[node].is_silent => {
                self.act(node, |membership, now, actions| {
                    // What is wrong with it would be found by the tests of membership.
                    let _ = membership.handle_datagram(now, from, &datagram, actions);
                });
            }
            Event::Wakes { .. } => {
                if self.nodes[node].wakes_at.is_some_and(|at| at <= self.now) {
                    self.nodes[node].wakes_at = None;
                    self.act(node, |membership, now, actions| membership.handle_timers(now, actions));
                }
            }
            Event::GetsStuck { .. } => {
                let (runs, stands) = self.options.stuck;
                let until = self.now + self.random_up_to(stands * 2);
                self.nodes[node].stuck_until = until;
                let next = until + self.random_up_to(runs * 2) + Duration::from_nanos(2);
                self.push(next, Event::GetsStuck { node });
            }
            Event::Exchanges { .. } => {
                self.exchange(node);
                self.push(self.now + exchange_period(self.options.nodes), Event::Exchanges { node });
            }
            Event::Arrives { .. } => {}
        }
    }

    fn exchange(&mut self, node: usize) {
        let other = self.random.random_range(0..self.options.nodes);
        let is_reached = node != other
            && [node, other].iter().all(|it| !self.nodes[*it].is_silent && *it >= self.options.deaf_nodes);
        if is_reached && node < self.options.nodes {
            let records = self.nodes[other].membership.records();
            self.bytes += EXCHANGED_BYTES * (records.len() + 1);
            self.act(node, |membership, now, actions| membership.learn(now, &records, actions));
        }
    }

    fn act(&mut self, node: usize, work: impl FnOnce(&mut Membership, Instant, &mut Vec<MembershipAction>)) {
        let mut actions = Vec::new();
        work(&mut self.nodes[node].membership, self.now, &mut actions);
        for action in actions {
            match action {
                MembershipAction::Send { to, datagram } => self.send(node, to, datagram),
                MembershipAction::Changed(change) => self.changed(node, change),
            }
        }
        let Some(deadline) = self.nodes[node].membership.deadline() else { return };
        let deadline = deadline.max(self.now);
        if self.nodes[node].wakes_at.is_none_or(|at| deadline < at) {
            self.nodes[node].wakes_at = Some(deadline);
            self.push(deadline, Event::Wakes { node });
        }
    }

    fn send(&mut self, from: usize, to: SocketAddr, datagram: Vec<u8>) {
        if self.nodes[from].is_silent {
            return;
        }
        self.bytes += datagram.len() + HEADERS;
        let SocketAddr::V4(address) = to else { return };
        let number = address.ip().to_bits() - Ipv4Addr::new(10, 0, 0, 1).to_bits();
        let (to, options) = (number as usize, &self.options);
        let is_lost = self.random.random_range(0..1000) < options.lost_per_mille;
        if is_lost || to >= self.nodes.len() || to < options.deaf_nodes || self.cuts.contains(&(from, to)) {
            return;
        }
        let (here, there) = (from % options.places, to % options.places);
        let far = match here.cmp(&there) {
            Ordering::Less => options.far.0,
            Ordering::Equal => Duration::ZERO,
            Ordering::Greater => options.far.1,
        };
        let (least, most) = options.delay;
        let at = self.now + far + least + self.random_up_to(most - least);
        let from = self.nodes[from].identity.addr;
        self.push(at, Event::Arrives { to, from, datagram });
    }

    fn changed(&mut self, observer: usize, change: Change) {
        let Change::Down(dead) = change else { return };
        let of = self.nodes.iter().position(|node| node.identity.addr == dead.addr);
        let Some(of) = of.filter(|of| self.nodes[*of].identity.life() == dead.life()) else { return };
        let is_one_of_us = (self.options.deaf_nodes..self.options.nodes).contains(&observer);
        if self.nodes[observer].is_silent || !is_one_of_us {
            // All others are, to it.
            return;
        }
        if let Some((_, since, left)) = self.silent.as_mut().filter(|(victim, ..)| *victim == of) {
            if left.remove(&observer) {
                self.found.times.push(self.now.since(*since));
            }
        } else if !self.nodes[of].is_silent && self.found_dead.insert(dead) {
            let is_stuck = of < self.options.stuck_nodes.max(self.options.deaf_nodes);
            *if is_stuck { &mut self.found.stuck_found_dead } else { &mut self.found.healthy_found_dead } +=
                1;
        }
    }
}

fn cluster() -> ClusterHash {
    ClusterHash::of("detection")
}
