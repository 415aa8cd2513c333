//! Accusations: a member that a node suspects, or takes for dead, is told so itself.
//!
//! **Problem.** Only the accused can clear itself: a suspect by a higher incarnation, a dead member
//! by a renewed identity. So it must hear of the accusation, and SWIM leaves that to chance:
//!
//! - Gossip passes a suspicion on a few times and never again. If the network loses it, the suspect
//!   never refutes it. And a node that returns under a renewed identity has lost the timers that
//!   would end its suspicions.
//! - A node that is cut off from all declares all others dead, and gossips it to nodes that it does
//!   not reach. When it is back, members that it reaches learn of their deaths as soon as one of
//!   the two speaks to the other. A member that it never reaches, at another spoke of a hub, never
//!   learns of its own, lives on for all others, and stays dead for that node.
//!
//! So the node that accuses tells the accused, and asks others to pass it on if it might not reach
//! the accused itself:
//!
//! ```text
//! spoke                                hub                                  other spoke
//!   │──── which members are there? ─────▶│                                        │
//!   │◀─── the other spoke lives ─────────│                                        │
//!   │  (not for me)                      │                                        │
//!   │──── tell it that it is dead ──────▶│──── you are dead, says the spoke ─────▶│
//!   │◀─── it lives again ────────────────│◀─── I live again, as returns + 1 ──────│
//! ```
//!
//! | the accused is | it is told | until |
//! |---|---|---|
//! | a suspect, by this node's probe | four times in a probe period | it refutes, or is dead |
//! | a suspect, by another node's word | once in a probe period | it refutes, or is dead |
//! | dead here, and alive for a node that was asked | the same, [`TOLD`] times | it is back |
//!
//! **Invariant.** Only the member itself ends an accusation. This node never takes a death back on
//! the word of another, which might not have heard of it yet.
//!
//! The first half, for suspects, is the "buddy system" of Dadgar et al., "Lifeguard", DSN '18.

use std::collections::{BTreeMap, BTreeSet};

use foca::Member;

use super::Membership;
use super::codec::{Accusation, Charge, Datagram};
use super::drive::Timer;
use super::interface::MembershipAction;
use super::swim::{FAN_OUT, LAST_INCARNATIONS};
use crate::clock::Instant;
use crate::mutants::{ProtocolMutant, rule};
use crate::types::Identity;

/// How often a dead member is told, once another node has said that it lives. Two seconds at the
/// default probe period: in that time the other node hears of a true death, too. If not, the
/// next node that is asked for its members says it again.
const TOLD: usize = 10;

/// The members that this node accuses, and tells so.
#[derive(Debug, Default)]
pub(super) struct Accusations {
    suspects: BTreeMap<Identity, Suspect>,
    /// The members that are dead for this node and alive for another one.
    dead: BTreeMap<Identity, Dead>,
    /// Whether a timer is set to tell them again.
    pub(super) is_telling: bool,
    /// Counts what others were asked to pass on, so that each time others are asked.
    passed: usize,
}

/// A suspicion of one incarnation: when it began, and when the member was last told of it, or might
/// have been.
#[derive(Debug, Clone, Copy)]
struct Suspect {
    incarnation: u16,
    since: Instant,
    told_at: Instant,
}

/// How often a dead member was told, and when it is told next.
#[derive(Debug, Clone, Copy)]
struct Dead {
    told: usize,
    next: Instant,
}

impl Membership {
    /// Notes that another node sees a member alive. If the member is dead for this node, it is told
    /// so from the next [`tell_accused`](Self::tell_accused) on.
    pub(super) fn note_seen_by_others(&mut self, member: Identity) {
        if self.roster.has_dead(&member) && rule(ProtocolMutant::DeathUntold, true) {
            let fresh = Dead { told: 0, next: Instant::default() };
            self.accusations.dead.entry(member).or_insert(fresh);
        }
    }

    /// Has accused members told at this time, unless a timer is set for that.
    pub(super) fn tell_accused_at(&mut self, at: Instant) {
        if !std::mem::replace(&mut self.accusations.is_telling, true) {
            self.set_timer(at, Timer::TellAccused);
        }
    }

    /// Tells accused members, again and again.
    pub(super) fn tell_accused(&mut self, now: Instant, actions: &mut Vec<MembershipAction>) {
        self.tell_suspects(now, actions);
        self.tell_dead(now, actions);
        let Accusations { suspects, dead, .. } = &self.accusations;
        if self.ended.is_none() && !(suspects.is_empty() && dead.is_empty()) {
            self.tell_accused_at(now + self.settings.probe_period / 4);
        }
    }

