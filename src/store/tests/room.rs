//! Memory: what is evicted, what is refused, and what readers hold up.

use super::*;
use crate::store::room::{EVICT_STEPS, HELD_SHARE};

const MEMORY: usize = 1 << 20;

fn cache() -> (Store, Arc<Readers>) {
    limited(Deletes::Forget, MEMORY, Eviction::Sieve)
}

fn name(n: u64) -> Vec<u8> {
    format!("key {n}").into_bytes()
}

fn has(store: &Store, key: &[u8]) -> bool {
    store.get(hash_of(key), key).is_some()
}

/// Puts values of this length until there is no room, or one was evicted. Returns how many there
/// are.
fn fill(store: &mut Store, length: usize) -> u64 {
    for n in 0.. {
        let before = store.live();
        let room = offer(store, entry(&name(n), 1, 0, Some(&vec![7; length])));
        if room != Admission::Enough || store.live() <= before {
            return n;
        }
    }
    unreachable!()
}

#[test]
fn keys_that_were_read_outlive_those_that_were_not() {
    let (mut store, _) = cache();
    let count = fill(&mut store, 1000);
    let read: Vec<_> = (0..count).filter(|n| n % 3 == 0 && has(&store, &name(*n))).collect();
    for &n in &read {
        store.get(hash_of(&name(n)), &name(n)).unwrap().visit();
    }
    // As many new ones as there are old ones that no reader has read.
    for n in 0..count / 2 {
        assert_eq!(
            offer(&mut store, entry(&name(count + 1 + n), 1, 0, Some(&[7; 1000]))),
            Admission::Enough
        );
    }
    assert!(read.iter().all(|n| has(&store, &name(*n))));
    assert_sums(&store);
}

/// It had to fit next to the value that it replaces, and nothing was evicted for that: all that an
/// app saw was that its engine is overloaded, in all that it did.
#[test]
fn a_large_value_can_be_overwritten_in_a_full_store() {
    let (mut store, _) = cache();
    let length = 600 << 10;
    for version in 1..10 {
        let value = vec![version as u8; length];
        assert_eq!(offer(&mut store, entry(b"large", version, 0, Some(&value))), Admission::Enough);
    }
    fill(&mut store, 100);
    for version in 10..20 {
        let value = vec![version as u8; 200 << 10];
        assert_eq!(offer(&mut store, entry(b"large", version, 0, Some(&value))), Admission::Enough);
        fill(&mut store, 100 + version as usize);
    }
}

/// The value that it replaces was evicted to make room for it, and its bytes were counted as room
/// once more.
#[test]
fn a_value_that_grows_evicts_what_it_needs_and_no_less() {
    let (mut store, _) = cache();
    for length in (0..800).step_by(37) {
        fill(&mut store, 100);
        let value = vec![7; length << 10];
        assert_eq!(
            offer(&mut store, entry(b"grows", 1 + length as u64, 0, Some(&value))),
            Admission::Enough
        );
        assert!(store.used() <= MEMORY - MEMORY / HELD_SHARE, "{} bytes used", store.used());
        assert_sums(&store);
    }
}

#[test]
fn every_entry_that_is_not_too_large_finds_room() {
    let (mut store, _) = cache();
    let most = Store::check_size(&entry(b"k", 1, 0, Some(&[7; MEMORY])), MEMORY).unwrap_err().1;
    let mut length = most;
    while Store::check_size(&entry(b"k", 1, 0, Some(&vec![7; length])), MEMORY).is_err() {
        length -= 64;
    }
    fill(&mut store, 10);
    for version in 1..4 {
        assert_eq!(
            offer(&mut store, entry(b"k", version, 0, Some(&vec![7; length]))),
            Admission::Enough
        );
    }
    assert!(has(&store, b"k"));
}

#[test]
fn what_deletes_leave_is_never_evicted() {
    let (mut store, _) = limited(Deletes::Keep, MEMORY, Eviction::Sieve);
    for n in 0..2000 {
        offer(&mut store, entry(&name(n), 2, 0, None));
    }
    // In the tree too.
    for n in 0..2000 {
        offer(&mut store, entry(&twin(n), 2, 0, Some(b"v")));
        offer(&mut store, entry(&twin(n), 3, 0, None));
    }
    for n in 0..20_000 {
        assert_eq!(
            offer(&mut store, entry(&name(10_000 + n), 1, 0, Some(&[7; 300]))),
            Admission::Enough
        );
    }
    assert!((0..2000).all(|n| has(&store, &name(n)) && has(&store, &twin(n))));
    assert!(store.live() > 100);
    assert_sums(&store);
}

