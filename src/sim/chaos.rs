//! Random schedules of faults: a seed makes a cluster, a workload and everything that goes wrong, then everything
//! is mended, and what was promised is checked.
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
//! A schedule keeps within what the cluster promises to survive. Memory is lost only while no copy is missing, of one
//! node at a time; and where a checker counts on the order of all writes, so is any node out of reach for long, as
//! the others cannot tell it from one that died. In the other schedules ([`Profile::Splits`], [`Profile::Majority`], and
//! where datagrams get lost in masses) any number is, and the order of writes is checked for each node by itself.
//!
//! # What was run
//!
//! On two processors, before this version: `cargo run --release -p gridkv-simulate -- --seeds 0..10000`
//!
//! ```text
//! 10000 histories in 1224.6 s on 2 threads: 8.17 a second
//! 636098 s simulated: 260 for each second on each thread; 1619194316 events, 1.32 million a second
//! 32950333 operations checked, 30916814 of them had an answer
//! 10668 keys were linearizable, 1 undecided
//! at the latest, all copies were there after 10.4 s and equal after 96.3 s
//! faults: 4335 block, 74205 broken connections, 14555 clock, 27501 crash, 556386 cut, 46442 delay,
//!         33726 duplication, 18205 leave, 38679 loss, 40520 mend, 51326 pause, 52985 slow link, 23872 split, 93670 start
//! ```
//!
//! Ten of these histories failed, all of a schedule that required a majority and left fewer nodes than that running
//! in the end. It does not any more: 1,000 of `--profile majority` and, with `--long --seeds 10000..10300`, ten minutes
//! of every kind of trouble followed.
//!
//! ```text
//! 300 histories in 471.6 s on 2 threads: 0.64 a second
//! 184047 s simulated: 195 for each second on each thread; 487090765 events, 1.03 million a second
//! 10436936 operations checked, 9493179 of them had an answer
//! 220 keys were linearizable, 0 undecided
//! at the latest, all copies were there after 8.3 s and equal after 53.7 s
//! faults: 781 block, 19378 broken connections, 4881 clock, 7488 crash, 163602 cut, 10855 delay,
//!         7196 duplication, 4522 leave, 8404 loss, 8759 mend, 16703 pause, 13739 slow link, 5758 split, 13451 start
//!   members             26 histories, 0 failed
//!   lossy               23 histories, 0 failed
//!   splits              20 histories, 0 failed
//!   weak                27 histories, 0 failed
//!   strong              17 histories, 0 failed
//!   wide                21 histories, 0 failed
//!   two                 23 histories, 0 failed
//!   clocks              20 histories, 0 failed
//!   births              30 histories, 0 failed
//!   rebirths            23 histories, 0 failed
//!   quick-restarts      21 histories, 0 failed
//!   replaced            27 histories, 0 failed
//!   majority            22 histories, 0 failed
//! ```
//!
//! And two data centers, `--profile data-centers --seeds 0..1000`:
//!
//! ```text
//! 1000 histories in 81.2 s on 2 threads: 12.32 a second
//! 66072 s simulated: 407 for each second on each thread; 94983564 events, 1.17 million a second
//! 4129077 operations checked, 3838119 of them had an answer
//! at the latest, all copies were there after 6.4 s and equal after 106.8 s
//! faults: 1382 block, 2767 broken connections, 1517 crash, 2067 delay, 3381 duplication, 467 leave, 3381 loss,
//!         3703 mend, 3894 pause, 2762 slow link, 8950 split, 8013 start
//!   data-centers      1000 histories, 0 failed
//! ```
//!
//! The bugs that are planted, and how many seeds each takes, are in `tests/chaos.rs`.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::checks::{self, Order, Verdict, Violation};
use super::workload::{Kind, Operation, Workload, WorkloadOptions, value_number};
use super::{CALL_TIMEOUT, Planted, SimCluster, SimOptions};
use crate::types::ALL;
use crate::wire::timing::{COMPARE_CYCLE, LEASE, is_longer};

