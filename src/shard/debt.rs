//! What is missing before any node can be stopped, and what a core holds and does.
//!
//! Nothing is counted while calls are made: a question has the core look at each of its partitions
//! once, which takes some hundred microseconds. All nodes' debts together are the cluster's: every
//! copy that is missing is counted by the node that should hold it, or, if there are fewer members
//! than copies, by the first of those that hold the partition.
//!
//! A write that W replicas have is not missing because another one is out of this node's reach: it
//! would be missing for as long as writes go on, and no node could be stopped or leave. What such a
//! replica lacks, it gets from one that reaches it.

use std::time::Duration;

use super::calls::Counts;
use super::coordinator::Coordinator;
use super::data_centers::DataCenters;
use super::interface::Debt;
use super::node::Node;
use super::replica::Replica;
use crate::clock::Instant;
use crate::types::Identity;
use crate::wire::timing::HINT_WINDOW;

/// A write that was acknowledged longer ago than this and is not everywhere is missing somewhere.
/// Sooner it is under way, as some write always is.
const LATE_AFTER: Duration = Duration::from_millis(100);

/// A member to which there was no connection for this long is out of reach, as far as one can
/// tell. Sooner it is dialled again and again, and has what it missed a moment later.
const OUT_OF_REACH_AFTER: Duration = Duration::from_secs(6);

/// Returns what this core has still to do before no copy is missing.
pub(super) fn debt<C>(
    node: &Node,
    now: Instant,
    replica: &Replica,
    coordinator: &Coordinator<C>,
    data_centers: &DataCenters<C>,
) -> Debt {
    let is_unreached = |member: &Identity| {
        replica.unreached.since(member).is_some_and(|since| now.since(since) >= OUT_OF_REACH_AFTER)
    };
    let owed = || coordinator.hints_but_for(is_unreached);
    let late = now + (HINT_WINDOW - LATE_AFTER);
    let calls = coordinator.calls_in_flight() + data_centers.calls_in_flight();
    let (_, waiting_for_reachable, _) = data_centers.relaying.waiting();
    Debt {
        copies: node.partitions().map(|partition| replica.missing(node, partition)).sum(),
        behind: replica.copies.behind(node, now, |member| !is_unreached(member)),
        writes: owed().filter(|ends| *ends <= late).count(),
        unfinished: calls + owed().count() + waiting_for_reachable,
        missing_bytes: replica.shortage().bytes,
    }
}

/// Returns what this core holds and does, without its redundancy debt.
pub(super) fn counts<C>(
    node: &Node,
    replica: &Replica,
    coordinator: &Coordinator<C>,
    data_centers: &DataCenters<C>,
) -> Counts {
    let store = &replica.copies.store;
    let (pending_partitions, giving_partitions) = replica.progress();
    let (writes_to_relay, _, writes_not_relayed) = data_centers.relaying.waiting();
    Counts {
        keys: store.live(),
        bytes: store.bytes(),
        held_bytes: store.retired_bytes(),
        synced_partitions: replica.synced_partitions(node),
        pending_partitions,
        giving_partitions,
        calls_in_flight: coordinator.calls_in_flight() + data_centers.calls_in_flight(),
        hinted_writes: coordinator.hinted_writes(),
        writes_to_relay,
        writes_not_relayed,
        partitions_repaired: replica.partitions_repaired(),
        redundancy_debt: 0,
    }
}
