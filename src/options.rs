//! What an app chooses: the number of copies, what happens on a network partition, what a full node
//! does, what an idle core does, and what a single call asks for.

use std::time::Duration;

/// How many nodes keep a copy of each key, for [`Config::replicas`](crate::Config::replicas).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replicas {
    /// This number of nodes, from 1 to [`MAX_REPLICAS`](crate::MAX_REPLICAS).
    Count(usize),
    /// Every node of the data center, up to 255 nodes.
    ///
    /// This is for data that all nodes read often and few write, such as configuration. Every read
    /// with R = 1 is answered from memory, and every write goes to every node.
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
    /// The configured number of replicas: W for a write, R for a read. A write waits in addition as
    /// with [`EveryLive`](Self::EveryLive), unless W is 1 or
    /// [`Config::wait_for_every_live`](crate::Config::wait_for_every_live) says otherwise.
    #[default]
    Configured,
    /// More than half of the N replicas, or as configured if that is more.
    Majority,
    /// All N replicas.
    All,
    /// W replicas and, in addition, every replica that is alive. The call waits for those beyond W
    /// for [`Config::every_live_patience`](crate::Config::every_live_patience) at most, and never
    /// fails for lack of them. A replica that was waited for in vain is not waited for again until
    /// it has taken a write.
    ///
    /// A read that begins on any node after such a write was acknowledged finds the write, or a
    /// newer one, with R = 1 too. This is for a login that the next instance must see. It does not
    /// hold for a replica that did not answer in time, while the replicas of the key change, or in
    /// other data centers.
    ///
    /// A read has no use for it: for a read it is the same as `Configured`.
    EveryLive,
    /// Exactly this number of replicas: from W to N for a write, from 1 to N for a read.
    ///
    /// With [`Replicas::All`], a write cannot ask for a number, and a read for no more than
    /// [`MAX_REPLICAS`](crate::MAX_REPLICAS).
    Count(usize),
}

/// What happens to a partition of the keys when the network falls apart, or when too many of its
/// replicas die, for [`Config::on_partition`](crate::Config::on_partition).
///
/// The engine moves the keys in 4096 partitions, and each of them has its own list of N replicas.
/// A side of a network partition can hold enough replicas of one key and too few of another.
///
/// | | [`Serve`](Self::Serve) | [`Majority`](Self::Majority) |
/// |---|---|---|
/// | more than half of a key's replicas are here | the others are replaced | the same |
/// | too few of a key's replicas are here | they go on without the others | the key waits |
/// | both sides acknowledge writes of one key | possible, the data is merged later | never |
/// | half of a key's replicas are lost for good | the key goes on with the rest | the key waits |
///
/// None of this depends on a clock, on a waiting time or on how many nodes there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnPartition {
    /// Availability first: every side of a network partition serves what it has.
    ///
    /// If too many replicas of a key are dead for the rest to agree on a new list, the survivors go
    /// on without them. If W replicas died, [`Event::DataAtRisk`](crate::Event::DataAtRisk) tells
    /// the app. Two sides that meet again merge their data: of two writes of one key, the one with
    /// the later clock stays. A side with fewer than W nodes acknowledges nothing.
    #[default]
    Serve,
    /// Consistency first: at most one side of a network partition acknowledges writes of a key.
    ///
    /// A list of replicas is replaced only if more than half of its members agree to it. On a side
    /// that has fewer of them, the key waits until enough of them are back:
    ///
    /// - A write fails. If this node knows that too few replicas of the key are alive, it is
    ///   [`NotEnoughReplicas`](crate::NotApplied::NotEnoughReplicas) at once: the write did not
    ///   happen. A write is [`Indeterminate`](crate::WriteError::Indeterminate) at its deadline if
    ///   it began before the others were found dead, or through a node that is no replica of the
    ///   key: a replica on this side might have applied it, so it might take effect later. Try
    ///   again when [`Event::PlacementChanged`](crate::Event::PlacementChanged) tells that nodes
    ///   are back.
    /// - A read with R ≥ 2 fails as well, with
    ///   [`ReadError::NotEnoughReplicas`](crate::ReadError::NotEnoughReplicas) or
    ///   [`ReadError::TimedOut`](crate::ReadError::TimedOut).
    /// - A read with R = 1 goes on with what this node has, which might be old. A miss is an error,
    ///   [`ReadError::Unconfirmed`](crate::ReadError::Unconfirmed).
    ///
    /// This requires 2 W > N. Replicas that lose their memory do not come back: a key of which half
    /// of the replicas or more were restarted or are gone for good, before copies of them were
    /// made, waits until all nodes are stopped and started again, empty. Therefore stop nodes one
    /// at a time, and wait with [`Engine::wait_until_safe`](crate::Engine::wait_until_safe) in
    /// between.
    Majority,
}

