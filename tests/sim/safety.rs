//! `wait_until_safe` and what it promises: then any node may be stopped, and nothing is lost.

use gridkv::sim::{ProtocolMutant, SimCluster, SimOptions};

use crate::support::{SECOND, SETTLED_WITHIN, started, wait, write};

/// Found by a review: of the list {0, 1, 2} node 0 did not reach node 1, so its writes were
/// acknowledged by 0 and 2 alone. Node 0 crashed while node 2 stood still and was taken for dead,
/// and the others made a list without either. Node 2 resumed, came back into the list with what it
/// held, merged the others and was synced. No member merged what only node 2 held: here they do not
/// reach it. The cluster was safe at once, with one copy left of each of these keys, and stopping
/// node 2 lost them for good.
///
/// Returns the number of keys that were written, and how many had fewer than W copies when it was
/// safe.
fn thin_when_safe(seed: u64, mutant: Option<ProtocolMutant>) -> (usize, usize) {
    const RETURNER: usize = 2;
    let mut options = SimOptions::default();
    (options.partitions, options.cores, options.mutant) = (64, 1, mutant);
    let mut cluster = started(seed, 5, options.clone());
    let is_theirs = |cluster: &SimCluster, key: &String| {
        cluster.replicas(key).iter().map(|(node, _)| *node).eq([0, 1, 2])
    };
    let mut keys: Vec<String> = (0..600).map(|key| options.key(key)).collect();
    keys.retain(|key| is_theirs(&cluster, key));
    cluster.cut(0, 1);
    for key in &keys {
        write(&mut cluster, 0, key, "value");
    }
    // Until the others have gone on without the two of them.
    cluster.pause_node(RETURNER, 8 * SECOND);
    cluster.crash_node(0);
    cluster.mend();
    // They do not merge what it holds while it is outside their list: they answer it, and do not
    // reach it.
    [1, 3, 4].into_iter().for_each(|other| cluster.cut(other, RETURNER));
    wait(&mut cluster, SETTLED_WITHIN, |cluster| cluster.is_dead_for(4, &[0, RETURNER]));
    wait(&mut cluster, SETTLED_WITHIN, |cluster| !cluster.is_dead_for(4, &[RETURNER]));
    let is_thin =
        |cluster: &SimCluster, key: &&String| cluster.copies(key).len() < options.write_quorum;
    let mut is_safe = cluster.wait_until_safe(4, 10 * SECOND);
    let mut thin = keys.iter().filter(|key| is_safe && is_thin(&cluster, key)).count();
    cluster.mend();
    if !is_safe {
        is_safe = cluster.wait_until_safe(4, 60 * SECOND);
        thin = keys.iter().filter(|key| is_thin(&cluster, key)).count();
    }
    assert!(is_safe, "seed {seed}: {}", cluster.describe());
    cluster.crash_node(RETURNER);
    wait(&mut cluster, SETTLED_WITHIN, SimCluster::is_settled);
    let lost = keys.iter().filter(|key| cluster.copies(key).is_empty()).count();
    assert!(lost <= thin, "seed {seed}: {lost} keys were lost, and {thin} had too few copies");
    (keys.len(), thin)
}

#[test]
fn it_is_not_safe_before_others_have_what_a_returner_alone_held() {
    for seed in 0..6 {
        let (keys, thin) = thin_when_safe(seed, None);
        assert_eq!(thin, 0, "seed {seed}: of {keys} keys");
        assert!(keys > 20, "seed {seed}: {keys} keys");
    }
    let noticed =
        (0..3).any(|seed| thin_when_safe(seed, Some(ProtocolMutant::ReturnedUnshared)).1 > 0);
    assert!(noticed, "a returner that shares nothing was not noticed");
}

/// Found by using it: of five nodes two were killed at one time, and the app of a survivor waited
/// until it was safe to go on. It waited for ever. Each list that had lost two of its three members
/// was made anew, and the newcomers opened it when they had merged the one that was left. That one
/// stayed, so that it had the list open at once, and had to merge others of the list before to be
/// whole: all dead. Nothing told it that those that came in were whole by now.
///
/// Returns whether a survivor is safe again. If fewer than N are left, others start first.
fn is_safe_again(
    (nodes, replicas, write_quorum): (usize, usize, usize),
    crashing: &[usize],
    mutant: Option<ProtocolMutant>,
) -> bool {
    let mut options = SimOptions::default();
    (options.partitions, options.cores, options.mutant) = (64, 2, mutant);
    (options.replicas, options.write_quorum) = (replicas, write_quorum);
    let mut cluster = started(0, nodes, options.clone());
    let keys: Vec<String> = (0..100).map(|key| options.key(key)).collect();
    let asked = (0..nodes).find(|node| !crashing.contains(node)).expect("some are left");
    keys.iter().for_each(|key| write(&mut cluster, asked, key, "value"));
    crashing.iter().for_each(|node| cluster.crash_node(*node));
    for _ in nodes - crashing.len()..replicas {
        cluster.run_for(10 * SECOND);
        cluster.start_node();
    }
    cluster.wait_until_safe(asked, SETTLED_WITHIN)
}

