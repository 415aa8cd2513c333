//! [`Completions`]: a queue for the answers of calls that no thread waits for.
//!
//! Every submitted call holds a [`CompletionSlot`] from its submission until the app drops its
//! [`Completion`]. The channel has room for all of them, so that a core never waits for the app,
//! and no answer is lost. The slots are counted apart from the channel: a completion that lies in
//! the channel must not keep the channel alive.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::engine_thread::is_engine_thread;
use crate::error::{ReadError, WriteError};
use crate::shard::Outcome;

/// A queue that receives the answers of submitted calls, for an app that must not wait, such as one
/// with an event loop of its own.
///
/// [`Engine::submit_set`](crate::Engine::submit_set) and its siblings return a [`Ticket`], and the
/// answer arrives here with the same ticket. Calls are answered in the order in which they end. If
/// one replica answers reads (R = 1), writes of one key that were submitted one after the other
/// take effect in the order of their submission.
///
/// The queue has slots for a number of calls. A call takes a slot when it is submitted, and frees
/// it when its [`Completion`] is dropped. A call that finds no free slot is not made. So the engine
/// never waits for the app, and no answer is lost. Cloning gives another handle to the same queue;
/// each completion reaches one of the handles.
///
/// ```
/// use gridkv::{Completed, Completions, Config, Engine, WriteOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::start(Config::standalone("app-1"))?;
/// let completions = Completions::new(100);
/// let ticket = engine.submit_set(&completions, "session:42", "Ada", &WriteOptions::new())?;
/// // … and later:
/// let completion = completions.next().unwrap();
/// assert_eq!(completion.ticket(), ticket);
/// assert_eq!(completion.into_result(), Completed::Write(Ok(())));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Completions {
    sender: flume::Sender<Completion>,
    receiver: flume::Receiver<Completion>,
    slots: Arc<Slots>,
}

/// Names the submitted call that a [`Completion`] belongs to: a number that each queue gives out
/// once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(u64);

/// The answer to a submitted call. It keeps the call's slot in the queue until it is dropped.
pub struct Completion {
    ticket: Ticket,
    outcome: Outcome,
    _taken: Taken,
}

/// What became of a submitted call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Completed {
    /// The result that [`Engine::set`](crate::Engine::set) or
    /// [`Engine::delete`](crate::Engine::delete) would have returned.
    Write(Result<(), WriteError>),
    /// The result that [`Engine::get`](crate::Engine::get) would have returned.
    Read(Result<Option<Vec<u8>>, ReadError>),
}

/// Counts the slots of one queue.
struct Slots {
    capacity: usize,
    taken: AtomicUsize,
    next_ticket: AtomicU64,
}

/// One slot that is taken, until this is dropped. It does not hold the channel, in which it might
/// lie.
struct Taken(Arc<Slots>);

/// The slot of a call that is under way.
pub(crate) struct CompletionSlot {
    ticket: Ticket,
    taken: Taken,
    sender: flume::Sender<Completion>,
    /// The outcome if no answer comes.
    if_lost: Outcome,
}

