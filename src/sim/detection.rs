//! How soon silent members are found dead, and how often living members are taken for dead.
//!
//! It runs membership alone: with whole nodes a thousand of them would not fit. The figures, and
//! the command that repeats them, are in `simulate/RESULTS.md`.
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
    /// How many nodes there are, 2 to 10,000.
    pub nodes: usize,
    /// How many times a node falls silent; it is started again after that.
    pub rounds: usize,
    /// How long to run if there are no rounds.
    pub time: Duration,
    /// The shortest and longest time that a datagram takes.
    pub delay: (Duration, Duration),
    /// How many of a thousand datagrams are lost.
    pub lost_per_mille: u32,
    /// How many nodes, the first ones, get stuck from time to time and do nothing.
    pub stuck_nodes: usize,
    /// How long the stuck nodes run in between, and how long they stand still, on average. At
    /// random it is up to twice as long.
    pub stuck: (Duration, Duration),
    /// Whether nodes in trouble accuse more slowly:
    /// [`Config::local_health`](crate::Config::local_health).
    pub local_health: bool,
    /// How many times a node is killed, five in a second. Another life begins at its address soon
    /// after: its own next one or, every other time, that of a new node.
    pub changes: usize,
    /// The number of places in which the nodes stand: node `n` in place `n % places`.
    pub places: usize,
    /// How much longer a datagram takes from a place to a later one, and back.
    pub far: (Duration, Duration),
    /// The number of pairs of nodes for which all datagrams from the first to the second are lost.
    pub one_way_cuts: usize,
    /// How many nodes, the first ones, hear nothing though they are heard.
    pub deaf_nodes: usize,
    /// How many more nodes, of another cluster, know all nodes and send to them.
    pub strangers: usize,
}

impl Default for DetectionOptions {
    /// Returns twenty nodes on a LAN without faults, of which one after the other falls silent.
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

/// What a run found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Detection {
    /// How long it took until a silent node was dead to another node, for each such pair.
    pub times: Vec<Duration>,
    /// How many pairs took longer than [`LIMIT`].
    pub unnoticed: usize,
    /// How many lives of nodes that ran all the time were taken for dead by a node.
    pub healthy_found_dead: usize,
    /// How many lives of stuck or deaf nodes were taken for dead by a node.
    pub stuck_found_dead: usize,
    /// How long it took in the end until all nodes that hear saw exactly each other. `None` if it
    /// took longer than [`LIMIT`], or if no members changed or were in trouble.
    pub agreed_after: Option<Duration>,
    /// How many bytes a node sent in a second on average, headers of IP and UDP (28 bytes)
    /// included.
    pub bytes_per_second: f64,
    /// How much time was simulated.
    pub simulated: Duration,
}

/// How long a silent node may take to be found dead.
pub const LIMIT: Duration = Duration::from_secs(30);

/// How long nodes are left alone once they have joined, so that gossip about that ends.
const QUIET: Duration = Duration::from_secs(15);

/// How far apart changes of members are.
const CHANGES_EVERY: Duration = Duration::from_millis(200);

/// What a datagram has in headers of IP and UDP, in bytes.
const HEADERS: usize = 28;

/// What one member takes in an exchange of members, in bytes.
const EXCHANGED_BYTES: usize = 48;

/// Runs what the options say. Equal seeds and options give equal results.
///
/// # Panics
///
/// If there are fewer than 2 nodes or more than 10,000, or the shortest delay is above the longest.
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
enum SimEvent {
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
    /// A node asks another one for the members that it knows, over a connection.
    Exchanges {
        node: usize,
    },
}

