//! Whether a thread of the engine stands still in the middle of its work.
//!
//! A core may be held up by an app's closure, or get no processor, while the control thread answers
//! probes: the others would take a node for well that answers no request. So each thread counts its
//! passes ([`Heartbeat`]), and another one looks at the count ([`Watch`]). A thread that sleeps or
//! looks for work is in no pass, and is never taken for stuck.
//!
//! | watched | by | what follows |
//! |---|---|---|
//! | cores | the control thread | it tells the app, and does nothing else |
//! | cores of a standalone engine | the log thread | it tells the app |
//! | the control thread | the first core | a line in the log; others hear of it by themselves |
//!
//! As the control thread then does nothing else, the others go on without this node, and it
//! returns, as if the whole process had stood still.
//!
//! An engine in which nothing happens wakes no thread. So the thread that looks sleeps, too, once
//! nothing has passed between two looks, and says so in the [`Beats`] at which it looks. A thread
//! that begins a pass wakes it again. The watch looks once more after it has said so: by then it
//! sees the count of any thread that might not have seen it. To look is no pass: threads that look
//! at each other would never sleep.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Instant;
use crate::events::Event;
use crate::sync::Padded;
use crate::wire::timing::STUCK_AFTER;

/// How often the cores are looked at, and the control thread, while they have something to do. Of
/// the latter, which wakes for each datagram, only the log is told: the first core sleeps on.
pub(super) const LOOKS_AT_CORES_EVERY: Duration = Duration::from_millis(200);
pub(super) const LOOKS_AT_CONTROL_EVERY: Duration = STUCK_AFTER;

/// If a look comes late by this factor, nothing is said of the others: the thread that looks was
/// held up itself, as all are while a process is stopped.
const HELD_UP_FACTOR: u32 = 3;

/// How many passes a thread has begun and ended: it is odd in a pass. Only the thread itself
/// counts.
#[derive(Default)]
pub(crate) struct Heartbeat(Padded<AtomicU64>);

impl Heartbeat {
    /// Counts the beginning of a pass, or its end.
    fn count(&self) {
        let Self(Padded(count)) = self;
        count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.0.load(Ordering::Relaxed)
    }
}

/// The heartbeats of some threads, and whether another one looks at them.
pub(crate) struct Beats {
    of: Box<[Heartbeat]>,
    /// `false` while the thread that looks sleeps, until it is told to look.
    is_watched: Padded<AtomicBool>,
}

impl Beats {
    fn new(threads: usize) -> Self {
        let of = (0..threads).map(|_| Heartbeat::default()).collect();
        Self { of, is_watched: Padded(AtomicBool::new(false)) }
    }

    /// Counts the beginning of a pass. Returns whether the thread that looks is to be woken.
    pub(super) fn begin(&self, thread: usize) -> bool {
        self.of[thread].count();
        let Padded(is_watched) = &self.is_watched;
        !is_watched.load(Ordering::Relaxed) && !is_watched.swap(true, Ordering::Relaxed)
    }

    /// Counts the end of a pass.
    pub(super) fn end(&self, thread: usize) {
        self.of[thread].count();
    }

    fn is_watched(&self) -> bool {
        self.is_watched.0.load(Ordering::Relaxed)
    }

    fn leave_unwatched(&self) {
        self.is_watched.0.store(false, Ordering::Relaxed);
    }
}

/// The heartbeats of an engine's threads.
pub(crate) struct Heartbeats {
    pub(super) cores: Beats,
    pub(super) control: Beats,
}

impl Heartbeats {
    pub(super) fn new(cores: usize) -> Self {
        Self { cores: Beats::new(cores), control: Beats::new(1) }
    }
}

/// What a watched thread has done since it was looked at last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noticed {
    /// It has been in one pass for a second.
    IsStuck,
    /// It was stuck for that long, and goes on.
    GoesOn { after: Duration },
}

impl Noticed {
    /// Returns what the app is told if the thread is a core.
    pub(super) fn of_core(self, core: usize) -> Event {
        match self {
            Self::IsStuck => Event::CoreStuck { core },
            Self::GoesOn { after } => Event::CoreGoesOn { core, after },
        }
    }
}

/// What one thread knows of the heartbeats of others.
pub(super) struct Watch {
    watched: Vec<Watched>,
    looks_every: Duration,
    looked_at: Instant,
    rest: Rest,
}

#[derive(Clone, Copy)]
struct Watched {
    count: u64,
    /// When the count was first seen.
    since: Instant,
    is_stuck: bool,
}

/// How near to sleep a watch is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Threads are in passes, or were.
    Looks,
    /// It has said that it no longer looks, and will look once more.
    LooksOnce,
    Sleeps,
}

impl Watch {
    pub(super) fn new(beats: &Beats, looks_every: Duration, now: Instant) -> Self {
        let new = Watched { count: 0, since: now, is_stuck: false };
        let watched = vec![new; beats.of.len()];
        Self { watched, looks_every, looked_at: now, rest: Rest::Sleeps }
    }

