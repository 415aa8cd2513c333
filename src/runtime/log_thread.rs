//! The log thread: it alone talks to the app's logger, for the threads of one engine.
//!
//! A logger may block, on a pipe that is not read for example, and the core and control threads
//! must go on. Their lines wait in a bounded queue. What comes while it is full is dropped and
//! counted, and the logger is told the number once it takes lines again.

#![forbid(unsafe_code)]

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{io, mem};

use crate::logging::{self, Line, Outlet};

/// How many lines wait for the logger at most: more than an engine says in a minute of trouble.
const LINES: usize = 1024;

/// How long an engine that stops waits for the logger to take its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// An engine's end of its log thread.
#[derive(Default)]
pub(crate) struct LogThread {
    running: Mutex<Option<Running>>,
    dropped: Arc<AtomicU64>,
}

struct Running {
    lines: SyncSender<Line>,
    /// Nothing comes here: it ends with the thread.
    end: Receiver<()>,
    thread: JoinHandle<()>,
}

impl LogThread {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The system's, if it gives no thread.
    pub(crate) fn start(&self) -> io::Result<()> {
        let (lines, waiting) = sync_channel(LINES);
        let (alive, end) = sync_channel(0);
        let dropped = self.dropped.clone();
        let thread = thread::Builder::new().name("gridkv-log".to_owned()).spawn(move || {
            run(&waiting, &dropped);
            drop(alive);
        })?;
        *self.lock() = Some(Running { lines, end, thread });
        Ok(())
    }

    /// Returns an outlet for another thread of the engine. `None` before the start.
    pub(crate) fn outlet(&self) -> Option<Outlet> {
        let lines = self.lock().as_ref()?.lines.clone();
        let dropped = self.dropped.clone();
        Some(Box::new(move |line| {
            if lines.try_send(line).is_err() {
                dropped.fetch_add(1, Ordering::Relaxed);
            }
        }))
    }

    /// How many lines found no room, since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Lets the logger have the last lines, and joins the thread. All other threads have ended.
    ///
    /// If the logger still takes none after a second, the thread is left to itself. It ends when
    /// the logger lets it.
    pub(crate) fn stop(&self) {
        let Some(Running { lines, end, thread }) = self.lock().take() else { return };
        drop(lines);
        // It is disconnected when the thread has let go of it, and else the time is up.
        if end.recv_timeout(LAST_LINES) == Err(RecvTimeoutError::Disconnected) {
            let _ = thread.join();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives lines to the logger until no thread is left that has any.
fn run(lines: &Receiver<Line>, dropped: &AtomicU64) {
    let mut told = 0;
    while let Ok(line) = lines.recv() {
        guarded(|| line.log());
        let now = dropped.load(Ordering::Relaxed);
        let new = now - mem::replace(&mut told, now);
        if new > 0 {
            guarded(|| {
                logging::warn!("{new} lines of the log were dropped: the logger did not take them");
            });
        }
    }
}

/// Talks to the logger. One that panics loses its line, and nothing else.
fn guarded(talk: impl FnOnce()) {
    let _ = panic::catch_unwind(AssertUnwindSafe(talk));
}
