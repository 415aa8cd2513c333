//! Networks in which some nodes never reach each other, though all of them live: hub and spoke, and
//! two nodes of one data center with a broken way between them. Nothing is mended here.

use std::time::Duration;

use gridkv::OnPartition;
use gridkv::sim::{ProtocolMutant, SimCluster, SimOptions};

use crate::support::{
    MS, SECOND, SETTLED_WITHIN, STARTED_WITHIN, Traced, delete, settle, started, wait, write,
};

/// The hub reaches both spokes, which do not reach each other.
const HUB: [usize; 3] = [0, 3, 6];
const SPOKES: [[usize; 3]; 2] = [[1, 4, 7], [2, 5, 8]];

/// How old a tombstone is when it goes, in these simulations.
const GRACE: Duration = Duration::from_secs(5);

/// Within this everything is purged that can be, and everything is compared between data centers
/// that reach each other, over one data center in between.
const SPREAD_WITHIN: Duration = Duration::from_secs(300);

/// Within this a write reaches a data center that its coordinator does not reach, for the first
/// time: it tries to reach it three times before.
const RELAYED_WITHIN: Duration = Duration::from_secs(10);

/// Within this it is safe again after a crash, and a node that leaves is gone, though two nodes do
/// not reach each other.
const REPAIRED_WITHIN: Duration = Duration::from_secs(10);
const LEFT_WITHIN: Duration = Duration::from_secs(10);

/// For how long no node may be taken for dead.
const LONG: Duration = Duration::from_secs(300);

fn options() -> SimOptions {
    let mut options = SimOptions::default();
    options.partitions = 64;
    options.purge_grace = GRACE;
    options.keep_trace = std::env::var("GRIDKV_TRACE").is_ok();
    options
}

fn name(key: usize) -> String {
    options().key(key)
}

/// Starts nine nodes in three data centers, of which the last two do not reach each other.
fn hub_and_spokes(seed: u64, mutant: Option<ProtocolMutant>) -> Traced {
    let mut options = options();
    (options.data_centers, options.mutant) = (3, mutant);
    let mut cluster = Traced::new(seed, options);
    for _ in 0..9 {
        cluster.start_node();
    }
    cluster.split(&SPOKES[0], &SPOKES[1]);
    for (hub, spoke) in
        HUB.into_iter().flat_map(|hub| SPOKES.concat().into_iter().map(move |spoke| (hub, spoke)))
    {
        cluster.slow_down(hub, spoke, 20 * MS, 25 * MS);
        cluster.slow_down(spoke, hub, 20 * MS, 25 * MS);
    }
    cluster
}

/// How many of these nodes have this value of the key.
fn holders(cluster: &SimCluster, nodes: &[usize], key: usize, value: &str) -> usize {
    let stored = cluster.stored(name(key)).into_iter();
    stored
        .filter(|it| nodes.contains(&it.node) && it.value.as_deref() == Some(value.as_bytes()))
        .count()
}

fn is_purged(cluster: &SimCluster, mut keys: std::ops::Range<usize>) -> bool {
    keys.all(|key| cluster.stored(name(key)).is_empty())
}

/// A shop and another one are connected to the head office, and not to each other, as most shops
/// are. The details of a member travelled over a direct connection only, so no node of a shop ever
/// knew all members, and none of the shops was born: they acknowledged nothing, for ever. Their
/// nodes took each other for dead and returned, 79 times in 13 minutes, and nothing was purged.
#[test]
fn a_hub_and_spokes_that_never_reach_each_other_are_born_serve_and_agree() {
    for seed in 0..4 {
        let mut cluster = hub_and_spokes(seed, None);
        wait(&mut cluster, STARTED_WITHIN, SimCluster::is_settled);
        for (site, nodes) in [HUB, SPOKES[0], SPOKES[1]].iter().enumerate() {
            for key in 0..20 {
                write(&mut cluster, nodes[key % 3], name(20 * site + key), "value");
            }
        }
        let deaths = cluster.deaths().len();
        // The hub passes on what one spoke sends to the other.
        wait(&mut cluster, RELAYED_WITHIN, |cluster| {
            (0..60).all(|key| holders(cluster, &[0, 1, 2, 3, 4, 5, 6, 7, 8], key, "value") == 9)
        });
        for key in 0..60 {
            delete(&mut cluster, SPOKES[key % 2][key % 3], name(key));
        }
        wait(&mut cluster, SPREAD_WITHIN, |cluster| is_purged(cluster, 0..60));
        cluster.run_for(LONG);
        assert!(is_purged(&cluster, 0..60), "something came back");
        assert_eq!(cluster.deaths().len(), deaths, "seed {seed}: false deaths");
        for node in 0..9 {
            assert!(cluster.wait_until_safe(node, SECOND), "n{node}");
        }
        cluster.leave(SPOKES[1][1]);
        wait(&mut cluster, SETTLED_WITHIN, |cluster| !cluster.is_running(SPOKES[1][1]));
    }
}

