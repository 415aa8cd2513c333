//! One interaction with foca, from what is asked of it to what follows from it.
//!
//! Every interaction, be it a datagram, a timer or a wish of the caller, can make foca send, set
//! timers, change its members or renew our identity. So all of them go through one place, which
//! also does what foca leaves undone.

use std::net::SocketAddr;

use foca::Timer::ProbeRandomMember;
use foca::{Header, Message};

use super::Membership;
use super::claims::ClaimKind;
use super::codec::{self, Datagram, DatagramError, WireError};
use super::interface::{Change, MembershipAction};
use super::swim::{Swim, Wishes, new_swim};
use crate::clock::Instant;
use crate::logging;
use crate::types::Identity;

/// What is due later, of our own or of foca's.
#[derive(Debug)]
pub(super) enum Timer {
    Swim(foca::Timer<Identity>),
    RepeatLeaving,
    TellAccused,
    AskRumoured,
}

impl Membership {
    /// Drives foca as [`try_drive`](Self::try_drive) does, and logs an error. Here it tells the
    /// caller nothing: a timer came too late to be of use, and foca goes on by itself. Once we have
    /// ended, nothing happens.
    pub(super) fn drive(
        &mut self,
        now: Instant,
        actions: &mut Vec<MembershipAction>,
        act: impl FnOnce(&mut Swim, &mut Wishes) -> Result<(), foca::Error>,
    ) {
        if self.ended.is_none() {
            let result = self.try_drive(now, actions, act);
            self.log_failure(result);
        }
    }

    pub(super) fn log_failure(&self, result: Result<(), foca::Error>) {
        if let Err(error) = result {
            logging::debug!("membership of {:?}: {error}", self.own);
        }
    }

    /// Interacts with foca once. What it wishes and what changed become actions even if it fails:
    /// it might have done part of the work.
    pub(super) fn try_drive(
        &mut self,
        now: Instant,
        actions: &mut Vec<MembershipAction>,
        act: impl FnOnce(&mut Swim, &mut Wishes) -> Result<(), foca::Error>,
    ) -> Result<(), foca::Error> {
        let mut wishes = Wishes::default();
        let result = act(&mut self.swim, &mut wishes);
        let returned = *self.swim.identity() != self.own;
        let reconnected = if returned { self.come_back(now, &mut wishes) } else { Ok(()) };
        self.fulfil(now, wishes, actions);
        if returned {
            actions.push(MembershipAction::Changed(Change::Returned(self.own)));
        }
        self.report_changes(actions);
        if self.roster.has_suspects() {
            self.tell_accused_at(now);
        }
        let leavers = self.leavers();
        if !leavers.is_empty() && self.ended.is_none() {
            self.hold_leavers(now, leavers, actions);
        }
        self.deny_leaving(now, actions);
        result.and(reconnected)
    }

    /// Returns the members that are said to have left, by themselves or by others.
    fn leavers(&self) -> Vec<Identity> {
        let claims = self.claims.lock();
        if claims.is_empty() {
            return Vec::new();
        }
        let has_left =
            |id: &Identity| id.addr != self.own.addr && claims.about(id) == Some(ClaimKind::Left);
        self.swim.iter_members().map(|member| *member.id()).filter(has_left).collect()
    }

    /// Renews this node's identity if others say that it leaves, and it does not.
    fn deny_leaving(&mut self, now: Instant, actions: &mut Vec<MembershipAction>) {
        let is_said = self.claims.lock().about(&self.own).is_some();
        if is_said && !self.leaving && self.ended.is_none() && !self.has_just_returned(now) {
            let renewed = foca::Identity::renew(&self.own);
            if let Some(renewed) = renewed {
                self.drive(now, actions, |swim, wishes| swim.change_identity(renewed, wishes));
            }
        }
    }

