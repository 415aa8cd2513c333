//! How a core's answer reaches the app thread that waits for it.

use std::time::Instant;

use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};

use crate::shard::Outcome;

/// The waiting end, for the answers of one call or of several made together.
pub(crate) struct Replies {
    sender: Sender<(usize, Outcome)>,
    receiver: Receiver<(usize, Outcome)>,
}

/// The core's end: where one outcome goes. Dropped unanswered, it tells the waiting end so.
#[derive(Debug)]
pub(crate) struct ReplyTo {
    sender: Sender<(usize, Outcome)>,
    index: usize,
}

/// No answer came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoReply {
    TimedOut,
    /// The core ended without one.
    Gone,
}

impl Replies {
    /// Room for the answers of `calls` calls: sending one never waits.
    pub(crate) fn new(calls: usize) -> Self {
        let (sender, receiver) = channel::bounded(calls);
        Self { sender, receiver }
    }

    /// For the call with this number.
    pub(crate) fn reply_to(&self, index: usize) -> ReplyTo {
        ReplyTo { sender: self.sender.clone(), index }
    }

    /// Every call was sent: from here on only the cores can answer.
    pub(crate) fn sent(self) -> Answers {
        Answers { receiver: self.receiver }
    }
}

pub(crate) struct Answers {
    receiver: Receiver<(usize, Outcome)>,
}

impl Answers {
    /// The next answer, with the number of its call.
    pub(crate) fn next_before(&self, deadline: Instant) -> Result<(usize, Outcome), NoReply> {
        self.receiver.recv_deadline(deadline).map_err(|error| match error {
            RecvTimeoutError::Timeout => NoReply::TimedOut,
            RecvTimeoutError::Disconnected => NoReply::Gone,
        })
    }
}

impl ReplyTo {
    /// A caller that has given up does not hear it.
    pub(crate) fn send(self, outcome: Outcome) {
        let _ = self.sender.try_send((self.index, outcome));
    }
}