#[test]
fn without_eviction_what_finds_no_room_is_refused_and_nothing_is_lost() {
    for deletes in [Deletes::Forget, Deletes::Keep] {
        let (mut store, _) = limited(deletes, MEMORY, Eviction::None);
        let count = fill(&mut store, 100);
        assert!(count > 3000, "{count} keys");
        let new = |n: u64| entry(&name(n), 1, 0, Some(&[7; 100]));
        assert_eq!(offer(&mut store, new(count)), Admission::OutOfMemory);
        assert!((0..count).all(|n| has(&store, &name(n))));
        // What takes no more than what it replaces fits; what takes more does not.
        assert_eq!(offer(&mut store, entry(&name(0), 2, 0, Some(&[8; 100]))), Admission::Enough);
        assert_eq!(
            offer(&mut store, entry(&name(1), 2, 0, Some(&[8; 1000]))),
            Admission::OutOfMemory
        );
        for n in 0..count {
            assert_eq!(
                offer(&mut store, entry(&name(n), 3, 0, None)),
                Admission::Enough,
                "a delete fits"
            );
        }
        assert_eq!(store.live(), 0);
        assert_eq!(offer(&mut store, new(count)), Admission::Enough);
        assert_sums(&store);
    }
}

#[test]
fn a_reader_that_stalls_holds_writes_up_until_it_goes() {
    for eviction in [Eviction::Sieve, Eviction::None] {
        let (mut store, readers) = limited(Deletes::Forget, MEMORY, eviction);
        let reader = readers.register();
        let guard = reader.pin(&readers);
        let value = [7; 4000];
        let mut held_up = None;
        for version in 1..1000 {
            let room = offer(&mut store, entry(&name(version % 10), version, 0, Some(&value)));
            if room != Admission::Enough {
                held_up = Some((version, room));
                break;
            }
        }
        let (version, room) = held_up.expect("nothing is freed while it looks");
        assert_eq!(room, Admission::HeldByReaders);
        assert!(store.retired_bytes() > MEMORY / 2);
        let all_there = |store: &Store| (0..10).all(|n| has(store, &name(n)));
        assert!(all_there(&store), "a write that is refused costs nothing");
        assert_eq!(
            offer(&mut store, entry(&name(0), version, 0, None)),
            Admission::Enough,
            "a delete fits"
        );
        drop(guard);
        assert_eq!(
            offer(&mut store, entry(&name(0), version + 1, 0, Some(&value))),
            Admission::Enough
        );
        assert!(all_there(&store));
        store.collect();
        assert_eq!(store.retired_bytes(), 0);
        assert_sums(&store);
    }
}

#[test]
fn without_a_limit_what_readers_hold_is_bounded() {
    let readers = Arc::new(Readers::new(None));
    let mut store = Store::new(config(Deletes::Forget), readers.clone());
    let reader = readers.register();
    let guard = reader.pin(&readers);
    let value = vec![7; 1 << 20];
    let refused = (1..1000).find(|version| {
        let entry = entry(b"k", *version, 0, Some(&value));
        let room = store.make_room(hash_of(b"k"), &entry);
        store.apply(hash_of(b"k"), entry);
        room != Admission::Enough
    });
    assert!(refused.is_some_and(|version| (55..70).contains(&version)), "{refused:?}");
    drop(guard);
    let entry = entry(b"k", 2000, 0, Some(&value));
    while store.make_room(hash_of(b"k"), &entry) == Admission::Later {}
    assert_eq!(store.make_room(hash_of(b"k"), &entry), Admission::Enough);
}

/// A long value that two versions of an entry share was counted as held by neither of them when
/// both were replaced while a reader looked.
#[test]
fn a_long_value_that_was_touched_and_deleted_is_held_once() {
    let (mut store, readers) = limited(Deletes::Forget, 4 << 20, Eviction::Sieve);
    let reader = readers.register();
    let guard = reader.pin(&readers);
    let first = entry(b"k", 1, 0, Some(&vec![7; 1 << 20]));
    let touched = first.copy(Version(2), NonZeroU64::new(5));
    let long = charge::entry(&first);
    put(&mut store, first);
    put(&mut store, touched);
    assert!(store.retired_bytes() < 1000, "the value is in use");
    put(&mut store, entry(b"k", 3, 0, None));
    assert!((long..long + 1000).contains(&store.retired_bytes()), "{} held", store.retired_bytes());
    drop(guard);
    store.collect();
    assert_eq!(
        (store.bytes() - store.queue.as_ref().map_or(0, Sieve::bytes), store.retired_bytes()),
        (0, 0)
    );
}

/// A new deadline of a long value shares it, and needs room for itself alone.
#[test]
fn a_long_value_can_be_touched_in_a_full_store() {
    for eviction in [Eviction::Sieve, Eviction::None] {
        let (mut store, _) = limited(Deletes::Forget, MEMORY, eviction);
        offer(&mut store, entry(b"k", 1, 9, Some(&vec![7; 800 << 10])));
        for version in 2..10 {
            let touched = store
                .get(hash_of(b"k"), b"k")
                .unwrap()
                .copy(Version(version), NonZeroU64::new(version));
            assert_eq!(offer(&mut store, touched), Admission::Enough);
            assert!(has(&store, b"k"));
        }
    }
}

