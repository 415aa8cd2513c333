//! Seeds: where a node looks for its cluster. Asked for ever, so that nodes that were started together or
//! split apart find each other.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Actions, Control, ControlAction, Leaving, Link};
use crate::clock::Instant;
use crate::types::NodeHash;
use crate::wire::message::{ControlMessage, Hello};

/// A seed that does not answer is asked again after this, doubling up to the second.
const SEED_BACKOFF: Duration = Duration::from_millis(100);
const SEED_BACKOFF_MOST: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub(super) struct Seed {
    addr: SocketAddr,
    state: SeedState,
    backoff: Duration,
    /// It was heard from, or found not to answer, at least once.
    pub(super) settled: bool,
    /// Who answered there last.
    pub(super) node: Option<NodeHash>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum SeedState {
    Idle {
        until: Instant,
    },
    Trying,
    /// It is this node itself.
    Myself,
}

impl Seed {
    pub(super) fn new(addr: SocketAddr, me: SocketAddr) -> Self {
        let is_myself = addr == me;
        let state = if is_myself { SeedState::Myself } else { SeedState::Idle { until: Instant::default() } };
        Self { addr, state, backoff: SEED_BACKOFF, settled: is_myself, node: None }
    }
}

impl Control {
    pub(super) fn seeds_deadline(&self) -> Option<Instant> {
        let due = self.seeds.iter().filter_map(|seed| match seed.state {
            SeedState::Idle { until } if self.asks_seed(seed) => Some(until),
            _ => None,
        });
        due.min()
    }

    /// Asks the seeds that are due and are no members: for ever, so that nodes that were started together
    /// or split apart find each other.
    pub(super) fn wake_seeds(&mut self, now: Instant, actions: &mut Actions) {
        for at in 0..self.seeds.len() {
            if let SeedState::Idle { until } = self.seeds[at].state
                && until <= now
                && self.asks_seed(&self.seeds[at])
            {
                self.seeds[at].state = SeedState::Trying;
                actions.push(ControlAction::Open(Link { addr: self.seeds[at].addr, expects: None }));
            }
        }
    }

    /// One that is a member has nothing new to say, and whoever leaves finds nobody any more.
    pub(super) fn asks_seed(&self, seed: &Seed) -> bool {
        self.leaving == Leaving::No && !self.is_member_at(seed.addr)
    }

    pub(super) fn seed_answered(&mut self, now: Instant, link: Link, welcome: &Hello, actions: &mut Actions) {
        let is_myself = welcome.identity.node == self.config.identity.node;
        for seed in self.seeds.iter_mut().filter(|seed| seed.addr == link.addr) {
            seed.settled = true;
            seed.backoff = SEED_BACKOFF;
            seed.node = Some(welcome.identity.node);
            seed.state = if is_myself {
                SeedState::Myself
            } else {
                SeedState::Idle { until: now + SEED_BACKOFF_MOST }
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

    pub(super) fn seed_failed(&mut self, now: Instant, addr: SocketAddr) {
        for seed in self.seeds.iter_mut().filter(|seed| seed.addr == addr) {
            if seed.state == SeedState::Trying {
                seed.settled = true;
                seed.node = None;
                seed.state = SeedState::Idle { until: now + seed.backoff };
                seed.backoff = (seed.backoff * 2).min(SEED_BACKOFF_MOST);
            }
        }
    }
}
