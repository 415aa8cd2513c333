//! What follows from membership: the members that partitions can be placed on, the placement that
//! the cores go by, and what the app sees.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::clocks::is_off;
use super::interface::{Actions, ControlAction, Readiness};
use super::state::{Control, CoreProgress, Leaving};
use crate::clock::{Instant, Now, WallTime};
use crate::events::{Event, MemberInfo, MemberState};
use crate::logging;
use crate::membership::{Record, State};
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::{Member, Placement};
use crate::shard::{Shortage, Stage};
use crate::types::{Identity, NodeId};

/// In what steps the app sees how far clocks are apart.
const CLOCK_STEP_MS: u64 = 20;

impl Control {
    /// Makes a new placement if the members are others than those it was made of. Whether it did.
    pub(super) fn place_members(&mut self, now: Instant, actions: &mut Actions) -> bool {
        let members = self.placeable();
        self.is_held = self.must_hold(&members);
        if self.is_held {
            return false;
        }
        self.note_gone(now);
        let alive =
            self.membership.records().iter().filter(|known| known.state.is_active()).count();
        let is_complete = members.len() == alive;
        self.note_absent(now, &members);
        self.forget_at = self.absent.deadline(now);
        self.note_left_behind(&members);
        let has_absent = self.forget_at.is_some();
        let members_changed = members != self.placed
            || self.gone != *self.placement.gone()
            || is_complete != self.placement.is_complete()
            || has_absent != self.placement.has_absent();
        if members_changed {
            self.generation += 1;
            self.placed = members.clone();
            let placement = self.placement_of(members, is_complete, has_absent);
            self.notify_joined(&placement, actions);
            self.placement = Arc::new(placement);
        }
        members_changed
    }

    /// Takes up which members are dead and might come back, now that these are here.
    fn note_absent(&mut self, now: Instant, members: &[Member]) {
        let own = &self.config.local.site.data_center;
        let here = members.iter().map(|member| member.site.data_center.clone());
        let here = here.chain([own.clone()]).collect();
        let data_center_of = |life: &Identity| match self.details.of(life) {
            Some(details) => details.told.site.data_center.clone(),
            // Nothing was ever placed on it.
            None => own.clone(),
        };
        self.absent.note(now, &self.membership.records(), here, data_center_of);
    }

    /// Whether members died for this node while none of the others answers it. It is cut off, or
    /// these are dead as well.
    ///
    /// It takes the others for dead one after the other. With those that are left it could decide
    /// lists that no healthy node wants, over connections that still work. These count, name
    /// members that are dead to all others, and cannot be replaced for seconds. So it acts when one
    /// answers, or when all are dead.
    fn must_hold(&self, members: &[Member]) -> bool {
        let is_there = |of: &Member| members.iter().any(|it| it.identity.node == of.identity.node);
        let have_died = !self.placed.iter().all(is_there);
        let is_cut_off = have_died && members.len() > 1 && self.membership.is_unheard();
        rule(ProtocolMutant::CutOffDecides, is_cut_off)
    }

    /// Looks whether this node is left behind, now that these are the members.
    fn note_left_behind(&mut self, members: &[Member]) {
        let me = self.config.identity.node;
        let is_other = |it: &&Member| it.identity.node != me && self.is_here(&it.site);
        let is_alone = members.iter().filter(is_other).all(|it| it.leaving);
        let is_there = |of: &Member| members.iter().any(|it| it.identity.node == of.identity.node);
        let has_died = |it: &Member| !is_there(it) && !self.gone.has_left(&it.identity);
        let have_died = self.placed.iter().filter(is_other).any(has_died);
        self.is_left_behind = is_alone && (self.is_left_behind || have_died);
    }

    /// The placement of these members, under the current generation.
    fn placement_of(&self, members: Vec<Member>, is_complete: bool, has_absent: bool) -> Placement {
        let replicas = self.config.local.quorums.replicas;
        let (here, in_others) = members.into_iter().partition(|member| self.is_here(&member.site));
        let placement = Placement::new(here, replicas, self.generation, self.gone.clone());
        let placement = placement.with_other_data_centers(in_others).with_absent(has_absent);
        if is_complete { placement } else { placement.incomplete() }
    }

    /// Lets the cores go by what this node sees, if that has changed.
    pub(super) fn publish(&mut self, actions: &mut Actions) {
        if self.published.0.generation() != self.generation || self.published.1 != self.stage {
            let (placement, stage) = (self.placement.clone(), self.stage);
            let before = std::mem::replace(&mut self.published, (placement.clone(), stage));
            // Not if something changed in another data center only.
            let is_moved = before.1 != stage || before.0.members() != placement.members();
            let members = placement.members().len();
            actions.push(ControlAction::Publish { placement, stage });
            if stage != Stage::Forming && is_moved {
                self.is_synced = false;
                actions.push(ControlAction::Notify(Event::PlacementChanged { members }));
            }
        }
    }

