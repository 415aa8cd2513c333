//! Random schedules of faults under the simulator, and bugs on purpose that they must notice.
//!
//! `cargo run --release -p gridkv-simulate -- --seeds 0..10000` runs more of them.

use std::ops::Range;
use std::time::Duration;

use gridkv::sim::chaos::{self, ChaosOptions, Profile};
use gridkv::sim::{ProtocolMutant, SimOptions};

use crate::support;

fn options(profile: Option<Profile>, mutant: Option<ProtocolMutant>) -> ChaosOptions {
    let mut options = ChaosOptions::default();
    (options.profile, options.mutant) = (profile, mutant);
    options
}

fn assert_promises_kept(profile: Option<Profile>, seeds: Range<u64>) {
    for seed in seeds {
        let summary =
            chaos::run(seed, &options(profile, None)).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(summary.operations > 0);
    }
}

// Two halves of the seeds, at the same time; all kinds of trouble are among them.

#[test]
fn promises_are_kept_in_the_first_histories() {
    assert_promises_kept(None, 0..100);
}

#[test]
fn promises_are_kept_in_more_histories() {
    assert_promises_kept(None, 100..200);
}

/// A replica that was not synced when it took an acknowledged write again was never asked once
/// more, as the write was acknowledged: the write stayed owed for half a minute after every replica
/// had it. Found by the tests over processes, as `wait_until_safe` failed after a pause, and then
/// by these schedules.
#[test]
fn an_acknowledged_write_that_counts_anew_is_owed_no_longer_than_it_takes() {
    for seed in [4, 106, 215] {
        assert_promises_kept(Some(Profile::Replaced), seed..seed + 1);
    }
    assert_promises_kept(Some(Profile::Splits), 150..151);
}

/// A node wrote, two replicas acknowledged it, and the connection to the third was lost before that
/// had it. When the network was whole again, that one was asked first: the node read what had been
/// before its own write.
#[test]
fn a_node_reads_its_own_write_where_the_replica_that_is_asked_missed_it() {
    assert_promises_kept(Some(Profile::Members), 82..83);
}

/// A node asked to be dialled back before the other had heard of it. The connection for that stayed
/// when it had, but no node knew that it was there: the cluster was never born.
#[test]
fn who_asked_to_be_reached_before_it_was_known_is_heard() {
    assert_promises_kept(Some(Profile::Rebirths), 30036..30037);
}

/// A node that restarted, cut off from the only member that knew the latest list, made one of its
/// own from the list before, whose members were dead.
#[test]
fn a_later_list_that_one_member_knows_is_not_passed_over() {
    for seed in [133, 264, 386] {
        assert_promises_kept(Some(Profile::Two), seed..seed + 1);
    }
}

/// A coordinator forgot its own write with the death of the replica that missed it, which was taken
/// back. `clusters` has it as a schedule of its own.
#[test]
fn a_hint_outlives_a_death_that_is_taken_back() {
    assert_promises_kept(Some(Profile::Lossy), 3476..3477);
}

/// A read was under way while its node was cut off, and remembered what the node had written
/// itself. Another node deleted the key, and the deletion was purged everywhere. The replicas that
/// answered then knew of nothing, and the deleted value was read, and written back.
#[test]
fn what_a_node_wrote_itself_is_not_read_when_a_newer_delete_was_purged() {
    assert_promises_kept(Some(Profile::Wide), 42522..42523);
}

/// What came later than what the seeds above choose from.
#[test]
fn promises_are_kept_in_two_data_centers_and_where_every_node_has_a_copy() {
    assert_promises_kept(Some(Profile::DataCenters), 0..50);
    assert_promises_kept(Some(Profile::Everywhere), 0..30);
}

/// Trouble that a minute of single faults never makes: W - 1 crashes at once during a pause or a
/// cut, hosts that are suspended, cores and control threads that stand still, two sites that never
/// reach each other. What is never mended is not lifted before the end is judged.
#[test]
fn promises_are_kept_beside_trouble_that_lasts() {
    for profile in [Profile::Crashes, Profile::Hosts, Profile::Mixed, Profile::Spokes] {
        assert_promises_kept(Some(profile), 0..20);
    }
}

