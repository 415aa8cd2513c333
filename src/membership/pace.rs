//! How often something may happen.

use std::time::Duration;

use crate::clock::Instant;

/// A limit on how often something may happen, and how often at once (a leaky bucket).
#[derive(Debug)]
pub(super) struct Pace {
    per_second: u32,
    at_once: u32,
    /// When as many as there were would have come one by one.
    empty_at: Instant,
}

impl Pace {
    pub(super) const fn new(per_second: u32, at_once: u32) -> Self {
        Self { per_second, at_once, empty_at: Instant::from_nanos(0) }
    }

    /// Whether it may happen once more, which then counts.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        let each = Duration::from_secs(1) / self.per_second;
        let next = self.empty_at.max(now) + each;
        let is_admitted = next.since(now) <= each * self.at_once;
        if is_admitted {
            self.empty_at = next;
        }
        is_admitted
    }
}
