//! Calls that nobody waits for: their answers come through a queue.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::engine_thread::is_engine_thread;
use crate::error::{ReadError, WriteError};
use crate::shard::Outcome;

/// Where the answers of submitted calls arrive ([`Engine::submit_set`](crate::Engine::submit_set) and its
/// siblings), each with the [`Ticket`] that the call was given: for an app that must not wait, such as one with an
/// event loop of its own.
///
/// Calls are answered in whatever order they end. Writes of one key that were submitted one after the other take effect
/// in their order where one replica answers reads (R = 1).
///
/// It has room for a number of calls. Each takes its place when it is submitted, and gives it back when its
/// [`Completion`] is dropped; a call that finds no place is not made. So nothing here ever waits for the app, and
/// nothing is lost. Cloning gives another handle to the same queue; each completion reaches one of them.
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
    places: Arc<Places>,
}

/// Which submitted call a [`Completion`] belongs to: a number that its [`Completions`] give out once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(u64);

/// The answer to a submitted call. It keeps the call's place in the queue until it is dropped.
pub struct Completion {
    ticket: Ticket,
    outcome: Outcome,
    _place: Taken,
}

/// What became of a submitted call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Completed {
    /// As [`Engine::set`](crate::Engine::set) and [`Engine::delete`](crate::Engine::delete) return it.
    Write(Result<(), WriteError>),
    /// As [`Engine::get`](crate::Engine::get) returns it.
    Read(Result<Option<Vec<u8>>, ReadError>),
}

struct Places {
    capacity: usize,
    taken: AtomicUsize,
    next_ticket: AtomicU64,
}

/// One place, until it is dropped. It does not hold the queue: a completion that lies there would keep it.
struct Taken(Arc<Places>);

/// The place of a call that is under way.
pub(crate) struct Place {
    ticket: Ticket,
    taken: Taken,
    sender: flume::Sender<Completion>,
    /// What to say where no answer comes.
    if_lost: Outcome,
}

impl Completions {
    /// A queue for this many calls at a time: submitted and not answered, answered and not taken, or taken and not
    /// dropped. (At least one.)
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        let (sender, receiver) = flume::bounded(capacity);
        let places = Places { capacity, taken: AtomicUsize::new(0), next_ticket: AtomicU64::new(0) };
        Self { sender, receiver, places: Arc::new(places) }
    }

    /// Waits for the next completion: for ever, where no call is under way. `None` on an engine's own thread, which
    /// must not wait, where none is here.
    pub fn next(&self) -> Option<Completion> {
        if is_engine_thread() { self.try_next() } else { self.receiver.recv().ok() }
    }

    /// The next completion, if one is here.
    pub fn try_next(&self) -> Option<Completion> {
        self.receiver.try_recv().ok()
    }

    /// Waits for the next completion, at most for so long, and on an engine's own thread not at all.
    pub fn next_within(&self, timeout: Duration) -> Option<Completion> {
        if is_engine_thread() { self.try_next() } else { self.receiver.recv_timeout(timeout).ok() }
    }

    /// The queue itself, for a `flume::Selector`, or for `recv_async` in an async task (with flume's features of
    /// that name).
    pub fn receiver(&self) -> &flume::Receiver<Completion> {
        &self.receiver
    }

    /// How many places there are.
    pub fn capacity(&self) -> usize {
        self.places.capacity
    }

    /// How many places are taken.
    pub fn in_use(&self) -> usize {
        self.places.taken.load(Ordering::Relaxed)
    }

    /// A place for one more call, where there is one.
    pub(crate) fn reserve(&self, if_lost: Outcome) -> Option<Place> {
        let add = |taken| (taken < self.places.capacity).then_some(taken + 1);
        self.places.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        let taken = Taken(self.places.clone());
        let ticket = Ticket(self.places.next_ticket.fetch_add(1, Ordering::Relaxed));
        Some(Place { ticket, taken, sender: self.sender.clone(), if_lost })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place {
    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Puts the answer into the queue: it has room for every place. `None`: there is no answer.
    pub(crate) fn complete(self, outcome: Option<Outcome>) {
        let Self { ticket, taken, sender, if_lost } = self;
        let completion = Completion { ticket, outcome: outcome.unwrap_or(if_lost), _place: taken };
        // Where nobody has a handle any more, nobody wants to know.
        let _ = sender.try_send(completion);
    }
}

impl Completion {
    /// The call's.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// What became of the call. Copies a value that was read.
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
    fn a_place_is_taken_until_its_completion_is_dropped() {
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
        let places = Arc::downgrade(&completions.places);
        let [first, second] = [(); 2].map(|()| completions.reserve(lost()).unwrap());
        first.complete(None);
        drop(completions);
        second.complete(None);
        assert!(places.upgrade().is_none());
    }
}