/// The clock of one node is set forward and back, by up to an hour, while keys expire. They might
/// be missing there, or live on, while it is wrong. Afterwards every value that should still live
/// is on all replicas.
#[test]
fn promises_are_kept_while_a_clock_is_set() {
    assert_promises_kept(Some(Profile::Steps), 0..40);
}

/// Nothing is evicted, and the keys and their copies do not fit: writes are refused, copies are not
/// whole, nodes that are asked to leave stay. Nothing that was acknowledged is lost, "safe" and a
/// `leave` are true, and when keys were deleted the copies become whole by themselves.
#[test]
fn promises_are_kept_where_there_is_no_room_for_all() {
    let mut refused = 0;
    for seed in 0..20 {
        let summary = chaos::run(seed, &options(Some(Profile::Full), None))
            .unwrap_or_else(|failure| panic!("{failure}"));
        refused += summary.refused;
    }
    assert!(refused > 500, "{refused} writes were refused");
}

/// A member of a list has died, or leaves, and no node that should take its place has room. The
/// list keeps it, so that a delete, which would make room, does not find W replicas. It does when a
/// node with room is added.
#[test]
fn a_node_with_room_frees_the_keys_whose_dead_member_could_not_be_replaced() {
    for seed in [93, 60000, 60036] {
        assert_promises_kept(Some(Profile::Full), seed..seed + 1);
    }
}

/// With R ≥ 2 the operations on a key could have happened one after the other, whatever becomes of
/// its list: members join, leave, crash, come back at once, or are taken for dead and return. Only
/// what follows a fork, or a word of data at risk, is not judged.
#[test]
fn strong_reads_are_linearizable_over_changes_of_lists() {
    let profiles = [
        Profile::Members,
        Profile::QuickRestarts,
        Profile::Replaced,
        Profile::Crashes,
        Profile::Splits,
    ];
    for profile in profiles {
        let mut over_changes = 0;
        // The odd seeds have R ≥ 2.
        for seed in (1..12).step_by(2) {
            let summary = chaos::run(seed, &options(Some(profile), None))
                .unwrap_or_else(|failure| panic!("{failure}"));
            over_changes += summary.linearizable.over_changes;
        }
        assert!(over_changes > 20, "{}: {over_changes} keys", profile.name());
    }
}

/// Two nodes are asked to leave while they are cut off from the three others. They take these for
/// dead and themselves for the last nodes of all, and are gone at once: what only they and one
/// other held has one copy left, and what the third one missed has none. Found by seed 28 of
/// `half-dead`.
#[test]
fn who_leaves_while_cut_off_is_not_the_last_of_all() {
    for seed in 0..3 {
        let mut options = SimOptions::default();
        options.partitions = 16;
        let mut cluster = support::started(seed, 5, options);
        cluster.split(&[0, 1], &[2, 3, 4]);
        support::wait(&mut cluster, Duration::from_secs(10), |it| it.is_dead_for(0, &[2, 3, 4]));
        support::wait(&mut cluster, Duration::from_secs(10), |it| it.is_dead_for(1, &[2, 3, 4]));
        cluster.leave(0);
        cluster.leave(1);
        cluster.run_for(Duration::from_secs(5));
        for node in [0, 1] {
            assert!(cluster.is_running(node), "seed {seed}: n{node} gave its data to nobody");
        }
    }
}

/// A node leaves while it is cut off for longer than `Config::tombstone_retention`. With none left
/// whom it knew it took itself for the last of all, and went with the only copy of what it had
/// taken up before. Found by seeds 60009 and 60146 of `half-dead`.
fn is_gone_after_it_forgot_the_others(seed: u64, mutant: Option<ProtocolMutant>) -> bool {
    let mut options = SimOptions::default();
    (options.partitions, options.mutant) = (16, mutant);
    options.tombstone_retention = Duration::from_secs(20);
    let mut cluster = support::started(seed, 3, options);
    cluster.split(&[0], &[1, 2]);
    support::wait(&mut cluster, Duration::from_secs(10), |it| it.is_dead_for(0, &[1, 2]));
    cluster.leave(0);
    cluster.run_for(Duration::from_secs(40));
    let is_gone = !cluster.is_running(0);
    // It finishes once it can give its data away.
    cluster.mend();
    support::wait(&mut cluster, Duration::from_secs(30), |it| !it.is_running(0));
    is_gone
}

