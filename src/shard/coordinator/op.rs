//! [`Op`]: one operation under way, and [`Ops`], the table of them.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;

use super::hints::Hints;
use crate::clock::{Instant, Version};
use crate::entry::Entry;
use crate::error::{NotApplied, ReadError, WriteError};
use crate::placement::List;
use crate::replication::quorum::QuorumMachine;
use crate::replication::read::Read;
use crate::replication::write::Write;
use crate::shard::caller::{Caller, OpId};
use crate::shard::calls::Outcome;
use crate::shard::timers::Timer;
use crate::shard::turn::Turn;
use crate::types::{KeyHash, Partition};

/// A read or a write of one key with a quorum.
pub(super) struct Op<C> {
    pub(super) partition: Partition,
    pub(super) hash: KeyHash,
    /// `None` once the caller was answered: from then on a write is a hint.
    pub(super) caller: Option<Caller<C>>,
    /// The list that it counts in.
    pub(super) list: Option<Arc<List>>,
    pub(super) machine: Machine,
    /// What it reads is to be written with another expiry.
    pub(super) touch: Option<Touch>,
    pub(super) requests: Vec<u64>,
    /// The write of the same key that this node stamped before this one.
    pub(super) supersedes: Option<OpId>,
    /// Until when the caller waits. Then, of a write, the end of its hint window.
    pub(super) deadline: Instant,
    pub(super) locate_at: Instant,
    /// How often it has asked for the list.
    pub(super) located: u8,
}

/// The state machine of an operation.
pub(super) enum Machine {
    Write(Write),
    Read(Read),
}

impl Machine {
    pub(super) fn as_mut(&mut self) -> &mut dyn QuorumMachine {
        match self {
            Self::Write(write) => write,
            Self::Read(read) => read,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Write(write) => write.deadline(),
            Self::Read(read) => read.deadline(),
        }
    }
}

/// When a key is to expire; `None` for never.
#[derive(Clone, Copy)]
pub(super) struct Touch(pub(super) Option<NonZeroU64>);

impl Touch {
    /// Returns a key as it should be with this expiry, if that changes anything. Merging prefers it
    /// to what was read, and what was stamped above that to both (`replication/write` says why).
    pub(super) fn retime(self, held: &Entry) -> Option<Entry> {
        let Self(expires_at_ms) = self;
        let before = held.expires_at_ms();
        if before.is_none() && expires_at_ms.is_none() {
            return None;
        }
        let end = |at_ms: Option<NonZeroU64>| at_ms.map_or(u64::MAX, NonZeroU64::get);
        let version = if end(expires_at_ms) >= end(before) {
            held.version()
        } else {
            held.version().shortened()
        };
        Some(held.copy(version, expires_at_ms))
    }
}

/// An operation that begins.
pub(super) struct Begin<C> {
    pub(super) hash: KeyHash,
    pub(super) machine: Machine,
    pub(super) touch: Option<Touch>,
    pub(super) deadline: Instant,
    pub(super) caller: Caller<C>,
}

impl<C> Op<C> {
    /// How much memory a hint takes for the replicas that lack the write.
    pub(super) fn bytes(&self) -> usize {
        match &self.machine {
            Machine::Write(write) => write.entry().bytes(),
            Machine::Read(_) => 0,
        }
    }

    pub(super) fn is_hint(&self) -> bool {
        self.caller.is_none()
    }

    /// When its timer fires next.
    pub(super) fn due(&self) -> Instant {
        let locate = self.caller.is_some().then_some(self.locate_at);
        self.machine.deadline().into_iter().chain(locate).fold(self.deadline, Instant::min)
    }
}

/// Returns how a write ended, or the write of a touch.
pub(super) fn written(touch: Option<Touch>, result: Result<(), WriteError>) -> Outcome {
    match touch {
        Some(_) => Outcome::Touched(result.map(|()| true)),
        None => Outcome::Written(result),
    }
}

/// Returns how a read ended without an answer, or that of a touch, which then has written nothing.
pub(super) fn unread(touch: Option<Touch>, read: ReadError, write: NotApplied) -> Outcome {
    match touch {
        Some(_) => Outcome::Touched(Err(write.into())),
        None => Outcome::Read(Err(read)),
    }
}

/// Returns the error of a write that was not acknowledged.
pub(super) fn write_error(write: &Write) -> WriteError {
    if write.may_have_happened() {
        WriteError::Indeterminate { acked: write.acked(), needed: write.needed() }
    } else if let [(_, max_memory), ..] = write.stopped_by() {
        NotApplied::OutOfMemory { max_memory: *max_memory as usize }.into()
    } else {
        WriteError::NotApplied(NotApplied::Unavailable)
    }
}

