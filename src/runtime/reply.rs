//! How a core's answer reaches the app thread that waits for it.

use std::cell::RefCell;
use std::time::Instant;

use crossbeam::channel::{self, Receiver, Sender};

use crate::shard::Outcome;

/// An answer with the number of its call; without one where the core ended first.
type Answer = (usize, Option<Outcome>);

/// The waiting end, for the answers of one call or of several made together.
pub(crate) struct Replies {
    sender: Sender<Answer>,
    receiver: Receiver<Answer>,
    calls: usize,
}

/// The core's end: where one outcome goes. Dropped unanswered, it tells the waiting end so.
#[derive(Debug)]
pub(crate) struct ReplyTo {
    /// `None` once it has answered.
    sender: Option<Sender<Answer>>,
    index: usize,
}

/// No answer came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoReply {
    TimedOut,
    /// The core ended without one.
    Gone,
}

thread_local! {
    /// A queue for one answer that this thread has used and that nobody will send to any more: most calls
    /// then allocate none.
    static USED: RefCell<Option<Replies>> = const { RefCell::new(None) };
}

impl Replies {
    /// Room for the answers of `calls` calls: sending one never waits.
    pub(crate) fn new(calls: usize) -> Self {
        let used = if calls == 1 { USED.try_with(|used| used.take()).ok().flatten() } else { None };
        used.unwrap_or_else(|| {
            let (sender, receiver) = channel::bounded(calls);
            Self { sender, receiver, calls }
        })
    }

    /// For the call with this number.
    pub(crate) fn reply_to(&self, index: usize) -> ReplyTo {
        ReplyTo { sender: Some(self.sender.clone()), index }
    }

    /// Every call was sent: each of them is answered once.
    pub(crate) fn sent(self) -> Answers {
        Answers { open: self.calls, replies: Some(self) }
    }
}

pub(crate) struct Answers {
    replies: Option<Replies>,
    /// How many answers are still to come.
    open: usize,
}

impl Answers {
    /// The next answer, with the number of its call.
    pub(crate) fn next_before(&mut self, deadline: Instant) -> Result<(usize, Outcome), NoReply> {
        let replies = self.replies.as_ref().ok_or(NoReply::Gone)?;
        let (index, outcome) = replies.receiver.recv_deadline(deadline).map_err(|_| NoReply::TimedOut)?;
        self.open -= 1;
        outcome.map(|outcome| (index, outcome)).ok_or(NoReply::Gone)
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        // Where an answer may still come, the queue is left to it.
        if let Some(replies) = self.replies.take().filter(|replies| self.open == 0 && replies.calls == 1) {
            let _ = USED.try_with(|used| used.replace(Some(replies)));
        }
    }
}

impl ReplyTo {
    /// A caller that has given up does not hear it.
    pub(crate) fn send(mut self, outcome: Outcome) {
        self.answer(Some(outcome));
    }

    fn answer(&mut self, outcome: Option<Outcome>) {
        if let Some(sender) = self.sender.take() {
            let _ = sender.try_send((self.index, outcome));
        }
    }
}

impl Drop for ReplyTo {
    fn drop(&mut self) {
        self.answer(None);
    }
}
