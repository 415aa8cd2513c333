//! Duplicates: one node id at two addresses. The node that was there first is asked whether it
//! still is.
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

use std::collections::BTreeSet;
use std::time::Duration;

use super::interface::{Actions, ControlAction};
use super::state::{Control, HeldGreeting};
use crate::clock::Instant;
use crate::logging;
use crate::types::{Identity, NodeHash};
use crate::wire::handshake;
use crate::wire::message::Hello;
use crate::wire::timing::{OPEN_TIMEOUT, is_longer};

/// How long the one that was there may take to answer, or two round trips where these take longer.
/// A process that stands still for a moment is no reason to give its id away, and a newcomer waits
/// for longer: for [`OPEN_TIMEOUT`].
const PATIENCE: Duration = Duration::from_secs(1);

const _: () = assert!(is_longer(OPEN_TIMEOUT, PATIENCE));

const PING_PERIOD: Duration = Duration::from_millis(80);

/// How many greetings wait at a time.
const MAX_HELD: usize = 64;

impl Control {
    /// Returns the lives of a node that take part, one at an address.
    fn lives(&self, node: NodeHash) -> impl Iterator<Item = Identity> {
        let records = self.membership.records().into_iter();
        records
            .filter(move |it| it.state.is_active() && it.identity.node == node)
            .map(|it| it.identity)
    }

    /// Returns the latest life of this node at another address, unless `identity` is a member, too,
    /// and the later one.
    pub(super) fn life_at_another_address(&self, identity: &Identity) -> Option<Identity> {
        let lives: Vec<Identity> = self.lives(identity.node).collect();
        let other = lives.iter().copied().filter(|life| life.addr != identity.addr).max()?;
        let is_member = lives.iter().any(|life| life.life() == identity.life());
        (!is_member || other.life() > identity.life()).then_some(other)
    }

    /// Lets a greeting wait until it is known whether `other`, of the same node id, is there.
    pub(super) fn hold(
        &mut self,
        now: Instant,
        via: u64,
        hello: Hello,
        other: Identity,
        actions: &mut Actions,
    ) {
        if self.held.len() >= MAX_HELD {
            return self.refuse_duplicate(now, via, &hello, &other, actions);
        }
        let asked = self.held.iter().find(|held| held.other == other);
        let (ping_at, until) = asked.map_or_else(
            || (now, now + PATIENCE.max(2 * self.membership.round_trip_at_most(&other))),
            |held| (held.ping_at, held.until),
        );
        self.held.push(HeldGreeting { via, hello, other, ping_at, until });
        self.handle_held_timers(now, actions);
    }

    pub(super) fn held_deadline(&self) -> Option<Instant> {
        self.held.iter().map(|held| held.ping_at.min(held.until)).min()
    }

    /// A node answered a ping: those that want its id are refused.
    pub(super) fn other_answered(&mut self, now: Instant, other: &Identity, actions: &mut Actions) {
        let refused: Vec<HeldGreeting> =
            self.held.extract_if(.., |held| held.other == *other).collect();
        for HeldGreeting { via, hello, other, .. } in refused {
            self.refuse_duplicate(now, via, &hello, &other, actions);
        }
    }

    fn refuse_duplicate(
        &mut self,
        now: Instant,
        via: u64,
        hello: &Hello,
        other: &Identity,
        actions: &mut Actions,
    ) {
        let refusal = handshake::duplicate_id(&hello.node_id, other.addr, hello.identity.addr);
        self.refused(now, hello.identity.addr, &refusal, actions);
        actions.push(ControlAction::Refuse { via, refusal });
    }

    /// Pings on, and judges the greetings again whose other life is over or has been silent for
    /// long enough.
    pub(super) fn handle_held_timers(&mut self, now: Instant, actions: &mut Actions) {
        let mut to_ping = BTreeSet::new();
        for held in self.held.iter_mut().filter(|held| held.ping_at <= now && now < held.until) {
            held.ping_at = now + PING_PERIOD;
            to_ping.insert(held.other);
        }
        for other in to_ping {
            self.swim(now, actions, |membership, todo| membership.ping(now, other, todo));
        }
        if self.held.is_empty() {
            return;
        }
        let active: BTreeSet<Identity> =
            self.held.iter().flat_map(|held| self.lives(held.other.node)).collect();
        let is_over = |held: &mut HeldGreeting| held.until <= now || !active.contains(&held.other);
        let over: Vec<HeldGreeting> = self.held.extract_if(.., is_over).collect();
        let silent: BTreeSet<Identity> = over.iter().map(|held| held.other).collect();
        for other in silent.intersection(&active) {
            logging::warn!("{other:?} does not answer, and another node has its id");
            self.swim(now, actions, |membership, todo| membership.declare_dead(now, *other, todo));
        }
        for HeldGreeting { via, hello, .. } in over {
            self.greeted(now, via, hello, actions);
        }
    }
}
