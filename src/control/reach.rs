//! Reach: whether others reach this node at the address that it advertises. A member is asked to
//! dial back, over TCP and UDP.
//!
//! A node behind a firewall, or one that advertises a wrong address, reaches others and is not
//! reached. It would look dead to them, and they to it: it would join, die and return for ever,
//! tell of deaths that did not happen, and hold up all that waits for members.
//!
//! | this node | asks | until it is reached |
//! |---|---|---|
//! | is no member yet | each seed that answers | it is no member (`seeds`) |
//! | was taken for dead, or has no seeds | a member to which it has a link | the app is told |
//! | takes all others for dead | each seed that answers | the app is told |
//!
//! **Invariant.** A node with seeds that answer is no member before one of them reached it.
//!
//! A node that asks can give any address as its own. So at most [`MAX_DIALED`] connections are
//! opened at a time for those that ask, and no datagram is sent before a node there has answered
//! over TCP.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::interface::{Actions, ControlAction, Link, LinkEnd};
use super::state::{Control, LinkState, SeedState, Try};
use crate::clock::Instant;
use crate::events::Event;
use crate::types::Identity;
use crate::wire::message::{ControlMessage, Reached, RefusalReason};
use crate::wire::timing::{OPEN_TIMEOUT, is_longer};

/// How long a node that was asked tries: as long as a connection may take.
const TRIES_FOR: Duration = OPEN_TIMEOUT;

const PING_PERIOD: Duration = Duration::from_millis(80);

/// For how many nodes it tries at a time. The others ask again after three seconds, and no node
/// comes in before it was tried.
const MAX_TRIED: usize = 256;

/// How many of them by the word of one connection.
const MAX_TRIED_FOR_ONE: usize = 2;

/// How many connections are opened for them at a time, and how many to one IP address. The others
/// wait their turn.
const MAX_DIALED: usize = 32;
const MAX_DIALED_AT_ONE: usize = 4;

/// How much time a try must have left for its connection when that is opened, and for its pings
/// when it has come. With less, a bad result would say nothing of the node that asked.
const LEAST_FOR_TCP: Duration = Duration::from_secs(1);
const LEAST_FOR_UDP: Duration = Duration::from_millis(500);

/// After how long an answer that does not come is asked for again; and how rarely one that was bad
/// twice, and how rarely the app is told of it. A bad answer is asked for once more at once, as a
/// datagram may get lost.
const ASK_AGAIN: Duration = Duration::from_secs(3);
const ASK_RARELY: Duration = Duration::from_secs(10);

const _: () = assert!(is_longer(ASK_AGAIN, TRIES_FOR));

impl Control {
    /// Asks again whether others reach this node: it was dead to some, perhaps because they do not.
    pub(super) fn recheck_reachability(&mut self) {
        self.reach.is_certain = false;
    }

    /// Whether a seed is to reach this node before it is asked for members.
    pub(super) fn must_be_reached_first(&self) -> bool {
        !self.membership.is_member() || self.links.is_empty() && !self.reach.is_certain
    }

    /// Asks the node at the end of a link to reach this one.
    pub(super) fn ask_to_dial_back(&mut self, now: Instant, link: Link, actions: &mut Actions) {
        self.reach.ask_at = now + ASK_AGAIN;
        let message = ControlMessage::DialBack { identity: self.identity() };
        actions.push(ControlAction::Ask { link, message });
    }

    /// Returns the links to seeds that were asked, and have not said yet whether they reach this
    /// node.
    fn seeds_to_ask(&self) -> Vec<Link> {
        let asked = self
            .seeds
            .iter()
            .filter(|seed| seed.state == SeedState::Trying && seed.answered.is_some());
        asked.map(|seed| Link { addr: seed.addr, expects: None }).collect()
    }

    fn link_to_ask(&self) -> Option<Link> {
        let up = || self.links.values().filter(|link| link.state == LinkState::Up);
        let place = self.reach.passed_over.checked_rem(up().count())?;
        let member = up().nth(place).filter(|_| !self.reach.is_certain);
        member.map(|member| Link::to(&member.identity))
    }

    pub(super) fn reach_deadline(&self) -> Option<Instant> {
        let tried = self
            .reach
            .tried
            .iter()
            .map(|it| if it.is_pinged() { it.ping_at.min(it.until) } else { it.until });
        let asks = self.link_to_ask().is_some() || !self.seeds_to_ask().is_empty();
        tried.chain(asks.then_some(self.reach.ask_at)).min()
    }

