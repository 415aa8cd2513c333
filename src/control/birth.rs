//! Birth: the one thing that must be agreed on before there is any data, that the cluster is new.
//!
//! A node starts without knowing whether the cluster has data. Its stage says how far it is:
//!
//! ```text
//! Forming ──all see the same, none has data──▶ Born     the lists are born, synced and empty
//!    └──────any member has data──────────────▶ Joined   it holds nothing until it has fetched it
//! ```
//!
//! For a birth at least W members (and a majority, if one is required) must see exactly the same
//! members, every seed must have been heard from or found not to answer, and no member may ever
//! have held data. So a node that restarts alone never takes its empty memory for the truth.

use std::time::Duration;

use super::interface::{Actions, ControlAction, Link};
use super::state::{Control, Leaving, LinkState};
use crate::clock::Instant;
use crate::events::Event;
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::Member;
use crate::shard::Stage;
use crate::types::NodeHash;
use crate::wire::message::{ControlMessage, Status};

/// How often the members tell each other their status until the lists are born.
const STATUS_PERIOD: Duration = Duration::from_millis(100);

impl Control {
    pub(super) fn status(&self) -> Status {
        Status { members_digest: self.placement.digest(), stage: self.stage }
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
            !asks_others || self.other_statuses().all(agrees) && self.are_seeds_settled();
        let members = self.placement.members().len();
        let least = self.config.local.quorums.least_at_birth();
        let is_enough = members >= least && self.majority().is_none_or(|needed| members >= needed);
        if is_agreed && is_enough && self.placement.is_complete() && self.leaving == Leaving::No {
            self.stage = Stage::Born { members_digest: digest };
            actions.push(ControlAction::Notify(Event::Born { members }));
        }
    }

    /// What each other member has told of itself in this life, if it has.
    fn other_statuses(&self) -> impl Iterator<Item = Option<Status>> {
        let me = self.identity().node;
        let others =
            self.placement.members().iter().filter(move |member| member.identity.node != me);
        others.map(|member: &Member| {
            let known = self.statuses.get(&member.identity.node);
            known
                .filter(|(identity, _)| identity.life() == member.identity)
                .map(|(_, status)| *status)
        })
    }

    /// Whether every seed has been heard from or found not to answer, and those that answered are
    /// members.
    fn are_seeds_settled(&self) -> bool {
        let is_here = |node: &NodeHash| self.placement.member(*node).is_some();
        self.discovery.is_settled
            && self.seeds.iter().all(|seed| seed.settled && seed.node.iter().all(is_here))
    }
}
