//! Duplicates: one node id, and two nodes. The one that was there first is asked whether it still
//! is.
//!
//! A node that is moved to another host comes back under its id at another address, often before
//! any member has noticed that the one before it is gone. And by mistake two nodes are given one
//! id. Only an answer tells the two apart. The one that was there is pinged while the newcomer
//! waits for its welcome. An answer refuses the newcomer, with both addresses on both sides.
//! Silence is a death, and the newcomer takes its place: it need not wait for the suspicion to end.
//!
//! ```text
//! newcomer            a member                    the one at the other address
//!    │──── HELLO ────────▶│──── ping, ping, … ──────────▶│
//!    │◀─── REFUSED ───────│◀─── pong ────────────────────│
//!    │                    │
//!    │◀─── WELCOME ───────│ no pong within PATIENCE: declared dead
//! ```
//!
//! If both are members, each let in by nodes that did not know of the other, the later life counts,
//! as after a restart. The other one is refused by the next node that it greets, and comes back
//! when the later one is gone.
//!
//! **At one address, with another key** (`pins`). Most nodes make a new key at every start, so a
//! node that was started again looks like a host that has the cluster key, and gives the id and the
//! address of a member. The address in a HELLO is only a claim. So both lives are pinged there:
//!
//! ```text
//! newcomer            a member                    the address of both
//!    │──── HELLO ────────▶│──── ping of the one before ─▶│
//!    │                    │──── ping of the newcomer ───▶│
//!    │◀─── REFUSED ───────│◀─── pong of the one before ──│
//!    │◀─── WELCOME ───────│◀─── pong of the newcomer ────│
//! ```
//!
//! A ping is answered by the very life that it is for, and its number cannot be guessed. One
//! process has the port. So the answer of the newcomer shows that the one before is gone: a restart
//! takes a round trip, and not PATIENCE. A newcomer that waits for neither was reached by this
//! node at that address.
//!
//! The alternative was to believe the address. Then any host with the cluster key would take the
//! place of a member that lives, and have its greetings refused.

use std::collections::BTreeSet;
use std::time::Duration;

use super::interface::{Actions, ControlAction};
use super::pins::Key;
use super::state::{Control, Greeting, HeldGreeting};
use crate::clock::Instant;
use crate::logging;
use crate::types::{Identity, NodeHash};
use crate::wire::handshake;
use crate::wire::message::{Refusal, RefusalReason};
use crate::wire::timing::{OPEN_TIMEOUT, is_longer};

/// How long the one that was there may take to answer, or two round trips where these take longer.
/// A process that stands still for a moment is no reason to give its id away, and a newcomer waits
/// for longer: for [`OPEN_TIMEOUT`].
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

const _: () = assert!(is_longer(OPEN_TIMEOUT, PATIENCE));

const PING_PERIOD: Duration = Duration::from_millis(80);

/// How many greetings wait at a time, each with its HELLO of up to 4 KiB. A node that was started
/// again greets with a connection from each of its cores, too.
const MAX_HELD: usize = 256;

impl Control {
    /// Returns the lives of a node that take part, one at an address.
    fn lives(&self, node: NodeHash) -> impl Iterator<Item = Identity> {
        let records = self.membership.records().into_iter();
        records
            .filter(move |it| it.state.is_active() && it.identity.node == node)
            .map(|it| it.identity)
    }

    /// Returns the latest life of this node at another address, or at any if the key differs,
    /// unless `identity` is a member, too, and the later one.
    pub(super) fn other_life(&self, identity: &Identity, key: Key) -> Option<Identity> {
        let lives: Vec<Identity> = self.lives(identity.node).collect();
        let is_other = |life: &Identity| {
            life.addr != identity.addr || key == Key::Differs && life.life() != identity.life()
        };
        let other = lives.iter().copied().filter(is_other).max()?;
        let is_member = lives.iter().any(|life| life.life() == identity.life());
        (!is_member || other.life() > identity.life()).then_some(other)
    }

    /// Lets a greeting wait until it is known whether `other`, of the same node id, is there.
    pub(super) fn hold(
        &mut self,
        now: Instant,
        via: Option<u64>,
        greeting: Greeting,
        other: Identity,
        actions: &mut Actions,
    ) {
        let newcomer = greeting.hello.identity;
        let is_held = |held: &HeldGreeting| {
            (held.via, held.greeting.hello.identity, held.other) == (None, newcomer, other)
        };
        if via.is_none() && self.held.iter().any(is_held) {
            return;
        }
        if self.held.len() >= MAX_HELD {
            let text = "too many nodes wait until it is known who has their id".to_owned();
            let refusal = Refusal { reason: RefusalReason::Full, text };
            actions.extend(via.map(|via| ControlAction::Refuse { via, refusal }));
            return;
        }
        let asked = self.held.iter().find(|held| held.other == other);
        let (ping_at, until) = asked.map_or_else(
            || (now, now + PATIENCE.max(2 * self.membership.round_trip_at_most(&other))),
            |held| (held.ping_at, held.until),
        );
        self.held.push(HeldGreeting { via, greeting, other, ping_at, until });
        self.handle_held_timers(now, actions);
    }

