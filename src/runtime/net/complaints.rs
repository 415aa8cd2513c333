//! How often one complaint is logged: what strangers do, they can do a thousand times a second.

use std::time::Duration;

use crate::clock::Instant;

/// A complaint is logged at most once in this time.
const EVERY: Duration = Duration::from_secs(60);

/// One kind of complaint.
#[derive(Default)]
pub(crate) struct Complaints {
    last: Option<Instant>,
    /// How many were not logged since the last one that was.
    silent: u64,
}

impl Complaints {
    /// Counts one more. If it is to be logged, returns how many before it were not.
    pub(crate) fn add(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now < last + EVERY) {
            self.silent += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_minute_is_logged_and_the_others_are_counted() {
        let start = Instant::from_nanos(1_000_000_000);
        let mut complaints = Complaints::default();
        assert_eq!(complaints.add(start), Some(0));
        assert_eq!(complaints.add(start), None);
        assert_eq!(complaints.add(start + Duration::from_secs(59)), None);
        assert_eq!(complaints.add(start + EVERY), Some(2));
        assert_eq!(complaints.add(start + EVERY * 2), Some(0));
    }
}