    /// Tells suspected members that they are suspected, and ends suspicions that should have been
    /// refuted or confirmed long since.
    fn tell_suspects(&mut self, now: Instant, actions: &mut Vec<MembershipAction>) {
        let is_suspect = |member: &&Member<Identity>| member.state() == foca::State::Suspect;
        let suspects =
            self.swim.iter_members().filter(is_suspect).map(|it| (*it.id(), it.incarnation()));
        let mut suspects: Vec<_> = suspects.collect();
        suspects.sort_unstable_by_key(|(member, _)| member.sort_key());
        let is_suspected = |known: &Identity| suspects.iter().any(|(member, _)| member == known);
        self.accusations.suspects.retain(|known, _| is_suspected(known));
        if suspects.is_empty() || self.ended.is_some() {
            return;
        }
        let accused: BTreeSet<Identity> = suspects
            .iter()
            .map(|(target, _)| *target)
            .filter(|target| self.accuses(target))
            .collect();
        let patience = 4 * (self.settings.suspicion_timeout + self.settings.probe_period);
        for (target, incarnation) in suspects {
            let fresh = Suspect { incarnation, since: now, told_at: now };
            let suspect = self.accusations.suspects.entry(target).or_insert(fresh);
            if suspect.incarnation != incarnation {
                // It refuted the one before.
                *suspect = fresh;
            }
            // If this node's word ends the suspicion, no single loss must decide. All other nodes
            // wait until gossip tells them that it was refuted, as most are.
            let is_due = accused.contains(&target)
                || now.since(suspect.told_at) >= self.settings.probe_period;
            if now.since(suspect.since) > self.health.suspicion_time(&target, patience) {
                self.declare_dead(now, target, actions);
            } else if is_due {
                suspect.told_at = now;
                self.accuse(target, Charge::Suspect(incarnation), actions);
            }
        }
    }

    /// Whether this node's own probe of the member failed, so that its word ends the suspicion.
    pub(super) fn accuses(&self, target: &Identity) -> bool {
        use foca::Timer::ChangeSuspectToDown;
        self.timers.values().any(|timer| match timer {
            Timer::Swim(ChangeSuspectToDown { member_id, .. }) => member_id == target,
            _ => false,
        })
    }

    /// Tells members that are dead for this node, and not for all.
    fn tell_dead(&mut self, now: Instant, actions: &mut Vec<MembershipAction>) {
        let roster = &self.roster;
        self.accusations.dead.retain(|member, it| it.told < TOLD && roster.has_dead(member));
        let mut due = Vec::new();
        for (member, it) in self.accusations.dead.iter_mut().filter(|(_, it)| it.next <= now) {
            (it.told, it.next) = (it.told + 1, now + self.settings.probe_period);
            due.push(*member);
        }
        if self.ended.is_none() {
            due.into_iter().for_each(|member| self.accuse(member, Charge::Dead, actions));
        }
    }

    /// Sends an accusation to its target, and to others that pass it on if the target has never
    /// answered this node directly.
    fn accuse(&mut self, target: Identity, charge: Charge, actions: &mut Vec<MembershipAction>) {
        let accusation = Accusation { charge, target, from: self.own };
        let direct = Datagram::Accusation(accusation).encode(self.settings.cluster);
        actions.push(MembershipAction::Send { to: target.addr, datagram: direct });
        if self.health.round_trip(&target).is_some() {
            return;
        }
        for helper in self.reached_in_turn(&target) {
            let datagram = Datagram::PassOn(accusation).encode(self.settings.cluster);
            actions.push(MembershipAction::Send { to: helper.addr, datagram });
        }
    }

    /// Returns some members other than this one that this node reaches, each time the next ones.
    fn reached_in_turn(&mut self, target: &Identity) -> Vec<Identity> {
        let members = self.swim.iter_members().map(|member| *member.id());
        let others = members.filter(|it| it.addr != target.addr && it.addr != self.own.addr);
        let (reached, unknown): (Vec<_>, Vec<_>) =
            others.partition(|it| self.health.round_trip(it).is_some());
        let mut candidates = if reached.is_empty() { unknown } else { reached };
        candidates.sort_unstable_by_key(Identity::sort_key);
        let few = FAN_OUT.get().min(candidates.len());
        if few > 0 {
            let first = self.accusations.passed % candidates.len();
            candidates.rotate_left(first);
            self.accusations.passed = self.accusations.passed.wrapping_add(few);
        }
        candidates.truncate(few);
        candidates
    }

    /// Passes an accusation on to its target, for a member that might not reach it. A node that is
    /// no member accuses no member.
    pub(super) fn pass_on(
        &mut self,
        now: Instant,
        accusation: Accusation,
        actions: &mut Vec<MembershipAction>,
    ) {
        let Accusation { target, from, .. } = accusation;
        if target == self.own {
            self.accused(now, accusation, actions);
        } else if self.roster.has_active(&target) && self.roster.has_active(&from) {
            let datagram = Datagram::Accusation(accusation).encode(self.settings.cluster);
            actions.push(MembershipAction::Send { to: target.addr, datagram });
        }
    }

    /// Clears this node of an accusation, if it is meant for this very life of it.
    pub(super) fn accused(
        &mut self,
        now: Instant,
        Accusation { charge, target, from }: Accusation,
        actions: &mut Vec<MembershipAction>,
    ) {
        if target != self.own {
            return;
        }
        let as_told = match charge {
            // A return alone refutes it.
            Charge::Suspect(incarnation)
                if incarnation >= LAST_INCARNATIONS && self.has_just_returned(now) =>
            {
                return;
            }
            Charge::Suspect(incarnation) => {
                self.health.refuted(now);
                Member::new(self.own, incarnation, foca::State::Suspect)
            }
            // Two that never agree must not run through the returns of a life.
            Charge::Dead if self.has_just_returned(now) => return,
            Charge::Dead => Member::down(self.own),
        };
        // Anything that the accuser hears from us next refutes it.
        let as_told = [as_told].into_iter();
        self.drive(now, actions, |swim, wishes| swim.apply_many(as_told, true, wishes));
        if self.may_answer(&from) {
            self.announce_to(now, from, actions);
        }
    }
}
