//! Three nodes, and a host that forges what they say.
//!
//! **The game.** The input is a list of steps. In each, some time passes, and the attacker does one
//! thing: it sends a datagram to a node, from its own address or in the name of a member, or sends
//! again what a node was sent before, or it cuts a node off for a while. Then it goes, and the
//! nodes are left alone.
//!
//! | always | in the end |
//! |---|---|
//! | a node renews its identity once in a probe period | each node is alive to each other one |
//! | it becomes a later life at most once for each step | none is said to leave |
//! | no datagram is over the limit, or goes to its sender | |
//!
//! **What the attacker does not do.** It names no life that begins decades later, and no thousands
//! of returns: such a life keeps the node out for hours (`docs/security.md`). And it guesses no
//! number of a ping.
//!
//! Members that it invents are alive to the nodes for a while. They answer no probe, and die.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BufMut;
use foca::{Codec as _, Header, Member, Message};

use super::input::Input;
use super::nodes::{FIRST_BOOT, addr, cluster, first_life, membership};
use crate::clock::Instant;
use crate::config::DEFAULT_PROBE_PERIOD;
use crate::membership::claims::{Claim, ClaimKind, SaidClaim};
use crate::membership::codec::{
    Accusation, Charge, Codec, Datagram, MAX_DATAGRAM_BYTES, packet_of,
};
use crate::membership::{Change, Membership, MembershipAction, Record, State};
use crate::types::{Boot, Identity};

/// The nodes are numbered from one.
const NODES: u8 = 3;

/// The nodes that the attacker invents follow them; it is at the address of the last one.
const NAMES: u8 = 5;

/// How often the attacker acts.
const MAX_STEPS: u64 = 48;

/// How much later the lives begin that the attacker names, in milliseconds.
const LATER_BOOTS: [u64; 4] = [0, 1, 5, 40];

/// How many returns the lives have that it names.
const RETURNS: [u16; 8] = [0, 0, 0, 0, 1, 2, 3, 7];

/// How long what the attacker did last may take to show.
const SETTLING: Duration = Duration::from_secs(1);

/// For how long the nodes are left alone at most. A greeting to the dead, which heals a split,
/// comes every five seconds.
const PEACE: Duration = Duration::from_secs(60);

const SEND_TIME: Duration = Duration::from_micros(300);
const DIAL_TIME: Duration = Duration::from_micros(1200);
/// How often a node asks another one for the members that it knows.
const EXCHANGE_PERIOD: Duration = Duration::from_secs(2);

/// How many datagrams are remembered, to be sent again.
const REMEMBERED: usize = 16;

/// Plays the game of the input.
pub fn swim(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut net = Net::joined();
    let mut steps = 0;
    while !input.is_empty() && steps < MAX_STEPS {
        let pause = u64::from(input.byte().saturating_sub(100));
        net.run(Duration::from_micros(pause * pause * 40));
        net.attack(&mut input);
        steps += 1;
    }
    net.is_cut_off = [false; NODES as usize];
    net.run(SETTLING);
    let until = net.now + PEACE;
    while !net.is_at_peace() {
        assert!(net.now < until, "after {PEACE:?} of peace: {:#?}", net.views());
        net.run(Duration::from_millis(100));
    }
    for node in 1..=NODES {
        let identity = net.at(node).identity();
        let latest = FIRST_BOOT + LATER_BOOTS[LATER_BOOTS.len() - 1] + steps + 1;
        assert!(identity.boot.0 <= latest, "{identity:?}");
        assert_eq!(identity.life(), Identity { boot: identity.boot, ..first_life(node) });
    }
}

/// What happens at a time.
enum Event {
    Arrives {
        from: SocketAddr,
        to: u8,
        datagram: Vec<u8>,
    },
    /// The node that was dialled says who it is.
    Answers {
        node: u8,
        dialed: u8,
    },
    Exchanges {
        node: u8,
        with: u8,
    },
}