    /// Tells the app when this node holds what it should.
    pub(super) fn note_synced(&mut self, actions: &mut Actions) {
        let (generation, stage) = (self.published.0.generation(), self.published.1);
        let is_done =
            |progress: &&CoreProgress| progress.generation == generation && progress.pending == 0;
        let done = self.progress.values().filter(is_done).count();
        let is_synced = stage != Stage::Forming && done == usize::from(self.config.local.cores);
        if is_synced && !std::mem::replace(&mut self.is_synced, true) {
            actions.push(ControlAction::Notify(Event::Synced));
        }
    }

    /// Tells the app that copies find no room on this node, and again when twice as much is
    /// missing. It is told that the node is synced when nothing is missing any more.
    pub(super) fn note_shortage(&mut self, actions: &mut Actions) {
        let mut all = Shortage::default();
        self.progress.values().for_each(|progress| all.add(progress.shortage));
        let Shortage { partitions, bytes } = all;
        if bytes == 0 {
            self.told_missing_bytes = 0;
        } else if bytes >= 2 * self.told_missing_bytes {
            (self.told_missing_bytes, self.is_synced) = (bytes, false);
            actions.push(ControlAction::Notify(Event::OutOfMemory { partitions, bytes }));
        }
    }

    /// Tells the app that acknowledged writes might be lost.
    pub(super) fn handle_risk_timer(&mut self, now: Instant, actions: &mut Actions) {
        let Some(partitions) = self.at_risk.take_due(now) else { return };
        logging::warn!(
            "acknowledged writes of {partitions} partitions might be lost: W of their replicas are \
             dead at one time. Those that were only cut off bring theirs back"
        );
        actions.push(ControlAction::Notify(Event::DataAtRisk { partitions }));
    }

    /// Remembers the lives that are over. One that was only taken for dead is not.
    pub(super) fn note_gone(&mut self, now: Instant) {
        for known in self.membership.records() {
            if !known.state.is_active() {
                self.note_over(now, &known);
            } else {
                self.gone.forget(&known.identity);
            }
        }
    }

    /// Returns the members that partitions can be placed on or fetched from: those that live and
    /// are known by name.
    pub(super) fn placeable(&self) -> Vec<Member> {
        let me = self.identity();
        let member = |known: Record| {
            let (id, cores, site) = if known.identity.node == me.node {
                let local = &self.config.local;
                (NodeId::new(&local.node_id), local.cores, local.site.clone())
            } else {
                let details = self.details_of(&known.identity)?;
                (details.told.id.clone(), details.told.cores, details.told.site.clone())
            };
            let leaving = known.leaving || known.identity == me && self.leaving != Leaving::No;
            Some(Member { identity: known.identity.life(), id, cores, site, leaving })
        };
        let mut members: Vec<Member> = self
            .membership
            .records()
            .into_iter()
            .filter(|known| known.state.is_active())
            .filter_map(member)
            .collect();
        // Of two lives of a node, the later.
        members.sort_by_key(|member| std::cmp::Reverse(member.identity));
        members.dedup_by_key(|member| member.identity.node);
        members.reverse();
        members
    }

    pub(super) fn notify_joined(&self, new: &Placement, actions: &mut Actions) {
        let me = self.config.identity.node;
        for member in new.everybody().filter(|member| member.identity.node != me) {
            let was_here = self
                .placement
                .member(member.identity.node)
                .is_some_and(|old| old.identity.boot == member.identity.boot);
            if !was_here {
                let (node, address) = (member.id.clone(), member.identity.addr);
                actions.push(ControlAction::Notify(Event::Joined { node, address }));
            }
        }
    }

    /// Learns from a datagram what its sender's clock showed. Returns whether that is news.
    pub(super) fn compare_clocks(
        &mut self,
        now: Now,
        sender: Identity,
        sent: WallTime,
        actions: &mut Actions,
    ) -> bool {
        let Some(round_trip) = self.membership.round_trip(&sender) else { return false };
        if !self.clocks.note(now, sender, sent, round_trip) {
            return false;
        }
        let records = self.membership.records().into_iter();
        let active: BTreeSet<Identity> =
            records.filter(|it| it.state.is_active()).map(|it| it.identity).collect();
        self.clocks.keep_only(&active);
        for (node, ahead) in self.clocks.offsets(self.identity().node) {
            let by = Duration::from_micros(ahead.unsigned_abs());
            let was_off = self.clocks.off.contains(&node);
            let is_off = is_off(by, was_off);
            let identity = active.iter().find(|it| it.node == node && is_off != was_off);
            let Some(name) = identity.and_then(|it| self.name_or_own(it)) else { continue };
            let event = if is_off {
                self.clocks.off.insert(node);
                Event::ClockOff { node: name, is_ahead: ahead > 0, by }
            } else {
                self.clocks.off.remove(&node);
                Event::ClockRight { node: name }
            };
            actions.push(ControlAction::Notify(event));
        }
        true
    }