/// The second shop opens when the head office and the first one have long been there.
#[test]
fn a_spoke_that_comes_later_is_born_and_gets_what_the_others_have() {
    for seed in 0..3 {
        let mut cluster = hub_and_spokes(seed, None);
        for node in SPOKES[1] {
            cluster.crash_node(node);
        }
        wait(&mut cluster, STARTED_WITHIN, SimCluster::is_settled);
        for key in 0..20 {
            write(&mut cluster, SPOKES[0][key % 3], name(key), "value");
        }
        cluster.run_for(30 * SECOND);
        for node in SPOKES[1] {
            cluster.restart_node(node);
        }
        settle(&mut cluster);
        for key in 20..40 {
            write(&mut cluster, SPOKES[1][key % 3], name(key), "value");
        }
        wait(&mut cluster, SPREAD_WITHIN, |cluster| {
            (0..20).all(|key| holders(cluster, &SPOKES[1], key, "value") == 3)
                && (20..40).all(|key| holders(cluster, &SPOKES[0], key, "value") == 3)
        });
    }
}

/// Each shop is one node. One is started again after the other has come: that it does not reach the
/// other must not keep it from being born again, and it gets its data back from the head office.
#[test]
fn a_spoke_of_one_node_comes_back_when_another_spoke_is_there() {
    for seed in 0..3 {
        let mut options = options();
        options.data_centers = 3;
        (options.replicas, options.write_quorum) = (1, 1);
        let mut cluster = Traced::new(seed, options);
        for _ in 0..4 {
            cluster.start_node();
        }
        cluster.split(&[1], &[2]);
        wait(&mut cluster, STARTED_WITHIN, SimCluster::is_settled);
        (0..20).for_each(|key| write(&mut cluster, 1, name(key), "value"));
        wait(&mut cluster, SPREAD_WITHIN, |cluster| {
            (0..20).all(|key| holders(cluster, &[0, 2, 3], key, "value") == 2)
        });
        cluster.crash_node(1);
        cluster.run_for(5 * SECOND);
        cluster.restart_node(1);
        settle(&mut cluster);
        (20..40).for_each(|key| write(&mut cluster, 1, name(key), "value"));
        wait(&mut cluster, SPREAD_WITHIN, |cluster| {
            (0..40).all(|key| holders(cluster, &[1], key, "value") == 1)
        });
    }
}

/// Within this all see each other again when a site is back.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

/// The second spoke is cut off from the hub until all that it does not reach are dead for it, and
/// it for them. Then it is back. Returns whether all see each other soon, and how many members died
/// for other ones since it is back.
fn a_spoke_comes_back(
    seed: u64,
    (nodes, away): (usize, Duration),
    mutant: Option<ProtocolMutant>,
) -> (bool, usize) {
    let mut options = options();
    (options.data_centers, options.mutant) = (3, mutant);
    if nodes < 9 {
        (options.replicas, options.write_quorum) = (1, 1);
    }
    let mut cluster = Traced::new(seed, options);
    for _ in 0..nodes {
        cluster.start_node();
    }
    let of = |site: usize| (site..nodes).step_by(3).collect::<Vec<usize>>();
    let (hub, spoke, other) = (of(0), of(2), of(1));
    cluster.split(&spoke, &other);
    wait(&mut cluster, STARTED_WITHIN, SimCluster::is_settled);
    cluster.split(&spoke, &hub);
    wait(&mut cluster, SETTLED_WITHIN, |cluster| {
        let others = [&hub[..], &other].concat();
        spoke.iter().all(|node| cluster.is_dead_for(*node, &others))
            && others.iter().all(|node| cluster.is_dead_for(*node, &spoke))
    });
    cluster.run_for(away);
    cluster.mend();
    cluster.split(&spoke, &other);
    let deaths = cluster.deaths().len();
    let is_seen = cluster.run_until(SEEN_WITHIN, SimCluster::is_settled);
    (is_seen, cluster.deaths().len() - deaths)
}