#[test]
fn who_has_forgotten_the_others_does_not_leave_with_what_it_holds() {
    for seed in 0..3 {
        assert!(!is_gone_after_it_forgot_the_others(seed, None), "seed {seed}");
    }
    let mutant = Some(ProtocolMutant::ForgottenNotAwaited);
    assert!(is_gone_after_it_forgot_the_others(0, mutant));
}

/// A pair of nodes that never reach each other held up repair where a list had both.
#[test]
fn a_pair_of_nodes_that_do_not_reach_each_other_holds_up_no_repair() {
    assert_promises_kept(Some(Profile::Pair), 0..20);
}

/// A member whose gossip works and whose cores reach no other node held up partitions of others.
#[test]
fn a_half_dead_member_stands_in_nobodys_way() {
    assert_promises_kept(Some(Profile::HalfDead), 0..21);
}

/// The nodes with lower numbers had left, so the half-dead one was the first of those that count
/// themselves as replicas. What it had kept since before its trouble was taken for the end of a key
/// of which all others had newer values.
#[test]
fn what_a_half_dead_member_has_kept_is_not_what_is_there_in_the_end() {
    assert_promises_kept(Some(Profile::HalfDead), 60_141..60_142);
}

/// Each bug with the kind of trouble that shows it, and the first seed that was seen to. (Those
/// that forget deletes, or evict, are in tests of their own, `purge`, `data_centers` and
/// `eviction`. `hubs` has those that need two nodes which never reach each other. `clusters` has
/// the one whose hints end with a death, which takes a pause of the right length, and `lists` the
/// one that merges a single source.) Where the protocol changes, so does what a seed does: three
/// times as many are tried, and ten more.
///
/// Random schedules hardly need the rules by which one list follows another. Each of these has a
/// schedule of its own in `chain`, or is left out of the machines themselves, in random orders of
/// their messages, by the tests of `replication::handoff`; whether a member that has accepted a
/// list still counts in its own is a test of `shard`. `simulate/models` searches them all.
const NOTICED: &[(ProtocolMutant, Profile, u64)] = &[
    (ProtocolMutant::DeadExcused, Profile::Majority, 1),
    (ProtocolMutant::AcknowledgedFirst, Profile::Clocks, 0),
    (ProtocolMutant::AnyList, Profile::QuickRestarts, 46),
    (ProtocolMutant::StampedAgain, Profile::Clocks, 0),
    (ProtocolMutant::ContentNotCompared, Profile::Weak, 9),
    (ProtocolMutant::MissNotConfirmed, Profile::Clocks, 0),
    (ProtocolMutant::WallClock, Profile::Clocks, 0),
    (ProtocolMutant::NothingOwed, Profile::Births, 12),
    (ProtocolMutant::NothingCompared, Profile::Weak, 1),
    (ProtocolMutant::BootIgnored, Profile::Two, 0),
    (ProtocolMutant::AdoptedOnce, Profile::Births, 37),
    (ProtocolMutant::DroppedUnasked, Profile::Splits, 23),
    (ProtocolMutant::LeftAtOnce, Profile::Replaced, 0),
    (ProtocolMutant::NothingRestored, Profile::Clocks, 0),
    (ProtocolMutant::BornAlone, Profile::Births, 18),
    (ProtocolMutant::FarNotCompared, Profile::DataCenters, 0),
    (ProtocolMutant::DeclinedCovered, Profile::Full, 0),
    (ProtocolMutant::HuskTies, Profile::Steps, 0),
    (ProtocolMutant::EarlyHuskBelieved, Profile::Steps, 7),
    (ProtocolMutant::EarlyHusksKept, Profile::Steps, 18),
];

/// A checker that never found anything proves nothing.
#[test]
fn bugs_on_purpose_are_noticed() {
    let mut missed = Vec::new();
    for &(bug, profile, first) in NOTICED {
        let is_noticed =
            |seed: &u64| chaos::run(*seed, &options(Some(profile), Some(bug))).is_err();
        match (0..3 * first + 10).find(is_noticed) {
            Some(seed) => println!("{bug:?} was noticed by seed {seed} of {}", profile.name()),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "nobody noticed {missed:?}");
}
