//! A member of a list that lives and is never whole: no later list waits for it for ever.
//!
//! N = 3, W = 2, on nodes a, b and c. Node 3 comes in for one of them, and when its list is
//! decided, it can merge nothing: it has no room, or it reaches no other node, which all reach it.
//! It does not know what was acknowledged before, so it counts for nothing. Then there is a reason
//! for another list, which node 3 promises like any other acceptor.

use std::time::Duration;

use gridkv::sim::{ProtocolMutant, RequestKind, SimCluster, SimOptions};
use gridkv::{Eviction, OnPartition};

use crate::support::{MS, SECOND, Traced, read, started, wait, write};

const SEEDS: std::ops::Range<u64> = 0..5;

/// The node that is never whole.
const STUCK: usize = 3;

/// What a core of it holds, if it is to have no room.
const LITTLE: usize = 64 << 10;

/// Within this a partition has its next list after a death: the death is noticed, the member is
/// waited for two seconds, and the copies are made.
const SERVES_WITHIN: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Debug)]
enum Why {
    Full,
    ReachesNone,
}

/// A cluster with a key of whose list a member is stuck.
struct Stuck {
    cluster: Traced,
    key: String,
    /// The other two members.
    members: [usize; 2],
    /// The node that is in no list now, and was before.
    outside: usize,
    /// The value of the key: too long for the node that is full.
    value: Vec<u8>,
}

impl Stuck {
    fn new(seed: u64, why: Why, on_partition: OnPartition, mutant: Option<ProtocolMutant>) -> Self {
        let mut options = SimOptions::default();
        (options.replicas, options.write_quorum, options.read_quorum) = (3, 2, 2);
        (options.partitions, options.cores, options.eviction) = (32, 1, Eviction::None);
        options.on_partition = on_partition;
        let (key, members) = key_for(&options);
        options.mutant = mutant;
        let outside = (0..3).find(|node| !members.contains(node)).expect("one of three goes");
        let value = vec![7; 2 * LITTLE];
        let mut cluster = started(seed, 3, options);
        let next = list_number(&cluster, &key) + 1;
        if why == Why::Full {
            cluster.start_node_with_memory(Some(LITTLE));
        } else {
            write(&mut cluster, 0, &key, &value);
            cluster.start_node();
        }
        arrival(&mut cluster, &key, RequestKind::Prepare);
        if why == Why::Full {
            cluster.stall_cores(STUCK, 20 * MS);
            write(&mut cluster, members[0], &key, &value);
        }
        arrival(&mut cluster, &key, RequestKind::Adopt);
        if why == Why::ReachesNone {
            (0..3).for_each(|node| cluster.cut(STUCK, node));
        }
        // Longer than it takes until the node that is outside has dropped its copy.
        cluster.run_for(10 * SECOND);
        let both = members.map(|node| (node, next));
        assert_eq!(cluster.replicas(&key), both, "seed {seed}: node 3 is not open");
        Self { cluster, key, members, outside, value }
    }

    /// Asserts that the key has another list within a while, in which it is read and written, and
    /// that nothing was put at risk.
    fn assert_served(mut self, seed: u64, by: [usize; 2]) {
        let Self { cluster, key, value, .. } = &mut self;
        let are_open = |cluster: &SimCluster| {
            let open: Vec<usize> = cluster.replicas(&*key).iter().map(|(node, _)| *node).collect();
            by.iter().all(|node| open.contains(node))
        };
        wait(cluster, SERVES_WITHIN, are_open);
        for node in by {
            assert_eq!(read(cluster, node, &*key).as_ref(), Some(&*value), "seed {seed}");
            *value = format!("written through {node}").into_bytes();
            write(cluster, node, &*key, &*value);
        }
        assert_eq!(cluster.at_risk_since(key), None, "seed {seed}");
    }
}

/// Returns a key that node 3 holds in a cluster of four, and who holds it with node 3.
fn key_for(options: &SimOptions) -> (String, [usize; 2]) {
    let cluster = started(0, 4, options.clone());
    let with_members = |number| {
        let key = options.key(number);
        let members: Vec<usize> = cluster.replicas(&key).iter().map(|(node, _)| *node).collect();
        (members.len() == 3 && members[2] == STUCK).then_some((key, [members[0], members[1]]))
    };
    (0..500).find_map(with_members).expect("one of many keys")
}

fn list_number(cluster: &SimCluster, key: &str) -> u64 {
    cluster.replicas(key).into_iter().map(|(_, number)| number).max().expect("replicas")
}

