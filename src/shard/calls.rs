//! What an app asks of a core, and what it is answered. The thread that makes a call checks and
//! builds it; from then on it is a message.

use std::any::Any;
use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use super::local_shard::{LocalShard, Returned, drop_quietly};
use crate::clock::{Instant, Version, WallTime};
use crate::entry::{Content, Entry};
use crate::error::{NotApplied, ReadError, RunError, WriteError};
use crate::options::{Quorum, WriteOptions};
use crate::quorums::{Count, Quorums};
use crate::store::{Keys, Store, TablePosition};
use crate::types::{ClusterHash, KeyHash, MAX_KEY_BYTES, MAX_VALUE_BYTES};

/// The end of the calendar for a time to live: the year 10000, in milliseconds since 1970.
const CALENDAR_END_MS: u128 = 253_402_300_800_000;

/// How many calls of groups are begun at once.
pub(super) const OPS_PER_TURN: usize = 256;

/// What an app asks of a core. It is small, because it is moved through a queue: a call with its
/// way back fits into one cache line there.
#[derive(Debug)]
pub(crate) enum Call {
    Write(WriteCall),
    Touch(Box<TouchCall>),
    Read(Box<ReadCall>),
    Keys(Box<KeysCall>),
    Counts,
    /// Writes, touches and reads, answered together.
    Many(Vec<Call>),
    Run(RunCall),
    /// Makes the core panic.
    #[cfg(test)]
    Panic,
}

/// Stores a value under a key, or deletes it.
#[derive(Debug)]
pub(crate) struct WriteCall {
    /// What the key is to be, without a version.
    pub(crate) entry: Entry,
    pub(crate) hash: KeyHash,
    pub(crate) quorum: Count,
    /// Whether it waits for every other replica that is alive, too, for a short time.
    pub(crate) every_live: bool,
    pub(crate) deadline: Instant,
}

/// Gives a key another time to live.
#[derive(Debug)]
pub(crate) struct TouchCall {
    pub(crate) key: Box<[u8]>,
    pub(crate) hash: KeyHash,
    /// `None`: it lives for ever.
    pub(crate) expires_at_ms: Option<NonZeroU64>,
    pub(crate) deadline: Instant,
}

/// Reads the value of a key.
#[derive(Debug)]
pub(crate) struct ReadCall {
    pub(crate) key: Box<[u8]>,
    pub(crate) hash: KeyHash,
    pub(crate) quorum: Count,
    /// Whether only this node's copy is asked.
    pub(crate) local: bool,
    /// Whether other data centers are asked if this one has no value.
    pub(crate) anywhere: bool,
    pub(crate) deadline: Instant,
}

/// A step of a walk over this core's keys: those with this prefix, from a position to the end of a
/// path, exclusive.
#[derive(Debug)]
pub(crate) struct KeysCall {
    pub(crate) prefix: Box<[u8]>,
    pub(crate) from: TablePosition,
    pub(crate) end: Option<u64>,
}

/// What an app's closure does on the core, and what it returns.
pub(crate) type Task = Box<dyn for<'a> FnOnce(&mut LocalShard<'a>) -> Box<dyn Any + Send> + Send>;

/// Runs an app's closure on the core.
pub(crate) struct RunCall {
    pub(crate) run: Task,
    /// After this time the closure is not begun. Its writes wait no longer either.
    pub(crate) deadline: Instant,
}

/// How a call ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Written(Result<(), WriteError>),
    /// Whether there was something to change.
    Touched(Result<bool, WriteError>),
    /// An entry has a value that had not expired.
    Read(Result<Option<Entry>, ReadError>),
    Keys(Box<Keys>),
    Counts(Box<Counts>),
    /// One for each call, in their order.
    Many(Vec<Outcome>),
    /// What the closure returned, once all of its writes are acknowledged.
    Ran(Result<Returned, Box<RunError>>),
}

/// What one core holds and does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Keys that have a value here.
    pub(crate) keys: usize,
    pub(crate) bytes: usize,
    pub(crate) held_bytes: usize,
    pub(crate) synced_partitions: usize,
    pub(crate) pending_partitions: usize,
    pub(crate) giving_partitions: usize,
    /// Calls that have no answer yet.
    pub(crate) calls_in_flight: usize,
    /// Acknowledged writes that some replica has not confirmed yet.
    pub(crate) hinted_writes: usize,
    /// Acknowledged writes that another data center has not confirmed yet, and those that were left
    /// to anti-entropy.
    pub(crate) writes_to_relay: usize,
    pub(crate) writes_not_relayed: u64,
    pub(crate) partitions_repaired: u64,
    pub(crate) redundancy_debt: usize,
}

/// Why an engine stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StoppedBy {
    /// The app asked for it.
    Request,
    /// One of its threads failed.
    Failure,
}

impl From<StoppedBy> for NotApplied {
    fn from(by: StoppedBy) -> Self {
        match by {
            StoppedBy::Request => Self::ShutDown,
            StoppedBy::Failure => Self::EngineFailed,
        }
    }
}

