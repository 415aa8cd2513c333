//! Several data centers under the simulator: each keeps its own copies, and gets what the others
//! write.

use std::time::Duration;

use gridkv::ReadError;
use gridkv::sim::{CallResult, ProtocolMutant, SimCluster, SimOptions, Stored};

use crate::support::{self, MS, SECOND, STARTED_WITHIN, Traced, WRITTEN, outcome, settle, wait};

/// Each data center has three nodes: 0, 2 and 4 are here, 1, 3 and 5 there.
const HERE: [usize; 3] = [0, 2, 4];
const THERE: [usize; 3] = [1, 3, 5];

/// How long a message takes from one to the other.
const FAR: Duration = Duration::from_millis(40);

fn options() -> SimOptions {
    let mut options = SimOptions::default();
    options.data_centers = 2;
    options.partitions = 256;
    options
}

/// Two data centers, far from each other.
fn started(seed: u64, options: SimOptions) -> Traced {
    let mut cluster = Traced::new(seed, options);
    for _ in 0..6 {
        cluster.start_node();
    }
    for (here, there) in HERE.into_iter().flat_map(|here| THERE.map(|there| (here, there))) {
        cluster.slow_down(here, there, FAR, FAR + MS);
        cluster.slow_down(there, here, FAR, FAR + MS);
    }
    wait(&mut cluster, STARTED_WITHIN, SimCluster::is_settled);
    cluster
}

fn name(key: usize) -> String {
    options().key(key)
}

fn set(cluster: &mut SimCluster, node: usize, key: usize, value: &str) {
    support::write(cluster, node, name(key), value);
}

fn delete(cluster: &mut SimCluster, node: usize, key: usize) {
    support::delete(cluster, node, name(key));
}

fn read(cluster: &mut SimCluster, node: usize, key: usize) -> Option<String> {
    let found = support::read(cluster, node, name(key));
    found.map(|value| String::from_utf8(value).unwrap())
}

/// Whether all six nodes have this of the key: a value, or none.
fn has_everywhere(cluster: &SimCluster, key: usize, value: Option<&str>) -> bool {
    let stored = cluster.stored(name(key));
    let is_right =
        |stored: &Stored| stored.is_synced && stored.value.as_deref() == value.map(str::as_bytes);
    stored.iter().all(is_right) && (stored.len() == 6 || value.is_none())
}

fn await_everywhere(
    cluster: &mut SimCluster,
    limit: Duration,
    keys: std::ops::Range<usize>,
    value: Option<&str>,
) {
    let is_everywhere =
        |cluster: &SimCluster| keys.clone().all(|key| has_everywhere(cluster, key, value));
    if !cluster.run_until(limit, is_everywhere) {
        let missing = keys.clone().find(|key| !has_everywhere(cluster, *key, value)).unwrap();
        panic!("key {missing} of {keys:?}: {:?}", cluster.stored(name(missing)));
    }
}

#[test]
fn a_write_waits_for_no_other_data_center_and_is_there_a_moment_later() {
    let mut cluster = started(1, options());
    for key in 0..50 {
        let asked = cluster.elapsed();
        let call = cluster.set(HERE[key % 3], name(key), "value");
        assert!(cluster.run_until(10 * MS, |cluster| cluster.outcome(call).is_some()));
        assert!(cluster.elapsed() - asked < FAR / 2, "it waited for the other data center");
    }
    await_everywhere(&mut cluster, 3 * FAR, 0..50, Some("value"));
    for (key, node) in (0..50).flat_map(|key| (0..6).map(move |node| (key, node))) {
        assert_eq!(read(&mut cluster, node, key).as_deref(), Some("value"));
    }
    // Each has its own lists.
    for key in 0..50 {
        let mut nodes: Vec<usize> =
            cluster.replicas(name(key)).into_iter().map(|(node, _)| node).collect();
        nodes.sort_unstable();
        assert_eq!(nodes, [0, 1, 2, 3, 4, 5]);
    }
    // No node passed on what was passed to it: once all is there, only comparisons go between them.
    assert!(cluster.run_until(3 * FAR, |cluster| cluster.waiting_to_relay() == 0));
}

