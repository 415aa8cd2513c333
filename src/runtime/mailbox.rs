//! A mailbox: a bounded [`ring`](mod@super::ring), and a [`Bell`] that wakes the receiving thread
//! out of its poll.
//!
//! A message to a thread that is awake is a few instructions, and no system call. A thread may have
//! several inboxes, which share its bell: a flood in one of them leaves room in the others.
//!
//! If the ring is full, an app's thread [waits for room](super::wait_list). An engine's thread
//! never waits: what does not fit stays in the sender's [`ThreadOutbox`] until the next pass of its
//! loop.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::bell::{Bell, SystemWaker, Wake};
use super::ring::{Consumer, Pop, Producer, PushError, ring};
use super::wait_list::WaitList;
use crate::mutants::{OrderingMutant, is_left_out};
use crate::sync::{has_failed, spin_loop, yield_now};

/// How often an app's thread looks for room before it enters the wait list, and from which look on
/// it lets others run in between.
///
/// The thread that makes room may need this one's processor. In the models it is a step like any
/// other.
const SPINS: usize = if cfg!(gridkv_loom) { 0 } else { 64 };
const YIELDS_FROM: u32 = 48;

/// The sending end. Cheap to clone.
pub(crate) struct Sender<T, W = SystemWaker> {
    producer: Producer<T>,
    wait_list: Arc<WaitList>,
    bell: Arc<Bell<W>>,
}

/// The receiving end. Dropping it closes the mailbox: each message in it is dropped or goes back to
/// its sender.
pub(crate) struct Inbox<T> {
    consumer: Consumer<T>,
    wait_list: Arc<WaitList>,
}

/// Why a message was not taken; it holds the message.
#[derive(Debug)]
pub(crate) enum SendError<T> {
    /// No room before the deadline.
    Full(T),
    /// The receiving thread has ended.
    Closed(T),
}

/// Makes a mailbox for at least `capacity` messages, for the thread that has this bell.
pub(crate) fn mailbox<T, W>(capacity: usize, bell: Arc<Bell<W>>) -> (Sender<T, W>, Inbox<T>) {
    let (producer, consumer) = ring(capacity);
    let wait_list = Arc::new(WaitList::default());
    (Sender { producer, wait_list: wait_list.clone(), bell }, Inbox { consumer, wait_list })
}

impl<T> Inbox<T> {
    /// Takes the next message. A thread that has taken some [admits](Self::admit) afterwards.
    pub(crate) fn pop(&mut self) -> Pop<T> {
        self.consumer.pop()
    }

    /// Whether there is a message that can be taken.
    pub(crate) fn has_item(&self) -> bool {
        self.consumer.has_item()
    }

    /// Gives the room that was made to the callers that wait for it. Called once after messages
    /// were taken.
    pub(crate) fn admit(&mut self) {
        self.wait_list.admit(|| self.consumer.free());
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        if has_failed() {
            return;
        }
        if !is_left_out(OrderingMutant::LateClose) {
            self.consumer.close();
        }
        self.wait_list.close();
    }
}

impl<T, W> Clone for Sender<T, W> {
    fn clone(&self) -> Self {
        Self {
            producer: self.producer.clone(),
            wait_list: self.wait_list.clone(),
            bell: self.bell.clone(),
        }
    }
}

impl<T, W: Wake> Sender<T, W> {
    /// Sends now or not at all, without waiting. An engine's thread sends no other way.
    pub(crate) fn try_send(&self, message: T) -> Result<(), SendError<T>> {
        self.producer.push(message)?;
        self.bell.ring();
        Ok(())
    }

