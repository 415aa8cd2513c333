//! A reply brings a core's answer to the caller: to a thread that waits for it, or to a queue of
//! completions.
//!
//! Every call has its own [`Slot`], and every message one [`ReplyTo`], which answers exactly once:
//! if it is dropped unanswered, it says so. Each thread keeps a slot for its next call. A slot that
//! is given up with a call comes back with the late answer, and is then spare for any thread.

use std::cell::Cell;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::allowance::Permit;
use super::clock::Clock;
use super::completions::CompletionSlot;
use super::engine_thread::close_if_panicking;
use super::idle::{LOOKS, SpinningCaller, pause, spare_processors};
use super::slot::{Answerer, Slot, Waiter};
use crate::clock::Instant;
use crate::shard::Outcome;

/// A slot for one outcome. `None`: the core has ended without an answer.
type ReplySlot = Slot<Option<Outcome>>;

/// The waiting end of one call.
pub(crate) struct Reply {
    /// `None` once it has waited.
    waiter: Option<Waiter<Option<Outcome>>>,
}

/// The core's end of a call, where its outcome goes. If it is dropped unanswered, it tells the
/// other end so.
pub(crate) struct ReplyTo {
    /// `None` once it has answered.
    to: Option<To>,
}

enum To {
    Caller(Answerer<Option<Outcome>>),
    Completions(Box<CompletionSlot>),
    /// A call with a large value, which is under way until its answer.
    Permitted(Box<(To, Permit)>),
}

/// Why no answer came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoReply {
    TimedOut,
    /// The core ended without one.
    Gone,
}

/// What a thread keeps between its calls.
struct ThreadSlot {
    slot: Cell<Option<ReplySlot>>,
}

thread_local! {
    static THREAD_SLOT: ThreadSlot = const { ThreadSlot { slot: Cell::new(None) } };
}

/// Slots that no thread keeps.
static SPARE: Mutex<Vec<ReplySlot>> = Mutex::new(Vec::new());

impl Drop for ThreadSlot {
    fn drop(&mut self) {
        self.slot.take().into_iter().for_each(give_back);
    }
}

/// Takes a slot for a call: the one that this thread keeps, a spare one, or a new one. A slot is
/// never freed, so there are as many as there ever were calls at a time.
fn take_slot() -> ReplySlot {
    let kept = THREAD_SLOT.try_with(|kept| kept.slot.take()).ok().flatten();
    let spare = || SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    kept.or_else(spare).unwrap_or_else(Slot::new)
}

/// Keeps a slot for this thread's next call, unless it has one already or is about to end.
fn keep(slot: ReplySlot) {
    let mut slot = Some(slot);
    let _ = THREAD_SLOT.try_with(|kept| slot = kept.slot.replace(slot.take()));
    slot.into_iter().for_each(give_back);
}

fn give_back(slot: ReplySlot) {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
}

impl Reply {
    /// Makes both ends of one call, which may bring a large value.
    pub(crate) fn new(permit: Option<Permit>) -> (Self, ReplyTo) {
        let (waiter, answerer) = take_slot().open();
        (Self { waiter: Some(waiter) }, ReplyTo::new(To::Caller(answerer), permit))
    }

    /// Waits for the answer to a call that was made at `since`.
    ///
    /// It looks for the answer for at most `longest_spin`, then calls `before_sleep`, and sleeps.
    pub(crate) fn wait(
        mut self,
        clock: &Clock,
        since: Instant,
        longest_spin: Duration,
        before_sleep: impl FnOnce(),
        deadline: Instant,
    ) -> Result<Outcome, NoReply> {
        let Some(waiter) = self.waiter.take() else { return Err(NoReply::Gone) };
        let until = since + longest_spin;
        let may_spin = !longest_spin.is_zero() && spare_processors() > 0;
        let mut spinning = None;
        let mut looks = 0;
        let spin = || {
            looks += 1;
            // A core that is awake has answered by now. Beyond that, spinning is for a few.
            if looks % LOOKS == 0 {
                spinning = spinning.take().or_else(SpinningCaller::new);
                if spinning.is_none() || clock.instant() >= until {
                    return false;
                }
            }
            if may_spin {
                pause(looks);
            }
            may_spin
        };
        let outcome = waiter.wait(spin, before_sleep, clock.to_os(deadline));
        let (answer, slot) = outcome.map_err(|_| NoReply::TimedOut)?;
        keep(slot);
        answer.ok_or(NoReply::Gone)
    }
}

impl Drop for Reply {
    /// No thread waits any more: the call was not sent, or the caller panicked.
    fn drop(&mut self) {
        let slot = self.waiter.take().and_then(Waiter::give_up);
        slot.into_iter().for_each(|(_, slot)| give_back(slot));
    }
}

impl ReplyTo {
    /// Makes the core's end of a call that no thread waits for.
    pub(crate) fn completion(slot: CompletionSlot, permit: Option<Permit>) -> Self {
        Self::new(To::Completions(Box::new(slot)), permit)
    }

    fn new(to: To, permit: Option<Permit>) -> Self {
        let to = match permit {
            Some(permit) => To::Permitted(Box::new((to, permit))),
            None => to,
        };
        Self { to: Some(to) }
    }

    /// Sends the outcome. A caller that has given up does not hear it.
    pub(crate) fn send(mut self, outcome: Outcome) {
        if let Some(to) = self.to.take() {
            to.answer(Some(outcome));
        }
    }

    /// Ends a call that was not sent; its caller is told in another way.
    pub(crate) fn discard(mut self) {
        self.to.take().into_iter().for_each(To::discard);
    }
}

impl To {
    fn answer(self, outcome: Option<Outcome>) {
        match self {
            Self::Caller(answerer) => answerer.answer(outcome).into_iter().for_each(give_back),
            Self::Completions(slot) => slot.complete(outcome),
            Self::Permitted(both) => both.0.answer(outcome),
        }
    }

    fn discard(self) {
        match self {
            Self::Caller(answerer) => answerer.answer(None).into_iter().for_each(give_back),
            Self::Completions(slot) => drop(slot),
            Self::Permitted(both) => both.0.discard(),
        }
    }
}

impl Drop for ReplyTo {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            close_if_panicking();
            to.answer(None);
        }
    }
}

impl fmt::Debug for ReplyTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyTo").field("is_open", &self.to.is_some()).finish_non_exhaustive()
    }
}
