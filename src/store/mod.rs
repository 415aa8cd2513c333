//! One shard's data: what its core owns, readable from any thread.
//!
//! - [`table`]: the index, with one writer and lock-free readers;
//! - [`reclaim`]: when the writer may free what readers could still look at;
//! - [`wheel`]: which key expires when;
//! - [`sieve`]: which key goes first when memory is full;
//! - [`charge`]: what memory is charged for.
//!
//! [`Store`] joins them: it merges entries, keeps a digest and a sequence for each partition, and accounts for
//! every byte. Only the owning core has it. Everybody else has a [`View`], where [`Pinned::get`] looks at a
//! key without a message, without waiting and without being waited for.
//!
//! # Figures
//!
//! As `benches/` printed them on a virtual machine of two processors (Sapphire Rapids, Rust 1.95), for keys of 20
//! bytes and values of 100 through `Engine::read`; medians of five pairs, the quartiles within 3 % unless said.
//!
//! | what | figure | measured |
//! |---|---|---|
//! | 10 k keys, beside unsynchronised hashbrown | ≤ 1.5 | **1.76**; 1.13 where each read waits for the one before |
//! | … beside dashmap, papaya, scc, quick_cache, moka | < 1 | **1.04**, 0.86, 0.69, 0.54, 0.06 |
//! | keys with a time to live, beside those without | ≤ 1.2 | **1.87** |
//! | 1 M keys, beside hashbrown | ≤ 1.15 | **1.25** |
//! | … beside dashmap, papaya, scc, quick_cache, moka | < 1 | 0.98, 0.57, 0.69, 0.42, 0.08 |
//! | `get_many` of 32, 1 M keys, beside hashbrown that copies too | ≤ 0.5 | **0.52** (0.50–0.54) |
//! | two readers, beside one | ≥ 1.9 | 2.1 (hashbrown 2.0) |
//! | p99.9 of reads beside writes | ≤ 1 µs | 0.6 µs; half of dashmap's |
//! | bytes a key beyond key and value, resident, at the worst of nine sizes | ≤ 64 | **66.4** (59.5 at the best; hashbrown 96 and 64) |
//! | resident set under a limit of 512 MiB and churn | ≤ 1.2 | 1.15; at 64 MiB up to **1.46**, the arenas of eight threads |
//!
//! What is in the way of the bold ones. *Reads that overlap*: a read is 200 instructions where hashbrown's is
//! 100, and the processor has fewer of them under way at a time; leaving out the pin, or the second look at the
//! partition's state, changes nothing that can be measured, while each instruction that waits for a cache line
//! does. *Time to live*: the system's coarse clock, by way of libc, is most of a short read. *Memory*: 24 bytes of
//! header, 16 of the allocator's rounding at these lengths, 16 to 22 of slots, the rest the engine's own.

mod charge;
mod reclaim;
mod sieve;
mod table;
mod wheel;

use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::sync::Arc;

#[cfg(gridkv_loom)]
pub(crate) use reclaim::Reader;
pub(crate) use reclaim::{HeavyFence, Readers};
pub(crate) use table::{Local, Pinned, TablePosition, View, Views};

use self::sieve::{Line, Sieve, Verdict};
use self::table::{Change, Sought, Table};
use self::wheel::{TimerId, Wheel};
use crate::clock::{Version, WallTime};
use crate::entry::{Entry, EntryRef};
use crate::options::Eviction;
use crate::simulated::{Planted, is_planted};
use crate::types::{ClusterHash, CoreId, Cores, KeyHash, PARTITIONS, Partition};

/// What a store is told when it is made.
#[derive(Clone, Debug)]
pub(crate) struct StoreConfig {
    pub(crate) cluster: ClusterHash,
    pub(crate) core: CoreId,
    pub(crate) cores: Cores,
    pub(crate) deletes: Deletes,
    /// How many bytes it may take, with what readers hold up.
    pub(crate) memory: Option<usize>,
    pub(crate) eviction: Eviction,
}