/// A shop was cut off from the head office, and had declared all nodes dead. When it was back, the
/// other shop stayed dead for it. The gossip of that death had gone to nodes that were cut off, and
/// the two shops never meet: so the other one never heard of its death, which only it could refute.
/// Found by the edge example, in two of three runs.
///
/// It had news of deaths left that it had not gossiped yet, and spread them when it was back: nodes
/// of the hub took each other for dead.
#[test]
fn a_spoke_that_was_cut_off_sees_the_other_spoke_again_and_harms_no_member() {
    for seed in 0..12 {
        for nodes in [4, 9] {
            for away in [Duration::ZERO, SECOND, 3 * SECOND, 40 * SECOND] {
                let outcome = a_spoke_comes_back(seed, (nodes, away), None);
                assert_eq!(outcome, (true, 0), "seed {seed}, {nodes} nodes, away for {away:?}");
            }
        }
    }
}

#[test]
fn the_checks_notice_a_death_that_is_untold() {
    let is_seen = |seed| {
        let mutant = Some(ProtocolMutant::DeathUntold);
        a_spoke_comes_back(seed, (4, SECOND), mutant).0
    };
    assert!(!(0..12).all(is_seen));
}

/// Each site expects three nodes of its own and waits for a majority of its own replicas. A member
/// without details counted as one of the own data center once, so a spoke saw other members than
/// the hub, and no spoke acted upon a death.
#[test]
fn each_site_counts_its_own_majority() {
    let mut options = options();
    (options.data_centers, options.expect) = (3, 3);
    options.on_partition = OnPartition::Majority;
    let mut cluster = Traced::new(1, options);
    for _ in 0..9 {
        cluster.start_node();
    }
    cluster.split(&SPOKES[0], &SPOKES[1]);
    wait(&mut cluster, STARTED_WITHIN, SimCluster::is_settled);
    cluster.crash_node(SPOKES[0][2]);
    settle(&mut cluster);
    (0..20).for_each(|key| write(&mut cluster, SPOKES[0][key % 2], name(key), "value"));
}

#[test]
fn the_checks_notice_details_that_are_taken_from_their_own_node_only() {
    let mut cluster = hub_and_spokes(0, Some(ProtocolMutant::FirstHandOnly));
    assert!(
        !cluster.run_until(2 * STARTED_WITHIN, SimCluster::is_settled),
        "the simulation shows nothing"
    );
}

/// Five nodes of one data center. The ways between nodes 0 and 4 are broken, or not, for a control.
/// Node 4 is started again. Returns how many events a quiet minute costs when all is settled.
fn a_node_restarts_that_another_does_not_reach(seed: u64, is_broken: bool) -> u64 {
    let mut cluster = started(seed, 5, options());
    (0..40).for_each(|key| write(&mut cluster, key % 5, name(key), "value"));
    if is_broken {
        cluster.split(&[0], &[4]);
    }
    cluster.run_for(5 * SECOND);
    cluster.crash_node(4);
    cluster.run_for(5 * SECOND);
    let deaths = cluster.deaths().len();
    cluster.restart_node(4);
    settle(&mut cluster);
    for node in [0, 4, 2] {
        assert!(cluster.wait_until_safe(node, 10 * SECOND), "n{node}: {}", cluster.describe());
    }
    let share = (0..40).filter(|key| holders(&cluster, &[4], *key, "value") == 1).count();
    assert!(share > 10, "node 4 has {share} of 40 keys");
    for key in 0..40 {
        assert_eq!(cluster.copies(name(key)).len(), 3, "key {key}");
        write(&mut cluster, key % 5, name(40 + key), "value");
    }
    cluster.run_for(40 * SECOND);
    let events = cluster.events_handled();
    cluster.run_for(60 * SECOND);
    let events = cluster.events_handled() - events;
    (0..40).for_each(|key| delete(&mut cluster, key % 5, name(key)));
    wait(&mut cluster, SPREAD_WITHIN, |cluster| is_purged(cluster, 0..40));
    assert_eq!(cluster.deaths().len(), deaths, "false deaths");
    // The second one must give to node 4, which it does not reach.
    for leaver in [1, 0] {
        cluster.leave(leaver);
        wait(&mut cluster, SETTLED_WITHIN, |cluster| !cluster.is_running(leaver));
        settle(&mut cluster);
        (40..80).for_each(|key| assert_eq!(cluster.copies(name(key)).len(), 3, "key {key}"));
    }
    events
}