#[test]
fn deletes_new_lifetimes_and_conflicts_end_alike_everywhere() {
    let mut cluster = started(2, options());
    for key in 0..20 {
        set(&mut cluster, HERE[0], key, "here");
    }
    await_everywhere(&mut cluster, SECOND, 0..20, Some("here"));
    for key in 0..10 {
        delete(&mut cluster, THERE[key % 3], key);
    }
    await_everywhere(&mut cluster, SECOND, 0..10, None);
    // At the same time.
    for key in 10..20 {
        let calls = [cluster.set(HERE[1], name(key), "A"), cluster.set(THERE[1], name(key), "B")];
        for call in calls {
            assert_eq!(outcome(&mut cluster, call), WRITTEN);
        }
    }
    cluster.run_for(SECOND);
    for key in 10..20 {
        let winner = read(&mut cluster, 0, key).unwrap();
        assert!(has_everywhere(&cluster, key, Some(&winner)), "{:?}", cluster.stored(name(key)));
    }
    let call = cluster.touch(HERE[2], name(15), Some(5 * SECOND));
    assert_eq!(outcome(&mut cluster, call), CallResult::Touched(Ok(true)));
    await_everywhere(&mut cluster, 7 * SECOND, 15..16, None);
}

/// What is written while the other data center cannot be reached waits, and comes as soon as it can
/// be: long before anything is compared, for a cycle of which there is no time here.
#[test]
fn a_data_center_that_is_cut_off_serves_on_and_catches_up() {
    for seed in 0..3 {
        let mut cluster = started(seed, options());
        for key in 0..30 {
            set(&mut cluster, HERE[0], key, "before");
        }
        await_everywhere(&mut cluster, SECOND, 0..30, Some("before"));
        assert!(cluster.run_until(3 * FAR, |cluster| cluster.waiting_to_relay() == 0));
        cluster.split(&HERE, &THERE);
        assert!(
            cluster
                .run_until(10 * SECOND, |it| HERE.iter().all(|node| it.is_dead_for(*node, &THERE)))
        );
        // A node that has just missed some answers acts on deaths when it has one. Of two writes of
        // a key that are both on their way then, both wait.
        cluster.run_for(2 * SECOND);
        for key in 0..10 {
            set(&mut cluster, HERE[key % 3], key, "here");
            // Of several writes of a key the last one is sent.
            set(&mut cluster, HERE[key % 3], key, "here at last");
        }
        for key in 10..20 {
            set(&mut cluster, THERE[key % 3], key, "there");
        }
        delete(&mut cluster, THERE[0], 20);
        assert_eq!(cluster.waiting_to_relay(), 21, "one for each key");
        assert_eq!(
            read(&mut cluster, THERE[1], 0).as_deref(),
            Some("before"),
            "each side serves what it has"
        );
        cluster.mend();
        settle(&mut cluster);
        await_everywhere(&mut cluster, 5 * SECOND, 0..10, Some("here at last"));
        await_everywhere(&mut cluster, 5 * SECOND, 10..20, Some("there"));
        await_everywhere(&mut cluster, 5 * SECOND, 20..21, None);
        await_everywhere(&mut cluster, SECOND, 21..30, Some("before"));
        assert!(cluster.run_until(SECOND, |cluster| cluster.waiting_to_relay() == 0));
    }
}

/// The other data center is asked if this one has nothing, or cannot say. If that one does not
/// answer either, the read fails.
#[test]
fn a_read_of_any_data_center_is_answered_within_its_time() {
    let mut cluster = started(6, options());
    set(&mut cluster, HERE[0], 0, "value");
    await_everywhere(&mut cluster, SECOND, 0..1, Some("value"));
    cluster.split(&HERE, &THERE);
    let asked = cluster.elapsed();
    let call = cluster.get_anywhere(HERE[0], name(1));
    let unknown = ReadError::TimedOut { answered: 1, needed: 2 };
    assert_eq!(outcome(&mut cluster, call), CallResult::Read(Err(unknown)));
    assert!(cluster.elapsed() - asked <= gridkv::sim::CALL_TIMEOUT + 100 * MS);
    let call = cluster.get_anywhere(HERE[0], name(0));
    assert_eq!(outcome(&mut cluster, call), CallResult::Read(Ok(Some(b"value".to_vec()))));
    assert!(cluster.run_until(10 * SECOND, |it| it.is_dead_for(HERE[0], &THERE)));
    let call = cluster.get_anywhere(HERE[0], name(1));
    assert_eq!(
        outcome(&mut cluster, call),
        CallResult::Read(Ok(None)),
        "nobody there lives, for all that is known"
    );
    // All of its own are gone but for one, which counts for nothing alone.
    cluster.mend();
    settle(&mut cluster);
    cluster.crash_node(THERE[1]);
    cluster.crash_node(THERE[2]);
    let call = cluster.get_anywhere(THERE[0], name(0));
    assert_eq!(outcome(&mut cluster, call), CallResult::Read(Ok(Some(b"value".to_vec()))));
}