#[test]
fn what_expires_gives_its_bytes_back_though_nobody_touches_it() {
    for deletes in [Deletes::Forget, Deletes::Keep] {
        let mut store = store(deletes);
        let mut dice = Dice(1);
        for n in 0..20_000 {
            let key = if n % 4 == 0 { twin(n).to_vec() } else { name(n) };
            put(&mut store, entry(&key, 1, 1 + dice.roll(1_000_000), Some(&[7; 100])));
        }
        assert_sums(&store);
        let full = store.bytes();
        let mut at = 0;
        while let Some(next) = store.next_expiry_ms() {
            at = next.max(at) + 20_000;
            while store.expire(wall(at), 256) == 256 {}
            assert_counts(&store);
        }
        assert!(at < 1_100_000);
        assert_eq!((store.live(), store.timers.len()), (0, 0));
        store.collect();
        if deletes == Deletes::Forget {
            assert_eq!(store.bytes(), 0);
        } else {
            assert!(store.bytes() < full - 20_000 * 100);
        }
        assert_eq!(store.retired_bytes(), 0);
        assert_sums(&store);
    }
}

#[test]
fn timers_go_with_their_values() {
    let mut store = store(Deletes::Keep);
    let mut dice = Dice(2);
    for n in 0..50_000 {
        let key = if n % 3 == 0 { twin(dice.roll(100)).to_vec() } else { name(dice.roll(500)) };
        let expires = dice.roll(3) * dice.roll(1000);
        let value = (dice.roll(4) > 0).then_some(&b"v"[..]);
        put(&mut store, entry(&key, 1 + n / 2, expires, value));
        match dice.roll(500) {
            0 => assert!(store.expire(wall(dice.roll(500)), 10) <= 10),
            1 => store.drop_partition(hash_of(&key).partition()),
            2 => assert_sums(&store),
            _ => {}
        }
    }
    assert_sums(&store);
}

/// What the tree gave to the buckets when their segment split at last had lost its line in the
/// queue, as the queue does not find what is in the tree: it could never be evicted.
#[test]
fn what_comes_back_from_the_tree_can_be_evicted() {
    let (mut store, _) = limited(Deletes::Forget, 16 << 20, Eviction::Sieve);
    // More than fit into one bucket and the stash, by enough that some are in the tree, while the
    // partition's array is as large as these few segments may have; they differ in the last bits
    // that it can decide.
    let crafted = |n: u64| key_of(3 << 52 | (n >> 3) << 39 | n & 7);
    (0..100).for_each(|n| {
        assert_eq!(offer(&mut store, entry(&crafted(n), 1, 0, Some(b"v"))), Admission::Enough)
    });
    let before = store.table.tree_len();
    assert!(before > 0);
    // The queue forgets stale lines while keys come and go.
    for n in 0..20_000 {
        offer(&mut store, entry(&name(n), 1, 0, Some(b"v")));
        offer(&mut store, entry(&name(n), 2, 0, None));
    }
    // Others of the partition: its array may grow now.
    let mut dice = Dice(3);
    for _ in 0..20_000 {
        offer(&mut store, entry(&key_of(3 << 52 | dice.roll(1 << 52)), 1, 0, Some(b"v")));
    }
    (100..150).for_each(|n| {
        assert_eq!(offer(&mut store, entry(&crafted(n), 1, 0, Some(b"v"))), Admission::Enough)
    });
    assert!(store.table.tree_len() < before, "the segment has split");
    let mut steps = usize::MAX;
    while store.evict(&mut steps) {}
    assert_eq!(store.live(), 0, "all can go");
}

/// A line of the queue found a key by its tag and generation alone: in the stash that could be a
/// key of another bucket. It went in the place of the right one, and the counts of who is in the
/// stash were wrong from then on: keys that were there were not found.
#[test]
fn a_line_evicts_its_own_key_and_no_other_of_its_tag() {
    let (mut store, _) = cache();
    let mut dice = Dice(4);
    // All of one tag, in every bucket.
    let same_tag = |n: u64| key_of((n % 4) << 52 | (n / 4 % 64) << 25 | (n / 256) << 36);
    for version in 1..60_000 {
        let n = dice.roll(12_000);
        let value = (dice.roll(3) > 0).then_some(&[7; 100][..]);
        offer(&mut store, entry(&same_tag(n), version, 0, value));
        if version % 2000 == 0 {
            assert!(contents(&store).keys().all(|key| has(&store, key)), "after {version} writes");
            assert_sums(&store);
        }
    }
    assert!(store.used() > MEMORY / 2, "some were evicted");
}

/// A turn that evicted from the tree took as many steps as it liked.
#[test]
fn room_for_a_large_value_among_many_small_ones_is_made_in_turns() {
    let (mut store, _) = limited(Deletes::Forget, 4 << 20, Eviction::Sieve);
    let mut n = 0;
    while store.used() < 3 << 20 {
        offer(&mut store, entry(&twin(n), 1, 0, Some(b"v")));
        n += 1;
    }
    let large = entry(b"large", 1, 0, Some(&vec![7; 2 << 20]));
    let (mut turns, mut live) = (0, store.live());
    while store.make_room(hash_of(b"large"), &large) == Admission::Later {
        assert!(live - store.live() <= EVICT_STEPS, "{} in one turn", live - store.live());
        live = store.live();
        turns += 1;
    }
    assert!(turns > 10);
    assert_eq!(offer(&mut store, large), Admission::Enough);
}