    fn name_or_own(&self, identity: &Identity) -> Option<NodeId> {
        if identity.node == self.config.identity.node {
            Some(NodeId::new(&self.config.local.node_id))
        } else {
            self.name_that_counts(identity)
        }
    }

    pub(super) fn publish_members(&mut self, actions: &mut Actions) {
        let me = self.identity();
        let info = |known: Record| {
            let is_self = known.identity.life() == me.life();
            // Another node may have its id.
            let is_alike = known.identity.node == me.node;
            let id = if is_alike {
                NodeId::new(&self.config.local.node_id)
            } else {
                self.name(&known.identity)?
            };
            let details = self.details_of(&known.identity);
            let site = if is_alike { &self.config.local.site } else { &details?.told.site };
            let named = |name: &str| (!name.is_empty()).then(|| name.to_string());
            let info = MemberInfo {
                data_center: named(&site.data_center),
                zone: named(&site.zone),
                id,
                address: known.identity.addr,
                state: match known.state {
                    State::Alive => MemberState::Alive,
                    State::Suspect => MemberState::Suspect,
                    State::Dead => MemberState::Dead,
                    State::Left => MemberState::Left,
                },
                leaving: known.leaving,
                is_self,
                round_trip: self.membership.round_trip(&known.identity),
                clock_ahead_ms: self.clocks.ahead_ms(&known.identity).filter(|_| !is_self),
                #[cfg(feature = "security")]
                security: self.security_of(&known.identity),
                #[cfg(feature = "security")]
                cluster_key: self.key_used_by(&known.identity),
            };
            Some((known.identity, known.state.is_active(), info))
        };
        let named: Vec<_> = self.membership.records().into_iter().filter_map(info).collect();
        // Of several lives of a node, the app sees the one that counts. Of this node's own that is
        // this one; another one that lives has its id, and the app sees both.
        let counts = |life: &Identity, is_active: bool| {
            let mut others = named.iter().filter(|(other, ..)| other.node == life.node);
            others.all(|(other, is_alive, _)| (is_active, *life) >= (*is_alive, *other))
        };
        let shown = named.iter().filter(|(life, is_active, info)| {
            let is_own = life.node == me.node && (*is_active || info.is_self);
            is_own || life.node != me.node && counts(life, *is_active)
        });
        let mut members: Vec<MemberInfo> = shown.map(|(.., info)| info.clone()).collect();
        members.sort_by(|a, b| a.id.cmp(&b.id));
        for member in &mut members {
            let shown = self.members.binary_search_by(|shown| shown.id.cmp(&member.id));
            let Some(shown) = shown.ok().map(|at| &self.members[at]) else { continue };
            // Each probe changes these a little: no reason to tell the app.
            if let Some(shown) = shown.round_trip
                && member.round_trip.is_some_and(|it| it.abs_diff(shown) < shown / 4)
            {
                member.round_trip = Some(shown);
            }
            if let Some(shown) = shown.clock_ahead_ms
                && member.clock_ahead_ms.is_some_and(|it| it.abs_diff(shown) < CLOCK_STEP_MS)
            {
                member.clock_ahead_ms = Some(shown);
            }
        }
        if members != self.members {
            self.members = members.clone();
            actions.push(ControlAction::Members(members));
        }
        let active = self.placement.members().iter().filter(|member| !member.leaving).count();
        let is_serving = self.is_serving();
        let readiness = Readiness {
            members: active,
            is_serving,
            needed_at_birth: if is_serving { 0 } else { self.needed_at_birth() },
            hint: self.hint(),
        };
        if readiness != self.readiness {
            self.readiness = readiness.clone();
            actions.push(ControlAction::Readiness(readiness));
        }
    }

    /// What may be the cause that this node is alone.
    fn hint(&self) -> Option<String> {
        let refused = self.refused_by.as_ref().map(|why| format!("a node refused this one: {why}"));
        let refused = refused.or_else(|| self.reach.failure.clone());
        refused.or_else(|| {
            self.discovery.failure.as_ref().map(|why| format!("looking for nodes failed: {why}"))
        })
    }
}