    /// Begins again after foca renewed our identity: with the same members, and nothing to say of
    /// them.
    ///
    /// A node that was cut off from all declared all others dead. As long as it is dead for them,
    /// they do not believe it. When it is back they would look into each of these rumours. foca
    /// keeps that news, so another foca takes its place. If a member is truly dead, the others find
    /// out as well as this node did.
    ///
    /// It also needs new timers. Those that it has are void, and it would wait for another member
    /// to speak to it: for ever, if the datagrams that announce the new identity get lost.
    fn come_back(&mut self, now: Instant, wishes: &mut Wishes) -> Result<(), foca::Error> {
        self.own = *self.swim.identity();
        self.renewed_at = Some(now);
        self.replace_swim(wishes)?;
        if self.leaving {
            let leaving = self.own_claim(ClaimKind::Leaving);
            self.swim.add_broadcast(&leaving)?;
        }
        self.swim.apply_many(std::iter::empty(), true, &mut *wishes)?;
        self.swim.gossip(wishes)
    }

    fn replace_swim(&mut self, wishes: &mut Wishes) -> Result<(), foca::Error> {
        use foca::Timer::RemoveDown;
        // If others told of this very return before it was, it might be dead by now for the foca
        // before. The next one would return once more.
        let members = self.swim.iter_membership_state().filter(|it| *it.id() != self.own);
        let members: Vec<_> = members.cloned().collect();
        // Each life of a node has another stream of chance.
        self.settings.seed = self.settings.seed.wrapping_add(1);
        self.swim = new_swim(&self.settings, self.own, self.claims.clone());
        // The dead are removed when they would have been.
        self.timers
            .retain(|_, timer| !matches!(timer, Timer::Swim(it) if !matches!(it, RemoveDown(_))));
        wishes.timers.retain(|(_, timer)| matches!(timer, RemoveDown(_)));
        // A member that is dead for us must hear it all the same. It answers as returns + 1.
        wishes.packets.retain(|(_, packet)| {
            codec::message_of(packet).is_some_and(|(_, message)| message == Message::TurnUndead)
        });
        let mut fresh = Wishes::default();
        self.swim.apply_many(members.into_iter(), false, &mut fresh)?;
        fresh.timers.retain(|(_, timer)| !matches!(timer, RemoveDown(_)));
        wishes.timers.append(&mut fresh.timers);
        Ok(())
    }

    fn fulfil(&mut self, now: Instant, wishes: Wishes, actions: &mut Vec<MembershipAction>) {
        let own = self.own.addr;
        // The member that is probed from now on, if any.
        let mut probed = None;
        for (after, timer) in wishes.timers {
            let after = match &timer {
                foca::Timer::SendIndirectProbe { probed_id, .. } => {
                    probed = Some(*probed_id);
                    self.health.direct_time(probed_id, after)
                }
                foca::Timer::ProbeRandomMember(_) => match &probed {
                    Some(probed) => self.health.probe_time(probed, after),
                    None => after,
                },
                foca::Timer::ChangeSuspectToDown { member_id, .. } => {
                    self.health.suspicion_time(member_id, after)
                }
                foca::Timer::PeriodicGossip(_) => {
                    let after = after.max(self.health.typical_round_trip());
                    // Each time at which something is due wakes the thread.
                    let probe = self.next_probe().map(|at| at.since(now));
                    probe.filter(|it| it.abs_diff(after) <= after / 4).unwrap_or(after)
                }
                foca::Timer::RemoveDown(dead) => {
                    self.cancel_removal_at(dead.addr);
                    after
                }
                foca::Timer::PeriodicAnnounce(_) | foca::Timer::PeriodicAnnounceDown(_) => after,
            };
            self.set_timer(now + after, Timer::Swim(timer));
        }
        self.ask_helpers(&wishes.packets, actions);
        // foca greets the dead, and our own former lives are among them.
        for (to, packet) in wishes.packets.into_iter().filter(|(to, _)| to.addr != own) {
            if let Some((_, Message::Ping(number))) = codec::message_of(&packet) {
                let roster = &self.roster;
                self.health.probe_begins(now, to, number, |member| roster.has_active(member));
            }
            let datagram = Datagram::Swim(&packet).encode(self.settings.cluster);
            actions.push(MembershipAction::Send { to: to.addr, datagram });
        }
    }

