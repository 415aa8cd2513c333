//! A network in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::clock::Instant;
use crate::config::{DEFAULT_PROBE_PERIOD, DEFAULT_SUSPICION_TIMEOUT};
use crate::membership::*;
use crate::types::{Boot, ClusterHash, Identity, NodeHash};

pub(super) const SEND_TIME: Duration = Duration::from_micros(300);

pub(super) fn addr(node: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 8000 + node))
}

pub(super) fn first_life(node: u16) -> Identity {
    Identity {
        node: NodeHash(u64::from(node) << 48),
        boot: Boot(1000),
        returns: 0,
        addr: addr(node),
    }
}

pub(super) fn config(identity: Identity, seed: u64) -> MembershipConfig {
    MembershipConfig {
        cluster: ClusterHash::of("test"),
        identity,
        probe_period: DEFAULT_PROBE_PERIOD,
        suspicion_timeout: DEFAULT_SUSPICION_TIMEOUT,
        local_health: true,
        is_member: true,
        seed: seed ^ identity.node.0,
    }
}

/// The cluster, its clock, and everything that happened.
pub(super) struct Net {
    pub(super) now: Instant,
    pub(super) seed: u64,
    pub(super) nodes: BTreeMap<SocketAddr, Membership>,
    /// From where, to where, and what; without bytes it is what a node that was dialled says, which
    /// is who it is.
    pub(super) in_flight: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    pub(super) sent: u64,
    /// They run, but what they send and what they are sent is lost.
    pub(super) cut_off: BTreeSet<SocketAddr>,
    /// It is behind a gateway that translates addresses; see [`translated`].
    pub(super) behind_gateway: Option<SocketAddr>,
    /// They do not run, and what they are sent lies in their sockets.
    paused: BTreeMap<SocketAddr, Vec<(SocketAddr, Vec<u8>)>>,
    /// Every datagram and every change, as (where, what).
    pub(super) trace: Vec<(SocketAddr, MembershipAction)>,
    pub(super) errors: Vec<DatagramError>,
}

impl Net {
    pub(super) fn empty(seed: u64) -> Self {
        Self {
            now: Instant::from_nanos(1),
            seed,
            nodes: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            sent: 0,
            cut_off: BTreeSet::new(),
            behind_gateway: None,
            paused: BTreeMap::new(),
            trace: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Nodes `1..=count`, joined through the first, for two seconds.
    pub(super) fn joined(count: u16, seed: u64) -> Self {
        let mut net = Self::empty(seed);
        (1..=count).for_each(|node| net.start(first_life(node)));
        (2..=count).for_each(|node| net.join(node, 1));
        net.run(Duration::from_secs(2));
        net
    }

    pub(super) fn start(&mut self, identity: Identity) {
        self.cut_off.remove(&identity.addr);
        self.nodes.insert(identity.addr, Membership::new(config(identity, self.seed)));
    }

    /// Fetches the list of members, as over TCP, and introduces the newcomer, which was dialled
    /// before.
    pub(super) fn join(&mut self, node: u16, through: u16) {
        let records = self.at(through).records();
        let (newcomer, seed) = (self.at(node).identity(), self.at(through).identity());
        self.act(through, |membership, now, _| membership.meet(now, &newcomer));
        self.act(node, |membership, now, actions| {
            membership.meet(now, &seed);
            membership.learn(now, &records, actions);
            membership.announce_to(now, seed, actions);
        });
    }

    pub(super) fn at(&self, node: u16) -> &Membership {
        &self.nodes[&addr(node)]
    }

    pub(super) fn act(
        &mut self,
        node: u16,
        act: impl FnOnce(&mut Membership, Instant, &mut Vec<MembershipAction>),
    ) {
        self.act_at(addr(node), act);
    }

    pub(super) fn act_at(
        &mut self,
        at: SocketAddr,
        act: impl FnOnce(&mut Membership, Instant, &mut Vec<MembershipAction>),
    ) {
        let mut actions = Vec::new();
        act(self.nodes.get_mut(&at).expect("a node of this test"), self.now, &mut actions);
        for action in actions {
            if let MembershipAction::Send { to, datagram }
            | MembershipAction::Answer { to, datagram, .. } = &action
            {
                assert!(datagram.len() <= codec::MAX_DATAGRAM_BYTES && *to != at);
                self.sent += 1;
                self.in_flight
                    .insert((self.now + SEND_TIME, self.sent), (at, *to, datagram.clone()));
            }
            if let MembershipAction::Meet(node) = &action {
                // A connection and a HELLO.
                self.sent += 1;
                self.in_flight
                    .insert((self.now + 4 * SEND_TIME, self.sent), (node.addr, at, vec![]));
            }
            self.trace.push((at, action));
        }
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let arrival = self.in_flight.first_key_value().map(|((at, _), _)| *at);
            let running = self.nodes.iter().filter(|(at, _)| !self.paused.contains_key(at));
            let deadlines = running.map(|(at, node)| node.deadline().map(|due| (due, *at)));
            let wake = deadlines.flatten().min();
            let next = arrival.into_iter().chain(wake.map(|(deadline, _)| deadline)).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                self.deliver();
            } else if let Some((_, at)) = wake {
                self.act_at(at, |membership, now, actions| membership.handle_timers(now, actions));
            }
        }
        self.now = end;
    }

