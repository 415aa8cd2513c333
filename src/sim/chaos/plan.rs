//! What the seed makes of a kind of trouble: the cluster, the calls, the faults.
//!
//! A [`Plan`] is one schedule of a [`Profile`]. Every number that the profile leaves open is drawn
//! from the seed. The order of the draws must not change, as one seed stands for one history.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::disturbance::Disturbance as D;
use super::lasting::Lasting;
use super::options::{ChaosOptions, MAX_NODES};
use super::profile::Profile;
use crate::options::{Eviction, OnPartition};
use crate::sim::SimOptions;
use crate::sim::checks::WriteOrder;
use crate::sim::workload::WorkloadOptions;

/// Disturbances, each with a weight: how often it is chosen, relative to the others.
type Weighted = Vec<(D, u32)>;

/// Makes a seed for what is drawn by itself.
const EVERY_LIVE: u64 = 0x00e7_e471_14e0;

/// One schedule: everything that the seed decides before the cluster starts.
pub(super) struct Plan {
    pub(super) sim: SimOptions,
    pub(super) work: WorkloadOptions,
    /// How many nodes there are at first.
    pub(super) nodes: usize,
    /// Which order of writes the checkers may count on.
    pub(super) order: WriteOrder,
    /// How long it takes from one disturbance to the next, on average.
    pub(super) every: Duration,
    /// What may happen, each with how often it is chosen.
    pub(super) disturbances: Weighted,
    /// What is wrong to the end.
    pub(super) lasting: Lasting,
    /// Whether the end is judged by what holds at rest, too.
    pub(super) rests: bool,
}

impl Plan {
    pub(super) fn new(
        seed: u64,
        profile: Profile,
        options: &ChaosOptions,
        rng: &mut SmallRng,
    ) -> Self {
        let mut sim = SimOptions {
            mutant: options.mutant,
            keep_trace: options.keep_trace,
            cores: rng.random_range(1..=3),
            partitions: [16, 32, 32, 64, 64, 64, 64, 512][rng.random_range(0..8)],
            clock_skew: Duration::from_millis([5, 2000][rng.random_range(0..2)]),
            // So that much of what is deleted is forgotten before the schedule is over.
            purge_grace: Duration::from_secs([1, 5, 60][(seed % 3) as usize]),
            ..SimOptions::default()
        };
        let work = WorkloadOptions {
            keys: rng.random_range(4..=16),
            clients: rng.random_range(3..=7),
            pace: Duration::from_millis(rng.random_range(6..=20)),
            ..WorkloadOptions::default()
        };
        // Half of them have clocks that agree to the microsecond, which real ones hardly do:
        // versions collide.
        if rng.random_range(0..2) == 0 {
            sim.clock_skew = Duration::ZERO;
        }
        sim.delay.1 = Duration::from_millis([1, 1, 1, 5, 20][rng.random_range(0..5)]);
        let nodes = rng.random_range(3..=6);
        let every = Duration::from_millis(rng.random_range(500..=4000));
        let (order, disturbances) = (WriteOrder::Everywhere, Vec::new());
        let (lasting, rests) = (Lasting::Nothing, false);
        let mut plan = Self { sim, work, nodes, order, every, disturbances, lasting, rests };
        plan.disturbances = plan.adapt_to(profile, rng);
        plan.leave_some_out(rng);
        if profile.has_strong_reads(seed) {
            plan.sim.read_quorum = 2;
        }
        plan.let_reads_see_writes();
        plan.vary_calls(seed, profile);
        // A generator of its own leaves the other draws of the seed as they were.
        plan.sim.every_live = SmallRng::seed_from_u64(seed ^ EVERY_LIVE).random_range(0..2) == 0;
        if plan.order == WriteOrder::PerNode {
            plan.order = WriteOrder::ByClock(plan.apart());
        }
        plan
    }

    /// Makes of the plan what the profile is about; returns what may happen.
    fn adapt_to(&mut self, profile: Profile, rng: &mut SmallRng) -> Weighted {
        match profile {
            Profile::Members => self.members(rng),
            Profile::Lossy => self.lossy(rng),
            Profile::Splits => self.splits(rng),
            Profile::Weak => self.weak(rng),
            Profile::Strong => self.strong(rng),
            Profile::Wide => self.wide(rng),
            Profile::Two => self.two(rng),
            Profile::Clocks => self.clocks(rng),
            Profile::Births => self.births(rng),
            Profile::Rebirths => vec![(D::Break, 2), (D::ShortPause, 2), (D::Delay, 1)],
            Profile::QuickRestarts => {
                self.every = Duration::from_secs(rng.random_range(3..=8));
                vec![(D::QuickRestart, 5), (D::Break, 1)]
            }
            Profile::Replaced => {
                self.nodes = 3;
                self.every = Duration::from_secs(rng.random_range(4..=10));
                vec![(D::Replace, 5), (D::Crash, 1), (D::Restart, 1)]
            }
            Profile::Majority => self.majority(rng),
            Profile::Everywhere => self.everywhere(rng),
            Profile::DataCenters => self.data_centers(rng),
            Profile::Crashes => self.crashes(rng),
            Profile::Pair => self.pair(rng),
            Profile::HalfDead => self.half_dead(rng),
            Profile::Spokes => self.spokes(rng),
            Profile::Hosts => self.hosts(rng),
            Profile::Mixed => self.mixed(rng),
            Profile::Full => self.full(rng),
            Profile::Steps => self.steps(rng),
        }
    }