    /// Returns when the next probe begins.
    fn next_probe(&self) -> Option<Instant> {
        let is_probe = |timer: &Timer| matches!(timer, Timer::Swim(ProbeRandomMember(_)));
        self.timers.iter().find(|(_, timer)| is_probe(timer)).map(|((at, _), _)| *at)
    }

    /// Has what follows a probe without an answer wait for the next probe, as this one was
    /// answered. foca then only notes that it has come so far.
    pub(super) fn put_off_indirect_probe(&mut self, target: &Identity) {
        use foca::Timer::SendIndirectProbe;
        let is_it = |timer: &Timer| match timer {
            Timer::Swim(SendIndirectProbe { probed_id, .. }) => probed_id == target,
            _ => false,
        };
        let mut timers = self.timers.iter();
        let Some(key) = timers.find(|(_, timer)| is_it(timer)).map(|(key, _)| *key) else { return };
        if let Some(next) = self.next_probe().filter(|next| *next > key.0)
            && let Some(timer) = self.timers.remove(&key)
        {
            self.timers.insert((next, key.1), timer);
        }
    }

    /// Asks helpers of our own choice for an indirect probe, in addition to those of foca's choice,
    /// if these packets ask for one.
    fn ask_helpers(
        &mut self,
        packets: &[(Identity, Vec<u8>)],
        actions: &mut Vec<MembershipAction>,
    ) {
        let requests = packets.iter().filter_map(|(_, packet)| codec::header_of(packet));
        let requests: Vec<Header<Identity>> =
            requests.filter(|it| matches!(it.message, Message::PingReq { .. })).collect();
        let Some(request) = requests.first() else { return };
        let Message::PingReq { target, probe_number } = request.message else { return };
        let is_other = |it: &Identity| *it != target && it.addr != self.own.addr;
        let members = self.swim.iter_members().map(|member| *member.id());
        let candidates: Vec<Identity> = members.filter(is_other).collect();
        let is_asked = |it: &Identity| requests.iter().any(|request| request.dst == *it);
        let mut helpers = self.helpers.choose(&target, &candidates);
        helpers.retain(|helper| !is_asked(helper));
        for &dst in &helpers {
            if let Some(packet) = codec::packet_of(&Header { dst, ..request.clone() }) {
                let datagram = Datagram::Swim(&packet).encode(self.settings.cluster);
                actions.push(MembershipAction::Send { to: dst.addr, datagram });
            }
        }
        let of_foca = requests.iter().map(|request| request.dst);
        self.helpers.asked((target, probe_number), helpers, of_foca);
    }

    /// Cancels the removal of a dead member at this address. A member that dies often would
    /// otherwise leave a day-long timer behind each time.
    fn cancel_removal_at(&mut self, addr: SocketAddr) {
        use foca::Timer::RemoveDown;
        let removes_it =
            |timer: &Timer| matches!(timer, Timer::Swim(RemoveDown(dead)) if dead.addr == addr);
        self.timers.retain(|_, timer| !removes_it(timer));
    }

    pub(super) fn set_timer(&mut self, at: Instant, timer: Timer) {
        self.timers_set += 1;
        self.timers.insert((at, self.timers_set), timer);
    }

    pub(super) fn report_changes(&mut self, actions: &mut Vec<MembershipAction>) {
        let (health, helpers) = (&mut self.health, &mut self.helpers);
        let report = |change| {
            if let Change::Down(gone) | Change::Left(gone) | Change::Replaced { old: gone, .. } =
                &change
            {
                health.forget(gone);
                helpers.forget(gone);
            }
            actions.push(MembershipAction::Changed(change));
        };
        self.roster.update(&self.swim, &mut self.claims.lock(), report);
    }
}

pub(super) fn datagram_error(error: foca::Error) -> DatagramError {
    match error {
        foca::Error::DataFromOurselves => DatagramError::FromOurselves,
        foca::Error::Decode(cause) => match cause.downcast_ref::<WireError>() {
            Some(cause) => DatagramError::Malformed(*cause),
            None => DatagramError::Partial(cause.to_string()),
        },
        error => DatagramError::Partial(error.to_string()),
    }
}
