//! One shard's data: entries grouped by partition, with a digest and a sequence for each.
//!
//! Only the owning core touches a store, by message; nothing here is shared. Each partition is a table
//! of its own, because everything that moves between nodes moves by partition: walking, comparing or
//! dropping one costs that partition and not the shard.

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use hashbrown::HashTable;
use hashbrown::hash_table;

use crate::clock::{Version, WallTime};
use crate::entry::Entry;
use crate::types::{KeyHash, PARTITIONS, Partition};

/// The entries of the partitions that one core owns.
pub(crate) struct Store {
    cores: u16,
    tables: Vec<Table>,
    /// Which entries expire when, in milliseconds of wall time. A line is checked when it comes due: its
    /// partition may have been dropped since.
    expiries: BTreeSet<(u64, KeyHash)>,
    deletes: Deletes,
    live: usize,
    bytes: usize,
}

/// What a deleted or expired key leaves behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Deletes {
    /// A tombstone or husk, so that no replica that missed it brings the value back.
    Keep,
    /// Nothing: there is no other replica.
    Forget,
}

#[derive(Default)]
struct Table {
    slots: HashTable<Slot>,
    /// Counts the changes of this partition on this node; a copy made up to a sequence has them all.
    sequence: u64,
    /// The sum of [`Entry::digest`] over all entries, in whatever order they came.
    digest: u64,
}

struct Slot {
    hash: KeyHash,
    entry: Entry,
    sequence: u64,
}

/// What became of an entry that was offered to the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Applied {
    /// It is stored, now or already.
    Stored,
    /// A newer state of the key, of this version, is there.
    Superseded(Version),
}

/// Some entries of a partition, in the order of their hashes.
pub(crate) struct Part {
    pub(crate) entries: Vec<Entry>,
    /// Where to go on; `None` after the last.
    pub(crate) next: Option<KeyHash>,
}

/// What an entry costs beside its key and value, roughly: for [`Store::bytes`] alone.
const ENTRY_OVERHEAD_BYTES: usize = 120;

impl Store {
    /// A store for one of `cores` cores.
    pub(crate) fn new(cores: u16, deletes: Deletes) -> Self {
        let tables = (0..PARTITIONS.div_ceil(cores)).map(|_| Table::default()).collect();
        Self { cores, tables, expiries: BTreeSet::new(), deletes, live: 0, bytes: 0 }
    }

    pub(crate) fn get(&self, hash: KeyHash, key: &[u8]) -> Option<&Entry> {
        let table = &self.tables[self.index(hash.partition())];
        table.slots.find(hash.0, |slot| slot.entry.key() == key).map(|slot| &slot.entry)
    }

    /// Merges `entry`: whichever of it and what is stored wins, stays. `hash` is its key's.
    pub(crate) fn apply(&mut self, hash: KeyHash, entry: Entry) -> Applied {
        let at = self.index(hash.partition());
        let table = &mut self.tables[at];
        let slot = table.slots.entry(hash.0, |slot| slot.entry.key() == entry.key(), |slot| slot.hash.0);
        if let hash_table::Entry::Occupied(held) = &slot {
            let held = &held.get().entry;
            if held.wins_over(&entry) {
                return Applied::Superseded(held.version());
            }
            if !entry.wins_over(held) {
                return Applied::Stored;
            }
        }
        if let Some(at) = entry.expires_at_ms()
            && is_value(&entry)
        {
            self.expiries.insert((at.get(), hash));
        }
        table.sequence += 1;
        table.digest = table.digest.wrapping_add(entry.digest(hash));
        self.live += usize::from(is_value(&entry));
        self.bytes += cost(&entry);
        let forget = self.deletes == Deletes::Forget && !is_value(&entry);
        let new = Slot { hash, entry, sequence: table.sequence };
        let old = match slot {
            hash_table::Entry::Occupied(mut held) => {
                let old = std::mem::replace(held.get_mut(), new).entry;
                if forget {
                    let (gone, _) = held.remove();
                    self.uncount(at, hash, &gone.entry);
                }
                Some(old)
            }
            hash_table::Entry::Vacant(free) if !forget => {
                free.insert(new);
                None
            }
            hash_table::Entry::Vacant(_) => Some(new.entry),
        };
        if let Some(old) = old {
            self.uncount(at, hash, &old);
            self.forget_expiry(at, hash, &old);
        }
        Applied::Stored
    }

    /// Takes back the line of an entry that is gone, unless another key of its hash shares it.
    fn forget_expiry(&mut self, at: usize, hash: KeyHash, old: &Entry) {
        let Some(expires_at_ms) = old.expires_at_ms() else { return };
        let shares = |slot: &Slot| slot.hash == hash && slot.entry.expires_at_ms() == Some(expires_at_ms);
        if self.tables[at].slots.find(hash.0, shares).is_none() {
            self.expiries.remove(&(expires_at_ms.get(), hash));
        }
    }

