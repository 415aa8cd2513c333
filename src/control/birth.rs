//! Birth: the one thing that must be agreed on before there is any data, that the cluster is new.
//!
//! A node starts without knowing whether the cluster has data. Its stage says how far it is:
//!
//! ```text
//! Forming ──all see the same, none has data──▶ Born     the lists are born, synced and empty
//!    └──────any member has data──────────────▶ Joined   it holds nothing until it has fetched it
//! ```
//!
//! For a birth at least W members must see exactly the same members, every seed must have been
//! heard from or found not to answer, and no member may ever have held data. So a node that
//! restarts alone never takes its empty memory for the truth.
//!
//! **Two births.** If the network falls apart before the first start, each side with W nodes is
//! born by itself. [`Config::expect`](crate::Config::expect) names the number of nodes that start
//! the cluster: a majority of them must be there, which only one side can have. If a member with
//! the same view is born already, it has counted for the others. To let the nodes agree on the
//! number was rejected: it takes a memory that outlives processes, which they do not have.
//!
//! Each data center is born by itself: only its own members must agree. What a member sees and
//! whether it has data, it tells each node that it reaches. A node that it does not reach asks one
//! that it does.

use std::time::Duration;

use super::interface::{Actions, ControlAction, Link};
use super::state::{Control, Leaving, LinkState};
use crate::clock::Instant;
use crate::events::Event;
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::Member;
use crate::shard::Stage;
use crate::types::Identity;
use crate::wire::message::{ControlMessage, Status};

/// How often the members tell each other their status until the lists are born.
const STATUS_PERIOD: Duration = Duration::from_millis(100);

/// For how many members that it does not reach a node asks at a time. If there are more, it asks
/// for the next ones the next time.
const MAX_ASKED_FOR: usize = 64;

impl Control {
    pub(super) fn status(&self) -> Status {
        Status { members_digest: self.placement.digest(), stage: self.stage }
    }

    /// Returns what this node tells a member, and asks of it: the status of those members of this
    /// data center that this node does not reach.
    pub(super) fn status_to_ask(&self) -> ControlMessage {
        let members = self.placement.members().iter().map(|member| member.identity);
        let is_out_of_reach = |life: &Identity| {
            let link = self.links.get(&life.node);
            link.is_some_and(|link| link.identity.boot == life.boot && link.is_out_of_reach())
        };
        let mut asks: Vec<Identity> = members.filter(is_out_of_reach).collect();
        if asks.len() > MAX_ASKED_FOR {
            let first = self.statuses_told.wrapping_mul(MAX_ASKED_FOR) % asks.len();
            asks.rotate_left(first);
            asks.truncate(MAX_ASKED_FOR);
        }
        ControlMessage::Status { status: self.status(), asks, heard: Vec::new() }
    }

    /// Returns what this node answers a member that asks for these.
    pub(super) fn status_to_tell(&self, asks: &[Identity]) -> ControlMessage {
        let heard = asks.iter().take(MAX_ASKED_FOR).filter_map(|life| {
            let (from, status) = self.statuses.get(&life.node)?;
            (from.life() == life.life()).then_some((*life, *status))
        });
        let heard = heard.collect();
        ControlMessage::Status { status: self.status(), asks: Vec::new(), heard }
    }

    /// Takes up what members that this node does not reach have told another one.
    pub(super) fn hear_statuses(&mut self, heard: Vec<(Identity, Status)>) {
        for (life, status) in heard {
            let member = self.placement.member(life.node);
            if member.is_some_and(|member| member.identity == life.life())
                && rule(ProtocolMutant::FirstHandOnly, true)
            {
                self.statuses_by_others.insert(life.node, (life, status));
            }
        }
    }

    pub(super) fn tell_status(&mut self, now: Instant, actions: &mut Actions) {
        self.status_at = now + STATUS_PERIOD;
        let message = self.status_to_ask();
        self.statuses_told = self.statuses_told.wrapping_add(1);
        for member in self.links.values().filter(|member| member.state == LinkState::Up) {
            let link = Link::to(&member.identity);
            actions.push(ControlAction::Ask { link, message: message.clone() });
        }
    }

    /// Decides whether this node is there when the cluster is born, or comes later.
    pub(super) fn consider_birth(&mut self, now: Instant, actions: &mut Actions) {
        if self.stage != Stage::Forming {
            return;
        }
        let digest = self.placement.digest();
        let has_data = |status: Status| match status.stage {
            Stage::Forming => false,
            Stage::Born { members_digest } => members_digest != digest,
            Stage::Joined => true,
        };
        let asks_others = rule(ProtocolMutant::BornAlone, true);
        if asks_others && self.other_statuses().flatten().any(has_data) {
            self.stage = Stage::Joined;
            return;
        }
        let agrees = |status: Option<Status>| status.is_some_and(|it| it.members_digest == digest);
        let is_agreed =
            !asks_others || self.other_statuses().all(agrees) && self.are_seeds_settled(now);
        let members = self.placement.members().len();
        let born = Stage::Born { members_digest: digest };
        let is_born_here = self.other_statuses().flatten().any(|status| status.stage == born);
        let is_enough = is_born_here || members >= self.needed_at_birth();
        if is_agreed && is_enough && self.placement.is_complete() && self.leaving == Leaving::No {
            self.stage = born;
            actions.push(ControlAction::Notify(Event::Born { members }));
        }
    }

    /// Returns how many members of this data center a birth takes.
    pub(super) fn needed_at_birth(&self) -> usize {
        let majority = match self.config.expect {
            0 => 0,
            expected => usize::from(expected) / 2 + 1,
        };
        majority.max(self.config.local.quorums.least_at_birth())
    }

    /// Returns what each other member of this data center has told of itself in this life, if it
    /// has: this node, or another one if this node does not reach it.
    fn other_statuses(&self) -> impl Iterator<Item = Option<Status>> {
        let me = self.identity().node;
        let others =
            self.placement.members().iter().filter(move |member| member.identity.node != me);
        others.map(|member: &Member| {
            let life = member.identity;
            let of_it = |(from, _): &&(Identity, Status)| from.life() == life;
            let own = self.statuses.get(&life.node).filter(of_it);
            let by_others = self.statuses_by_others.get(&life.node).filter(of_it);
            let is_out_of_reach =
                self.links.get(&life.node).is_some_and(|link| link.is_out_of_reach());
            let latest = if is_out_of_reach { by_others.or(own) } else { own };
            latest.map(|(_, status)| *status)
        })
    }

    /// Whether every seed has been heard from or found not to answer, and those that answered are
    /// members, or show no sign of becoming members. A node that some seed answered must be a
    /// member itself.
    fn are_seeds_settled(&self, now: Instant) -> bool {
        self.discovery.is_settled
            && self.seeds.iter().all(|seed| self.is_settled(now, seed))
            && (self.membership.is_member() || !self.any_seed_answered())
    }
}
