//! The log thread: it alone talks to the app's logger, for the threads of one engine.
//!
//! A logger may block, on a pipe that is not read for example, and the core and control threads
//! must go on. Their lines wait in a bounded queue. What comes while it is full is dropped and
//! counted, and the logger is told the number once it takes lines again.
//!
//! An error is not dropped unless another one of the same thread follows: each thread has a place
//! for its latest error. The last word of a thread that fails is why the engine stops, and the
//! errors that apps get refer to that. It might come to the logger before lines that are older.
//!
//! In a standalone engine, which has no control thread, it also looks whether a core stands still.
//! While the logger holds it up it does not.

#![forbid(unsafe_code)]

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{io, mem};

use log::Level;

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
    /// `None` is no line, and has the thread look at the errors.
    lines: SyncSender<Option<Line>>,
    errors: Arc<LatestErrors>,
    /// Nothing comes here: it ends with the thread.
    end: Receiver<()>,
    thread: JoinHandle<()>,
}

impl LogThread {
    /// Starts the thread. Between lines it calls `look`, which returns after how long to call it
    /// again if no line comes; `None` is when one comes, or a [waker](Self::waker) is called.
    ///
    /// # Errors
    ///
    /// The system's, if it gives no thread.
    pub(crate) fn start(
        &self,
        look: impl FnMut() -> Option<Duration> + Send + 'static,
    ) -> io::Result<()> {
        self.start_with(Line::log, look)
    }

    fn start_with(
        &self,
        talk: impl Fn(&Line) + Send + 'static,
        look: impl FnMut() -> Option<Duration> + Send + 'static,
    ) -> io::Result<()> {
        let (lines, waiting) = sync_channel(LINES);
        let (alive, end) = sync_channel(0);
        let (dropped, errors) = (self.dropped.clone(), Arc::new(LatestErrors::default()));
        let kept = errors.clone();
        let thread = thread::Builder::new().name("gridkv-log".to_owned()).spawn(move || {
            run(&waiting, &kept, &dropped, talk, look);
            drop(alive);
        })?;
        *self.lock() = Some(Running { lines, errors, end, thread });
        Ok(())
    }

    /// Returns an outlet for another thread of the engine. `None` before the start.
    pub(crate) fn outlet(&self) -> Option<Outlet> {
        let running = self.lock();
        let Running { lines, errors, .. } = running.as_ref()?;
        let (lines, errors, dropped) = (lines.clone(), errors.clone(), self.dropped.clone());
        let place = errors.new_place();
        Some(Box::new(move |line| {
            let mut unsaid = match lines.try_send(Some(line)) {
                Ok(()) => None,
                Err(TrySendError::Full(line) | TrySendError::Disconnected(line)) => line,
            };
            if let Some(error) = unsaid.take_if(|line| line.place.level == Level::Error) {
                unsaid = errors.put(place, error);
                // If there is room by now, the thread might have no other line to come for. And if
                // there is none, it has yet to take those that wait, and looks behind each.
                let _ = lines.try_send(None);
            }
            if unsaid.is_some() {
                dropped.fetch_add(1, Ordering::Relaxed);
            }
        }))
    }

    /// Returns what wakes the thread without a line. `None` before the start.
    pub(crate) fn waker(&self) -> Option<impl Fn() + Send + use<>> {
        let lines = self.lock().as_ref()?.lines.clone();
        // If the queue is full, the thread is awake, or waits for the logger.
        Some(move || _ = lines.try_send(None))
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
        let Some(Running { lines, end, thread, .. }) = self.lock().take() else { return };
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

/// The latest error of each thread for which the queue had no room. Its lock is held while a line
/// is moved, and no longer.
#[derive(Default)]
struct LatestErrors(Mutex<Vec<Option<Line>>>);

impl LatestErrors {
    /// Returns the place of another thread.
    fn new_place(&self) -> usize {
        let mut places = self.lock();
        places.push(None);
        places.len() - 1
    }

    /// Keeps an error, and returns the one that it replaces.
    fn put(&self, place: usize, error: Line) -> Option<Line> {
        self.lock().get_mut(place)?.replace(error)
    }

    fn take(&self) -> Vec<Line> {
        self.lock().iter_mut().filter_map(Option::take).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Line>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives lines to the logger until no thread is left that has any.
fn run(
    lines: &Receiver<Option<Line>>,
    errors: &LatestErrors,
    dropped: &AtomicU64,
    talk: impl Fn(&Line),
    mut look: impl FnMut() -> Option<Duration>,
) {
    let (mut told, mut is_over) = (0, false);
    while !is_over {
        let mut wait = None;
        guarded(|| wait = look());
        let line = match wait {
            Some(wait) => lines.recv_timeout(wait),
            None => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        is_over = matches!(line, Err(RecvTimeoutError::Disconnected));
        for line in line.ok().flatten().into_iter().chain(errors.take()) {
            guarded(|| talk(&line));
        }
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use log::Level;

    use super::*;
    use crate::logging::Place;

    fn line(level: Level, text: &str) -> Line {
        let place = Place { level, module: module_path!(), file: file!(), line: line!() };
        Line { place, text: text.to_owned() }
    }

    /// The logger stood still, and its queue was full. Then the engine failed. The one line that
    /// says why, at which all errors of the engine point, was dropped like any other.
    #[test]
    fn why_the_engine_fails_is_said_though_the_queue_is_full() {
        let log = LogThread::default();
        let (open, gate) = mpsc::channel::<()>();
        let (said, texts) = mpsc::channel();
        log.start_with(
            move |line| {
                // It ends when the gate is dropped.
                let _ = gate.recv();
                said.send(line.text.clone()).expect("the test waits for them");
            },
            || None,
        )
        .expect("the system has a thread");
        let outlets = [log.outlet().expect("it runs"), log.outlet().expect("it runs")];
        for _ in 0..2 * LINES {
            outlets[0](line(Level::Info, "something"));
        }
        outlets[0](line(Level::Error, "an error"));
        outlets[0](line(Level::Error, "the engine has failed"));
        outlets[1](line(Level::Error, "an error of another thread"));
        // One line might be with the logger, so that it found room; the first error did not.
        let dropped = log.dropped();
        assert!((LINES as u64..=LINES as u64 + 1).contains(&dropped), "{dropped} were dropped");
        drop((open, outlets));
        log.stop();
        let texts: Vec<String> = texts.iter().collect();
        let count = |text: &str| texts.iter().filter(|it| *it == text).count();
        assert_eq!((count("the engine has failed"), count("an error of another thread")), (1, 1));
        assert_eq!(texts.len() as u64, 2 * LINES as u64 + 3 - dropped);
    }

    /// An error that found no room is not left lying when the queue is empty a moment later.
    #[test]
    fn no_line_waits_while_the_logger_takes_lines() {
        for _ in 0..50 {
            let log = LogThread::default();
            let (said, texts) = mpsc::channel();
            log.start_with(move |line| _ = said.send(line.text.clone()), || None)
                .expect("it has a thread");
            let outlet = log.outlet().expect("it runs");
            for _ in 0..2 * LINES {
                outlet(line(Level::Info, "something"));
            }
            outlet(line(Level::Error, "the engine has failed"));
            let is_last = |text: &String| text == "the engine has failed";
            assert!(texts.iter().any(|text| is_last(&text)), "it came while the thread runs");
            drop(outlet);
            log.stop();
        }
    }
}
