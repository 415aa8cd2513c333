//! What is read piece by piece: parts of partitions, and keys in the order of positions.

use super::*;

/// Few hashes of one partition, so that keys collide on purpose; more than a segment holds, so that
/// some are in the tree.
fn number() -> impl Strategy<Value = u16> {
    prop_oneof![(0u16..400).prop_map(|n| 5 * n + 2), (0u16..200).prop_map(|n| 5 * n + 3), 0u16..200]
}

fn an_entry() -> impl Strategy<Value = Entry> {
    let value = prop::option::weighted(0.8, prop::collection::vec(any::<u8>(), 0..4));
    let expires = prop_oneof![Just(0), 1u64..50];
    (number(), 1u64..40, expires, value).prop_map(|(number, version, expires, value)| {
        entry(&key(number), version, expires, value.as_deref())
    })
}

fn entries(most: usize) -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec(an_entry(), 0..most)
}

/// Returns a store with copies of these entries. The eviction bits and the timer of an entry belong
/// to the one store that has it.
fn filled(deletes: Deletes, entries: impl IntoIterator<Item = Entry>) -> Store {
    let mut store = store(deletes);
    entries.into_iter().for_each(|entry| put(&mut store, twice(&entry)));
    store
}

fn twice(entry: &Entry) -> Entry {
    entry.copy(entry.version(), entry.expires_at_ms())
}

fn partitions(store: &Store) -> Vec<Partition> {
    Partition::all().filter(|partition| !store.is_empty(*partition)).collect()
}

/// All parts of a partition, and how many there were.
fn pieces(store: &Store, partition: Partition, since: u64, limit: usize) -> (Vec<Entry>, usize) {
    let (mut pieces, mut count, mut after) = (Vec::new(), 0, None);
    loop {
        let part = store.part(partition, after, since, limit);
        count += 1;
        assert!(part.next.is_none_or(|next| after.is_none_or(|after| next > after)), "it goes on");
        assert!(part.next.is_none() || !part.entries.is_empty());
        pieces.extend(part.entries);
        match part.next {
            Some(next) => after = Some(next),
            None => return (pieces, count),
        }
    }
}

/// Every key of the store, `limit` at a time.
fn all_keys(store: &Store, limit: usize) -> Vec<Box<[u8]>> {
    let (mut all, mut from) = (Vec::new(), TablePosition::first(0));
    loop {
        let found = store.keys(&from, None, wall(0), limit);
        assert!(found.keys.len() <= limit);
        all.extend(found.keys);
        match found.next {
            Some(next) if next > from => from = next,
            Some(next) => panic!("it goes on at {next:?}, behind {from:?}"),
            None => return all,
        }
    }
}

