//! [`Groups`]: many calls in one message. The calls of a group are begun in their order and
//! answered together.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::vec;

use crate::shard::caller::{Caller, GroupId};
use crate::shard::calls::{Call, Outcome, StoppedBy};

/// Calls that came in one message.
pub(super) struct Group<C> {
    caller: Caller<C>,
    /// The calls that are not begun.
    calls: vec::IntoIter<Call>,
    /// One for each call that was begun.
    outcomes: Vec<Outcome>,
    /// How many of those have no outcome yet, and one more while calls are begun.
    open: usize,
}

/// Takes the place of an outcome that is to come.
const NO_OUTCOME: Outcome = Outcome::Many(Vec::new());

/// The groups of one core, and which of them have calls that are not begun.
pub(super) struct Groups<C> {
    by_id: BTreeMap<GroupId, Group<C>>,
    unfinished: VecDeque<GroupId>,
}

/// The next calls of a group while they are begun.
pub(super) struct Step {
    pub(super) id: GroupId,
    pub(super) calls: vec::IntoIter<Call>,
    /// The position of the first of them.
    pub(super) first: usize,
    /// How many of them can be begun, and how many were.
    pub(super) limit: usize,
    pub(super) begun: usize,
}

impl<C> Groups<C> {
    pub(super) fn new() -> Self {
        Self { by_id: BTreeMap::new(), unfinished: VecDeque::new() }
    }

    pub(super) fn add(&mut self, id: GroupId, calls: Vec<Call>, caller: Caller<C>) {
        let outcomes = Vec::with_capacity(calls.len());
        self.by_id.insert(id, Group { caller, calls: calls.into_iter(), outcomes, open: 0 });
    }

    /// Takes the next calls of a group, up to `limit` of which are to be begun.
    pub(super) fn take_step(&mut self, id: GroupId, limit: usize) -> Option<Step> {
        let group = self.by_id.get_mut(&id)?;
        let calls = std::mem::take(&mut group.calls);
        let (first, limit) = (group.outcomes.len(), calls.len().min(limit));
        group.outcomes.resize_with(first + limit, || NO_OUTCOME);
        group.open += limit + 1;
        Some(Step { id, calls, first, limit, begun: 0 })
    }

    /// Puts back the calls that were not begun. Returns the answer of the group if it is over.
    pub(super) fn put_step(&mut self, step: Step) -> Option<(Caller<C>, Outcome)> {
        let Step { id, calls, first, limit, begun } = step;
        let group = self.by_id.get_mut(&id)?;
        group.outcomes.truncate(first + begun);
        group.open -= limit - begun + 1;
        group.calls = calls;
        self.take_answer(id)
    }

    /// Notes how a call ended. Returns the answer of the group if that was the last one.
    pub(super) fn ended(
        &mut self,
        id: GroupId,
        at: usize,
        outcome: Outcome,
    ) -> Option<(Caller<C>, Outcome)> {
        let group = self.by_id.get_mut(&id)?;
        group.outcomes[at] = outcome;
        group.open -= 1;
        if group.open > 0 { None } else { self.take_answer(id) }
    }

    /// Removes and answers a group of which no call is under way or left to begin.
    fn take_answer(&mut self, id: GroupId) -> Option<(Caller<C>, Outcome)> {
        self.by_id.get(&id).filter(|group| group.open == 0 && group.calls.len() == 0)?;
        let group = self.by_id.remove(&id)?;
        Some((group.caller, Outcome::Many(group.outcomes)))
    }

    /// Queues a group, and returns whether it has more to begin: it was its turn, or its write
    /// waits for room no longer.
    pub(super) fn queue(&mut self, id: GroupId) -> bool {
        let is_unfinished = self.by_id.get(&id).is_some_and(|group| group.calls.len() > 0);
        self.unfinished.extend(is_unfinished.then_some(id));
        is_unfinished
    }

    pub(super) fn pop_unfinished(&mut self) -> Option<GroupId> {
        self.unfinished.pop_front()
    }

    pub(super) fn has_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// How many calls are not begun.
    pub(super) fn not_begun(&self) -> usize {
        self.by_id.values().map(|group| group.calls.len()).sum()
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> Vec<usize> {
        self.by_id.values().map(|group| group.calls.len()).collect()
    }

    /// Gives the calls that were not begun their outcome, and returns the answers of the groups
    /// that are over. Calls under way are answered by what ends them.
    pub(super) fn stop(&mut self, by: StoppedBy) -> Vec<(Caller<C>, Outcome)> {
        self.unfinished.clear();
        let ids: BTreeSet<GroupId> = self.by_id.keys().copied().collect();
        let mut answers = Vec::new();
        for id in ids {
            if let Some(group) = self.by_id.get_mut(&id) {
                let calls = std::mem::take(&mut group.calls);
                group.outcomes.extend(calls.map(|call| call.stopped(by)));
                answers.extend(self.take_answer(id));
            }
        }
        answers
    }
}
