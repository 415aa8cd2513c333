//! A thread's inbox: a bounded queue, and a way to wake the thread out of its poll.
//!
//! Every message wakes the thread that it is for, awake or not: a system call per message, and nothing
//! to get wrong. Nobody on an engine thread ever waits for room: what does not fit stays in the sender's
//! [`Outbox`] until the next turn.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Instant;

use crossbeam::channel::{self, Receiver, SendTimeoutError, TrySendError};
use mio::Waker;

/// The sending end. Cheap to clone.
pub(crate) struct Sender<T> {
    queue: channel::Sender<T>,
    /// To throw away what was sent to nobody.
    rest: Receiver<T>,
    is_closed: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        let Self { queue, rest, is_closed, waker } = self;
        Self { queue: queue.clone(), rest: rest.clone(), is_closed: is_closed.clone(), waker: waker.clone() }
    }
}

/// The receiving end. Dropping it closes the mailbox, and drops every message that is or comes into it.
pub(crate) struct Inbox<T> {
    queue: Receiver<T>,
    is_closed: Arc<AtomicBool>,
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
    let is_closed = Arc::new(AtomicBool::new(false));
    let inbox = Inbox { queue: receiver.clone(), is_closed: is_closed.clone() };
    (Sender { queue, rest: receiver, is_closed, waker }, inbox)
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
        self.is_closed.store(true, Ordering::Relaxed);
        drop_rest(&self.queue);
    }
}

/// Empties a queue that nobody reads any more. (The queue keeps what is in it for as long as anybody could
/// send, whether or not anybody could receive.)
///
/// Closing sets the flag, then looks into the queue; sending puts a message there, then looks at the flag.
/// With a full fence in between at least one of them sees what the other did.
fn drop_rest<T>(queue: &Receiver<T>) {
    fence(Ordering::SeqCst);
    queue.try_iter().for_each(drop);
}

impl<T> Sender<T> {
    /// Waits for room until `deadline`. For app threads.
    pub(crate) fn send_until(&self, message: T, deadline: Instant) -> Result<(), SendError<T>> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(SendError::Closed(message));
        }
        self.queue.send_deadline(message, deadline).map_err(|error| match error {
            SendTimeoutError::Timeout(message) => SendError::Full(message),
            SendTimeoutError::Disconnected(message) => SendError::Closed(message),
        })?;
        self.sent();
        Ok(())
    }

    pub(crate) fn try_send(&self, message: T) -> Result<(), SendError<T>> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(SendError::Closed(message));
        }
        self.queue.try_send(message).map_err(|error| match error {
            TrySendError::Full(message) => SendError::Full(message),
            TrySendError::Disconnected(message) => SendError::Closed(message),
        })?;
        self.sent();
        Ok(())
    }

    /// Sees to it that somebody takes what was sent, or that it is dropped.
    fn sent(&self) {
        fence(Ordering::SeqCst);
        if self.is_closed.load(Ordering::Relaxed) {
            return drop_rest(&self.rest);
        }
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
#[allow(clippy::disallowed_methods, reason = "tests wait by the clock of the system")]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll, Token};

    use super::*;

    fn of_two() -> (Poll, Sender<u32>, Inbox<u32>) {
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let (sender, receiver) = mailbox(2, waker);
        (poll, sender, receiver)
    }

    #[test]
    fn a_message_wakes_the_thread_that_polls() {
        let (mut poll, sender, receiver) = of_two();
        let polling = std::thread::Builder::new().spawn(move || {
            let mut events = Events::with_capacity(1);
            while events.is_empty() {
                poll.poll(&mut events, Some(Duration::from_secs(30))).unwrap();
            }
            receiver.try_recv().unwrap()
        });
        sender.try_send(7).unwrap();
        assert_eq!(polling.unwrap().join().unwrap(), 7);
    }

    #[test]
    fn a_full_queue_and_a_closed_one_give_the_message_back() {
        let (_poll, sender, receiver) = of_two();
        sender.try_send(1).unwrap();
        sender.try_send(2).unwrap();
        assert!(matches!(sender.try_send(3), Err(SendError::Full(3))));
        let soon = Instant::now() + Duration::from_millis(1);
        assert!(matches!(sender.send_until(3, soon), Err(SendError::Full(3))));
        drop(receiver);
        assert!(matches!(sender.try_send(3), Err(SendError::Closed(3))));
        assert!(matches!(sender.send_until(3, soon), Err(SendError::Closed(3))));
    }

    #[test]
    fn whatever_is_sent_while_the_inbox_closes_is_dropped_or_comes_back() {
        for round in 0..500 {
            let poll = Poll::new().unwrap();
            let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
            let (sender, inbox) = mailbox(4, waker);
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

    #[test]
    fn an_outbox_keeps_what_does_not_fit_in_order() {
        let (_poll, sender, receiver) = of_two();
        let mut outbox = Outbox::new(sender);
        (1..=5).for_each(|message| outbox.send(message));
        let mut got = Vec::new();
        while outbox.flush() {
            got.extend(std::iter::from_fn(|| receiver.try_recv()));
        }
        got.extend(std::iter::from_fn(|| receiver.try_recv()));
        assert_eq!(got, [1, 2, 3, 4, 5]);
        drop(receiver);
        outbox.send(6);
        assert!(!outbox.flush(), "nobody is left to wait for");
    }
}
