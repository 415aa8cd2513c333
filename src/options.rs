//! What an app chooses: what a full node does, and what a single call may ask for differently from the
//! configuration.

use std::time::Duration;

/// On how many nodes each key is kept: [`Config::replicas`](crate::Config::replicas).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replicas {
    /// On so many, from 1 to [`MAX_REPLICAS`](crate::MAX_REPLICAS).
    Count(usize),
    /// On every node of the data center, up to 255: for what all of them read all the time and few write, as
    /// configuration. All reads of one replica are answered from memory, and each write goes to every node.
    All,
}

impl From<usize> for Replicas {
    fn from(count: usize) -> Self {
        Self::Count(count)
    }
}

/// How many replicas a call waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quorum {
    /// W for a write, R for a read.
    #[default]
    Configured,
    /// More than half of N, and no fewer than configured.
    Majority,
    /// All N.
    All,
    /// Exactly so many. A write may ask for more than W, never for fewer; where every node keeps a copy
    /// ([`Replicas::All`]) it cannot ask so.
    Count(usize),
}

/// What a node does when its [`Config::max_memory`](crate::Config::max_memory) is full. Without that limit
/// neither of these matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Eviction {
    /// Forgets keys that were not read lately to make room for new ones, by the SIEVE algorithm: the node
    /// is a cache.
    #[default]
    Sieve,
    /// Forgets nothing: writes that need room fail with
    /// [`OutOfMemory`](crate::NotApplied::OutOfMemory). A value that replaces another needs room beside it.
    None,
}

/// What a core thread does when it has nothing to do, and a caller that waits for its answer: how much
/// processor time the engine may trade for latency. A thread that is awake is reached in some hundred
/// nanoseconds; one that sleeps must be woken by the system, which takes microseconds, tens of them where both
/// ends sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdleStrategy {
    /// Sleeps at once. Least processor time, for background work and crowded machines.
    Park,
    /// Looks for work a while before it sleeps, for as long as that has paid lately: calls in quick succession,
    /// and answers from the network under load, are met awake. Where the cores of this process leave no
    /// processor to anybody else, it sleeps at once.
    Adaptive {
        /// The longest that a thread looks; at most 10 ms.
        max_spin: Duration,
    },
    /// Never sleeps: each core thread uses a processor of its own up, whether or not there is work. For
    /// dedicated processors, together with [`Config::pin_cpus`](crate::Config::pin_cpus). Callers wait as in the
    /// default.
    Busy,
}

impl IdleStrategy {
    /// As long as waking takes where both ends sleep: who looks for longer has lost more than sleeping costs.
    pub(crate) const DEFAULT_SPIN: Duration = Duration::from_micros(50);
}

/// Adaptive, for at most 50 µs.
impl Default for IdleStrategy {
    fn default() -> Self {
        Self::Adaptive { max_spin: Self::DEFAULT_SPIN }
    }
}

/// For [`Engine::set_with`](crate::Engine::set_with) and [`Engine::delete_with`](crate::Engine::delete_with).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct WriteOptions {
    pub(crate) ttl: Option<Duration>,
    pub(crate) quorum: Quorum,
    pub(crate) timeout: Option<Duration>,
}

impl WriteOptions {
    /// As configured: no expiry, W, the configured timeout.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value disappears after this time, counted in whole milliseconds, at least one.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// How many replicas must have applied the write. Not fewer than W.
    pub fn quorum(mut self, quorum: Quorum) -> Self {
        self.quorum = quorum;
        self
    }

    /// How long the call may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// For [`Engine::get_with`](crate::Engine::get_with).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ReadOptions {
    pub(crate) quorum: Quorum,
    pub(crate) timeout: Option<Duration>,
    pub(crate) local: bool,
    pub(crate) anywhere: bool,
}

impl ReadOptions {
    /// As configured: R, the configured timeout.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many replicas must answer. A single read of two or more sees the newest of those; that it sees
    /// every acknowledged write takes a [`Config::read_quorum`](crate::Config::read_quorum) of two or more,
    /// by which writes go too.
    pub fn quorum(mut self, quorum: Quorum) -> Self {
        self.quorum = quorum;
        self
    }

    /// How long the call may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Only what this node holds: never waits for the network, and a miss is not confirmed by others.
    /// Fails with [`NotLocal`](crate::ReadError::NotLocal) where this node holds no current copy.
    pub fn local(mut self) -> Self {
        self.local = true;
        self.anywhere = false;
        self
    }

    /// Asks the other data centers, too, where this node's own finds nothing or cannot answer; by default it alone is asked.
    /// For a data center that is new, or was cut off and has not caught up yet. That there is nothing says that all which
    /// have a living member have nothing; where one of them does not answer, the read fails.
    pub fn any_data_center(mut self) -> Self {
        self.anywhere = true;
        self.local = false;
        self
    }
}
