//! A thread's inbox: a bounded queue, and a way to wake the thread out of its poll.
//!
//! Every message wakes the thread that it is for, awake or not: a system call per message, and nothing
//! to get wrong. Nobody on an engine thread ever waits for room: what does not fit stays in the sender's
//! [`Outbox`] until the next turn.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::{self, Receiver, SendTimeoutError, TrySendError};
use mio::Waker;

/// The sending end. Cheap to clone.
pub(crate) struct Sender<T> {
    queue: channel::Sender<T>,
    waker: Arc<Waker>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), waker: self.waker.clone() }
    }
}

/// Why a message was not taken; it comes back.
#[derive(Debug)]
pub(crate) enum SendError<T> {
    /// No room before the deadline.
    Full(T),
    /// The thread has ended.
    Closed(T),
}

/// An inbox for `capacity` messages of the thread that `waker` wakes.
pub(crate) fn mailbox<T>(capacity: usize, waker: Arc<Waker>) -> (Sender<T>, Receiver<T>) {
    let (queue, receiver) = channel::bounded(capacity);
    (Sender { queue, waker }, receiver)
}

impl<T> Sender<T> {
    /// Waits for room until `deadline`. For app threads.
    pub(crate) fn send_until(&self, message: T, deadline: Instant) -> Result<(), SendError<T>> {
        self.queue.send_deadline(message, deadline).map_err(|error| match error {
            SendTimeoutError::Timeout(message) => SendError::Full(message),
            SendTimeoutError::Disconnected(message) => SendError::Closed(message),
        })?;
        self.wake();
        Ok(())
    }

    pub(crate) fn try_send(&self, message: T) -> Result<(), SendError<T>> {
        self.queue.try_send(message).map_err(|error| match error {
            TrySendError::Full(message) => SendError::Full(message),
            TrySendError::Disconnected(message) => SendError::Closed(message),
        })?;
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        let woken = self.waker.wake();
        // The waker's pipe is full: the thread is about to wake anyway.
        if let Err(error) = woken
            && error.kind() != io::ErrorKind::WouldBlock
        {
            log::error!("a core could not be woken: {error}");
        }
    }
}

/// What an engine thread sends to another one, in order, without ever waiting.
///
/// It holds what does not fit into the queue, without a bound of its own: every message stands for a
/// change of the members or for an open connection, and those are bounded.
pub(crate) struct Outbox<T> {
    sender: Sender<T>,
    overflow: VecDeque<T>,
}

impl<T> Outbox<T> {
    pub(crate) fn new(sender: Sender<T>) -> Self {
        Self { sender, overflow: VecDeque::new() }
    }

    pub(crate) fn send(&mut self, message: T) {
        self.overflow.push_back(message);
        self.flush();
    }

    /// Sends what did not fit before; whether anything is left.
    pub(crate) fn flush(&mut self) -> bool {
        while let Some(message) = self.overflow.pop_front() {
            match self.sender.try_send(message) {
                Ok(()) => {}
                Err(SendError::Full(message)) => {
                    self.overflow.push_front(message);
                    return true;
                }
                // It has ended, and with it whatever the message was about.
                Err(SendError::Closed(_)) => {}
            }
        }
        false
    }
}
