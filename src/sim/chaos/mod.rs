//! Random schedules of faults: one seed makes a cluster, calls, and everything that goes wrong.
//! Then everything is mended, and what was promised is checked.
//!
//! ```
//! use gridkv::sim::chaos::{self, ChaosOptions, Profile};
//!
//! let mut options = ChaosOptions::default();
//! options.profile = Some(Profile::Strong);
//! let summary = chaos::run(1, &options).unwrap_or_else(|failure| panic!("{failure}"));
//! assert!(summary.operations > 100);
//! ```
//!
//! A schedule keeps within what the cluster promises to survive:
//!
//! - Memory is lost only while no copy is missing, and only that of one node at a time.
//! - If a checker counts on the order of all writes, a node is out of reach for long only under the
//!   same condition, as the others cannot tell it from one that died.
//! - In all other schedules ([`Profile::Splits`], [`Profile::Majority`], [`Profile::DataCenters`],
//!   and those that lose datagrams in masses) any number of nodes is out of reach, and the order of
//!   writes is checked for each node by itself.
//!
//! ```text
//! seed ─▶ profile ─▶ plan ─▶ start ─▶ calls and disturbances ─▶ heal ─▶ promises ─▶ report
//!                                     (a minute, or ten)
//! ```
//!
//! Some profiles have trouble that is never mended: what is promised is judged while it goes on.
//!
//! What was run, and what it found, is in `simulate/RESULTS.md`. The rules that are left out on
//! purpose, and how many seeds it takes to notice each, are in `tests/sim/chaos.rs`.

mod disturbance;
mod lasting;
mod options;
mod plan;
mod profile;
mod promises;
mod report;
mod room;

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use self::disturbance::{Disturbance, Stepped};
use self::lasting::Lasting;
pub use self::options::ChaosOptions;
use self::plan::Plan;
pub use self::profile::Profile;
pub use self::report::{Failure, Linearizable, Summary};
use super::checks::{Violation, WriteOrder};
use super::workload::Workload;
use super::{SimCluster, SimOptions};

/// How long faults go on.
const SHORT: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(600);

/// Within this time every copy is there again, once nothing is wrong any more.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// Runs the schedule of a seed.
///
/// # Errors
///
/// The first broken promise.
pub fn run(seed: u64, options: &ChaosOptions) -> Result<Summary, Box<Failure>> {
    let mut chaos = Chaos::new(seed, options);
    let result = match catch_unwind(AssertUnwindSafe(|| chaos.run())) {
        Ok(result) => result,
        Err(payload) => {
            let what = message(&*payload).unwrap_or("a panic").to_owned();
            Err(Violation::general("nothing panics", what))
        }
    };
    result.map_err(|violation| Box::new(chaos.failure(violation)))
}

