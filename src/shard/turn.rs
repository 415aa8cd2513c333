//! [`Turn`]: what a part may use besides itself while it works on one event.

use std::collections::VecDeque;
use std::time::Duration;

use super::caller::ReturnAddress;
use super::effects::Effect;
use super::interface::Action;
use super::node::Node;
use super::requests::{Asker, Expects, Outstanding, Requests};
use super::timers::{Timer, Timers};
use crate::clock::Now;
use crate::types::{Identity, Partition};
use crate::wire::message::{Answer, Request};

/// All that a part may use besides itself, for the time of one event.
pub(super) struct Turn<'a, C> {
    pub(super) now: Now,
    pub(super) node: &'a Node,
    pub(super) requests: &'a mut Requests,
    pub(super) timers: &'a mut Timers,
    pub(super) effects: &'a mut VecDeque<Effect<C>>,
    pub(super) actions: &'a mut Vec<Action<C>>,
}

impl<C> Turn<'_, C> {
    /// Asks another node, and returns the request's number. `None` if the node is not a member (any
    /// more), which is treated like a connection that failed.
    pub(super) fn ask(
        &mut self,
        to: Identity,
        partition: Partition,
        request: Request,
        asker: impl Into<Asker>,
    ) -> Option<u64> {
        let request_id = self.requests.new_id();
        let placement = &self.node.placement;
        debug_assert!(to != self.node.me, "only the coordinator asks this node's own replica");
        let is_member = |identity: Identity| identity == to && to != self.node.me;
        let member = placement.member(to.node).filter(|member| is_member(member.identity))?;
        let core = partition.core(member.cores);
        let in_other_data_center = placement.in_other_data_center(to.node);
        let expects = Expects::of(&request);
        let asker = asker.into();
        let outstanding = Outstanding { to, in_other_data_center, partition, asker, expects };
        self.requests.add(request_id, outstanding);
        self.actions.push(Action::Ask { to, core, partition, request_id, request });
        Some(request_id)
    }

    /// Answers a request that was not answered at once.
    pub(super) fn answer(&mut self, to: ReturnAddress, answer: Answer) {
        let ReturnAddress { via, partition, request_id } = to;
        self.actions.push(Action::Answer { via, partition, request_id, answer });
    }

    /// Fires the timer in the next turn, once for everything that wants it.
    pub(super) fn soon(&mut self, timer: Timer) {
        self.timers.set_once(timer, self.now.instant + Duration::from_nanos(1));
    }
}