/// What kind of trouble a schedule makes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum Profile {
    /// A calm network; nodes join, leave, crash and come back.
    Members,
    /// Datagrams get lost, doubled and late, connections break, nodes pause, and now and then one crashes.
    Lossy,
    /// The network falls apart, one way and both ways, and heals.
    Splits,
    /// N = 3, W = 2, R = 1 and no change of members, on a network where connections break all the time.
    Weak,
    /// N = 3, W = 2, R = 2 and no change of members: every key is linearizable.
    Strong,
    /// N = 4, W = 3, R = 2: coordinators get lost in mid-write, readers come one after the other.
    Wide,
    /// N = 2, W = 2, R = 1 while members change: the word of one replica is enough.
    Two,
    /// Clocks that are off by up to an hour, and jump; a few keys that everybody writes.
    Clocks,
    /// All nodes start at once, on a bad network.
    Births,
    /// All nodes crash and start again: what was there is gone, and nothing of it comes back.
    Rebirths,
    /// A node crashes and is back within 50 ms, while it and another do not reach each other.
    QuickRestarts,
    /// All replicas of a partition are replaced, on a bad network, while coordinators have old views.
    Replaced,
    /// A majority is required, and the network falls in two, again and again.
    Majority,
    /// A copy on every node, while nodes come and go.
    Everywhere,
    /// Two data centers, far from each other, that are cut off from each other while nodes come and go.
    DataCenters,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Members,
        Self::Lossy,
        Self::Splits,
        Self::Weak,
        Self::Strong,
        Self::Wide,
        Self::Two,
        Self::Clocks,
        Self::Births,
        Self::Rebirths,
        Self::QuickRestarts,
        Self::Replaced,
        Self::Majority,
        Self::Everywhere,
        Self::DataCenters,
    ];

    /// How many of them a seed chooses from. The others came later, and are asked for by name: what a seed stands for
    /// stays what it is.
    const CHOSEN: usize = 13;

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Members => "members",
            Self::Lossy => "lossy",
            Self::Splits => "splits",
            Self::Weak => "weak",
            Self::Strong => "strong",
            Self::Wide => "wide",
            Self::Two => "two",
            Self::Clocks => "clocks",
            Self::Births => "births",
            Self::Rebirths => "rebirths",
            Self::QuickRestarts => "quick-restarts",
            Self::Replaced => "replaced",
            Self::Majority => "majority",
            Self::Everywhere => "everywhere",
            Self::DataCenters => "data-centers",
        }
    }

    /// The profile that is called this.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }
}

/// What [`run`] is to do.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ChaosOptions {
    /// Trouble of this kind; otherwise the seed chooses.
    pub profile: Option<Profile>,
    /// Ten minutes of faults instead of one.
    pub long: bool,
    /// Keep every event, for [`Failure::trace`].
    pub keep_trace: bool,
    /// A bug on purpose, to test the checkers.
    #[doc(hidden)]
    pub planted: Option<Planted>,
}

/// What a run came to that broke no promise.
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
    /// How many keys were found linearizable.
    pub linearizable: usize,
    /// For how many the search was given up.
    pub undecided: usize,
    /// How long it took after the faults until no copy was missing, and until all were equal.
    pub settled_after: Duration,
    /// See there.
    pub equal_after: Duration,
    /// How many faults of which kind there were.
    pub faults: BTreeMap<&'static str, usize>,
    /// [`SimCluster::trace_hash`]: equal for equal histories.
    pub trace_hash: u64,
}

/// A promise was broken: which, by what, and how to see it again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The kind of trouble.
    pub profile: Profile,
    /// Whether it was ten minutes of it.
    pub long: bool,
    /// What was broken.
    pub violation: Violation,
    /// What the cluster was like.
    pub cluster: String,
    /// The last faults before.
    pub faults: Vec<String>,
    /// How the nodes stood in the end.
    pub nodes: String,
    /// How much time was simulated.
    pub simulated: Duration,
    /// Everything that happened, where [`ChaosOptions::keep_trace`] asked for it.
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
            "  again: cargo run --release -p gridkv-simulate -- --seeds {seed}..{} --profile {}{long} --trace FILE",
            seed + 1,
            profile.name()
        )
    }
}

/// How long faults go on.
const SHORT: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(600);

/// How long it may take, once nothing is wrong any more, until every copy is there again.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// And until all copies are equal: two cycles of comparing everything, and some time to repair.
const EQUAL_WITHIN: Duration = Duration::from_secs(150);

const _: () = assert!(is_longer(EQUAL_WITHIN, COMPARE_CYCLE.saturating_mul(2)));

/// Until every write that was acknowledged is with every replica, once there are as many as there should be.
const PAID_WITHIN: Duration = Duration::from_secs(5);

/// How late an answer may come.
const SLACK: Duration = Duration::from_millis(100);

/// The most nodes that run at a time.
const MOST_NODES: usize = 7;

/// Runs the schedule of a seed.
///
/// # Errors
///
/// The first promise that was broken.
pub fn run(seed: u64, options: &ChaosOptions) -> Result<Summary, Box<Failure>> {
    let mut chaos = Chaos::new(seed, options);
    let result = match catch_unwind(AssertUnwindSafe(|| chaos.run())) {
        Ok(result) => result,
        Err(payload) => {
            Err(Violation::general("nothing panics", message(&*payload).unwrap_or("a panic").to_owned()))
        }
    };
    result.map_err(|violation| Box::new(chaos.failure(violation)))
}

fn message(payload: &(dyn Any + Send)) -> Option<&str> {
    payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

/// Something that a schedule does, with all that is left to chance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Disturbance {
    Crash,
    Restart,
    Leave,
    Join,
    ShortPause,
    LongPause,
    Loss,
    Delay,
    SlowLink,
    Break,
    Cut,
    Block,
    Split,
    Clock,
    /// A node gets lost just after it began to write.
    LostWriter,
    /// Back within 50 ms.
    QuickRestart,
    Replace,
}

