//! How soon deaths are found, how seldom healthy nodes are taken for dead, and for how many bytes,
//! as `gridkv::sim::detection` says.

use std::time::Duration;

use gridkv::sim::SimOptions;
use gridkv::sim::detection::{self, DetectionOptions};

use crate::support::{MS, SECOND, started};

fn options(nodes: usize, rounds: usize) -> DetectionOptions {
    let mut options = DetectionOptions::default();
    (options.nodes, options.rounds) = (nodes, rounds);
    options
}

#[test]
fn a_silent_node_is_dead_to_all_within_a_second_or_two() {
    for nodes in [3, 20, 100] {
        let mut found = detection::run(1, &options(nodes, 40));
        assert_eq!(found.unnoticed, 0);
        assert_eq!(found.healthy_found_dead, 0);
        found.times.sort_unstable();
        let at = |percent: usize| found.times[(found.times.len() - 1) * percent / 100];
        assert!(
            at(50) < SECOND && at(99) < 2 * SECOND,
            "{nodes} nodes: {:?}, {:?}",
            at(50),
            at(99)
        );
    }
}

#[test]
fn datagrams_that_get_lost_kill_nobody() {
    for lost_per_mille in [50, 100, 200] {
        let mut options = options(50, 0);
        options.lost_per_mille = lost_per_mille;
        let found = detection::run(2, &options);
        assert_eq!(found.healthy_found_dead, 0, "{lost_per_mille} of 1000 are lost");
    }
}

#[test]
fn nodes_that_stand_still_accuse_nobody_else() {
    let mut options = options(50, 0);
    options.stuck_nodes = 10;
    let found = detection::run(3, &options);
    assert_eq!(found.healthy_found_dead, 0);
    assert!(found.stuck_found_dead > 10, "they do stand still");
}

/// All of a node's datagrams are far from their receivers: probes take as long as they need, and it
/// costs no lives.
#[test]
fn distance_is_no_death() {
    let mut options = options(20, 10);
    options.delay = (Duration::from_millis(90), Duration::from_millis(150));
    let found = detection::run(4, &options);
    assert_eq!((found.healthy_found_dead, found.unnoticed), (0, 0));
    assert!(found.times.iter().all(|time| *time < 20 * SECOND), "{:?}", found.times.iter().max());
}

/// Three places; what goes from one to a later one takes five milliseconds, and 150 back.
#[test]
fn a_way_back_that_is_longer_is_no_death() {
    let mut options = options(30, 10);
    (options.places, options.far) = (3, (5 * MS, 150 * MS));
    let found = detection::run(7, &options);
    assert_eq!((found.healthy_found_dead, found.unnoticed), (0, 0));
}

/// Members are killed, and others begin at their addresses soon after, half of them with new ids.
#[test]
fn members_that_come_and_go_agree_in_the_end() {
    let mut options = options(300, 0);
    (options.time, options.changes) = (Duration::ZERO, 100);
    options.lost_per_mille = 20;
    let found = detection::run(8, &options);
    assert_eq!(found.healthy_found_dead, 0);
    assert!(found.agreed_after.is_some(), "they do not agree");
}

/// Five hundred pairs of a hundred nodes reach each other one way only: others probe in their
/// place.
#[test]
fn what_is_cut_one_way_kills_nobody() {
    let mut options = options(100, 0);
    options.one_way_cuts = 500;
    let found = detection::run(9, &options);
    assert_eq!(found.healthy_found_dead, 0);
    assert!(found.agreed_after.is_some());
}

/// Nodes that hear nothing take all others for dead and say so: a node that is told so answers with
/// another identity. Some hear of the end of the old one before; it makes no difference for long.
#[test]
fn who_hears_nothing_talks_nobody_to_death() {
    let mut options = options(100, 0);
    options.deaf_nodes = 5;
    let found = detection::run(10, &options);
    assert!(found.healthy_found_dead < 10, "{}, of 95", found.healthy_found_dead);
    assert!(found.agreed_after.is_some());
}

/// Nodes of another cluster that know all members and send to them stay strangers.
#[test]
fn members_of_another_cluster_are_ignored() {
    let mut options = options(100, 0);
    options.strangers = 20;
    let found = detection::run(11, &options);
    assert_eq!((found.healthy_found_dead, found.agreed_after), (0, Some(Duration::ZERO)));
}

#[test]
fn a_quiet_cluster_gossips_for_less_than_two_kilobytes_a_second() {
    for nodes in [3, 10, 50] {
        let found = detection::run(5, &options(nodes, 0));
        assert!(found.bytes_per_second < 2000.0, "{nodes} nodes: {}", found.bytes_per_second);
    }
}

#[test]
fn a_hundred_nodes_that_start_at_once_are_one_cluster() {
    let mut options = SimOptions::default();
    (options.partitions, options.cores) = (8, 1);
    started(6, 100, options);
}
