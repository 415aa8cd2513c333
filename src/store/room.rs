//! The memory limit: whether there is room for an entry, and what is evicted to make some.
//!
//! ```text
//! limit ──▶ 7/8 live data: entries, index, timers, eviction queue
//!       └─▶ 1/8 what readers hold up, calls under way, the allocator's gaps
//! ```
//!
//! An eviction is the writer's own decision about one copy: other replicas may still have the
//! value. So each partition keeps its *eviction watermark*, the highest version that it evicted. A
//! key that is missing here may have existed at any version up to it, and a reader of several
//! replicas must not take the miss for the newest state. A tombstone is never evicted, or a delete
//! could be undone.

use super::sieve::{Line, Verdict};
use super::table::Change;
use super::wheel::TimerId;
use super::{Admission, Deletes, Queued, Share, Store, charge};
use crate::clock::Version;
use crate::entry::Entry;
use crate::types::{KeyHash, Partition};

/// How many bytes readers may hold up if there is no memory limit.
const MAX_HELD_BYTES: usize = 64 << 20;

/// More than an empty store takes, so that an entry of the largest size fits into a store with
/// nothing in it.
const BASE_BYTES: usize = 64 << 10;

/// The part of a memory limit, one in eight, that is not for live data: it is kept for what readers
/// hold up, for calls under way, and for the gaps between allocations of different sizes.
pub(super) const HELD_SHARE: usize = 8;

/// How many lines of the eviction queue one call looks at, so that no turn is long.
pub(super) const EVICT_STEPS: usize = 256;

impl Store {
    /// Makes room for an entry, stamped or not, as far as one turn allows.
    ///
    /// What readers hold up counts against the limit too: the entry that is replaced stays in
    /// memory until no reader looks at it any more.
    pub(crate) fn make_room(&mut self, hash: KeyHash, entry: &Entry) -> Admission {
        let Some(memory) = self.config.memory else {
            let is_delete = entry.value().is_none();
            return if is_delete {
                Admission::Enough
            } else {
                self.make_readers_room(0, MAX_HELD_BYTES)
            };
        };
        let is_stamped = entry.version() != Version::ZERO;
        if is_stamped && self.get(hash, entry.key()).is_some_and(|held| !entry.wins_over(&held)) {
            // It will not be stored.
            return Admission::Enough;
        }
        let is_forgotten = self.config.deletes == Deletes::Forget && entry.value().is_none();
        let needed = if is_forgotten { 0 } else { charge::entry(entry) };
        let mut steps = EVICT_STEPS;
        loop {
            if let Some(admission) = self.room_as_it_is(hash, entry, needed, memory) {
                return admission;
            }
            // What nothing evicts leaves no room: the values need not go before that is found.
            let is_hopeless = self.totals.bytes - self.totals.value_bytes + needed > memory;
            if is_hopeless || !self.evict(&mut steps) {
                self.tidy();
                let goes_on = steps == 0 && !is_hopeless && self.queue.is_some();
                return if goes_on { Admission::Later } else { Admission::OutOfMemory };
            }
        }
    }

    /// Whether there is room for an entry that needs this many bytes, zero if it leaves nothing.
    /// `None` if something must be evicted first.
    fn room_as_it_is(
        &mut self,
        hash: KeyHash,
        entry: &Entry,
        needed: usize,
        memory: usize,
    ) -> Option<Admission> {
        // Looked up each time: it may have been evicted.
        let held = self.get(hash, entry.key());
        let freed = held.as_deref().map_or(0, charge::entry);
        // What it replaces stays in memory too until no reader looks any more.
        let added = match held.as_deref() {
            Some(held) if needed > 0 => charge::beside(entry, held),
            _ => needed,
        };
        // This gives memory back, and does so once: it is never refused for what readers hold up.
        let is_gain = needed == 0
            || entry.value().is_none()
                && held.as_deref().is_some_and(|held| held.value().is_some());
        if needed > freed && self.used() + needed > memory - memory / HELD_SHARE + freed {
            return None;
        }
        match self.make_readers_room(self.used() + added, memory) {
            Admission::HeldByReaders if is_gain => Some(Admission::Enough),
            // Not the readers' fault alone.
            Admission::HeldByReaders if self.used() + added > memory => None,
            admission => Some(admission),
        }
    }

    /// Frees memory until what is used and what readers hold up are no more than `limit` together.
    fn make_readers_room(&mut self, used: usize, limit: usize) -> Admission {
        let held = self.table.retired_bytes();
        if used + held <= limit {
            return Admission::Enough;
        }
        self.collect();
        match self.table.retired_bytes() {
            left if used + left <= limit => Admission::Enough,
            left if left < held || self.table.is_freeing_paused() => Admission::Later,
            _ => Admission::HeldByReaders,
        }
    }