struct Chaos {
    seed: u64,
    options: ChaosOptions,
    profile: Profile,
    rng: SmallRng,
    cluster: SimCluster,
    sim: SimOptions,
    workload: Workload,
    nodes: usize,
    order: Order,
    /// With how often it is chosen.
    disturbances: Vec<(Disturbance, u32)>,
    /// How long it takes from one to the next, on average.
    every: Duration,
    /// Those that wait for a moment when they are allowed.
    wanted: Option<Disturbance>,
    /// When the network is whole and the loss is over again.
    mend_at: Option<Duration>,
    calm_at: Option<Duration>,
    leaving: BTreeSet<usize>,
    /// Where a majority is required: when the network fell in two, and in what, and when it was whole again.
    splits: Vec<(Duration, [Vec<usize>; 2], Duration)>,
    /// The number of each key's list when it began.
    lists: Vec<u64>,
}

impl Chaos {
    fn new(seed: u64, options: &ChaosOptions) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0xc4a0_5000);
        let chosen = Profile::ALL[rng.random_range(0..Profile::CHOSEN)];
        let profile = options.profile.unwrap_or(chosen);
        let mut sim = SimOptions {
            planted: options.planted,
            keep_trace: options.keep_trace,
            cores: rng.random_range(1..=3),
            partitions: [16, 32, 32, 64, 64, 64, 64, 512][rng.random_range(0..8)],
            clock_skew: Duration::from_millis([5, 2000][rng.random_range(0..2)]),
            // So that much of what is deleted is forgotten before the schedule is over.
            purge_grace: Duration::from_secs([1, 5, 60][(seed % 3) as usize]),
            ..SimOptions::default()
        };
        let mut work = WorkloadOptions {
            keys: rng.random_range(4..=16),
            clients: rng.random_range(3..=7),
            pace: Duration::from_millis(rng.random_range(6..=20)),
            ..WorkloadOptions::default()
        };
        // Many have clocks that agree to the microsecond, which real ones hardly do: versions collide.
        if rng.random_range(0..2) == 0 {
            sim.clock_skew = Duration::ZERO;
        }
        sim.delay.1 = Duration::from_millis([1, 1, 1, 5, 20][rng.random_range(0..5)]);
        let mut nodes = rng.random_range(3..=6);
        let mut order = Order::Everywhere;
        let mut every = Duration::from_millis(rng.random_range(500..=4000));
        use Disturbance as D;
        let mut disturbances = match profile {
            Profile::Members => {
                if rng.random_range(0..3) == 0 {
                    sim.read_quorum = 2;
                }
                work.expiring_percent = 30;
                vec![(D::Crash, 3), (D::Restart, 3), (D::Leave, 2), (D::Join, 3), (D::LostWriter, 2)]
            }
            Profile::Lossy => {
                if rng.random_range(0..2) == 0 {
                    order = Order::PerNode;
                }
                vec![
                    (D::Loss, 4),
                    (D::Delay, 2),
                    (D::SlowLink, 2),
                    (D::Break, 4),
                    (D::Cut, 2),
                    (D::ShortPause, 3),
                    (D::LongPause, 2),
                    (D::Crash, 1),
                    (D::Restart, 2),
                ]
            }
            Profile::Splits => {
                order = Order::PerNode;
                nodes = rng.random_range(3..=7);
                vec![
                    (D::Split, 5),
                    (D::Block, 3),
                    (D::LongPause, 2),
                    (D::Break, 1),
                    (D::Loss, 1),
                    (D::Crash, 1),
                    (D::Restart, 2),
                ]
            }
            Profile::Weak => {
                sim.connections_broken_per_mille = rng.random_range(1..=30);
                nodes = rng.random_range(3..=7);
                every = Duration::from_millis(rng.random_range(200..=1000));
                vec![(D::Break, 4), (D::Cut, 4), (D::ShortPause, 2), (D::SlowLink, 2), (D::LostWriter, 4)]
            }
            Profile::Strong => {
                sim.read_quorum = 2;
                work.deletes_percent = 4;
                every = Duration::from_millis(rng.random_range(200..=1000));
                vec![(D::Break, 4), (D::Cut, 4), (D::ShortPause, 2), (D::Delay, 2), (D::LostWriter, 4)]
            }
            Profile::Wide => {
                (sim.replicas, sim.write_quorum, sim.read_quorum) = (4, 3, 2);
                nodes = rng.random_range(5..=7);
                work.deletes_percent = 4;
                work.again_percent = 60;
                sim.delay.1 = Duration::from_millis(rng.random_range(1..=5));
                every = Duration::from_millis(rng.random_range(300..=1500));
                vec![(D::LostWriter, 8), (D::SlowLink, 4), (D::Cut, 3), (D::Crash, 1), (D::Restart, 2)]
            }
            Profile::Two => {
                (sim.replicas, sim.write_quorum) = (2, 2);
                nodes = rng.random_range(3..=6);
                vec![
                    (D::Crash, 2),
                    (D::Restart, 3),
                    (D::QuickRestart, 3),
                    (D::Leave, 1),
                    (D::Join, 2),
                    (D::ShortPause, 2),
                    (D::Break, 1),
                ]
            }
            Profile::Clocks => {
                sim.clock_skew = Duration::from_secs([30, 600, 3600][rng.random_range(0..3)]);
                sim.read_quorum = 1 + usize::from(rng.random_range(0..3) == 0);
                work.keys = rng.random_range(1..=4);
                vec![(D::Clock, 6), (D::Break, 2), (D::Cut, 1), (D::Crash, 1), (D::Restart, 2)]
            }
            Profile::Births => {
                nodes = rng.random_range(3..=MOST_NODES);
                sim.datagrams_lost_per_mille = rng.random_range(0..=100);
                sim.connections_broken_per_mille = rng.random_range(0..=10);
                sim.delay.1 = Duration::from_millis(rng.random_range(1..=50));
                vec![(D::Join, 2), (D::Break, 2), (D::ShortPause, 1)]
            }
            Profile::Rebirths => vec![(D::Break, 2), (D::ShortPause, 2), (D::Delay, 1)],
            Profile::QuickRestarts => {
                every = Duration::from_secs(rng.random_range(3..=8));
                vec![(D::QuickRestart, 5), (D::Break, 1)]
            }
            Profile::Replaced => {
                nodes = 3;
                every = Duration::from_secs(rng.random_range(4..=10));
                vec![(D::Replace, 5), (D::Crash, 1), (D::Restart, 1)]
            }
            Profile::Majority => {
                order = Order::PerNode;
                nodes = rng.random_range(3..=MOST_NODES);
                sim.majority_of = nodes as u16;
                sim.read_quorum = 1 + usize::from(rng.random_range(0..3) == 0);
                vec![(D::Split, 8), (D::ShortPause, 2), (D::Break, 1), (D::Crash, 1), (D::Restart, 2)]
            }
            Profile::Everywhere => {
                sim.replicate_to_all();
                sim.read_quorum = 1 + usize::from(rng.random_range(0..3) == 0);
                work.expiring_percent = 20;
                vec![
                    (D::Crash, 3),
                    (D::Restart, 3),
                    (D::Leave, 2),
                    (D::Join, 3),
                    (D::LostWriter, 2),
                    (D::Break, 2),
                    (D::Cut, 1),
                    (D::ShortPause, 2),
                ]
            }
            Profile::DataCenters => {
                order = Order::PerNode;
                nodes = rng.random_range(5..=MOST_NODES);
                sim.data_centers = 2;
                sim.read_quorum = 1 + usize::from(rng.random_range(0..3) == 0);
                work.expiring_percent = 20;
                vec![
                    (D::Split, 5),
                    (D::Break, 2),
                    (D::Loss, 1),
                    (D::SlowLink, 2),
                    (D::Block, 1),
                    (D::ShortPause, 2),
                    (D::LongPause, 1),
                    (D::Leave, 1),
                    (D::Join, 1),
                    (D::Crash, 3),
                    (D::Restart, 4),
                ]
            }
        };
        // Some schedules do without some of them, and find what the others hide.
        for (disturbance, weight) in &mut disturbances {
            let is_needed = matches!(
                disturbance,
                D::Restart | D::LostWriter | D::Replace | D::QuickRestart | D::Clock | D::Split
            );
            if !is_needed && rng.random_range(0..4) == 0 {
                *weight = 0;
            }
        }
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
            splits: Vec::new(),
            lists: Vec::new(),
            options: options.clone(),
            rng,
        }
    }

    fn run(&mut self) -> Result<Summary, Violation> {
        self.start_all()?;
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

    /// The cluster comes about.
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
            // Whoever serves already is called already: all that they say is of one cluster.
            let until = self.cluster.elapsed() + SETTLES_WITHIN;
            while !self.cluster.is_settled() && self.cluster.elapsed() < until {
                let nodes = self.callable();
                self.workload.step(&mut self.cluster, &nodes);
                self.mend_when_due();
                let pause = self.workload.pause();
                self.cluster.run_for(pause);
            }
        }
        if !self.cluster.run_until(SETTLES_WITHIN, SimCluster::is_settled) {
            // Not on this network, then.
            self.cluster.set_loss(0, 0);
            self.settle("a cluster comes about")?;
            self.reset_network();
        }
        Ok(())
    }

    /// Everything crashes at once and starts again, empty.
    fn start_again(&mut self) -> Result<(), Violation> {
        self.calm();
        let nodes = self.running();
        for &node in &nodes {
            self.cluster.crash_node(node);
        }
        // Of what comes back, nothing was written since.
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
                return Err(Violation { key: Some(key), ..Violation::general("what is gone is gone", what) });
            }
        }
        Ok(())
    }

    fn settle(&mut self, promise: &'static str) -> Result<(), Violation> {
        if self.cluster.run_until(SETTLES_WITHIN, SimCluster::is_settled) {
            return Ok(());
        }
        Err(Violation::general(promise, format!("not within {SETTLES_WITHIN:?}")))
    }

    /// Calls and faults for so long.
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
            let pause = self.workload.pause();
            self.cluster.run_for(pause);
        }
        self.wanted = None;
    }

    fn mend_when_due(&mut self) {
        let now = self.cluster.elapsed();
        if self.mend_at.take_if(|at| *at <= now).is_some() {
            self.mend();
        }
        if self.calm_at.take_if(|at| *at <= now).is_some() {
            self.reset_network();
        }
    }

    fn mend(&mut self) {
        self.cluster.mend();
        if let Some((_, _, until)) = self.splits.last_mut() {
            *until = (*until).min(self.cluster.elapsed());
        }
    }

    fn choose(&mut self) -> Disturbance {
        let total: u32 = self.disturbances.iter().map(|(_, weight)| weight).sum();
        let mut at = self.rng.random_range(0..total.max(1));
        for (disturbance, weight) in &self.disturbances {
            match at.checked_sub(*weight) {
                Some(rest) => at = rest,
                None => return *disturbance,
            }
        }
        Disturbance::Break
    }

    fn running(&self) -> Vec<usize> {
        (0..self.cluster.nodes()).filter(|&node| self.cluster.is_running(node)).collect()
    }

    /// Running, and not about to leave.
    fn staying(&self) -> Vec<usize> {
        self.running().into_iter().filter(|node| !self.leaving.contains(node)).collect()
    }

    /// Those whose app can make a call.
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

    /// Whether no copy is missing and nobody is out of reach: then one node may be lost.
    fn may_lose_one(&self) -> bool {
        let is_whole = self.mend_at.is_none() || self.order == Order::PerNode;
        let nobody_pauses = self.running().iter().all(|node| !self.cluster.is_paused(*node));
        is_whole && nobody_pauses && self.leaving_is_over() && self.cluster.is_settled()
    }

    fn leaving_is_over(&self) -> bool {
        self.leaving.iter().all(|node| !self.cluster.is_running(*node))
    }

    /// Whether enough nodes are left without one for writes to go on.
    fn can_spare(&self) -> bool {
        !self.spare().is_empty()
    }

    /// Nodes without any one of which that is so, in its data center.
    fn spare(&self) -> Vec<usize> {
        let staying = self.staying();
        let needed = self.sim.needed();
        let has_enough = |node: &usize| {
            let of_same =
                staying.iter().filter(|other| (**other).abs_diff(*node) % self.sim.data_centers == 0);
            of_same.count() > needed
        };
        staying.iter().copied().filter(has_enough).collect()
    }

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(least..=most))
    }

    fn mend_after(&mut self, least_ms: u64, most_ms: u64) {
        let at = self.cluster.elapsed() + self.millis(least_ms, most_ms);
        self.mend_at = Some(self.mend_at.map_or(at, |known| known.max(at)));
    }

    fn calm_after(&mut self, least_ms: u64, most_ms: u64) {
        self.calm_at = Some(self.cluster.elapsed() + self.millis(least_ms, most_ms));
    }

    /// Brings it about, unless it is not allowed now; then it may be later.
    fn disturb(&mut self, disturbance: Disturbance) -> bool {
        self.leaving.retain(|node| self.cluster.is_running(*node));
        let is_weak = self.order == Order::PerNode;
        match disturbance {
            Disturbance::Crash => {
                if !self.may_lose_one() {
                    return false;
                }
                let nodes = self.spare();
                if nodes.is_empty() {
                    return false;
                }
                if let Some(node) = self.pick(&nodes) {
                    self.cluster.crash_node(node);
                }
            }
            Disturbance::Restart => {
                let down: Vec<usize> =
                    (0..self.cluster.nodes()).filter(|&node| !self.cluster.is_running(node)).collect();
                if self.running().len() < MOST_NODES
                    && let Some(node) = self.pick(&down)
                {
                    self.cluster.restart_node(node);
                }
            }
            Disturbance::Join => {
                if self.running().len() < MOST_NODES {
                    self.cluster.start_node();
                }
            }
            Disturbance::Leave => {
                // With one less, two that do not reach each other may be all that is left.
                if self.mend_at.is_some() && self.order == Order::Everywhere {
                    return false;
                }
                let nodes = self.staying();
                let least = if self.sim.replicas == ALL { 3 } else { self.sim.replicas };
                if nodes.len() > least * self.sim.data_centers
                    && let Some(node) = self.pick(&nodes)
                {
                    self.leaving.insert(node);
                    self.cluster.leave(node);
                }
            }
            Disturbance::ShortPause => {
                let (nodes, time) = (self.callable(), self.millis(1, 200));
                if let Some(node) = self.pick(&nodes) {
                    self.pause(node, time);
                }
            }
            Disturbance::LongPause => {
                if !is_weak && !self.may_lose_one() {
                    return false;
                }
                let (nodes, time) = (self.callable(), self.millis(300, 15_000));
                if let Some(node) = self.pick(&nodes) {
                    self.pause(node, time);
                }
            }
            Disturbance::Loss => {
                let most = if is_weak { 300 } else { 30 };
                let datagrams = self.rng.random_range(0..=most);
                let connections = self.rng.random_range(0..=10);
                let twice = self.rng.random_range(0..=100);
                self.cluster.set_loss(datagrams, connections);
                self.cluster.set_duplication(twice);
                self.calm_after(500, 8000);
            }
            Disturbance::Delay => {
                // So long that members take each other for dead, or not.
                let most = if is_weak { 2000 } else { 20 };
                let most = Duration::from_millis(self.rng.random_range(1..=most));
                self.cluster.set_delay(most / 20, most);
                self.calm_after(500, 5000);
            }
            Disturbance::SlowLink => {
                let most = self.millis(10, if is_weak { 3000 } else { 40 });
                if let Some((from, to)) = self.pick_two() {
                    self.cluster.slow_down(from, to, most / 4, most);
                    self.mend_after(500, 5000);
                }
            }
            Disturbance::Break => {
                if let Some((one, other)) = self.pick_two() {
                    self.cluster.break_connections(one, other);
                }
            }
            Disturbance::Cut => {
                if let Some((from, to)) = self.pick_two() {
                    self.cluster.cut(from, to);
                    self.mend_after(100, 10_000);
                }
            }
            Disturbance::Block => {
                if !is_weak && !self.may_lose_one() {
                    return false;
                }
                if let Some((from, to)) = self.pick_two() {
                    self.cluster.block(from, to);
                    self.mend_after(100, 20_000);
                }
            }
            Disturbance::Split if self.profile == Profile::Majority => return self.split_in_two(),
            Disturbance::Split => {
                let mut some = self.running();
                let mut others = some.split_off(self.rng.random_range(1..some.len().max(2)));
                if self.rng.random_range(0..2) == 0 {
                    some.rotate_left(1);
                }
                if self.sim.data_centers > 1 && self.rng.random_range(0..4) > 0 {
                    let here = |node: &usize| node.is_multiple_of(self.sim.data_centers);
                    (some, others) = self.running().into_iter().partition(here);
                }
                self.cluster.split(&some, &others);
                self.mend_after(100, 15_000);
            }
            Disturbance::Clock => {
                let nodes = self.running();
                let most = self.sim.clock_skew.as_millis() as i64;
                let by = self.rng.random_range(-most..=most);
                if let Some(node) = self.pick(&nodes) {
                    self.cluster.move_clock(node, by);
                }
            }
            Disturbance::LostWriter => return self.lose_writer(),
            Disturbance::QuickRestart => {
                if !self.may_lose_one() {
                    return false;
                }
                if let Some((node, other)) = self.pick_two() {
                    // It still reaches somebody who knows of the cluster.
                    if self.running().len() > 2 && self.rng.random_range(0..4) > 0 {
                        self.cluster.split(&[node], &[other]);
                        self.mend_after(50, 10_000);
                    }
                    self.cluster.crash_node(node);
                    let wait = self.millis(0, 50);
                    self.cluster.run_for(wait);
                    self.cluster.restart_node(node);
                }
            }
            Disturbance::Replace => return self.replace_all(),
        }
        true
    }

    /// From a whole cluster, whose lists are the same everywhere.
    fn split_in_two(&mut self) -> bool {
        if self.mend_at.is_some() || !self.cluster.is_settled() {
            return false;
        }
        let mut nodes: Vec<usize> = (0..self.cluster.nodes()).collect();
        nodes.shuffle(&mut self.rng);
        let others = nodes.split_off(self.rng.random_range(1..nodes.len()));
        self.cluster.split(&nodes, &others);
        self.splits.push((self.cluster.elapsed(), [nodes, others], Duration::MAX));
        self.mend_after(1000, 15_000);
        true
    }

    /// Nobody who is cut off from a majority acknowledges, once a lease has passed, and nobody who is does so on a key
    /// after one who is not.
    fn check_majority(&self) -> Result<(), Violation> {
        const PROMISE: &str = "of the sides of a network partition no more than one acknowledges";
        let needed = self.sim.majority();
        let operations = self.workload.history().operations.iter();
        let acknowledged: Vec<&Operation> =
            operations.filter(|it| it.kind != Kind::Get && it.is_acknowledged()).collect();
        for (from, sides, until) in &self.splits {
            let during = |it: &&&Operation| it.start > *from && it.end.is_some_and(|end| end < *until);
            let is_minority =
                |it: &Operation| sides.iter().any(|side| side.len() < needed && side.contains(&it.node));
            let mut first: BTreeMap<usize, &Operation> = BTreeMap::new();
            for operation in acknowledged.iter().filter(during).filter(|it| !is_minority(it)) {
                let first = first.entry(operation.key).or_insert(operation);
                if operation.end < first.end {
                    *first = operation;
                }
            }
            for operation in acknowledged.iter().filter(during).filter(|it| is_minority(it)) {
                let is_late = operation.end > Some(*from + LEASE);
                let before = first.get(&operation.key).filter(|first| first.end < operation.end);
                if is_late || before.is_some() {
                    let what = format!("the network fell into {sides:?} at {from:?}");
                    let operations = before.into_iter().copied().chain([*operation]).cloned().collect();
                    let general = Violation::general(PROMISE, what);
                    return Err(Violation { key: Some(operation.key), operations, ..general });
                }
            }
        }
        Ok(())
    }

    fn pause(&mut self, node: usize, time: Duration) {
        let from = self.cluster.elapsed();
        self.workload.note_pause(node, from, from + time);
        self.cluster.pause_node(node, time);
    }

    /// A node begins to write; while its requests are on their way it crashes, or its cores reach nobody any more.
    fn lose_writer(&mut self) -> bool {
        let nodes = self.callable();
        let Some(node) = self.pick(&nodes) else { return true };
        let crashes = !matches!(self.profile, Profile::Strong | Profile::Weak)
            && self.rng.random_range(0..3) == 0
            && self.may_lose_one();
        if crashes && !self.can_spare() {
            return false;
        }
        let key = self.rng.random_range(0..self.workload.options().keys);
        // Some of its requests arrive, some do not.
        let others: Vec<usize> = nodes.into_iter().filter(|other| *other != node).collect();
        if !crashes {
            for &other in &others {
                if self.rng.random_range(0..5) < 2 {
                    self.cluster.cut(node, other);
                }
            }
            self.mend_after(500, 5000);
        }
        let mut writers = vec![node];
        if self.rng.random_range(0..2) == 0 {
            // Two contents of one version, if their clocks agree; either may be the one that stays.
            writers.extend(self.pick(&others));
            let first = self.rng.random_range(0..writers.len());
            writers.rotate_left(first);
        }
        for writer in writers {
            self.workload.write_through(&mut self.cluster, writer, key);
        }
        let until = self.cluster.elapsed() + self.millis(100, 1500);
        self.workload.watch(key, until);
        let wait = Duration::from_micros(self.rng.random_range(0..1500));
        self.cluster.run_for(wait);
        if crashes {
            self.cluster.crash_node(node);
        } else {
            for other in others {
                self.cluster.cut(node, other);
            }
        }
        true
    }

    /// As many nodes come as there are, and those that were there leave, while one hears of it late.
    fn replace_all(&mut self) -> bool {
        if !self.leaving_is_over() || self.running().len() > 4 {
            return false;
        }
        let old = self.staying();
        self.cluster.set_loss(100, 5);
        self.calm_after(1000, 6000);
        if let Some(late) = self.pick(&old) {
            let slow = self.millis(200, 1000);
            for &node in old.iter().filter(|node| **node != late) {
                self.cluster.slow_down(node, late, slow / 2, slow);
            }
            self.mend_after(500, 3000);
        }
        for _ in 0..3 {
            let new = self.cluster.start_node();
            if self.rng.random_range(0..2) == 0 {
                let wait = self.millis(0, 500);
                self.cluster.run_for(wait);
            }
            if let Some(late) = self.pick(&old)
                && self.cluster.is_running(late)
            {
                let slow = self.millis(100, 500);
                self.cluster.slow_down(new, late, slow / 2, slow);
            }
        }
        for node in old {
            let wait = self.millis(0, 1500);
            self.cluster.run_for(wait);
            if self.cluster.is_running(node) {
                self.leaving.insert(node);
                self.cluster.leave(node);
            }
        }
        true
    }

    fn reset_network(&mut self) {
        let SimOptions { datagrams_lost_per_mille, connections_broken_per_mille, delay, .. } = self.sim;
        self.cluster.set_loss(datagrams_lost_per_mille, connections_broken_per_mille);
        self.cluster.set_duplication(0);
        self.cluster.set_delay(delay.0, delay.1);
    }

    /// Nothing is wrong any more, from now on.
    fn calm(&mut self) {
        (self.mend_at, self.calm_at) = (None, None);
        self.mend();
        self.cluster.set_loss(0, 0);
        self.cluster.set_duplication(0);
        let delay = SimOptions::default().delay;
        self.cluster.set_delay(delay.0, delay.1);
    }

    /// The faults end. Everything that is promised must come true.
    fn heal(&mut self) -> Result<Summary, Violation> {
        self.calm();
        for node in self.running() {
            let from = self.cluster.elapsed();
            while self.cluster.is_paused(node) && self.cluster.elapsed() < from + Duration::from_secs(60) {
                self.cluster.run_for(Duration::from_millis(100));
            }
        }
        let healed = self.cluster.elapsed();
        self.workload.drain(&mut self.cluster, CALL_TIMEOUT + 10 * SLACK);
        let lives = self.running().into_iter().map(|node| (node, self.cluster.life(node))).collect();
        checks::answered(self.workload.history(), &lives, CALL_TIMEOUT, SLACK)?;
        checks::reads(self.workload.history(), self.order)?;
        self.check_majority()?;
        let (linearizable, undecided) = self.check_linearizable()?;
        self.settle("N copies are there again once the faults are over")?;
        let settled_after = self.cluster.elapsed().saturating_sub(healed);
        self.check_queues()?;
        self.wait_for_equal_copies(healed)?;
        let equal_after = self.cluster.elapsed().saturating_sub(healed);
        checks::durability(self.workload.history(), &self.values(), self.order)?;
        let operations = &self.workload.history().operations;
        let has_answer = |operation: &&Operation| match operation.kind {
            Kind::Get => operation.answer.is_some_and(|answer| answer != super::workload::Answer::Failed),
            _ => operation.is_acknowledged(),
        };
        let mut faults = BTreeMap::new();
        for fault in self.cluster.faults() {
            *faults.entry(fault.kind).or_default() += 1;
        }
        Ok(Summary {
            profile: self.profile,
            simulated: self.cluster.elapsed(),
            events: self.cluster.events_handled(),
            operations: operations.len(),
            answered: operations.iter().filter(has_answer).count(),
            linearizable,
            undecided,
            settled_after,
            equal_after,
            faults,
            trace_hash: self.cluster.trace_hash(),
        })
    }

    fn name(&self, key: usize) -> &str {
        &self.workload.keys()[key]
    }

    fn list_numbers(&self) -> Vec<u64> {
        let numbers = |key| self.cluster.replicas(self.name(key)).into_iter().map(|(_, number)| number);
        let highest = |key| numbers(key).max().unwrap_or_default();
        (0..self.workload.options().keys).map(highest).collect()
    }

    /// Where it is promised: strong quorums, and a list that never changed.
    fn check_linearizable(&self) -> Result<(usize, usize), Violation> {
        let (mut linearizable, mut undecided) = (0, 0);
        if self.sim.read_quorum < 2 || self.sim.data_centers > 1 {
            return Ok((0, 0));
        }
        for (key, number) in self.list_numbers().into_iter().enumerate() {
            if number != self.lists[key] {
                continue;
            }
            match checks::linearizable(&self.workload.history().of_key(key)) {
                Verdict::Linearizable => linearizable += 1,
                Verdict::Undecided => undecided += 1,
                Verdict::Not(violation) => return Err(violation),
            }
        }
        Ok((linearizable, undecided))
    }

    fn converged(&self) -> Result<(), Violation> {
        let running = self.running();
        let of =
            |data_center| running.iter().filter(|node| **node % self.sim.data_centers == data_center).count();
        let copies = (0..self.sim.data_centers).map(|it| of(it).min(self.sim.replicas)).sum();
        for key in 0..self.workload.options().keys {
            let serving = self.cluster.replicas(self.name(key));
            checks::converged(key, &serving, &self.cluster.stored(self.name(key)), copies)?;
        }
        Ok(())
    }

    fn wait_for_equal_copies(&mut self, healed: Duration) -> Result<(), Violation> {
        loop {
            match self.converged() {
                Ok(()) => return Ok(()),
                Err(violation) if self.cluster.elapsed() > healed + EQUAL_WITHIN => {
                    // What is stored tells less than what happened.
                    let history = self.workload.history();
                    let of_key = violation.key.map(|key| history.of_key(key)).unwrap_or_default();
                    let writes = of_key.iter().filter(|operation| operation.may_have_happened());
                    let mut last: Vec<Operation> = writes.rev().take(8).map(|it| (*it).clone()).collect();
                    last.reverse();
                    return Err(Violation { operations: last, ..violation });
                }
                Err(_) => self.cluster.run_for(Duration::from_millis(500)),
            }
        }
    }

    /// What each key is, in the end, as its replicas say.
    fn values(&self) -> BTreeMap<usize, u64> {
        let value = |key: usize| {
            let copies = self.cluster.copies(self.name(key));
            copies.first().map(|(_, value)| (key, value_number(value)))
        };
        (0..self.workload.options().keys).filter_map(value).collect()
    }

    /// Long after the last call nothing is under way, and nothing is owed.
    fn check_queues(&mut self) -> Result<(), Violation> {
        let is_idle = |cluster: &SimCluster| {
            (0..cluster.nodes()).all(|node| !cluster.is_running(node) || cluster.open_calls(node) == (0, 0))
        };
        if self.cluster.run_until(PAID_WITHIN, is_idle) {
            return Ok(());
        }
        let open = self.running().into_iter().map(|node| (node, self.cluster.open_calls(node)));
        let what = format!("by node, calls and writes owed: {:?}", open.collect::<Vec<_>>());
        Err(Violation::general("nothing is under way or owed in the end", what))
    }

    fn failure(&self, violation: Violation) -> Failure {
        let SimOptions { replicas, write_quorum, read_quorum, cores, clock_skew, .. } = &self.sim;
        let last = violation.operations.iter().filter_map(|operation| operation.end).max();
        let until = last.unwrap_or(Duration::MAX);
        let before: Vec<&super::Fault> =
            self.cluster.faults().iter().filter(|fault| fault.at <= until).collect();
        let line = |fault: &&super::Fault| format!("{:12.6}  {}", fault.at.as_secs_f64(), fault.what);
        Failure {
            seed: self.seed,
            profile: self.profile,
            long: self.options.long,
            violation,
            cluster: format!(
                "N = {replicas}, W = {write_quorum}, R = {read_quorum}, {} nodes of {cores} cores at first, clocks up \
                 to {clock_skew:?} off, writes ordered: {:?}",
                self.nodes, self.order
            ),
            faults: before[before.len().saturating_sub(25)..].iter().map(line).collect(),
            nodes: self.cluster.describe(),
            simulated: self.cluster.elapsed(),
            trace: self.cluster.trace().to_owned(),
        }
    }
}
