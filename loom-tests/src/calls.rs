//! Calls: the way of a message to an engine's thread, and of its answer back. The thread that sets
//! a scenario up is the engine's, or the caller that waits.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use loom::thread;

use crate::bell::{Bell, Wake};
use crate::harness::Model;
use crate::mailbox::{Inbox, SendError, Sender, mailbox};
use crate::mutants::{OrderingMutant, is_left_out};
use crate::parker::Parker;
use crate::ring::{Pop, ring};
use crate::slot::{Slot, TimedOut};
use crate::sync::{Mutex, lock};

/// What loom says of a use that is not ordered with a write.
const RACE: &str = "Causality violation";

/// What loom says when no thread can go on.
const DEADLOCK: &str = "deadlock";

/// Two producers, and more messages than the ring has slots: each message comes once or back, each
/// producer's in its order. A producer that has claimed a slot may be held up before it has filled
/// it.
pub static RING: Model = Model {
    scenario: || {
        let (producer, mut consumer) = ring(2);
        let threads = [&[1, 2][..], &[3]].map(|messages: &'static [u8]| {
            let producer = producer.clone();
            thread::spawn(move || {
                messages.iter().filter(|message| producer.push(**message).is_err()).count()
            })
        });
        let mut popped = Vec::new();
        let mut pop = || match consumer.pop() {
            Pop::Item(message) => popped.push(message),
            Pop::Empty | Pop::Busy => {}
        };
        (0..2).for_each(|_| pop());
        let came_back: usize =
            threads.into_iter().map(|thread| thread.join().expect("it has not panicked")).sum();
        (0..2).for_each(|_| pop());
        assert!(matches!(consumer.pop(), Pop::Empty));
        assert_eq!(popped.len() + came_back, 3, "a message was lost");
        popped.retain(|message| *message != 3);
        assert!(popped.is_sorted(), "{popped:?}");
    },
    preemptions: Some(3),
    mutants: &[(OrderingMutant::RelaxedPop, RACE)],
};

/// A consumer that finds a message finds all of it, and its slot is used again only after that.
pub static WRAP: Model = Model {
    scenario: || {
        let (producer, mut consumer) = ring(1);
        let thread =
            thread::spawn(move || (0..3).filter(|message| producer.push(*message).is_ok()).count());
        let mut pop = || matches!(consumer.pop(), Pop::Item(_));
        let popped = [pop(), pop()];
        let pushed = thread.join().expect("it has not panicked");
        let popped = popped.into_iter().chain([pop()]).filter(|is_one| *is_one).count();
        assert_eq!(popped, pushed, "a message was lost");
    },
    preemptions: None,
    mutants: &[(OrderingMutant::RelaxedPush, RACE), (OrderingMutant::RelaxedPop, RACE)],
};

/// Where an engine's thread sleeps.
#[derive(Default)]
struct Bed {
    sleep: Parker,
    /// The thread whose wakes are held up, until the other is done.
    preempted: std::sync::Mutex<Option<thread::ThreadId>>,
    goes_on: Parker,
    /// How many wakes fail from now on.
    failures: std::sync::atomic::AtomicU32,
}

impl Wake for Arc<Bed> {
    fn wake(&self) -> io::Result<()> {
        use std::sync::atomic::Ordering::Relaxed;
        if self.failures.load(Relaxed) > 0 {
            self.failures.fetch_sub(1, Relaxed);
            return Err(io::ErrorKind::Other.into());
        }
        if *self.preempted.lock().expect("nobody has panicked") == Some(thread::current().id()) {
            self.goes_on.park(None);
        }
        self.sleep.unpark();
        Ok(())
    }
}

/// An engine's thread with one inbox.
struct Core<T> {
    bed: Arc<Bed>,
    bell: Arc<Bell<Arc<Bed>>>,
    inbox: Inbox<T>,
}

impl<T> Core<T> {
    fn new(capacity: usize) -> (Sender<T, Arc<Bed>>, Self) {
        let bed = Arc::new(Bed::default());
        let bell = Arc::new(Bell::new(bed.clone()));
        let (sender, inbox) = mailbox(capacity, bell.clone());
        (sender, Self { bed, bell, inbox })
    }

    /// Takes `count` messages, and sleeps while there is none.
    fn take(&mut self, count: usize) -> Vec<T> {
        let mut taken = Vec::new();
        loop {
            while taken.len() < count
                && let Pop::Item(message) = self.inbox.pop()
            {
                taken.push(message);
            }
            self.inbox.admit();
            if taken.len() == count {
                return taken;
            }
            self.bell.park(|| self.inbox.has_item(), || self.bed.sleep.park(None));
        }
    }
}

