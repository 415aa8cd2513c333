//! The scenarios. The thread that sets a scenario up is the writer.

use loom::thread;

use crate::clock::{Version, WallTime};
use crate::harness::{CLUSTER, Model, ReaderThread, Shard, entry, hash, look};
use crate::mutants::OrderingMutant;
use crate::store::{Deletes, Local};
use crate::types::{CoreId, KeyHash};

/// What loom says of a use that is not ordered with a write or a free.
const RACE: &str = "Causality violation";

const KEY: KeyHash = hash(0x00, 1);
const OTHER: KeyHash = hash(0x01, 2);

/// A reader that finds an entry finds all of it: a new key's, and one that replaces another.
pub static PUBLISH: Model = Model {
    scenario: || {
        let mut shard = Shard::new(&[KEY]);
        let reader = shard.read(|thread| {
            assert!(matches!(thread.get(KEY), Local::Found(1..=2)));
            assert!(matches!(thread.get(OTHER), Local::Absent | Local::Found(1)));
        });
        shard.put(KEY, 2);
        shard.put(OTHER, 1);
        shard.end([reader]);
    },
    preemptions: None,
    mutants: &[(OrderingMutant::RelaxedPublish, RACE)],
};

/// A reader keeps a handle for longer than it is pinned: the thread that drops the last one frees
/// the entry.
pub static HANDLES: Model = Model {
    scenario: || {
        let mut shard = Shard::new(&[KEY]);
        let reader = shard.read(|thread| {
            let entry = thread.take(KEY).expect("it is there all along");
            assert_eq!(entry.bytes(), 24);
        });
        shard.put(KEY, 2);
        shard.store.collect();
        shard.end([reader]);
    },
    preemptions: None,
    mutants: &[(OrderingMutant::RelaxedDrop, RACE)],
};

/// An entry is given its version in place only when every other thread that had a handle has done
/// with it.
pub static STAMP: Model = Model {
    scenario: || {
        let mut entry = entry(KEY, 1, 0);
        let other = entry.clone();
        let thread = thread::spawn(move || assert_eq!(other.version(), Version(1)));
        entry.stamp(Version(2));
        assert_eq!(entry.version(), Version(2));
        thread.join().expect("it has not panicked");
    },
    preemptions: None,
    mutants: &[(OrderingMutant::RelaxedDrop, RACE)],
};

/// A pinned reader keeps what it finds; what it does not keep is freed.
pub static PIN: Model = Model {
    scenario: || {
        let mut shard = Shard::new(&[KEY]);
        let reader = shard.read(|thread| {
            let pinned = thread.views.pin_in(&thread.reader);
            assert!(matches!(look(&pinned, KEY), Local::Found(1..=3)));
        });
        shard.put(KEY, 2);
        shard.store.collect();
        shard.put(KEY, 3);
        shard.store.collect();
        shard.end([reader]);
    },
    preemptions: None,
    mutants: &[
        (OrderingMutant::UnfencedPin, RACE),
        (OrderingMutant::UnfencedCollect, RACE),
        (OrderingMutant::RelaxedEpoch, RACE),
    ],
};

/// A reader pins again: the writer that sees the later announcement knows that the earlier one is
/// over.
pub static REPIN: Model = Model {
    scenario: || {
        let mut shard = Shard::new(&[KEY]);
        let reader = shard.read(|thread| {
            assert!(matches!(thread.get(KEY), Local::Found(1..=2)));
            assert!(matches!(thread.get(KEY), Local::Found(1..=2)));
        });
        shard.put(KEY, 2);
        shard.store.collect();
        shard.end([reader]);
    },
    preemptions: None,
    mutants: &[(OrderingMutant::RelaxedRepin, RACE)],
};

/// Readers come and go, one in the other's place, while epochs end.
pub static REGISTER: Model = Model {
    scenario: || {
        let mut shard = Shard::new(&[KEY]);
        let threads = [0, 1].map(|_| {
            let (readers, views) = (shard.readers.clone(), shard.views.clone());
            thread::spawn(move || {
                let thread = ReaderThread { reader: readers.register(), views };
                assert!(matches!(thread.get(KEY), Local::Found(1..=2)));
            })
        });
        shard.put(KEY, 2);
        shard.store.collect();
        shard.end(threads);
    },
    preemptions: Some(3),
    mutants: &[(OrderingMutant::RelaxedExit, RACE), (OrderingMutant::UnfencedPin, RACE)],
};

