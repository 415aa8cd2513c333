//! A ring is a bounded queue from many threads to one: every message to an engine's thread goes
//! through one.
//!
//! It has slots with a word each, after Vyukov. A producer *claims* the slot at the tail by moving
//! the tail on; it writes the message and then says so in the slot's word. The consumer looks at
//! one word only, that of the next slot.
//!
//! - A producer that is preempted between its claim and its word holds up what was claimed behind
//!   it. The consumer hears [`Pop::Busy`] and does something else. (`crossbeam`'s `ArrayQueue`
//!   spins there instead: for a whole time slice, if the producer waits for the consumer's
//!   processor.)
//! - The ring is closed by a bit in the tail, so that a claim that comes too late fails by itself.
//!   Producers hold no lock while they push, and the consumer waits for nothing but the claims that
//!   came before.
//! - The head belongs to the consumer alone: taking a message is one load and one store.
//!
//! Vyukov, "Bounded MPMC queue", 2010.

use std::mem::MaybeUninit;
use std::sync::Arc;

use crate::mutants::{OrderingMutant, is_left_out, ordering};
use crate::prefetch;
use crate::sync::{AtomicU64, Crossing, Ordering, Padded, UnsafeCell, has_failed, yield_now};

/// A bit of the tail: nothing can be claimed any more. No ring's positions come that far.
const CLOSED: u64 = 1 << 63;

/// The pushing end. Cheap to clone.
pub(crate) struct Producer<T> {
    ring: Arc<Ring<T>>,
}

/// The only popping end. Dropping it closes the ring and drops every message in it.
pub(crate) struct Consumer<T> {
    ring: Arc<Ring<T>>,
    /// The position that is popped next.
    head: u64,
}

/// Why a message was not taken; it holds the message.
#[derive(Debug)]
pub(crate) enum PushError<T> {
    Full(T),
    Closed(T),
}

/// What the consumer finds.
#[derive(Debug)]
pub(crate) enum Pop<T> {
    Item(T),
    Empty,
    /// A message is on its way, and its producer is not done with it. Ask again later.
    Busy,
}

struct Ring<T> {
    /// The position that is claimed next, and [`CLOSED`]. Positions only grow, and a slot is used
    /// for every position that is its own modulo the capacity.
    tail: Padded<AtomicU64>,
    slots: Box<[RingSlot<T>]>,
}

/// One slot, in cache lines of its own: it goes from one processor to another and back.
#[repr(align(64))]
struct RingSlot<T> {
    /// [`vacant`] or [`filled`] for the position that it is used for now.
    word: AtomicU64,
    crossing: Crossing,
    message: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: a message goes from one thread to another, which `T: Send` allows. A slot's message is
// written by the one producer that moved the tail over its position, while its word says that it is
// vacant; it is read by the one consumer, while its word says that it is filled. The stores of the
// word release and the loads acquire.
unsafe impl<T: Send> Send for Ring<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Ring<T> {}

/// Returns the word of a slot that waits for the message of this position.
const fn vacant(position: u64) -> u64 {
    position << 1
}

/// Returns the word of a slot that has the message of this position.
const fn filled(position: u64) -> u64 {
    position << 1 | 1
}

/// Makes a ring for `capacity` messages, or for as many more as make a power of two.
pub(crate) fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let slot = |position| RingSlot {
        word: AtomicU64::new(vacant(position)),
        crossing: Crossing::default(),
        message: UnsafeCell::new(MaybeUninit::uninit()),
    };
    let slots = (0..capacity.next_power_of_two() as u64).map(slot).collect();
    let ring = Arc::new(Ring { tail: Padded(AtomicU64::new(0)), slots });
    (Producer { ring: ring.clone() }, Consumer { ring, head: 0 })
}

impl<T> Ring<T> {
    fn slot(&self, position: u64) -> &RingSlot<T> {
        &self.slots[position as usize & (self.slots.len() - 1)]
    }