impl Completions {
    /// Creates a queue with this many slots, at least one.
    ///
    /// It holds this many calls at a time: submitted and not answered, answered and not taken, or
    /// taken and not dropped.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        let (sender, receiver) = flume::bounded(capacity);
        let slots = Slots { capacity, taken: AtomicUsize::new(0), next_ticket: AtomicU64::new(0) };
        Self { sender, receiver, slots: Arc::new(slots) }
    }

    /// Waits for the next completion, and for ever if no call is under way.
    ///
    /// An engine's own thread must not wait: there it returns `None` if no completion is here.
    pub fn next(&self) -> Option<Completion> {
        if is_engine_thread() { self.try_next() } else { self.receiver.recv().ok() }
    }

    /// Returns the next completion if one is here.
    pub fn try_next(&self) -> Option<Completion> {
        self.receiver.try_recv().ok()
    }

    /// Waits for the next completion for at most `timeout`, and on an engine's own thread not at
    /// all.
    pub fn next_within(&self, timeout: Duration) -> Option<Completion> {
        if is_engine_thread() { self.try_next() } else { self.receiver.recv_timeout(timeout).ok() }
    }

    /// Returns the receiving end of the queue, for a `flume::Selector` or for `recv_async` in an
    /// async task.
    ///
    /// Both need the feature of flume that bears their name (`select`, `async`).
    pub fn receiver(&self) -> &flume::Receiver<Completion> {
        &self.receiver
    }

    /// Returns how many slots there are.
    pub fn capacity(&self) -> usize {
        self.slots.capacity
    }

    /// Returns how many slots are taken.
    pub fn in_use(&self) -> usize {
        self.slots.taken.load(Ordering::Relaxed)
    }

    /// Takes a slot for one more call, if one is free.
    pub(crate) fn reserve(&self, if_lost: Outcome) -> Option<CompletionSlot> {
        let add = |taken| (taken < self.slots.capacity).then_some(taken + 1);
        self.slots.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        let taken = Taken(self.slots.clone());
        let ticket = Ticket(self.slots.next_ticket.fetch_add(1, Ordering::Relaxed));
        Some(CompletionSlot { ticket, taken, sender: self.sender.clone(), if_lost })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl CompletionSlot {
    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Puts the answer into the queue, which has room for it. `None` says that no answer came.
    pub(crate) fn complete(self, outcome: Option<Outcome>) {
        let Self { ticket, taken, sender, if_lost } = self;
        let completion = Completion { ticket, outcome: outcome.unwrap_or(if_lost), _taken: taken };
        // It fails if the app has dropped every handle.
        let _ = sender.try_send(completion);
    }
}

impl Completion {
    /// Returns the ticket of the call.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Returns what became of the call. Copies a value that was read.
    pub fn into_result(self) -> Completed {
        match self.outcome {
            Outcome::Written(result) => Completed::Write(result),
            Outcome::Read(result) => {
                let value = |entry: crate::entry::Entry| entry.value().unwrap_or_default().to_vec();
                Completed::Read(result.map(|entry| entry.map(value)))
            }
            // Nothing else can be submitted.
            _ => Completed::Read(Err(ReadError::ShutDown)),
        }
    }
}

impl fmt::Debug for Completions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completions")
            .field("capacity", &self.capacity())
            .field("in_use", &self.in_use())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> Outcome {
        Outcome::Written(Err(WriteError::EngineFailed))
    }

    #[test]
    fn a_slot_is_taken_until_its_completion_is_dropped() {
        let completions = Completions::new(2);
        let first = completions.reserve(lost()).unwrap();
        let second = completions.reserve(lost()).unwrap();
        assert!(completions.reserve(lost()).is_none());
        let ticket = second.ticket();
        second.complete(Some(Outcome::Written(Ok(()))));
        let completion = completions.try_next().unwrap();
        assert!(completions.reserve(lost()).is_none(), "the app has not done with it");
        assert_eq!(completion.ticket(), ticket);
        assert_eq!(completion.into_result(), Completed::Write(Ok(())));
        assert_eq!(completions.in_use(), 1);
        first.complete(None);
        let completion = completions.next_within(Duration::ZERO).unwrap();
        assert_eq!(completion.into_result(), Completed::Write(Err(WriteError::EngineFailed)));
        assert_eq!(completions.in_use(), 0);
    }

    #[test]
    fn a_queue_that_nobody_reads_any_more_keeps_nothing() {
        let completions = Completions::new(2);
        let slots = Arc::downgrade(&completions.slots);
        let [first, second] = [(); 2].map(|()| completions.reserve(lost()).unwrap());
        first.complete(None);
        drop(completions);
        second.complete(None);
        assert!(slots.upgrade().is_none());
    }
}