    pub(super) fn held_deadline(&self) -> Option<Instant> {
        self.held.iter().map(|held| held.ping_at.min(held.until)).min()
    }

    /// A node answered a ping. Others that want its id are refused, and its own greetings wait no
    /// more for a life that was at its address.
    pub(super) fn one_answered(&mut self, now: Instant, life: &Identity, actions: &mut Actions) {
        let refused: Vec<HeldGreeting> =
            self.held.extract_if(.., |held| held.other == *life).collect();
        for held in refused {
            self.refuse_duplicate(now, held, actions);
        }
        let is_there = |held: &mut HeldGreeting| held.newcomer_to_ping() == Some(*life);
        let there: Vec<HeldGreeting> = self.held.extract_if(.., is_there).collect();
        for HeldGreeting { via, greeting, .. } in there {
            let greeting = Greeting { is_at_its_address: true, ..greeting };
            self.judge_again(now, via, greeting, actions);
        }
    }

    /// Judges a greeting now that it need not wait. That of a link comes when it is dialled again.
    fn judge_again(
        &mut self,
        now: Instant,
        via: Option<u64>,
        greeting: Greeting,
        actions: &mut Actions,
    ) {
        if let Some(via) = via {
            self.greeted(now, via, greeting, actions);
        }
    }

    fn refuse_duplicate(&mut self, now: Instant, held: HeldGreeting, actions: &mut Actions) {
        let HeldGreeting { via, greeting: Greeting { hello, proved, .. }, other, .. } = held;
        let (id, addr) = (&hello.node_id, hello.identity.addr);
        let pinned = self.pins.fingerprint(other.node);
        let keys = proved.and_then(|it| Some((pinned?, it.fingerprint)));
        let refusal = match keys.filter(|(pinned, now)| *pinned != now) {
            Some((pinned, now)) => Refusal {
                reason: RefusalReason::DuplicateId,
                text: format!(
                    "the node id {id:?} is in use at {} with the key {pinned}, and another node \
                     gives it at {addr} with the key {now}: every node needs an id of its own, \
                     give one of them another or stop it",
                    other.addr
                ),
            },
            None => handshake::duplicate_id(id, other.addr, addr),
        };
        self.refused(now, addr, &refusal, actions);
        actions.extend(via.map(|via| ControlAction::Refuse { via, refusal }));
    }

    /// Pings on, and judges the greetings again whose other life is over or has been silent for
    /// long enough.
    pub(super) fn handle_held_timers(&mut self, now: Instant, actions: &mut Actions) {
        let mut to_ping = BTreeSet::new();
        for held in self.held.iter_mut().filter(|held| held.ping_at <= now && now < held.until) {
            held.ping_at = now + PING_PERIOD;
            to_ping.insert(held.other);
            to_ping.extend(held.newcomer_to_ping());
        }
        for life in to_ping {
            self.swim(now, actions, |membership, todo| membership.ping(now, life, todo));
        }
        if self.held.is_empty() {
            return;
        }
        let nodes: BTreeSet<NodeHash> = self.held.iter().map(|held| held.other.node).collect();
        let records = self.membership.records().into_iter();
        let active: BTreeSet<Identity> = records
            .filter(|it| it.state.is_active() && nodes.contains(&it.identity.node))
            .map(|it| it.identity)
            .collect();
        let is_over = |held: &mut HeldGreeting| held.until <= now || !active.contains(&held.other);
        let over: Vec<HeldGreeting> = self.held.extract_if(.., is_over).collect();
        let silent: BTreeSet<Identity> = over.iter().map(|held| held.other).collect();
        for other in silent.intersection(&active) {
            logging::warn!("{other:?} does not answer, and another node has its id");
            self.swim(now, actions, |membership, todo| membership.declare_dead(now, *other, todo));
        }
        for HeldGreeting { via, greeting, .. } in over {
            self.judge_again(now, via, greeting, actions);
        }
    }
}

impl HeldGreeting {
    /// Returns the newcomer if its answer decides, as it gives the address of the other life.
    fn newcomer_to_ping(&self) -> Option<Identity> {
        let newcomer = self.greeting.hello.identity;
        (newcomer.addr == self.other.addr).then_some(newcomer)
    }
}