/// A key is deleted and its slot given to another with the same tag, and then to one with another
/// tag: a reader of the one does not find the others.
pub static REUSE: Model = Model {
    scenario: || {
        const SAME_TAG: KeyHash = hash(0x01, 1);
        let mut shard = Shard::new(&[KEY]);
        let reader = shard.read(|thread| {
            assert!(matches!(thread.get(KEY), Local::Found(1) | Local::Absent));
            assert!(matches!(thread.get(SAME_TAG), Local::Found(1) | Local::Absent));
        });
        shard.delete(KEY);
        shard.put(SAME_TAG, 1);
        shard.delete(SAME_TAG);
        shard.put(OTHER, 1);
        shard.store.collect();
        shard.end([reader]);
    },
    preemptions: Some(4),
    mutants: &[(OrderingMutant::TagIsKey, "another key was found")],
};

/// Keys come and go in the stash while another stays there.
pub static STASH: Model = Model {
    scenario: || {
        // The first two fill the home bucket.
        let keys @ [_, _, comes, stays] = [1, 2, 3, 4].map(|tag| hash(0, tag));
        let mut shard = Shard::new(&keys);
        let reader = shard.read(move |thread| {
            assert_eq!(thread.get(stays), Local::Found(1), "missed");
            assert!(matches!(thread.get(comes), Local::Found(1) | Local::Absent));
        });
        shard.delete(comes);
        shard.put(comes, 1);
        shard.end([reader]);
    },
    preemptions: None,
    mutants: &[(OrderingMutant::ClearedHint, "missed")],
};

/// Four that fill one segment and differ in the first bit of the path, and one more of either half.
const FOUR: [KeyHash; 4] = [hash(0x00, 1), hash(0x01, 2), hash(0x80, 3), hash(0x81, 4)];
const FIFTH: KeyHash = hash(0x82, 5);

/// Reads a key that is there all along, twice.
fn never_missed_never_older(thread: &ReaderThread, key: KeyHash) {
    let versions = [(); 2].map(|()| match thread.get(key) {
        Local::Found(version) => version,
        other => panic!("missed: {other:?}"),
    });
    assert!(versions[0] <= versions[1], "older: {versions:?}");
}

/// The only segment splits while one of its keys is replaced, before and after: the first array
/// comes.
pub static SPLIT: Model = Model {
    scenario: || {
        let mut shard = Shard::new(&FOUR);
        let reader = shard.read(|thread| never_missed_never_older(thread, FOUR[0]));
        shard.put(FOUR[0], 2);
        shard.put(FIFTH, 1);
        shard.put(FOUR[0], 3);
        shard.store.collect();
        shard.end([reader]);
    },
    preemptions: None,
    mutants: &[(OrderingMutant::SplitInPlace, "missed"), (OrderingMutant::RelaxedDirectory, RACE)],
};

/// Four of which all are in the half that the fifth is not in.
const CROWD: [KeyHash; 4] = [hash(0x00, 1), hash(0x01, 2), hash(0x02, 3), hash(0x41, 4)];

/// The array is replaced by one of twice its words.
pub static GROWTH: Model = Model {
    scenario: || {
        let mut shard = Shard::new(&CROWD);
        shard.put(FIFTH, 1);
        let reader = shard.read(|thread| {
            never_missed_never_older(thread, CROWD[3]);
            assert_eq!(thread.get(FIFTH), Local::Found(1), "missed");
        });
        shard.put(hash(0x40, 6), 1);
        shard.put(CROWD[3], 2);
        shard.store.collect();
        shard.end([reader]);
    },
    preemptions: Some(4),
    mutants: &[(OrderingMutant::SplitInPlace, "missed"), (OrderingMutant::RelaxedDirectory, RACE)],
};

/// A segment splits to which two words of the array led, as the other half is deeper.
pub static LINK: Model = Model {
    scenario: || {
        let mut shard = Shard::new(&CROWD);
        for path in [0x82, 0x40, 0x83, 0xc0, 0xc1] {
            shard.put(hash(path, 5), 1);
        }
        let reader = shard.read(|thread| never_missed_never_older(thread, FIFTH));
        shard.put(FIFTH, 2);
        // The last to be retired, and so the first to be freed, is a segment: an entry is freed
        // behind a fence of its own.
        shard.put(hash(0xc2, 5), 1);
        shard.store.collect();
        shard.end([reader]);
    },
    preemptions: Some(4),
    mutants: &[(OrderingMutant::SplitInPlace, "missed"), (OrderingMutant::RelaxedDirectory, RACE)],
};

