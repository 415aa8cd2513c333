//! What was deleted is forgotten, and does not come back, under the simulator.

use std::time::Duration;

use gridkv::sim::{ProtocolMutant, SimCluster, SimOptions};

use crate::support::{self, SECOND, WRITTEN, outcome, settle, started};

/// How old a tombstone is when it goes, in these simulations. The product waits for a minute.
const GRACE: Duration = Duration::from_secs(5);

/// Within this everything is purged that can be: the replicas that come later wait for four cycles.
const PURGED_WITHIN: Duration = Duration::from_secs(30);

fn options(mutant: Option<ProtocolMutant>) -> SimOptions {
    let mut options = SimOptions::default();
    options.partitions = 64;
    options.purge_grace = GRACE;
    options.mutant = mutant;
    options
}

fn name(key: usize) -> String {
    options(None).key(key)
}

fn write(cluster: &mut SimCluster, node: usize, key: usize) {
    support::write(cluster, node, name(key), "value");
}

fn delete(cluster: &mut SimCluster, node: usize, key: usize) {
    support::delete(cluster, node, name(key));
}

/// How many nodes hold anything of the key, and how many a value.
fn held(cluster: &SimCluster, key: usize) -> (usize, usize) {
    let stored = cluster.stored(name(key));
    (stored.len(), stored.iter().filter(|stored| stored.value.is_some()).count())
}

fn is_forgotten(cluster: &SimCluster, keys: std::ops::Range<usize>) -> bool {
    keys.clone().all(|key| held(cluster, key) == (0, 0))
}

/// Deletes and expired values take no memory in the end, on any node, while what is there stays.
#[test]
fn what_was_deleted_or_expired_is_forgotten_by_all_nodes() {
    for seed in 0..4 {
        let mut cluster = started(seed, 4, options(None));
        (0..60).for_each(|key| write(&mut cluster, key % 4, key));
        for key in 60..80 {
            let call = cluster.set_for(key % 4, name(key), "brief", 2 * SECOND);
            assert_eq!(outcome(&mut cluster, call), WRITTEN);
        }
        (0..40).for_each(|key| delete(&mut cluster, (key + 1) % 4, key));
        cluster.run_for(GRACE / 2);
        assert_eq!(held(&cluster, 0), (3, 0), "not before the grace is over");
        assert!(
            cluster.run_until(PURGED_WITHIN, |cluster| is_forgotten(cluster, 0..40)
                && is_forgotten(cluster, 60..80)),
            "{:?}",
            (0..80).map(|key| held(&cluster, key)).collect::<Vec<_>>()
        );
        cluster.run_for(2 * PURGED_WITHIN);
        assert!(is_forgotten(&cluster, 0..40));
        for key in 40..60 {
            assert_eq!(held(&cluster, key), (3, 3));
        }
        // What is written again is not mistaken for what was forgotten.
        (0..40).for_each(|key| write(&mut cluster, key % 4, key));
        cluster.run_for(PURGED_WITHIN);
        for key in 0..40 {
            assert_eq!(held(&cluster, key), (3, 3));
        }
    }
}

/// One replica misses the delete: whether the key is forgotten at last, and how many hold its value
/// in the end.
fn a_replica_misses_the_delete(seed: u64, mutant: Option<ProtocolMutant>) -> usize {
    let mut cluster = started(seed, 3, options(mutant));
    write(&mut cluster, 0, 0);
    cluster.run_for(SECOND);
    // Their cores do not reach each other, while the members go on seeing each other.
    for other in [0, 1] {
        cluster.cut(other, 2);
        cluster.cut(2, other);
    }
    cluster.run_for(SECOND);
    delete(&mut cluster, 0, 0);
    // Longer than it is owed to the replica.
    cluster.run_for(2 * PURGED_WITHIN);
    if mutant.is_none() {
        assert_eq!(held(&cluster, 0), (3, 1), "the others keep it for the one that misses it");
    }
    cluster.mend();
    cluster.run_for(150 * SECOND);
    if mutant.is_none() {
        assert_eq!(held(&cluster, 0), (0, 0));
    }
    held(&cluster, 0).1
}

