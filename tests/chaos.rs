//! Random schedules of faults under the simulator, and bugs on purpose that they must notice.
//!
//! `cargo run --release -p gridkv-simulate -- --seeds 0..10000` runs more of them.

use std::ops::Range;

use gridkv::sim::Planted;
use gridkv::sim::chaos::{self, ChaosOptions, Profile};

fn options(profile: Option<Profile>, planted: Option<Planted>) -> ChaosOptions {
    let mut options = ChaosOptions::default();
    (options.profile, options.planted) = (profile, planted);
    options
}

fn assert_promises_kept(profile: Option<Profile>, seeds: Range<u64>) {
    for seed in seeds {
        let summary = chaos::run(seed, &options(profile, None)).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(summary.operations > 0);
    }
}

// Two halves of the seeds beside each other; all kinds of trouble are among them.

#[test]
fn promises_are_kept_in_the_first_histories() {
    assert_promises_kept(None, 0..100);
}

#[test]
fn promises_are_kept_in_more_histories() {
    assert_promises_kept(None, 100..200);
}

/// A replica that was not synced when it took an acknowledged write anew was never asked again, as the write was
/// acknowledged: the write stayed owed for half a minute after everybody had it. Found by the tests over processes,
/// as `wait_until_safe` failed after a pause, and then by these schedules.
#[test]
fn an_acknowledged_write_that_counts_anew_is_owed_no_longer_than_it_takes() {
    for seed in [4, 106, 215] {
        assert_promises_kept(Some(Profile::Replaced), seed..seed + 1);
    }
    assert_promises_kept(Some(Profile::Splits), 150..151);
}

/// A node that restarted, cut off from the only member that knew the latest list, made one of its own from the list
/// before, whose members were dead.
#[test]
fn a_later_list_that_one_member_knows_is_not_passed_over() {
    for seed in [133, 264, 386] {
        assert_promises_kept(Some(Profile::Two), seed..seed + 1);
    }
}

/// Each bug with the kind of trouble that shows it, and within how many seeds it was seen to be noticed.
const NOTICED: &[(Planted, Profile, u64)] = &[
    (Planted::AcknowledgedFirst, Profile::Clocks, 3),
    (Planted::PendingCounts, Profile::Two, 6),
    (Planted::AnyList, Profile::Members, 6),
    (Planted::WrittenBackOnDifference, Profile::Wide, 60),
    (Planted::StampedAgain, Profile::Clocks, 3),
    (Planted::ContentNotCompared, Profile::Weak, 12),
    (Planted::MissNotConfirmed, Profile::Clocks, 12),
    (Planted::WallClock, Profile::Clocks, 3),
    (Planted::NothingOwed, Profile::Births, 40),
    (Planted::NothingCompared, Profile::Weak, 6),
    (Planted::NotLeft, Profile::Members, 20),
    (Planted::LowestReplaced, Profile::Lossy, 12),
    (Planted::OneSource, Profile::Members, 60),
    (Planted::ListedCounts, Profile::Replaced, 30),
    (Planted::BootIgnored, Profile::Two, 6),
    (Planted::AdoptedOnce, Profile::Births, 12),
    (Planted::DroppedUnasked, Profile::Replaced, 40),
    (Planted::LeftAtOnce, Profile::Replaced, 30),
    (Planted::NothingRestored, Profile::Clocks, 3),
    (Planted::BornAlone, Profile::Births, 40),
    (Planted::PurgedByTime, Profile::Splits, 40),
    (Planted::HorizonIgnored, Profile::Weak, 120),
    (Planted::AbsentIgnored, Profile::Splits, 40),
];

/// A checker that never found anything proves nothing.
#[test]
fn bugs_on_purpose_are_noticed() {
    let mut missed = Vec::new();
    for &(bug, profile, seeds) in NOTICED {
        let is_noticed = |seed: &u64| chaos::run(*seed, &options(Some(profile), Some(bug))).is_err();
        match (0..seeds).find(is_noticed) {
            Some(seed) => println!("{bug:?} was noticed by seed {seed} of {}", profile.name()),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "nobody noticed {missed:?}");
}