    /// Looks at the heartbeats, if it is time. Returns what is new of each thread, by its place.
    pub(super) fn look(&mut self, now: Instant, beats: &Beats) -> Vec<(usize, Noticed)> {
        let passed = now.since(self.looked_at);
        let is_woken = self.is_woken(beats);
        if !is_woken && (self.rest == Rest::Sleeps || passed < self.looks_every) {
            return Vec::new();
        }
        self.looked_at = now;
        let was_held_up = passed > self.looks_every * HELD_UP_FACTOR;
        let (mut noticed, mut is_quiet) = (Vec::new(), true);
        for (place, (watched, beat)) in self.watched.iter_mut().zip(&beats.of).enumerate() {
            let count = beat.read();
            let stood_for = now.since(watched.since);
            is_quiet &= count == watched.count && count.is_multiple_of(2);
            if count != watched.count {
                if watched.is_stuck {
                    noticed.push((place, Noticed::GoesOn { after: stood_for }));
                }
                *watched = Watched { count, since: now, is_stuck: false };
            } else if watched.is_stuck || count.is_multiple_of(2) {
                // Nothing is new.
            } else if was_held_up {
                watched.since = now;
            } else if stood_for >= STUCK_AFTER {
                watched.is_stuck = true;
                noticed.push((place, Noticed::IsStuck));
            }
        }
        self.rest = match self.rest {
            Rest::Looks if is_quiet && !is_woken => {
                beats.leave_unwatched();
                Rest::LooksOnce
            }
            Rest::LooksOnce if is_quiet && !beats.is_watched() => Rest::Sleeps,
            _ => Rest::Looks,
        };
        noticed
    }

    /// Whether it sleeps and is to look again.
    pub(super) fn is_woken(&self, beats: &Beats) -> bool {
        self.rest == Rest::Sleeps && beats.is_watched()
    }

    /// Whether one of them is stuck.
    pub(super) fn any_is_stuck(&self) -> bool {
        self.watched.iter().any(|watched| watched.is_stuck)
    }

    /// When to look again: not before it is woken, if nothing has passed.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.rest != Rest::Sleeps).then(|| self.looked_at + self.looks_every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    struct Bench {
        now: Instant,
        beats: Beats,
        watch: Watch,
        /// How often the watch was told to look.
        wakes: usize,
    }

    impl Bench {
        fn new() -> Self {
            let (now, beats) = (Instant::default(), Beats::new(2));
            let watch = Watch::new(&beats, LOOKS_AT_CORES_EVERY, now);
            Self { now, beats, watch, wakes: 0 }
        }

        fn begin(&mut self, thread: usize) {
            if self.beats.begin(thread) {
                self.wakes += 1;
                assert_eq!(self.watch.look(self.now, &self.beats), []);
            }
        }

        /// Looks when the watch wants to, for `time`.
        fn watch_for(&mut self, time: Duration) -> Vec<(usize, Noticed)> {
            let (until, mut noticed) = (self.now + time, Vec::new());
            while let Some(at) = self.watch.deadline().filter(|at| *at <= until) {
                self.now = at;
                noticed.extend(self.watch.look(at, &self.beats));
            }
            self.now = until;
            noticed
        }

        fn look_after(&mut self, time: Duration) -> Vec<(usize, Noticed)> {
            self.now = self.now + time;
            self.watch.look(self.now, &self.beats)
        }
    }

    #[test]
    fn a_thread_that_stays_in_one_pass_is_stuck_until_it_goes_on() {
        let mut bench = Bench::new();
        // However long nothing happened before.
        bench.now = bench.now + 60_000 * MS;
        bench.begin(1);
        assert_eq!(bench.watch_for(900 * MS), []);
        assert_eq!(bench.watch_for(400 * MS), [(1, Noticed::IsStuck)]);
        assert!(bench.watch.any_is_stuck());
        assert_eq!(bench.watch_for(60_000 * MS), [], "it is said once");
        bench.beats.end(1);
        let noticed = bench.watch_for(200 * MS);
        assert!(matches!(noticed[..], [(1, Noticed::GoesOn { after })] if after > 60_000 * MS));
        assert!(!bench.watch.any_is_stuck());
        assert_eq!(bench.watch_for(1000 * MS), []);
        assert_eq!(bench.watch.deadline(), None);
        assert_eq!(bench.wakes, 1);
    }

    #[test]
    fn neither_idle_nor_busy_threads_are_stuck() {
        let mut bench = Bench::new();
        for _ in 0..60 {
            bench.begin(1);
            bench.beats.end(1);
            assert_eq!(bench.watch_for(200 * MS), []);
        }
        assert_eq!(bench.wakes, 1, "it looks on by itself");
        bench.watch_for(600 * MS);
        assert_eq!(bench.watch.deadline(), None);
    }

    /// A pass that begins at any time, before or after the watch has said that it no longer looks.
    #[test]
    fn no_pass_is_overlooked_whenever_it_begins() {
        for wait in 0..12 {
            let mut bench = Bench::new();
            bench.begin(0);
            bench.beats.end(0);
            bench.watch_for(wait * 73 * MS);
            bench.begin(1);
            assert_eq!(bench.watch_for(1400 * MS), [(1, Noticed::IsStuck)], "{wait}");
        }
    }

    #[test]
    fn a_watch_that_was_held_up_itself_says_nothing() {
        let mut bench = Bench::new();
        bench.begin(0);
        for _ in 0..20 {
            assert_eq!(bench.look_after(700 * MS), []);
        }
        assert_eq!(bench.watch_for(1200 * MS), [(0, Noticed::IsStuck)]);
    }
}
