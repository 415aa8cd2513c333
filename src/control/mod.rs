//! [`Control`]: from membership to placement. What the control thread does, without the thread.
//!
//! It keeps a connection, a *link*, to every member's control thread. It finds members through the
//! seeds, and turns what SWIM says into placements for the cores. And it decides the one thing that
//! must be agreed on before there is any data: that the cluster is new.
//!
//! ```text
//! interface    what it is told (ControlEvent), and what it asks for (ControlAction)
//! state        what it knows
//! seeds        how it finds a cluster          links       how it finds a crash
//! greetings    which nodes it lets in          duplicates  what happens if a node's id is in use
//! details      what members are, by any word   reach       whether others reach this node
//! birth        when the first lists are made   publish     what cores and app are told
//! absent       which dead members are awaited  debt        when a node may be stopped
//! newcomers    nodes that spoke first          pins        which key each node had
//! optional     which nodes have security       denied      whose key the app denies
//! leaving      how this node goes              clocks      whose clock is off
//! risk         when the app hears of risks
//! ```
//!
//! This file joins them: an event or a timer goes to the part that it concerns, and `finish_event`
//! publishes what changed. The parts have methods of [`Control`] and share its state. They name the
//! files `interface`, `state`, `absent`, `clocks`, `pins` and `risk`, and not each other. None
//! names a thread, a socket or a clock of the system.

mod absent;
mod birth;
mod clocks;
mod debt;
#[cfg(feature = "security")]
mod denied;
mod details;
mod duplicates;
mod greetings;
mod interface;
mod leaving;
mod links;
mod newcomers;
mod optional;
mod pins;
mod publish;
mod reach;
mod risk;
mod seeds;
mod state;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use self::interface::Actions;
pub(crate) use self::interface::{
    ControlAction, ControlConfig, ControlEvent, Link, LinkEnd, Readiness,
};
pub(crate) use self::state::Control;
use self::state::{CoreProgress, Greeting};
use crate::clock::{Instant, Now, WallTime};
use crate::events::Event;
use crate::membership::codec::sent_by;
#[cfg(feature = "security")]
use crate::membership::envelope::Envelope;
#[cfg(feature = "sim")]
use crate::membership::envelope::EnvelopeCounters;
use crate::membership::{Change, DatagramError, EXCHANGE_SOON, Membership, MembershipAction};
#[cfg(feature = "security")]
use crate::security::Sealing;
use crate::shard::Stage;
use crate::types::Identity;
use crate::wire::message::ControlMessage;

impl Control {
    /// Publishes the first placement, of this node alone, and asks the seeds.
    pub(crate) fn start(&mut self, now: Instant, actions: &mut Actions) {
        self.finish_event(now, actions);
        self.handle_timers(now, actions);
    }

    pub(crate) fn identity(&self) -> Identity {
        self.membership.identity()
    }

    /// Whether the cores know of lists.
    pub(crate) fn is_serving(&self) -> bool {
        self.published.1 != Stage::Forming
    }

    /// Returns how far the cluster is with its first lists, as the cores know.
    #[cfg(feature = "sim")]
    pub(crate) fn stage(&self) -> Stage {
        self.published.1
    }

    /// Returns a datagram ([`ControlAction::Datagram`]) as it is sent now. `None` if this node can
    /// send none any more.
    pub(crate) fn close_datagram(
        &mut self,
        receiver: SocketAddr,
        datagram: Vec<u8>,
        wall: WallTime,
    ) -> Option<Vec<u8>> {
        self.envelope.close(receiver, datagram, wall)
    }

    /// Seals datagrams from here on: for a control that has not started.
    #[cfg(feature = "security")]
    pub(crate) fn seal(&mut self, sealing: Sealing) {
        self.membership.sign_with(sealing.security.identity.clone());
        self.envelope = Envelope::sealed(self.config.cluster, sealing);
    }

    /// Returns how many datagrams were opened, and how many were not.
    #[cfg(feature = "sim")]
    pub(crate) fn envelope_counters(&self) -> EnvelopeCounters {
        self.envelope.counters()
    }

