//! [`Config`]: what an app tells an engine before it starts, as a builder.
//!
//! `settings.rs` has every default and bound with its reason, all checks, and [`Settings`], which
//! is what passed them. All other modules read the settings; these files read no module of the
//! runtime.

mod settings;

use std::sync::Arc;
use std::time::Duration;

#[cfg(any(test, feature = "sim"))]
pub(crate) use self::settings::DEFAULT_EVERY_LIVE_PATIENCE;
#[cfg(feature = "sim")]
pub(crate) use self::settings::DEFAULT_RETENTION;
use self::settings::Given;
pub(crate) use self::settings::{
    DEFAULT_PROBE_PERIOD, DEFAULT_REQUEST_TIMEOUT, DEFAULT_SUSPICION_TIMEOUT, Settings,
};
use crate::discovery::{Custom, Discovery};
use crate::error::ConfigError;
use crate::options::{Eviction, IdleStrategy, OnPartition, Replicas};
#[cfg(feature = "security")]
use crate::security::Security;

/// Says how an engine starts: its name, its address, its cluster and its limits.
///
/// Each method sets one option and returns the configuration, so that calls can be chained.
/// [`Engine::start`](crate::Engine::start) checks all of them and reports the first mistake, as a
/// [`ConfigError`].
///
/// ```
/// use gridkv::Config;
///
/// let config = Config::new("app-1", "10.0.0.1:8001")
///     .cluster("shop")
///     .seeds(["10.0.0.2:8001", "10.0.0.3:8001"])
///     .replicas(3)
///     .write_quorum(2);
/// # let _ = config;
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    given: Given,
}

impl Config {
    /// Describes a node of a cluster, named `node_id`, that listens on `address` over TCP and UDP.
    ///
    /// `address` is an IP address and a port, and other nodes reach this node there unless
    /// [`advertise`](Self::advertise) names another address. Port 0 takes a free port, which
    /// [`Engine::address`](crate::Engine::address) tells.
    ///
    /// `node_id` has 1 to 255 bytes, and no other node may have the same. It should stay the same
    /// over restarts: the node then takes back the partitions that it held.
    pub fn new(node_id: impl Into<String>, address: impl Into<String>) -> Self {
        Self { given: Given::new(node_id.into(), Some(address.into())) }
    }

    /// Describes one engine on its own: one copy of each key, no network, ready at once.
    ///
    /// It has none of the options of a cluster's node. If one is set, the engine does not start.
    pub fn standalone(node_id: impl Into<String>) -> Self {
        Self { given: Given::new(node_id.into(), None) }
    }

    /// Sets the cluster's name, of 1 to 255 bytes; default `"gridkv"`.
    ///
    /// Nodes with different names refuse each other, so an address that passes from one cluster to
    /// another never merges the two.
    pub fn cluster(mut self, name: impl Into<String>) -> Self {
        self.given.cluster = Some(name.into());
        self
    }

    /// Sets the addresses through which this node finds the cluster; default none.
    ///
    /// Each is an IP address or a host name, and a port. One seed that runs is enough. A node may
    /// be its own seed, so every node can be given the same list. Seeds are asked again for ever,
    /// so the order in which nodes start does not matter.
    ///
    /// A host name stands for all its addresses. It is looked up as often as
    /// [`Discovery::discover`] is asked, on a thread of its own.
    pub fn seeds<S: Into<String>>(mut self, seeds: impl IntoIterator<Item = S>) -> Self {
        self.given.seeds = seeds.into_iter().map(Into::into).collect();
        self
    }

    /// Sets a further source of addresses, in addition to the seeds; default none.
    pub fn discovery(mut self, discovery: impl Discovery) -> Self {
        self.given.discovery = Some(Custom(Arc::new(discovery)));
        self
    }