    /// Checks that an entry fits into a store with this much memory. The error says what the entry
    /// is charged, and the most that such a store has for one.
    pub(crate) fn check_size(entry: &Entry, memory: usize) -> Result<(), (usize, usize)> {
        let (bytes, limit) = (charge::entry(entry), memory - memory / HELD_SHARE - BASE_BYTES);
        if bytes > limit { Err((bytes, limit)) } else { Ok(()) }
    }

    /// Evicts one value: the next in the queue that no reader has seen since the hand came by last.
    /// Crafted keys, which the queue does not find, go first. Returns `false` if none was evicted
    /// in the steps that are left.
    pub(super) fn evict(&mut self, steps: &mut usize) -> bool {
        if self.queue.is_none() || *steps == 0 {
            return false;
        }
        self.evict_crafted(steps) || self.evict_queued(steps)
    }

    fn evict_crafted(&mut self, steps: &mut usize) -> bool {
        let Some((hash, entry)) = self.table.evict_from_tree() else { return false };
        *steps -= 1;
        self.timers.remove(TimerId(entry.timer()));
        self.count(hash.partition(), Some(Share::of(hash, &entry)), None);
        self.raise_eviction_watermark(hash.partition(), entry.version());
        true
    }

    fn evict_queued(&mut self, steps: &mut usize) -> bool {
        let Self { table, timers, queue: Some(queue), config, .. } = self else { return false };
        let sequence = self.sequence + 1;
        let mut evicted = None;
        let cluster = config.cluster;
        let mut judge = |line: Line| {
            let hash = KeyHash(line.hash_bits());
            let decide = |_, held: Option<&Entry>| match held {
                None => (Change::Keep, Verdict::Stale),
                Some(entry) if entry.take_visited() => (Change::Keep, Verdict::Keep),
                Some(entry) => {
                    let hash = KeyHash::of(cluster, entry.key());
                    timers.remove(TimerId(entry.timer()));
                    evicted = Some((hash.partition(), Share::of(hash, entry), entry.version()));
                    (Change::Remove, Verdict::Evict)
                }
            };
            table.update(hash, Queued { line, cluster }, sequence, decide)
        };
        // A round over keys that were all visited evicts none, and the next one does.
        let _ = queue.hand(&mut judge, steps) || queue.hand(&mut judge, steps);
        let Some((partition, share, version)) = evicted else { return false };
        self.count(partition, Some(share), None);
        self.raise_eviction_watermark(partition, version);
        true
    }

    /// Notes that an entry found no room, and returns how many bytes are missing here now.
    ///
    /// If the store evicts, the entry is as good as evicted, and no byte is missing. If it does
    /// not, the copy is incomplete until the entry comes again.
    pub(crate) fn decline(&mut self, partition: Partition, entry: &Entry) -> usize {
        if self.queue.is_some() {
            self.raise_eviction_watermark(partition, entry.version());
            0
        } else {
            charge::entry(entry)
        }
    }

    /// Returns for how many more bytes of live data there is room; `None` if there is no limit.
    pub(crate) fn room(&self) -> Option<usize> {
        let memory = self.config.memory?;
        Some((memory - memory / HELD_SHARE).saturating_sub(self.used()))
    }

    /// Evicts this value, if the key still has it.
    pub(crate) fn evict_value(&mut self, hash: KeyHash, value: Entry) {
        let (version, sequence) = (value.version(), self.sequence + 1);
        let timers = &mut self.timers;
        let share = self.table.update(hash, value, sequence, |value, held| match held {
            Some(held) if held.value().is_some() && held.version() == value.version() => {
                timers.remove(TimerId(held.timer()));
                (Change::Remove, Some(Share::of(hash, held)))
            }
            _ => (Change::Keep, None),
        });
        if share.is_some() {
            self.count(hash.partition(), share, None);
            self.raise_eviction_watermark(hash.partition(), version);
            self.tidy();
        }
    }

    /// Notes that a value of this version was evicted from the partition.
    fn raise_eviction_watermark(&mut self, partition: Partition, version: Version) {
        let at = self.index(partition);
        let contents = &mut self.partitions[at];
        contents.eviction_watermark = contents.eviction_watermark.max(version);
        self.note_gap(partition);
    }

    /// Notes that other replicas may hold something of the partition that this copy takes for
    /// evicted.
    pub(crate) fn note_gap(&mut self, partition: Partition) {
        let at = self.index(partition);
        self.gaps += 1;
        self.partitions[at].last_gap = self.gaps;
    }
}