    /// How far writes must be apart for their versions to be in the order in which they were made:
    /// two clocks differ by no more, and a version is ahead of its clock by little.
    pub(super) fn apart(&self) -> Duration {
        2 * self.sim.clock_skew + Duration::from_secs(1)
    }

    fn members(&mut self, rng: &mut SmallRng) -> Weighted {
        if rng.random_range(0..3) == 0 {
            self.sim.read_quorum = 2;
        }
        self.work.expiring_percent = 30;
        vec![(D::Crash, 3), (D::Restart, 3), (D::Leave, 2), (D::Join, 3), (D::LostWriter, 2)]
    }

    fn lossy(&mut self, rng: &mut SmallRng) -> Weighted {
        if rng.random_range(0..2) == 0 {
            self.order = WriteOrder::PerNode;
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
            (D::Leave, 1),
            (D::Join, 1),
        ]
    }

    fn splits(&mut self, rng: &mut SmallRng) -> Weighted {
        self.order = WriteOrder::PerNode;
        self.nodes = rng.random_range(3..=7);
        vec![
            (D::Split, 5),
            (D::Block, 3),
            (D::LongPause, 2),
            (D::Break, 1),
            (D::Loss, 1),
            (D::Crash, 1),
            (D::Restart, 2),
            (D::Leave, 1),
            (D::Join, 1),
        ]
    }

    fn weak(&mut self, rng: &mut SmallRng) -> Weighted {
        self.sim.connections_broken_per_mille = rng.random_range(1..=30);
        self.nodes = rng.random_range(3..=7);
        self.every = Duration::from_millis(rng.random_range(200..=1000));
        vec![(D::Break, 4), (D::Cut, 4), (D::ShortPause, 2), (D::SlowLink, 2), (D::LostWriter, 4)]
    }

    fn strong(&mut self, rng: &mut SmallRng) -> Weighted {
        self.sim.read_quorum = 2;
        self.work.deletes_percent = 4;
        self.every = Duration::from_millis(rng.random_range(200..=1000));
        vec![(D::Break, 4), (D::Cut, 4), (D::ShortPause, 2), (D::Delay, 2), (D::LostWriter, 4)]
    }

    fn wide(&mut self, rng: &mut SmallRng) -> Weighted {
        (self.sim.replicas, self.sim.write_quorum, self.sim.read_quorum) = (4, 3, 2);
        self.nodes = rng.random_range(5..=7);
        self.work.deletes_percent = 4;
        self.work.again_percent = 60;
        self.sim.delay.1 = Duration::from_millis(rng.random_range(1..=5));
        self.every = Duration::from_millis(rng.random_range(300..=1500));
        vec![(D::LostWriter, 8), (D::SlowLink, 4), (D::Cut, 3), (D::Crash, 1), (D::Restart, 2)]
    }