    fn uncount(&mut self, at: usize, hash: KeyHash, entry: &Entry) {
        self.tables[at].digest = self.tables[at].digest.wrapping_sub(entry.digest(hash));
        self.live -= usize::from(is_value(entry));
        self.bytes -= cost(entry);
    }

    /// Frees the values of up to `limit` keys that have expired. Returns how many were looked at.
    pub(crate) fn expire(&mut self, wall: WallTime, limit: usize) -> usize {
        let mut looked_at = 0;
        while looked_at < limit
            && let Some(&(at, hash)) = self.expiries.first()
            && at <= wall.millis()
        {
            self.expiries.pop_first();
            looked_at += 1;
            self.expire_key(at, hash);
        }
        looked_at
    }

    fn expire_key(&mut self, at_ms: u64, hash: KeyHash) {
        let at = self.index(hash.partition());
        let due = |slot: &Slot| {
            slot.hash == hash
                && is_value(&slot.entry)
                && slot.entry.expires_at_ms().map(NonZeroU64::get) == Some(at_ms)
        };
        // Two keys of one hash that expire in one millisecond share a line, so all of them are due.
        while let Ok(mut slot) = self.tables[at].slots.find_entry(hash.0, due) {
            let old = slot.get().entry.clone();
            if self.deletes == Deletes::Forget {
                slot.remove();
            } else {
                let husk = old.husk();
                slot.get_mut().entry = husk.clone();
                self.tables[at].digest = self.tables[at].digest.wrapping_add(husk.digest(hash));
                self.bytes += cost(&husk);
            }
            self.uncount(at, hash, &old);
        }
    }

    /// When the next key expires, in milliseconds of wall time.
    pub(crate) fn next_expiry_ms(&self) -> Option<u64> {
        self.expiries.first().map(|&(at, _)| at)
    }

    /// Entries of `partition` behind `after` in the order of hashes that changed after `since` of its
    /// sequence, until `limit_bytes` are reached. Keys of one hash are never torn apart.
    pub(crate) fn part(
        &self,
        partition: Partition,
        after: Option<KeyHash>,
        since: u64,
        limit_bytes: usize,
    ) -> Part {
        let table = &self.tables[self.index(partition)];
        let wanted = |slot: &&Slot| slot.sequence > since && after.is_none_or(|after| slot.hash > after);
        let mut all: Vec<&Slot> = table.slots.iter().filter(wanted).collect();
        all.sort_unstable_by(|a, b| (a.hash, a.entry.key()).cmp(&(b.hash, b.entry.key())));
        let mut entries: Vec<Entry> = Vec::new();
        let mut last = None;
        let mut bytes = 0;
        for slot in all {
            if bytes >= limit_bytes && last.is_some_and(|last| last != slot.hash) {
                return Part { entries, next: last };
            }
            last = Some(slot.hash);
            bytes += cost(&slot.entry);
            entries.push(slot.entry.clone());
        }
        Part { entries, next: None }
    }

    pub(crate) fn drop_partition(&mut self, partition: Partition) {
        let at = self.index(partition);
        let sequence = self.tables[at].sequence + 1;
        let dropped = std::mem::replace(&mut self.tables[at], Table { sequence, ..Table::default() });
        for slot in dropped.slots {
            self.live -= usize::from(is_value(&slot.entry));
            self.bytes -= cost(&slot.entry);
        }
    }

    /// Equal for equal contents, whatever the order in which they came.
    pub(crate) fn digest(&self, partition: Partition) -> u64 {
        self.tables[self.index(partition)].digest
    }

    /// The partition's count of changes on this node, since this node started.
    pub(crate) fn sequence(&self, partition: Partition) -> u64 {
        self.tables[self.index(partition)].sequence
    }

    /// Whether there is nothing, no tombstone either.
    pub(crate) fn is_empty(&self, partition: Partition) -> bool {
        self.tables[self.index(partition)].slots.is_empty()
    }

    /// How many keys have a value (those that expired and were not swept yet among them).
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Roughly how much memory the entries take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn index(&self, partition: Partition) -> usize {
        usize::from(partition.index() / self.cores)
    }
}

fn is_value(entry: &Entry) -> bool {
    entry.value().is_some()
}

