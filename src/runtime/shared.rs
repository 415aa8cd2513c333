//! What an engine's threads and its handle share: the door, and the news.
//!
//! The [`Door`] is a word of its own, since every call looks at it; all else is news, behind one
//! lock, which the control thread tells and the app's threads wait for.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::door::Door;
use crate::control::Readiness;
use crate::error::Risk;
use crate::events::{Event, MemberInfo, Subscriber};
use crate::logging;
use crate::shard::StoppedBy;

/// The door and the news of one engine.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) door: Door,
    /// Whether the node stops without telling the other nodes.
    is_silent: AtomicBool,
    /// Whether a failure has closed the door, and no request.
    has_failed: AtomicBool,
    state: Mutex<SharedState>,
    changed: Condvar,
}

/// What the control thread lets the app's threads see.
#[derive(Default)]
pub(crate) struct SharedState {
    pub(crate) members: Vec<MemberInfo>,
    pub(crate) readiness: Readiness,
    /// How many partitions each core has still to give away.
    pub(crate) giving: Vec<usize>,
    /// How many calls on each core had not ended when the core was asked last.
    pub(crate) unfinished: Vec<usize>,
    /// How many callers have begun to wait until it is safe; a caller's number is its ticket.
    pub(crate) safety_tickets: u64,
    /// The highest ticket for which it was safe.
    pub(crate) safe_up_to: u64,
    /// Why it was not safe in the last round of questions.
    pub(crate) risks: Vec<Risk>,
    pub(crate) has_left: bool,
    pub(crate) is_stopped: bool,
    /// Why the engine failed, if it did.
    pub(crate) failure: Option<String>,
    pub(crate) subscribers: Vec<Subscriber>,
}

impl Shared {
    /// Lets no more calls in, and has the threads stop when they look next.
    ///
    /// With `farewell` the other nodes are told; without, they find out.
    pub(crate) fn close(&self, farewell: bool) {
        if !farewell {
            self.is_silent.store(true, Ordering::Relaxed);
        }
        self.door.close();
    }

    /// Lets no more calls in; those that were let in go on.
    pub(crate) fn drain(&self) {
        self.door.drain();
    }

    /// Whether the node stops without telling the other nodes.
    pub(crate) fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    /// Whether the threads are to stop.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.door.is_closed()
    }

    /// Lets no more calls in, and records a failure as the reason unless a request has closed the
    /// door before.
    ///
    /// The reason is known before any thread finds the door closed. A second failure replaces the
    /// text of the first, since it knows more.
    pub(crate) fn fail(&self, why: &str) {
        let mut state = self.lock();
        if !self.is_closed() || self.has_failed() {
            state.failure = Some(why.to_owned());
            self.has_failed.store(true, Ordering::Relaxed);
        }
        drop(state);
        self.close(true);
    }

    /// Whether a failure has closed the door.
    pub(crate) fn has_failed(&self) -> bool {
        self.is_closed() && self.has_failed.load(Ordering::Relaxed)
    }

    /// Returns what has closed the door, or would be said to if it closed now.
    pub(crate) fn stopped_by(&self) -> StoppedBy {
        if self.has_failed() { StoppedBy::Failure } else { StoppedBy::Request }
    }

    /// Closes the door and ends every wait: no thread is left that could bring news.
    pub(crate) fn set_stopped(&self) {
        self.close(true);
        self.update(|state| {
            state.is_stopped = true;
            state.subscribers.clear();
        });
    }

    /// Tells the log and every subscriber of an event.
    pub(crate) fn notify(&self, event: &Event) {
        match event {
            Event::Refused { .. }
            | Event::Unreachable { .. }
            | Event::DataAtRisk { .. }
            | Event::OutOfMemory { .. }
            | Event::ClockOff { .. }
            | Event::CoreStuck { .. }
            | Event::Died { .. } => {
                logging::warn!("{event:?}");
            }
            _ => logging::info!("{event:?}"),
        }
        self.lock().subscribers.retain(|subscriber| subscriber.notify(event));
    }

    /// Locks the news, to read them or to change what no caller waits for.
    pub(crate) fn lock(&self) -> MutexGuard<'_, SharedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the news and wakes every caller that waits for some.
    pub(crate) fn update(&self, change: impl FnOnce(&mut SharedState)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `done` gives a result. `None` if the time is up first.
    pub(crate) fn wait<T>(
        &self,
        timeout: Duration,
        mut done: impl FnMut(&SharedState) -> Option<T>,
    ) -> Option<T> {
        let mut result = None;
        let waited = self.changed.wait_timeout_while(self.lock(), timeout, |state| {
            result = done(state);
            result.is_none()
        });
        drop(waited);
        result
    }
}
