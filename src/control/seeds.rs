//! Seeds: the addresses at which a node looks for its cluster, and how it comes in.
//!
//! They are asked for ever, so that nodes that were started together or split apart find each
//! other. Some are given as addresses. Others are found by a lookup, of their names or by the app's
//! discovery, again and again.
//!
//! A node takes part only once another node has reached it at the address that it advertises
//! (`reach`). Until then it answers pings, and is in no list of members:
//!
//! ```text
//! newcomer                    seed
//!    │──── HELLO ─────────────▶│
//!    │──── dial me back ──────▶│
//!    │◀─── HELLO, ping ────────│
//!    │◀─── it works ───────────│
//!    │     (it is a member)    │
//!    │──── who is there? ─────▶│
//!    │◀─── these members ──────│
//!    │──── Announce, SWIM ────▶│
//! ```
//!
//! A node without seeds is the first of all, and a member from the start. One that is no member
//! asks the nodes that come to it, too, as *guests*: its own seeds might all be down while the
//! others live and greet it, and it must not be born beside them. And a cluster that is not born
//! waits only for a while for seeds that answer and are no members: perhaps they never will be.

use std::net::SocketAddr;
use std::time::Duration;

use super::interface::{Actions, ControlAction, Link};
use super::state::{
    Control, Leaving, LinkState, MAX_SEED_BACKOFF, SEED_BACKOFF, SeedAddress, SeedState,
};
use crate::clock::Instant;
use crate::discovery::FoundAddresses;
use crate::logging;
use crate::membership::Record;
use crate::mutants::{ProtocolMutant, rule};
use crate::types::Identity;
use crate::wire::message::{ControlMessage, Hello};

/// After how long the lookup is made again if this node sees another one.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(30);

/// For how long a lookup that keeps failing holds up the birth of the cluster: a name may have no
/// addresses until a node is ready.
const DISCOVERY_PATIENCE: Duration = Duration::from_secs(5);

/// For how long a seed that is no member holds up the birth of the cluster. Nodes that start
/// together are members within a second, or not at all.
const OUTSIDE_PATIENCE: Duration = Duration::from_secs(10);

/// How many nodes that ask are treated as seeds, while this node is no member.
const MAX_GUESTS: usize = 16;

/// One that was silent twice makes room for others.
const GUEST_BACKOFF: Duration = SEED_BACKOFF.saturating_mul(2);

impl Control {
    pub(super) fn seeds_deadline(&self) -> Option<Instant> {
        let due = self.seeds.iter().filter_map(|seed| match seed.state {
            SeedState::Idle { until } if self.asks_seed(seed) => Some(until),
            _ => None,
        });
        due.chain(self.discovery.at.filter(|_| self.leaving == Leaving::No)).min()
    }

    /// Asks the seeds that are due and are no members.
    pub(super) fn handle_seed_timers(&mut self, now: Instant, actions: &mut Actions) {
        self.drop_guests(now);
        if self.leaving == Leaving::No && self.discovery.at.take_if(|at| *at <= now).is_some() {
            self.discovery.began.get_or_insert(now);
            actions.push(ControlAction::Discover);
        }
        for at in 0..self.seeds.len() {
            if let SeedState::Idle { until } = self.seeds[at].state
                && until <= now
                && self.asks_seed(&self.seeds[at])
            {
                self.seeds[at].state = SeedState::Trying;
                actions
                    .push(ControlAction::Open(Link { addr: self.seeds[at].addr, expects: None }));
            }
        }
    }

    /// Takes up the result of a lookup: seeds from now on, in place of those that were found
    /// before.
    pub(super) fn found(&mut self, now: Instant, found: FoundAddresses) {
        let FoundAddresses { addresses, failure } = found;
        let began = *self.discovery.began.get_or_insert(now);
        self.discovery.is_settled |= failure.is_none() || now.since(began) >= DISCOVERY_PATIENCE;
        let is_alone = self.placement.everybody().count() <= 1;
        let after = if is_alone { self.discovery.backoff } else { DISCOVERY_PERIOD };
        self.discovery.at = Some(now + after);
        self.discovery.backoff = (self.discovery.backoff * 2).min(MAX_SEED_BACKOFF);
        if let Some(why) =
            failure.as_ref().filter(|why| self.discovery.failure.as_ref() != Some(why))
        {
            logging::warn!("looking for nodes failed: {why}");
        }
        if failure.is_none() {
            // One that is being asked is known by its answer.
            let is_kept = |seed: &SeedAddress| {
                !seed.is_found || seed.is_guest || seed.state == SeedState::Trying
            };
            self.seeds.retain(|seed| is_kept(seed) || addresses.contains(&seed.addr));
        }
        self.discovery.failure = failure;
        for addr in addresses {
            if self.seeds.iter().all(|seed| seed.addr != addr) {
                self.seeds.push(SeedAddress {
                    is_found: true,
                    ..SeedAddress::new(addr, self.config.identity.addr)
                });
            }
        }
    }

    /// Whether a seed is to be asked. One that is a member has nothing new to say, and a node that
    /// leaves looks for none.
    pub(super) fn asks_seed(&self, seed: &SeedAddress) -> bool {
        self.leaving == Leaving::No && !self.is_member_at(seed.addr)
    }