#[test]
fn it_is_safe_again_after_deaths_that_left_one_copy() {
    // Nodes, N and W, and who crashes at one time.
    let cases = [
        ((5, 3, 2), vec![2, 3]),
        ((7, 3, 2), vec![1, 2, 3, 4]),
        ((6, 5, 3), vec![3]),
        ((8, 5, 3), vec![0, 2, 3]),
        ((4, 3, 2), vec![0, 1]),
        ((2, 2, 1), vec![1]),
        ((3, 3, 1), vec![0, 2]),
    ];
    for (cluster, crashing) in &cases {
        assert!(is_safe_again(*cluster, crashing, None), "{cluster:?} without {crashing:?}");
    }
    assert!(!is_safe_again((5, 3, 2), &[2, 3], Some(ProtocolMutant::LastAlone)));
}

/// A data center of one node, and one of three. The node starts again and is born again, empty. It
/// is asked whether it is safe, and then the others are gone. Returns how many of 200 keys are
/// lost.
fn lost_after_a_site_was_safe(seed: u64, mutant: Option<ProtocolMutant>) -> usize {
    let mut options = SimOptions::default();
    (options.data_centers, options.partitions, options.mutant) = (2, 64, mutant);
    (options.replicas, options.write_quorum) = (1, 1);
    let mut cluster = started(seed, 2, options.clone());
    for key in 0..200 {
        write(&mut cluster, key % 2, options.key(key), "value");
    }
    wait(&mut cluster, 10 * SECOND, |cluster| cluster.waiting_to_relay() == 0);
    cluster.crash_node(1);
    wait(&mut cluster, SETTLED_WITHIN, |cluster| cluster.is_dead_for(0, &[1]));
    cluster.restart_node(1);
    wait(&mut cluster, SETTLED_WITHIN, SimCluster::is_settled);
    assert!(cluster.wait_until_safe(1, 120 * SECOND), "seed {seed}: never safe");
    println!("seed {seed}: safe after {:?}", cluster.elapsed());
    (0..200).filter(|key| !cluster.copies(options.key(*key)).iter().any(|it| it.0 == 1)).count()
}

/// `wait_until_safe` returned at once: no copy of its own data center was missing, and all were
/// empty.
#[test]
fn a_site_that_starts_again_is_safe_when_it_has_what_others_hold() {
    for seed in 0..5 {
        assert_eq!(lost_after_a_site_was_safe(seed, None), 0, "seed {seed}");
    }
    let mutant = Some(ProtocolMutant::BehindUncounted);
    let noticed = (0..5).any(|seed| lost_after_a_site_was_safe(seed, mutant) > 0);
    assert!(noticed, "a site that is safe while it is empty was not noticed");
}

/// A data center of two nodes that both start again, one after the other: the first one is born
/// empty, hands its copies to the second one, and starts again. The second one is asked whether it
/// is safe, and then the other data center is gone. Returns how many of 200 keys are lost.
fn lost_after_a_second_node_was_safe(seed: u64, mutant: Option<ProtocolMutant>) -> usize {
    let mut options = SimOptions::default();
    (options.data_centers, options.partitions, options.mutant) = (2, 64, mutant);
    (options.replicas, options.write_quorum) = (2, 1);
    let mut cluster = started(seed, 4, options.clone());
    for key in 0..200 {
        write(&mut cluster, key % 4, options.key(key), "value");
    }
    wait(&mut cluster, 10 * SECOND, |cluster| cluster.waiting_to_relay() == 0);
    cluster.crash_node(1);
    cluster.crash_node(3);
    wait(&mut cluster, SETTLED_WITHIN, |cluster| cluster.is_dead_for(0, &[1, 3]));
    cluster.restart_node(1);
    wait(&mut cluster, SETTLED_WITHIN, SimCluster::see_each_other);
    cluster.restart_node(3);
    wait(&mut cluster, SETTLED_WITHIN, SimCluster::is_settled);
    cluster.crash_node(1);
    wait(&mut cluster, SETTLED_WITHIN, |cluster| cluster.is_dead_for(3, &[1]));
    cluster.restart_node(1);
    assert!(cluster.wait_until_safe(3, 120 * SECOND), "seed {seed}: never safe");
    (0..200).filter(|key| !cluster.copies(options.key(*key)).iter().any(|it| it.0 % 2 == 1)).count()
}

#[test]
fn a_node_is_safe_when_it_has_what_its_empty_source_had_still_to_get() {
    for seed in 0..5 {
        assert_eq!(lost_after_a_second_node_was_safe(seed, None), 0, "seed {seed}");
    }
    let mutant = Some(ProtocolMutant::BehindNotHanded);
    let noticed = (0..5).any(|seed| lost_after_a_second_node_was_safe(seed, mutant) > 0);
    assert!(noticed, "a second node that is safe while it is empty was not noticed");
}

/// A site that reaches no other is not held up, whether these count as dead, or live and are out of
/// reach of its cores.
#[test]
fn a_site_that_reaches_no_other_is_safe_all_the_same() {
    for (seed, is_split) in [(0, true), (1, false), (2, true), (3, false)] {
        let mut options = SimOptions::default();
        (options.data_centers, options.partitions) = (2, 64);
        (options.replicas, options.write_quorum) = (1, 1);
        let mut cluster = started(seed, 2, options.clone());
        (0..50).for_each(|key| write(&mut cluster, key % 2, options.key(key), "value"));
        cluster.crash_node(1);
        wait(&mut cluster, SETTLED_WITHIN, |cluster| cluster.is_dead_for(0, &[1]));
        cluster.restart_node(1);
        wait(&mut cluster, SETTLED_WITHIN, SimCluster::see_each_other);
        if is_split {
            cluster.split(&[0], &[1]);
        } else {
            cluster.cut_off_cores(1);
        }
        assert!(cluster.wait_until_safe(1, 30 * SECOND), "seed {seed}: never safe");
    }
}