/// The engine's thread goes to sleep while two send it something.
pub static PARK: Model = Model {
    scenario: || {
        let (sender, mut core) = Core::new(2);
        let threads = [1, 2].map(|message| {
            let sender = sender.clone();
            thread::spawn(move || sender.try_send(message).expect("there is room"))
        });
        let mut taken = core.take(2);
        threads.into_iter().for_each(|thread| thread.join().expect("it has not panicked"));
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
    },
    preemptions: Some(2),
    mutants: &[
        (OrderingMutant::UnfencedRing, DEADLOCK),
        (OrderingMutant::UnfencedPark, DEADLOCK),
        (OrderingMutant::UncheckedPark, DEADLOCK),
    ],
};

/// One caller is held up between its change of the word and its wake, until the other one, which
/// sends to another inbox of the same thread, has its answer.
pub static PREEMPTED: Model = Model {
    scenario: || {
        let (sender, mut core) = Core::new(1);
        let (other_sender, mut other_inbox) = mailbox(1, core.bell.clone());
        let bed = core.bed.clone();
        let held_up = thread::spawn(move || {
            *bed.preempted.lock().expect("nobody has panicked") = Some(thread::current().id());
            other_sender.try_send(()).expect("there is room");
        });
        let answered = Arc::new(Parker::default());
        let answer = answered.clone();
        let caller = thread::spawn(move || {
            sender.try_send(answer).expect("there is room");
            sender.ring_again();
            answered.park(None);
        });
        let mut open = 2;
        while open > 0 {
            if let Pop::Item(caller) = core.inbox.pop() {
                caller.unpark();
                core.bed.goes_on.unpark();
                open -= 1;
            } else if let Pop::Item(()) = other_inbox.pop() {
                open -= 1;
            } else {
                let has_work = || core.inbox.has_item() || other_inbox.has_item();
                core.bell.park(has_work, || core.bed.sleep.park(None));
            }
        }
        [held_up, caller]
            .into_iter()
            .for_each(|thread| thread.join().expect("it has not panicked"));
    },
    preemptions: Some(2),
    mutants: &[(OrderingMutant::RungOnce, DEADLOCK)],
};

/// A wake fails: the next one to ring tries it again.
pub static FAILED_WAKE: Model = Model {
    scenario: || {
        let (sender, mut core) = Core::new(2);
        core.bed.failures.store(1, std::sync::atomic::Ordering::Relaxed);
        let bell = core.bell.clone();
        let thread = thread::spawn(move || {
            sender.try_send(1).expect("there is room");
            bell.ring();
        });
        assert_eq!(core.take(1), [1]);
        thread.join().expect("it has not panicked");
    },
    preemptions: None,
    mutants: &[(OrderingMutant::ForgottenFailure, DEADLOCK)],
};

/// The answer comes while the caller looks for it, while it goes to sleep, or when it sleeps.
pub static ANSWER: Model = Model {
    scenario: || {
        let (waiter, answerer) = Slot::new().open();
        let thread = thread::spawn(move || assert!(answerer.answer(7).is_none(), "somebody waits"));
        let mut spins = 0..2;
        let spin = || spins.next().is_some();
        let answered = waiter.wait(spin, || (), None);
        assert_eq!(answered.map(|(answer, _slot)| answer), Ok(7));
        thread.join().expect("it has not panicked");
    },
    preemptions: None,
    mutants: &[(OrderingMutant::RelaxedAnswer, RACE), (OrderingMutant::SilentAnswer, DEADLOCK)],
};

/// The caller's time is up while the answer comes: one of them has the slot, and can use it again.
pub static TIMEOUT: Model = Model {
    scenario: || {
        let (waiter, answerer) = Slot::new().open();
        let thread = thread::spawn(move || answerer.answer(7).map(use_again).is_some());
        let slot = match waiter.wait(|| false, || (), Some(Instant::now())) {
            Ok((answer, slot)) => {
                assert_eq!(answer, 7);
                Some(slot)
            }
            Err(TimedOut) => None,
        };
        let is_callers = slot.map(use_again).is_some();
        assert_ne!(thread.join().expect("it has not panicked"), is_callers, "whose is the slot?");
    },
    preemptions: None,
    mutants: &[(OrderingMutant::RelaxedAnswer, RACE)],
};

fn use_again(slot: Slot<u8>) {
    let (waiter, answerer) = slot.open();
    assert!(answerer.answer(8).is_none());
    assert_eq!(waiter.give_up().map(|(answer, _slot)| answer), Some(8), "another call's answer");
}