    fn two(&mut self, rng: &mut SmallRng) -> Weighted {
        (self.sim.replicas, self.sim.write_quorum) = (2, 2);
        self.nodes = rng.random_range(3..=6);
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

    fn clocks(&mut self, rng: &mut SmallRng) -> Weighted {
        self.sim.clock_skew = Duration::from_secs([30, 600, 3600][rng.random_range(0..3)]);
        self.sim.read_quorum = some_strong_reads(rng);
        self.work.keys = rng.random_range(1..=4);
        vec![
            (D::Clock, 6),
            (D::Break, 2),
            (D::Cut, 1),
            (D::Crash, 1),
            (D::Restart, 2),
            (D::Leave, 1),
            (D::Join, 1),
        ]
    }

    /// No node crashes and no list changes: what expires too early on one node is on two others.
    fn steps(&mut self, rng: &mut SmallRng) -> Weighted {
        self.sim.clock_skew = Duration::from_millis([0, 5][rng.random_range(0..2)]);
        self.sim.read_quorum = some_strong_reads(rng);
        self.sim.write_quorum = [2, 2, 3][rng.random_range(0..3)];
        self.nodes = rng.random_range(3..=5);
        self.work.keys = rng.random_range(4..=12);
        (self.work.expiring_percent, self.work.lasting_percent) = (80, 70);
        self.work.shortened_percent = [0, 0, 5][rng.random_range(0..3)];
        self.every = Duration::from_millis(rng.random_range(1000..=4000));
        vec![(D::Step, 6), (D::Break, 2), (D::Cut, 1), (D::ShortPause, 1), (D::Delay, 1)]
    }

    fn births(&mut self, rng: &mut SmallRng) -> Weighted {
        self.nodes = rng.random_range(3..=MAX_NODES);
        self.sim.datagrams_lost_per_mille = rng.random_range(0..=100);
        self.sim.connections_broken_per_mille = rng.random_range(0..=10);
        self.sim.delay.1 = Duration::from_millis(rng.random_range(1..=50));
        vec![(D::Join, 2), (D::Break, 2), (D::ShortPause, 1)]
    }

    fn majority(&mut self, rng: &mut SmallRng) -> Weighted {
        self.order = WriteOrder::PerNode;
        self.nodes = rng.random_range(3..=MAX_NODES);
        self.sim.on_partition = OnPartition::Majority;
        self.sim.expect = self.nodes as u16;
        self.sim.read_quorum = some_strong_reads(rng);
        if self.sim.purge_grace == Duration::from_secs(1) {
            // No side goes on alone, so that who was not waited for brings nothing back.
            self.sim.tombstone_retention = Duration::from_secs(2);
        }
        vec![(D::Split, 8), (D::ShortPause, 2), (D::Break, 1), (D::Crash, 1), (D::Restart, 2)]
    }

    fn everywhere(&mut self, rng: &mut SmallRng) -> Weighted {
        self.sim.replicate_to_all();
        self.sim.read_quorum = some_strong_reads(rng);
        self.work.expiring_percent = 20;
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

    fn data_centers(&mut self, rng: &mut SmallRng) -> Weighted {
        self.order = WriteOrder::PerNode;
        self.nodes = rng.random_range(5..=MAX_NODES);
        self.sim.data_centers = 2;
        self.sim.read_quorum = some_strong_reads(rng);
        self.work.expiring_percent = 20;
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

    /// What the profiles have in common whose end is judged at rest.
    fn rest(&mut self, rng: &mut SmallRng) {
        self.rests = true;
        self.order = WriteOrder::PerNode;
        self.sim.partitions = [16, 32, 64][rng.random_range(0..3)];
        self.sim.clock_skew = Duration::from_millis([0, 5][rng.random_range(0..2)]);
        self.sim.purge_grace = Duration::from_secs([1, 5][rng.random_range(0..2)]);
        // Who crashed and stays away is not waited for when tombstones are forgotten.
        self.sim.tombstone_retention = Duration::from_secs(40);
        self.sim.read_quorum = some_strong_reads(rng);
        self.sim.zones = rng.random_range(1..=3);
    }

    fn crashes(&mut self, rng: &mut SmallRng) -> Weighted {
        self.rest(rng);
        let quorums = [(3, 2), (3, 2), (4, 3), (5, 3), (3, 3)];
        (self.sim.replicas, self.sim.write_quorum) = quorums[rng.random_range(0..quorums.len())];
        self.nodes = rng.random_range(2 * self.sim.write_quorum..=MAX_NODES);
        self.every = Duration::from_millis(rng.random_range(1000..=4000));
        vec![(D::Crashes, 6), (D::Restart, 6), (D::AskSafety, 4), (D::Leave, 1), (D::Join, 1)]
    }

    fn pair(&mut self, rng: &mut SmallRng) -> Weighted {
        self.rest(rng);
        self.nodes = rng.random_range(4..=MAX_NODES);
        self.lasting = Lasting::Pair {
            from_the_start: rng.random_range(0..3) == 0,
            cores_alone: rng.random_range(0..2) == 0,
            one_way: rng.random_range(0..3) == 0,
        };
        vec![
            (D::Crash, 2),
            (D::Restart, 4),
            (D::Leave, 1),
            (D::Join, 1),
            (D::AskSafety, 2),
            (D::ShortPause, 1),
            (D::Break, 1),
        ]
    }

    fn half_dead(&mut self, rng: &mut SmallRng) -> Weighted {
        self.rest(rng);
        // No side of a network that is split again and again forgets the others.
        self.sim.tombstone_retention = Duration::from_secs(100);
        self.nodes = rng.random_range(5..=MAX_NODES);
        self.lasting = Lasting::Cores;
        vec![
            (D::Split, 2),
            (D::Swallow, 2),
            (D::Leave, 1),
            (D::Join, 1),
            (D::AskSafety, 1),
            (D::Break, 1),
        ]
    }

    fn spokes(&mut self, rng: &mut SmallRng) -> Weighted {
        self.rest(rng);
        self.nodes = 6;
        self.sim.data_centers = 3;
        (self.sim.replicas, self.sim.write_quorum) = (2, 2);
        self.lasting = Lasting::Spokes;
        vec![(D::Break, 2), (D::ShortPause, 1), (D::SlowLink, 1), (D::Crash, 1), (D::Restart, 3)]
    }

    fn hosts(&mut self, rng: &mut SmallRng) -> Weighted {
        self.rest(rng);
        vec![
            (D::Suspend, 3),
            (D::StallCores, 3),
            (D::StallControl, 3),
            (D::AskSafety, 1),
            (D::Crash, 1),
            (D::Restart, 2),
            (D::Leave, 1),
            (D::Join, 1),
        ]
    }

    fn mixed(&mut self, rng: &mut SmallRng) -> Weighted {
        self.rest(rng);
        // In two of them, writes need not share a replica.
        let quorums = [
            (1, 1, 1),
            (2, 2, 1),
            (3, 3, 1),
            (3, 2, 3),
            (5, 3, 3),
            (5, 4, 2),
            (3, 1, 1),
            (4, 2, 1),
        ];
        let (n, w, r) = quorums[rng.random_range(0..quorums.len())];
        (self.sim.replicas, self.sim.write_quorum, self.sim.read_quorum) = (n, w, r);
        self.nodes = rng.random_range((n + 1).max(3)..=MAX_NODES);
        self.sim.are_weights_different = rng.random_range(0..2) == 0;
        let crash = u32::from(w > 1);
        vec![
            (D::Crash, crash),
            (D::Restart, 3),
            (D::Leave, 2),
            (D::Join, 2),
            (D::AskSafety, 2),
            (D::ShortPause, 2),
            (D::Break, 2),
            (D::Cut, 1),
            (D::Swallow, 1),
        ]
    }

    fn full(&mut self, rng: &mut SmallRng) -> Weighted {
        self.order = WriteOrder::PerNode;
        self.sim.partitions = [16, 32, 64][rng.random_range(0..3)];
        self.sim.cores = rng.random_range(1..=2);
        self.sim.clock_skew = Duration::from_millis([0, 5][rng.random_range(0..2)]);
        (self.sim.replicas, self.sim.write_quorum) =
            [(2, 2), (3, 2), (3, 3)][rng.random_range(0..3)];
        self.sim.read_quorum = some_strong_reads(rng);
        // A node has room for eight values, or twice eight, and there are more for each. When most
        // keys are deleted in the end, what is left fits on one core.
        self.sim.eviction = Eviction::None;
        self.sim.memory_per_core = Some(128 << 10);
        self.work.value_bytes = 14 << 10;
        self.work.keys = 16 * usize::from(self.sim.cores);
        self.work.deletes_percent = 12;
        self.nodes = rng.random_range(4..=6);
        vec![
            (D::Crash, 2),
            (D::Restart, 3),
            (D::Leave, 2),
            (D::Join, 2),
            (D::AskSafety, 4),
            (D::ShortPause, 1),
            (D::Break, 2),
            (D::Cut, 1),
        ]
    }

    /// Lets some schedules make calls that others do not.
    fn vary_calls(&mut self, seed: u64, profile: Profile) {
        // That checker judges all reads as those of the configured R, and when each write was
        // acknowledged. Calls that are made together, or by a closure, have one answer, when all
        // of them are over.
        if profile != Profile::Majority {
            match seed % 7 {
                2 => self.work.quorums_percent = 30,
                4 => self.work.together_percent = 10,
                6 => self.work.runs_percent = 10,
                _ => {}
            }
        }
        if matches!(profile, Profile::Members | Profile::Everywhere) {
            self.work.shortened_percent = 20;
        }
    }

    /// Raises R to the least number that a configuration with R ≥ 2 may have.
    fn let_reads_see_writes(&mut self) {
        let SimOptions { replicas, write_quorum, read_quorum, .. } = &mut self.sim;
        if *read_quorum > 1 {
            *read_quorum = (*read_quorum).max(*replicas + 1 - *write_quorum);
        }
    }

    /// Some schedules do without some disturbances, and find what these would hide.
    fn leave_some_out(&mut self, rng: &mut SmallRng) {
        for (disturbance, weight) in &mut self.disturbances {
            let is_needed = matches!(
                disturbance,
                D::Restart
                    | D::LostWriter
                    | D::Replace
                    | D::QuickRestart
                    | D::Clock
                    | D::Step
                    | D::Split
                    | D::Crashes
                    | D::AskSafety
            );
            if !is_needed && rng.random_range(0..4) == 0 {
                *weight = 0;
            }
        }
    }
}

/// Returns R: 2 in one schedule of three, otherwise 1.
fn some_strong_reads(rng: &mut SmallRng) -> usize {
    1 + usize::from(rng.random_range(0..3) == 0)
}
