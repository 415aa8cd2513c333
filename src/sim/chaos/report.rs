//! What a schedule came to: a summary, or the promise that was broken and how to see it again.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

use super::{Chaos, Profile};
use crate::quorums::Quorums;
use crate::sim::checks::Violation;
use crate::sim::{Fault, SimOptions};

/// What a schedule came to in which every promise was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The kind of trouble that it was.
    pub profile: Profile,
    /// How much time was simulated.
    pub simulated: Duration,
    /// How many events the cluster handled.
    pub events: u64,
    /// How many operations were begun and checked.
    pub operations: usize,
    /// How many of these were acknowledged, or found an answer.
    pub answered: usize,
    /// How many of these were refused before anything had happened.
    pub refused: usize,
    /// For how many keys an order of the operations was searched.
    pub linearizable: Linearizable,
    /// How long it took after the faults until no copy was missing.
    pub settled_after: Duration,
    /// How long it took after the faults until all copies were equal.
    pub equal_after: Duration,
    /// How many faults there were of each kind.
    pub faults: BTreeMap<&'static str, usize>,
    /// [`SimCluster::trace_hash`](crate::sim::SimCluster::trace_hash): equal for equal histories.
    pub trace_hash: u64,
}

/// How many keys were judged where R ≥ 2 promises that each is linearizable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Linearizable {
    /// The keys for which an order was found.
    pub keys: usize,
    /// The keys for which the search was given up.
    pub undecided: usize,
    /// The keys among all of these whose list changed before the end of what was judged.
    pub over_changes: usize,
    /// The keys among all of these that were judged only until their lists forked, or until
    /// acknowledged writes were said to be at risk.
    pub parted: usize,
}

impl AddAssign for Linearizable {
    fn add_assign(&mut self, other: Self) {
        self.keys += other.keys;
        self.undecided += other.undecided;
        self.over_changes += other.over_changes;
        self.parted += other.parted;
    }
}

/// A broken promise: which it was, how it was broken, and how to see it again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The kind of trouble.
    pub profile: Profile,
    /// Whether it was ten minutes of it.
    pub long: bool,
    /// The broken promise.
    pub violation: Violation,
    /// What the cluster was like.
    pub cluster: String,
    /// The last faults before.
    pub faults: Vec<String>,
    /// What each node saw and held in the end.
    pub nodes: String,
    /// How much time was simulated.
    pub simulated: Duration,
    /// Every event, if [`ChaosOptions::keep_trace`](super::ChaosOptions::keep_trace) asked for it.
    pub trace: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, profile, violation, cluster, faults, nodes, .. } = self;
        writeln!(f, "seed {seed}, {}: {violation}", profile.name())?;
        writeln!(f, "  {cluster}")?;
        writeln!(f, "  faults:")?;
        faults.iter().try_for_each(|fault| writeln!(f, "    {fault}"))?;
        writeln!(f, "  in the end:")?;
        nodes.lines().try_for_each(|node| writeln!(f, "    {node}"))?;
        let long = if self.long { " --long" } else { "" };
        write!(
            f,
            "  again: cargo run --release -p gridkv-simulate -- --seeds {seed}..{} \
             --profile {}{long} --trace FILE",
            seed + 1,
            profile.name()
        )
    }
}

/// How many of the last faults a failure shows.
const FAULTS_SHOWN: usize = 25;

impl Chaos {
    pub(super) fn failure(&self, violation: Violation) -> Failure {
        let SimOptions { cores, clock_skew, .. } = &self.sim;
        let Quorums { replicas, write, read } = self.sim.quorums();
        let last = violation.operations.iter().filter_map(|operation| operation.end).max();
        let until = last.unwrap_or(Duration::MAX);
        let before: Vec<&Fault> =
            self.cluster.faults().iter().filter(|fault| fault.at <= until).collect();
        let line = |fault: &&Fault| format!("{:12.6}  {}", fault.at.as_secs_f64(), fault.what);
        Failure {
            seed: self.seed,
            profile: self.profile,
            long: self.options.long,
            violation,
            cluster: format!(
                "N = {replicas}, W = {write}, R = {read}, {} nodes of {cores} cores at first, \
                 clocks up to {clock_skew:?} off, writes ordered: {:?}",
                self.nodes, self.order
            ),
            faults: before[before.len().saturating_sub(FAULTS_SHOWN)..].iter().map(line).collect(),
            nodes: self.cluster.describe(),
            simulated: self.cluster.elapsed(),
            trace: self.cluster.trace().to_owned(),
        }
    }
}
