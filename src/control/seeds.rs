//! Seeds: the addresses at which a node looks for its cluster.
//!
//! They are asked for ever, so that nodes that were started together or split apart find each
//! other. Some are given as addresses. Others are found by a lookup, of their names or by the app's
//! discovery, again and again.

use std::net::SocketAddr;
use std::time::Duration;

use super::interface::{Actions, ControlAction, Link};
use super::state::{
    Control, Leaving, LinkState, MAX_SEED_BACKOFF, SEED_BACKOFF, SeedAddress, SeedState,
};
use crate::clock::Instant;
use crate::discovery::FoundAddresses;
use crate::logging;
use crate::wire::message::{ControlMessage, Hello};

/// After how long the lookup is made again if this node sees another one.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(30);

/// For how long a lookup that keeps failing holds up the birth of the cluster: a name may have no
/// addresses until a node is ready.
const DISCOVERY_PATIENCE: Duration = Duration::from_secs(5);

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
            let is_kept = |seed: &SeedAddress| !seed.is_found || seed.state == SeedState::Trying;
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
        for seed in self.seeds.iter_mut().filter(|seed| seed.addr == link.addr) {
            seed.settled = true;
            seed.backoff = SEED_BACKOFF;
            seed.node = Some(welcome.identity.node);
            seed.state = if is_myself {
                SeedState::Myself
            } else {
                SeedState::Idle { until: now + MAX_SEED_BACKOFF }
            };
        }
        if is_myself {
            actions.push(ControlAction::Close(link));
        } else {
            actions.push(ControlAction::Ask { link, message: ControlMessage::AskMembers });
            let identity = welcome.identity;
            self.swim(now, actions, |membership, todo| membership.announce_to(now, identity, todo));
        }
    }

    /// A seed has told the members that it knows, however late.
    pub(super) fn seed_is_done(&mut self, now: Instant, addr: SocketAddr) {
        for seed in self.seeds.iter_mut().filter(|seed| seed.addr == addr) {
            if seed.state == SeedState::Trying {
                seed.state = SeedState::Idle { until: now + MAX_SEED_BACKOFF };
            }
        }
    }

    pub(super) fn seed_failed(&mut self, now: Instant, addr: SocketAddr) {
        for seed in self.seeds.iter_mut().filter(|seed| seed.addr == addr) {
            if seed.state == SeedState::Trying {
                seed.settled = true;
                seed.node = None;
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
