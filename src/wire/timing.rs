//! The times that two rooms rely on, once: what the runtime does, what the simulator imitates and
//! what the protocols wait for.
//!
//! A protocol is right only if these times stand in certain relations to each other. A copy of such
//! a number in a second file is a copy that drifts: the simulator once ran in a world whose
//! connections waited fifteen times longer for an acknowledgement than those of the product. So
//! each of them is defined here, and each relation is an assertion that the compiler checks.
//!
//! | constant | set by | relied on by |
//! |---|---|---|
//! | [`USER_TIMEOUT`] | sockets | simulated network |
//! | [`OPEN_TIMEOUT`] | sockets | simulated network |
//! | [`STUCK_AFTER`] | heartbeats of threads | simulated nodes |
//! | [`HINT_WINDOW`] | coordinator | purge, what a node reports as its debt, checkers |
//! | [`OFFERED_AGAIN_AFTER`] | writes | checkers |
//! | [`PURGE_GRACE`] | purge | runtime and simulator, which configure shards |
//! | [`COMPARE_CYCLE`] | anti-entropy | checkers of the simulator |
//! | [`RELAY_TRIES_FOR`] | relays and forwarded reads | senders between data centers |
//! | [`RELAY_ANSWERS_WITHIN`] | senders between data centers | the shards that relay |
//!
//! What an app can configure, such as the timeout of a call, is in `config` with its default. A
//! time on which only one file relies stays in that file.

use std::time::Duration;

use crate::config::{DEFAULT_PROBE_PERIOD, DEFAULT_REQUEST_TIMEOUT, DEFAULT_SUSPICION_TIMEOUT};

/// How long a connection may take from the dial to the welcome.
///
/// Long enough for a lost SYN to be sent again, and no longer than a call waits by default: a call
/// sees the end of one attempt.
pub(crate) const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

const _: () = assert!(is_longer(OPEN_TIMEOUT, SYN_SENT_AGAIN_AFTER));
const _: () = assert!(!is_longer(OPEN_TIMEOUT, DEFAULT_REQUEST_TIMEOUT));

/// After how long the operating system repeats a SYN that was not answered (RFC 6298, section 2).
const SYN_SENT_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long sent bytes may remain unacknowledged until their connection ends (`TCP_USER_TIMEOUT`).
///
/// Left to itself, the system gives up after about 15 minutes. It waits twice as long after every
/// attempt, so an old connection would not notice for five more seconds that a host which was
/// silent for ten is back. A new connection is tried every second. An old connection therefore gets
/// as long as an attempt at a new one.
pub(crate) const USER_TIMEOUT: Duration = Duration::from_secs(2);

const _: () = assert!(USER_TIMEOUT.as_nanos() == OPEN_TIMEOUT.as_nanos());

/// For how long a thread of a node may be in one pass of its loop until it counts as stuck.
///
/// A pass takes microseconds, and some milliseconds where a thread has to wait for a processor. A
/// call that comes during it waits for longer by default.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(1);

const _: () = assert!(!is_longer(STUCK_AFTER, DEFAULT_REQUEST_TIMEOUT));

/// For how long a coordinator offers an acknowledged write to the replicas that missed it.
///
/// Longer than a restart or a short network partition. What is missed for longer, anti-entropy
/// finds.
pub(crate) const HINT_WINDOW: Duration = Duration::from_secs(30);

const _: () = assert!(is_longer(HINT_WINDOW, DEFAULT_REQUEST_TIMEOUT));

/// How often a write is offered again to a replica that has not answered, though its connection
/// stays.
///
/// Longer than a connection lives that carries nothing: most requests that get lost do so with
/// their connection, and are made again at once.
pub(crate) const OFFERED_AGAIN_AFTER: Duration = Duration::from_secs(5);

const _: () = assert!(is_longer(OFFERED_AGAIN_AFTER, USER_TIMEOUT.saturating_mul(2)));
const _: () = assert!(is_longer(HINT_WINDOW, OFFERED_AGAIN_AFTER.saturating_mul(3)));

/// How old a tombstone must be before its partition's replicas may forget it.
///
/// Twice as long as a write is offered to a replica that missed it: a hint must not bring back what
/// the tombstone deleted.
pub(crate) const PURGE_GRACE: Duration = Duration::from_secs(60);

const _: () = assert!(!is_longer(HINT_WINDOW.saturating_mul(2), PURGE_GRACE));

/// How long anti-entropy takes to compare all partitions once.
///
/// A node that holds all 4096 partitions compares 68 of them in a second: an app does not notice
/// it.
pub(crate) const COMPARE_CYCLE: Duration = Duration::from_secs(60);

/// How long a relay tries to write in its data center, and a forwarded read may take.
pub(crate) const RELAY_TRIES_FOR: Duration = Duration::from_secs(2);

/// How long a data center waits for a relay's answer until it sends the batch to another one.
///
/// A relay that works answers earlier, if only that it could not write.
pub(crate) const RELAY_ANSWERS_WITHIN: Duration = Duration::from_secs(10);

const _: () = assert!(is_longer(RELAY_ANSWERS_WITHIN, RELAY_TRIES_FOR));

/// How long at least a silent host takes to be declared dead, by default: a probe without an
/// answer, then a suspicion that is not refuted.
pub(crate) const SILENCE_NOTICED_AFTER: Duration =
    DEFAULT_PROBE_PERIOD.saturating_add(DEFAULT_SUSPICION_TIMEOUT);

// A call outlives one death: the silent host is probed, suspected and dead before the call ends.
const _: () = assert!(is_longer(
    DEFAULT_REQUEST_TIMEOUT,
    SILENCE_NOTICED_AFTER.saturating_add(DEFAULT_PROBE_PERIOD)
));

// An accused member has nearly two probe periods to refute.
const _: () = assert!(is_longer(DEFAULT_SUSPICION_TIMEOUT, DEFAULT_PROBE_PERIOD));
const _: () =
    assert!(!is_longer(DEFAULT_SUSPICION_TIMEOUT, DEFAULT_PROBE_PERIOD.saturating_mul(2)));

/// Whether `a` is longer than `b`, for assertions about constants.
pub(crate) const fn is_longer(a: Duration, b: Duration) -> bool {
    a.as_nanos() > b.as_nanos()
}