    /// Pauses a node for this time. When it goes on, it looks into its socket first.
    pub(super) fn pause(&mut self, node: u16, time: Duration) {
        self.paused.insert(addr(node), Vec::new());
        self.run(time);
        let waiting = self.paused.remove(&addr(node)).expect("it is paused");
        waiting
            .into_iter()
            .for_each(|(from, datagram)| self.hand_over(from, addr(node), &datagram));
    }

    /// Runs until the condition holds, to a fraction of the time that a datagram takes.
    pub(super) fn run_until(&mut self, condition: impl Fn(&Self) -> bool) {
        for _ in 0..100_000 {
            if condition(self) {
                return;
            }
            self.run(SEND_TIME / 3);
        }
        panic!("it did not happen within ten seconds");
    }

    pub(super) fn deliver(&mut self) {
        let Some((_, (mut from, mut to, datagram))) = self.in_flight.pop_first() else { return };
        if let Some(node) = self.behind_gateway.filter(|_| !datagram.is_empty()) {
            (from, to) = translated(node, from, to);
        }
        if self.cut_off.contains(&from)
            || self.cut_off.contains(&to)
            || !self.nodes.contains_key(&to)
        {
            return;
        }
        match self.paused.get_mut(&to) {
            Some(waiting) => waiting.push((from, datagram)),
            None => self.hand_over(from, to, &datagram),
        }
    }

    fn hand_over(&mut self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        if datagram.is_empty() {
            let Some(node) = self.nodes.get(&from).map(Membership::identity) else { return };
            return self.act_at(to, |membership, now, actions| {
                membership.meet(now, &node);
                membership.announce_to(now, node, actions);
            });
        }
        let mut result = Ok(());
        self.act_at(to, |membership, now, actions| {
            result = membership.handle_datagram(now, from, datagram, actions);
        });
        self.errors.extend(result.err());
    }

    pub(super) fn changes(&self, node: u16) -> Vec<Change> {
        let here = self.trace.iter().filter(|(at, _)| *at == addr(node));
        let changes = here.filter_map(|(_, action)| match action {
            MembershipAction::Changed(change) => Some(change.clone()),
            _ => None,
        });
        changes.collect()
    }

    pub(super) fn state(&self, node: u16, of: Identity) -> Option<State> {
        self.at(node).members().find(|(identity, ..)| *identity == of).map(|(_, state, _)| state)
    }

    pub(super) fn assert_state(&self, nodes: &[u16], of: Identity, expected: State) {
        for &node in nodes {
            assert_eq!(self.state(node, of), Some(expected), "of {of:?} at node {node}");
        }
    }
}

/// Returns from where, and where, a datagram arrives if `node` is behind a gateway. What the node
/// sends seems to come from the gateway, and so does what it is sent; but its answer to where that
/// seemed to come from finds its way back, and seems to come from the node's own address.
fn translated(node: SocketAddr, from: SocketAddr, to: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (outside, inside) = (Ipv4Addr::new(10, 0, 0, 254), Ipv4Addr::new(10, 0, 0, 253));
    if to == node {
        return ((inside, from.port()).into(), to);
    }
    if from != node {
        return (from, to);
    }
    if to.ip() == inside {
        (from, (addr(0).ip(), to.port()).into())
    } else {
        ((outside, 40_000).into(), to)
    }
}
