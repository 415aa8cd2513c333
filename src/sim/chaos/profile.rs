//! The kinds of trouble: a [`Profile`] says what a schedule is about.

use rand::RngExt;
use rand::rngs::SmallRng;

/// What kind of trouble a schedule makes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum Profile {
    /// A calm network; nodes join, leave, crash and come back.
    Members,
    /// Datagrams get lost, doubled and late, connections break, nodes pause, and rarely one
    /// crashes.
    Lossy,
    /// The network falls apart, one way and both ways, and heals.
    Splits,
    /// N = 3, W = 2, R = 1 and no change of members, on a network where connections break all the
    /// time.
    Weak,
    /// N = 3, W = 2, R = 2 and no change of members: every key is linearizable.
    Strong,
    /// N = 4, W = 3, R = 2: coordinators get lost in mid-write, readers come one after the other.
    Wide,
    /// N = 2, W = 2 while members change; mostly R = 1: the word of one replica is enough.
    Two,
    /// Clocks that are off by up to an hour, and jump; all nodes write the same few keys.
    Clocks,
    /// All nodes start at once, on a bad network.
    Births,
    /// All nodes crash and start again: what was there is gone, and nothing of it comes back.
    Rebirths,
    /// A node crashes and is back within 50 ms, while it and another do not reach each other.
    QuickRestarts,
    /// All replicas of a partition are replaced, on a bad network, while coordinators have old
    /// lists.
    Replaced,
    /// Partitions wait for a majority of their replicas, and the network falls in two, again and
    /// again.
    Majority,
    /// A copy on every node, while nodes come and go.
    Everywhere,
    /// Two data centers, far from each other, that are cut off from each other while nodes come and
    /// go.
    DataCenters,
    /// W - 1 nodes crash at once, while another one is paused, cut off or split off.
    Crashes,
    /// A pair of nodes does not reach each other, to the end, while nodes come and go.
    Pair,
    /// The cores of one node neither reach nor are reached, to the end, while gossip gets through.
    HalfDead,
    /// Three data centers, two of which reach the first and never each other.
    Spokes,
    /// Hosts are suspended, cores are stuck, control threads starve.
    Hosts,
    /// Unusual numbers of copies and quorums: N = 1, W = N, R = 3, 2 W ≤ N, copies in zones, nodes
    /// of different weights, connections that swallow what is sent.
    Mixed,
    /// Nothing is evicted, and there is no room for all: writes are refused, copies are not whole,
    /// and no node can leave, until keys are deleted.
    Full,
    /// The clock of one node is set forward and back, by seconds to an hour, while keys expire.
    Steps,
}

impl Profile {
    /// All profiles.
    pub const ALL: [Self; 23] = [
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
        Self::Crashes,
        Self::Pair,
        Self::HalfDead,
        Self::Spokes,
        Self::Hosts,
        Self::Mixed,
        Self::Full,
        Self::Steps,
    ];

    /// How many of [`ALL`](Self::ALL) a seed chooses from.
    ///
    /// The others came later and are asked for by name, so that a seed stands for what it stood for
    /// before.
    const CHOSEN: usize = 13;

    /// Returns the profile that a seed chooses.
    pub(super) fn choose(rng: &mut SmallRng) -> Self {
        Self::ALL[rng.random_range(0..Self::CHOSEN)]
    }

    /// Whether the seed makes R at least 2 of what the profile has as R = 1: every other one does,
    /// in profiles in which lists change, and one of four with N = 2.
    pub(super) fn has_strong_reads(self, seed: u64) -> bool {
        if self == Self::Two {
            return seed % 4 == 3;
        }
        let is_one_of_them = matches!(
            self,
            Self::Members
                | Self::Lossy
                | Self::Splits
                | Self::QuickRestarts
                | Self::Replaced
                | Self::Crashes
                | Self::Pair
                | Self::HalfDead
        );
        is_one_of_them && !seed.is_multiple_of(2)
    }

    /// Returns the name on the command line.
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
            Self::Crashes => "crashes",
            Self::Pair => "pair",
            Self::HalfDead => "half-dead",
            Self::Spokes => "spokes",
            Self::Hosts => "hosts",
            Self::Mixed => "mixed",
            Self::Full => "full",
            Self::Steps => "steps",
        }
    }

    /// Returns the profile with this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }
}
