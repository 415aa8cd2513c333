//! Newcomers: nodes that spoke to this one before it knew them. It dials each at the address from
//! which it spoke, and asks who it is.
//!
//! Most of them are members already, of which no other member has told yet. Some were members
//! before this node was started, and greet it.
//!
//! **Invariant.** No more connections are opened at a time than [`MAX_DIALED`], one to an address,
//! and few to one host. That a datagram came from an address is no proof that a node is there.

use std::time::Duration;

use super::interface::{Actions, ControlAction, Link, LinkEnd};
use super::state::{Control, Newcomer};
use crate::clock::Instant;
use crate::types::Identity;
use crate::wire::timing::OPEN_TIMEOUT;

/// How many newcomers are dialled at a time; of the others the members tell.
const MAX_DIALED: usize = 16;

/// How many of these at one IP address.
const MAX_DIALED_AT_ONE: usize = 4;

/// How many newcomers are known at a time, those that have answered among them.
const MAX_NEWCOMERS: usize = 256;

/// For how long the connection to one that answered is kept: by then it is a member.
const KEPT_FOR: Duration = OPEN_TIMEOUT;

/// How soon one that did not answer is dialled again, if it speaks again.
const DIALED_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// How soon one is dialled, if it speaks again, that was not tried as too many connections were
/// being opened.
const PUT_OFF_FOR: Duration = Duration::from_secs(1);

impl Control {
    /// Dials a node that this one does not know.
    pub(super) fn dial_newcomer(&mut self, now: Instant, node: Identity, actions: &mut Actions) {
        let dialed = || self.newcomers.iter().filter(|it| !it.is_up);
        let is_same = |it: &&Newcomer| it.identity.addr.ip() == node.addr.ip();
        let is_known = self.newcomers.iter().any(|it| it.identity.addr == node.addr);
        let is_full = self.newcomers.len() >= MAX_NEWCOMERS || dialed().count() >= MAX_DIALED;
        if is_known || is_full {
            return;
        }
        if dialed().filter(is_same).count() >= MAX_DIALED_AT_ONE {
            return;
        }
        if !self.is_reaching(Link::to(&node)) {
            actions.push(ControlAction::Open(Link::to(&node)));
        }
        let until = now + DIALED_AGAIN_AFTER;
        self.newcomers.push(Newcomer { identity: node, is_up: false, until });
    }

    /// Whether this link is open, or being opened, for another reason.
    fn is_reaching(&self, link: Link) -> bool {
        self.links.values().any(|it| Link::to(&it.identity) == link)
            || self.reach.tried.iter().any(|it| it.is_dialed && Link::to(&it.identity) == link)
    }

    /// The connection to a newcomer, if it is one, has ended or was not made.
    pub(super) fn newcomer_lost(&mut self, now: Instant, link: Link, end: &LinkEnd) {
        let again = if *end == LinkEnd::PutOff { PUT_OFF_FOR } else { DIALED_AGAIN_AFTER };
        let mut newcomers = self.newcomers.iter_mut();
        if let Some(it) = newcomers.find(|it| Link::to(&it.identity) == link) {
            (it.is_up, it.until) = (false, now + again);
        }
    }

    /// A newcomer, if it is one, has said who it is.
    pub(super) fn newcomer_answered(&mut self, now: Instant, link: Link, actions: &mut Actions) {
        let mut newcomers = self.newcomers.iter_mut();
        let Some(it) = newcomers.find(|it| Link::to(&it.identity) == link) else { return };
        (it.is_up, it.until) = (true, now + KEPT_FOR);
        let identity = it.identity;
        self.swim(now, actions, |membership, todo| membership.announce_to(now, identity, todo));
    }

    pub(super) fn newcomers_deadline(&self) -> Option<Instant> {
        self.newcomers.iter().map(|it| it.until).min()
    }

    pub(super) fn handle_newcomer_timers(&mut self, now: Instant, actions: &mut Actions) {
        let over: Vec<_> = self.newcomers.extract_if(.., |it| it.until <= now).collect();
        for it in over.into_iter().filter(|it| !self.is_reaching(Link::to(&it.identity))) {
            actions.push(ControlAction::Close(Link::to(&it.identity)));
        }
    }
}