/// Every operation under way on this core.
pub(super) struct Ops<C> {
    by_id: BTreeMap<OpId, Op<C>>,
    of_partition: BTreeSet<(Partition, OpId)>,
    /// The latest write of each key that this node stamped and some replica lacks.
    latest_writes: BTreeMap<KeyHash, OpId>,
    pub(super) hints: Hints,
}

impl<C> Ops<C> {
    pub(super) fn new() -> Self {
        Self {
            by_id: BTreeMap::new(),
            of_partition: BTreeSet::new(),
            latest_writes: BTreeMap::new(),
            hints: Hints::default(),
        }
    }

    /// Notes an operation that begins. It is [put](Self::put) into the table when its first step is
    /// done.
    pub(super) fn add(&mut self, id: OpId, partition: Partition) {
        self.of_partition.insert((partition, id));
    }

    pub(super) fn get(&self, id: OpId) -> Option<&Op<C>> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: OpId) -> Option<&mut Op<C>> {
        self.by_id.get_mut(&id)
    }

    /// Takes an operation out of the table, to work on it and [put](Self::put) it back or
    /// [end](Self::end) it.
    pub(super) fn take(&mut self, id: OpId) -> Option<Op<C>> {
        self.by_id.remove(&id)
    }

    pub(super) fn put(&mut self, id: OpId, op: Op<C>) {
        self.by_id.insert(id, op);
    }

    /// Takes out all operations, in their order.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Op<C>> + use<C> {
        std::mem::take(&mut self.by_id).into_values()
    }

    pub(super) fn ids(&self) -> Vec<OpId> {
        self.by_id.keys().copied().collect()
    }

    pub(super) fn ids_of(&self, partition: Partition) -> Vec<OpId> {
        let of_partition = (partition, OpId(0))..=(partition, OpId(u64::MAX));
        self.of_partition.range(of_partition).map(|&(_, id)| id).collect()
    }

    pub(super) fn contains(&self, id: OpId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// How many operations have a caller that waits.
    pub(super) fn with_caller(&self) -> usize {
        self.by_id.values().filter(|op| op.caller.is_some()).count()
    }

    /// Makes `id` the latest write of the key, and returns the one before it.
    pub(super) fn set_latest_write(&mut self, hash: KeyHash, id: OpId) -> Option<OpId> {
        self.latest_writes.insert(hash, id)
    }

    /// A write that every replica has is the key's latest: no operation is.
    pub(super) fn take_latest_write(&mut self, hash: KeyHash) -> Option<OpId> {
        self.latest_writes.remove(&hash)
    }

    /// Notes that this write is no longer its key's latest, and returns what the next one is to be
    /// stamped above.
    pub(super) fn supersede(&mut self, id: Option<OpId>) -> Version {
        match id.and_then(|id| self.by_id.get_mut(&id)).map(|op| &mut op.machine) {
            Some(Machine::Write(write)) => write.superseded(),
            _ => Version::ZERO,
        }
    }

    /// Returns this node's own latest acknowledged write of a key, while some replica lacks it.
    pub(super) fn own_write(&self, hash: KeyHash) -> Option<&Write> {
        let mut latest = *self.latest_writes.get(&hash)?;
        loop {
            let op = self.by_id.get(&latest)?;
            match &op.machine {
                Machine::Write(write) if op.is_hint() => return Some(write),
                _ => latest = op.supersedes?,
            }
        }
    }

    /// Returns the hints for replicas that are alive.
    pub(super) fn owed(&self) -> impl Iterator<Item = &Op<C>> {
        let hints = self.hints.iter().filter_map(|id| self.get(id));
        hints.filter(|op| matches!(&op.machine, Machine::Write(write) if !write.is_everywhere()))
    }

    /// Ends an operation that was taken out of the table.
    pub(super) fn end(&mut self, turn: &mut Turn<'_, C>, id: OpId, mut op: Op<C>) {
        turn.requests.forget(&mut op.requests);
        self.of_partition.remove(&(op.partition, id));
        self.hints.remove(id, op.bytes());
        turn.timers.stop(Timer::Op(id));
        // The write that it superseded might still be a hint.
        let before = op.supersedes.filter(|before| self.contains(*before));
        if self.latest_writes.get(&op.hash) == Some(&id) {
            match before {
                Some(before) => self.latest_writes.insert(op.hash, before),
                None => self.latest_writes.remove(&op.hash),
            };
        } else if before.is_some() {
            for other in self.ids_of(op.partition) {
                if let Some(next) = self.get_mut(other).filter(|next| next.supersedes == Some(id)) {
                    next.supersedes = before;
                }
            }
        }
    }
}