    /// Acts on what arrived from `from`, whose bytes are opened in place.
    pub(crate) fn handle_datagram(
        &mut self,
        at: Now,
        from: SocketAddr,
        bytes: &mut [u8],
        actions: &mut Actions,
    ) -> Result<(), DatagramError> {
        let now = at.instant;
        let own = self.identity().addr;
        let opened = self.envelope.open(now, own, bytes)?;
        let bytes = opened.datagram;
        let mut todo = Vec::new();
        let result = self.membership.handle_datagram(now, from, bytes, &mut todo);
        // An answer to a ping changes no member.
        let is_news = todo.iter().any(|action| {
            matches!(action, MembershipAction::Changed(change)
                if !matches!(change, Change::Probed(_)))
        });
        self.perform(now, todo, actions);
        let sent = result.is_ok().then(|| sent_by(self.config.cluster, bytes)).flatten();
        if let Some((sender, _)) = sent
            && sender.addr == from
        {
            // Members greet those that they take for dead.
            self.note_guest(sender.addr);
        }
        let mut has_changed_key = false;
        if let (Some((life, _)), Some(sender)) = (&sent, &opened.sender)
            && self.has_link(life)
        {
            self.envelope.confirm(sender);
            has_changed_key = self.has_used(life, sender);
        }
        let has_compared =
            sent.is_some_and(|(sender, wall)| self.compare_clocks(at, sender, wall, actions));
        // While deaths are held back, each datagram might be the answer that is waited for.
        if is_news || has_compared || has_changed_key || self.is_held {
            self.finish_event(now, actions);
        }
        result
    }

    pub(crate) fn handle(&mut self, now: Instant, event: ControlEvent, actions: &mut Actions) {
        match event {
            ControlEvent::LinkUp { link, welcome, proved } => {
                self.link_has_shown(now, &link, &welcome.identity, proved.is_some());
                let is_at_its_address = link.addr == welcome.identity.addr;
                let greeting = Greeting { hello: welcome, proved, is_at_its_address };
                self.link_up(now, link, greeting, actions);
            }
            ControlEvent::LinkDown { link, end } => self.link_down(now, link, end, actions),
            #[cfg(feature = "security")]
            ControlEvent::DeniedKey { link, key } => self.has_denied_key(now, link, key, actions),
            ControlEvent::Answer { link, message } => self.answered(now, link, message, actions),
            ControlEvent::Greeted { via, hello, proved } => {
                self.greeting_has_shown(now, &hello.identity, proved.is_some());
                let greeting = Greeting { hello, proved, is_at_its_address: false };
                self.greeted(now, via, greeting, actions);
            }
            ControlEvent::Request { via, peer, request_id, message } => {
                self.requested(now, (via, peer), request_id, message, actions);
            }
            ControlEvent::Progress { core, generation, pending, giving, shortage } => {
                let progress = CoreProgress { generation, pending, giving, shortage };
                self.progress.insert(core, progress);
                self.note_shortage(actions);
            }
            ControlEvent::DataAtRisk { partitions } => self.at_risk.add(now, partitions),
            ControlEvent::CoreOwes { core, question, debt } => {
                self.core_owes(now, core, question, debt, actions);
            }
            ControlEvent::WatchSafety { ticket, until } => {
                self.watch_safety(now, ticket, until, actions)
            }
            ControlEvent::Found(found) => self.found(now, found),
            #[cfg(feature = "security")]
            ControlEvent::ForgetIdentity { node } => self.forget_identity(node),
            ControlEvent::Leave => self.leave(now, actions),
            ControlEvent::Stop => {
                self.swim(now, actions, |membership, todo| membership.announce_dead(now, todo));
            }
        }
        self.finish_event(now, actions);
    }

