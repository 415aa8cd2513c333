//! Networks that carry one kind of traffic and not another: UDP alone is cut, or TCP alone, or no
//! node reaches the address that one advertises. The other nodes must not be harmed by it.

use std::time::Duration;

use gridkv::sim::{CallId, CallResult, Death, ProtocolMutant, SimCluster, SimOptions};
use gridkv::{Event, OnPartition};

use crate::support::{
    MS, SECOND, SETTLED_WITHIN, STARTED_WITHIN, Traced, settle, started, wait, write,
};

/// Within this all see each other and hold what they should when the cut is over. A node that was
/// taken for dead is greeted every five seconds, and every other node may be the one that does it.
const WHOLE_WITHIN: Duration = Duration::from_secs(6);

/// Within this it is safe again then.
const SAFE_WITHIN: Duration = Duration::from_secs(2);

/// Within this each call through a node that is not concerned is answered, also while the cut
/// begins and ends.
const SERVED_WITHIN: Duration = Duration::from_secs(1);

/// Within this a node is told that no other reaches it: each of two tries takes at most 2 s.
const TOLD_WITHIN: Duration = Duration::from_secs(6);

/// Within this a cluster is born though a seed answers that never becomes a member.
const BORN_WITHIN: Duration = Duration::from_secs(15);

const KEYS: usize = 64;

/// What of a node's traffic gets lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lost {
    DatagramsTo,
    DatagramsFrom,
    Datagrams,
    ConnectionsTo,
    ConnectionsFrom,
    Connections,
}

use Lost::{Connections, ConnectionsFrom, ConnectionsTo, Datagrams, DatagramsFrom, DatagramsTo};

fn options(mutant: Option<ProtocolMutant>) -> SimOptions {
    let mut options = SimOptions::default();
    (options.partitions, options.mutant) = (64, mutant);
    options.keep_trace = std::env::var("GRIDKV_TRACE").is_ok();
    options
}

/// Loses this between a node and the others, until the network is mended.
fn lose(cluster: &mut SimCluster, lost: Lost, node: usize, others: &[usize]) {
    for other in others.iter().copied() {
        if matches!(lost, DatagramsTo | Datagrams) {
            cluster.lose_datagrams(other, node);
        }
        if matches!(lost, DatagramsFrom | Datagrams) {
            cluster.lose_datagrams(node, other);
        }
        if matches!(lost, ConnectionsTo | Connections) {
            cluster.lose_connections(other, node);
        }
        if matches!(lost, ConnectionsFrom | Connections) {
            cluster.lose_connections(node, other);
        }
    }
}

/// Calls through nodes that nothing is wrong with, a hundred in a second: every second one writes.
struct Calls {
    through: usize,
    names: Vec<String>,
    made: usize,
    open: Vec<(CallId, Duration)>,
    longest: Duration,
    failed: Vec<String>,
}

impl Calls {
    fn new(through: usize) -> Self {
        let names = (0..KEYS).map(|key| options(None).key(key)).collect();
        let (open, failed) = (Vec::new(), Vec::new());
        Self { through, names, made: 0, open, longest: Duration::ZERO, failed }
    }

    fn run_for(&mut self, cluster: &mut SimCluster, time: Duration) {
        let until = cluster.elapsed() + time;
        while cluster.elapsed() < until {
            let (node, key) = (self.made % self.through, self.made / 2 % KEYS);
            let call = if self.made.is_multiple_of(2) {
                cluster.set(node, &self.names[key], "after")
            } else {
                cluster.get(node, &self.names[key])
            };
            self.made += 1;
            self.open.push((call, cluster.elapsed()));
            cluster.run_for(10 * MS);
            self.take_answers(cluster);
        }
    }

    fn take_answers(&mut self, cluster: &mut SimCluster) {
        let (longest, failed) = (&mut self.longest, &mut self.failed);
        self.open.retain(|(call, made)| {
            let Some((at, result)) = cluster.take_outcome(*call) else { return true };
            *longest = (*longest).max(at.saturating_sub(*made));
            if !matches!(result, CallResult::Written(Ok(())) | CallResult::Read(Ok(Some(_)))) {
                failed.push(format!("{made:?}: {result:?}"));
            }
            false
        });
    }
}

