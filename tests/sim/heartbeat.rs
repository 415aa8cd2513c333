//! Cores that stand still while their node's gossip goes on.

use std::time::Duration;

use gridkv::sim::{SimCluster, SimOptions};

use crate::support::{SECOND, read, settle, started, wait, write};

/// A core counts as stuck after a second, and what answers no probe is dead some seconds later.
const DEAD_WITHIN: Duration = Duration::from_secs(10);

/// The failure detector saw a node that was well, as its control thread answered the probes. Its
/// copies were on a node that answered no request, for as long as that lasted, and no other node
/// took them over.
#[test]
fn the_others_go_on_without_a_node_whose_cores_stand_still() {
    for seed in 0..6 {
        let mut options = SimOptions::default();
        options.partitions = 64;
        let keys: Vec<String> = (0..20).map(|key| options.key(key)).collect();
        let mut cluster = started(seed, 5, options);
        keys.iter().for_each(|key| write(&mut cluster, 0, key, "before"));
        cluster.stall_cores(4, 60 * SECOND);
        wait(&mut cluster, DEAD_WITHIN, |cluster| cluster.is_gone(4));
        let are_whole = |cluster: &SimCluster| {
            let others = |key| cluster.replicas(key).iter().filter(|(node, _)| *node != 4).count();
            keys.iter().all(|key| others(key) == 3)
        };
        wait(&mut cluster, DEAD_WITHIN, are_whole);
        for key in &keys {
            assert_eq!(read(&mut cluster, 1, key).as_deref(), Some(b"before".as_slice()));
            write(&mut cluster, 2, key, "during");
        }
        // Then it returns, and nothing that it kept wins over what came meanwhile.
        cluster.run_for(60 * SECOND);
        settle(&mut cluster);
        for key in &keys {
            assert_eq!(read(&mut cluster, 4, key).as_deref(), Some(b"during".as_slice()));
        }
    }
}

/// A core that stands still for less is waited for.
#[test]
fn a_core_that_stands_still_for_a_moment_costs_no_life() {
    for seed in 0..6 {
        let mut cluster = started(seed, 5, SimOptions::default());
        for _ in 0..5 {
            cluster.stall_cores(4, 900 * Duration::from_millis(1));
            cluster.run_for(5 * SECOND);
        }
        assert!(cluster.deaths().is_empty(), "seed {seed}: {:?}", cluster.deaths());
    }
}

/// A node with a stuck core handles no datagrams and no timers of membership, so it hears no answer
/// to a ping. Its connections went on: a second node with the id of a member greeted it, by
/// mistake, again and again. The member was pinged, its answers lay in the socket, and at the next
/// greeting its time was up. So the node declared dead a member that was well.
#[test]
fn a_node_whose_core_stands_still_takes_no_other_for_dead() {
    for seed in 0..6 {
        let mut cluster = started(seed, 4, SimOptions::default());
        cluster.stall_cores(3, 20 * SECOND);
        cluster.run_for(2 * SECOND);
        cluster.start_twin(1, 0);
        cluster.run_for(60 * SECOND);
        let by_it: Vec<_> = cluster.deaths().iter().filter(|death| death.by == 3).collect();
        assert!(by_it.is_empty(), "seed {seed}: {by_it:?}");
        let false_ones = cluster.deaths().iter().filter(|death| death.of != 3);
        assert_eq!(false_ones.count(), 0, "seed {seed}: {:?}", cluster.deaths());
    }
}