    /// Sends, and waits for room until the deadline, or for ever if there is none. Only app threads
    /// may wait.
    pub(crate) fn send_until(
        &self,
        message: T,
        deadline: impl Into<Option<Instant>>,
    ) -> Result<(), SendError<T>> {
        let mut sent = self.try_send(message);
        for spins in (0..).take(SPINS) {
            let Err(SendError::Full(message)) = sent else { return sent };
            // Others wait already: it is behind them.
            if self.wait_list.is_wanted() {
                return self.send_in_line(message, deadline.into());
            }
            if spins < YIELDS_FROM {
                spin_loop()
            } else {
                yield_now()
            }
            sent = self.try_send(message);
        }
        match sent {
            Err(SendError::Full(message)) => self.send_in_line(message, deadline.into()),
            sent => sent,
        }
    }

    fn send_in_line(&self, message: T, deadline: Option<Instant>) -> Result<(), SendError<T>> {
        let mut message = message;
        let position = self.wait_list.enter();
        let mut is_tried = is_left_out(OrderingMutant::UntriedEntry);
        loop {
            if !std::mem::take(&mut is_tried) {
                match self.try_send(message) {
                    Err(SendError::Full(back)) => message = back,
                    sent => {
                        position.done();
                        return sent;
                    }
                }
            }
            // The sender that filled the ring might have been preempted before it rang, or before
            // it woke the thread.
            self.bell.ring();
            self.bell.ring_again();
            if !position.wait(deadline) {
                return Err(SendError::Full(message));
            }
            position.enter_again();
        }
    }

    #[cfg(all(test, not(gridkv_loom)))]
    pub(crate) fn queued(&self) -> usize {
        self.producer.queued()
    }

    /// Wakes the thread again if a wake is still to come; called before a sleep that waits for the
    /// answer.
    pub(crate) fn ring_again(&self) {
        self.bell.ring_again();
    }
}

impl<T> From<PushError<T>> for SendError<T> {
    fn from(error: PushError<T>) -> Self {
        match error {
            PushError::Full(message) => Self::Full(message),
            PushError::Closed(message) => Self::Closed(message),
        }
    }
}

/// What an engine's thread sends to another one, in order and without ever waiting.
///
/// It holds what does not fit into the queue, without a bound of its own: every message stands for
/// a change of the members or for an open connection, and those are bounded
/// ([`Config::max_connections`](crate::Config::max_connections)).
pub(crate) struct ThreadOutbox<T, W = SystemWaker> {
    sender: Sender<T, W>,
    overflow: VecDeque<T>,
}

impl<T, W: Wake> ThreadOutbox<T, W> {
    pub(crate) fn new(sender: Sender<T, W>) -> Self {
        Self { sender, overflow: VecDeque::new() }
    }

    pub(crate) fn send(&mut self, message: T) {
        self.overflow.push_back(message);
        self.flush();
    }