    pub(crate) fn handle_timers(&mut self, now: Instant, actions: &mut Actions) {
        self.swim(now, actions, |membership, todo| membership.handle_timers(now, todo));
        self.handle_link_timers(now, actions);
        self.handle_exchange_timer(now, actions);
        self.handle_details_timer(now, actions);
        self.handle_seed_timers(now, actions);
        self.handle_reach_timers(now, actions);
        self.handle_newcomer_timers(now, actions);
        self.handle_held_timers(now, actions);
        self.handle_safety_timer(now, actions);
        self.handle_drain_timer(now, actions);
        self.handle_risk_timer(now, actions);
        self.handle_optional_timer(now, actions);
        if self.stage == Stage::Forming && self.status_at <= now {
            self.tell_status(now, actions);
        }
        self.finish_event(now, actions);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let status = (self.stage == Stage::Forming).then_some(self.status_at);
        let links =
            [self.links_deadline(), self.seeds_deadline(), status, self.membership.deadline()];
        let others = [
            self.safety_deadline(),
            self.drain_deadline(),
            self.forget_at.filter(|_| !self.is_held),
            self.reach_deadline(),
            self.newcomers_deadline(),
            self.held_deadline(),
            self.at_risk.deadline(),
            self.optional_deadline(),
            self.missing_details.ask_at.filter(|_| !self.links.is_empty()),
            (!self.links.is_empty()).then_some(self.exchange_at),
        ];
        links.into_iter().chain(others).flatten().min()
    }

    /// Lets membership work, and follows what that changed.
    fn swim(
        &mut self,
        now: Instant,
        actions: &mut Actions,
        work: impl FnOnce(&mut Membership, &mut Vec<MembershipAction>),
    ) {
        let mut todo = Vec::new();
        work(&mut self.membership, &mut todo);
        self.perform(now, todo, actions);
    }

    fn perform(&mut self, now: Instant, todo: Vec<MembershipAction>, actions: &mut Actions) {
        for action in todo {
            match action {
                MembershipAction::Send { to, datagram } => {
                    actions.push(ControlAction::Datagram { to, receiver: to, bytes: datagram });
                }
                MembershipAction::Answer { to, asker, datagram } => {
                    actions.push(ControlAction::Datagram { to, receiver: asker, bytes: datagram });
                }
                MembershipAction::Changed(change) => self.changed(now, change, actions),
                MembershipAction::Meet(node) => self.dial_newcomer(now, node, actions),
                MembershipAction::LeftOut(count) => {
                    actions.push(ControlAction::Notify(Event::MembersLeftOut { count }));
                }
            }
        }
    }

    fn changed(&mut self, now: Instant, change: Change, actions: &mut Actions) {
        let event = match change {
            Change::Up(identity) => {
                self.open_link(identity, actions);
                None
            }
            // It was taken for dead by another node, and never was for this one.
            Change::Replaced { old, new } if self.has_link(&old) && old.life() == new.life() => {
                self.rename_link(&old, new);
                None
            }
            Change::Replaced { old, new: _ } | Change::Down(old) => {
                // Of one that was dead already the app has been told.
                let is_news = !matches!(change, Change::Replaced { .. }) || self.has_link(&old);
                self.life_ended(now, &old, actions);
                self.name_that_counts(&old).filter(|_| is_news).map(|node| Event::Died { node })
            }
            Change::Left(identity) => {
                self.life_ended(now, &identity, actions);
                self.name_that_counts(&identity).map(|node| Event::Left { node })
            }
            Change::Suspected(identity) => {
                self.name_that_counts(&identity).map(|node| Event::Suspected { node })
            }
            Change::Refuted(identity) => {
                self.name_that_counts(&identity).map(|node| Event::Refuted { node })
            }
            Change::Leaving(_) => None,
            Change::Returned(identity) => {
                let is_same_life = identity.boot == self.config.identity.boot;
                self.config.identity = identity;
                self.recheck_reachability();
                // Others might have died for this node alone, while it was away.
                self.exchange_at = self.exchange_at.min(now + EXCHANGE_SOON);
                actions.push(ControlAction::Returned { identity, is_same_life });
                is_same_life.then_some(Event::Returned)
            }
            Change::Probed(identity) => {
                self.probe_answered(now, &identity);
                self.ping_was_answered(now, &identity, actions);
                self.one_answered(now, &identity, actions);
                None
            }
        };
        actions.extend(event.map(ControlAction::Notify));
    }