/// Runs until such a request of node 3 arrives next.
fn arrival(cluster: &mut SimCluster, key: &str, kind: RequestKind) {
    let way = cluster.run_until_arrival(10 * SECOND, key, kind, |from, _| from == STUCK);
    assert!(way.is_some(), "no {kind:?}:\n{}", cluster.describe());
}

/// Found by reading: with a majority required, the next list waited for each living member that
/// promised and was not whole, for ever. One of the other two members dies, which one death of two
/// copies allows. The last one and node 3 decide a list of them and the node that was outside. That
/// one has two sources: the member that is whole, and node 3, which acknowledged nothing.
fn after_a_death(seed: u64, why: Why, on_partition: OnPartition) {
    let mut stuck = Stuck::new(seed, why, on_partition, None);
    let [stays, dies] = stuck.members;
    stuck.cluster.crash_node(dies);
    let outside = stuck.outside;
    stuck.assert_served(seed, [stays, outside]);
}

#[test]
fn a_member_that_is_never_whole_holds_up_no_list_after_a_death() {
    for seed in SEEDS {
        for why in [Why::Full, Why::ReachesNone] {
            after_a_death(seed, why, OnPartition::Majority);
        }
    }
    for mutant in [ProtocolMutant::UnwholeAwaited, ProtocolMutant::IdleIgnored] {
        let mut stuck = Stuck::new(0, Why::Full, OnPartition::Majority, Some(mutant));
        stuck.cluster.crash_node(stuck.members[1]);
        stuck.cluster.run_for(60 * SECOND);
        let Stuck { cluster, key, members, .. } = &stuck;
        let open: Vec<usize> = cluster.replicas(key).iter().map(|(node, _)| *node).collect();
        assert_eq!(open, [members[0]], "{mutant:?} is noticed");
    }
}

/// Without a quorum that would be a fork. It used to say that acknowledged writes might be lost, as
/// the node that was outside opened the list with one source.
#[test]
fn nor_does_it_where_both_sides_serve_and_nothing_is_at_risk() {
    for seed in SEEDS {
        for why in [Why::Full, Why::ReachesNone] {
            after_a_death(seed, why, OnPartition::Serve);
        }
    }
}

/// No member dies here, and one that is whole is asked to leave. It could not.
#[test]
fn a_node_leaves_though_another_member_is_never_whole() {
    for seed in SEEDS {
        let mut stuck = Stuck::new(seed, Why::Full, OnPartition::Majority, None);
        let ([stays, leaves], outside) = (stuck.members, stuck.outside);
        stuck.cluster.leave(leaves);
        wait(&mut stuck.cluster, 20 * SECOND, |cluster| !cluster.is_running(leaves));
        stuck.assert_served(seed, [stays, outside]);
    }
}

/// A stuck member is asked to leave, and one that is whole dies. The list that follows needs the
/// stuck one as a source: it alone can say that it acknowledged nothing. It went at once, as it
/// held nothing, and the list stayed without what it takes to open it.
fn stuck_one_leaves(seed: u64, mutant: Option<ProtocolMutant>) -> (Stuck, [usize; 2]) {
    let mut stuck = Stuck::new(seed, Why::Full, OnPartition::Majority, mutant);
    let [stays, dies] = stuck.members;
    // The newcomer to the next list is slow.
    let outside = stuck.outside;
    stuck.cluster.slow_down(outside, STUCK, 120 * MS, 140 * MS);
    stuck.cluster.slow_down(STUCK, outside, 120 * MS, 140 * MS);
    stuck.cluster.leave(STUCK);
    stuck.cluster.crash_node(dies);
    (stuck, [stays, outside])
}

#[test]
fn a_member_that_is_never_whole_leaves_when_it_is_needed_no_more() {
    for seed in SEEDS {
        let (mut stuck, [stays, outside]) = stuck_one_leaves(seed, None);
        wait(&mut stuck.cluster, 30 * SECOND, |cluster| !cluster.is_running(STUCK));
        stuck.assert_served(seed, [stays, outside]);
    }
    let is_stuck = |seed| {
        let (mut stuck, by) = stuck_one_leaves(seed, Some(ProtocolMutant::IdleDropped));
        stuck.cluster.run_for(60 * SECOND);
        let open = stuck.cluster.replicas(&stuck.key);
        !by.iter().all(|node| open.iter().any(|(other, _)| other == node))
    };
    assert!(SEEDS.into_iter().any(is_stuck));
}
