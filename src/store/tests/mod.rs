//! The store as a map, and what its tests share.

mod crafted;
mod parts;
mod room;
mod stress;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::clock::WallTime;
use crate::entry::Content;

const CLUSTER: ClusterHash = ClusterHash(7);

fn hash_of(key: &[u8]) -> KeyHash {
    KeyHash::of(CLUSTER, key)
}

fn config(deletes: Deletes) -> StoreConfig {
    StoreConfig {
        cluster: CLUSTER,
        core: CoreId(0),
        cores: Cores::new(1),
        deletes,
        memory: None,
        eviction: Eviction::Sieve,
    }
}

fn store(deletes: Deletes) -> Store {
    Store::new(config(deletes), Arc::new(Readers::new(None)))
}

/// A store that may take this many bytes, and its readers.
fn limited(deletes: Deletes, memory: usize, eviction: Eviction) -> (Store, Arc<Readers>) {
    let readers = Arc::new(Readers::new(None));
    let config = StoreConfig { memory: Some(memory), eviction, ..config(deletes) };
    (Store::new(config, readers.clone()), readers)
}

fn entry(key: &[u8], version: u64, expires: u64, value: Option<&[u8]>) -> Entry {
    let content = value.map_or(Content::Tombstone, Content::Value);
    Entry::new(key, content, Version(version), NonZeroU64::new(expires))
}

fn put(store: &mut Store, entry: Entry) {
    let hash = hash_of(entry.key());
    store.apply(hash, entry);
}

/// Puts the entry if there is room, for which it takes as many turns as it needs.
fn offer(store: &mut Store, entry: Entry) -> Admission {
    let hash = hash_of(entry.key());
    for _ in 0..100_000 {
        match store.make_room(hash, &entry) {
            Admission::Later => assert_within_limit(store),
            Admission::Enough => {
                store.apply(hash, entry);
                assert_within_limit(store);
                return Admission::Enough;
            }
            room => return room,
        }
    }
    panic!("room is being made for ever");
}

fn assert_within_limit(store: &Store) {
    let (used, held) = (store.used(), store.retired_bytes());
    let most = store.config.memory.unwrap_or(usize::MAX);
    assert!(used + held <= most, "{used} bytes used and {held} held, of {most}");
}

/// What can be seen without looking at every key, and must always be so.
fn assert_counts(store: &Store) {
    let entries: usize = store.partitions.iter().map(|contents| contents.entries).sum();
    assert_eq!(store.table.len(), entries);
    assert!(store.live() <= entries && store.timers.len() <= store.live());
    assert_within_limit(store);
}

/// What can only be seen by looking at every key, and must always be so.
fn assert_sums(store: &Store) {
    assert_counts(store);
    let all = contents(store);
    let sum = |of: &dyn Fn(&Entry) -> usize| all.values().map(of).sum::<usize>();
    assert_eq!(store.totals.bytes, sum(&|entry| charge::entry(entry)));
    assert_eq!(store.live(), sum(&|entry| usize::from(entry.value().is_some())));
    let expires = |entry: &Entry| entry.value().is_some() && entry.expires_at_ms().is_some();
    assert_eq!(
        store.timers.len(),
        sum(&|entry| usize::from(expires(entry))),
        "as many timers as values that expire"
    );
    let digests =
        Partition::all().fold(0u64, |sum, partition| sum.wrapping_add(store.digest(partition)));
    let digest =
        all.iter().fold(0u64, |sum, (key, entry)| sum.wrapping_add(entry.digest(hash_of(key))));
    assert_eq!(digests, digest);
}

/// Numbers that look random, the same ones every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ x >> 31) % sides
    }
}

/// Any number of keys with the same hash, in this order: XXH3 multiplies the first half of a key of
/// 32 bytes, mixed with the seed, by the next, and this first half makes that zero.
fn twin(number: u64) -> [u8; 32] {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&0xbe4b_a423_396c_feb8u64.wrapping_add(CLUSTER.0).to_le_bytes());
    key[8..16].copy_from_slice(&number.to_be_bytes());
    key
}