#[test]
fn a_delete_that_a_replica_missed_is_not_forgotten_before_it_has_it() {
    for seed in 0..3 {
        assert_eq!(a_replica_misses_the_delete(seed, None), 0);
    }
    assert!(
        a_replica_misses_the_delete(0, Some(ProtocolMutant::PurgedByTime)) > 0,
        "the simulation shows nothing"
    );
}

/// A write is on its way to one replica until the key has been deleted and forgotten. Returns how
/// many replicas hold its value when it has arrived.
fn a_write_arrives_late(seed: u64, mutant: Option<ProtocolMutant>) -> usize {
    let mut cluster = started(seed, 4, options(mutant));
    // A key of which node 3 has no copy.
    let key = (0..).find(|&key| {
        let call = cluster.set(0, name(key), "first");
        outcome(&mut cluster, call) == WRITTEN
            && cluster.stored(name(key)).iter().all(|stored| stored.node != 3)
    });
    let key = key.unwrap();
    cluster.run_for(SECOND);
    cluster.slow_down(3, 2, 40 * SECOND, 40 * SECOND);
    write(&mut cluster, 3, key);
    delete(&mut cluster, 0, key);
    cluster.run_for(35 * SECOND);
    assert_eq!(held(&cluster, key), (0, 0), "forgotten before the write arrives");
    cluster.run_for(20 * SECOND);
    let after = held(&cluster, key).1;
    cluster.mend();
    cluster.run_for(150 * SECOND);
    after.max(held(&cluster, key).1)
}

#[test]
fn a_write_that_arrives_after_its_key_was_forgotten_is_refused() {
    for seed in 0..3 {
        assert_eq!(a_write_arrives_late(seed, None), 0);
    }
    assert!(
        a_write_arrives_late(0, Some(ProtocolMutant::HorizonIgnored)) > 0,
        "the simulation shows nothing"
    );
}

/// Two nodes are cut off, and taken for dead, while keys are deleted. They go on by themselves, and
/// come back with what they hold. How many hold a value in the end.
fn a_member_comes_back(seed: u64, mutant: Option<ProtocolMutant>) -> usize {
    let mut cluster = started(seed, 4, options(mutant));
    (0..20).for_each(|key| write(&mut cluster, 0, key));
    cluster.split(&[2, 3], &[0, 1]);
    assert!(cluster.run_until(10 * SECOND, |cluster| cluster.is_dead_for(0, &[2, 3])));
    cluster.run_for(10 * SECOND);
    (0..20).for_each(|key| delete(&mut cluster, 0, key));
    cluster.run_for(4 * PURGED_WITHIN);
    cluster.mend();
    settle(&mut cluster);
    cluster.run_for(150 * SECOND);
    let values = (0..20).map(|key| held(&cluster, key).1).sum();
    assert!(values > 0 || is_forgotten(&cluster, 0..20), "once it is back they are forgotten");
    values
}

#[test]
fn nothing_is_forgotten_while_a_member_is_away_that_may_come_back_with_it() {
    for seed in 0..3 {
        assert_eq!(a_member_comes_back(seed, None), 0);
    }
    assert!(
        a_member_comes_back(0, Some(ProtocolMutant::AbsentIgnored)) > 0,
        "the simulation shows nothing"
    );
}