fn values(store: &Store) -> Vec<Box<[u8]>> {
    let all = contents(store).into_iter().filter(|(_, entry)| entry.value().is_some());
    all.map(|(key, _)| key.into()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn parts_together_are_everything_once_and_in_order(
        entries in entries(1500),
        limit in 1usize..60_000,
    ) {
        let store = filled(Deletes::Keep, entries);
        for partition in partitions(&store) {
            let whole = store.part(partition, None, 0, usize::MAX).entries;
            let order = |entry: &Entry| (hash_of(entry.key()), entry.key().to_vec());
            prop_assert!(whole.is_sorted_by_key(order));
            prop_assert_eq!(pieces(&store, partition, 0, limit).0, whole);
        }
    }

    #[test]
    fn what_is_purged_is_gone_and_nothing_else_is(
        entries in entries(1500),
        at in 0u64..60,
        limit in 1usize..60,
        wrong in 1u64..40,
    ) {
        let mut store = filled(Deletes::Keep, entries);
        while store.expire(wall(at), 7) > 0 {}
        let (all, survivors): (Vec<_>, Vec<_>) =
            contents(&store).into_values().partition(|entry| entry.value().is_none());
        let dead = all.iter().map(|entry| (hash_of(entry.key()), entry.version()));
        let mut dead: Vec<_> = dead.collect();
        dead.sort();
        let mut found = Vec::new();
        for partition in partitions(&store) {
            let (sequence, mut after, before) = (store.sequence(partition), None, found.len());
            loop {
                let (some, next) = store.dead(partition, after, limit);
                found.extend(some);
                let is_later = |next| after.is_none_or(|after| next > after);
                prop_assert!(next.is_none_or(is_later), "it goes on");
                after = next;
                if after.is_none() {
                    break;
                }
            }
            prop_assert_eq!(store.has_dead(partition), found.len() > before);
            prop_assert_eq!(store.sequence(partition), sequence);
        }
        found.sort();
        prop_assert_eq!(&found, &dead);
        // Neither another version nor a value goes.
        let digests: Vec<u64> = Partition::all().map(|partition| store.digest(partition)).collect();
        for entry in all.iter().chain(&survivors) {
            let is_value = entry.value().is_some();
            let version = Version(if is_value { entry.version().0 } else { 40 + wrong });
            // Keys may share a hash.
            if dead.binary_search(&(hash_of(entry.key()), version)).is_err() {
                store.purge(hash_of(entry.key()), version);
            }
        }
        let still = Partition::all().map(|partition| store.digest(partition));
        prop_assert_eq!(still.collect::<Vec<_>>(), digests);
        let live = store.live();
        dead.iter().for_each(|(hash, version)| store.purge(*hash, *version));
        prop_assert_eq!(store.live(), live);
        let rest = filled(Deletes::Keep, survivors.iter().map(twice));
        for partition in Partition::all() {
            prop_assert!(!store.has_dead(partition));
            prop_assert_eq!(store.digest(partition), rest.digest(partition));
            prop_assert_eq!(store.is_empty(partition), rest.is_empty(partition));
        }
        prop_assert_eq!(contents(&store), contents(&rest));
    }

    #[test]
    fn keys_together_are_every_value_once(entries in entries(1500), limit in 1usize..400) {
        let store = filled(Deletes::Keep, entries);
        let mut keys = all_keys(&store, limit);
        keys.sort();
        prop_assert_eq!(keys, values(&store));
    }

    #[test]
    fn keys_end_before_a_path(entries in entries(800), end in 0u64..9, limit in 1usize..400) {
        let store = filled(Deletes::Keep, entries);
        let (mut found, mut from) = (Vec::new(), Some(TablePosition::first(0)));
        while let Some(position) = from {
            let keys = store.keys(&position, Some(end << 52), wall(0), limit);
            found.extend(keys.keys);
            from = keys.next;
        }
        found.sort();
        let is_before = |key: &[u8]| u64::from(hash_of(key).partition().index()) < end;
        let expected: Vec<_> = values(&store).into_iter().filter(|key| is_before(key)).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn what_changed_since_is_what_a_copy_lacks(
        before in entries(1500),
        later in entries(300),
        at in 0u64..60,
        limit in 1usize..60_000,
    ) {
        let mut store = filled(Deletes::Keep, before);
        let sequences = Partition::all().map(|partition| store.sequence(partition));
        let sequences: Vec<u64> = sequences.collect();
        let mut copy = filled(Deletes::Keep, contents(&store).into_values());
        later.into_iter().for_each(|entry| put(&mut store, entry));
        while store.expire(wall(at), 7) > 0 {}
        for partition in partitions(&store) {
            let since = sequences[usize::from(partition.index())];
            let changed = pieces(&store, partition, since, limit).0;
            changed.into_iter().for_each(|entry| put(&mut copy, twice(&entry)));
            prop_assert_eq!(store.digest(partition), copy.digest(partition));
        }
    }

    #[test]
    fn digests_are_equal_for_equal_contents_in_any_order_and_for_no_others(
        entries in entries(400),
        turn in any::<prop::sample::Index>(),
        other in an_entry(),
    ) {
        let one = filled(Deletes::Keep, entries.iter().cloned());
        let mut turned = entries;
        turned.reverse();
        let middle = turn.index(turned.len() + 1);
        let length = turned.len();
        turned.rotate_left(middle % length.max(1));
        let mut two = filled(Deletes::Keep, turned);
        for partition in Partition::all() {
            prop_assert_eq!(one.digest(partition), two.digest(partition));
        }
        let partition = hash_of(other.key()).partition();
        put(&mut two, other);
        let is_same = contents(&one) == contents(&two);
        prop_assert_eq!(one.digest(partition) == two.digest(partition), is_same);
    }

    #[test]
    fn expiry_frees_values_and_changes_no_digest(entries in entries(800), at in 0u64..60) {
        let mut store = filled(Deletes::Keep, entries.iter().cloned());
        let mut alone = filled(Deletes::Forget, entries);
        let digests: Vec<u64> = Partition::all().map(|partition| store.digest(partition)).collect();
        while store.expire(wall(at), 3) > 0 {}
        while alone.expire(wall(at), 3) > 0 {}
        for partition in Partition::all() {
            prop_assert_eq!(store.digest(partition), digests[usize::from(partition.index())]);
        }
        let is_over = |entry: &Entry| entry.is_expired(wall(at));
        prop_assert!(contents(&store).values().all(|e| e.value().is_none() || !is_over(e)));
        prop_assert!(contents(&alone).values().all(|e| e.value().is_some() && !is_over(e)));
        prop_assert!(store.next_expiry_ms().is_none_or(|next| next > at));
        assert_sums(&store);
        assert_sums(&alone);
    }
}

/// The walk looked at a number of keys of the tree and went on behind the segment: with none of the
/// buckets' keys behind them, the rest of the tree was not seen. And it began each step with the
/// first key of a path: of more keys with one hash than one step looks at, the rest was not seen
/// either.
#[test]
fn a_walk_over_the_tree_ends_behind_its_last_key() {
    let same_path: fn(u64) -> Vec<u8> = |n| key_of(3 << 52 | n).to_vec();
    let same_hash: fn(u64) -> Vec<u8> = |n| twin(n).to_vec();
    for key in [same_path, same_hash] {
        let store = filled(Deletes::Keep, (0..5000).map(|n| entry(&key(n), 1, 0, Some(b"v"))));
        assert!(store.table.tree_len() > 4000);
        for limit in [1000, 1024, 4999, 5000, 5001] {
            assert_eq!(all_keys(&store, limit).len(), 5000, "{limit} at a time");
        }
    }
}

/// A husk in the tree lost the number of its value's last change: a node that had fetched the
/// partition before that never got it.
#[test]
fn what_expired_in_the_tree_is_still_what_changed() {
    let mut store = filled(Deletes::Keep, (0..5000).map(|n| entry(&twin(n), 1, 0, Some(b"v"))));
    let partition = hash_of(&twin(0)).partition();
    let since = store.sequence(partition);
    // More than the sequence's grain away.
    (0..600).for_each(|n| put(&mut store, entry(&twin(n), 2, 0, Some(b"w"))));
    put(&mut store, entry(&twin(4000), 2, 5, Some(b"w")));
    while store.expire(wall(10), 100) > 0 {}
    let changed = store.part(partition, None, since + 512, usize::MAX).entries;
    assert!(changed.iter().any(|entry| entry.key() == twin(4000) && entry.version() == Version(2)));
}

#[test]
fn parts_are_about_as_large_as_they_may_be_wherever_their_keys_are() {
    let scattered = |n: u64| key_of(3 << 52 | Dice(n).roll(1 << 50)).to_vec();
    let together = |n: u64| key_of(3 << 52 | n).to_vec();
    let keys: [&dyn Fn(u64) -> Vec<u8>; 2] = [&scattered, &together];
    for key in keys {
        let store = filled(Deletes::Keep, (0..5000).map(|n| entry(&key(n), 1, 0, Some(b"v"))));
        let partition = Partition::new(3).unwrap();
        let bytes: usize = contents(&store).values().map(charge::entry).sum();
        let (found, count) = pieces(&store, partition, 0, bytes / 50);
        assert_eq!(found.len(), 5000);
        assert!((45..=51).contains(&count), "{count} parts");
    }
}

#[test]
fn a_dropped_partition_leaves_nothing_and_a_lone_store_keeps_no_tombstone() {
    let mut kept = store(Deletes::Keep);
    let partition = Partition::new(3).unwrap();
    (0..3000).for_each(|n| put(&mut kept, entry(&key_of(3 << 52 | n), 1, n, Some(b"v"))));
    put(&mut kept, entry(&key_of(3 << 52 | 7), 2, 0, None));
    let other = key_of(4 << 52);
    put(&mut kept, entry(&other, 1, 0, Some(b"v")));
    kept.drop_partition(partition);
    assert_eq!((kept.live(), kept.digest(partition)), (1, 0));
    assert!(kept.is_empty(partition));
    assert!(kept.get(hash_of(&other), &other).is_some());
    assert_sums(&kept);

    let mut alone = store(Deletes::Forget);
    put(&mut alone, entry(b"a", 1, 0, Some(b"v")));
    put(&mut alone, entry(b"a", 2, 0, None));
    put(&mut alone, entry(b"b", 2, 0, None));
    assert_eq!((alone.live(), alone.bytes(), alone.digest(hash_of(b"a").partition())), (0, 0, 0));
}

/// Replicas free what has expired at different times: to those that compare digests it is the same.
#[test]
fn what_has_expired_counts_the_same_freed_or_not() {
    let entries =
        || (0..100u8).map(|at| entry(&[at], 1 + u64::from(at), 10 + u64::from(at % 2), Some(b"v")));
    let not_freed = filled(Deletes::Keep, entries());
    let mut freed = filled(Deletes::Keep, entries());
    let mut partly = filled(Deletes::Keep, entries());
    while freed.expire(wall(1000), 7) > 0 {}
    partly.expire(wall(1000), 7);
    // What one has freed is no news to the other, and the other way round.
    for other in contents(&freed).into_values() {
        put(&mut partly, other);
    }
    for partition in Partition::all() {
        assert_eq!(not_freed.digest(partition), freed.digest(partition));
        assert_eq!(not_freed.digest(partition), partly.digest(partition));
    }
}

/// Deletes of ever new keys, each purged after a while, take no more memory in the end than in the
/// beginning.
#[test]
fn memory_comes_back_with_what_is_purged() {
    let mut store = store(Deletes::Keep);
    let mut taken = Vec::new();
    for round in 0..6u32 {
        let keys: Vec<[u8; 4]> =
            (0..5_000).map(|number| (round * 5_000 + number).to_be_bytes()).collect();
        keys.iter().for_each(|key| put(&mut store, entry(key, 5, 0, None)));
        let full = store.bytes();
        keys.iter().for_each(|key| store.purge(hash_of(key), Version(5)));
        store.collect();
        assert!(
            contents(&store).is_empty()
                && Partition::all().all(|partition| !store.has_dead(partition))
        );
        assert!(store.bytes() + 5_000 * charge::entry(&entry(&keys[0], 5, 0, None)) <= full);
        taken.push(store.bytes());
    }
    assert!(taken[5] <= taken[0] + taken[0] / 4, "{taken:?}");
}

#[test]
fn what_is_older_than_a_tombstone_is_seen_and_what_is_not_is_not() {
    let mut store = store(Deletes::Keep);
    let hash = hash_of(b"key");
    assert!(!store.has_older(hash, Version(9)), "nothing at all");
    put(&mut store, entry(b"key", 5, 0, Some(b"value")));
    let older = |store: &Store| [4, 5, 6].map(|version| store.has_older(hash, Version(version)));
    assert_eq!(
        older(&store),
        [false, true, true],
        "of equal versions one that is still alive counts as older"
    );
    put(&mut store, entry(b"key", 5, 0, None));
    assert_eq!(older(&store), [false, false, true]);
}
