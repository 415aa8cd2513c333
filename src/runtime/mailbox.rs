//! A thread's inbox: a bounded queue, and a way to wake the thread out of its poll.
//!
//! Every message wakes the thread that it is for, awake or not: a system call per message, and nothing
//! to get wrong. Nobody on an engine thread ever waits for room: what does not fit stays in the sender's
//! [`Outbox`] until the next turn.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, TryLockError};
use std::time::Instant;

use crossbeam::channel::{self, Receiver, SendTimeoutError, TrySendError};
use mio::Waker;

/// The sending end. Cheap to clone.
pub(crate) struct Sender<T> {
    queue: channel::Sender<T>,
    gate: Arc<Gate>,
    waker: Arc<Waker>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), gate: self.gate.clone(), waker: self.waker.clone() }
    }
}

/// The receiving end. Dropping it closes the mailbox and drops every message in it. (A channel alone would
/// keep what is in it for as long as anybody could send.)
pub(crate) struct Inbox<T> {
    queue: Receiver<T>,
    gate: Arc<Gate>,
}

struct Gate {
    /// Whether the inbox is there. Held for reading while a message is put into the queue.
    is_open: RwLock<bool>,
    /// No sender comes to the lock any more, so that whoever closes gets it. Nothing else rests on this.
    is_closing: AtomicBool,
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
pub(crate) fn mailbox<T>(capacity: usize, waker: Arc<Waker>) -> (Sender<T>, Inbox<T>) {
    let (queue, receiver) = channel::bounded(capacity);
    let gate = Arc::new(Gate { is_open: RwLock::new(true), is_closing: AtomicBool::new(false) });
    let inbox = Inbox { queue: receiver, gate: gate.clone() };
    (Sender { queue, gate, waker }, inbox)
}

impl<T> Inbox<T> {
    /// The next message, if one is here.
    pub(crate) fn try_recv(&self) -> Option<T> {
        self.queue.try_recv().ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        self.gate.is_closing.store(true, Ordering::Relaxed);
        loop {
            // Senders that wait for room hold the lock until they get it.
            self.queue.try_iter().for_each(drop);
            match self.gate.is_open.try_write() {
                Ok(mut is_open) => *is_open = false,
                Err(TryLockError::Poisoned(poisoned)) => *poisoned.into_inner() = false,
                Err(TryLockError::WouldBlock) => {
                    std::thread::yield_now();
                    continue;
                }
            }
            return self.queue.try_iter().for_each(drop);
        }
    }
}

impl<T> Sender<T> {
    /// Waits for room until `deadline`. For app threads.
    pub(crate) fn send_until(&self, message: T, deadline: Instant) -> Result<(), SendError<T>> {
        if self.gate.is_closing.load(Ordering::Relaxed) {
            return Err(SendError::Closed(message));
        }
        let is_open = self.gate.is_open.read().unwrap_or_else(PoisonError::into_inner);
        if !*is_open {
            return Err(SendError::Closed(message));
        }
        self.queue.send_deadline(message, deadline).map_err(|error| match error {
            SendTimeoutError::Timeout(message) => SendError::Full(message),
            SendTimeoutError::Disconnected(message) => SendError::Closed(message),
        })?;
        self.wake();
        Ok(())
    }

    /// For engine threads: never waits, not for the lock either, which is held for writing only while an
    /// inbox closes.
    pub(crate) fn try_send(&self, message: T) -> Result<(), SendError<T>> {
        let Ok(is_open) = self.gate.is_open.try_read() else { return Err(SendError::Full(message)) };
        if !*is_open {
            return Err(SendError::Closed(message));
        }
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

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's deadline")]
mod tests {
    use std::time::Duration;

    use mio::{Poll, Token};

    use super::*;

    fn of_capacity(capacity: usize) -> (Poll, Sender<Arc<()>>, Inbox<Arc<()>>) {
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let (sender, inbox) = mailbox(capacity, waker);
        (poll, sender, inbox)
    }

    #[test]
    fn a_full_mailbox_and_a_closed_one_give_the_message_back() {
        let (_poll, sender, inbox) = of_capacity(1);
        let message = Arc::new(());
        sender.try_send(message.clone()).unwrap();
        let soon = Instant::now() + Duration::from_millis(1);
        assert!(matches!(sender.try_send(message.clone()), Err(SendError::Full(_))));
        assert!(matches!(sender.send_until(message.clone(), soon), Err(SendError::Full(_))));
        drop(inbox);
        assert!(matches!(sender.try_send(message.clone()), Err(SendError::Closed(_))));
        assert!(matches!(sender.send_until(message.clone(), soon), Err(SendError::Closed(_))));
    }

    #[test]
    fn what_is_sent_while_the_inbox_closes_is_dropped_or_comes_back() {
        for round in 0..300 {
            let (_poll, sender, inbox) = of_capacity(4);
            let message = Arc::new(());
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let late = Instant::now() + Duration::from_secs(30);
                        while sender.send_until(message.clone(), late).is_ok() {}
                    });
                }
                for _ in 0..round % 8 {
                    inbox.try_recv();
                }
                drop(inbox);
            });
            assert_eq!(Arc::strong_count(&message), 1, "round {round}");
        }
    }
}