/// A node is away for longer than it is waited for: cut off, or its host stands still. In that time
/// keys are deleted and forgotten, and others are written. It comes back with what it held. Returns
/// how many of the deleted keys have a value in the end.
fn a_member_comes_back_too_late(
    seed: u64,
    stands_still: bool,
    mutant: Option<ProtocolMutant>,
) -> usize {
    const AWAY: usize = 3;
    let mut options = options(mutant);
    options.tombstone_retention = 40 * SECOND;
    let mut cluster = started(seed, 5, options);
    (0..60).for_each(|key| write(&mut cluster, 0, key));
    cluster.run_for(2 * PURGED_WITHIN);
    if stands_still {
        cluster.pause_node(AWAY, 150 * SECOND);
    } else {
        cluster.split(&[AWAY], &[0, 1, 2, 4]);
    }
    assert!(cluster.run_until(10 * SECOND, |cluster| cluster.is_dead_for(0, &[AWAY])));
    (0..40).for_each(|key| delete(&mut cluster, 0, key));
    (40..50).for_each(|key| support::write(&mut cluster, 0, name(key), "newer"));
    (60..70).for_each(|key| write(&mut cluster, 0, key));
    let is_forgotten_here = |cluster: &SimCluster| {
        let of = |key| cluster.stored(name(key));
        (0..40).all(|key| of(key).iter().all(|stored| stored.node == AWAY))
    };
    assert!(cluster.run_until(140 * SECOND, is_forgotten_here), "it is not waited for");
    cluster.run_for(20 * SECOND);
    cluster.mend();
    cluster.run_until(150 * SECOND, |cluster| !cluster.is_dead_for(0, &[AWAY]));
    settle(&mut cluster);
    cluster.run_for(150 * SECOND);
    for key in 40..70 {
        assert_eq!(held(&cluster, key), (3, 3), "key {key}");
        let value = if key < 50 { "newer" } else { "value" };
        let stored = cluster.stored(name(key));
        assert!(stored.iter().all(|stored| stored.value.as_deref() == Some(value.as_bytes())));
    }
    (0..40).filter(|key| held(&cluster, *key).1 > 0).count()
}

/// A network partition lasts longer than dead members are waited for. Both sides go on, write,
/// delete and forget. Returns how many of the keys that they wrote are gone in the end: what is
/// older than what the other side forgot last is not dropped.
fn lost_of_a_side(seed: u64, mutant: Option<ProtocolMutant>) -> usize {
    let mut options = options(mutant);
    options.tombstone_retention = 20 * SECOND;
    let mut cluster = started(seed, 6, options);
    (0..60).for_each(|key| write(&mut cluster, 0, key));
    cluster.split(&[0, 1, 2], &[3, 4, 5]);
    assert!(cluster.run_until(10 * SECOND, |cluster| cluster.is_dead_for(0, &[3, 4, 5])
        && cluster.is_dead_for(3, &[0, 1, 2])));
    cluster.run_for(15 * SECOND);
    for key in 60..100 {
        write(&mut cluster, if key < 80 { 0 } else { 3 }, key);
    }
    cluster.run_for(20 * SECOND);
    (0..20).for_each(|key| delete(&mut cluster, 0, key));
    (20..40).for_each(|key| delete(&mut cluster, 3, key));
    cluster.run_for(3 * PURGED_WITHIN);
    let is_here = |stored: &gridkv::sim::Stored| stored.node < 3;
    let of = |cluster: &SimCluster, key: usize| cluster.stored(name(key));
    assert!((0..20).all(|key| !of(&cluster, key).iter().any(is_here)), "forgotten on one side");
    assert!((20..40).all(|key| of(&cluster, key).iter().all(is_here)), "and on the other");
    cluster.mend();
    settle(&mut cluster);
    cluster.run_for(150 * SECOND);
    (60..100).filter(|key| held(&cluster, *key) != (3, 3)).count()
}

#[test]
fn what_a_side_of_a_long_partition_wrote_is_not_dropped_as_too_old() {
    for seed in 0..4 {
        assert_eq!(lost_of_a_side(seed, None), 0, "seed {seed}");
    }
    assert!(lost_of_a_side(0, Some(ProtocolMutant::ForkDropped)) > 0, "nothing is shown");
}

#[test]
fn a_member_that_was_away_for_too_long_brings_no_deleted_key_back() {
    for seed in 0..4 {
        for stands_still in [false, true] {
            assert_eq!(a_member_comes_back_too_late(seed, stands_still, None), 0, "seed {seed}");
        }
    }
    let believed = Some(ProtocolMutant::LateReturnBelieved);
    assert!(a_member_comes_back_too_late(0, false, believed) > 0, "the simulation shows nothing");
}

/// A member dies, and when it is to be forgotten this node is cut off: it acts upon no deaths
/// before it knows whether all others are dead. Its control thread did nothing but look for that
/// time, which had passed. Found by a history with a short retention.
#[test]
fn a_node_that_is_cut_off_when_it_should_forget_a_member_does_not_spin() {
    for offset in (0..3000).step_by(200) {
        let mut options = options(None);
        options.tombstone_retention = 2 * SECOND;
        let mut cluster = started(5, 6, options);
        cluster.crash_node(5);
        assert!(cluster.run_until(10 * SECOND, |cluster| cluster.is_dead_for(0, &[5])));
        cluster.run_for(Duration::from_millis(offset));
        cluster.split(&[0], &[1, 2, 3, 4]);
        cluster.run_for(10 * SECOND);
        cluster.mend();
        settle(&mut cluster);
    }
}