    /// Sends what did not fit before. Returns whether anything is left.
    pub(crate) fn flush(&mut self) -> bool {
        while let Some(message) = self.overflow.pop_front() {
            match self.sender.try_send(message) {
                Ok(()) => {}
                Err(SendError::Full(message)) => {
                    self.overflow.push_front(message);
                    return true;
                }
                // The thread has ended, and with it the matter of the message.
                Err(SendError::Closed(_)) => {}
            }
        }
        false
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's deadline")]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use mio::{Events, Poll, Token, Waker};

    use super::*;

    /// A waker for a thread that does not sleep.
    struct Silent;

    impl Wake for Silent {
        fn wake(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn of_capacity<T>(capacity: usize) -> (Sender<T, Silent>, Inbox<T>) {
        mailbox(capacity, Arc::new(Bell::new(Silent)))
    }

    fn after(wait: Duration) -> Instant {
        Instant::now() + wait
    }

    fn late() -> Instant {
        after(Duration::from_secs(60))
    }

    fn item<T>(pop: Pop<T>) -> Option<T> {
        match pop {
            Pop::Item(message) => Some(message),
            Pop::Empty | Pop::Busy => None,
        }
    }

    /// Lets other threads run until this many wait for room.
    fn until_waiting<T>(inbox: &Inbox<T>, count: usize) {
        while inbox.wait_list.waiting() < count {
            thread::yield_now();
        }
    }

    #[test]
    fn a_full_mailbox_and_a_closed_one_give_the_message_back() {
        let (sender, inbox) = of_capacity(1);
        let message = Arc::new(());
        sender.try_send(message.clone()).unwrap();
        let soon = after(Duration::from_millis(1));
        assert!(matches!(sender.try_send(message.clone()), Err(SendError::Full(_))));
        assert!(matches!(sender.send_until(message.clone(), soon), Err(SendError::Full(_))));
        assert_eq!(inbox.wait_list.waiting(), 0, "its time was up");
        drop(inbox);
        assert!(matches!(sender.try_send(message.clone()), Err(SendError::Closed(_))));
        assert!(matches!(sender.send_until(message.clone(), soon), Err(SendError::Closed(_))));
        assert_eq!(Arc::strong_count(&message), 1);
    }

    #[test]
    fn what_is_sent_while_the_inbox_closes_is_dropped_or_comes_back() {
        for round in 0..300 {
            let (sender, mut inbox) = of_capacity(4);
            let message = Arc::new(());
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let late = late();
                        while sender.send_until(message.clone(), late).is_ok() {}
                    });
                }
                for _ in 0..round % 8 {
                    inbox.pop();
                }
                drop(inbox);
            });
            assert_eq!(Arc::strong_count(&message), 1, "round {round}");
        }
    }

    #[test]
    fn the_longest_waiting_gets_the_room() {
        let (sender, mut inbox) = of_capacity(1);
        sender.try_send(0).unwrap();
        thread::scope(|scope| {
            for number in 1..=3 {
                let sender = sender.clone();
                scope.spawn(move || sender.send_until(number, late()).unwrap());
                until_waiting(&inbox, number);
            }
            for number in 0..=3 {
                while !inbox.has_item() {
                    thread::yield_now();
                }
                assert_eq!(item(inbox.pop()), Some(number));
                inbox.admit();
            }
        });
        assert_eq!(inbox.wait_list.waiting(), 0);
    }

    #[test]
    fn who_waits_for_room_is_told_of_the_end() {
        let (sender, inbox) = of_capacity(1);
        sender.try_send(0).unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    assert!(matches!(sender.send_until(1, None), Err(SendError::Closed(1))))
                });
            }
            until_waiting(&inbox, 2);
            drop(inbox);
        });
    }

    #[test]
    fn every_message_of_many_senders_comes_to_a_thread_that_sleeps_in_between() {
        const EACH: usize = 3000;
        let mut poll = Poll::new().unwrap();
        let bell = Arc::new(Bell::new(Waker::new(poll.registry(), Token(0)).unwrap()));
        let (calls, mut called) = mailbox(4, bell.clone());
        let (orders, mut ordered) = mailbox(64, bell.clone());
        let sum = AtomicUsize::new(0);
        let wanted = 4 * EACH * (EACH + 1) / 2;
        thread::scope(|scope| {
            for number in 0..4 {
                let sender = if number == 0 { orders.clone() } else { calls.clone() };
                scope.spawn(move || {
                    (1..=EACH).for_each(|message| sender.send_until(message, late()).unwrap());
                });
            }
            let mut events = Events::with_capacity(4);
            while sum.load(Ordering::Relaxed) < wanted {
                for inbox in [&mut called, &mut ordered] {
                    while let Pop::Item(message) = inbox.pop() {
                        sum.fetch_add(message, Ordering::Relaxed);
                    }
                    inbox.admit();
                }
                let has_work = || called.has_item() || ordered.has_item();
                let is_done = sum.load(Ordering::Relaxed) == wanted;
                // Should a wake be lost, the test ends with a wrong sum and not never.
                let most = Some(Duration::from_secs(20));
                if !is_done
                    && let Some(polled) = bell.park(has_work, || poll.poll(&mut events, most))
                {
                    polled.unwrap();
                    assert!(!events.is_empty(), "nobody woke it");
                }
            }
        });
        assert_eq!(sum.into_inner(), wanted);
    }
}