/// The coordinator that acknowledged the writes dies with what it had to send. Its data center has
/// them, and is compared.
#[test]
fn what_a_dead_coordinator_had_not_sent_comes_by_comparison() {
    let mut cluster = started(3, options());
    cluster.split(&HERE, &THERE);
    assert!(
        cluster.run_until(10 * SECOND, |it| HERE.iter().all(|node| it.is_dead_for(*node, &THERE)))
    );
    for key in 0..40 {
        set(&mut cluster, HERE[0], key, "value");
    }
    cluster.crash_node(HERE[0]);
    cluster.mend();
    let is_there = |cluster: &SimCluster| {
        (0..40).all(|key| {
            let stored = cluster.stored(name(key));
            stored.len() == 5 && stored.iter().all(|it| it.is_synced && it.value.is_some())
        })
    };
    assert!(cluster.run_until(90 * SECOND, is_there), "{:?}", cluster.stored(name(0)));
}

/// A data center of one node is shut down just after it wrote: what it leaves is all that there is
/// of it.
#[test]
fn the_last_node_of_a_data_center_leaves_when_the_others_have_what_it_wrote() {
    let mut small = options();
    (small.replicas, small.write_quorum) = (1, 1);
    let mut cluster = Traced::new(8, small);
    let (here, there) = (cluster.start_node(), cluster.start_node());
    cluster.slow_down(here, there, FAR, FAR + MS);
    cluster.slow_down(there, here, FAR, FAR + MS);
    settle(&mut cluster);
    for key in 0..50 {
        set(&mut cluster, there, key, "value");
    }
    cluster.leave(there);
    assert!(
        cluster.run_until(10 * SECOND, |cluster| !cluster.is_running(there)),
        "it does not leave"
    );
    for key in 0..50 {
        assert_eq!(read(&mut cluster, here, key).as_deref(), Some("value"));
    }
}

/// A relay dies with a batch that it has not answered: another one gets it.
#[test]
fn a_relay_that_dies_is_replaced() {
    for seed in 0..5 {
        let mut cluster = started(seed, options());
        for key in 0..60 {
            set(&mut cluster, HERE[key % 3], key, "value");
            if key == 30 {
                cluster.crash_node(THERE[seed as usize % 3]);
            }
        }
        let is_there = |cluster: &SimCluster| {
            (0..60).all(|key| {
                let stored = cluster.stored(name(key));
                stored.len() == 5 && stored.iter().all(|it| it.value.is_some())
            })
        };
        assert!(cluster.run_until(20 * SECOND, is_there), "seed {seed}");
    }
}

/// A data center that is new has nothing, and gets everything without being asked to.
#[test]
fn a_new_data_center_gets_what_the_others_have() {
    let mut cluster = Traced::new(4, options());
    // The second node is of the other one, and not there yet.
    for _ in 0..6 {
        cluster.start_node();
    }
    for node in THERE {
        cluster.crash_node(node);
    }
    assert!(
        cluster.run_until(60 * SECOND, |it| HERE.iter().all(|node| it.is_dead_for(*node, &THERE)))
    );
    cluster.run_for(5 * SECOND);
    for key in 0..40 {
        set(&mut cluster, HERE[0], key, "value");
    }
    for key in 0..10 {
        delete(&mut cluster, HERE[1], key);
    }
    for node in THERE {
        cluster.restart_node(node);
    }
    settle(&mut cluster);
    assert_eq!(read(&mut cluster, THERE[0], 39), None);
    for (key, found) in [(39, Some("value")), (40, None)] {
        let call = cluster.get_anywhere(THERE[0], name(key));
        let found = found.map(|value| value.as_bytes().to_vec());
        assert_eq!(
            outcome(&mut cluster, call),
            CallResult::Read(Ok(found)),
            "its own data center, or the other"
        );
    }
    await_everywhere(&mut cluster, 90 * SECOND, 10..40, Some("value"));
    await_everywhere(&mut cluster, 90 * SECOND, 0..10, None);
}