    pub(super) fn seed_answered(
        &mut self,
        now: Instant,
        link: Link,
        welcome: &Hello,
        actions: &mut Actions,
    ) {
        let is_myself = welcome.identity.node == self.config.identity.node;
        let comes_in = self.must_be_reached_first();
        for seed in self.seeds.iter_mut().filter(|seed| seed.addr == link.addr) {
            seed.settled = true;
            if seed.answered.is_some_and(|before| before.life() != welcome.identity.life()) {
                seed.outside_since = None;
            }
            seed.answered = Some(welcome.identity);
            seed.state = if is_myself {
                SeedState::Myself
            } else if comes_in {
                SeedState::Trying
            } else {
                SeedState::Idle { until: now + MAX_SEED_BACKOFF }
            };
        }
        if is_myself {
            actions.push(ControlAction::Close(link));
        } else if comes_in {
            self.ask_to_dial_back(now, link, actions);
        } else {
            self.ask_seed_for_members(now, link, actions);
        }
    }

    fn ask_seed_for_members(&mut self, now: Instant, link: Link, actions: &mut Actions) {
        actions.push(ControlAction::Ask { link, message: ControlMessage::AskMembers });
        let seed = self.seeds.iter().find(|seed| seed.addr == link.addr);
        if let Some(identity) = seed.and_then(|seed| seed.answered) {
            self.swim(now, actions, |membership, todo| membership.announce_to(now, identity, todo));
        }
    }

    /// A seed has tried to reach this node. If it did, this node takes part from here on.
    pub(super) fn seed_has_tried(
        &mut self,
        now: Instant,
        link: Link,
        has_reached: bool,
        actions: &mut Actions,
    ) {
        if has_reached && !self.membership.is_member() {
            self.membership.enter();
            for seed in &mut self.seeds {
                if let SeedState::Idle { until } = &mut seed.state {
                    *until = now;
                }
            }
        }
        if self.membership.is_member() {
            return self.ask_seed_for_members(now, link, actions);
        }
        actions.push(ControlAction::Close(link));
        for seed in self.seeds.iter_mut().filter(|seed| seed.addr == link.addr) {
            seed.state = SeedState::Idle { until: now + seed.backoff };
            seed.backoff = (seed.backoff * 2).min(MAX_SEED_BACKOFF);
        }
    }

    /// A node turns to this one. If this one is no member yet, that one might reach it.
    pub(super) fn note_guest(&mut self, addr: SocketAddr) {
        let guests = self.seeds.iter().filter(|seed| seed.is_guest).count();
        let is_known = self.seeds.iter().any(|seed| seed.addr == addr);
        let is_asked = rule(ProtocolMutant::GuestsIgnored, !self.membership.is_member());
        if is_asked && !is_known && guests < MAX_GUESTS {
            let seed = SeedAddress::new(addr, self.config.identity.addr);
            self.seeds.push(SeedAddress { is_guest: true, ..seed });
        }
    }

    /// Forgets the guests that have served, or keep silent.
    fn drop_guests(&mut self, now: Instant) {
        let mut seeds = std::mem::take(&mut self.seeds);
        seeds.retain(|seed| {
            let is_silent = seed.answered.is_none() && seed.backoff > GUEST_BACKOFF;
            let has_served = self.membership.is_member() && self.is_settled(now, seed);
            let is_open = seed.state == SeedState::Trying;
            !seed.is_guest || is_open || !(is_silent || has_served)
        });
        self.seeds = seeds;
    }

    /// Whether a seed has been heard from, or found not to answer, and is a member if it answered:
    /// until then a cluster is not born.
    pub(super) fn is_settled(&self, now: Instant, seed: &SeedAddress) -> bool {
        let is_here = |life: Identity| self.placement.member(life.node).is_some();
        let stays_outside =
            seed.outside_since.is_some_and(|since| now.since(since) >= OUTSIDE_PATIENCE);
        seed.settled && (stays_outside || seed.answered.is_none_or(is_here))
    }

    /// Whether a node answered at some seed, so that this node is not the first of all.
    pub(super) fn any_seed_answered(&self) -> bool {
        let others = self.seeds.iter().filter(|seed| seed.state != SeedState::Myself);
        others.into_iter().any(|seed| seed.answered.is_some())
    }

    /// A seed has told the members that it knows, however late.
    pub(super) fn seed_is_done(&mut self, now: Instant, addr: SocketAddr, records: &[Record]) {
        for seed in self.seeds.iter_mut().filter(|seed| seed.addr == addr) {
            let is_it =
                |known: &Record| Some(known.identity.node) == seed.answered.map(|it| it.node);
            let wait = if records.iter().any(is_it) {
                (seed.outside_since, seed.backoff) = (None, SEED_BACKOFF);
                MAX_SEED_BACKOFF
            } else {
                seed.outside_since.get_or_insert(now);
                seed.backoff = (seed.backoff * 2).min(MAX_SEED_BACKOFF);
                seed.backoff
            };
            if seed.state != SeedState::Myself {
                seed.state = SeedState::Idle { until: now + wait };
            }
        }
    }

    /// A seed was not tried: that says nothing of it.
    pub(super) fn seed_put_off(&mut self, now: Instant, addr: SocketAddr) {
        let is_tried =
            |seed: &&mut SeedAddress| seed.addr == addr && seed.state == SeedState::Trying;
        for seed in self.seeds.iter_mut().filter(is_tried) {
            seed.state = SeedState::Idle { until: now + SEED_BACKOFF };
        }
    }

    pub(super) fn seed_failed(&mut self, now: Instant, addr: SocketAddr) {
        for seed in self.seeds.iter_mut().filter(|seed| seed.addr == addr) {
            if seed.state == SeedState::Trying {
                seed.settled = true;
                (seed.answered, seed.outside_since) = (None, None);
                seed.state = SeedState::Idle { until: now + seed.backoff };
                seed.backoff = (seed.backoff * 2).min(MAX_SEED_BACKOFF);
            }
        }
    }

    /// Whether a link to a member at this address is up.
    fn is_member_at(&self, addr: SocketAddr) -> bool {
        self.links.values().any(|link| link.identity.addr == addr && link.state == LinkState::Up)
    }
}