    pub(super) fn handle_reach_timers(&mut self, now: Instant, actions: &mut Actions) {
        if self.reach.ask_at <= now {
            for link in self.link_to_ask().into_iter().chain(self.seeds_to_ask()) {
                self.ask_to_dial_back(now, link, actions);
            }
        }
        let mut to_ping = Vec::new();
        for it in self.reach.tried.iter_mut().filter(|it| it.is_pinged() && it.ping_at <= now) {
            it.ping_at = now + PING_PERIOD;
            if !to_ping.contains(&it.identity) {
                to_ping.push(it.identity);
            }
        }
        for identity in to_ping {
            self.swim(now, actions, |membership, todo| membership.ping(now, identity, todo));
        }
        self.finish_tries(now, actions);
    }

    /// A node asks to be reached at its address: at the one that it gave when it said HELLO, and
    /// at no other, or any host could have this node find out which ports of other hosts listen.
    pub(super) fn try_to_reach(
        &mut self,
        now: Instant,
        (via, peer): (u64, Identity),
        request_id: u64,
        identity: Identity,
        actions: &mut Actions,
    ) {
        if identity.addr == self.identity().addr {
            let message = ControlMessage::DialedBack { tcp: Reached::SomebodyElse, udp: false };
            return actions.push(ControlAction::Answer { via, request_id, message });
        }
        let is_own = (identity.node, identity.addr) == (peer.node, peer.addr);
        if !is_own
            || self.reach.tried.len() >= MAX_TRIED
            || self.reach.tried.iter().filter(|it| it.via == via).count() >= MAX_TRIED_FOR_ONE
        {
            // An answer all the same: a link on which questions stay unanswered is ended.
            let message = ControlMessage::DialedBack { tcp: Reached::NotTried, udp: false };
            return actions.push(ControlAction::Answer { via, request_id, message });
        }
        let link = Link::to(&identity);
        let known = self.links.values().find(|member| Link::to(&member.identity) == link);
        let is_member_up = known.is_some_and(|member| member.state == LinkState::Up);
        let tcp = (is_member_up || self.has_reached(&identity)).then_some(Reached::Yes);
        let until = now + TRIES_FOR;
        self.reach.tried.push(Try {
            via,
            request_id,
            identity,
            until,
            is_dialed: known.is_some() || tcp.is_some(),
            ping_at: now,
            tcp,
            is_up: tcp.is_some(),
            udp: false,
        });
        self.handle_reach_timers(now, actions);
    }

    /// Whether there is a link to a node for no other reason than that it asked, or spoke first.
    pub(super) fn has_reached(&self, identity: &Identity) -> bool {
        let link = Link::to(identity);
        let tried = self.reach.tried.iter().map(|it| (it.identity, it.is_up));
        let newcomers = self.newcomers.iter().map(|it| (it.identity, it.is_up));
        tried.chain(newcomers).any(|(identity, is_up)| Link::to(&identity) == link && is_up)
    }

    /// Takes up what became of a link that may have been tried for a node that asked.
    pub(super) fn link_was_tried(
        &mut self,
        now: Instant,
        link: Link,
        end: Option<&LinkEnd>,
        actions: &mut Actions,
    ) {
        let reached = match end {
            None => Reached::Yes,
            Some(LinkEnd::ConnectRefused) => Reached::NobodyListens,
            Some(LinkEnd::Refused(refusal)) if refusal.reason == RefusalReason::NotMe => {
                Reached::SomebodyElse
            }
            Some(LinkEnd::Refused(_)) => Reached::Yes,
            Some(LinkEnd::Unreachable | LinkEnd::Ended) => Reached::NoAnswer,
            Some(LinkEnd::PutOff) => Reached::NotTried,
        };
        for it in self.reach.tried.iter_mut().filter(|it| Link::to(&it.identity) == link) {
            it.is_up = end.is_none();
            let is_late = reached == Reached::Yes && it.until.since(now) < LEAST_FOR_UDP;
            if it.tcp != Some(Reached::Yes) {
                it.tcp = Some(if is_late { Reached::NotTried } else { reached });
            }
        }
        self.finish_tries(now, actions);
    }

    /// A node answered a ping.
    pub(super) fn ping_was_answered(
        &mut self,
        now: Instant,
        identity: &Identity,
        actions: &mut Actions,
    ) {
        for it in self.reach.tried.iter_mut().filter(|it| it.identity == *identity) {
            it.udp = true;
        }
        self.finish_tries(now, actions);
    }

