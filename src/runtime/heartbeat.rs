//! Whether a thread of the engine stands still in the middle of its work.
//!
//! A core may be held up by an app's closure, or get no processor, while the control thread answers
//! probes: the others would take a node for well that answers no request. So each thread counts its
//! passes ([`Heartbeat`]), and another one looks at the count ([`Watch`]). A thread that sleeps or
//! looks for work is in no pass, and is never taken for stuck.
//!
//! The control thread watches the cores. While one is stuck it answers no probe and sends none, as
//! if the whole process stood still: the others go on without this node, and it returns. The first
//! core watches the control thread, of which the others hear by themselves.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Instant;
use crate::sync::Padded;
use crate::wire::timing::STUCK_AFTER;

/// How often a thread that is in a pass is looked at again.
const LOOKS_EVERY: Duration = Duration::from_millis(200);

/// After how long without a look nothing is said of the others: the thread that looks was held up
/// itself, as all are while a process is stopped.
const HELD_UP_AFTER: Duration = Duration::from_millis(600);

/// How many passes a thread has begun and ended: it is odd in a pass. Only the thread itself
/// counts.
#[derive(Default)]
pub(crate) struct Heartbeat(Padded<AtomicU64>);

impl Heartbeat {
    /// Counts the beginning of a pass, or its end.
    pub(super) fn count(&self) {
        let Self(Padded(count)) = self;
        count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.0.load(Ordering::Relaxed)
    }
}

/// The heartbeats of an engine's threads.
pub(crate) struct Heartbeats {
    pub(super) cores: Box<[Heartbeat]>,
    pub(super) control: [Heartbeat; 1],
}

impl Heartbeats {
    pub(super) fn new(cores: usize) -> Self {
        let cores = (0..cores).map(|_| Heartbeat::default()).collect();
        Self { cores, control: Default::default() }
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

/// What one thread knows of the heartbeats of others.
pub(super) struct Watch {
    watched: Vec<Watched>,
    looked_at: Instant,
}

#[derive(Clone, Copy)]
struct Watched {
    count: u64,
    /// When the count was first seen.
    since: Instant,
    is_stuck: bool,
}

impl Watch {
    pub(super) fn new(threads: usize, now: Instant) -> Self {
        let new = Watched { count: 0, since: now, is_stuck: false };
        Self { watched: vec![new; threads], looked_at: now }
    }

    /// Looks at the heartbeats, if it is time. Returns what is new of each thread, by its place.
    pub(super) fn look(&mut self, now: Instant, beats: &[Heartbeat]) -> Vec<(usize, Noticed)> {
        let passed = now.since(self.looked_at);
        if passed < LOOKS_EVERY {
            return Vec::new();
        }
        self.looked_at = now;
        let was_held_up = passed > HELD_UP_AFTER;
        let mut noticed = Vec::new();
        for (place, (watched, beat)) in self.watched.iter_mut().zip(beats).enumerate() {
            let count = beat.read();
            let stood_for = now.since(watched.since);
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
        noticed
    }

    /// Whether one of them is stuck.
    pub(super) fn any_is_stuck(&self) -> bool {
        self.watched.iter().any(|watched| watched.is_stuck)
    }

    /// When to look again: never while all of them were idle.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let is_working = |watched: &Watched| !watched.count.is_multiple_of(2);
        self.watched.iter().any(is_working).then(|| self.looked_at + LOOKS_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    struct Bench {
        now: Instant,
        beats: [Heartbeat; 2],
        watch: Watch,
    }

    impl Bench {
        fn new() -> Self {
            let now = Instant::default();
            Self { now, beats: Default::default(), watch: Watch::new(2, now) }
        }

        /// Looks every 200 ms for `time`.
        fn watch_for(&mut self, time: Duration) -> Vec<(usize, Noticed)> {
            let mut noticed = Vec::new();
            for _ in 0..time.as_millis() / LOOKS_EVERY.as_millis() {
                noticed.extend(self.look_after(LOOKS_EVERY));
            }
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
        bench.beats[1].count();
        assert_eq!(bench.watch_for(1000 * MS), []);
        assert_eq!(bench.watch_for(400 * MS), [(1, Noticed::IsStuck)]);
        assert!(bench.watch.any_is_stuck());
        assert_eq!(bench.watch_for(60_000 * MS), [], "it is said once");
        bench.beats[1].count();
        let noticed = bench.watch_for(200 * MS);
        assert!(matches!(noticed[..], [(1, Noticed::GoesOn { after })] if after > 60_000 * MS));
        assert!(!bench.watch.any_is_stuck());
        assert_eq!(bench.watch.deadline(), None);
    }

    #[test]
    fn neither_idle_nor_busy_threads_are_stuck() {
        let mut bench = Bench::new();
        for _ in 0..60 {
            bench.beats[1].count();
            assert_eq!(bench.watch_for(200 * MS), []);
        }
        bench.beats[1].count();
        bench.watch_for(200 * MS);
        assert!(bench.watch.deadline().is_some(), "it was in a pass");
    }

    #[test]
    fn a_watch_that_was_held_up_itself_says_nothing() {
        let mut bench = Bench::new();
        bench.beats[0].count();
        for _ in 0..20 {
            assert_eq!(bench.look_after(700 * MS), []);
        }
        assert_eq!(bench.watch_for(1200 * MS), [(0, Noticed::IsStuck)]);
    }
}