    /// Claims a position, which the caller alone may fill now.
    fn claim(&self) -> Result<u64, PushError<()>> {
        let mut tail = self.tail.0.load(Ordering::Relaxed);
        loop {
            if tail & CLOSED != 0 {
                return Err(PushError::Closed(()));
            }
            let slot = self.slot(tail);
            slot.crossing.pass();
            let word = slot.word.load(Ordering::Acquire);
            if word < vacant(tail) {
                // It has the message of a lap ago, or waits for it.
                return Err(PushError::Full(()));
            }
            tail = if word == vacant(tail) {
                let claimed = self.tail.0.compare_exchange_weak(
                    tail,
                    tail + 1,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
                match claimed {
                    Ok(position) => return Ok(position),
                    Err(tail) => tail,
                }
            } else {
                // Others have been here since the tail was read.
                self.tail.0.load(Ordering::Relaxed)
            };
        }
    }

    fn fill(&self, position: u64, message: T) {
        let slot = self.slot(position);
        // SAFETY: `claim` gave this position to the caller alone, and only when the slot was
        // vacant.
        slot.message.with_mut(|place| unsafe {
            (*place).write(message);
        });
        let order = ordering(OrderingMutant::RelaxedPush, Ordering::Release);
        slot.crossing.pass();
        slot.word.store(filled(position), order);
        // The consumer had it last.
        prefetch::to_write(self.slot(position + 1));
    }
}

impl<T> Clone for Producer<T> {
    fn clone(&self) -> Self {
        Self { ring: self.ring.clone() }
    }
}

impl<T> Producer<T> {
    /// Pushes a message, and never waits. That the ring is full was so at some moment since the
    /// producer's last fence.
    pub(crate) fn push(&self, message: T) -> Result<(), PushError<T>> {
        match self.ring.claim() {
            Ok(position) => {
                self.ring.fill(position, message);
                Ok(())
            }
            Err(PushError::Full(())) => Err(PushError::Full(message)),
            Err(PushError::Closed(())) => Err(PushError::Closed(message)),
        }
    }

    #[cfg(all(test, not(gridkv_loom)))]
    pub(crate) fn queued(&self) -> usize {
        let is_filled = |slot: &&RingSlot<T>| slot.word.load(Ordering::Acquire) & 1 == 1;
        self.ring.slots.iter().filter(is_filled).count()
    }
}

impl<T> Consumer<T> {
    /// Takes the next message.
    pub(crate) fn pop(&mut self) -> Pop<T> {
        if self.has_item() {
            return Pop::Item(self.take());
        }
        let tail = self.ring.tail.0.load(Ordering::Relaxed) & !CLOSED;
        if tail == self.head { Pop::Empty } else { Pop::Busy }
    }

    /// Whether [`pop`](Self::pop) would find a message.
    pub(crate) fn has_item(&self) -> bool {
        let slot = self.ring.slot(self.head);
        slot.crossing.pass();
        slot.word.load(Ordering::Acquire) == filled(self.head)
    }

    /// Returns how many slots are free. Producers may have taken some of them already.
    pub(crate) fn free(&self) -> usize {
        let tail = self.ring.tail.0.load(Ordering::Relaxed) & !CLOSED;
        // A tail that is read late may even be behind the head.
        self.ring.slots.len() - tail.saturating_sub(self.head) as usize
    }

    /// Takes the message that [`has_item`](Self::has_item) has just seen.
    fn take(&mut self) -> T {
        let slot = self.ring.slot(self.head);
        // SAFETY: the word says that the slot is filled, which was read with `Acquire`. Only this
        // consumer reads it, once: the head moves on.
        let message = slot.message.with_mut(|place| unsafe { (*place).assume_init_read() });
        let order = ordering(OrderingMutant::RelaxedPop, Ordering::Release);
        slot.crossing.pass();
        slot.word.store(vacant(self.head + self.ring.slots.len() as u64), order);
        self.head += 1;
        message
    }