/// Tombstones go once both data centers agree, in both, and nothing that they deleted comes back.
#[test]
fn deletes_are_purged_in_all_data_centers_together() {
    let mut quick = options();
    quick.purge_grace = 5 * SECOND;
    let mut cluster = started(5, quick);
    for key in 0..30 {
        set(&mut cluster, HERE[key % 3], key, "value");
    }
    await_everywhere(&mut cluster, SECOND, 0..30, Some("value"));
    for key in 0..30 {
        delete(&mut cluster, THERE[key % 3], key);
    }
    let is_purged = |cluster: &SimCluster| (0..30).all(|key| cluster.stored(name(key)).is_empty());
    assert!(cluster.run_until(60 * SECOND, is_purged), "{:?}", cluster.stored(name(0)));
    cluster.run_for(130 * SECOND);
    assert!(is_purged(&cluster), "something came back");

    // While one is cut off, nothing is purged: it may have missed the delete.
    for key in 0..30 {
        set(&mut cluster, HERE[key % 3], key, "again");
    }
    await_everywhere(&mut cluster, SECOND, 0..30, Some("again"));
    cluster.split(&HERE, &THERE);
    assert!(
        cluster.run_until(10 * SECOND, |it| HERE.iter().all(|node| it.is_dead_for(*node, &THERE)))
    );
    for key in 0..30 {
        delete(&mut cluster, HERE[key % 3], key);
    }
    cluster.run_for(60 * SECOND);
    cluster.mend();
    await_everywhere(&mut cluster, 90 * SECOND, 0..30, None);
    cluster.run_for(130 * SECOND);
    await_everywhere(&mut cluster, SECOND, 0..30, None);
}

/// One data center deletes while its connections to the other fail, though every node still counts
/// as alive. Then the node dies that had to send the deletes. Returns how many keys come back.
fn a_data_center_misses_deletes(mutant: Option<ProtocolMutant>) -> usize {
    let mut quick = options();
    quick.purge_grace = 5 * SECOND;
    quick.mutant = mutant;
    let mut cluster = started(7, quick);
    for key in 0..30 {
        set(&mut cluster, HERE[key % 3], key, "value");
    }
    await_everywhere(&mut cluster, SECOND, 0..30, Some("value"));
    for (here, there) in HERE.into_iter().flat_map(|here| THERE.map(|there| (here, there))) {
        cluster.cut(here, there);
        cluster.cut(there, here);
    }
    for key in 0..30 {
        delete(&mut cluster, HERE[0], key);
    }
    cluster.run_for(30 * SECOND);
    cluster.crash_node(HERE[0]);
    assert!(cluster.run_until(10 * SECOND, |it| it.is_dead_for(HERE[1], &HERE[..1])));
    cluster.mend();
    cluster.run_for(130 * SECOND);
    (0..30).filter(|key| read(&mut cluster, HERE[1], *key).is_some()).count()
}

#[test]
fn a_delete_is_not_forgotten_before_all_data_centers_know_of_it() {
    assert_eq!(a_data_center_misses_deletes(None), 0);
    assert!(
        a_data_center_misses_deletes(Some(ProtocolMutant::FarNotAsked)) > 0,
        "the simulation shows nothing"
    );
}

/// Writes wait for the other data center, are deleted through another node, and the deletes are
/// purged in both. Then the other one is born again, so that it has no memory of that, and what
/// waited can be sent.
#[test]
fn what_waited_while_it_was_deleted_and_purged_does_not_come_back() {
    let mut quick = options();
    quick.purge_grace = 5 * SECOND;
    let mut cluster = started(11, quick);
    THERE.iter().for_each(|there| cluster.cut(HERE[0], *there));
    for key in 0..30 {
        set(&mut cluster, HERE[0], key, "old");
    }
    cluster.run_for(2 * SECOND);
    for key in 0..30 {
        delete(&mut cluster, HERE[1], key);
    }
    let is_purged = |cluster: &SimCluster| (0..30).all(|key| cluster.stored(name(key)).is_empty());
    assert!(cluster.run_until(200 * SECOND, is_purged));
    for there in THERE {
        cluster.crash_node(there);
    }
    assert!(
        cluster.run_until(60 * SECOND, |it| HERE.iter().all(|node| it.is_dead_for(*node, &THERE)))
    );
    cluster.mend();
    for there in THERE {
        cluster.restart_node(there);
    }
    settle(&mut cluster);
    cluster.run_for(130 * SECOND);
    assert!(
        is_purged(&cluster),
        "{:?}",
        (0..30).map(|key| cluster.stored(name(key))).collect::<Vec<_>>()
    );
}

/// The relay is cut off from the others of its data center, which can be reached from here, and
/// every node still counts as alive: another one relays.
#[test]
fn a_relay_that_cannot_write_is_replaced() {
    for alone in THERE {
        let mut cluster = started(12, options());
        let others: Vec<usize> = THERE.into_iter().filter(|it| *it != alone).collect();
        cluster.split(&[alone], &others);
        for key in 0..60 {
            set(&mut cluster, HERE[key % 3], key, "new");
        }
        let is_there = |cluster: &SimCluster| {
            (0..60).all(|key| cluster.stored(name(key)).iter().any(|it| others.contains(&it.node)))
        };
        assert!(cluster.run_until(30 * SECOND, is_there), "n{alone} is alone");
    }
}