/// The entries of the partitions that one core owns.
pub(crate) struct Store {
    config: StoreConfig,
    table: Table,
    partitions: Vec<Contents>,
    timers: Wheel,
    /// Where something may be evicted.
    queue: Option<Sieve>,
    totals: Totals,
    /// Counts every change.
    sequence: u64,
    /// Of the last key that came into the eviction queue.
    generation: u8,
    /// What it takes with nothing in it.
    empty: usize,
    /// So many bytes may be retired until somebody tries to free them.
    collect_at: usize,
}

/// What a deleted or expired key leaves behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Deletes {
    /// A tombstone or husk, so that no replica that missed it brings the value back.
    Keep,
    /// Nothing: there is no other replica.
    Forget,
}

/// One partition's, as a whole.
#[derive(Clone, Copy, Default)]
struct Contents {
    entries: usize,
    /// How many of them have a value.
    keys: usize,
    /// The number of its last change on this node.
    sequence: u64,
    /// The sum of [`Entry::digest`] over all entries, in whatever order they came.
    digest: u64,
    /// Something may be elsewhere that is not here, for want of room.
    has_gaps: bool,
    /// The highest version that was evicted, or as good as.
    eviction_watermark: Version,
}

#[derive(Clone, Copy, Default)]
struct Totals {
    /// Keys that have a value.
    keys: usize,
    /// What the entries are charged, and how much of that is for values, which may be evicted.
    bytes: usize,
    value_bytes: usize,
}

/// What one entry counts for.
#[derive(Clone, Copy)]
struct Share {
    digest: u64,
    keys: usize,
    bytes: usize,
}

/// What became of an entry that was offered to the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Applied {
    /// It is stored, now or already.
    Stored,
    /// A newer state of the key, of this version, is there.
    Superseded(Version),
}

/// Whether there is room for an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    Enough,
    /// Some was made, and more takes more turns.
    Later,
    /// None, and none can be made.
    OutOfMemory,
    /// None until readers let go of what they hold.
    HeldByReaders,
}

/// Some keys, in the order of positions.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) keys: Vec<Box<[u8]>>,
    /// Where to go on; `None` after the last.
    pub(crate) next: Option<TablePosition>,
}

/// Some entries of a partition, in the order of their hashes.
pub(crate) struct Part {
    pub(crate) entries: Vec<Entry>,
    /// Where to go on; `None` after the last.
    pub(crate) next: Option<KeyHash>,
}

/// Retired bytes are tried to be freed by so many at a time: a try may interrupt every processor, which takes some
/// ten microseconds on a virtual machine.
const COLLECT_BYTES: usize = 256 << 10;

/// How many pieces one try frees at the most.
const COLLECT_PIECES: usize = COLLECT_BYTES / 32;

/// How many bytes readers may hold up where there is no memory limit.
const MAX_HELD_BYTES: usize = 64 << 20;

/// More than an empty store takes.
const BASE_BYTES: usize = 64 << 10;

/// One so-manieth of a memory limit is not for live data: it is kept for what readers hold up, for calls under
/// way, and for the gaps between allocations of different sizes.
const HELD_SHARE: usize = 8;

/// How many lines of the eviction queue one call looks at, so that no turn is long.
const EVICT_STEPS: usize = 256;

impl Store {
    pub(crate) fn new(config: StoreConfig, readers: Arc<Readers>) -> Self {
        let owned = PARTITIONS.div_ceil(config.cores.count());
        let evicts = config.memory.is_some() && config.eviction == Eviction::Sieve;
        let mut store = Self {
            table: Table::new(config.cluster, config.core, config.cores, readers),
            partitions: vec![Contents::default(); usize::from(owned)],
            timers: Wheel::new(),
            queue: evicts.then(Sieve::default),
            totals: Totals::default(),
            sequence: 0,
            generation: 0,
            collect_at: COLLECT_BYTES,
            empty: 0,
            config,
        };
        store.empty = store.used();
        store
    }

    /// What other threads read from.
    pub(crate) fn view(&self) -> &Arc<View> {
        self.table.view()
    }

    /// Says whether this node answers for a partition: from then on readers do, or do not, answer from here.
    pub(crate) fn serve(&mut self, partition: Partition, serves: bool) {
        self.table.serve(partition, serves);
    }