impl From<StoppedBy> for ReadError {
    fn from(by: StoppedBy) -> Self {
        match by {
            StoppedBy::Request => Self::ShutDown,
            StoppedBy::Failure => Self::EngineFailed,
        }
    }
}

impl Call {
    /// How many operations the call counts as in the turn that takes it: no more than are begun at
    /// once.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Many(calls) => calls.len().clamp(1, OPS_PER_TURN),
            // It can take long: the calls behind it should see how late it is by then.
            Self::Run(_) => OPS_PER_TURN,
            _ => 1,
        }
    }

    /// Whether the caller waits no longer.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        match self {
            Self::Write(call) => call.deadline <= now,
            Self::Touch(call) => call.deadline <= now,
            Self::Read(call) => call.deadline <= now,
            Self::Run(call) => call.deadline <= now,
            // Each call of a group has a deadline of its own.
            Self::Many(_) | Self::Keys(_) | Self::Counts => false,
            #[cfg(test)]
            Self::Panic => false,
        }
    }

    /// Returns the answer of a call that came too late to be begun.
    pub(crate) fn overdue(self) -> Outcome {
        self.refuse(&NotApplied::Overloaded, &ReadError::Overloaded)
    }

    /// Returns the answer of a call that was not begun when the engine stopped.
    pub(crate) fn stopped(self, by: StoppedBy) -> Outcome {
        self.refuse(&by.into(), &by.into())
    }

    fn refuse(self, write: &NotApplied, read: &ReadError) -> Outcome {
        match self {
            Self::Write(_) => Outcome::Written(Err(write.clone().into())),
            Self::Touch(_) => Outcome::Touched(Err(write.clone().into())),
            Self::Read(_) | Self::Keys(_) | Self::Counts => Outcome::Read(Err(read.clone())),
            #[cfg(test)]
            Self::Panic => Outcome::Read(Err(read.clone())),
            Self::Many(calls) => {
                Outcome::Many(calls.into_iter().map(|call| call.refuse(write, read)).collect())
            }
            Self::Run(call) => {
                // What the app's closure owns may panic when it is dropped.
                drop_quietly(call.run);
                Outcome::Ran(Err(Box::new(write.clone().into())))
            }
        }
    }
}

impl fmt::Debug for RunCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunCall").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// What a write is checked against before it becomes a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteRules {
    pub(crate) cluster: ClusterHash,
    pub(crate) quorums: Quorums,
    /// Whether a write that names no quorum waits for every replica that is alive.
    pub(crate) every_live: bool,
    /// Each core's share of the memory limit, in bytes.
    pub(crate) memory: Option<usize>,
}

impl WriteCall {
    /// Checks a write. `wall` is asked for only where the value is to expire.
    pub(crate) fn new(
        rules: &WriteRules,
        key: &[u8],
        content: Content<'_>,
        options: &WriteOptions,
        deadline: Instant,
        wall: impl FnOnce() -> WallTime,
    ) -> Result<Self, NotApplied> {
        check_lengths(key, content)?;
        let expires_at_ms = options.ttl.map(|ttl| expires_at_ms(ttl, wall())).transpose()?;
        Self::of(
            rules,
            Entry::new(key, content, Version::ZERO, expires_at_ms),
            options.quorum,
            deadline,
        )
    }

    /// Makes the call of an entry whose lengths have been checked.
    pub(crate) fn of(
        rules: &WriteRules,
        entry: Entry,
        quorum: Quorum,
        deadline: Instant,
    ) -> Result<Self, NotApplied> {
        let WriteRules { cluster, quorums, memory, .. } = *rules;
        let every_live = quorums.waits_for_every_live(quorum, rules.every_live);
        let quorum = quorums.of_write(quorum).map_err(|asked| {
            let Quorums { replicas, write, .. } = quorums;
            NotApplied::BadQuorum { asked, write_quorum: write, replicas }
        })?;
        if let Some(share) = memory {
            Store::check_size(&entry, share)
                .map_err(|(bytes, share)| NotApplied::EntryTooLarge { bytes, share })?;
        }
        let hash = KeyHash::of(cluster, entry.key());
        Ok(Self { entry, hash, quorum, every_live, deadline })
    }
}

/// Whether a key and what it is to be are short enough to be stored.
pub(crate) fn check_lengths(key: &[u8], content: Content<'_>) -> Result<(), NotApplied> {
    match content {
        Content::Value(value) if value.len() > MAX_VALUE_BYTES => {
            Err(NotApplied::ValueTooLong { length: value.len() })
        }
        _ if key.len() > MAX_KEY_BYTES => Err(NotApplied::KeyTooLong { length: key.len() }),
        _ => Ok(()),
    }
}

/// When a value ends that lives for `ttl` from `wall` on, in milliseconds of wall time.
pub(crate) fn expires_at_ms(ttl: Duration, wall: WallTime) -> Result<NonZeroU64, NotApplied> {
    let at_ms = u128::from(wall.millis()) + ttl.as_millis();
    let is_kept = ttl >= Duration::from_millis(1) && at_ms < CALENDAR_END_MS;
    NonZeroU64::new(at_ms as u64).filter(|_| is_kept).ok_or(NotApplied::BadTtl { ttl })
}
