//! How long a thread looks for what it waits for before it sleeps.
//!
//! **A caller** looks for as long as waking would take if both ends slept. A longer look loses more
//! than sleeping costs; after a shorter one it would sleep while its answer is on its way. A core
//! that expects answers from the network does the same. Neither learns from how long it waited: two
//! threads that sleep make each other wait so much that neither would look again.
//!
//! **A core that waits for nothing in particular** learns. If a message comes within the longest
//! spin, a spin would have met it awake, so the next spin is twice as long. If it comes later, it
//! was not worth looking for, and the next spin is half as long. So a core with little to do costs
//! the processor time of its wakes, and a busy core never sleeps. (Adaptive mutexes learn in
//! similar ways.)
//!
//! A thread that spins keeps a processor from the thread that is to do the work. So cores spin only
//! if they leave a processor of the process to others. Only as many callers spin at a time as there
//! are processors without a core, and all of them yield as they go. On a crowded machine a spin is
//! little more than a queue for the processor.

use std::collections::BTreeSet;
use std::hint;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::affinity;
use super::clock::Clock;
use crate::clock::Instant;
use crate::options::IdleStrategy;

/// How many looks a thread takes before it asks the clock, and yields: some microseconds, in which
/// a core that is awake has answered.
pub(crate) const LOOKS: u32 = 64;

/// A core that never sleeps looks more often than can be counted: the tests begin near the end of
/// the numbers.
const FIRST_LOOK: u32 = if cfg!(test) { u32::MAX - 10 } else { 0 };

/// A spin never gets shorter than the longest one divided by this, so that it can grow again.
const SHORTEST: u32 = 16;

/// How many core threads all engines of this process have.
static CORES: AtomicUsize = AtomicUsize::new(0);

/// How many callers spin now.
static CALLERS: AtomicUsize = AtomicUsize::new(0);

/// Counts one core thread for as long as it runs.
pub(crate) struct CoreCount(());

impl CoreCount {
    pub(crate) fn new() -> Self {
        CORES.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for CoreCount {
    fn drop(&mut self) {
        CORES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts one caller that spins for as long as it does.
pub(crate) struct SpinningCaller(());

impl SpinningCaller {
    /// Begins to spin. `None` if there are as many callers already as there are processors for
    /// them.
    pub(crate) fn new() -> Option<Self> {
        let this = Self(());
        let others = CALLERS.fetch_add(1, Ordering::Relaxed);
        (others < spare_processors()).then_some(this)
    }
}

impl Drop for SpinningCaller {
    fn drop(&mut self) {
        CALLERS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many processors the engines of this process and their callers have been seen to use.
static PROCESSORS: AtomicUsize = AtomicUsize::new(1);

/// Records the processors that an engine is started from, and those that its cores were pinned to.
///
/// One thread alone does not tell: the app may have pinned it.
pub(crate) fn note_processors(pinned: &[usize]) {
    static SEEN: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());
    let here = affinity::allowed_here();
    let parallelism = thread::available_parallelism().map_or(1, usize::from);
    // Fewer than the processors: the time of this process is limited as a whole.
    let most = if parallelism < here.len() { parallelism } else { usize::MAX };
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    seen.extend(here.iter().chain(pinned));
    PROCESSORS.store(seen.len().max(parallelism).min(most), Ordering::Relaxed);
}

/// Returns how many processors this process has besides those that its cores may keep busy.
pub(crate) fn spare_processors() -> usize {
    PROCESSORS.load(Ordering::Relaxed).saturating_sub(CORES.load(Ordering::Relaxed))
}

/// Returns how long callers spin at most under a strategy.
pub(crate) fn longest_caller_spin(strategy: IdleStrategy) -> Duration {
    match strategy {
        IdleStrategy::Park => Duration::ZERO,
        IdleStrategy::Adaptive { max_spin } => max_spin,
        IdleStrategy::Busy => IdleStrategy::DEFAULT_SPIN,
    }
}

/// How long one core spins, as it has learnt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    longest: Duration,
    next: Duration,
}

impl Patience {
    pub(crate) const fn new(longest: Duration) -> Self {
        Self { longest, next: longest }
    }

    /// Returns how long to spin this time.
    pub(crate) fn spin(&self, expects_answers: bool) -> Duration {
        if expects_answers { self.longest } else { self.next }
    }

    /// Learns from how long the last message was waited for.
    pub(crate) fn learn(&mut self, waited: Duration) {
        self.next = if waited < self.longest {
            (self.next * 2).min(self.longest)
        } else {
            (self.next / 2).max(self.longest / SHORTEST)
        };
    }
}

/// Pauses between two looks: lets the other hardware thread run, and now and then other threads.
pub(crate) fn pause(looks: u32) {
    if looks.is_multiple_of(LOOKS) {
        thread::yield_now();
    } else {
        hint::spin_loop();
    }
}

/// Looks until there is something or the time is up: `often` at what costs little to look at,
/// `seldom` at what costs more. Returns whether something was found.
///
/// # Errors
///
/// Those of `seldom`.
pub(crate) fn look(
    clock: &Clock,
    until: Option<Instant>,
    mut often: impl FnMut() -> bool,
    mut seldom: impl FnMut() -> io::Result<bool>,
) -> io::Result<bool> {
    let mut looks = FIRST_LOOK;
    loop {
        looks = looks.wrapping_add(1);
        if often() {
            return Ok(true);
        }
        if looks.is_multiple_of(LOOKS) {
            if seldom()? {
                return Ok(true);
            }
            if until.is_some_and(|until| clock.instant() >= until) {
                return Ok(false);
            }
        }
        pause(looks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spin_that_pays_grows_and_one_that_does_not_shrinks() {
        let longest = Duration::from_micros(64);
        let mut patience = Patience::new(longest);
        assert_eq!(patience.spin(false), longest);
        (0..20).for_each(|_| patience.learn(longest));
        assert_eq!(patience.spin(false), Duration::from_micros(4));
        patience.learn(Duration::from_micros(63));
        assert_eq!(patience.spin(false), Duration::from_micros(8));
        (0..20).for_each(|_| patience.learn(Duration::ZERO));
        assert_eq!(patience.spin(false), longest);
    }

    #[test]
    fn who_must_not_spin_never_does() {
        let mut patience = Patience::new(Duration::ZERO);
        patience.learn(Duration::ZERO);
        assert_eq!(patience.spin(false), Duration::ZERO);
    }

    #[test]
    fn looks_are_counted_beyond_the_end_of_the_numbers() {
        let mut left = 1000;
        let often = || {
            left -= 1;
            left == 0
        };
        assert!(look(&Clock::start(), None, often, || Ok(false)).unwrap());
    }
}