/// The nodes, and their network.
struct Net {
    now: Instant,
    nodes: Vec<Membership>,
    /// They run, but what they send and what they are sent is lost.
    is_cut_off: [bool; NODES as usize],
    /// When each has renewed its identity.
    renewed_at: [Option<Instant>; NODES as usize],
    events: BTreeMap<(Instant, u64), Event>,
    scheduled: u64,
    /// The last datagrams, each with its source and its receiver.
    seen: VecDeque<(SocketAddr, u8, Vec<u8>)>,
}

impl Net {
    /// Returns nodes that know each other.
    fn joined() -> Self {
        let mut net = Self {
            now: Instant::from_nanos(1),
            nodes: (1..=NODES).map(membership).collect(),
            is_cut_off: [false; NODES as usize],
            renewed_at: [None; NODES as usize],
            events: BTreeMap::new(),
            scheduled: 0,
            seen: VecDeque::new(),
        };
        for node in 1..=NODES {
            for other in (1..=NODES).filter(|other| *other != node) {
                net.exchange(node, other);
            }
            let after = EXCHANGE_PERIOD * u32::from(node) / u32::from(NODES);
            net.schedule(after, Event::Exchanges { node, with: node % NODES + 1 });
        }
        net
    }

    fn at(&self, node: u8) -> &Membership {
        &self.nodes[usize::from(node - 1)]
    }

    fn is_heard(&self, node: u8) -> bool {
        !self.is_cut_off[usize::from(node - 1)]
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.scheduled += 1;
        self.events.insert((self.now + after, self.scheduled), event);
    }