/// A route between two hosts is broken, and one of them is started again. It stopped repair,
/// leaves, purges and safety of everybody: neither learned the other's details, so each saw lists
/// with members that it did not know, and asked everybody about them twenty times a second, in all
/// of the places that handoffs have.
#[test]
fn two_nodes_that_do_not_reach_each_other_hold_up_nobody() {
    for seed in 0..3 {
        let whole = a_node_restarts_that_another_does_not_reach(seed, false);
        let broken = a_node_restarts_that_another_does_not_reach(seed, true);
        assert!(broken < 2 * whole, "a quiet minute takes {broken} events instead of {whole}");
    }
}

/// The way between two nodes is broken when the cluster is new: neither of the two hears from the
/// other that it has no data, and that it sees the same members.
#[test]
fn a_cluster_is_born_though_two_nodes_do_not_reach_each_other() {
    for seed in 0..5 {
        let mut cluster = Traced::new(seed, options());
        for _ in 0..5 {
            cluster.start_node();
        }
        cluster.split(&[0], &[4]);
        wait(&mut cluster, STARTED_WITHIN, SimCluster::is_settled);
        (0..40).for_each(|key| write(&mut cluster, key % 5, name(key), "value"));
        for node in 0..5 {
            assert!(cluster.wait_until_safe(node, 60 * SECOND), "n{node}: {}", cluster.describe());
        }
    }
}

/// Six nodes, of which nodes 0 and 1 do not reach each other. The last three die one after the
/// other. Returns whether all copies are there again after each death.
fn three_die_beside_a_broken_way(
    seed: u64,
    on_partition: OnPartition,
    mutant: Option<ProtocolMutant>,
) -> bool {
    let mut options = options();
    (options.partitions, options.on_partition, options.mutant) = (256, on_partition, mutant);
    let mut cluster = started(seed, 6, options);
    (0..40).for_each(|key| write(&mut cluster, key % 6, name(key), "value"));
    cluster.split(&[0], &[1]);
    cluster.run_for(5 * SECOND);
    for node in [3, 4, 5] {
        cluster.crash_node(node);
        let is_repaired = cluster.run_until(REPAIRED_WITHIN, |cluster| {
            let mut living = (0..6).filter(|it| cluster.is_running(*it));
            living.all(|it| cluster.is_dead_for(it, &[node])) && cluster.is_settled()
        });
        if !is_repaired {
            return false;
        }
    }
    (0..40).all(|key| cluster.copies(name(key)).len() == 3)
}

/// Found by the simulator (pair, seed 60143): a node that is in no list of a partition knows an old
/// one, of which all members died but one out of its reach. That one proposed the list in which the
/// node was to take part, could not tell it, and needed no one else to. The node asked the members
/// of the old list, for ever, and the other members of the new one had no reason to tell it.
#[test]
fn a_newcomer_hears_of_its_list_though_all_of_the_list_that_it_knows_are_dead_or_out_of_reach() {
    for on_partition in [OnPartition::Serve, OnPartition::Majority] {
        for seed in 0..4 {
            let is_repaired = three_die_beside_a_broken_way(seed, on_partition, None);
            assert!(is_repaired, "seed {seed}, {on_partition:?}");
        }
        let mutant = Some(ProtocolMutant::OldMembersOnly);
        let is_noticed =
            (0..4).any(|seed| !three_die_beside_a_broken_way(seed, on_partition, mutant));
        assert!(is_noticed, "{on_partition:?}: the simulation shows nothing");
    }
}

/// Writes through these nodes fifty times a second, waiting for none, until a condition holds.
/// Returns after how long it did; `None` if not within `limit`.
fn write_until(
    cluster: &mut SimCluster,
    nodes: &[usize],
    limit: Duration,
    is_so: impl Fn(&SimCluster) -> bool,
) -> Option<Duration> {
    let begun = cluster.elapsed();
    let mut key = 0;
    while cluster.elapsed() < begun + limit {
        if is_so(cluster) {
            return Some(cluster.elapsed() - begun);
        }
        for node in nodes {
            key = (key + 1) % 16;
            cluster.set(*node, name(key), "value");
        }
        cluster.run_for(20 * MS);
    }
    None
}

