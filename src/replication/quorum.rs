//! What a read and a write have in common: both ask the replicas of one list and count answers.
//!
//! ```text
//!            ┌───────────── lost · declined · not synced ──────────────┐
//!            ▼                                                         │
//!   RetryAt ── due ──▶ Waiting ◀── asked ── Idle        Waiting ── answered ──▶ Answered
//!
//!   any state without an answer ── the member died ──▶ Dead ── it returned ──▶ RetryAt(now)
//! ```
//!
//! A coordinator tells its machine what happened, by one set of names for both
//! ([`QuorumMachine`]), and carries out the [`QuorumAction`]s that it returns.
//!
//! Invariant: everything counts inside one [`List`]. When the list is replaced, the machine
//! [enters](QuorumMachine::entered) the new one and counts from the beginning; the coordinator
//! forgets what was asked before, so that a late answer never counts in the wrong list. Counting
//! across lists would let two disjoint quorums both succeed.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Instant, Now, Version};
use crate::entry::Entry;
use crate::placement::List;
use crate::types::Identity;
use crate::wire::message::{Answer, Request};

/// How long after a failed or uncountable answer a replica is asked again. Long enough for a list
/// to be adopted or a connection to be dialled, short enough not to show in a request's timeout.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(20);

/// What a quorum machine wants done.
#[derive(Debug, PartialEq)]
pub(crate) enum QuorumAction {
    /// Ask a replica of the list, and tell the machine what it answers.
    Ask { to: Identity, request: Request },
    /// Tell the list to a replica that serves an older one. The machine does not wait for it.
    TellList { to: Identity },
    /// A write needs a version above this one: call
    /// [`Write::stamped`](super::write::Write::stamped).
    Stamp { above: Version },
    /// A read is over: the newest state that was found, if there is one.
    Found(Option<Entry>),
}

/// A read or a write, as its coordinator drives it.
pub(crate) trait QuorumMachine {
    /// Counts in `list` from now on, and in no list before. `alive` says which members are asked.
    fn entered(
        &mut self,
        list: Arc<List>,
        alive: &dyn Fn(&Identity) -> bool,
        now: Now,
        actions: &mut Vec<QuorumAction>,
    );

    /// `from` has answered what it was asked last.
    fn answered(
        &mut self,
        from: Identity,
        answer: Answer,
        now: Now,
        actions: &mut Vec<QuorumAction>,
    );

    /// `from` will not answer: the connection failed, or it cannot take part yet.
    fn lost(&mut self, from: Identity, now: Now, actions: &mut Vec<QuorumAction>);

    /// `from` serves an older list than this machine counts in: it is told the list, and asked
    /// again.
    fn behind(&mut self, from: Identity, now: Now, actions: &mut Vec<QuorumAction>) {
        actions.push(QuorumAction::TellList { to: from });
        self.lost(from, now, actions);
    }

    /// Asks the replicas that are due. Early and repeated calls are harmless.
    fn handle_timers(&mut self, now: Now, actions: &mut Vec<QuorumAction>);

    /// Members died or came: dead ones are neither asked nor waited for, and asked again if they
    /// return.
    fn members_changed(
        &mut self,
        alive: &dyn Fn(&Identity) -> bool,
        now: Now,
        actions: &mut Vec<QuorumAction>,
    );

    /// When [`handle_timers`](Self::handle_timers) should be called next.
    fn deadline(&self) -> Option<Instant>;
}

/// What a machine knows of one replica of the list that it counts in.
#[derive(Debug)]
pub(super) struct Asked<T> {
    pub(super) replica: Identity,
    pub(super) state: AskState<T>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum AskState<T> {
    Idle,
    Waiting,
    Answered(T),
    /// No answer, or one that cannot be counted: asked again from then on.
    RetryAt(Instant),
    /// Not asked: it is taken for dead. It might return into the list that it was in.
    Dead,
}

impl<T> Asked<T> {
    pub(super) fn new(replica: Identity, alive: bool) -> Self {
        Self { replica, state: if alive { AskState::Idle } else { AskState::Dead } }
    }

    pub(super) fn answer(&self) -> Option<&T> {
        match &self.state {
            AskState::Answered(answer) => Some(answer),
            _ => None,
        }
    }

    pub(super) fn retry_at(&self) -> Option<Instant> {
        match self.state {
            AskState::RetryAt(at) => Some(at),
            _ => None,
        }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.retry_at().is_some_and(|at| at <= now)
    }

    /// Whether the replica might still answer.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, AskState::Waiting | AskState::Idle | AskState::RetryAt(_))
    }
}

/// Notes an answer, or when to ask again.
pub(super) fn settle<T>(asked: &mut [Asked<T>], from: Identity, outcome: Result<T, Instant>) {
    if let Some(asked) = asked.iter_mut().find(|asked| asked.replica == from)
        && asked.is_open()
    {
        asked.state = match outcome {
            Ok(answer) => AskState::Answered(answer),
            Err(at) => AskState::RetryAt(at),
        };
    }
}

/// Returns the replicas that are to be asked now, and waits for them.
pub(super) fn take_due<T>(asked: &mut [Asked<T>], now: Instant) -> Vec<Identity> {
    let due =
        asked.iter_mut().filter(|asked| matches!(asked.state, AskState::Idle) || asked.is_due(now));
    due.map(|asked| {
        asked.state = AskState::Waiting;
        asked.replica
    })
    .collect()
}

/// Waits no longer for members that died, and asks those that returned.
pub(super) fn note_members<T>(
    asked: &mut [Asked<T>],
    alive: &dyn Fn(&Identity) -> bool,
    now: Instant,
) {
    for asked in asked {
        if matches!(asked.state, AskState::Dead) && alive(&asked.replica) {
            asked.state = AskState::RetryAt(now);
        } else if asked.is_open() && !alive(&asked.replica) {
            asked.state = AskState::Dead;
        }
    }
}
