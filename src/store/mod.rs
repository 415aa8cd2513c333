//! One shard's data: what its core owns, readable from any thread.
//!
//! | file | what |
//! |---|---|
//! | this one | merges entries, keeps digests and sequences, accounts for every byte |
//! | [`room`] | the memory limit: whether an entry fits, and what is evicted for it |
//! | [`husks`] | what expires, and whether it did so before its time |
//! | [`walk`] | entries and keys in bounded steps |
//! | [`table`] | the index, with one writer and lock-free readers |
//! | [`reclaim`] | when the writer may free what readers could still look at |
//! | [`wheel`] | which key expires when |
//! | [`sieve`] | which key goes first when memory is full |
//! | [`charge`] | what memory is charged for |
//!
//! Only the owning core has the [`Store`]. All other threads have a [`View`], where [`Pinned::get`]
//! looks at a key without a message, without waiting and without being waited for. The figures that
//! this is held to are in `benches/README.md`.
//!
//! Table, wheel and sieve know nothing of each other; this file joins them. Nothing here knows a
//! replica or a quorum, or asks a clock: versions and times are arguments.

mod charge;
mod husks;
mod reclaim;
mod room;
mod sieve;
mod table;
mod walk;
mod wheel;

use std::num::NonZeroU64;
use std::sync::Arc;

#[cfg(gridkv_loom)]
pub(crate) use reclaim::Reader;
pub(crate) use reclaim::{HeavyFence, Readers};
pub(crate) use table::{Local, Pinned, TablePosition, View, Views};

use self::sieve::{Line, Sieve};
use self::table::{Change, Sought, Table};
use self::wheel::{TimerId, Wheel};
use crate::clock::Version;
use crate::entry::{Entry, EntryRef};
use crate::mutants::{ProtocolMutant, rule};
use crate::options::Eviction;
use crate::types::{ClusterHash, CoreId, Cores, KeyHash, PARTITIONS, Partition};

/// What a store is told when it is made.
#[derive(Clone, Debug)]
pub(crate) struct StoreConfig {
    pub(crate) cluster: ClusterHash,
    pub(crate) core: CoreId,
    pub(crate) cores: Cores,
    pub(crate) deletes: Deletes,
    /// The memory limit in bytes, which what readers hold up counts against too.
    pub(crate) memory: Option<usize>,
    pub(crate) eviction: Eviction,
}