/// Four nodes with more partitions than are handed over at a time. The ways between nodes 0 and 1
/// are broken, writes go on through both, node 2 crashes and comes back, and node 0 leaves. Returns
/// how long it took until it was safe after the crash, and until node 0 had left.
fn writes_around_a_broken_way(
    seed: u64,
    mutant: Option<ProtocolMutant>,
) -> (Option<Duration>, Option<Duration>) {
    let mut options = options();
    (options.partitions, options.mutant) = (1024, mutant);
    let mut cluster = started(seed, 4, options);
    cluster.split(&[0], &[1]);
    write_until(&mut cluster, &[0, 1, 3], 5 * SECOND, |_| false);

    cluster.crash_node(2);
    wait(&mut cluster, 5 * SECOND, |cluster| {
        [0, 1, 3].iter().all(|it| cluster.is_dead_for(*it, &[2]))
    });
    let ticket = cluster.watch_safety(3, REPAIRED_WITHIN);
    let safe = write_until(&mut cluster, &[0, 1, 3], REPAIRED_WITHIN, |it| it.is_safe(3, ticket));

    cluster.restart_node(2);
    settle(&mut cluster);
    write_until(&mut cluster, &[0, 1, 3], SECOND, |_| false);
    cluster.leave(0);
    let left = write_until(&mut cluster, &[0, 1, 3], LEFT_WITHIN, |it| !it.is_running(0));
    (safe, left)
}

/// With 4096 partitions, a cluster of real processes with a broken route was not safe two minutes
/// after a death. Each partition waited a second for the member out of reach, 64 at a time. And
/// while writes went on it was never safe, and no node could leave: what a node had written, the
/// one out of its reach was owed. A newcomer to a busy partition that reached no quorum kept out
/// the replica that did, by ballot after ballot, and went on without one after ten seconds. (The
/// simulated clusters had 64 partitions, and rested.)
#[test]
fn around_a_broken_way_repair_takes_seconds_and_writes_are_not_owed_for_ever() {
    for seed in 0..3 {
        let (safe, left) = writes_around_a_broken_way(seed, None);
        println!("seed {seed}: safe after {safe:?}, left after {left:?}");
        assert!(safe.is_some() && left.is_some(), "seed {seed}: {safe:?}, {left:?}");
    }
    let noticed = |mutant| writes_around_a_broken_way(0, Some(mutant));
    assert_eq!(noticed(ProtocolMutant::UnreachedAwaited).0, None);
    assert_eq!(noticed(ProtocolMutant::UnreachedOwed), (None, None));
    assert_eq!(noticed(ProtocolMutant::NewcomersDriveAlone).0, None);
}

/// The second spoke is seen alive by all, and its data is out of reach: its cores are cut off. The
/// hub and the first spoke delete what it still holds. A helper that is asked to pass a question on
/// to it must not answer for it. Returns how many keys come back.
fn a_spoke_misses_deletes(mutant: Option<ProtocolMutant>) -> usize {
    let mut cluster = hub_and_spokes(3, mutant);
    wait(&mut cluster, STARTED_WITHIN, SimCluster::is_settled);
    (0..30).for_each(|key| write(&mut cluster, HUB[key % 3], name(key), "value"));
    wait(&mut cluster, SPREAD_WITHIN, |cluster| {
        (0..30).all(|key| holders(cluster, &SPOKES[1], key, "value") == 3)
    });
    for (hub, spoke) in HUB.into_iter().flat_map(|hub| SPOKES[1].map(|spoke| (hub, spoke))) {
        cluster.cut(hub, spoke);
        cluster.cut(spoke, hub);
    }
    (0..30).for_each(|key| delete(&mut cluster, SPOKES[0][0], name(key)));
    cluster.run_for(100 * SECOND);
    let held = |cluster: &SimCluster, site: &[usize]| {
        (0..30)
            .filter(|key| cluster.stored(name(*key)).iter().any(|it| site.contains(&it.node)))
            .count()
    };
    if mutant.is_none() {
        assert_eq!(held(&cluster, &SPOKES[0]), 30, "forgotten though a site still has the value");
    }
    30 - held(&cluster, &SPOKES[0])
}

#[test]
fn a_delete_is_not_forgotten_because_a_helper_knows_of_it() {
    assert_eq!(a_spoke_misses_deletes(None), 0);
    assert!(
        a_spoke_misses_deletes(Some(ProtocolMutant::HelperVouches)) > 0,
        "the simulation shows nothing"
    );
}