/// A caller gives up and makes another call, with a slot that is free by then, while its first
/// answer comes.
pub static LATE_ANSWER: Model = Model {
    scenario: || {
        let pool = Arc::new(Mutex::new(Vec::new()));
        let (waiter, answerer) = Slot::new().open();
        let late = pool.clone();
        let first = thread::spawn(move || {
            if let Some(slot) = answerer.answer(1) {
                lock(&late).push(slot);
            }
        });
        if is_left_out(OrderingMutant::StolenSlot) {
            lock(&pool).push(waiter.steal());
        }
        if let Ok((answer, slot)) = waiter.wait(|| false, || (), Some(Instant::now())) {
            assert_eq!(answer, 1);
            lock(&pool).push(slot);
        }
        let slot = lock(&pool).pop();
        let (waiter, answerer) = slot.unwrap_or_else(Slot::new).open();
        let second = thread::spawn(move || assert!(answerer.answer(2).is_none(), "somebody waits"));
        let answered = waiter.wait(|| false, || (), None);
        assert_eq!(answered.map(|(answer, _slot)| answer), Ok(2), "another call's answer");
        [first, second].into_iter().for_each(|thread| thread.join().expect("it has not panicked"));
    },
    preemptions: Some(3),
    mutants: &[
        (OrderingMutant::StolenSlot, ""),
        (OrderingMutant::RelaxedAnswer, RACE),
        (OrderingMutant::SilentAnswer, DEADLOCK),
    ],
};

/// A ring that is full is drained while a caller comes to wait for room.
pub static ROOM: Model = Model {
    scenario: || {
        let (sender, mut core) = Core::new(1);
        sender.try_send(0).expect("there is room");
        let thread = thread::spawn(move || sender.send_until(1, None).expect("it is open"));
        assert_eq!(core.take(2), [0, 1]);
        thread.join().expect("it has not panicked");
    },
    preemptions: Some(3),
    mutants: &[
        (OrderingMutant::UnfencedEntry, DEADLOCK),
        (OrderingMutant::UnfencedAdmit, DEADLOCK),
        (OrderingMutant::SkippedAdmit, DEADLOCK),
        (OrderingMutant::UntriedEntry, DEADLOCK),
    ],
};

/// Two wait for the room that one can have.
pub static ROOMS: Model = Model {
    scenario: || {
        let (sender, mut core) = Core::new(1);
        sender.try_send(0).expect("there is room");
        let threads = [1, 2].map(|message| {
            let sender = sender.clone();
            thread::spawn(move || sender.send_until(message, None).expect("it is open"))
        });
        // Behind the others: what comes before them is in `ROOM`.
        thread::yield_now();
        let mut taken = core.take(3);
        threads.into_iter().for_each(|thread| thread.join().expect("it has not panicked"));
        taken.sort_unstable();
        assert_eq!(taken, [0, 1, 2]);
    },
    preemptions: Some(1),
    mutants: &[(OrderingMutant::SkippedAdmit, DEADLOCK), (OrderingMutant::KeptWake, DEADLOCK)],
};

/// One of the two that wait gives up, maybe just when the room is given to it.
pub static ROOM_TIMEOUT: Model = Model {
    scenario: || {
        let (sender, mut core) = Core::new(1);
        sender.try_send(0).expect("there is room");
        let other = sender.clone();
        let hasty = thread::spawn(move || other.send_until(1, Instant::now()).is_ok());
        let patient = thread::spawn(move || sender.send_until(2, None).expect("it is open"));
        // Behind the others: what comes before them is in `ROOM`.
        thread::yield_now();
        let mut taken = core.take(2);
        while !taken.contains(&2) {
            taken.extend(core.take(1));
        }
        patient.join().expect("it has not panicked");
        let was_sent = hasty.join().expect("it has not panicked");
        if was_sent && !taken.contains(&1) {
            taken.extend(core.take(1));
        }
        assert_eq!(taken.contains(&1), was_sent);
    },
    preemptions: Some(2),
    mutants: &[(OrderingMutant::SkippedAdmit, DEADLOCK), (OrderingMutant::LostWake, DEADLOCK)],
};

/// The engine's thread ends, with a message in its inbox, while another comes and one waits for
/// room: each is dropped by one of them, and no thread waits on.
pub static STOP: Model = Model {
    scenario: || {
        let (sender, core) = Core::new(1);
        let message = Arc::new(());
        sender.try_send(message.clone()).expect("there is room");
        let (other, its_message) = (sender.clone(), message.clone());
        let waits = thread::spawn(move || {
            let sent = sender.send_until(its_message, None);
            assert!(!matches!(sent, Err(SendError::Full(_))), "it would have waited");
        });
        let its_message = message.clone();
        let sends = thread::spawn(move || drop(other.try_send(its_message)));
        let Core { mut inbox, .. } = core;
        inbox.pop();
        drop(inbox);
        [waits, sends].into_iter().for_each(|thread| thread.join().expect("it has not panicked"));
        assert_eq!(Arc::strong_count(&message), 1, "a message was lost");
    },
    preemptions: Some(3),
    mutants: &[
        (OrderingMutant::LateClose, "a message was lost"),
        (OrderingMutant::SilentClose, DEADLOCK),
    ],
};
