//! Begins the calls of groups, a few at a time.
//!
//! A turn is bounded without a clock. A group that comes begins up to [`OPS_PER_TURN`] of its calls
//! at once, which the core's loop counts as that many calls ([`Call::weight`]); what is left goes
//! on by a timer, which begins as many over all groups together, a few of each in turn. So a group
//! of a million delays no other call for longer than a few hundred calls do. A group of which a
//! write waits for room goes on behind that, so that its calls take effect in their order.

use super::Coordinator;
use crate::shard::caller::{Caller, GroupId};
use crate::shard::calls::{Call, OPS_PER_TURN};
use crate::shard::replica::Replica;
use crate::shard::timers::Timer;
use crate::shard::turn::Turn;

/// How many calls ahead memory is asked for what a call needs: about as many as a processor has
/// outstanding misses for.
const AHEAD: usize = 8;

/// How many calls of one group are begun before it is another's turn.
const OPS_PER_STEP: usize = 64;

impl<C> Coordinator<C> {
    pub(super) fn begin_group(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        calls: Vec<Call>,
        caller: Caller<C>,
    ) {
        let id = GroupId(turn.requests.new_id());
        self.groups.add(id, calls, caller);
        self.step_group(turn, replica, id, OPS_PER_TURN);
    }

    /// Goes on with the groups that have calls left.
    pub(in crate::shard) fn resume_groups(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
    ) {
        let mut budget = OPS_PER_TURN;
        while budget > 0
            && let Some(id) = self.groups.pop_unfinished()
        {
            budget -= self.step_group(turn, replica, id, budget.min(OPS_PER_STEP));
        }
        if self.groups.has_unfinished() {
            turn.soon(Timer::Groups);
        }
    }

    /// Begins the next calls of a group, and queues it again if there are more. Returns how many it
    /// began.
    fn step_group(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        id: GroupId,
        limit: usize,
    ) -> usize {
        let Some(mut step) = self.groups.take_step(id, limit) else { return 0 };
        let mut is_parked = false;
        step.calls.as_slice().iter().take(AHEAD).for_each(|call| prefetch(replica, call));
        while step.begun < step.limit
            && !is_parked
            && let Some(call) = step.calls.next()
        {
            step.calls
                .as_slice()
                .get(AHEAD - 1)
                .into_iter()
                .for_each(|call| prefetch(replica, call));
            self.call(turn, replica, call, Caller::Group(id, step.first + step.begun));
            // The calls behind it find what it has done; if it waits for room, so do they.
            self.ask_own_replica(turn, replica);
            is_parked = self.is_parked_last(id);
            step.begun += 1;
        }
        let begun = step.begun;
        let answer = self.groups.put_step(step);
        if !is_parked {
            self.queue_group(turn, id);
        }
        if let Some((caller, outcome)) = answer {
            self.reply(turn, caller, outcome);
        }
        begun
    }

    /// Whether the last write that waits for room is one of this group.
    pub(super) fn is_parked_last(&self, id: GroupId) -> bool {
        matches!(self.waiting.back(), Some((_, Caller::Group(group, _))) if *group == id)
    }

    /// Lets a group go on, if it has more to begin.
    pub(super) fn queue_group(&mut self, turn: &mut Turn<'_, C>, id: GroupId) {
        if self.groups.queue(id) {
            turn.soon(Timer::Groups);
        }
    }
}

/// Brings closer what a write will look at first: other threads had it last.
fn prefetch(replica: &Replica, call: &Call) {
    if let Call::Write(call) = call {
        call.entry.prefetch();
        replica.copies.store.prefetch(call.hash);
    }
}