/// What a cut did to the nodes that it did not concern.
#[derive(Debug)]
struct Harm {
    /// Deaths of such nodes, as others of them saw.
    deaths: Vec<Death>,
    failed: Vec<String>,
    longest: Duration,
    /// Since the end of the cut. `None` if that took too long.
    whole_after: Option<Duration>,
    is_safe: bool,
}

impl Harm {
    fn is_none(&self) -> bool {
        self.deaths.is_empty()
            && self.failed.is_empty()
            && self.longest <= SERVED_WITHIN
            && self.whole_after.is_some()
            && self.is_safe
    }
}

/// The last of some nodes loses its datagrams, or its connections, to all others for a while.
fn harm_of_a_cut(
    seed: u64,
    nodes: usize,
    (lost, time): (Lost, Duration),
    options: SimOptions,
) -> Harm {
    let (mut cluster, mut calls) = cluster_with_calls(seed, nodes, options);
    let victim = nodes - 1;
    let others: Vec<usize> = (0..victim).collect();
    let deaths = cluster.deaths().len();
    lose(&mut cluster, lost, victim, &others);
    calls.run_for(&mut cluster, time);
    cluster.mend();
    harm(&mut cluster, calls, |it| it.by != victim && it.of != victim, deaths)
}

fn cluster_with_calls(seed: u64, nodes: usize, options: SimOptions) -> (Traced, Calls) {
    let mut cluster = started(seed, nodes, options);
    let calls = Calls::new(nodes - 1);
    for (key, name) in calls.names.iter().enumerate() {
        write(&mut cluster, key % nodes, name, "before");
    }
    (cluster, calls)
}

/// Waits until the cluster is whole again, and says what happened since `deaths` were known.
fn harm(
    cluster: &mut SimCluster,
    mut calls: Calls,
    counts: impl Fn(&&Death) -> bool,
    deaths: usize,
) -> Harm {
    let mended = cluster.elapsed();
    while !cluster.is_settled() && cluster.elapsed() < mended + WHOLE_WITHIN {
        calls.run_for(cluster, 50 * MS);
    }
    let whole_after = cluster.is_settled().then(|| cluster.elapsed() - mended);
    // A node that is still dead for another one alone is greeted in this time.
    calls.run_for(cluster, WHOLE_WITHIN);
    cluster.run_for(SERVED_WITHIN);
    calls.take_answers(cluster);
    let is_safe = cluster.is_settled() && cluster.wait_until_safe(0, SAFE_WITHIN);
    let deaths = cluster.deaths()[deaths..].iter().filter(counts).copied().collect();
    assert!(calls.open.is_empty() && calls.made > 0, "{} calls are open", calls.open.len());
    Harm { deaths, failed: calls.failed, longest: calls.longest, whole_after, is_safe }
}

/// A node heard no datagrams any more, or was not heard, while its connections worked. It took all
/// others for dead and gossiped it; until it was dead to them they believed it. So healthy members
/// died for each other, and their partitions changed their lists for nothing: in one of four
/// histories in which the cut was about as long as a death takes to be noticed.
#[test]
fn a_node_whose_datagrams_alone_get_lost_harms_no_other() {
    for (nodes, seeds) in [(3, 0..6), (5, 0..4), (8, 0..4)] {
        for lost in [DatagramsTo, DatagramsFrom, Datagrams] {
            for time in [6, 8, 10, 12, 20, 100].map(|tenths| tenths * 100 * MS) {
                for seed in seeds.clone() {
                    let harm = harm_of_a_cut(seed, nodes, (lost, time), options(None));
                    assert!(harm.is_none(), "{nodes} nodes, {lost:?}, {time:?}, {seed}: {harm:?}");
                }
            }
            let harm = harm_of_a_cut(9, nodes, (lost, 60 * SECOND), options(None));
            assert!(harm.is_none(), "{nodes} nodes, {lost:?} for a minute: {harm:?}");
        }
    }
}

/// A node heard no datagrams and took one of two others for dead. With the second it decided lists
/// of the two of them, over connections. A moment later all were dead for it, and it was dead for
/// them. The lists that it had made lacked a quorum among the healthy: they stood still for two
/// seconds and more, until what was left went on.
#[test]
fn a_node_that_none_answers_decides_no_lists_with_those_that_are_left_for_it() {
    for on_partition in [OnPartition::Serve, OnPartition::Majority] {
        let harm = |seed, mutant| {
            let mut options = options(mutant);
            options.on_partition = on_partition;
            harm_of_a_cut(seed, 3, (DatagramsTo, 10 * SECOND), options)
        };
        for seed in 20..40 {
            let harm = harm(seed, None);
            assert!(harm.is_none(), "seed {seed}, {on_partition:?}: {harm:?}");
        }
        let mutant = Some(ProtocolMutant::CutOffDecides);
        // One history in ten shows it.
        let is_noticed = (20..100).any(|seed| !harm(seed, mutant).is_none());
        assert!(is_noticed, "{on_partition:?}: the simulation shows nothing");
    }
}

