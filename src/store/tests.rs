use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
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

fn key_of(hash: u64) -> [u8; 8] {
    KeyHash(hash).key(CLUSTER)
}

#[test]
fn keys_can_be_crafted() {
    for hash in [0, 1, 0xdead_beef, u64::MAX, 0x0123_4567_89ab_cdef] {
        assert_eq!(hash_of(&key_of(hash)).0, hash);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Put { key: u16, version: u64, expires: u64, value: Option<Vec<u8>> },
    Expire { at: u64 },
    Drop { partition: u8 },
    Collect,
}

/// Keys that share partitions, segments, buckets and tags.
fn key(number: u16) -> [u8; 8] {
    let n = u64::from(number);
    match number % 4 {
        // Few partitions, all the rest the same.
        0 => key_of((n % 8) << 52 | (n / 8) << 30),
        // One bucket and tag of one partition, spread over the directory.
        1 => key_of(n << 36),
        // One bucket, one path down to the deepest: these go to the tree.
        2 => key_of(3 << 52 | n),
        _ => (n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes(),
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        40 => (0u16..2000, 1u64..40, prop_oneof![3 => Just(0), 1 => 1u64..50], prop::option::of(prop::collection::vec(any::<u8>(), 0..30)))
            .prop_map(|(key, version, expires, value)| Op::Put { key, version, expires, value }),
        1 => (0u64..60).prop_map(|at| Op::Expire { at }),
        1 => (0u8..9).prop_map(|partition| Op::Drop { partition }),
        1 => Just(Op::Collect),
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_store_is_a_map_that_keeps_the_winner(ops in prop::collection::vec(op(), 0..3000), forget: bool) {
        let deletes = if forget { Deletes::Forget } else { Deletes::Keep };
        let mut store = store(deletes);
        let empty = store.bytes();
        let mut model: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Put { key: number, version, expires, value } => {
                    let key = key(number);
                    let content = value.as_deref().map_or(Content::Tombstone, Content::Value);
                    let entry = Entry::new(&key, content, Version(version), NonZeroU64::new(expires));
                    store.apply(hash_of(&key), entry.borrow().copy(Version(version), NonZeroU64::new(expires)));
                    match model.get(&key[..]) {
                        Some(held) if !entry.wins_over(held) => {}
                        _ if forget && value.is_none() => { model.remove(&key[..]); }
                        _ => { model.insert(key.to_vec(), entry); }
                    }
                }
                Op::Expire { at } => {
                    while store.expire(wall(at), 7) > 0 {}
                    let due = |entry: &Entry| entry.value().is_some() && entry.is_expired(wall(at));
                    if forget {
                        model.retain(|_, entry| !due(entry));
                    } else {
                        model.values_mut().filter(|entry| due(entry)).for_each(|entry| *entry = entry.husk());
                    }
                }
                Op::Drop { partition } => {
                    let partition = Partition::new(u16::from(partition)).unwrap();
                    store.drop_partition(partition);
                    model.retain(|key, _| hash_of(key).partition() != partition);
                    prop_assert_eq!(store.digest(partition), 0);
                }
                Op::Collect => store.collect(),
            }
        }
        for (key, entry) in &model {
            let held = store.get(hash_of(key), key);
            prop_assert_eq!(held.as_deref(), Some(entry));
        }
        prop_assert_eq!(&contents(&store), &model);
        prop_assert_eq!(store.live(), model.values().filter(|entry| entry.value().is_some()).count());
        let digest = model.iter().fold(0u64, |sum, (key, entry)| sum.wrapping_add(entry.digest(hash_of(key))));
        let digests = Partition::all().fold(0u64, |sum, partition| sum.wrapping_add(store.digest(partition)));
        prop_assert_eq!(digests, digest);
        for partition in Partition::all() {
            if !store.is_empty(partition) {
                store.drop_partition(partition);
            }
        }
        store.collect();
        prop_assert_eq!((store.bytes(), store.retired_bytes(), store.live()), (empty, 0, 0));
    }
}