/// What a node does when its [`Config::max_memory`](crate::Config::max_memory) is full. Without
/// that limit it has no effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Eviction {
    /// Evicts keys that were not read lately, by the SIEVE algorithm: the node is a cache.
    #[default]
    Sieve,
    /// Evicts nothing: writes that need room fail with
    /// [`OutOfMemory`](crate::NotApplied::OutOfMemory).
    ///
    /// To replace a value, a node needs room for the old and the new one.
    None,
}

/// What a core thread does without work, and what a caller does while it waits for an answer.
///
/// It trades processor time for latency. A thread that is awake is reached within some hundred
/// nanoseconds. A thread that sleeps must be woken by the system, which takes microseconds, and
/// tens of them if both ends sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdleStrategy {
    /// Sleeps at once: the least processor time, for background work and crowded machines.
    Park,
    /// Looks for work for a while, and then sleeps.
    ///
    /// A thread looks for as long as that has paid lately, so that calls in quick succession, and
    /// answers from the network under load, find it awake. If the cores of this process leave no
    /// processor to other threads, it sleeps at once.
    Adaptive {
        /// The longest time that a thread looks for work; at most 10 ms.
        max_spin: Duration,
    },
    /// Never sleeps: each core thread uses up one processor, with or without work.
    ///
    /// This is for dedicated processors, together with
    /// [`Config::pin_cpus`](crate::Config::pin_cpus). Callers wait as with the default.
    Busy,
}

impl IdleStrategy {
    /// About as long as waking takes if both ends sleep: a thread that looks for longer has lost
    /// more than sleeping costs.
    pub(crate) const DEFAULT_SPIN: Duration = Duration::from_micros(50);
}

impl Default for IdleStrategy {
    /// Returns [`Adaptive`](Self::Adaptive) with at most 50 µs.
    fn default() -> Self {
        Self::Adaptive { max_spin: Self::DEFAULT_SPIN }
    }
}

/// Options of a single write, for [`Engine::set_with`](crate::Engine::set_with),
/// [`Engine::delete_with`](crate::Engine::delete_with) and
/// [`Engine::apply_with`](crate::Engine::apply_with).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct WriteOptions {
    pub(crate) ttl: Option<Duration>,
    pub(crate) quorum: Quorum,
    pub(crate) timeout: Option<Duration>,
}

impl WriteOptions {
    /// Returns the options of a plain write: no time to live, W acknowledgements, the configured
    /// timeout.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the time after which the value expires, in whole milliseconds; default never.
    ///
    /// It is at least 1 ms, and must end before the year 10000.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets how many replicas must have applied the write, at least W; default W.
    pub fn quorum(mut self, quorum: Quorum) -> Self {
        self.quorum = quorum;
        self
    }

    /// Sets how long the call may take; default
    /// [`Config::request_timeout`](crate::Config::request_timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// Options of a single read, for [`Engine::get_with`](crate::Engine::get_with) and
/// [`Engine::submit_get`](crate::Engine::submit_get).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ReadOptions {
    pub(crate) quorum: Quorum,
    pub(crate) timeout: Option<Duration>,
    pub(crate) local: bool,
    pub(crate) anywhere: bool,
}

impl ReadOptions {
    /// Returns the options of a plain read: R answers, the configured timeout.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how many replicas must answer; default R.
    ///
    /// A single read of two or more sees the newest value of those that answer. It sees every
    /// acknowledged write only if [`Config::read_quorum`](crate::Config::read_quorum) is two or
    /// more, because writes follow that, too.
    pub fn quorum(mut self, quorum: Quorum) -> Self {
        self.quorum = quorum;
        self
    }

    /// Sets how long the call may take; default
    /// [`Config::request_timeout`](crate::Config::request_timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Reads only what this node holds: the call never waits for the network, and no other node
    /// confirms a miss.
    ///
    /// The call fails with [`NotLocal`](crate::ReadError::NotLocal) if this node holds no current
    /// copy. It takes the place of [`any_data_center`](Self::any_data_center).
    pub fn local(mut self) -> Self {
        self.local = true;
        self.anywhere = false;
        self
    }

    /// Asks the other data centers, too, if this node's own finds no value or cannot answer. By
    /// default only its own is asked.
    ///
    /// This is for a data center that is new, or was cut off and has not caught up yet. `None`
    /// means that every data center with a live member has no value. If one of them does not
    /// answer, the read fails. It takes the place of [`local`](Self::local).
    pub fn any_data_center(mut self) -> Self {
        self.anywhere = true;
        self.local = false;
        self
    }
}