#[test]
fn a_death_that_is_believed_by_hearsay_is_noticed() {
    let dies = |seed| {
        let mutant = Some(ProtocolMutant::HearsayBelieved);
        let cut = |time| harm_of_a_cut(seed, 8, (Datagrams, time), options(mutant));
        [8, 10, 12].into_iter().any(|tenths| !cut(tenths * 100 * MS).deaths.is_empty())
    };
    assert!((0..8).any(dies), "the simulation shows nothing");
}

/// Gossip arrives, and nothing does that goes over connections: a firewall that lets UDP pass
/// alone. The node counts as alive, and the others serve what it holds without it.
#[test]
fn a_node_whose_connections_alone_get_lost_harms_no_other() {
    for nodes in [3, 5, 8] {
        for lost in [ConnectionsTo, ConnectionsFrom, Connections] {
            for time in [2 * SECOND, 10 * SECOND, 60 * SECOND] {
                let harm = harm_of_a_cut(nodes as u64, nodes, (lost, time), options(None));
                assert!(harm.is_none(), "{nodes} nodes, {lost:?}, {time:?}: {harm:?}");
            }
        }
    }
}

/// Datagrams, or connections, of two nodes get lost, one way or both. Others reach both of them, so
/// neither is taken for dead, by any node.
#[test]
fn what_gets_lost_between_two_nodes_alone_kills_neither() {
    for nodes in [3, 5, 8] {
        for lost in [DatagramsTo, Datagrams, ConnectionsTo, Connections] {
            for time in [2 * SECOND, 30 * SECOND] {
                let (mut cluster, _) = cluster_with_calls(nodes as u64, nodes, options(None));
                let (deaths, victim) = (cluster.deaths().len(), nodes - 1);
                // Both of these serve with the others. What only they have in common is a read of
                // an old value, which R = 1 allows.
                let mut calls = Calls::new(nodes);
                lose(&mut cluster, lost, victim, &[0]);
                calls.run_for(&mut cluster, time);
                cluster.mend();
                let harm = harm(&mut cluster, calls, |_| true, deaths);
                assert!(harm.is_none(), "{nodes} nodes, {lost:?}, {time:?}: {harm:?}");
            }
        }
    }
}

/// The node that is cut off is told so, over the connections that it still has.
#[test]
fn a_node_whose_datagrams_get_lost_while_it_runs_is_told_so() {
    for lost in [DatagramsTo, DatagramsFrom, Datagrams] {
        let mut cluster = started(1, 3, options(None));
        lose(&mut cluster, lost, 2, &[0, 1]);
        cluster.run_for(10 * SECOND);
        let said = unreachable(&cluster, 2);
        let text = "TCP to 10.0.0.3:7000 works, but no UDP datagram is answered";
        assert!(said.iter().any(|reason| reason.contains(text)), "{lost:?}: {said:?}");
        assert!(unreachable(&cluster, 0).is_empty() && unreachable(&cluster, 1).is_empty());
        cluster.mend();
        settle(&mut cluster);
        wait(&mut cluster, SETTLED_WITHIN, |cluster| cluster.hint(2).is_none());
    }
}