    /// Sets the IP address and port at which other nodes reach this one; default the address that
    /// it listens on.
    ///
    /// This is for containers, and for networks that translate addresses. Listen on `0.0.0.0:8001`
    /// or `[::]:8001`, and advertise an address to which others can connect over TCP and UDP. Port
    /// 0 stands for the port that this node listens on.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.given.advertise = Some(address.into());
        self
    }

    /// Sets the data center of this node, a name of at most 255 bytes; default none.
    ///
    /// All nodes without a name form one data center. Each data center keeps all keys, on N of its
    /// own nodes, and counts W and R among these. N, W and R must be the same only within a data
    /// center.
    ///
    /// - A call never waits for another data center.
    /// - An acknowledged write reaches the others soon after, usually one round trip later.
    /// - A data center that is cut off goes on serving, and catches up afterwards.
    /// - If two data centers write one key at the same time, the write with the later clock wins.
    pub fn data_center(mut self, name: impl Into<String>) -> Self {
        self.given.data_center = Some(name.into());
        self
    }

    /// Sets the zone of this node, a name of at most 255 bytes; default none.
    ///
    /// The nodes of a zone are those that fail together: a rack, a building, an availability zone.
    /// All nodes without a name form one zone. The copies of a key are kept in different zones, as
    /// far as there are enough zones. Zones should have about the same number of nodes: each node
    /// of a small zone holds more than the others.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.given.zone = Some(zone.into());
        self
    }

    /// Sets how much of the data this node holds, relative to other nodes; from 1 to 10,000,
    /// default 100.
    ///
    /// A node with 200 holds twice as much as one with 100. If there are only as many nodes as
    /// copies, each node holds everything.
    pub fn weight(mut self, weight: u16) -> Self {
        self.given.weight = Some(weight);
        self
    }

    /// Sets N: how many nodes keep a copy of each key. From 1 to 16, or [`Replicas::All`]; default
    /// 3.
    ///
    /// It must be the same on every node of a data center.
    pub fn replicas(mut self, replicas: impl Into<Replicas>) -> Self {
        self.given.replicas = Some(replicas.into());
        self
    }

    /// Sets W: how many replicas must apply a write before it is acknowledged. From 1 to N; default
    /// 2, or 1 if N is 1.
    ///
    /// It must be the same on every node of a data center. An acknowledged write survives the death
    /// of any W − 1 nodes.
    ///
    /// If 2 W ≤ N, two writes of a key need not share a replica. A write then waits for every
    /// replica that is alive, as with [`Quorum::EveryLive`](crate::Quorum::EveryLive), so that it
    /// gets a version above each write that was acknowledged before. If a replica does not answer
    /// within [`every_live_patience`](Self::every_live_patience), the write with the later clock
    /// wins. Then a write, or a delete, can lose to an earlier one whose node's clock is ahead.
    pub fn write_quorum(mut self, write_quorum: usize) -> Self {
        self.given.write_quorum = Some(write_quorum);
        self
    }

    /// Sets how many replicas may be missing from a write's acknowledgement, with
    /// [`Replicas::All`]. From 0 to 16; default 1.
    ///
    /// It takes the place of [`write_quorum`](Self::write_quorum), and must be the same on every
    /// node of a data center. A majority must always acknowledge. With 0, one silent node delays
    /// all writes until it is declared dead. A cluster begins when it has one node more than this.
    pub fn unacknowledged(mut self, replicas: usize) -> Self {
        self.given.unacknowledged = Some(replicas);
        self
    }

    /// Sets R: how many replicas must answer a read. From 1 to N; default 1.
    ///
    /// - With 1, a local copy answers alone, and might be briefly old.
    /// - With 2 or more, each key is linearizable while its replicas do not change. This requires
    ///   W + R > N and 2 W > N.
    ///
    /// It must be the same on every node of a data center: nodes that differ refuse each other, as
    /// linearizable reads rely on what the writes of all nodes do. A call can ask for more replicas
    /// ([`ReadOptions::quorum`](crate::ReadOptions::quorum)).
    pub fn read_quorum(mut self, read_quorum: usize) -> Self {
        self.given.read_quorum = Some(read_quorum);
        self
    }

    /// Sets whether a write that names no quorum of its own waits for every replica that is alive,
    /// as with [`Quorum::EveryLive`](crate::Quorum::EveryLive). The default is `true` if W is 2 or
    /// more, and with a W of 1 `false`.
    ///
    /// With it a write that was acknowledged is seen by reads on every node from then on, with
    /// R = 1 too. The write takes as long as the slowest replica that is alive, instead of as the
    /// second one.
    ///
    /// [`Engine::touch`](crate::Engine::touch) and [`Engine::persist`](crate::Engine::persist) then
    /// wait, too. Nodes may have different settings: a node's setting is for its own writes. To
    /// wait for W replicas alone, a call asks for [`Quorum::Count`](crate::Quorum::Count), or with
    /// [`Replicas::All`] for [`Quorum::Majority`](crate::Quorum::Majority).
    pub fn wait_for_every_live(mut self, waits: bool) -> Self {
        self.given.wait_for_every_live = Some(waits);
        self
    }

    /// Sets for how long a write with [`Quorum::EveryLive`](crate::Quorum::EveryLive) waits, after
    /// W replicas have answered, for the others that are alive; from 0 to a second, default 10 ms.
    ///
    /// It should exceed what a healthy replica takes to answer. A replica that is silent delays
    /// the first such writes by this time. Those behind them do not wait for it until it has taken
    /// a write again. With 0 no write waits.
    pub fn every_live_patience(mut self, patience: Duration) -> Self {
        self.given.every_live_patience = Some(patience);
        self
    }

    /// Sets how many core threads share the keys of this node, from 1 to 256.
    ///
    /// The default is one for each CPU of [`pin_cpus`](Self::pin_cpus), or 1 if no CPU is named.
    pub fn cores(mut self, cores: usize) -> Self {
        self.given.cores = Some(cores);
        self
    }

    /// Sets the CPU of each core thread, by the system's numbers; default none, so that the system
    /// chooses. Linux only.
    ///
    /// The first core runs on the first CPU, and so on: one CPU for each core, none of them twice,
    /// all of them open to this process. The memory of a core is allocated close to its CPU.
    pub fn pin_cpus(mut self, cpus: impl IntoIterator<Item = usize>) -> Self {
        self.given.pin_cpus = Some(cpus.into_iter().collect());
        self
    }

    /// Sets what a core thread does without work; default [`IdleStrategy::Adaptive`] for at most
    /// 50 µs.
    pub fn idle(mut self, strategy: IdleStrategy) -> Self {
        self.given.idle = strategy;
        self
    }

    /// Sets how many bytes the keys and values of this node may take, with their index and timers;
    /// default no limit.
    ///
    /// The cores share the limit evenly, and each needs at least 1 MiB. Seven eighths are for data.
    /// The rest is for overwritten values that readers still look at, for large values on their
    /// way, and for gaps between allocations. If the limit is reached, [`eviction`](Self::eviction)
    /// decides. Nodes may have different limits.
    pub fn max_memory(mut self, bytes: usize) -> Self {
        self.given.max_memory = Some(bytes);
        self
    }

    /// Sets how many connections of other nodes this one accepts at a time, at least 16; default
    /// 8192, or half of the descriptors that the process may have (`RLIMIT_NOFILE`) if that is
    /// less, as found at the start.
    ///
    /// Every other node needs one, and one more for each pair of its cores and this node's cores. A
    /// connection beyond the limit is closed, and its opener is told why. Each takes a descriptor
    /// and up to 64 KiB of memory, outside [`max_memory`](Self::max_memory).
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.given.max_connections = Some(connections);
        self
    }

    /// Sets what happens when [`max_memory`](Self::max_memory) is full; default
    /// [`Eviction::Sieve`].
    pub fn eviction(mut self, eviction: Eviction) -> Self {
        self.given.eviction = eviction;
        self
    }

    /// Sets whether cores may use Linux's `membarrier`, so that reads need no fence; default
    /// `true`.
    ///
    /// Each time a core frees what it has collected, `membarrier` interrupts the processors that
    /// run this process, for about a microsecond. Without it, each read takes some nanoseconds
    /// longer. If the call is denied at the start or later, the engine does without. A filter of
    /// system calls that ends the process instead must not meet it: then set `false`.
    pub fn membarrier(mut self, allowed: bool) -> Self {
        self.given.membarrier = allowed;
        self
    }

    /// Sets how long a call may take if it names no timeout of its own; from 1 ms to an hour,
    /// default 2 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.given.request_timeout = timeout;
        self
    }

    /// Sets how often this node probes another member; from 20 ms to a minute, default 200 ms.
    pub fn probe_period(mut self, period: Duration) -> Self {
        self.given.probe_period = period;
        self
    }

    /// Sets how long a member that does not answer probes may refute before it is declared dead;
    /// from 20 ms to a minute, default 350 ms.
    ///
    /// A longer time tolerates longer pauses of a process.
    pub fn suspicion_timeout(mut self, timeout: Duration) -> Self {
        self.given.suspicion_timeout = timeout;
        self
    }

    /// Sets whether this node, when it does badly itself, is slower to declare others dead; default
    /// `true`.
    ///
    /// A node does badly if its own probes fail, if others suspect it, or if it gets too little of
    /// its processor. It then gives others up to eight times as long. (Lifeguard, DSN '18.) It
    /// costs nothing while all is well.
    pub fn local_health(mut self, enabled: bool) -> Self {
        self.given.local_health = enabled;
        self
    }

    /// Sets how long tombstones are kept for a member that died, and might come back with what it
    /// holds; from a second to 366 days, default 1 h.
    ///
    /// During that time every deleted or expired key of the cluster leaves a tombstone, of some
    /// hundred bytes, so that the returning member cannot bring the key back. Nodes that join later
    /// learn of the dead member, too. The cluster does not wait for a member that left, or that
    /// restarted under its node id.
    ///
    /// A member that comes back later, and ran all the time, drops what was deleted since. It
    /// cannot do so if a list of replicas was made without a majority in the meantime, as on the
    /// smaller side of a network partition of which both sides served: then it might bring deleted
    /// keys back. So set more than the longest partition that you expect.
    ///
    /// If a data center is away as a whole,
    /// [`data_center_retention`](Self::data_center_retention) counts.
    pub fn tombstone_retention(mut self, time: Duration) -> Self {
        self.given.retention.member = time;
        self
    }

    /// Sets how long tombstones are kept for a data center of which no node is here; from a second
    /// to 366 days, default 24 h, and at least [`tombstone_retention`](Self::tombstone_retention).
    ///
    /// A data center that was away for longer brings back what was deleted in the meantime, as it
    /// may hold writes that no other has. So set more than the longest time for
    /// which a shop or a ship may be out of reach. Every key that is deleted or expires in that
    /// time costs some hundred bytes on each of its replicas.
    pub fn data_center_retention(mut self, time: Duration) -> Self {
        self.given.retention.data_center = time;
        self
    }

    /// Sets what happens to keys whose replicas are on different sides of a network partition;
    /// default [`OnPartition::Serve`], so that every side serves what it has.
    ///
    /// With [`OnPartition::Majority`] at most one side acknowledges writes of a key. That requires
    /// 2 W > N. It must be the same on every node of a data center: nodes that differ refuse each
    /// other.
    pub fn on_partition(mut self, what: OnPartition) -> Self {
        self.given.on_partition = Some(what);
        self
    }

    /// Sets that the cluster is not born before a majority of this many nodes see each other; from
    /// 1 to 1000, default none.
    ///
    /// Without it W nodes are enough. If the network falls apart before the first start, two sides
    /// with W nodes each are then born as two clusters, which merge when they meet. With
    /// `expect(5)` three nodes must see each other, and of two sides only one can have three.
    ///
    /// It matters for the first start only: a node that finds a cluster joins it. Name the number
    /// of nodes that start the cluster (or, if there are several, this data center): if more start,
    /// each of two sides could have a majority of the smaller number. Give every node the same
    /// number: a node without it might be born with fewer.
    pub fn expect(mut self, nodes: usize) -> Self {
        self.given.expect = Some(nodes);
        self
    }

    /// Sets how the traffic between nodes is encrypted, and how nodes prove that they belong to the
    /// cluster; default none of it.
    ///
    /// Without it any host that reaches the port of a node can read and write all keys, and can end
    /// the node. With it all nodes have one cluster key, and a host without the key is let in
    /// nowhere. To turn it on in a running cluster, or to replace the key, see [`Security`].
    ///
    /// ```no_run
    /// use gridkv::{ClusterKey, Config, Engine, Security};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // Made once, for all nodes, by: openssl rand -hex 32
    /// let key = ClusterKey::from_file("/run/secrets/gridkv.key")?;
    /// let config = Config::new("app-1", "10.0.0.1:8001").security(Security::cluster_key(key));
    /// let engine = Engine::start(config)?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "security")]
    pub fn security(mut self, security: Security) -> Self {
        self.given.security = Some(security);
        self
    }

    /// Checks every option, and returns what an engine works with.
    pub(crate) fn check(&self) -> Result<Settings, ConfigError> {
        self.given.check()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::quorums::{Count, Quorums};

    fn valid() -> Config {
        Config::new("a", "127.0.0.1:0")
    }

    fn error(config: Config) -> ConfigError {
        config.check().unwrap_err()
    }

    #[test]
    fn defaults_are_three_two_one() {
        let settings = valid().check().unwrap();
        let [one, two, three] = [1, 2, 3].map(Count::Exactly);
        assert_eq!(settings.quorums, Quorums { replicas: three, write: two, read: one });
        let settings = valid().replicas(1).check().unwrap();
        assert_eq!(settings.quorums, Quorums::ONE);
        let settings = Config::standalone("a").cores(2).check().unwrap();
        assert_eq!((settings.quorums, settings.address), (Quorums::ONE, None));
        assert_eq!((settings.memory, settings.eviction), (None, Eviction::Sieve));
    }

    /// Who waits for other nodes in any case waits for all of them; who does not stays as fast.
    #[test]
    fn writes_wait_for_every_live_replica_unless_one_acknowledges() {
        let waits = |config: Config| config.check().unwrap().wait_for_every_live;
        assert!(waits(valid()) && waits(valid().replicas(2)) && waits(valid().write_quorum(3)));
        assert!(waits(valid().replicas(Replicas::All)));
        assert!(!waits(valid().replicas(1)) && !waits(valid().write_quorum(1)));
        assert!(!waits(Config::standalone("a")));
        assert!(!waits(valid().wait_for_every_live(false)));
        assert!(waits(valid().write_quorum(1).wait_for_every_live(true)));
    }

    #[test]
    fn both_sides_serve_unless_a_majority_is_asked_for() {
        let settings = valid().check().unwrap();
        assert_eq!((settings.on_partition, settings.expect), (OnPartition::Serve, 0));
        let settings = valid().on_partition(OnPartition::Majority).expect(5).check().unwrap();
        assert_eq!((settings.on_partition, settings.expect), (OnPartition::Majority, 5));
        // Two writes share a replica of two, and all but one are a majority.
        let majority = valid().on_partition(OnPartition::Majority);
        assert!(majority.clone().replicas(2).check().is_ok());
        assert!(majority.clone().replicas(Replicas::All).unacknowledged(3).check().is_ok());
        let text = error(majority.replicas(4).write_quorum(2)).to_string();
        assert!(text.contains("raise write_quorum to 3"), "{text}");
    }

    #[test]
    fn there_is_a_core_for_each_cpu_that_is_named() {
        assert_eq!(valid().check().unwrap().cores, 1);
        let settings = valid().pin_cpus([5, 3]).check().unwrap();
        assert_eq!((settings.cores, settings.pin_cpus), (2, Some(vec![5, 3])));
        assert_eq!(
            error(valid().pin_cpus([1, 2]).cores(3)),
            ConfigError::PinnedCpus { cpus: 2, cores: 3 }
        );
        assert_eq!(error(valid().pin_cpus([1, 2, 1])), ConfigError::CpuTwice { cpu: 1 });
        assert_eq!(error(valid().pin_cpus([])), ConfigError::BadCores { cores: 0 });
    }

    #[test]
    fn a_spin_is_short() {
        let adaptive = |max_spin| valid().idle(IdleStrategy::Adaptive { max_spin });
        assert!(adaptive(Duration::ZERO).check().is_ok());
        assert!(matches!(error(adaptive(Duration::from_secs(1))), ConfigError::BadDuration { .. }));
    }

    #[test]
    fn the_cores_share_the_memory_limit() {
        for config in [valid(), Config::standalone("a")] {
            let config = config.cores(3).eviction(Eviction::None);
            let least = 3 << 20;
            let settings = config.clone().max_memory(least).check().unwrap();
            assert_eq!((settings.memory, settings.eviction), (Some(1 << 20), Eviction::None));
            let max_memory = least - 1;
            let error = error(config.max_memory(max_memory));
            assert_eq!(error, ConfigError::BadMemory { max_memory, least });
            assert!(error.to_string().contains("run fewer cores"), "{error}");
        }
    }

    #[test]
    fn a_node_accepts_some_connections_at_least() {
        assert_eq!(valid().check().unwrap().max_connections, None);
        assert_eq!(valid().max_connections(16).check().unwrap().max_connections, Some(16));
        let error = error(valid().max_connections(15));
        assert_eq!(error, ConfigError::BadMaxConnections { connections: 15, least: 16 });
    }

    #[test]
    fn each_mistake_has_its_own_error() {
        assert_eq!(error(Config::new("", "127.0.0.1:0")), ConfigError::EmptyNodeId);
        assert_eq!(
            error(Config::new("x".repeat(256), "127.0.0.1:0")),
            ConfigError::NodeIdTooLong { length: 256 }
        );
        assert_eq!(error(valid().cluster("")), ConfigError::EmptyClusterName);
        assert_eq!(
            error(valid().cluster("x".repeat(300))),
            ConfigError::ClusterNameTooLong { length: 300 }
        );
        for address in ["localhost:80", "127.0.0.1", "", "127.0.0.1:99999"] {
            assert_eq!(
                error(Config::new("a", address)),
                ConfigError::BadAddress { address: address.into() }
            );
        }
        for address in ["0.0.0.0:80", "[::]:80"] {
            let parsed = address.parse().unwrap();
            assert_eq!(
                error(Config::new("a", address)),
                ConfigError::UnspecifiedAddress { address: parsed }
            );
        }
        for seed in [
            "nowhere",
            "10.0.0.1:0",
            "0.0.0.0:8000",
            "10.0.0.256:1",
            "a b:1",
            ":1",
            "host:0",
            "host:",
        ] {
            assert_eq!(error(valid().seeds([seed])), ConfigError::BadSeed { seed: seed.into() });
        }
        let advertised = "0.0.0.0:80".parse().unwrap();
        assert_eq!(
            error(valid().advertise("0.0.0.0:80")),
            ConfigError::UnspecifiedAddress { address: advertised }
        );
        assert_eq!(error(valid().advertise("x")), ConfigError::BadAddress { address: "x".into() });
        assert_eq!(
            error(valid().data_center("x".repeat(256))),
            ConfigError::DataCenterTooLong { length: 256 }
        );
        assert_eq!(error(valid().zone("x".repeat(256))), ConfigError::ZoneTooLong { length: 256 });
        for weight in [0, 10_001] {
            assert_eq!(error(valid().weight(weight)), ConfigError::BadWeight { weight });
        }
        assert_eq!(error(valid().replicas(0)), ConfigError::BadReplicas { replicas: 0 });
        assert_eq!(error(valid().replicas(17)), ConfigError::BadReplicas { replicas: 17 });
        for write_quorum in [0, 4] {
            assert_eq!(
                error(valid().write_quorum(write_quorum)),
                ConfigError::BadWriteQuorum { write_quorum, replicas: Count::Exactly(3) }
            );
        }
        for read_quorum in [0, 4] {
            assert_eq!(
                error(valid().read_quorum(read_quorum)),
                ConfigError::BadReadQuorum { read_quorum, replicas: Count::Exactly(3) }
            );
        }
        assert_eq!(
            error(valid().write_quorum(1).read_quorum(3)),
            ConfigError::QuorumsDoNotOverlap {
                read_quorum: Count::Exactly(3),
                write_quorum: Count::Exactly(1),
                replicas: Count::Exactly(3)
            }
        );
        for nodes in [0, 1001] {
            assert_eq!(error(valid().expect(nodes)), ConfigError::BadExpect { nodes });
        }
        assert_eq!(
            error(valid().on_partition(OnPartition::Majority).write_quorum(1)),
            ConfigError::MajorityNeedsOverlap {
                write_quorum: Count::Exactly(1),
                replicas: Count::Exactly(3)
            }
        );
        for cores in [0, 257] {
            assert_eq!(error(valid().cores(cores)), ConfigError::BadCores { cores });
        }
        assert!(matches!(
            error(valid().request_timeout(Duration::ZERO)),
            ConfigError::BadDuration { option: "request_timeout", .. }
        ));
        assert!(matches!(
            error(valid().every_live_patience(Duration::from_millis(1001))),
            ConfigError::BadDuration { option: "every_live_patience", .. }
        ));
        assert!(matches!(
            error(valid().tombstone_retention(Duration::ZERO)),
            ConfigError::BadDuration { option: "tombstone_retention", .. }
        ));
        assert!(matches!(
            error(valid().data_center_retention(Duration::ZERO)),
            ConfigError::BadDuration { option: "data_center_retention", .. }
        ));
        assert!(matches!(
            error(valid().probe_period(Duration::from_millis(1))),
            ConfigError::BadDuration { option: "probe_period", .. }
        ));
        assert!(matches!(
            error(valid().suspicion_timeout(Duration::from_secs(61))),
            ConfigError::BadDuration { option: "suspicion_timeout", .. }
        ));
        for (config, option) in [
            (Config::standalone("a").cluster("b"), "cluster"),
            (Config::standalone("a").seeds(["127.0.0.1:1"]), "seeds"),
            (Config::standalone("a").replicas(3), "replicas"),
            (Config::standalone("a").write_quorum(1), "write_quorum"),
            (Config::standalone("a").unacknowledged(1), "unacknowledged"),
            (Config::standalone("a").read_quorum(1), "read_quorum"),
            (Config::standalone("a").wait_for_every_live(true), "wait_for_every_live"),
            (Config::standalone("a").every_live_patience(Duration::ZERO), "every_live_patience"),
            (Config::standalone("a").on_partition(OnPartition::Serve), "on_partition"),
            (Config::standalone("a").expect(3), "expect"),
            (Config::standalone("a").discovery(|| Ok(Vec::new())), "discovery"),
            (Config::standalone("a").advertise("10.0.0.1:1"), "advertise"),
            (Config::standalone("a").data_center("d"), "data_center"),
            (Config::standalone("a").zone("z"), "zone"),
            (Config::standalone("a").weight(1), "weight"),
            (Config::standalone("a").max_connections(100), "max_connections"),
        ] {
            assert_eq!(error(config), ConfigError::Standalone { option });
        }
    }

    #[cfg(feature = "security")]
    #[test]
    fn cluster_keys_are_checked_before_anything_starts() {
        use crate::security::{ClusterKey, KeyringError};

        let key = |first: u8| {
            ClusterKey::from_bytes(std::array::from_fn(|at| first.wrapping_add(at as u8))).unwrap()
        };
        let security = || Security::cluster_key(key(0));
        assert!(valid().check().unwrap().security.is_none());
        assert!(valid().security(security().also_accept(key(1))).check().is_ok());
        let twice = error(valid().security(security().also_accept(key(0))));
        assert!(matches!(twice, ConfigError::ClusterKeys(KeyringError::SameKeyTwice { .. })));
        assert!(twice.to_string().contains("is given twice: also_accept is for"), "{twice}");
        let five = (1..5).map(key).fold(security(), Security::also_accept);
        let five = error(valid().security(five));
        assert_eq!(five, ConfigError::ClusterKeys(KeyringError::TooMany { count: 5 }));
        let alone = error(Config::standalone("a").security(security()));
        assert_eq!(alone, ConfigError::StandaloneSecurity);
    }

    /// The zone was cut off in silence if it was a number, so that the node tried to listen at an
    /// address without one, and said "invalid argument". If it was a name, the error said that this
    /// is no IP address.
    #[test]
    fn an_address_of_one_link_is_refused_in_words() {
        let zoned = ["[fe80::1%eth0]:80", "[fe80::1%2]:80", "[fe80::1]:80", "[2001:db8::1%3]:80"];
        for address in zoned.into_iter().chain(["fe80::1%eth0", "fe80::1%eth0:80"]) {
            let expected = ConfigError::LinkLocalAddress { address: address.into() };
            assert_eq!(error(Config::new("a", address)), expected);
            assert_eq!(error(Config::new("a", "[::]:80").advertise(address)), expected);
            assert_eq!(error(valid().seeds([address])), expected);
            assert!(expected.to_string().contains("unique local"), "{expected}");
        }
        let url = ConfigError::BadAddress { address: "a%20b:80".into() };
        assert_eq!(error(Config::new("a", "a%20b:80")), url, "no zone");
        assert!(Config::new("a", "[fd00::1]:80").seeds(["[2001:db8::1]:80"]).check().is_ok());
    }

    /// Found by a fuzzer: such a node started, and no other believed in it.
    #[test]
    fn an_address_of_many_hosts_is_refused() {
        for address in ["224.0.0.1:80", "255.255.255.255:80", "[ff02::1]:80"] {
            let parsed = address.parse().unwrap();
            let expected = ConfigError::ManyHosts { address: parsed };
            assert_eq!(error(Config::new("a", address)), expected);
            assert_eq!(error(valid().advertise(address)), expected);
            let seed = ConfigError::BadSeed { seed: address.into() };
            assert_eq!(error(valid().seeds([address])), seed);
        }
    }

    #[test]
    fn seeds_are_addresses_or_names() {
        let seeds = ["10.0.0.1:1", "db-1.example.com:2", "[::1]:3", "localhost:4", "a_b.svc.:5"];
        let settings = valid().seeds(seeds).check().unwrap();
        assert_eq!(
            settings.seeds,
            [0, 2].map(|at: usize| seeds[at].parse::<SocketAddr>().unwrap())
        );
        assert_eq!(settings.finder.names, [seeds[1], seeds[3], seeds[4]]);
        assert!(settings.finder.is_needed() && !valid().check().unwrap().finder.is_needed());
    }

    #[test]
    fn who_advertises_an_address_may_listen_on_all() {
        let settings = Config::new("a", "[::]:80").advertise("203.0.113.7:0").check().unwrap();
        assert_eq!(settings.advertise, Some("203.0.113.7:0".parse().unwrap()));
        assert_eq!(settings.address, Some("[::]:80".parse().unwrap()));
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_one() {
        let settings = Config::new("a", "[::ffff:127.0.0.1]:80").check().unwrap();
        assert_eq!(settings.address, Some("127.0.0.1:80".parse().unwrap()));
    }
}