fn message(payload: &(dyn Any + Send)) -> Option<&str> {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

/// One schedule that is under way.
struct Chaos {
    seed: u64,
    options: ChaosOptions,
    profile: Profile,
    rng: SmallRng,
    cluster: SimCluster,
    sim: SimOptions,
    workload: Workload,
    nodes: usize,
    order: WriteOrder,
    /// What may happen, each with how often it is chosen.
    disturbances: Vec<(Disturbance, u32)>,
    /// How long it takes from one disturbance to the next, on average.
    every: Duration,
    /// A disturbance that waits for a moment when it is allowed.
    wanted: Option<Disturbance>,
    /// When the links are whole again.
    mend_at: Option<Duration>,
    /// When loss and delay are over.
    calm_at: Option<Duration>,
    leaving: BTreeSet<usize>,
    /// Nodes that were asked to leave, each with the time, if it is judged what they leave behind.
    leaves: Vec<(usize, Duration)>,
    /// Under a required majority: when the network fell in two, into what, and when it was whole
    /// again.
    splits: Vec<(Duration, [Vec<usize>; 2], Duration)>,
    /// The highest number of each key's list when the schedule began.
    lists: Vec<u64>,
    /// What is wrong to the end, and to which nodes.
    lasting: Lasting,
    struck: Option<(usize, usize)>,
    /// Whether the end is judged by what holds at rest, too.
    rests: bool,
    /// How far writes must be apart for their versions to be in the order of time.
    apart: Duration,
    /// Nodes that were asked when it is safe to stop one, each with the ticket.
    safety_asked: Vec<(usize, u64)>,
    /// How long the last of them waits for it.
    asked_until: Duration,
    /// The clock that is wrong, if one is, and the nodes whose clocks were, from when until when.
    stepped: Option<Stepped>,
    wrong: Vec<(usize, Duration, Duration)>,
    /// The first promise that was seen to be broken while faults went on.
    broken: Option<Violation>,
}

impl Chaos {
    fn new(seed: u64, options: &ChaosOptions) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0xc4a0_5000);
        let chosen = Profile::choose(&mut rng);
        let profile = options.profile.unwrap_or(chosen);
        let plan = Plan::new(seed, profile, options, &mut rng);
        let apart = plan.apart();
        let Plan { sim, work, nodes, order, every, disturbances, lasting, rests } = plan;
        let workload = Workload::new(rng.random(), work, &sim);
        Self {
            seed,
            profile,
            cluster: SimCluster::with_options(rng.random(), sim.clone()),
            sim,
            workload,
            nodes,
            order,
            disturbances,
            every,
            wanted: None,
            mend_at: None,
            calm_at: None,
            leaving: BTreeSet::new(),
            leaves: Vec::new(),
            splits: Vec::new(),
            lists: Vec::new(),
            lasting,
            struck: None,
            rests,
            apart,
            safety_asked: Vec::new(),
            asked_until: Duration::ZERO,
            stepped: None,
            wrong: Vec::new(),
            broken: None,
            options: options.clone(),
            rng,
        }
    }

    fn run(&mut self) -> Result<Summary, Violation> {
        self.begin_lasting(true);
        self.start_all()?;
        self.begin_lasting(false);
        if self.profile == Profile::Rebirths {
            self.disturb_for(self.length() / 4);
            self.start_again()?;
        }
        self.lists = self.list_numbers();
        self.disturb_for(self.length());
        self.heal()
    }

    fn length(&self) -> Duration {
        if self.options.long { LONG } else { SHORT }
    }

    /// Starts the first nodes, and waits until the cluster is whole.
    fn start_all(&mut self) -> Result<(), Violation> {
        let is_slow = self.profile == Profile::Births || self.rng.random_range(0..2) == 0;
        // Two groups, each of which hears of itself first.
        let is_far = self.profile == Profile::Births && self.rng.random_range(0..2) == 0;
        for new in 0..self.nodes {
            self.cluster.start_node();
            if is_far {
                let most = self.millis(50, 300);
                for other in (0..new).filter(|other| other % 2 != new % 2) {
                    self.cluster.slow_down(new, other, most / 2, most);
                    self.cluster.slow_down(other, new, most / 2, most);
                }
                self.mend_after(300, 2000);
            }
            if is_slow {
                let wait = Duration::from_micros(self.rng.random_range(0..300_000));
                self.cluster.run_for(wait);
            }
        }
        if self.profile == Profile::Births {
            // A node that serves already is called already: all that these say is of one cluster.
            let until = self.cluster.elapsed() + SETTLES_WITHIN;
            while !self.cluster.is_settled() && self.cluster.elapsed() < until {
                let nodes = self.callable();
                self.workload.step(&mut self.cluster, &nodes);
                self.mend_when_due();
                self.wait_for_next_call();
            }
        }
        if !self.cluster.run_until(SETTLES_WITHIN, SimCluster::is_settled) {
            // On this network it might be impossible: on a better one it must be possible.
            self.cluster.set_loss(0, 0);
            self.settle("a cluster comes about")?;
            self.reset_network();
        }
        Ok(())
    }

    /// Crashes all nodes at once and starts them again, empty.
    fn start_again(&mut self) -> Result<(), Violation> {
        self.calm();
        let nodes = self.running();
        for &node in &nodes {
            self.cluster.crash_node(node);
        }
        // A new history begins: nothing of the old one may be found.
        self.cluster.forget_lists();
        let options = self.workload.options().clone();
        self.workload = Workload::new(self.rng.random(), options, &self.sim);
        let all_at_once = self.rng.random_range(0..2) == 0;
        for node in nodes {
            if !all_at_once {
                let wait = Duration::from_micros(self.rng.random_range(0..500_000));
                self.cluster.run_for(wait);
            }
            self.cluster.restart_node(node);
        }
        self.settle("a cluster comes about again")?;
        for key in 0..self.workload.options().keys {
            if let Some(stored) = self.cluster.stored(self.name(key)).first() {
                let what = format!("it is there after all nodes have crashed: {stored:?}");
                return Err(Violation {
                    key: Some(key),
                    ..Violation::general("what is gone is gone", what)
                });
            }
        }
        Ok(())
    }

    fn settle(&mut self, promise: &'static str) -> Result<(), Violation> {
        self.reach(promise, SimCluster::is_settled)
    }

    /// Waits until the cluster is in this state, which is promised.
    fn reach(
        &mut self,
        promise: &'static str,
        state: impl Fn(&SimCluster) -> bool,
    ) -> Result<(), Violation> {
        if self.cluster.run_until(SETTLES_WITHIN, state) {
            return Ok(());
        }
        Err(Violation::general(promise, format!("not within {SETTLES_WITHIN:?}")))
    }

    /// Makes calls and disturbances for `time`.
    fn disturb_for(&mut self, time: Duration) {
        let until = self.cluster.elapsed() + time;
        let mut next_fault = self.cluster.elapsed();
        while self.cluster.elapsed() < until {
            let nodes = self.callable();
            self.workload.step(&mut self.cluster, &nodes);
            let now = self.cluster.elapsed();
            if now >= next_fault {
                next_fault = now + self.every.mul_f64(self.rng.random_range(0.1..2.0));
                let disturbance = self.choose();
                if !self.disturb(disturbance) {
                    self.wanted = Some(disturbance);
                }
            } else if let Some(disturbance) = self.wanted
                && self.disturb(disturbance)
            {
                self.wanted = None;
            }
            self.mend_when_due();
            self.wait_for_next_call();
        }
        self.wanted = None;
    }

    /// Makes calls for `time`, and no disturbance.
    fn call_for(&mut self, time: Duration) {
        let until = self.cluster.elapsed() + time;
        while self.cluster.elapsed() < until {
            let nodes = self.callable();
            self.workload.step(&mut self.cluster, &nodes);
            self.wait_for_next_call();
        }
    }

    fn wait_for_next_call(&mut self) {
        let until = self.cluster.elapsed() + self.workload.pause();
        let is_judged = |chaos: &Self| !chaos.safety_asked.is_empty() || !chaos.leaves.is_empty();
        while is_judged(self) && self.cluster.elapsed() < until {
            let left = until - self.cluster.elapsed();
            let (asked, leaves) = (&self.safety_asked, &self.leaves);
            let is_safe = |(node, ticket): &(usize, u64), cluster: &SimCluster| {
                cluster.is_running(*node) && cluster.is_safe(*node, *ticket)
            };
            let is_told = |cluster: &SimCluster| {
                let has_left = leaves.iter().any(|(node, _)| !cluster.is_running(*node));
                has_left || asked.iter().any(|it| is_safe(it, cluster))
            };
            self.cluster.run_until_just(left, is_told);
            self.workload.collect(&mut self.cluster);
            self.judge_safety();
            self.judge_leaves();
        }
        self.cluster.run_for(until.saturating_sub(self.cluster.elapsed()));
    }

    fn mend_when_due(&mut self) {
        let now = self.cluster.elapsed();
        if self.mend_at.take_if(|at| *at <= now).is_some() {
            self.mend();
        }
        if self.stepped.as_ref().is_some_and(|stepped| stepped.until <= now) {
            self.step_back();
        }
        if self.calm_at.take_if(|at| *at <= now).is_some() {
            self.reset_network();
        }
    }

    fn mend(&mut self) {
        self.cluster.mend();
        self.apply_lasting();
        if let Some((_, _, until)) = self.splits.last_mut() {
            *until = (*until).min(self.cluster.elapsed());
        }
    }

    fn running(&self) -> Vec<usize> {
        (0..self.cluster.nodes()).filter(|&node| self.cluster.is_running(node)).collect()
    }

    /// The nodes that run and do not leave.
    fn staying(&self) -> Vec<usize> {
        self.running().into_iter().filter(|node| !self.leaving.contains(node)).collect()
    }

    /// The nodes whose app can make a call.
    fn callable(&self) -> Vec<usize> {
        self.running().into_iter().filter(|node| !self.cluster.is_paused(*node)).collect()
    }

    fn pick(&mut self, nodes: &[usize]) -> Option<usize> {
        (!nodes.is_empty()).then(|| nodes[self.rng.random_range(0..nodes.len())])
    }

    fn pick_two(&mut self) -> Option<(usize, usize)> {
        let nodes = self.running();
        let one = self.pick(&nodes)?;
        let others: Vec<usize> = nodes.into_iter().filter(|node| *node != one).collect();
        Some((one, self.pick(&others)?))
    }

    /// Whether no copy is missing and no node is out of reach: then one node can be lost.
    fn may_lose_one(&self) -> bool {
        let is_whole = self.mend_at.is_none() || self.order != WriteOrder::Everywhere;
        let no_node_pauses = self.running().iter().all(|node| !self.cluster.is_paused(*node));
        is_whole && no_node_pauses && self.leaving_is_over() && self.cluster.is_settled()
    }

    fn leaving_is_over(&self) -> bool {
        self.leaving.iter().all(|node| !self.cluster.is_running(*node))
    }

    /// Whether enough nodes are left without one for writes to go on.
    fn can_spare(&self) -> bool {
        !self.spare().is_empty()
    }

    /// The nodes each of which its data center can do without.
    fn spare(&self) -> Vec<usize> {
        let staying = self.staying();
        let needed = self.sim.needed();
        let has_enough = |node: &usize| {
            let of_same = staying
                .iter()
                .filter(|other| (**other).abs_diff(*node) % self.sim.data_centers == 0);
            of_same.count() > needed
        };
        staying.iter().copied().filter(has_enough).collect()
    }

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(least..=most))
    }

    fn mend_after(&mut self, shortest_ms: u64, longest_ms: u64) {
        let at = self.cluster.elapsed() + self.millis(shortest_ms, longest_ms);
        self.mend_at = Some(self.mend_at.map_or(at, |known| known.max(at)));
    }

    fn calm_after(&mut self, shortest_ms: u64, longest_ms: u64) {
        self.calm_at = Some(self.cluster.elapsed() + self.millis(shortest_ms, longest_ms));
    }

    fn reset_network(&mut self) {
        let SimOptions { datagrams_lost_per_mille, connections_broken_per_mille, delay, .. } =
            self.sim;
        self.cluster.set_loss(datagrams_lost_per_mille, connections_broken_per_mille);
        self.cluster.set_duplication(0);
        self.cluster.set_delay(delay.0, delay.1);
    }

    /// Ends everything that is wrong with the network, for good.
    fn calm(&mut self) {
        (self.mend_at, self.calm_at) = (None, None);
        self.step_back();
        self.mend();
        self.cluster.set_loss(0, 0);
        self.cluster.set_duplication(0);
        let delay = SimOptions::default().delay;
        self.cluster.set_delay(delay.0, delay.1);
    }

    fn name(&self, key: usize) -> &str {
        &self.workload.keys()[key]
    }

    fn list_numbers(&self) -> Vec<u64> {
        let number = |key| self.cluster.list_number(self.name(key));
        (0..self.workload.options().keys).map(number).collect()
    }
}
