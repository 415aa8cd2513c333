//! Many calls in one message: a *group*. Its calls are begun in their order and answered together.
//!
//! A turn is bounded without a clock. A group that comes begins up to [`OPS_PER_TURN`] of its calls at once,
//! which the core's loop counts as so many calls ([`Call::weight`]); what is left goes on by a timer, which
//! begins as many over all groups together, a few of each in turn. So a group of a million holds up nobody for
//! longer than a few hundred calls do. A group of which a write waits for room goes on behind that, so that
//! its calls take effect in their order.

use std::collections::BTreeSet;
use std::vec;

use super::effects::Effect;
use super::elsewhere::{ForwardId, Peer, RelayId, answer_forwarded};
use super::run::RunId;
use super::{Action, Call, Outcome, Shard, StoppedBy, Timer};
use crate::clock::Now;

/// How many calls of groups are begun at once.
pub(super) const OPS_PER_TURN: usize = 256;

/// What a call needs from memory is asked for so many calls earlier: about as many as a processor has outstanding
/// misses for.
const AHEAD: usize = 8;

/// How many calls of one group are begun before it is another's turn.
const OPS_PER_STEP: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct GroupId(pub(super) u64);

/// Who is told how a call ended.
pub(super) enum Caller<C> {
    App(C),
    /// The group that it belongs to, and its place there.
    Group(GroupId, usize),
    /// The closure that made it, a write.
    Run(RunId),
    /// What passes between data centers.
    Remote(RemoteCaller),
}

pub(super) enum RemoteCaller {
    /// The batch of another data center, and its place there.
    Relay(RelayId, u16),
    /// Another data center's node, a read.
    Peer(Peer),
    /// The read that other data centers are asked for next.
    Forward(ForwardId),
}

pub(super) struct Group<C> {
    caller: Caller<C>,
    /// Those that are not begun.
    calls: vec::IntoIter<Call>,
    /// One for each that was begun.
    outcomes: Vec<Outcome>,
    /// How many of those have no outcome yet, and one more while calls are begun.
    open: usize,
}

/// Stands where an outcome is to come.
const NO_OUTCOME: Outcome = Outcome::Many(Vec::new());

impl<C> Group<C> {
    pub(super) fn not_begun(&self) -> usize {
        self.calls.len()
    }
}

impl<C> Shard<C> {
    /// Tells whoever made a call how it ended. Every reply goes through here.
    pub(super) fn reply(&mut self, caller: Caller<C>, outcome: Outcome, actions: &mut Vec<Action<C>>) {
        match (caller, outcome) {
            (Caller::App(caller), outcome) => actions.push(Action::Reply { caller, outcome }),
            (Caller::Group(id, at), outcome) => {
                if let Some(group) = self.groups.get_mut(&id) {
                    group.outcomes[at] = outcome;
                    group.open -= 1;
                    if group.open == 0 {
                        self.end_group(id, actions);
                    }
                }
            }
            (Caller::Run(id), Outcome::Written(result)) => self.run_written(id, result, actions),
            // A closure makes writes alone.
            (Caller::Run(_), _) => {}
            (Caller::Remote(caller), outcome) => self.effects.push_back(Effect::Ended { caller, outcome }),
        }
    }

    pub(super) fn remote_ended(
        &mut self,
        caller: RemoteCaller,
        outcome: Outcome,
        actions: &mut Vec<Action<C>>,
    ) {
        match caller {
            RemoteCaller::Relay(id, place) => {
                let is_written = matches!(outcome, Outcome::Written(Ok(())));
                self.relay_written(id, place, is_written, actions);
            }
            RemoteCaller::Peer(peer) => answer_forwarded(peer, outcome, actions),
            RemoteCaller::Forward(id) => self.forward_read_here(id, outcome, actions),
        }
    }

