//! Reach: whether others reach this node at the address that it advertises. A member is asked to
//! dial back, over TCP and UDP.
//!
//! A node behind a firewall, or one that advertises a wrong address, reaches others and is not
//! reached. All others look well to it, and it looks dead to them: it joins, dies and returns for
//! ever. So it asks the first member that it is connected to, and reports what that finds.

use std::net::SocketAddr;
use std::time::Duration;

use super::interface::{Actions, ControlAction, Link, LinkEnd};
use super::state::{Control, LinkState, Try};
use crate::clock::Instant;
use crate::events::Event;
use crate::types::Identity;
use crate::wire::message::{ControlMessage, Reached, RefusalReason};
use crate::wire::timing::{SILENCE_NOTICED_AFTER, is_longer};

/// How long a node that was asked tries: less than it takes to be declared dead.
const TRIES_FOR: Duration = Duration::from_millis(400);

const _: () = assert!(is_longer(SILENCE_NOTICED_AFTER, TRIES_FOR));

const PING_PERIOD: Duration = Duration::from_millis(80);

/// For how many nodes it tries at a time.
const MAX_TRIED: usize = 64;

/// After how long an answer that does not come is asked for again; and how rarely one that was bad
/// twice. A bad answer is asked for once more at once, as a datagram may get lost.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const ASK_RARELY: Duration = Duration::from_secs(10);

impl Control {
    /// Asks again whether others reach this node: it was dead to some, perhaps because they do not.
    pub(super) fn recheck_reachability(&mut self) {
        self.reach.is_certain = false;
    }

    fn link_to_ask(&self) -> Option<Link> {
        let mut up = self.links.values().filter(|link| link.state == LinkState::Up);
        up.next().filter(|_| !self.reach.is_certain).map(|member| Link::to(&member.identity))
    }

    pub(super) fn reach_deadline(&self) -> Option<Instant> {
        let tried = self
            .reach
            .tried
            .iter()
            .map(|it| if it.udp { it.until } else { it.ping_at.min(it.until) });
        tried.chain(self.link_to_ask().map(|_| self.reach.ask_at)).min()
    }

    pub(super) fn handle_reach_timers(&mut self, now: Instant, actions: &mut Actions) {
        if self.reach.ask_at <= now
            && let Some(link) = self.link_to_ask()
        {
            self.reach.ask_at = now + ASK_AGAIN;
            let message = ControlMessage::DialBack { identity: self.identity() };
            actions.push(ControlAction::Ask { link, message });
        }
        let mut to_ping = Vec::new();
        for it in self.reach.tried.iter_mut().filter(|it| it.ping_at <= now && !it.udp) {
            it.ping_at = now + PING_PERIOD;
            to_ping.push(it.identity);
        }
        for identity in to_ping {
            self.swim(now, actions, |membership, todo| membership.ping(now, identity, todo));
        }
        self.finish_tries(now, actions);
    }

    /// A node asks to be reached at its address.
    pub(super) fn try_to_reach(
        &mut self,
        now: Instant,
        via: u64,
        request_id: u64,
        identity: Identity,
        actions: &mut Actions,
    ) {
        if self.reach.tried.len() >= MAX_TRIED || identity.addr == self.identity().addr {
            return;
        }
        let link = Link::to(&identity);
        let known = self.links.values().find(|member| Link::to(&member.identity) == link);
        let is_tried = self.reach.tried.iter().any(|it| Link::to(&it.identity) == link);
        if known.is_none() && !is_tried {
            actions.push(ControlAction::Open(link));
        }
        let tcp = known.filter(|member| member.state == LinkState::Up).map(|_| Reached::Yes);
        let until = now + TRIES_FOR;
        self.reach.tried.push(Try {
            via,
            request_id,
            identity,
            until,
            ping_at: now,
            tcp,
            is_up: tcp.is_some(),
            udp: false,
        });
        self.handle_reach_timers(now, actions);
    }

    /// Whether there is a link to a node for no other reason than that it asked.
    pub(super) fn has_reached(&self, identity: &Identity) -> bool {
        let link = Link::to(identity);
        let mut tried = self.reach.tried.iter();
        tried.any(|it| Link::to(&it.identity) == link && it.is_up)
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
        };
        for it in self.reach.tried.iter_mut().filter(|it| Link::to(&it.identity) == link) {
            it.is_up = end.is_none();
            if it.tcp != Some(Reached::Yes) {
                it.tcp = Some(reached);
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
        let is_over = |it: &mut Try| it.until <= now || it.tcp.is_some() && it.udp;
        let over: Vec<Try> = self.reach.tried.extract_if(.., is_over).collect();
        for Try { via, request_id, identity, tcp, udp, .. } in over {
            let message = ControlMessage::DialedBack { tcp: tcp.unwrap_or(Reached::NoAnswer), udp };
            actions.push(ControlAction::Answer { via, request_id, message });
            let link = Link::to(&identity);
            let is_tried = self.reach.tried.iter().any(|it| Link::to(&it.identity) == link);
            if !is_tried && self.links.values().all(|member| Link::to(&member.identity) != link) {
                actions.push(ControlAction::Close(link));
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
        let address = self.identity().addr;
        let Some(why) = why_not(address, tcp, udp) else {
            let reach = &mut self.reach;
            (reach.is_certain, reach.failures, reach.failure) = (true, 0, None);
            return;
        };
        self.reach.failures += 1;
        if self.reach.failures == 1 {
            self.reach.ask_at = now;
            return self.handle_reach_timers(now, actions);
        }
        self.reach.ask_at = now + ASK_RARELY;
        let from = self.links.values().find(|member| Link::to(&member.identity) == link);
        if let Some(by) = from.and_then(|member| self.name(&member.identity)) {
            self.reach.failure = Some(format!("{by} does not reach this node: {why}"));
            actions.push(ControlAction::Notify(Event::Unreachable { by, address, reason: why }));
        }
    }
}

fn why_not(address: SocketAddr, tcp: Reached, udp: bool) -> Option<String> {
    let advice = "check Config::advertise and the firewall";
    Some(match (tcp, udp) {
        (Reached::Yes, true) => return None,
        (Reached::NobodyListens, _) => format!("nobody listens at {address}, TCP: {advice}"),
        (Reached::NoAnswer, _) => format!("no answer from {address}, TCP: {advice}"),
        (Reached::SomebodyElse, _) => format!("another node answers at {address}: {advice}"),
        (Reached::Yes, false) => {
            format!(
                "TCP to {address} works, but no UDP datagram is answered: {advice}, which must let \
                 UDP pass both ways"
            )
        }
    })
}