struct Node {
    membership: Membership,
    identity: Identity,
    /// Whether it sends and receives nothing any more.
    is_silent: bool,
    stuck_until: Instant,
    /// When the event that wakes it is due, if one is scheduled.
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
    events: BinaryHeap<Reverse<(Instant, u64, SimEvent)>>,
    events_made: u64,
    /// The silent node, since when it is, and the nodes that have not noticed yet.
    silent: Option<(usize, Instant, BTreeSet<usize>)>,
    /// Lives that a node took for over though they were not.
    found_dead: BTreeSet<Identity>,
    /// Pairs of nodes: nothing gets from the first to the second.
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
            let identity =
                Identity { node: hash, boot: Boot(1), returns: 0, addr: (ip, 8000).into() };
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
            is_member: true,
            seed: self.seed ^ identity.node.0 ^ identity.boot.0,
        })
    }

    /// Lets all nodes know all others, each from a moment of the first probe period on.
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
            self.push(self.now + EXCHANGE_SOON, SimEvent::Exchanges { node });
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
            self.push(at, SimEvent::GetsStuck { node });
        }
    }

    fn random_up_to(&mut self, longest: Duration) -> Duration {
        Duration::from_nanos(self.random.random_range(0..=longest.as_nanos() as u64))
    }

    /// Silences a node that is never stuck; starts it again when all have noticed.
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

    /// Picks a node that is never stuck or deaf.
    fn pick(&mut self) -> usize {
        let troubled = self.options.stuck_nodes.max(self.options.deaf_nodes);
        self.random.random_range(troubled.min(self.options.nodes - 1)..self.options.nodes)
    }

    /// Begins a life of `id` at the node's address. A running node tells it of the others, and it
    /// announces itself.
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
        self.push(self.now + EXCHANGE_SOON, SimEvent::Exchanges { node });
    }

    /// Kills nodes, and starts others at their addresses.
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
            for (_, node) in
                down.extract_if(.., |(at, _)| is_last || *at <= self.now).collect::<Vec<_>>()
            {
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
            let records =
                node.membership.records().into_iter().filter(|known| known.state.is_active());
            records.map(|known| known.identity.life()).collect::<BTreeSet<_>>() == alive
        })
    }

    fn push(&mut self, at: Instant, event: SimEvent) {
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

    fn happens(&mut self, event: SimEvent) {
        let node = match event {
            SimEvent::Arrives { to, .. } => to,
            SimEvent::Wakes { node }
            | SimEvent::GetsStuck { node }
            | SimEvent::Exchanges { node } => node,
        };
        let stuck_until = self.nodes[node].stuck_until;
        if stuck_until > self.now {
            // A node that wakes up reads what waits for it before it looks at the time.
            let after = Duration::from_nanos(u64::from(matches!(event, SimEvent::Wakes { .. })));
            return self.push(stuck_until + after, event);
        }
        match event {
            SimEvent::Arrives { from, datagram, .. } if !self.nodes[node].is_silent => {
                self.act(node, |membership, now, actions| {
                    // What is wrong with it would be found by the tests of membership.
                    let _ = membership.handle_datagram(now, from, &datagram, actions);
                });
            }
            SimEvent::Wakes { .. } => {
                if self.nodes[node].wakes_at.is_some_and(|at| at <= self.now) {
                    self.nodes[node].wakes_at = None;
                    self.act(node, |membership, now, actions| {
                        membership.handle_timers(now, actions)
                    });
                }
            }
            SimEvent::GetsStuck { .. } => {
                let (runs, stands) = self.options.stuck;
                let until = self.now + self.random_up_to(stands * 2);
                self.nodes[node].stuck_until = until;
                let next = until + self.random_up_to(runs * 2) + Duration::from_nanos(2);
                self.push(next, SimEvent::GetsStuck { node });
            }
            SimEvent::Exchanges { .. } => {
                self.exchange(node);
                self.push(
                    self.now + exchange_period(self.options.nodes),
                    SimEvent::Exchanges { node },
                );
            }
            SimEvent::Arrives { .. } => {}
        }
    }

    fn exchange(&mut self, node: usize) {
        let other = self.random.random_range(0..self.options.nodes);
        let is_reached = node != other
            && [node, other]
                .iter()
                .all(|it| !self.nodes[*it].is_silent && *it >= self.options.deaf_nodes);
        if is_reached && node < self.options.nodes {
            let records = self.nodes[other].membership.records();
            self.bytes += EXCHANGED_BYTES * (records.len() + 1);
            self.act(node, |membership, now, actions| membership.learn(now, &records, actions));
        }
    }

    fn act(
        &mut self,
        node: usize,
        work: impl FnOnce(&mut Membership, Instant, &mut Vec<MembershipAction>),
    ) {
        let mut actions = Vec::new();
        work(&mut self.nodes[node].membership, self.now, &mut actions);
        for action in actions {
            match action {
                MembershipAction::Send { to, datagram }
                | MembershipAction::Answer { to, datagram, .. } => self.send(node, to, datagram),
                MembershipAction::Changed(change) => self.changed(node, change),
                MembershipAction::Meet(other) => self.meet(node, other),
                MembershipAction::LeftOut(count) => panic!("{count} members were left out"),
            }
        }
        let Some(deadline) = self.nodes[node].membership.deadline() else { return };
        let deadline = deadline.max(self.now);
        if self.nodes[node].wakes_at.is_none_or(|at| deadline < at) {
            self.nodes[node].wakes_at = Some(deadline);
            self.push(deadline, SimEvent::Wakes { node });
        }
    }

    /// Has a node dial another one. A connection takes no time here.
    fn meet(&mut self, node: usize, other: Identity) {
        let is_it = |it: &Node| it.identity.life() == other.life() && !it.is_silent;
        let found = self.nodes.iter().position(is_it);
        let is_open = |there: &usize| {
            let ways = [(node, *there), (*there, node)];
            ways.iter().all(|way| !self.cuts.contains(way)) && *there < self.options.nodes
        };
        if found.filter(is_open).is_some() && !self.nodes[node].is_silent {
            self.act(node, |membership, now, actions| {
                membership.meet(now, &other);
                membership.announce_to(now, other, actions);
            });
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
        if is_lost
            || to >= self.nodes.len()
            || to < options.deaf_nodes
            || self.cuts.contains(&(from, to))
        {
            return;
        }
        let (here, there) = (from % options.places, to % options.places);
        let far = match here.cmp(&there) {
            Ordering::Less => options.far.0,
            Ordering::Equal => Duration::ZERO,
            Ordering::Greater => options.far.1,
        };
        let (shortest, longest) = options.delay;
        let at = self.now + far + shortest + self.random_up_to(longest - shortest);
        let from = self.nodes[from].identity.addr;
        self.push(at, SimEvent::Arrives { to, from, datagram });
    }

    fn changed(&mut self, observer: usize, change: Change) {
        let Change::Down(dead) = change else { return };
        let of = self.nodes.iter().position(|node| node.identity.addr == dead.addr);
        let Some(of) = of.filter(|of| self.nodes[*of].identity.life() == dead.life()) else {
            return;
        };
        let is_one_of_us = (self.options.deaf_nodes..self.options.nodes).contains(&observer);
        if self.nodes[observer].is_silent || !is_one_of_us {
            // To it all others are dead.
            return;
        }
        if let Some((_, since, left)) = self.silent.as_mut().filter(|(victim, ..)| *victim == of) {
            if left.remove(&observer) {
                self.found.times.push(self.now.since(*since));
            }
        } else if !self.nodes[of].is_silent && self.found_dead.insert(dead) {
            let is_stuck = of < self.options.stuck_nodes.max(self.options.deaf_nodes);
            *if is_stuck {
                &mut self.found.stuck_found_dead
            } else {
                &mut self.found.healthy_found_dead
            } += 1;
        }
    }
}

fn cluster() -> ClusterHash {
    ClusterHash::of("detection")
}