    pub(crate) fn get(&self, hash: KeyHash, key: &[u8]) -> Option<EntryRef<'_>> {
        self.table.get(hash, key)
    }

    /// Merges `entry`, whose key has this hash: whichever of it and what is stored wins, stays.
    pub(crate) fn apply(&mut self, hash: KeyHash, entry: Entry) -> Applied {
        self.merge(hash, entry, |_, _| {})
    }

    /// Brings closer what writing this key begins with.
    #[inline]
    pub(crate) fn prefetch(&self, hash: KeyHash) {
        self.table.prefetch(hash);
    }

    /// Writes `entry`, which wins: `stamp` gives it a version above the one that the key has, if any.
    pub(crate) fn write(&mut self, hash: KeyHash, entry: Entry, stamp: impl FnOnce(Version) -> Version) {
        self.merge(hash, entry, |entry, held| entry.stamp(stamp(held.map_or(Version::ZERO, Entry::version))));
    }

    #[inline]
    fn merge(
        &mut self,
        hash: KeyHash,
        entry: Entry,
        prepare: impl FnOnce(&mut Entry, Option<&Entry>),
    ) -> Applied {
        let Self { table, timers, queue, generation, config, .. } = self;
        let forget = config.deletes == Deletes::Forget && entry.value().is_none();
        let sequence = self.sequence + 1;
        let (applied, old, new) = table.update(hash, entry, sequence, |mut entry, held| {
            prepare(&mut entry, held);
            if let Some(held) = held {
                if held.wins_over(&entry) {
                    return (Change::Keep, (Applied::Superseded(held.version()), None, None));
                }
                if !entry.wins_over(held) {
                    return (Change::Keep, (Applied::Stored, None, None));
                }
                if forget {
                    timers.remove(TimerId(held.timer()));
                }
            }
            let old = held.map(|held| Share::of(hash, held));
            if forget {
                return (Change::Remove, (Applied::Stored, old, None));
            }
            if entry.value().is_some() || is_planted(Planted::TombstonesEvicted) {
                enter_queue(queue.as_mut(), generation, hash, held, &entry);
            }
            set_timer(timers, hash, held, &entry);
            let new = Share::of(hash, &entry);
            (Change::Put(entry), (Applied::Stored, old, Some(new)))
        });
        for (hash, generation) in table.left_tree() {
            if let Some(queue) = queue {
                queue.push(hash.0, generation);
            }
        }
        if old.is_some() || new.is_some() {
            self.count(hash.partition(), old, new);
        }
        self.tidy();
        applied
    }

    /// Counts a change.
    fn count(&mut self, partition: Partition, old: Option<Share>, new: Option<Share>) {
        self.sequence += 1;
        let at = self.index(partition);
        let (contents, totals) = (&mut self.partitions[at], &mut self.totals);
        contents.sequence = self.sequence;
        if let Some(new) = new {
            contents.entries += 1;
            contents.keys += new.keys;
            contents.digest = contents.digest.wrapping_add(new.digest);
            totals.add(new);
        }
        if let Some(old) = old {
            contents.entries -= 1;
            contents.keys -= old.keys;
            contents.digest = contents.digest.wrapping_sub(old.digest);
            totals.remove(old);
        }
    }

    /// Frees what has piled up, and the eviction queue's lines of keys that are gone.
    fn tidy(&mut self) {
        let held = self.table.retired_bytes();
        // Over the limit, as a segment's split is not foreseen, it does not wait for more.
        let is_over = held > 0 && self.config.memory.is_some_and(|memory| self.used() + held > memory);
        if held >= self.collect_at || is_over {
            self.collect();
        }
        if let Some(queue) = &mut self.queue
            && queue.len() > 2 * self.totals.keys + 1024
        {
            let (table, cluster) = (&self.table, self.config.cluster);
            queue.compact(|line| !table.has(KeyHash(line.hash_bits()), &Queued { line, cluster }), 4);
        }
    }

    /// Frees what no reader holds any more.
    pub(crate) fn collect(&mut self) {
        self.table.collect(COLLECT_PIECES);
        self.collect_at = self.table.retired_bytes() + COLLECT_BYTES;
    }

    /// Whether anything waits to be freed.
    pub(crate) fn has_garbage(&self) -> bool {
        self.table.retired_bytes() > 0
    }

    /// Makes room for an entry, stamped or not, as far as one turn allows.
    pub(crate) fn make_room(&mut self, hash: KeyHash, entry: &Entry) -> Admission {
        let Some(memory) = self.config.memory else {
            let is_delete = entry.value().is_none();
            return if is_delete { Admission::Enough } else { self.make_readers_room(0, MAX_HELD_BYTES) };
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
            // Looked at anew each time: it may have been evicted.
            let held = self.get(hash, entry.key());
            let freed = held.as_deref().map_or(0, charge::entry);
            // What it replaces stays beside it until no reader looks any more.
            let beside = match held.as_deref() {
                Some(held) if !is_forgotten => charge::beside(entry, held),
                _ => needed,
            };
            // This gives memory back, and does so once: it is never refused for what readers hold up.
            let is_gain = is_forgotten
                || entry.value().is_none() && held.as_deref().is_some_and(|held| held.value().is_some());
            if needed <= freed || self.used() + needed <= memory - memory / HELD_SHARE + freed {
                match self.make_readers_room(self.used() + beside, memory) {
                    Admission::HeldByReaders if is_gain => return Admission::Enough,
                    // Not their fault alone.
                    Admission::HeldByReaders if self.used() + beside > memory => {}
                    room => return room,
                }
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

    /// Sees to it that what is used, and what readers hold up, are no more than `most`.
    fn make_readers_room(&mut self, used: usize, most: usize) -> Admission {
        let held = self.table.retired_bytes();
        if used + held <= most {
            return Admission::Enough;
        }
        self.collect();
        match self.table.retired_bytes() {
            left if used + left <= most => Admission::Enough,
            left if left < held => Admission::Later,
            _ => Admission::HeldByReaders,
        }
    }

    /// What an entry is charged, and the most that a store with this much memory has for one.
    pub(crate) fn check_size(entry: &Entry, memory: usize) -> Result<(), (usize, usize)> {
        let (bytes, most) = (charge::entry(entry), memory - memory / HELD_SHARE - BASE_BYTES);
        if bytes > most { Err((bytes, most)) } else { Ok(()) }
    }

    /// Evicts one value, the next in the queue that nobody has read since it was looked at last. Crafted keys,
    /// which the queue does not find, go first.
    fn evict(&mut self, steps: &mut usize) -> bool {
        let Self { table, timers, queue: Some(queue), config, .. } = self else { return false };
        if *steps == 0 {
            return false;
        }
        let sequence = self.sequence + 1;
        if let Some((hash, entry)) = table.evict_from_tree() {
            *steps -= 1;
            timers.remove(TimerId(entry.timer()));
            let share = Share::of(hash, &entry);
            self.count(hash.partition(), Some(share), None);
            self.raise_eviction_watermark(hash.partition(), entry.version());
            return true;
        }
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
        match evicted {
            Some((partition, share, version)) => {
                self.count(partition, Some(share), None);
                self.raise_eviction_watermark(partition, version);
                true
            }
            None => false,
        }
    }

    /// Frees the values of up to `limit` keys that have expired. Returns how many were looked at.
    pub(crate) fn expire(&mut self, wall: WallTime, limit: usize) -> usize {
        let mut budget = limit;
        while let Some(due) = self.timers.pop_due(wall.millis(), &mut budget) {
            let hash = KeyHash(due.hash);
            let forget = self.config.deletes == Deletes::Forget;
            let decide = |_, held: Option<&Entry>| match held {
                None => (Change::Keep, None),
                Some(entry) if forget => (Change::Remove, Some((Share::of(hash, entry), None))),
                Some(entry) => {
                    let husk = entry.husk();
                    let shares = (Share::of(hash, entry), Some(Share::of(hash, &husk)));
                    (Change::Put(husk), Some(shares))
                }
            };
            // A husk says what the value said: no replica needs it again, so it keeps the old sequence.
            let shares = self.table.update(hash, due.id, 0, decide);
            if let Some((old, new)) = shares {
                let at = self.index(hash.partition());
                let sequence = self.partitions[at].sequence;
                self.count(hash.partition(), Some(old), new);
                self.partitions[at].sequence = sequence;
            }
        }
        self.tidy();
        limit - budget
    }

    /// No key expires before this, in milliseconds of wall time.
    pub(crate) fn next_expiry_ms(&self) -> Option<u64> {
        self.timers.next_due_ms()
    }

    /// Entries of `partition` behind `after` in the order of hashes that changed after `since` of its
    /// sequence, and perhaps some that did not, until `limit_bytes` are reached. Keys of one hash are never
    /// torn apart.
    pub(crate) fn part(
        &self,
        partition: Partition,
        after: Option<KeyHash>,
        since: u64,
        limit_bytes: usize,
    ) -> Part {
        let since = self.table.grain(since);
        let wanted = |sequence, entry: &Entry| (sequence >= since).then(|| charge::entry(entry));
        let mut entries = Vec::new();
        let next =
            self.scan(partition, after, limit_bytes, wanted, |_, entry| entries.push(Entry::clone(entry)));
        Part { entries, next }
    }

    /// Keys without a value behind `after` in the order of hashes, each with the version of what took it, until
    /// there are `limit`; and where to go on.
    pub(crate) fn dead(
        &self,
        partition: Partition,
        after: Option<KeyHash>,
        limit: usize,
    ) -> (Vec<(KeyHash, Version)>, Option<KeyHash>) {
        let wanted = |_, entry: &Entry| entry.value().is_none().then_some(1);
        let mut dead = Vec::new();
        let next =
            self.scan(partition, after, limit, wanted, |hash, entry| dead.push((hash, entry.version())));
        (dead, next)
    }

    /// Whether there are keys without a value.
    pub(crate) fn has_dead(&self, partition: Partition) -> bool {
        let Contents { entries, keys, .. } = self.partitions[self.index(partition)];
        entries > keys
    }

    /// Whether a key of this hash is here in a state older than one without a value of this version.
    pub(crate) fn has_older(&self, hash: KeyHash, version: Version) -> bool {
        self.table.holds(hash, &Older(Buried { hash, version, cluster: self.config.cluster }))
    }

    /// Drops a key of this hash that has no value and this version.
    pub(crate) fn purge(&mut self, hash: KeyHash, version: Version) {
        let sought = Buried { hash, version, cluster: self.config.cluster };
        let share = self.table.update(hash, sought, 0, |_, held| match held {
            None => (Change::Keep, None),
            Some(entry) => (Change::Remove, Some(Share::of(hash, entry))),
        });
        if share.is_some() {
            // Nobody needs to hear of it who does not hold it.
            let at = self.index(hash.partition());
            let sequence = self.partitions[at].sequence;
            self.count(hash.partition(), share, None);
            self.partitions[at].sequence = sequence;
            self.tidy();
        }
    }

    /// Shows the entries of `partition` behind `after` that are wanted, in the order of hashes, until what they
    /// weigh reaches `limit`; keys of one hash are never torn apart. Returns where to go on.
    fn scan(
        &self,
        partition: Partition,
        after: Option<KeyHash>,
        limit: usize,
        wanted: impl Fn(u64, &Entry) -> Option<usize>,
        mut show: impl FnMut(KeyHash, &Entry),
    ) -> Option<KeyHash> {
        let (start, end) = self.table.paths(partition);
        let mut last = after;
        let mut shown = 0;
        let mut path = Some(after.map_or(start, |after| self.table.path(after)));
        while let Some(at) = path.filter(|at| end.is_none_or(|end| *at < end)) {
            let mut found = Vec::new();
            let mut from_tree = (0, None);
            path = self.table.walk(&TablePosition::first(at), |_, hash, sequence, entry, in_tree| {
                let is_behind = after.is_none_or(|after| hash > after);
                let weight = wanted(sequence, &entry).filter(|_| hash.partition() == partition && is_behind);
                let Some(weight) = weight else { return ControlFlow::Continue(()) };
                let is_beyond = in_tree && from_tree.0 >= limit && from_tree.1 != Some(hash);
                if in_tree {
                    from_tree = (from_tree.0 + weight, Some(hash));
                }
                found.push((hash, entry, weight));
                // One more than fits says below that there is more.
                if is_beyond { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            found.sort_unstable_by(|(a, one, _), (b, other, _)| (a, one.key()).cmp(&(b, other.key())));
            for (hash, entry, weight) in found {
                if shown >= limit && last != Some(hash) {
                    return last;
                }
                shown += weight;
                last = Some(hash);
                show(hash, &entry);
            }
        }
        None
    }

    /// Keys that have a value, from a position on to before the path `end`, in the order of positions, until `limit`
    /// were looked at. Returns them with the position to go on from.
    pub(crate) fn keys(&self, from: &TablePosition, end: Option<u64>, wall: WallTime, limit: usize) -> Keys {
        let mut found = Vec::new();
        let mut from_tree = 0;
        let next = self.table.walk(from, |path, _, _, entry, in_tree| {
            if from.is_at_or_before(path, entry.key()) && end.is_none_or(|end| path < end) {
                found.push((path, entry));
            }
            from_tree += usize::from(in_tree);
            // One more than fits: that is where the next call goes on.
            if from_tree > limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        found.sort_unstable_by(|(a, one), (b, other)| (a, one.key()).cmp(&(b, other.key())));
        let next = match found.get(limit) {
            Some((path, entry)) => Some(TablePosition::new(*path, entry.key())),
            None => next.filter(|next| end.is_none_or(|end| *next < end)).map(TablePosition::first),
        };
        found.truncate(limit);
        let live = found.into_iter().filter(|(_, entry)| entry.live_value(wall).is_some());
        Keys { keys: live.map(|(_, entry)| entry.key().into()).collect(), next }
    }

    pub(crate) fn drop_partition(&mut self, partition: Partition) {
        let Self { table, timers, totals, .. } = self;
        table.clear(partition, |hash, entry| {
            timers.remove(TimerId(entry.timer()));
            totals.remove(Share::of(hash, entry));
        });
        self.sequence += 1;
        let at = self.index(partition);
        self.partitions[at] = Contents { sequence: self.sequence, ..Contents::default() };
        self.tidy();
    }

    /// Equal for equal contents, whatever the order in which they came.
    pub(crate) fn digest(&self, partition: Partition) -> u64 {
        self.partitions[self.index(partition)].digest
    }

    /// The number of the partition's last change on this node, since this node started.
    pub(crate) fn sequence(&self, partition: Partition) -> u64 {
        self.partitions[self.index(partition)].sequence
    }

    /// The highest version that was evicted from the partition since it was dropped last, or would have been had
    /// there been room for it at all: of a key that is not here, a newer state than any up to this one may have
    /// been. Zero where nothing was.
    pub(crate) fn eviction_watermark(&self, partition: Partition) -> Version {
        self.partitions[self.index(partition)].eviction_watermark
    }

    /// Whether this copy of the partition lacks what others may hold, for want of room: its digest says nothing.
    pub(crate) fn has_gaps(&self, partition: Partition) -> bool {
        self.partitions[self.index(partition)].has_gaps
    }

    /// An entry of this version found no room. Where nothing is evicted it is only missing here, and may come
    /// again.
    pub(crate) fn decline(&mut self, partition: Partition, version: Version) {
        if self.queue.is_some() {
            self.raise_eviction_watermark(partition, version);
        }
        let at = self.index(partition);
        self.partitions[at].has_gaps = true;
    }

    fn raise_eviction_watermark(&mut self, partition: Partition, version: Version) {
        let at = self.index(partition);
        let contents = &mut self.partitions[at];
        contents.eviction_watermark = contents.eviction_watermark.max(version);
        contents.has_gaps = true;
    }

    /// Evicts this value, if it is still what the key has.
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

    /// Whether there is nothing, no tombstone either.
    pub(crate) fn is_empty(&self, partition: Partition) -> bool {
        self.partitions[self.index(partition)].entries == 0
    }

    /// How many keys have a value (those that expired and were not swept yet among them).
    pub(crate) fn live(&self) -> usize {
        self.totals.keys
    }

    /// How much memory the data takes, beyond what an empty store does: entries, index, timers and eviction
    /// queue.
    pub(crate) fn bytes(&self) -> usize {
        self.used() - self.empty
    }

    fn used(&self) -> usize {
        let queue = self.queue.as_ref().map_or(0, Sieve::bytes);
        self.totals.bytes + self.table.bytes() + self.timers.bytes() + queue
    }

    /// How much memory is only kept because readers may look at it.
    pub(crate) fn retired_bytes(&self) -> usize {
        self.table.retired_bytes()
    }

    fn index(&self, partition: Partition) -> usize {
        usize::from(self.config.cores.local(partition))
    }
}

impl Totals {
    fn add(&mut self, share: Share) {
        self.keys += share.keys;
        self.bytes += share.bytes;
        self.value_bytes += share.keys * share.bytes;
    }

    fn remove(&mut self, share: Share) {
        self.keys -= share.keys;
        self.bytes -= share.bytes;
        self.value_bytes -= share.keys * share.bytes;
    }
}

impl Share {
    fn of(hash: KeyHash, entry: &Entry) -> Self {
        Self {
            digest: entry.digest(hash),
            keys: usize::from(entry.value().is_some()),
            bytes: charge::entry(entry),
        }
    }
}

/// What a line of the eviction queue stands for.
struct Queued {
    line: Line,
    cluster: ClusterHash,
}

impl Sought for Queued {
    fn is(&self, held: &Entry) -> bool {
        // The table has compared a tag alone, and in its stash keys of other buckets have the same ones.
        held.generation() == self.line.generation()
            && (held.value().is_some() || is_planted(Planted::TombstonesEvicted))
            && self.line.matches_hash(KeyHash::of(self.cluster, held.key()).0)
    }
}

impl Sought for TimerId {
    fn is(&self, held: &Entry) -> bool {
        held.timer() == self.0
    }

    fn timer(&self) -> Option<u32> {
        Some(self.0)
    }
}

/// What [`Store::purge`] looks for.
struct Buried {
    hash: KeyHash,
    version: Version,
    cluster: ClusterHash,
}

impl Sought for Buried {
    fn is(&self, held: &Entry) -> bool {
        held.value().is_none()
            && held.version() == self.version
            && KeyHash::of(self.cluster, held.key()) == self.hash
    }
}

/// What must be gone before that can be purged.
struct Older(Buried);

impl Sought for Older {
    fn is(&self, held: &Entry) -> bool {
        let Self(Buried { hash, version, cluster }) = self;
        let is_older = held.version() < *version || held.version() == *version && held.value().is_some();
        is_older && KeyHash::of(*cluster, held.key()) == *hash
    }
}

/// Puts a value into the eviction queue, or in the place of the value that it replaces, which counts as a
/// visit.
fn enter_queue(
    queue: Option<&mut Sieve>,
    generation: &mut u8,
    hash: KeyHash,
    held: Option<&Entry>,
    entry: &Entry,
) {
    let Some(queue) = queue else { return };
    match held.filter(|held| held.value().is_some()) {
        Some(held) => entry.set_eviction_bits(held.generation(), true),
        None => {
            *generation = (*generation + 1) & 127;
            entry.set_eviction_bits(*generation, false);
            queue.push(hash.0, *generation);
        }
    }
}

/// Lets the timer of what is replaced go on for `entry`, or sets or removes one.
fn set_timer(timers: &mut Wheel, hash: KeyHash, held: Option<&Entry>, entry: &Entry) {
    let old = held.map_or(TimerId::NONE, |held| TimerId(held.timer()));
    let at = entry.expires_at_ms().filter(|_| entry.value().is_some()).map(NonZeroU64::get);
    match at {
        None => timers.remove(old),
        Some(at) if old == TimerId::NONE => entry.set_timer(timers.insert(at, hash.0).0),
        Some(at) => {
            timers.move_to(old, at);
            entry.set_timer(old.0);
        }
    }
}

#[cfg(test)]
mod tests;