    /// Lets this much time pass.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let arrival = self.events.first_key_value().map(|((at, _), _)| *at);
            let deadlines = (1..=NODES).map(|node| (self.at(node).deadline(), node));
            let wake = deadlines.filter_map(|(at, node)| at.map(|at| (at, node))).min();
            let next = arrival.into_iter().chain(wake.map(|(at, _)| at)).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                self.happens();
            } else if let Some((_, node)) = wake {
                self.act(node, |it, now, actions| it.handle_timers(now, actions));
            }
        }
        self.now = end;
    }

    fn happens(&mut self) {
        let Some((_, event)) = self.events.pop_first() else { return };
        match event {
            Event::Arrives { from, to, datagram } if self.is_heard(to) => {
                self.act(to, |it, now, actions| {
                    let _ = it.handle_datagram(now, from, &datagram, actions);
                });
            }
            Event::Answers { node, dialed } if self.is_heard(node) && self.is_heard(dialed) => {
                let identity = self.at(dialed).identity();
                self.act(node, |it, now, actions| {
                    it.meet(now, &identity);
                    it.announce_to(now, identity, actions);
                });
            }
            Event::Exchanges { node, with } => {
                if self.is_heard(node) && self.is_heard(with) {
                    self.exchange(node, with);
                }
                let next = with % NODES + 1;
                let with = if next == node { next % NODES + 1 } else { next };
                self.schedule(EXCHANGE_PERIOD, Event::Exchanges { node, with });
            }
            Event::Arrives { .. } | Event::Answers { .. } => {}
        }
    }

    /// Has a node ask another one for all members that it knows, over a connection. One that is no
    /// living member to it is its seed, so the node introduces itself, too.
    fn exchange(&mut self, node: u8, with: u8) {
        let (identity, records) = (self.at(with).identity(), self.at(with).records());
        let is_it = |known: &Record| known.identity == identity && known.state.is_active();
        let is_seed = !self.at(node).records().iter().any(is_it);
        self.act(node, |it, now, actions| {
            it.meet(now, &identity);
            it.learn(now, &records, actions);
            if is_seed {
                it.announce_to(now, identity, actions);
            }
        });
    }

    /// Drives a node, and does what it asks for.
    fn act(
        &mut self,
        node: u8,
        act: impl FnOnce(&mut Membership, Instant, &mut Vec<MembershipAction>),
    ) {
        let mut actions = Vec::new();
        let before = self.at(node).identity();
        act(&mut self.nodes[usize::from(node - 1)], self.now, &mut actions);
        for action in actions {
            match action {
                MembershipAction::Send { to, datagram }
                | MembershipAction::Answer { to, datagram, .. } => self.send(node, to, datagram),
                MembershipAction::Meet(identity) => {
                    let dialed = (1..=NODES).find(|other| addr(*other) == identity.addr);
                    if let Some(dialed) = dialed {
                        self.schedule(DIAL_TIME, Event::Answers { node, dialed });
                    }
                }
                MembershipAction::Changed(Change::Returned(new)) => {
                    self.returned(node, &before, &new);
                }
                MembershipAction::Changed(_) | MembershipAction::LeftOut(_) => {}
            }
        }
    }

    fn send(&mut self, from: u8, to: SocketAddr, datagram: Vec<u8>) {
        assert!(datagram.len() <= MAX_DATAGRAM_BYTES, "{} bytes", datagram.len());
        assert_ne!(to, addr(from), "to itself");
        let Some(to) = (1..=NODES).find(|node| addr(*node) == to) else { return };
        if self.seen.len() == REMEMBERED {
            self.seen.pop_front();
        }
        self.seen.push_back((addr(from), to, datagram.clone()));
        if self.is_heard(from) {
            self.schedule(SEND_TIME, Event::Arrives { from: addr(from), to, datagram });
        }
    }

    /// Checks that a node does not renew its identity at the pace of datagrams. A list of members
    /// over a connection may make it a later life at any time.
    fn returned(&mut self, node: u8, before: &Identity, new: &Identity) {
        let renewed_at = &mut self.renewed_at[usize::from(node - 1)];
        if let Some(at) = renewed_at.replace(self.now)
            && before.boot == new.boot
        {
            let since = self.now.since(at);
            assert!(since >= DEFAULT_PROBE_PERIOD, "{before:?} became {new:?} after {since:?}");
        }
    }

    /// Whether all nodes are alive to each other.
    fn is_at_peace(&self) -> bool {
        (1..=NODES).all(|node| {
            let records = self.at(node).records();
            (1..=NODES).all(|other| {
                let identity = self.at(other).identity();
                records.contains(&Record { identity, state: State::Alive, leaving: false })
            })
        })
    }

    fn views(&self) -> Vec<(Identity, Vec<Record>)> {
        self.nodes.iter().map(|it| (it.identity(), it.records())).collect()
    }
}

// ── the attacker ──

impl Net {
    /// Does one thing.
    fn attack(&mut self, input: &mut Input<'_>) {
        let to = 1 + input.below(NODES);
        let (from, datagram) = match input.below(8) {
            6 => return self.send_again(input),
            7 => {
                let is_cut_off = &mut self.is_cut_off[usize::from(to - 1)];
                *is_cut_off = !*is_cut_off;
                return;
            }
            kind => {
                let by = self.identity(input);
                let from = source(by, input);
                let datagram = match kind {
                    4 => self.accusation(to, by, input).encode(cluster()),
                    5 => self.ping(to, by, input).encode(cluster()),
                    _ => Datagram::Swim(&self.packet(to, by, input)).encode(cluster()),
                };
                (from, datagram)
            }
        };
        // What seems to come from the node itself is answered there.
        if self.is_heard(to) && from != addr(to) {
            self.act(to, |it, now, actions| {
                let _ = it.handle_datagram(now, from, &datagram, actions);
            });
        }
    }

    fn send_again(&mut self, input: &mut Input<'_>) {
        let which = usize::from(input.byte());
        let Some((from, to, datagram)) = self.seen.get(which % self.seen.len().max(1)).cloned()
        else {
            return;
        };
        self.schedule(Duration::ZERO, Event::Arrives { from, to, datagram });
    }

