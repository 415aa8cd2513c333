//! One node id at two addresses, under the simulator: a node that was moved gets in at once, a
//! second one by mistake is refused for as long as the first one lives.

use std::time::Duration;

use gridkv::sim::{SimCluster, SimOptions};

use crate::support::{SECOND, started, wait};

const HOUR_MICROS: i64 = 3_600_000_000;

fn options() -> SimOptions {
    let mut options = SimOptions::default();
    (options.partitions, options.cores) = (16, 1);
    options
}

fn all_see(node: usize, observers: &[usize]) -> impl Fn(&SimCluster) -> bool {
    move |cluster| observers.iter().all(|observer| cluster.sees_only(*observer, node))
}

/// Whether a node knows that its id is in use at these addresses of the simulated network.
fn knows_of(node: usize, addresses: [&str; 2]) -> impl Fn(&SimCluster) -> bool {
    move |cluster| {
        cluster.hint(node).is_some_and(|hint| {
            hint.contains("needs an id of its own")
                && addresses.iter().all(|address| hint.contains(address))
        })
    }
}

/// The clock of its new host may be behind that of the old one.
#[test]
fn a_node_that_was_moved_takes_the_place_of_the_silent_one() {
    for (seed, clock_ahead) in [(1, 0), (2, -HOUR_MICROS), (3, HOUR_MICROS)] {
        for pause_before in [Duration::ZERO, 5 * SECOND] {
            let mut cluster = started(seed, 3, options());
            cluster.pause_node(2, 600 * SECOND);
            cluster.run_for(pause_before);
            let moved = cluster.start_twin(2, clock_ahead);
            wait(&mut cluster, 2 * SECOND, all_see(moved, &[0, 1, moved]));
            let key = options().key(1);
            let call = cluster.set(moved, key, "value");
            wait(&mut cluster, 2 * SECOND, |cluster| cluster.outcome(call).is_some());
        }
    }
}

#[test]
fn a_second_node_of_one_id_is_refused_until_the_first_one_is_gone() {
    for is_crash in [true, false] {
        let mut cluster = started(4, 3, options());
        let twin = cluster.start_twin(2, 0);
        wait(&mut cluster, SECOND, knows_of(twin, ["10.0.0.3:7000", "10.0.0.4:7000"]));
        for _ in 0..100 {
            cluster.run_for(SECOND / 10);
            assert!(all_see(2, &[0, 1])(&cluster), "{}", cluster.describe());
        }
        if is_crash {
            cluster.crash_node(2);
        } else {
            cluster.leave(2);
            wait(&mut cluster, 10 * SECOND, |cluster| !cluster.is_running(2));
        }
        wait(&mut cluster, 8 * SECOND, all_see(twin, &[0, 1, twin]));
        wait(&mut cluster, 20 * SECOND, SimCluster::is_settled);
        assert_eq!(cluster.hint(twin), None);
    }
}

/// The one that only stood still comes back to find that its id was given away; and it gets that
/// back.
#[test]
fn one_that_wakes_up_too_late_is_refused_until_the_other_one_is_gone() {
    for is_twin_to_go in [true, false] {
        let mut cluster = started(5, 3, options());
        cluster.pause_node(2, 10 * SECOND);
        let twin = cluster.start_twin(2, 0);
        wait(&mut cluster, 2 * SECOND, all_see(twin, &[0, 1]));
        cluster.run_for(10 * SECOND);
        wait(&mut cluster, 5 * SECOND, knows_of(2, ["10.0.0.3:7000", "10.0.0.4:7000"]));
        for _ in 0..100 {
            cluster.run_for(SECOND / 10);
            assert!(all_see(twin, &[0, 1])(&cluster), "{}", cluster.describe());
        }
        let (goes, stays) = if is_twin_to_go { (twin, 2) } else { (2, twin) };
        cluster.crash_node(goes);
        wait(&mut cluster, 5 * SECOND, all_see(stays, &[0, 1, stays]));
        wait(&mut cluster, 20 * SECOND, SimCluster::is_settled);
        // They ask the one that stays what it owes.
        assert!(cluster.wait_until_safe(0, 10 * SECOND), "{}", cluster.describe());
    }
}

/// Each was let in by nodes that did not know of the other.
#[test]
fn of_two_that_meet_as_members_the_later_one_counts() {
    let mut cluster = started(6, 4, options());
    cluster.split(&[0, 1], &[2, 3]);
    cluster.run_for(5 * SECOND);
    let twin = 4;
    for node in [0, 1] {
        cluster.block(node, twin);
        cluster.block(twin, node);
    }
    assert_eq!(cluster.start_twin(0, 0), twin);
    wait(&mut cluster, 10 * SECOND, all_see(twin, &[2, 3, twin]));
    assert!(all_see(0, &[0, 1])(&cluster), "{}", cluster.describe());
    cluster.mend();
    wait(&mut cluster, 30 * SECOND, all_see(twin, &[1, 2, 3]));
    wait(&mut cluster, 10 * SECOND, knows_of(0, ["10.0.0.1:7000", "10.0.0.5:7000"]));
    for _ in 0..100 {
        cluster.run_for(SECOND / 10);
        assert!(all_see(twin, &[1, 2, 3])(&cluster), "{}", cluster.describe());
    }
    cluster.crash_node(twin);
    wait(&mut cluster, 10 * SECOND, all_see(0, &[0, 1, 2, 3]));
    wait(&mut cluster, 20 * SECOND, SimCluster::is_settled);
}