/// Two segments become one again, and the array goes.
pub static MERGE: Model = Model {
    scenario: || {
        let [last, gone, stays, also_gone] = FOUR;
        let mut shard = Shard::new(&FOUR);
        shard.put(FIFTH, 1);
        [gone, also_gone, FIFTH].into_iter().for_each(|key| shard.delete(key));
        let reader = shard.read(move |thread| never_missed_never_older(thread, stays));
        shard.delete(last);
        shard.put(stays, 2);
        shard.store.collect();
        shard.end([reader]);
    },
    preemptions: Some(4),
    mutants: &[(OrderingMutant::RelaxedDirectory, RACE)],
};

/// What is evicted, or expires, stays for a reader that has found it.
pub static EVICTION: Model = Model {
    scenario: || {
        // So little that everything goes.
        let mut shard = Shard::with(Deletes::Forget, Some(1 << 10), &[KEY]);
        let reader = shard.read(|thread| {
            assert!(matches!(thread.get(KEY), Local::Found(1) | Local::Absent));
        });
        shard.store.make_room(OTHER, &entry(OTHER, 1, 0));
        shard.store.collect();
        shard.end([reader]);
    },
    preemptions: None,
    mutants: &[(OrderingMutant::FreeAtOnce, RACE)],
};

/// What is evicted, or expires, stays for a reader that has found it.
pub static EXPIRY: Model = Model {
    scenario: || {
        let mut shard = Shard::with(Deletes::Keep, None, &[]);
        shard.store.apply(KEY, entry(KEY, 1, 5));
        let reader = shard.read(|thread| assert_eq!(thread.get(KEY), Local::Found(1), "missed"));
        assert!(shard.store.expire(WallTime::from_micros(10_000), 8) > 0);
        shard.store.collect();
        shard.end([reader]);
    },
    preemptions: None,
    mutants: &[(OrderingMutant::FreeAtOnce, RACE)],
};

/// A partition is given away, emptied, filled and taken back, in which its key was never known to
/// be missing.
pub static PARTITION: Model = Model {
    scenario: || {
        let mut shard = Shard::new(&[KEY]);
        let reader = shard.read(|thread| {
            assert!(
                matches!(thread.get(KEY), Local::Found(1..=2) | Local::AskOwner),
                "a false miss"
            );
        });
        shard.store.serve(KEY.partition(), false);
        shard.store.drop_partition(KEY.partition());
        shard.put(KEY, 2);
        shard.store.serve(KEY.partition(), true);
        shard.store.collect();
        shard.end([reader]);
    },
    preemptions: None,
    mutants: &[(OrderingMutant::TrustedMiss, "a false miss")],
};

/// A partition is given away with a key of the stash, which a reader misses as soon as its home
/// bucket's header does not lead there.
pub static STASHED_PARTITION: Model = Model {
    scenario: || {
        let keys @ [_, _, stashed] = [1, 2, 3].map(|tag| hash(0, tag));
        let mut shard = Shard::new(&keys);
        let reader = shard.read(move |thread| {
            assert!(
                matches!(thread.get(stashed), Local::Found(1) | Local::AskOwner),
                "a false miss"
            );
        });
        shard.store.serve(stashed.partition(), false);
        shard.store.drop_partition(stashed.partition());
        shard.put(OTHER, 1);
        shard.end([reader]);
    },
    preemptions: None,
    mutants: &[(OrderingMutant::TrustedMiss, "a false miss")],
};

/// A reader walks over a segment: it sees a key that is there all along once, and whole.
pub static WALK: Model = Model {
    scenario: || {
        let mut shard = Shard::new(&[KEY]);
        let reader = shard.read(|thread| {
            let mut versions = Vec::new();
            let pinned = thread.views.pin_in(&thread.reader);
            pinned.walk(CoreId(0), 0, |path, entry| {
                if path == KEY.0 {
                    assert_eq!(entry.key(), KEY.key(CLUSTER), "another key was found");
                    versions.push(entry.version().0);
                }
            });
            assert!(matches!(versions[..], [1..=2]), "{versions:?}");
        });
        shard.put(KEY, 2);
        shard.put(OTHER, 1);
        shard.store.collect();
        shard.end([reader]);
    },
    preemptions: None,
    mutants: &[(OrderingMutant::RelaxedPublish, RACE)],
};