    /// Returns an identity: that of a node, or one that nearly is.
    fn identity(&self, input: &mut Input<'_>) -> Identity {
        let (name, change) = (1 + input.below(NAMES), input.byte());
        let now = if name <= NODES { self.at(name).identity() } else { first_life(name) };
        match change {
            0..=127 => now,
            128..=159 => first_life(name),
            160..=191 => Identity { addr: addr(1 + input.below(NAMES)), ..now },
            _ => Identity {
                boot: Boot(FIRST_BOOT + input.one_of(&LATER_BOOTS)),
                returns: input.one_of(&RETURNS),
                ..now
            },
        }
    }

    /// Returns a packet for a node, with updates and claims.
    fn packet(&self, to: u8, src: Identity, input: &mut Input<'_>) -> Vec<u8> {
        let dst = if input.below(4) < 3 { self.at(to).identity() } else { self.identity(input) };
        let (src_incarnation, message) = (incarnation(input), self.message(input));
        let header = Header { src, src_incarnation, dst, message };
        let mut packet = packet_of(&header).expect("room");
        if header.message == Message::Announce {
            return packet;
        }
        if header.message != Message::Broadcast {
            let count = input.below(5);
            packet.put_u16(count.into());
            for _ in 0..count {
                let states = [foca::State::Alive, foca::State::Suspect, foca::State::Down];
                let (of, state) = (self.identity(input), input.one_of(&states));
                let update = Member::new(of, incarnation(input), state);
                Codec.encode_member(&update, &mut packet).expect("room");
            }
        }
        for _ in 0..input.below(3) {
            let kind = input.one_of(&[ClaimKind::Leaving, ClaimKind::Left]);
            let claim = SaidClaim::from(Claim { identity: self.identity(input), kind }).encode();
            packet.put_u16(claim.len() as u16);
            packet.put_slice(&claim);
        }
        packet
    }

    fn message(&self, input: &mut Input<'_>) -> Message<Identity> {
        let (tag, probe_number) = (input.below(11), input.byte());
        match tag {
            0 | 1 => Message::Gossip,
            2 => Message::Ping(probe_number),
            3 => Message::Ack(probe_number),
            4 => Message::PingReq { target: self.identity(input), probe_number },
            5 => Message::IndirectPing { origin: self.identity(input), probe_number },
            6 => Message::IndirectAck { target: self.identity(input), probe_number },
            7 => Message::ForwardedAck { origin: self.identity(input), probe_number },
            8 => Message::Announce,
            9 => Message::TurnUndead,
            _ if probe_number < 128 => Message::Feed,
            _ => Message::Broadcast,
        }
    }

    fn accusation(&self, to: u8, from: Identity, input: &mut Input<'_>) -> Datagram<'static> {
        let is_own = input.below(4) < 3;
        let target = if is_own { self.at(to).identity() } else { self.identity(input) };
        let charge =
            if input.below(2) == 0 { Charge::Dead } else { Charge::Suspect(incarnation(input)) };
        let accusation = Accusation { charge, target, from };
        if is_own { Datagram::Accusation(accusation) } else { Datagram::PassOn(accusation) }
    }

    fn ping(&self, to: u8, from: Identity, input: &mut Input<'_>) -> Datagram<'static> {
        let nonce = input.u64();
        match input.below(3) {
            0 => Datagram::Pong { nonce, from },
            1 => Datagram::Ping { nonce, target: self.identity(input), from },
            _ => Datagram::Ping { nonce, target: self.at(to).identity(), from },
        }
    }
}

/// Returns from where a datagram of this node comes: mostly from the node's own address.
fn source(by: Identity, input: &mut Input<'_>) -> SocketAddr {
    match input.below(8) {
        0 => addr(NAMES),
        1 => addr(1 + input.below(NODES)),
        2 => SocketAddr::new(by.addr.ip(), 9),
        _ => by.addr,
    }
}

fn incarnation(input: &mut Input<'_>) -> u16 {
    match input.byte() {
        u8::MAX => u16::MAX,
        254 => u16::MAX - 1,
        small => u16::from(small) / 16,
    }
}