    fn finish_tries(&mut self, now: Instant, actions: &mut Actions) {
        let is_over = |it: &mut Try| {
            let has_failed = it.tcp.is_some_and(|tcp| tcp != Reached::Yes);
            it.until <= now || has_failed || it.tcp.is_some() && it.udp
        };
        let over: Vec<Try> = self.reach.tried.extract_if(.., is_over).collect();
        for Try { via, request_id, identity, is_dialed, tcp, udp, .. } in over {
            let without = if is_dialed { Reached::NoAnswer } else { Reached::NotTried };
            let message = ControlMessage::DialedBack { tcp: tcp.unwrap_or(without), udp };
            actions.push(ControlAction::Answer { via, request_id, message });
            let link = Link::to(&identity);
            let is_tried = self.reach.tried.iter().any(|it| Link::to(&it.identity) == link);
            if !is_tried
                && self.links.values().all(|member| Link::to(&member.identity) != link)
                && self.newcomers.iter().all(|it| Link::to(&it.identity) != link)
            {
                actions.push(ControlAction::Close(link));
            }
        }
        self.dial_tried(now, actions);
    }

    /// Opens connections to nodes that wait to be tried, as many as there may be at a time.
    fn dial_tried(&mut self, now: Instant, actions: &mut Actions) {
        let tried = &mut self.reach.tried;
        if tried.iter().all(|it| it.is_dialed) {
            return;
        }
        let of_members: BTreeSet<Link> =
            self.links.values().map(|member| Link::to(&member.identity)).collect();
        let dialed = tried.iter().filter(|it| it.is_dialed && it.tcp.is_none());
        let dialed = dialed.map(|it| Link::to(&it.identity));
        let mut dialed: BTreeSet<Link> = dialed.filter(|it| !of_members.contains(it)).collect();
        let has_time = |it: &Try| it.until.since(now) >= LEAST_FOR_TCP;
        for it in tried.iter_mut().filter(|it| !it.is_dialed && has_time(it)) {
            let link = Link::to(&it.identity);
            let at_one = dialed.iter().filter(|it| it.addr.ip() == link.addr.ip()).count();
            if dialed.contains(&link) {
                it.is_dialed = true;
            } else if dialed.len() < MAX_DIALED && at_one < MAX_DIALED_AT_ONE {
                it.is_dialed = true;
                dialed.insert(link);
                actions.push(ControlAction::Open(link));
            }
        }
    }

    /// The member at the end of `link` has tried to reach this node.
    pub(super) fn dialed_back(
        &mut self,
        now: Instant,
        link: Link,
        tcp: Reached,
        udp: bool,
        actions: &mut Actions,
    ) {
        if tcp == Reached::NotTried {
            // Another one is asked next, when `ask_at` says.
            self.reach.passed_over = self.reach.passed_over.wrapping_add(1);
            return;
        }
        let address = self.identity().addr;
        let why = why_not(address, tcp, udp);
        let asked_again = match &why {
            None => {
                let reach = &mut self.reach;
                (reach.is_certain, reach.failures, reach.failure) = (true, 0, None);
                None
            }
            Some(_) => {
                self.reach.failures += 1;
                let is_first = self.reach.failures == 1;
                Some(if is_first { now } else { now + ASK_RARELY })
            }
        };
        if link.expects.is_none() {
            self.seed_has_tried(now, link, why.is_none(), actions);
        } else if let Some(at) = asked_again {
            self.reach.ask_at = at;
        }
        if let Some(why) = why.filter(|_| self.reach.failures > 1) {
            self.note_unreached(now, link, why, actions);
        }
        self.handle_reach_timers(now, actions);
    }

    /// Tells the app that a node does not reach this one, and why.
    fn note_unreached(&mut self, now: Instant, link: Link, why: String, actions: &mut Actions) {
        let address = self.identity().addr;
        let seed = self.seeds.iter().find(|seed| seed.addr == link.addr);
        let member = self.links.values().find(|member| Link::to(&member.identity) == link);
        let by = member.map(|it| it.identity).or_else(|| seed.and_then(|seed| seed.answered));
        let Some(by) = by.and_then(|by| self.name(&by)) else { return };
        self.reach.failure = Some(format!("{by} does not reach this node: {why}"));
        if self.reach.say_at <= now {
            self.reach.say_at = now + ASK_RARELY;
            actions.push(ControlAction::Notify(Event::Unreachable { by, address, reason: why }));
        }
    }
}

fn why_not(address: SocketAddr, tcp: Reached, udp: bool) -> Option<String> {
    let advice = "check Config::advertise and the firewall";
    Some(match (tcp, udp) {
        (Reached::Yes, true) => return None,
        (Reached::NobodyListens, _) => format!("nobody listens at {address}, TCP: {advice}"),
        (Reached::NoAnswer | Reached::NotTried, _) => {
            format!("no answer from {address}, TCP: {advice}")
        }
        (Reached::SomebodyElse, _) => format!("another node answers at {address}: {advice}"),
        (Reached::Yes, false) => {
            format!(
                "TCP to {address} works, but no UDP datagram is answered: {advice}, which must let \
                 UDP pass both ways"
            )
        }
    })
}