/// A crashed node is waited for until it has restarted, empty, or for as long as was configured.
#[test]
fn a_crashed_member_holds_up_the_others_until_it_is_back_or_forgotten() {
    let mut options = options(None);
    options.tombstone_retention = 100 * SECOND;
    for restarts in [true, false] {
        let mut cluster = started(7, 4, options.clone());
        (0..20).for_each(|key| write(&mut cluster, 0, key));
        cluster.crash_node(3);
        assert!(cluster.run_until(10 * SECOND, |cluster| cluster.is_gone(3)));
        (0..20).for_each(|key| delete(&mut cluster, 0, key));
        cluster.run_for(2 * PURGED_WITHIN);
        assert_eq!(held(&cluster, 0), (3, 0));
        if restarts {
            cluster.restart_node(3);
        } else {
            cluster.run_for(45 * SECOND);
        }
        assert!(
            cluster.run_until(PURGED_WITHIN + 10 * SECOND, |cluster| is_forgotten(cluster, 0..20))
        );
    }
}

/// Nodes join and leave while keys are written, deleted and forgotten: what was deleted stays so,
/// what was not stays.
#[test]
fn members_may_come_and_go_meanwhile() {
    for seed in 0..3 {
        let mut cluster = started(seed, 4, options(None));
        (0..40).for_each(|key| write(&mut cluster, key % 4, key));
        for round in 0..6 {
            let keys = round * 5..round * 5 + 5;
            keys.for_each(|key| delete(&mut cluster, if round < 3 { key % 3 } else { 1 }, key));
            cluster.run_for(GRACE);
            match round {
                0 | 3 => drop(cluster.start_node()),
                1 => cluster.leave(3),
                4 => cluster.leave(0),
                _ => {}
            }
            cluster.run_for(GRACE / 3);
        }
        settle(&mut cluster);
        assert!(cluster.run_until(2 * PURGED_WITHIN, |cluster| is_forgotten(cluster, 0..30)));
        cluster.run_for(130 * SECOND);
        assert!(is_forgotten(&cluster, 0..30));
        (30..40).for_each(|key| assert_eq!(held(&cluster, key), (3, 3)));
    }
}

/// A node is stopped for longer than the grace and for longer than it takes to be taken for dead,
/// while keys are deleted. It goes on with what it holds.
#[test]
fn a_member_that_was_stopped_brings_nothing_back() {
    for seed in 0..4 {
        let mut cluster = started(seed, 4, options(None));
        (0..20).for_each(|key| write(&mut cluster, 0, key));
        cluster.run_for(SECOND);
        cluster.pause_node(3, 8 * GRACE);
        if seed % 2 == 0 {
            assert!(cluster.run_until(10 * SECOND, |cluster| cluster.is_gone(3)));
        }
        (0..20).for_each(|key| delete(&mut cluster, 1, key));
        cluster.run_for(6 * GRACE);
        assert!(
            cluster.is_paused(3) && (0..20).any(|key| held(&cluster, key).0 > 0),
            "nothing goes meanwhile"
        );
        cluster.run_for(3 * GRACE);
        settle(&mut cluster);
        assert!(cluster.run_until(5 * PURGED_WITHIN, |cluster| is_forgotten(cluster, 0..20)));
        cluster.run_for(130 * SECOND);
        assert!(is_forgotten(&cluster, 0..20));
    }
}