    /// Follows the end of a member's life.
    fn life_ended(&mut self, now: Instant, life: &Identity, actions: &mut Actions) {
        self.close_link(life, actions);
        if self.links.is_empty() {
            // Perhaps they do not hear this node, or it does not hear them.
            self.recheck_reachability();
        }
        self.handle_held_timers(now, actions);
    }

    fn answered(
        &mut self,
        now: Instant,
        link: Link,
        message: ControlMessage,
        actions: &mut Actions,
    ) {
        match message {
            ControlMessage::Members { mut records, mut absent, details, claims } => {
                records.retain(|it| !self.membership.is_too_far(now, &it.identity));
                absent.retain(|it| !self.membership.is_too_far(now, &it.identity));
                self.membership.check_departures(now, claims, &mut records);
                self.absent.told(now, absent);
                for known in records.iter().filter(|known| !known.state.is_active()) {
                    self.note_over(now, known);
                }
                self.swim(now, actions, |membership, todo| membership.learn(now, &records, todo));
                self.hear_details(now, details);
                if link.expects.is_none() {
                    self.seed_is_done(now, link.addr, &records);
                    actions.push(ControlAction::Close(link));
                }
            }
            ControlMessage::Status { status, heard, .. } => {
                let from = self.links.values().find(|member| Link::to(&member.identity) == link);
                if let Some(from) = from.map(|member| member.identity) {
                    self.statuses.insert(from.node, (from, status));
                }
                self.hear_statuses(heard);
            }
            ControlMessage::Debt { round, of, debt } => {
                self.debt_told(link, (round, of), debt, actions);
            }
            ControlMessage::DialedBack { tcp, udp } => {
                self.dialed_back(now, link, tcp, udp, actions)
            }
            ControlMessage::AskMembers
            | ControlMessage::AskDebt { .. }
            | ControlMessage::DialBack { .. } => {}
        }
    }

    fn requested(
        &mut self,
        now: Instant,
        (via, peer): (u64, Identity),
        request_id: u64,
        message: ControlMessage,
        actions: &mut Actions,
    ) {
        let message = match message {
            ControlMessage::AskMembers => {
                let records = self.records_to_tell();
                ControlMessage::Members {
                    absent: self.absent.waited_for(now),
                    details: self.details_to_tell(),
                    claims: self.membership.signed_claims(&records),
                    records,
                }
            }
            ControlMessage::Status { asks, .. } => self.status_to_tell(&asks),
            ControlMessage::AskDebt { round, of } => {
                return self.debt_asked(via, request_id, (round, of), actions);
            }
            ControlMessage::DialBack { identity } => {
                return self.try_to_reach(now, (via, peer), request_id, identity, actions);
            }
            ControlMessage::Members { .. }
            | ControlMessage::Debt { .. }
            | ControlMessage::DialedBack { .. } => return,
        };
        actions.push(ControlAction::Answer { via, request_id, message });
    }

    /// Publishes what an event has changed. What the app is told comes last: it finds members and
    /// readiness as it is told.
    fn finish_event(&mut self, now: Instant, actions: &mut Actions) {
        let old_stage = self.stage;
        let members_changed = self.place_members(now, actions);
        self.watch_details(now);
        self.consider_birth(now, actions);
        #[cfg(feature = "security")]
        if let Some(keys) = self.pins.take_news() {
            self.membership.know_keys(keys.clone());
            actions.push(ControlAction::Keys(keys));
        }
        self.publish(actions);
        if members_changed {
            self.ask_again_for_safety();
        }
        self.note_synced(actions);
        if old_stage == Stage::Forming && (members_changed || self.stage != old_stage) {
            // The others wait for this node's word.
            self.tell_status(now, actions);
        }
        self.publish_members(actions);
        self.finish_leave(now, actions);
        actions.sort_by_key(|action| matches!(action, ControlAction::Notify(_)));
    }
}