/// Why other nodes said that they do not reach this one.
fn unreachable(cluster: &SimCluster, node: usize) -> Vec<String> {
    let said = cluster.events(node).iter().filter_map(|event| match event {
        Event::Unreachable { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    said.collect()
}

/// A node comes to a cluster, and no node reaches it at the address that it advertises, which
/// refuses connections or says nothing. Returns whether any other node noticed, and the cluster.
fn a_guest_comes(
    seed: u64,
    nodes: usize,
    is_refused: bool,
    mutant: Option<ProtocolMutant>,
) -> (bool, Traced) {
    let (mut cluster, mut calls) = cluster_with_calls(seed, nodes, options(mutant));
    let before: Vec<usize> = (0..nodes).map(|node| cluster.events(node).len()).collect();
    cluster.hide(nodes, is_refused);
    cluster.start_node();
    let is_safe = (0..6).all(|_| {
        calls.run_for(&mut cluster, 5 * SECOND);
        cluster.wait_until_safe(0, SAFE_WITHIN)
    });
    let is_told = (0..nodes).any(|node| cluster.events(node).len() > before[node]);
    let is_seen = !cluster.is_gone(nodes);
    (is_told || is_seen || !is_safe || !calls.failed.is_empty(), cluster)
}

/// A node advertised an address that no other reached: the one of its container, or with a typing
/// error. It joined, was dead a second later, took all others for dead and said so. Three healthy
/// nodes declared each other dead 16 times in 20 s, and it was never safe while the guest ran.
#[test]
fn a_node_whose_address_none_reaches_is_no_member_and_is_told_why() {
    for (nodes, is_refused) in [3, 5].into_iter().flat_map(|n| [(n, true), (n, false)]) {
        for seed in 0..3 {
            let (is_noticed, mut cluster) = a_guest_comes(seed, nodes, is_refused, None);
            assert!(!is_noticed, "seed {seed}, {nodes} nodes: {}", cluster.describe());
            let said = unreachable(&cluster, nodes);
            assert_eq!(said.len(), cluster.events(nodes).len(), "{:?}", cluster.events(nodes));
            assert!((1..=4).contains(&said.len()), "once in ten seconds: {said:?}");
            let address = format!("10.0.0.{}:7000", nodes + 1);
            let what = if is_refused { "nobody listens at" } else { "no answer from" };
            let hint = cluster.hint(nodes).unwrap_or_default().to_owned();
            for part in ["does not reach this node", what, &address, "check Config::advertise"] {
                assert!(hint.contains(part), "{hint}");
            }
            // When the way is free, it comes in by itself.
            cluster.mend();
            wait(&mut cluster, STARTED_WITHIN, SimCluster::is_settled);
            assert_eq!(cluster.hint(nodes), None);
        }
    }
    // The others know a node only once they have reached it, so that it disturbs itself alone.
    let mutant = Some(ProtocolMutant::UnreachedAdmitted);
    let (_, cluster) = a_guest_comes(0, 3, true, mutant);
    assert!(unreachable(&cluster, 3).len() < cluster.events(3).len(), "it takes part");
}

#[test]
fn a_guest_is_told_soon() {
    let mut cluster = started(1, 3, options(None));
    cluster.hide(3, false);
    cluster.start_node();
    wait(&mut cluster, TOLD_WITHIN, |cluster| !unreachable(cluster, 3).is_empty());
}

/// Four nodes start together, each a seed of those that come after it. The second one answers over
/// connections and hears no datagram. The others waited for it to become a member, for ever.
#[test]
fn a_seed_that_never_becomes_a_member_does_not_keep_a_cluster_from_being_born() {
    for (seed, lost) in [DatagramsTo, Datagrams, DatagramsFrom].into_iter().enumerate() {
        let mut cluster = Traced::new(seed as u64, options(None));
        lose(&mut cluster, lost, 1, &[0, 2, 3]);
        (0..4).for_each(|_| _ = cluster.start_node());
        let is_born = |cluster: &SimCluster, node: usize| {
            cluster.events(node).iter().any(|event| matches!(event, Event::Born { .. }))
        };
        wait(&mut cluster, BORN_WITHIN, |it| [0, 2, 3].iter().all(|node| is_born(it, *node)));
        assert!(!is_born(&cluster, 1) && !unreachable(&cluster, 1).is_empty());
        for key in 0..20 {
            write(&mut cluster, [0, 2, 3][key % 3], options(None).key(key), "value");
        }
        assert!(cluster.deaths().is_empty(), "{:?}", cluster.deaths());
        cluster.mend();
        settle(&mut cluster);
    }
}

/// A node whose seeds are all down has no node to ask whether it is reached. One that comes to it
/// asks it, and is asked in turn.
#[test]
fn two_nodes_become_members_by_each_other_though_the_seeds_of_one_are_silent() {
    for seed in 0..4 {
        let mut cluster = started(seed, 2, options(None));
        cluster.crash_node(0);
        cluster.crash_node(1);
        cluster.restart_node(1);
        cluster.run_for(30 * SECOND);
        cluster.start_node();
        settle(&mut cluster);
        assert!(cluster.see_each_other());
        write(&mut cluster, 1, options(None).key(1), "value");
    }
}