    pub(super) fn group(
        &mut self,
        now: Now,
        calls: Vec<Call>,
        caller: Caller<C>,
        actions: &mut Vec<Action<C>>,
    ) {
        let id = GroupId(self.new_id());
        let outcomes = Vec::with_capacity(calls.len());
        self.groups.insert(id, Group { caller, calls: calls.into_iter(), outcomes, open: 0 });
        self.step_group(now, id, OPS_PER_TURN, actions);
    }

    /// Goes on with the groups that have calls left.
    pub(super) fn go_on_groups(&mut self, now: Now, actions: &mut Vec<Action<C>>) {
        let mut budget = OPS_PER_TURN;
        while budget > 0
            && let Some(id) = self.unfinished_groups.pop_front()
        {
            budget -= self.step_group(now, id, budget.min(OPS_PER_STEP), actions);
        }
        if !self.unfinished_groups.is_empty() {
            self.soon(now, Timer::Groups);
        }
    }

    /// Begins the next calls of a group, and queues it again where there are more. Returns how many it began.
    fn step_group(&mut self, now: Now, id: GroupId, limit: usize, actions: &mut Vec<Action<C>>) -> usize {
        let Some(group) = self.groups.get_mut(&id) else { return 0 };
        let mut calls = std::mem::take(&mut group.calls);
        let (first, count) = (group.outcomes.len(), calls.len().min(limit));
        group.outcomes.resize_with(first + count, || NO_OUTCOME);
        group.open += count + 1;
        let mut begun = 0;
        let mut is_parked = false;
        calls.as_slice().iter().take(AHEAD).for_each(|call| self.prefetch(call));
        while begun < count
            && !is_parked
            && let Some(call) = calls.next()
        {
            calls.as_slice().get(AHEAD - 1).into_iter().for_each(|call| self.prefetch(call));
            self.call(now, call, Caller::Group(id, first + begun), actions);
            // The calls behind it find what it has done; where it waits for room, so do they.
            self.answer_self(now, actions);
            is_parked = self.is_parked_last(id);
            begun += 1;
        }
        if let Some(group) = self.groups.get_mut(&id) {
            group.outcomes.truncate(first + begun);
            group.open -= count - begun + 1;
            group.calls = calls;
            if !is_parked {
                self.queue_group(now, id);
            }
            self.end_group(id, actions);
        }
        begun
    }

    /// Brings closer what a write will look at first: other threads had it last.
    fn prefetch(&self, call: &Call) {
        if let Call::Write(call) = call {
            call.entry.prefetch();
            self.store.prefetch(call.hash);
        }
    }

    /// Whether the write that waits for room since last is one of this group.
    pub(super) fn is_parked_last(&self, id: GroupId) -> bool {
        matches!(self.waiting.back(), Some((_, Caller::Group(group, _))) if *group == id)
    }

    /// Lets a group go on, if it has more to begin: it was its turn, or its write waits for room no longer.
    pub(super) fn queue_group(&mut self, now: Now, id: GroupId) {
        if self.groups.get(&id).is_some_and(|group| group.calls.len() > 0) {
            self.unfinished_groups.push_back(id);
            self.soon(now, Timer::Groups);
        }
    }

    /// Answers a group of which no call is under way or left to begin.
    fn end_group(&mut self, id: GroupId, actions: &mut Vec<Action<C>>) {
        if self.groups.get(&id).is_some_and(|group| group.open == 0 && group.calls.len() == 0)
            && let Some(group) = self.groups.remove(&id)
        {
            self.reply(group.caller, Outcome::Many(group.outcomes), actions);
        }
    }

    /// What was not begun is not done any more. Calls under way get their answers from whoever ends them.
    pub(super) fn stop_groups(&mut self, by: StoppedBy, actions: &mut Vec<Action<C>>) {
        self.unfinished_groups.clear();
        let ids: BTreeSet<GroupId> = self.groups.keys().copied().collect();
        for id in ids {
            if let Some(group) = self.groups.get_mut(&id) {
                let calls = std::mem::take(&mut group.calls);
                group.outcomes.extend(calls.map(|call| call.stopped(by)));
                self.end_group(id, actions);
            }
        }
    }
}
