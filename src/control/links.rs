//! Links: the connections between control threads, one each way for as long as both live.
//!
//! The end of a link is the first sign of a crash. That alone declares no member dead. The link is
//! dialled again, and the member is declared dead only if no process listens there any more, and
//! the member's own port answers no ping. A member that this node has never reached it does not
//! declare dead in this way: a gateway that refuses looks the same.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::interface::{Actions, ControlAction, Link, LinkEnd};
use super::pins::Key;
use super::state::{Control, Greeting, LinkState, MemberLink};
use crate::clock::Instant;
use crate::events::Event;
#[cfg(feature = "security")]
use crate::events::MemberSecurity;
use crate::membership::{EXCHANGE_SOON, exchange_period};
#[cfg(feature = "security")]
use crate::security::KeyId;
use crate::security::Proved;
use crate::security::senders::SenderId;
use crate::shard::Stage;
use crate::types::Identity;
use crate::wire::message::{ControlMessage, Refusal, RefusalReason};

/// For how many addresses a refusal is remembered, so that it is not said each time, and after how
/// long it is said again.
const MAX_REFUSALS: usize = 64;
const REFUSAL_REPEAT: Duration = Duration::from_secs(5);

/// How many pings a member gets if no process listens at its address, and how far apart they are
/// (or a round trip, if that takes longer). It has as long again to answer.
const PINGS: u32 = 2;
const PING_PERIOD: Duration = Duration::from_millis(20);

/// How many links are being opened at a time. The others wait: tries for other nodes, newcomers and
/// seeds need some of the places for dials, too.
const MAX_OPENING: usize = 64;

/// How soon a link is opened that was not tried because too many were being opened all the same.
const PUT_OFF_FOR: Duration = Duration::from_millis(100);

impl Control {
    pub(super) fn open_link(&mut self, identity: Identity, actions: &mut Actions) {
        let known = self.links.get(&identity.node);
        if known.is_some_and(|it| {
            it.identity.addr != identity.addr && it.identity.life() > identity.life()
        }) {
            // A later life of the node is a member at another address.
            return;
        }
        let mut new = MemberLink::new(identity);
        if self.has_reached(&identity) {
            // That was before it was a member, and the connection stays.
            new.come_up();
        }
        let known = self.links.insert(identity.node, new);
        match known {
            // Only its `returns` changed: the connection stays.
            Some(old) if Link::to(&old.identity) == Link::to(&identity) => {
                self.links.insert(identity.node, MemberLink { identity, ..old });
            }
            Some(old) => actions.push(ControlAction::Close(Link::to(&old.identity))),
            None => {}
        }
        self.open_waiting(actions);
    }

    /// Opens links that wait for that, as many as there may be at a time.
    fn open_waiting(&mut self, actions: &mut Actions) {
        let places = MAX_OPENING.saturating_sub(self.opening());
        let waiting = self.links.values_mut().filter(|link| link.state == LinkState::Waiting);
        for link in waiting.take(places) {
            link.state = LinkState::Opening;
            actions.push(ControlAction::Open(Link::to(&link.identity)));
        }
    }

    fn opening(&self) -> usize {
        self.links.values().filter(|link| link.state == LinkState::Opening).count()
    }

    /// Whether there is a link to this very life of a member, up or not: to each that is not dead.
    pub(super) fn has_link(&self, identity: &Identity) -> bool {
        self.links.get(&identity.node).is_some_and(|link| link.identity == *identity)
    }

    /// Keeps the link to a member that has only renewed its identity.
    pub(super) fn rename_link(&mut self, old: &Identity, new: Identity) {
        if let Some(link) = self.links.get_mut(&old.node).filter(|link| link.identity == *old) {
            link.identity = new;
        }
    }

    pub(super) fn close_link(&mut self, identity: &Identity, actions: &mut Actions) {
        if self.links.get(&identity.node).is_some_and(|link| link.identity == *identity) {
            self.links.remove(&identity.node);
            self.statuses.remove(&identity.node);
            actions.push(ControlAction::Close(Link::to(identity)));
            self.open_waiting(actions);
        }
    }