pub(super) fn key_of(hash: u64) -> [u8; 8] {
    KeyHash(hash).key(CLUSTER)
}

#[test]
fn keys_can_be_crafted() {
    for hash in [0, 1, 0xdead_beef, u64::MAX, 0x0123_4567_89ab_cdef] {
        assert_eq!(hash_of(&key_of(hash)).0, hash);
        assert_eq!(hash_of(&twin(hash)), hash_of(&twin(0)));
    }
    let in_other_cluster = |key: &[u8]| KeyHash::of(ClusterHash(8), key);
    assert_ne!(in_other_cluster(&key_of(1)), hash_of(&key_of(1)), "each cluster has its own hash");
    assert_ne!(in_other_cluster(&twin(1)), in_other_cluster(&twin(2)));
}

#[derive(Clone, Debug)]
enum StoreStep {
    Put { key: u16, version: u64, expires: u64, value: Option<(usize, u8)> },
    Expire { at: u64 },
    Drop { partition: u8 },
    Collect,
}

/// Keys that share partitions, segments, buckets and tags.
fn key(number: u16) -> Vec<u8> {
    let n = u64::from(number);
    match number % 5 {
        // Few partitions, all the rest the same.
        0 => key_of((n % 8) << 52 | (n / 8) << 30).to_vec(),
        // One bucket and tag of one partition, spread over the directory.
        1 => key_of(n << 36).to_vec(),
        // One bucket, one path down to the deepest: these go to the tree.
        2 => key_of(3 << 52 | n).to_vec(),
        // One hash.
        3 => twin(n).to_vec(),
        _ => n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes().to_vec(),
    }
}

fn op() -> impl Strategy<Value = StoreStep> {
    let length = prop_oneof![
        4000 => 0usize..30,
        200 => 4090usize..4110,
        30 => 4096usize..40_000,
        1 => crate::types::MAX_VALUE_BYTES - 2..crate::types::MAX_VALUE_BYTES + 1,
    ];
    let value = prop::option::weighted(0.6, (length, any::<u8>()));
    let expires = prop_oneof![3 => Just(0), 1 => 1u64..50];
    prop_oneof![
        40 => (0u16..2500, 1u64..40, expires, value)
            .prop_map(|(key, version, expires, value)| {
                StoreStep::Put { key, version, expires, value }
            }),
        1 => (0u64..60).prop_map(|at| StoreStep::Expire { at }),
        1 => (0u8..9).prop_map(|partition| StoreStep::Drop { partition }),
        1 => Just(StoreStep::Collect),
    ]
}

fn wall(ms: u64) -> WallTime {
    WallTime::from_micros(ms * 1000)
}

fn contents(store: &Store) -> BTreeMap<Vec<u8>, Entry> {
    let mut all = BTreeMap::new();
    for partition in Partition::all().filter(|partition| !store.is_empty(*partition)) {
        for entry in store.part(partition, None, 0, usize::MAX).entries {
            assert!(all.insert(entry.key().to_vec(), entry).is_none(), "seen twice");
        }
    }
    all
}

/// A store, and what it should hold.
struct StoreAndModel {
    store: Store,
    model: BTreeMap<Vec<u8>, Entry>,
}

