//! [`Runs`]: the closures of apps that run on this core, or whose writes are under way.

use std::collections::BTreeMap;

use crate::error::{RunError, WriteError};
use crate::shard::caller::{Caller, RunId};
use crate::shard::calls::Outcome;
use crate::shard::local_shard::Returned;

/// A closure whose writes are not all acknowledged yet.
struct Run<C> {
    /// How many of its writes are under way.
    open: usize,
    failed: usize,
    /// How the first of those failed.
    first: Option<WriteError>,
    /// Its caller, and what it returned, once it has.
    end: Option<(Caller<C>, Returned)>,
}

/// The runs of one core.
pub(super) struct Runs<C> {
    by_id: BTreeMap<RunId, Run<C>>,
}

impl<C> Runs<C> {
    pub(super) fn new() -> Self {
        Self { by_id: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, id: RunId) {
        self.by_id.insert(id, Run { open: 0, failed: 0, first: None, end: None });
    }

    /// The closure panicked: its writes go on, and nothing waits for them.
    pub(super) fn remove(&mut self, id: RunId) {
        self.by_id.remove(&id);
    }

    /// A write of the closure begins.
    pub(super) fn write_begins(&mut self, id: RunId) {
        if let Some(run) = self.by_id.get_mut(&id) {
            run.open += 1;
        }
    }

    /// A write of the closure has ended. Returns the answer of the run if that is over.
    pub(super) fn write_ended(
        &mut self,
        id: RunId,
        result: Result<(), WriteError>,
    ) -> Option<(Caller<C>, Outcome)> {
        let run = self.by_id.get_mut(&id)?;
        run.open -= 1;
        if let Err(error) = result {
            run.failed += 1;
            run.first.get_or_insert(error);
        }
        self.take_answer(id)
    }

    /// The closure has returned. Returns the answer of the run if its writes have ended.
    pub(super) fn returned(
        &mut self,
        id: RunId,
        caller: Caller<C>,
        value: Returned,
    ) -> Option<(Caller<C>, Outcome)> {
        self.by_id.get_mut(&id)?.end = Some((caller, value));
        self.take_answer(id)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    fn take_answer(&mut self, id: RunId) -> Option<(Caller<C>, Outcome)> {
        let run = self.by_id.get_mut(&id).filter(|run| run.open == 0)?;
        let (caller, value) = run.end.take()?;
        let run = self.by_id.remove(&id)?;
        let result = match run.first {
            None => Ok(value),
            Some(first) => Err(Box::new(RunError::Write { failed: run.failed, first })),
        };
        Some((caller, Outcome::Ran(result)))
    }
}