    pub(super) fn link_up(
        &mut self,
        now: Instant,
        link: Link,
        greeting: Greeting,
        actions: &mut Actions,
    ) {
        let key = match self.judge_key(&greeting) {
            Ok(key) => key,
            Err(refusal) => return self.give_up(now, link, LinkEnd::Refused(refusal), actions),
        };
        if key == Key::Differs
            && let Some(other) = self.life_in_the_way(&greeting, key)
        {
            // It is dialled again, and by then it is known.
            self.hold(now, None, greeting, other, actions);
            return self.give_up(now, link, LinkEnd::Ended, actions);
        }
        self.let_in(now, &greeting, actions);
        self.note_proved(link, greeting.proved);
        let welcome = &greeting.hello;
        if link.expects.is_none() || link.addr == welcome.identity.addr {
            // Of a seed the app gave the address, which might be another way to the node.
            self.membership.meet(now, &welcome.identity);
        }
        self.newcomer_answered(now, link, actions);
        if link.expects.is_none() {
            return self.seed_answered(now, link, welcome, actions);
        }
        self.link_was_tried(now, link, None, actions);
        if let Some(member) =
            self.links.values_mut().find(|member| Link::to(&member.identity) == link)
        {
            member.come_up();
            if self.refused_by.take().is_some() {
                // The node that had this node's id may be gone, and was a later life.
                actions.push(ControlAction::Ask { link, message: ControlMessage::AskMembers });
            }
            if self.stage == Stage::Forming {
                let message = self.status_to_ask();
                actions.push(ControlAction::Ask { link, message });
            }
        }
        self.open_waiting(actions);
    }

    /// Notes what the other end of a link has proved.
    fn note_proved(&mut self, link: Link, proved: Option<Proved>) {
        match proved.filter(|_| link.expects.is_some()) {
            Some(proved) => drop(self.proved.insert(link, proved)),
            None => drop(self.proved.remove(&link)),
        }
    }

    /// Returns what a member has proved over the link to it, while that is up and secured.
    #[cfg(feature = "security")]
    pub(super) fn security_of(&self, life: &Identity) -> Option<MemberSecurity> {
        let link = self.links.get(&life.node).filter(|link| link.identity == *life)?;
        let proved = self.proved.get(&Link::to(life)).filter(|_| link.state == LinkState::Up)?;
        Some(MemberSecurity {
            fingerprint: proved.fingerprint,
            key_id: proved.key,
            has_certificate: proved.has_certificate,
        })
    }

    /// Returns which cluster key a member uses itself, as far as it has shown that.
    #[cfg(feature = "security")]
    pub(super) fn key_used_by(&self, life: &Identity) -> Option<KeyId> {
        self.links.get(&life.node).filter(|link| link.identity == *life)?.uses
    }

    /// Notes with which cluster key a member has sealed a datagram. Returns whether that is news.
    #[cfg(feature = "security")]
    pub(super) fn has_used(&mut self, member: &Identity, sender: &SenderId) -> bool {
        let link = self.links.get_mut(&member.node).filter(|link| link.identity == *member);
        link.is_some_and(|link| link.uses.replace(sender.key) != Some(sender.key))
    }

    /// There are no such keys.
    #[cfg(not(feature = "security"))]
    pub(super) fn has_used(&mut self, _: &Identity, _: &SenderId) -> bool {
        false
    }

    /// Ends a link for what its other end has said or proved.
    fn give_up(&mut self, now: Instant, link: Link, end: LinkEnd, actions: &mut Actions) {
        actions.push(ControlAction::Close(link));
        self.link_down(now, link, end, actions);
    }

    pub(super) fn link_down(
        &mut self,
        now: Instant,
        link: Link,
        end: LinkEnd,
        actions: &mut Actions,
    ) {
        if let LinkEnd::Refused(refusal) = &end {
            self.refused(now, link.addr, refusal, actions);
            if !is_passing(refusal) {
                self.refused_by = Some(refusal.text.clone());
            }
        }
        self.note_proved(link, None);
        if link.expects.is_none() {
            return match end {
                LinkEnd::PutOff => self.seed_put_off(now, link.addr),
                _ => self.seed_failed(now, link.addr),
            };
        }
        self.newcomer_lost(now, link, &end);
        self.link_was_tried(now, link, Some(&end), actions);
        let Some(member) =
            self.links.values_mut().find(|member| Link::to(&member.identity) == link)
        else {
            return;
        };
        let is_gone = match &end {
            LinkEnd::ConnectRefused => member.was_up,
            LinkEnd::Refused(refusal) => refusal.reason == RefusalReason::NotMe,
            LinkEnd::Ended | LinkEnd::Unreachable | LinkEnd::PutOff => false,
        };
        if end == LinkEnd::PutOff {
            member.state = LinkState::Down { until: now + PUT_OFF_FOR };
        } else if is_gone {
            member.state = LinkState::Probing { pings: 0, next: now };
            self.handle_link_timers(now, actions);
        } else if end == LinkEnd::Ended && member.state == LinkState::Up {
            member.state = LinkState::Waiting;
        } else {
            member.fail(now);
        }
        self.open_waiting(actions);
    }

