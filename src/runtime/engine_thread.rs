//! What all threads of an engine have in common: none of them may wait for another, and none may
//! fail alone.
//!
//! If only one thread stopped, the engine would answer for some of its keys, and the other nodes
//! would take it for a healthy one. So when a thread panics or cannot poll, the engine is closed
//! first: from then on no copy here is read. Then all callers that wait are told, the other threads
//! stop, and the node leaves the cluster as if it had died. The app lives on. (If panics abort,
//! nothing of this happens: the process ends.)

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::bell::Bell;
use super::log_thread::LogThread;
use super::shared::Shared;
use crate::error::StartError;
use crate::logging;
use crate::shard::StoppedBy;

thread_local! {
    static IS_ENGINE_THREAD: Cell<bool> = const { Cell::new(false) };
    /// What to close when this thread panics.
    static ENGINE: RefCell<Option<Arc<Shared>>> = const { RefCell::new(None) };
}

/// Whether the caller runs on a thread of any engine, which must not wait for one.
#[inline]
pub(crate) fn is_engine_thread() -> bool {
    IS_ENGINE_THREAD.get()
}

/// Returns why the calling thread's engine stops, if it does.
pub(crate) fn stopped_by() -> StoppedBy {
    let engine = ENGINE.try_with(|engine| engine.borrow().clone()).ok().flatten();
    engine.map_or(StoppedBy::Request, |shared| shared.stopped_by())
}

/// Closes the engine if the calling thread is one of its threads and panics.
///
/// A drop that tells a caller something calls it first, so that no caller learns of the panic while
/// it could still read here.
pub(crate) fn close_if_panicking() {
    if thread::panicking() {
        let engine = ENGINE.try_with(|engine| engine.borrow().clone()).ok().flatten();
        engine.into_iter().for_each(|shared| shared.fail("one of its threads panicked"));
    }
}

/// The threads of one engine, and what stops them.
#[derive(Default)]
pub(crate) struct Threads {
    pub(crate) shared: Arc<Shared>,
    pub(crate) bells: Vec<Arc<Bell>>,
    pub(crate) log: LogThread,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    /// Starts a thread. Every bell is known by then.
    pub(crate) fn spawn(
        &self,
        name: String,
        run: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<(), StartError> {
        let thread = EngineThread {
            name: name.clone(),
            shared: self.shared.clone(),
            bells: self.bells.clone(),
        };
        let outlet = self.log.outlet();
        let handle = thread::Builder::new()
            .name(name)
            .spawn(move || {
                logging::set_outlet(outlet);
                thread.run(run);
                logging::set_outlet(None);
            })
            .map_err(|source| StartError::System { what: "starting a thread", source })?;
        self.lock().push(handle);
        Ok(())
    }

    /// Stops and joins the threads, and lets the logger have their last lines. An engine's own
    /// thread does not join them: they end by themselves. In a forked child there are none, and it
    /// does nothing.
    pub(crate) fn stop(&self, farewell: bool) {
        if self.shared.door.is_forked() {
            return;
        }
        self.shared.close(farewell);
        let handles = std::mem::take(&mut *self.lock());
        if handles.is_empty() {
            return;
        }
        self.bells.iter().for_each(|bell| bell.ring());
        if !is_engine_thread() {
            for handle in handles {
                let name = handle.thread().name().unwrap_or_default().to_owned();
                if handle.join().is_err() {
                    logging::error!("{name} had panicked");
                }
            }
        }
        self.shared.set_stopped();
        // Last, and after those that wait for the engine's end: the logger may take its time.
        if !is_engine_thread() {
            self.log.stop();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread of an engine, and those that stop with it.
struct EngineThread {
    name: String,
    shared: Arc<Shared>,
    bells: Vec<Arc<Bell>>,
}

impl EngineThread {
    /// Runs a thread's loop to its end. If the loop ends by an error or a panic, the whole engine
    /// stops.
    fn run(self, run: impl FnOnce() -> io::Result<()>) {
        IS_ENGINE_THREAD.set(true);
        ENGINE.set(Some(self.shared.clone()));
        let why = match panic::catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{}: polling failed: {error}", self.name)),
            Err(payload) => Some(format!("{} panicked: {}", self.name, message(&*payload))),
        };
        if let Some(why) = why {
            self.fail(&why);
        }
        ENGINE.set(None);
    }

    fn fail(&self, why: &str) {
        self.shared.fail(why);
        self.shared.set_stopped();
        self.bells.iter().for_each(|bell| bell.ring());
        logging::error!("the engine has failed and stops: {why}");
    }
}

/// Returns the text of a panic.
pub(crate) fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it does not say why")
}