    /// Closes the ring: from now on every message goes back to its producer. What was claimed
    /// before is still to be popped.
    pub(crate) fn close(&mut self) {
        self.ring.tail.0.fetch_or(CLOSED, Ordering::Relaxed);
    }

    /// Drops what has been claimed, waiting for its producers: each is a few instructions from
    /// being done.
    fn drain(&mut self) {
        loop {
            match self.pop() {
                Pop::Item(message) => drop(message),
                Pop::Busy => yield_now(),
                Pop::Empty => return,
            }
        }
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        if has_failed() {
            return;
        }
        if is_left_out(OrderingMutant::LateClose) {
            self.drain();
        }
        // The tail is read after this by the thread that changed it last: `drain` cannot miss a
        // claim.
        self.close();
        if !is_left_out(OrderingMutant::LateClose) {
            self.drain();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    fn item<T>(pop: Pop<T>) -> Option<T> {
        match pop {
            Pop::Item(message) => Some(message),
            Pop::Empty | Pop::Busy => None,
        }
    }

    #[test]
    fn it_has_room_for_its_capacity_lap_after_lap() {
        for (asked, capacity) in [(1, 1), (2, 2), (3, 4), (8, 8)] {
            let (producer, mut consumer) = ring(asked);
            for lap in 0..5 {
                (0..capacity).for_each(|index| producer.push((lap, index)).unwrap());
                let is_given_back = match producer.push((lap, capacity)) {
                    Err(PushError::Full(back)) => back.1 == capacity,
                    _ => false,
                };
                assert!(is_given_back);
                assert_eq!(consumer.free(), 0);
                (0..capacity)
                    .for_each(|index| assert_eq!(item(consumer.pop()), Some((lap, index))));
                assert_eq!(consumer.free(), capacity);
                assert!(matches!(consumer.pop(), Pop::Empty));
            }
        }
    }

    #[test]
    fn a_claim_that_is_not_filled_holds_up_what_is_behind_it() {
        let (producer, mut consumer) = ring(4);
        let claimed = producer.ring.claim().ok().unwrap();
        producer.push(2).unwrap();
        assert!(matches!(consumer.pop(), Pop::Busy));
        assert!(!consumer.has_item());
        producer.ring.fill(claimed, 1);
        assert!(consumer.has_item());
        assert_eq!([item(consumer.pop()), item(consumer.pop())], [Some(1), Some(2)]);
    }

    #[test]
    fn closing_waits_for_what_was_claimed_and_drops_it() {
        let (producer, consumer) = ring(4);
        let message = Arc::new(());
        producer.push(message.clone()).unwrap();
        let claimed = producer.ring.claim().ok().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| drop(consumer));
            // Until the other thread has come to it.
            while !matches!(producer.push(message.clone()), Err(PushError::Closed(_))) {
                thread::yield_now();
            }
            producer.ring.fill(claimed, message.clone());
        });
        assert!(matches!(producer.push(message.clone()), Err(PushError::Closed(_))));
        assert_eq!(Arc::strong_count(&message), 1);
    }

    #[test]
    fn each_of_many_producers_is_heard_in_its_order() {
        const EACH: usize = 20_000;
        let (producer, mut consumer) = ring(8);
        let popped = AtomicUsize::new(0);
        thread::scope(|scope| {
            for number in 0..4 {
                let producer = producer.clone();
                scope.spawn(move || {
                    for mut message in (0..EACH).map(|index| (number, index)) {
                        while let Err(PushError::Full(back)) = producer.push(message) {
                            message = back;
                            thread::yield_now();
                        }
                    }
                });
            }
            let mut next = [0; 4];
            while next != [EACH; 4] {
                match consumer.pop() {
                    Pop::Item((number, index)) => {
                        assert_eq!(index, next[number]);
                        next[number] += 1;
                        popped.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                    Pop::Empty | Pop::Busy => thread::yield_now(),
                }
            }
        });
        assert_eq!(popped.into_inner(), 4 * EACH);
    }
}