fn cost(entry: &Entry) -> usize {
    entry.bytes() + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
#[expect(clippy::disallowed_types, reason = "the model is looked up, never walked in order")]
mod tests {
    use std::collections::HashMap;
    use std::slice;

    use proptest::prelude::*;

    use super::*;
    use crate::entry::Content;

    fn entry(key: u8, version: u64, expires: u64, value: Option<u8>) -> Entry {
        let content =
            value.as_ref().map_or(Content::Tombstone, |value| Content::Value(slice::from_ref(value)));
        Entry::new(&[key], content, Version(version), NonZeroU64::new(expires))
    }

    /// Few hashes, so that keys collide on purpose, all in partition zero.
    fn hash(entry: &Entry) -> KeyHash {
        KeyHash(u64::from(entry.key()[0] / 3))
    }

    fn apply(store: &mut Store, entry: Entry) {
        store.apply(hash(&entry), entry);
    }

    fn an_entry() -> impl Strategy<Value = Entry> {
        (0u8..12, 1u64..40, prop_oneof![Just(0), 1u64..50], prop::option::of(any::<u8>()))
            .prop_map(|(key, version, expires, value)| entry(key, version, expires, value))
    }

    const P: fn() -> Partition = || Partition::new(0).unwrap();

    fn wall(ms: u64) -> WallTime {
        WallTime::from_micros(ms * 1000)
    }

    proptest! {
        #[test]
        fn a_store_is_a_map_that_keeps_the_winner(entries in prop::collection::vec(an_entry(), 0..200)) {
            let mut store = Store::new(1, Deletes::Keep);
            let mut model: HashMap<Box<[u8]>, Entry> = HashMap::new();
            for entry in entries {
                apply(&mut store, entry.clone());
                let held = model.entry(entry.key().into()).or_insert_with(|| entry.clone());
                if entry.wins_over(held) {
                    *held = entry;
                }
            }
            for (key, entry) in &model {
                prop_assert_eq!(store.get(hash(entry), key), Some(entry));
            }
            let digest = model.values().fold(0u64, |sum, entry| sum.wrapping_add(entry.digest(hash(entry))));
            prop_assert_eq!(store.digest(P()), digest);
            prop_assert_eq!(store.live(), model.values().filter(|e| is_value(e)).count());
            prop_assert_eq!(store.bytes(), model.values().map(cost).sum::<usize>());
        }

        #[test]
        fn parts_together_are_everything_once(
            entries in prop::collection::vec(an_entry(), 0..100),
            limit in 1usize..600,
        ) {
            let mut store = Store::new(1, Deletes::Keep);
            for entry in entries {
                apply(&mut store, entry);
            }
            let whole = store.part(P(), None, 0, usize::MAX).entries;
            let mut pieces = Vec::new();
            let mut after = None;
            loop {
                let part = store.part(P(), after, 0, limit);
                pieces.extend(part.entries);
                after = part.next;
                if after.is_none() {
                    break;
                }
            }
            prop_assert_eq!(pieces, whole);
        }

        #[test]
        fn what_changed_since_is_what_a_copy_lacks(
            before in prop::collection::vec(an_entry(), 0..60),
            later in prop::collection::vec(an_entry(), 0..60),
        ) {
            let mut store = Store::new(1, Deletes::Keep);
            let mut copy = Store::new(1, Deletes::Keep);
            before.into_iter().for_each(|entry| apply(&mut store, entry));
            let sequence = store.sequence(P());
            store.part(P(), None, 0, usize::MAX).entries.into_iter().for_each(|entry| apply(&mut copy, entry));
            later.into_iter().for_each(|entry| apply(&mut store, entry));
            store.part(P(), None, sequence, usize::MAX).entries.into_iter().for_each(|entry| apply(&mut copy, entry));
            prop_assert_eq!(store.digest(P()), copy.digest(P()));
        }

        #[test]
        fn expiry_frees_values_and_changes_no_digest(
            entries in prop::collection::vec(an_entry(), 0..100),
            at in 0u64..60,
        ) {
            let mut store = Store::new(1, Deletes::Keep);
            let mut alone = Store::new(1, Deletes::Forget);
            for entry in entries {
                apply(&mut store, entry.clone());
                apply(&mut alone, entry);
            }
            let digest = store.digest(P());
            while store.expire(wall(at), 3) > 0 {}
            while alone.expire(wall(at), 3) > 0 {}
            prop_assert_eq!(store.digest(P()), digest);
            for entry in store.part(P(), None, 0, usize::MAX).entries {
                prop_assert!(!(is_value(&entry) && entry.is_expired(wall(at))));
            }
            for entry in alone.part(P(), None, 0, usize::MAX).entries {
                prop_assert!(is_value(&entry) && !entry.is_expired(wall(at)));
            }
            prop_assert!(store.next_expiry_ms().is_none_or(|next| next > at));
        }
    }

    #[test]
    fn a_dropped_partition_leaves_nothing_and_a_lone_store_keeps_no_tombstone() {
        let mut store = Store::new(1, Deletes::Keep);
        apply(&mut store, entry(1, 1, 0, Some(1)));
        apply(&mut store, entry(2, 1, 0, None));
        store.drop_partition(P());
        assert_eq!((store.live(), store.bytes(), store.digest(P())), (0, 0, 0));
        assert!(store.is_empty(P()));

        let mut alone = Store::new(1, Deletes::Forget);
        apply(&mut alone, entry(1, 1, 0, Some(1)));
        apply(&mut alone, entry(1, 2, 0, None));
        apply(&mut alone, entry(2, 2, 0, None));
        assert_eq!((alone.live(), alone.bytes(), alone.digest(P())), (0, 0, 0));
        assert!(alone.is_empty(P()));
    }
}
