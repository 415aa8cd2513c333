//! How much goes at a time, and how long what is waited for.

use std::time::Duration;

/// How long a write waits for others to go with it.
pub(super) const LINGER: Duration = Duration::from_millis(2);

/// How many writes one batch has at most. Its bytes are limited as a chunk's are.
pub(super) const MAX_WRITES: usize = 512;

/// How many batches are on their way to one core of a relay if all are full, and at most. A batch
/// that is not full follows one that takes long.
pub(super) const MAX_OPEN: usize = 4;
pub(super) const MAX_SLOW: usize = 12;

/// How many batches of partitions that go apart are on their way to one data center. Each takes a
/// relay's time, and most come to nothing.
pub(super) const MAX_APART_OPEN: usize = 8;

/// How many batches that were given up are remembered for an answer that comes late: some 400 kB
/// for each data center, if all are full of small writes.
pub(super) const MAX_LATE: usize = 32;

/// How small batches get while they come to nothing, apart from large values. A way of 20 kbit/s
/// takes such a batch in four seconds, before its connection counts as silent.
pub(super) const MIN_BATCH_BYTES: usize = 8 << 10;

/// The pause after a batch that came to nothing. It doubles each time, up to [`MAX_PAUSE`].
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// The pause after a helper was too busy: it has passed on most of what it had by then.
pub(super) const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// After how many answers in a row that a helper is busy, one a pause, another one is asked: after
/// a second. Most helpers have time before that, and are known to reach the relay.
pub(super) const BUSY_TRIES: u32 = 5;

/// The longest pause: how long a data center that is back might wait for its writes.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(2);

/// After how many batches in a row that came to nothing a helper is tried.
pub(super) const DIRECT_TRIES: u32 = 3;

/// How long a helper is used before it is tried again whether the data center can be reached
/// without one. That takes some seconds if it cannot, in which writes wait.
pub(super) const HELPED_FOR: Duration = Duration::from_secs(600);