impl StoreAndModel {
    fn perform(&mut self, op: StoreStep) {
        let Self { store, model } = self;
        let forget = store.config.deletes == Deletes::Forget;
        match op {
            StoreStep::Put { key: number, version, expires, value } => {
                let key = key(number);
                let value = value.map(|(length, byte)| vec![byte; length]);
                let entry = entry(&key, version, expires, value.as_deref());
                let (live, held) = (store.live(), store.get(hash_of(&key), &key).is_some());
                let room = offer(store, entry.clone());
                let evicts = store.config.eviction == Eviction::Sieve;
                assert_ne!(room, Admission::HeldByReaders, "nobody reads");
                assert!(room == Admission::Enough || store.config.memory.is_some());
                assert!(
                    room == Admission::Enough || value.is_some() || !(held || forget),
                    "a delete fits"
                );
                if evicts && store.config.memory.is_some() && store.live() <= live {
                    // Something may have been evicted, of which only the store can tell.
                    model.retain(|key, entry| {
                        let is_kept = store.get(hash_of(key), key).is_some();
                        assert!(
                            is_kept || entry.value().is_some(),
                            "what a delete left is not evicted"
                        );
                        is_kept
                    });
                }
                if room != Admission::Enough {
                    return;
                }
                match model.get(&key[..]) {
                    Some(held) if !entry.wins_over(held) => {}
                    _ if forget && value.is_none() => {
                        model.remove(&key[..]);
                    }
                    _ => {
                        model.insert(key, entry);
                    }
                }
            }
            StoreStep::Expire { at } => {
                while store.expire(wall(at), 7) > 0 {}
                let due = |entry: &Entry| entry.value().is_some() && entry.is_expired(wall(at));
                if forget {
                    model.retain(|_, entry| !due(entry));
                } else {
                    model
                        .values_mut()
                        .filter(|entry| due(entry))
                        .for_each(|entry| *entry = entry.husk());
                }
            }
            StoreStep::Drop { partition } => {
                let partition = Partition::new(u16::from(partition)).unwrap();
                store.drop_partition(partition);
                model.retain(|key, _| hash_of(key).partition() != partition);
                assert_eq!(store.digest(partition), 0);
            }
            StoreStep::Collect => store.collect(),
        }
        assert_counts(store);
    }

    fn assert_equal(&self) {
        for (key, entry) in &self.model {
            let held = self.store.get(hash_of(key), key);
            assert_eq!(held.as_deref(), Some(entry));
        }
        assert_eq!(contents(&self.store), self.model);
        assert_sums(&self.store);
    }

    /// Deletes every key there is, in no order, and looks at what is left.
    fn delete_all(&mut self) {
        let store = &mut self.store;
        let mut keys: Vec<_> = contents(store).into_keys().collect();
        keys.sort_unstable_by_key(|key| hash_of(key).0.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut tombstones = 0;
        for key in keys {
            let tombstone = entry(&key, 100, 0, None);
            tombstones += charge::entry(&tombstone);
            assert_eq!(offer(store, tombstone), Admission::Enough, "a delete fits");
        }
        store.collect();
        assert_sums(store);
        assert_eq!((store.live(), store.timers.len(), store.retired_bytes()), (0, 0, 0));
        let queue = store.queue.as_ref().map_or(0, Sieve::bytes);
        if store.config.deletes == Deletes::Forget {
            assert_eq!(store.bytes() - queue, 0);
            return;
        }
        assert_eq!(store.totals.bytes, tombstones);
        for partition in
            Partition::all().filter(|partition| !store.is_empty(*partition)).collect::<Vec<_>>()
        {
            store.drop_partition(partition);
        }
        store.collect();
        assert_eq!((store.bytes() - queue, store.retired_bytes()), (0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_store_is_a_map_that_keeps_the_winner(
        ops in prop::collection::vec(op(), 0..3000),
        forget: bool,
        limit in prop_oneof![
            2 => Just(None),
            1 => (1024usize..3000).prop_map(|kib| Some((kib << 10, Eviction::Sieve))),
            1 => (1024usize..3000).prop_map(|kib| Some((kib << 10, Eviction::None))),
        ],
    ) {
        let deletes = if forget { Deletes::Forget } else { Deletes::Keep };
        let store = match limit {
            None => store(deletes),
            Some((memory, eviction)) => limited(deletes, memory, eviction).0,
        };
        let mut pair = StoreAndModel { store, model: BTreeMap::new() };
        prop_assert_eq!(pair.store.bytes(), 0);
        for (step, op) in ops.into_iter().enumerate() {
            pair.perform(op);
            if step % 512 == 0 {
                assert_sums(&pair.store);
            }
        }
        pair.assert_equal();
        pair.delete_all();
    }
}
