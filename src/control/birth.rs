//! Birth: the one thing that must be agreed on before there is any data, that the cluster is new.
//!
//! A node starts not knowing whether the cluster has data. When at least W members (and a majority, where
//! one is required) see exactly the same members, every seed was heard from or found not to answer, and none of the members ever held data, each
//! lets its lists be born, synced and empty. Where any member already holds data, this node is a joiner: it
//! holds nothing until it has fetched it. So a node that restarts alone can never take its empty memory for
//! the truth.

use std::time::Duration;

use super::interface::{Actions, ControlAction, Link};
use super::state::{Control, Leaving, LinkState};
use crate::clock::Instant;
use crate::events::Event;
use crate::placement::Member;
use crate::shard::Stage;
use crate::simulated::{Planted, is_planted};
use crate::types::{NodeHash, least_at_birth};
use crate::wire::message::{ControlMessage, Origin, Status};

/// How often the members tell each other their status until the lists are born.
const STATUS_PERIOD: Duration = Duration::from_millis(100);

impl Control {
    pub(super) fn status(&self) -> Status {
        Status { members_digest: self.placement.digest(), origin: self.origin }
    }

    pub(super) fn tell_status(&mut self, now: Instant, actions: &mut Actions) {
        self.status_at = now + STATUS_PERIOD;
        let message = ControlMessage::Status(self.status());
        for member in self.links.values().filter(|member| member.state == LinkState::Up) {
            let link = Link::to(&member.identity);
            actions.push(ControlAction::Ask { link, message: message.clone() });
        }
    }

    /// Decides whether this node is there when the cluster is born, or comes later.
    pub(super) fn consider_birth(&mut self, actions: &mut Actions) {
        if self.origin != Origin::Unborn {
            return;
        }
        let digest = self.placement.digest();
        let others =
            || self.placement.members().iter().filter(|member| member.identity.node != self.identity().node);
        let status_of = |member: &Member| {
            let known = self.statuses.get(&member.identity.node);
            known.filter(|(identity, _)| identity.life() == member.identity).map(|(_, status)| *status)
        };
        let has_data = |status: Status| match status.origin {
            Origin::Unborn => false,
            Origin::Born { members_digest } => members_digest != digest,
            Origin::Joined => true,
        };
        let is_rash = is_planted(Planted::BornAlone);
        if !is_rash && others().filter_map(status_of).any(has_data) {
            self.origin = Origin::Joined;
            self.stage = Stage::Joined;
            return;
        }
        let all_agree = is_rash
            || others().all(|member| status_of(member).is_some_and(|status| status.members_digest == digest));
        let members = self.placement.members().len();
        let all_known = self.placement.is_complete();
        let is_here = |node: &NodeHash| self.placement.member(*node).is_some();
        let seeds_settled = self.seeds.iter().all(|seed| seed.settled && seed.node.iter().all(is_here));
        let quorum = least_at_birth(self.config.local.write_quorum.into());
        let enough = members >= quorum && self.majority().is_none_or(|needed| members >= needed);
        let seeds_settled = seeds_settled && self.discovery.is_settled || is_rash;
        if all_agree && all_known && seeds_settled && enough && self.leaving == Leaving::No {
            self.origin = Origin::Born { members_digest: digest };
            self.stage = Stage::Born;
            actions.push(ControlAction::Notify(Event::Born { members }));
        }
    }
}