/// The entries of the partitions that one core owns.
pub(crate) struct Store {
    config: StoreConfig,
    table: Table,
    partitions: Vec<Contents>,
    timers: Wheel,
    /// `None` if nothing may be evicted.
    queue: Option<Sieve>,
    totals: Totals,
    /// Numbers every change.
    sequence: u64,
    /// Numbers every time that something was evicted, or stayed away as if it had been, or that
    /// husks were found to be early.
    gaps: u64,
    /// The generation of the last key that came into the eviction queue.
    generation: u8,
    /// What the store takes with nothing in it.
    empty: usize,
    /// When this many bytes are retired, the store tries to free them.
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

/// What the store keeps of one partition as a whole.
#[derive(Clone, Copy, Default)]
struct Contents {
    entries: usize,
    /// How many of them have a value.
    keys: usize,
    /// The number of its last change on this node.
    sequence: u64,
    /// The sum of [`Entry::digest`] over all entries, which does not depend on their order.
    digest: u64,
    /// The number of the last time that something was evicted here, or came and stayed away as if
    /// it had been; zero if never. Other replicas may have it.
    last_gap: u64,
    /// See [`Store::eviction_watermark`].
    eviction_watermark: Version,
    /// The latest expiry among the husks that came or were made since they were looked at last, in
    /// milliseconds of wall time.
    husks_until_ms: u64,
    /// The number of the last time that husks were found to be early; zero if never.
    last_early: u64,
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

/// What became of an entry that the store was to merge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Applied {
    /// The entry is stored, now or already.
    Stored,
    /// The key has a newer state, of this version.
    Superseded(Version),
}

/// Whether there is room for an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    Enough,
    /// Some room was made, and more takes more turns.
    Later,
    /// There is none, and none can be made.
    OutOfMemory,
    /// There is none until readers let go of what they hold.
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

/// How many more bytes must be retired before the next try to free them: a try may interrupt every
/// processor, which takes some ten microseconds on a virtual machine.
const COLLECT_BYTES: usize = 256 << 10;

/// How many pieces one try frees, so that no turn is long.
const COLLECT_PIECES: usize = COLLECT_BYTES / 32;

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
            gaps: 0,
            generation: 0,
            collect_at: COLLECT_BYTES,
            empty: 0,
            config,
        };
        store.empty = store.used();
        store
    }

    /// The readers' side, for other threads.
    pub(crate) fn view(&self) -> &Arc<View> {
        self.table.view()
    }

    /// Says whether this node answers for a partition: from then on readers find their answers
    /// here, or are sent to the owner.
    pub(crate) fn serve(&mut self, partition: Partition, serves: bool) {
        self.table.serve(partition, serves);
    }

    pub(crate) fn get(&self, hash: KeyHash, key: &[u8]) -> Option<EntryRef<'_>> {
        self.table.get(hash, key)
    }

    /// Merges `entry`, whose key has this hash, with what is stored: the one that wins stays.
    pub(crate) fn apply(&mut self, hash: KeyHash, entry: Entry) -> Applied {
        self.merge(hash, entry, |_, _| {})
    }

    /// Prefetches the cache line that writing this key begins with.
    #[inline]
    pub(crate) fn prefetch(&self, hash: KeyHash) {
        self.table.prefetch(hash);
    }

    /// Writes `entry`, which wins: `stamp` is given the version that the key has, or zero, and
    /// returns a higher one.
    pub(crate) fn write(
        &mut self,
        hash: KeyHash,
        entry: Entry,
        stamp: impl FnOnce(Version) -> Version,
    ) {
        self.merge(hash, entry, |entry, held| {
            entry.stamp(stamp(held.map_or(Version::ZERO, Entry::version)))
        });
    }

    #[inline]
    fn merge(
        &mut self,
        hash: KeyHash,
        entry: Entry,
        prepare: impl FnOnce(&mut Entry, Option<&Entry>),
    ) -> Applied {
        let husk = entry.expires_at_ms().filter(|_| entry.value().is_none());
        let Self { table, timers, queue, generation, config, .. } = self;
        let forget = config.deletes == Deletes::Forget && entry.value().is_none();
        let sequence = self.sequence + 1;
        let (applied, old, new) = table.update(hash, entry, sequence, |mut entry, held| {
            prepare(&mut entry, held);
            if let Some(held) = held {
                entry = entry.joined(held);
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
            if !rule(ProtocolMutant::TombstonesEvicted, entry.value().is_none()) {
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
        // One that has lost against a value is not worth being looked for again.
        if let Some(at) = husk.filter(|_| new.is_some()) {
            self.note_husk(hash.partition(), at.get());
        }
        if old.is_some() || new.is_some() {
            self.count(hash.partition(), old, new);
        }
        self.tidy();
        applied
    }

    /// Counts a change of one entry from `old` to `new`.
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
        // A segment's split is not foreseen, so the limit may be exceeded: then it does not wait
        // for more.
        let is_over =
            held > 0 && self.config.memory.is_some_and(|memory| self.used() + held > memory);
        if held >= self.collect_at || is_over {
            self.collect();
        }
        if let Some(queue) = &mut self.queue
            && queue.len() > 2 * self.totals.keys + 1024
        {
            let (table, cluster) = (&self.table, self.config.cluster);
            queue.compact(
                |line| !table.has(KeyHash(line.hash_bits()), &Queued { line, cluster }),
                4,
            );
        }
    }

    /// Frees what no reader holds any more, as far as one turn allows.
    pub(crate) fn collect(&mut self) {
        self.table.collect(COLLECT_PIECES);
        self.collect_at = self.table.retired_bytes() + COLLECT_BYTES;
    }

    /// Whether anything waits to be freed.
    pub(crate) fn has_garbage(&self) -> bool {
        self.table.retired_bytes() > 0
    }

    /// When the next key may expire, in milliseconds of wall time; none expires before.
    pub(crate) fn next_expiry_ms(&self) -> Option<u64> {
        self.timers.next_due_ms()
    }

    /// Whether the partition has keys without a value.
    pub(crate) fn has_dead(&self, partition: Partition) -> bool {
        let Contents { entries, keys, .. } = self.partitions[self.index(partition)];
        entries > keys
    }

    /// Whether a key of this hash is here in a state older than one without a value of this
    /// version.
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
        self.count_forgotten(hash, share);
    }

    /// Counts without what was removed, if anything was. A replica that does not hold it need not
    /// hear of it: the partition keeps the old sequence.
    fn count_forgotten(&mut self, hash: KeyHash, share: Option<Share>) {
        if share.is_some() {
            let at = self.index(hash.partition());
            let sequence = self.partitions[at].sequence;
            self.count(hash.partition(), share, None);
            self.partitions[at].sequence = sequence;
            self.tidy();
        }
    }

    /// Removes this state of a key, if it is held, as if it had never been here.
    fn remove(&mut self, hash: KeyHash, state: Entry) {
        let timers = &mut self.timers;
        let share = self.table.update(hash, state, 0, |state, held| match held {
            Some(held) if held.version() == state.version() => {
                timers.remove(TimerId(held.timer()));
                (Change::Remove, Some(Share::of(hash, held)))
            }
            _ => (Change::Keep, None),
        });
        self.count_forgotten(hash, share);
    }

    /// Removes everything that this node has of the partition.
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

    /// A digest of the partition's contents: equal for equal contents, in any order in which they
    /// came.
    pub(crate) fn digest(&self, partition: Partition) -> u64 {
        self.partitions[self.index(partition)].digest
    }

    /// The number of the partition's last change on this node, since this node started.
    pub(crate) fn sequence(&self, partition: Partition) -> u64 {
        self.partitions[self.index(partition)].sequence
    }

    /// The eviction watermark: the highest version evicted from (or refused for lack of room by)
    /// this copy since the partition was dropped last. A missing key may have existed here at any
    /// version up to it. Zero if nothing was evicted.
    pub(crate) fn eviction_watermark(&self, partition: Partition) -> Version {
        self.partitions[self.index(partition)].eviction_watermark
    }

    /// The number of the last time that this copy of the partition evicted something that other
    /// replicas may hold, or took it for evicted; zero if it never did. Its digest means nothing to
    /// a replica with which it was not compared key by key since.
    pub(crate) fn last_gap(&self, partition: Partition) -> u64 {
        self.partitions[self.index(partition)].last_gap
    }

    /// Whether the partition has no entry here, not even a tombstone.
    pub(crate) fn is_empty(&self, partition: Partition) -> bool {
        self.partitions[self.index(partition)].entries == 0
    }

    /// How many keys have a value. Those that expired and were not swept yet are among them.
    pub(crate) fn live(&self) -> usize {
        self.totals.keys
    }

    /// How many bytes the data takes, beyond what an empty store does: entries, index, timers and
    /// eviction queue.
    pub(crate) fn bytes(&self) -> usize {
        self.used() - self.empty
    }

    fn used(&self) -> usize {
        let queue = self.queue.as_ref().map_or(0, Sieve::bytes);
        self.totals.bytes + self.table.bytes() + self.timers.bytes() + queue
    }

    /// How many bytes are only kept because readers may look at them.
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
        // The table has compared a tag alone, and keys of other buckets in its stash may have the
        // same one.
        held.generation() == self.line.generation()
            && !rule(ProtocolMutant::TombstonesEvicted, held.value().is_none())
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

/// What must be gone before a [`Buried`] one can be purged: an older state of its key.
struct Older(Buried);

impl Sought for Older {
    fn is(&self, held: &Entry) -> bool {
        let Self(Buried { hash, version, cluster }) = self;
        let is_older =
            held.version() < *version || held.version() == *version && held.value().is_some();
        is_older && KeyHash::of(*cluster, held.key()) == *hash
    }
}

/// Puts a value into the eviction queue. If it replaces a value, it takes that one's place, which
/// counts as a visit.
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

/// Sets a timer for `entry`, moves the one of the entry that it replaces, or removes that.
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