    pub(super) fn links_deadline(&self) -> Option<Instant> {
        let due = self.links.values().filter_map(|link| match link.state {
            LinkState::Down { until } => Some(until),
            LinkState::Probing { next, .. } => Some(next),
            LinkState::Waiting | LinkState::Opening | LinkState::Up => None,
        });
        due.min()
    }

    /// Asks the members for the members that they know, one after the other.
    ///
    /// Gossip about a member that came is over soon, and may have missed another that came at the
    /// same time.
    pub(super) fn handle_exchange_timer(&mut self, now: Instant, actions: &mut Actions) {
        if self.exchange_at > now {
            return;
        }
        self.forget_members(now);
        self.forget_ended_links();
        let is_asked = self.ask_next_for_members(actions);
        let wait = if is_asked { exchange_period(self.links.len()) } else { EXCHANGE_SOON };
        self.exchange_at = now + wait;
    }

    /// Forgets what was proved over links that this node has closed.
    fn forget_ended_links(&mut self) {
        let members = self.links.values().map(|it| it.identity);
        let newcomers = self.newcomers.iter().map(|it| it.identity);
        let tried = self.reach.tried.iter().map(|it| it.identity);
        let open: BTreeSet<Link> =
            members.chain(newcomers).chain(tried).map(|it| Link::to(&it)).collect();
        self.proved.retain(|link, _| open.contains(link));
    }

    /// A member at whose address no process listened answered a ping: it lives.
    pub(super) fn probe_answered(&mut self, now: Instant, identity: &Identity) {
        if let Some(link) = self.links.get_mut(&identity.node)
            && matches!(link.state, LinkState::Probing { .. })
        {
            link.fail(now);
        }
    }

    pub(super) fn handle_link_timers(&mut self, now: Instant, actions: &mut Actions) {
        let mut to_ping = Vec::new();
        let mut to_bury = Vec::new();
        for link in self.links.values_mut() {
            match &mut link.state {
                LinkState::Down { until } if *until <= now => link.state = LinkState::Waiting,
                LinkState::Probing { pings, next } if *next <= now => {
                    if *pings < PINGS {
                        *pings += 1;
                        *next = now
                            + PING_PERIOD.max(self.membership.round_trip_at_most(&link.identity));
                        to_ping.push(link.identity);
                    } else {
                        to_bury.push(link.identity);
                        link.fail(now);
                    }
                }
                _ => {}
            }
        }
        self.open_waiting(actions);
        for identity in to_ping {
            self.swim(now, actions, |membership, todo| membership.ping(now, identity, todo));
        }
        for identity in to_bury {
            self.swim(now, actions, |membership, todo| {
                membership.declare_dead(now, identity, todo)
            });
        }
    }

    pub(super) fn refused(
        &mut self,
        now: Instant,
        address: SocketAddr,
        refusal: &Refusal,
        actions: &mut Actions,
    ) {
        let reason = &refusal.text;
        let was_said = |(said, until): &(String, Instant)| said == reason && *until > now;
        if is_passing(refusal) || self.refusals.get(&address).is_some_and(was_said) {
            return;
        }
        if self.refusals.len() >= MAX_REFUSALS {
            self.refusals.clear();
        }
        self.refusals.insert(address, (reason.clone(), now + REFUSAL_REPEAT));
        actions.push(ControlAction::Notify(Event::Refused { address, reason: reason.clone() }));
    }
}

/// Whether a refusal says nothing about a configuration.
fn is_passing(refusal: &Refusal) -> bool {
    use RefusalReason::{Full, NotMe, Stopping};
    matches!(refusal.reason, NotMe | Stopping | Full)
}