/// Both sides of a split delete what the other one still holds, write again what the other one
/// deleted, and go on for long. Once they have met, the later of each key's two changes counts, and
/// goes on to count.
#[test]
fn what_both_sides_of_a_split_deleted_stays_deleted_and_what_they_wrote_later_stays() {
    for seed in 0..4 {
        let mut cluster = started(seed, 6, options(None));
        (0..40).for_each(|key| write(&mut cluster, key % 6, key));
        cluster.split(&[0, 1, 2], &[3, 4, 5]);
        let is_apart = |cluster: &SimCluster| (0..6).all(|node| cluster.is_gone(node));
        cluster.run_until(10 * SECOND, is_apart);
        cluster.run_for(5 * SECOND);
        (0..10).for_each(|key| delete(&mut cluster, 0, key));
        (10..20).for_each(|key| delete(&mut cluster, 3, key));
        (20..40).for_each(|key| delete(&mut cluster, if key < 30 { 1 } else { 4 }, key));
        cluster.run_for(2 * PURGED_WITHIN);
        (20..40).for_each(|key| write(&mut cluster, if key < 30 { 4 } else { 1 }, key));
        cluster.run_for(PURGED_WITHIN);
        cluster.mend();
        settle(&mut cluster);
        assert!(cluster.run_until(5 * PURGED_WITHIN, |cluster| is_forgotten(cluster, 0..20)));
        cluster.run_for(150 * SECOND);
        assert!(is_forgotten(&cluster, 0..20));
        (20..40).for_each(|key| assert_eq!(held(&cluster, key), (3, 3), "key {key}"));
    }
}

/// A node is cut off, and all others are restarted one after the other: no node is left that saw it
/// die. They have been told of it, and keep what was deleted until it is back. (They forgot it, and
/// the deleted came back.)
#[test]
fn a_member_that_is_away_is_waited_for_by_those_who_never_saw_it() {
    for seed in 0..3 {
        let mut cluster = started(seed, 4, options(None));
        (0..20).for_each(|key| write(&mut cluster, 0, key));
        cluster.run_for(SECOND);
        cluster.split(&[3], &[0, 1, 2]);
        assert!(cluster.run_until(10 * SECOND, |cluster| cluster.is_gone(3)));
        cluster.run_for(2 * SECOND);
        for node in 0..3 {
            assert!(cluster.wait_until_safe(node, 60 * SECOND));
            cluster.crash_node(node);
            cluster.run_for(SECOND);
            cluster.restart_node(node);
            cluster.run_for(5 * SECOND);
        }
        (0..20).for_each(|key| delete(&mut cluster, 0, key));
        cluster.run_for(3 * PURGED_WITHIN);
        assert!((0..20).all(|key| held(&cluster, key).0 >= 3), "nothing goes meanwhile");
        cluster.mend();
        settle(&mut cluster);
        cluster.run_for(150 * SECOND);
        assert!(is_forgotten(&cluster, 0..20));
    }
}

/// A write is still owed to a replica when its key was deleted and forgotten. Then a node joins
/// that knows nothing of all that, and becomes a replica of the key: the write is offered to it,
/// too. How many hold its value then.
fn a_newcomer_is_offered_what_was_forgotten(seed: u64, mutant: Option<ProtocolMutant>) -> usize {
    let mut cluster = started(seed, 4, options(mutant));
    cluster.slow_down(3, 2, 100 * SECOND, 100 * SECOND);
    (0..60).for_each(|key| write(&mut cluster, 3, key));
    (0..60).for_each(|key| delete(&mut cluster, 0, key));
    let are_forgotten = |cluster: &SimCluster| is_forgotten(cluster, 0..60);
    cluster.run_until(20 * SECOND, are_forgotten);
    let forgotten: Vec<usize> = (0..60).filter(|&key| held(&cluster, key) == (0, 0)).collect();
    assert!(forgotten.len() > 5, "{}", forgotten.len());
    cluster.start_node();
    let mut values = 0;
    for _ in 0..40 {
        cluster.run_for(SECOND / 2);
        values = values.max(forgotten.iter().filter(|&&key| held(&cluster, key).1 > 0).count());
    }
    values
}

#[test]
fn a_newcomer_refuses_what_was_forgotten_before_it_came() {
    for seed in 0..4 {
        assert_eq!(a_newcomer_is_offered_what_was_forgotten(seed, None), 0);
    }
    let shown = (0..4).map(|seed| {
        a_newcomer_is_offered_what_was_forgotten(seed, Some(ProtocolMutant::HorizonIgnored))
    });
    assert!(shown.sum::<usize>() > 0, "the simulation shows nothing");
}
