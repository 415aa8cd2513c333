//! [`Config`]: everything an engine is told, every default with its reason, checked before anything
//! starts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::discovery::{Custom, Discovery};
use crate::error::ConfigError;
use crate::options::{Eviction, IdleStrategy, Replicas};
use crate::placement::{DEFAULT_WEIGHT, Site};
use crate::runtime::Finder;
use crate::types::{ALL, MAX_CORES, MAX_NAME_BYTES, MAX_REPLICAS, quorum_of};

/// How an engine is started. Options return the configuration, so that they can be chained; mistakes are
/// reported by [`Engine::start`](crate::Engine::start).
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
    node_id: String,
    /// `None`: standalone.
    address: Option<String>,
    cluster: Option<String>,
    seeds: Vec<String>,
    discovery: Option<Custom>,
    advertise: Option<String>,
    replicas: Option<Replicas>,
    write_quorum: Option<usize>,
    unacknowledged: Option<usize>,
    read_quorum: Option<usize>,
    /// `None`: as many as CPUs are named, or one.
    cores: Option<usize>,
    pin_cpus: Option<Vec<usize>>,
    idle: IdleStrategy,
    max_memory: Option<usize>,
    eviction: Eviction,
    membarrier: bool,
    request_timeout: Duration,
    probe_period: Duration,
    suspicion_timeout: Duration,
    local_health: bool,
    forget_after: Duration,
    majority_of: Option<usize>,
    data_center: Option<String>,
    zone: Option<String>,
    weight: Option<u16>,
}

/// A configuration that was checked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) node_id: String,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) cluster: String,
    pub(crate) seeds: Vec<SocketAddr>,
    /// What else there is to find nodes through.
    pub(crate) finder: Finder,
    /// Where others reach this node, if that is not where it listens; port 0 is the port that it listens on.
    pub(crate) advertise: Option<SocketAddr>,
    pub(crate) replicas: usize,
    pub(crate) write_quorum: usize,
    pub(crate) read_quorum: usize,
    pub(crate) cores: u16,
    /// One for each core, where they are pinned.
    pub(crate) pin_cpus: Option<Vec<usize>>,
    pub(crate) idle: IdleStrategy,
    /// Each core's share of the memory limit, in bytes.
    pub(crate) memory: Option<usize>,
    pub(crate) eviction: Eviction,
    pub(crate) membarrier: bool,
    pub(crate) request_timeout: Duration,
    pub(crate) probe_period: Duration,
    pub(crate) suspicion_timeout: Duration,
    pub(crate) local_health: bool,
    pub(crate) forget_after: Duration,
    /// Of how many nodes a majority is required; zero where none is.
    pub(crate) majority_of: u16,
    pub(crate) site: Site,
}

impl Settings {
    /// How many members calls need.
    pub(crate) fn quorum_members(&self) -> usize {
        let majority = if self.majority_of > 0 { usize::from(self.majority_of) / 2 + 1 } else { 0 };
        quorum_of(self.write_quorum, 1).max(self.read_quorum).max(majority)
    }
}

/// Three copies survive one death and keep two while the third is restored.
const DEFAULT_REPLICAS: usize = 3;
/// Two acknowledgements: a write survives the death of any one node.
const DEFAULT_WRITE_QUORUM: usize = 2;
/// A local copy answers alone: reads at memory speed.
const DEFAULT_READ_QUORUM: usize = 1;
/// As with N = 3 and W = 2, one replica may miss a write.
const DEFAULT_UNACKNOWLEDGED: usize = 1;
const DEFAULT_CLUSTER: &str = "gridkv";
/// Longer than noticing a silent host takes, so that a call outlives one death.
pub(crate) const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Each member probes one other this often. With the suspicion timeout, a silent host is dead to the
/// others within about a second, at some 1 KB/s of gossip a node.
pub(crate) const DEFAULT_PROBE_PERIOD: Duration = Duration::from_millis(200);
/// Nearly two probe periods for the accused to refute, which is told seven times meanwhile.
pub(crate) const DEFAULT_SUSPICION_TIMEOUT: Duration = Duration::from_millis(350);
pub(crate) const DEFAULT_FORGET_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
const LEAST_FORGET_AFTER: Duration = Duration::from_secs(1);
const MOST_FORGET_AFTER: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// What a core needs to work with: room for the largest parts of its table at once.
const LEAST_CORE_MEMORY: usize = 1 << 20;
/// Longer is [`IdleStrategy::Busy`].
const MOST_SPIN: Duration = Duration::from_millis(10);
const MOST_REQUEST_TIMEOUT: Duration = Duration::from_secs(3600);
const LEAST_PROBE_PERIOD: Duration = Duration::from_millis(20);
const MOST_PROBE_PERIOD: Duration = Duration::from_secs(60);
/// Far more would leave the others with nothing.
const MOST_WEIGHT: u16 = 10_000;
/// Of which a majority can be required.
const MOST_NODES: usize = 1000;

impl Config {
    /// A node of a cluster, named `node_id`, that listens on `address` (an IP address and a port) over
    /// TCP and UDP. Other nodes reach it at the same address. Port 0 takes a free one, which
    /// [`Engine::address`](crate::Engine::address) tells.
    ///
    /// The id must be this node's own, at most 255 bytes, and should stay the same over restarts: the
    /// node then takes back the partitions that it held.
    pub fn new(node_id: impl Into<String>, address: impl Into<String>) -> Self {
        Self { address: Some(address.into()), ..Self::standalone(node_id) }
    }

    /// One instance on its own: one copy of each key, no network, ready at once.
    pub fn standalone(node_id: impl Into<String>) -> Self {
        Self {
            node_id: node_id.into(),
            address: None,
            cluster: None,
            seeds: Vec::new(),
            discovery: None,
            advertise: None,
            replicas: None,
            write_quorum: None,
            unacknowledged: None,
            read_quorum: None,
            cores: None,
            pin_cpus: None,
            idle: IdleStrategy::default(),
            max_memory: None,
            eviction: Eviction::default(),
            membarrier: true,
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
            probe_period: DEFAULT_PROBE_PERIOD,
            suspicion_timeout: DEFAULT_SUSPICION_TIMEOUT,
            local_health: true,
            forget_after: DEFAULT_FORGET_AFTER,
            majority_of: None,
            data_center: None,
            zone: None,
            weight: None,
        }
    }

    /// The cluster's name, at most 255 bytes; default `"gridkv"`. Nodes of different names refuse each
    /// other, so that a recycled address never merges two clusters.
    pub fn cluster(mut self, name: impl Into<String>) -> Self {
        self.cluster = Some(name.into());
        self
    }

    /// Where nodes are to find the cluster through, each an IP address or a host name, and a port; default none. One that
    /// runs is enough; naming this node itself is harmless, so every node can be given the same list. Seeds are asked
    /// again for ever, so the order of starting does not matter.
    ///
    /// A host name stands for all its addresses, and is looked up as [`Discovery::discover`] is asked: again and again, on
    /// a thread of its own.
    pub fn seeds<S: Into<String>>(mut self, seeds: impl IntoIterator<Item = S>) -> Self {
        self.seeds = seeds.into_iter().map(Into::into).collect();
        self
    }

    /// Something else that says where nodes are, beside the seeds; default nothing.
    pub fn discovery(mut self, discovery: impl Discovery) -> Self {
        self.discovery = Some(Custom(Arc::new(discovery)));
        self
    }

    /// The IP address and port at which other nodes reach this one; default the address that it listens on. For a
    /// container or a network that translates addresses: listen on `0.0.0.0:8001` or `[::]:8001` and advertise what others
    /// can connect to, over TCP and UDP. Port 0 is the port that this node listens on.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise = Some(address.into());
        self
    }

    /// The data center that this node stands in, at most 255 bytes; all nodes that name none are one data center.
    ///
    /// Each data center keeps all keys, on N of its own nodes, and counts W and R among them: calls never wait for another
    /// one. What one of them acknowledged the others get soon after, a round trip later where nothing fails; one that was
    /// cut off serves on and catches up. Of two data centers that write one key at the same time the later clock wins.
    /// N, W and R need be the same only within a data center.
    pub fn data_center(mut self, name: impl Into<String>) -> Self {
        self.data_center = Some(name.into());
        self
    }

    /// What fails together with this node: a rack, a building, an availability zone; at most 255 bytes, default none. The
    /// copies of a key are kept in different zones, as far as there are as many. All nodes that name none are one zone.
    /// Zones should be of about equal size: where one is small, each of its nodes holds more than others.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// How much of the data this node holds, beside the weights of the others: with 200 twice as much as one with 100, the
    /// default. From 1 to 10,000. With as many nodes as copies, each holds all whatever its weight.
    pub fn weight(mut self, weight: u16) -> Self {
        self.weight = Some(weight);
        self
    }

    /// N: on how many nodes each key is kept; default 3, at most 16, or [`Replicas::All`]. The same on every node of a data
    /// center.
    pub fn replicas(mut self, replicas: impl Into<Replicas>) -> Self {
        self.replicas = Some(replicas.into());
        self
    }

    /// W: how many replicas must have applied a write before it is acknowledged; default 2, or N where N
    /// is less. The same on every node of a data center. An acknowledged write survives the death of any W − 1 nodes.
    pub fn write_quorum(mut self, write_quorum: usize) -> Self {
        self.write_quorum = Some(write_quorum);
        self
    }

    /// With [`Replicas::All`]: all replicas of a key but so many must have applied a write before it is acknowledged;
    /// default 1, at most 16, and more than half of them in any case. The same on every node of a data center. With 0 a
    /// node that is silent holds writes up until it is taken for dead. A cluster begins with one node more than this.
    pub fn unacknowledged(mut self, replicas: usize) -> Self {
        self.unacknowledged = Some(replicas);
        self
    }

    /// R: how many replicas must answer a read; default 1. With 1 a local copy answers alone and may be
    /// briefly old. With 2 or more, where W + R > N and 2 W > N, each key is linearizable while the
    /// replicas do not change.
    pub fn read_quorum(mut self, read_quorum: usize) -> Self {
        self.read_quorum = Some(read_quorum);
        self
    }

    /// How many core threads share the keys of this node; default one for each of
    /// [`pin_cpus`](Self::pin_cpus), or 1 without; at most 256.
    pub fn cores(mut self, cores: usize) -> Self {
        self.cores = Some(cores);
        self
    }

    /// On which CPU, by the system's numbers, each core thread runs, the first core on the first; default on
    /// whichever the system chooses. Each must be one that this process may use. What a core allocates lies
    /// close to its CPU. (Linux only.)
    pub fn pin_cpus(mut self, cpus: impl IntoIterator<Item = usize>) -> Self {
        self.pin_cpus = Some(cpus.into_iter().collect());
        self
    }

    /// What a core thread does while it has no work; default [`IdleStrategy::Adaptive`], for at most 50 µs.
    pub fn idle(mut self, strategy: IdleStrategy) -> Self {
        self.idle = strategy;
        self
    }

    /// How many bytes the keys and values of this node may take, with what is kept beside them; default no
    /// limit. The cores share it evenly, and each needs 1 MiB at the least. Seven eighths are for data; the
    /// rest is for what was overwritten and may still be read, for large values under way, and for the gaps
    /// between allocations. What happens when it is full is up to [`eviction`](Self::eviction). It need not be
    /// the same on every node.
    pub fn max_memory(mut self, bytes: usize) -> Self {
        self.max_memory = Some(bytes);
        self
    }

    /// What happens when [`max_memory`](Self::max_memory) is full; default [`Eviction::Sieve`].
    pub fn eviction(mut self, eviction: Eviction) -> Self {
        self.eviction = eviction;
        self
    }

    /// Whether cores may use Linux's `membarrier`, so that reads need no fence of their own; default yes. It
    /// interrupts, for about a microsecond, the processors that run threads of this process, whenever a core
    /// frees what it has collected. Without it each read takes some nanoseconds longer.
    pub fn membarrier(mut self, allowed: bool) -> Self {
        self.membarrier = allowed;
        self
    }

    /// How long a call may take where it names no timeout of its own; default 2 s, at most an hour.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How often this node probes another member; default 200 ms, from 20 ms to a minute.
    pub fn probe_period(mut self, period: Duration) -> Self {
        self.probe_period = period;
        self
    }

    /// How long a member that does not answer probes may refute before it is declared dead; default
    /// 350 ms, from 20 ms to a minute. Longer tolerates longer pauses of the process.
    pub fn suspicion_timeout(mut self, timeout: Duration) -> Self {
        self.suspicion_timeout = timeout;
        self
    }

    /// Whether this node doubts itself where it does badly: one whose own probes fail, that is suspected by others, or that
    /// gets too little of its processor, gives others up to eight times as long before it has them declared dead; default
    /// yes. (Lifeguard, DSN '18.) It costs nothing while all is well.
    pub fn local_health(mut self, enabled: bool) -> Self {
        self.local_health = enabled;
        self
    }

    /// How long a member that died may come back with what it holds; default 24 h, from a second to a year.
    ///
    /// Until then what is deleted anywhere in the cluster leaves a tombstone, so that it cannot bring the deleted back.
    /// Nodes that join meanwhile are told of it. A member that left, or that restarted under its node id, is not waited
    /// for. One that was cut off for longer, and ran on all the time, may bring back what was deleted meanwhile.
    pub fn forget_after(mut self, time: Duration) -> Self {
        self.forget_after = time;
        self
    }

    /// Acknowledges writes only while this node hears from a majority of `nodes`, the most nodes that the cluster, or
    /// this data center where there are several, ever has; default no. From N to 1000 nodes, and 2 W > N.
    ///
    /// Where the network falls apart, no more than one side acknowledges: 2 seconds after a node heard from a majority
    /// last it refuses writes ([`NotApplied::NoMajority`](crate::NotApplied::NoMajority)) and, where R ≥ 2, reads; and the
    /// majority gives the copies of nodes that died to others only after that, two and a half seconds after they were
    /// taken for dead. Reads with R = 1 are answered on every side. The cluster is born when a majority is there.
    ///
    /// It is as true as `nodes`: with more of them running, two halves could both be majorities. What any running
    /// member names counts for all, the largest. So to have more nodes, restart the old ones with the new number first,
    /// one at a time; to have fewer, or to do without, restart all, one at a time: the last one's restart lowers it. A dead
    /// member's number counts until it is forgotten, restarts, or has left. Clocks must run equally fast, within a tenth; they need not agree. A host that is suspended and
    /// resumed may not have noticed how much time has passed.
    pub fn require_majority(mut self, nodes: usize) -> Self {
        self.majority_of = Some(nodes);
        self
    }

    pub(crate) fn check(&self) -> Result<Settings, ConfigError> {
        check_name(&self.node_id, ConfigError::EmptyNodeId, |length| ConfigError::NodeIdTooLong { length })?;
        let cluster = self.cluster.as_deref().unwrap_or(DEFAULT_CLUSTER);
        check_name(cluster, ConfigError::EmptyClusterName, |length| ConfigError::ClusterNameTooLong {
            length,
        })?;
        let cores = self.check_cores()?;
        let least = cores * LEAST_CORE_MEMORY;
        if let Some(max_memory) = self.max_memory
            && max_memory < least
        {
            return Err(ConfigError::BadMemory { max_memory, least });
        }
        let (replicas, write_quorum, read_quorum) = self.check_quorums()?;
        if let IdleStrategy::Adaptive { max_spin } = self.idle {
            check_duration("idle's max_spin", max_spin, Duration::ZERO, MOST_SPIN)?;
        }
        let millisecond = Duration::from_millis(1);
        check_duration("request_timeout", self.request_timeout, millisecond, MOST_REQUEST_TIMEOUT)?;
        check_duration("probe_period", self.probe_period, LEAST_PROBE_PERIOD, MOST_PROBE_PERIOD)?;
        check_duration("suspicion_timeout", self.suspicion_timeout, LEAST_PROBE_PERIOD, MOST_PROBE_PERIOD)?;
        check_duration("forget_after", self.forget_after, LEAST_FORGET_AFTER, MOST_FORGET_AFTER)?;
        let advertise = self.advertise.as_deref().map(check_address).transpose()?;
        let (mut seeds, mut names) = (Vec::new(), Vec::new());
        for seed in &self.seeds {
            match check_seed(seed)? {
                Seed::Address(address) => seeds.push(address),
                Seed::Name => names.push(seed.clone()),
            }
        }
        let check_listen = |address| match advertise {
            Some(_) => parse_address(address),
            None => check_address(address),
        };
        Ok(Settings {
            node_id: self.node_id.clone(),
            address: self.address.as_deref().map(check_listen).transpose()?,
            cluster: cluster.to_owned(),
            seeds,
            finder: Finder { names, custom: self.discovery.clone() },
            advertise,
            replicas,
            write_quorum,
            read_quorum,
            cores: cores as u16,
            pin_cpus: self.pin_cpus.clone(),
            idle: self.idle,
            memory: self.max_memory.map(|max_memory| max_memory / cores),
            eviction: self.eviction,
            membarrier: self.membarrier,
            request_timeout: self.request_timeout,
            probe_period: self.probe_period,
            suspicion_timeout: self.suspicion_timeout,
            local_health: self.local_health,
            forget_after: self.forget_after,
            majority_of: self.check_majority(replicas, write_quorum)?,
            site: self.check_site()?,
        })
    }

    fn check_site(&self) -> Result<Site, ConfigError> {
        let data_center = self.data_center.as_deref().unwrap_or_default();
        if data_center.len() > MAX_NAME_BYTES {
            return Err(ConfigError::DataCenterTooLong { length: data_center.len() });
        }
        let zone = self.zone.as_deref().unwrap_or_default();
        if zone.len() > MAX_NAME_BYTES {
            return Err(ConfigError::ZoneTooLong { length: zone.len() });
        }
        let weight = self.weight.unwrap_or(DEFAULT_WEIGHT);
        if !(1..=MOST_WEIGHT).contains(&weight) {
            return Err(ConfigError::BadWeight { weight });
        }
        Ok(Site { data_center: data_center.into(), zone: zone.into(), weight })
    }

    fn check_cores(&self) -> Result<usize, ConfigError> {
        let cpus = self.pin_cpus.as_deref();
        let cores = self.cores.or(cpus.map(<[usize]>::len)).unwrap_or(1);
        if cores == 0 || cores > MAX_CORES {
            return Err(ConfigError::BadCores { cores });
        }
        let Some(cpus) = cpus else { return Ok(cores) };
        if cpus.len() != cores {
            return Err(ConfigError::PinnedCpus { cpus: cpus.len(), cores });
        }
        match cpus.iter().enumerate().find(|(at, cpu)| cpus[..*at].contains(cpu)) {
            Some((_, &cpu)) => Err(ConfigError::CpuTwice { cpu }),
            None => Ok(cores),
        }
    }

    fn check_majority(&self, replicas: usize, write_quorum: usize) -> Result<u16, ConfigError> {
        let Some(nodes) = self.majority_of else { return Ok(0) };
        // Where there is a copy on every node, all but f are more than half of them.
        let replicas = if replicas == ALL { 2 * (ALL - write_quorum) + 1 } else { replicas };
        if nodes < replicas || nodes > MOST_NODES {
            return Err(ConfigError::BadMajority { nodes, replicas });
        }
        if 2 * write_quorum <= replicas {
            return Err(ConfigError::MajorityNeedsOverlap { write_quorum, replicas });
        }
        Ok(nodes as u16)
    }

    /// N, W and R.
    fn check_quorums(&self) -> Result<(usize, usize, usize), ConfigError> {
        if self.address.is_none() {
            for (option, is_set) in [
                ("cluster", self.cluster.is_some()),
                ("seeds", !self.seeds.is_empty()),
                ("replicas", self.replicas.is_some()),
                ("write_quorum", self.write_quorum.is_some()),
                ("unacknowledged", self.unacknowledged.is_some()),
                ("read_quorum", self.read_quorum.is_some()),
                ("discovery", self.discovery.is_some()),
                ("advertise", self.advertise.is_some()),
                ("data_center", self.data_center.is_some()),
                ("zone", self.zone.is_some()),
                ("weight", self.weight.is_some()),
                ("require_majority", self.majority_of.is_some()),
            ] {
                if is_set {
                    return Err(ConfigError::Standalone { option });
                }
            }
            return Ok((1, 1, 1));
        }
        let read_quorum = self.read_quorum.unwrap_or(DEFAULT_READ_QUORUM);
        let replicas = match self.replicas.unwrap_or(Replicas::Count(DEFAULT_REPLICAS)) {
            Replicas::Count(replicas) => replicas,
            Replicas::All => return self.check_quorums_of_all(read_quorum),
        };
        if replicas == 0 || replicas > MAX_REPLICAS {
            return Err(ConfigError::BadReplicas { replicas });
        }
        if self.unacknowledged.is_some() {
            return Err(ConfigError::UnacknowledgedWithoutAll { replicas });
        }
        let write_quorum = self.write_quorum.unwrap_or(DEFAULT_WRITE_QUORUM.min(replicas));
        if write_quorum == 0 || write_quorum > replicas {
            return Err(ConfigError::BadWriteQuorum { write_quorum, replicas });
        }
        if read_quorum == 0 || read_quorum > replicas {
            return Err(ConfigError::BadReadQuorum { read_quorum, replicas });
        }
        let overlap = write_quorum + read_quorum > replicas && 2 * write_quorum > replicas;
        if read_quorum >= 2 && !overlap {
            return Err(ConfigError::QuorumsDoNotOverlap { read_quorum, write_quorum, replicas });
        }
        Ok((replicas, write_quorum, read_quorum))
    }

    fn check_quorums_of_all(&self, read_quorum: usize) -> Result<(usize, usize, usize), ConfigError> {
        if self.write_quorum.is_some() {
            return Err(ConfigError::WriteQuorumOfAll);
        }
        let unacknowledged = self.unacknowledged.unwrap_or(DEFAULT_UNACKNOWLEDGED);
        if unacknowledged > MAX_REPLICAS {
            return Err(ConfigError::BadUnacknowledged { unacknowledged });
        }
        if read_quorum == 0 || read_quorum > MAX_REPLICAS {
            return Err(ConfigError::BadReadQuorum { read_quorum, replicas: MAX_REPLICAS });
        }
        if (2..=unacknowledged).contains(&read_quorum) {
            return Err(ConfigError::TooManyUnacknowledged { unacknowledged, read_quorum });
        }
        Ok((ALL, ALL - unacknowledged, read_quorum))
    }
}

fn check_name(
    name: &str,
    empty: ConfigError,
    too_long: impl Fn(usize) -> ConfigError,
) -> Result<(), ConfigError> {
    match name.len() {
        0 => Err(empty),
        length if length > MAX_NAME_BYTES => Err(too_long(length)),
        _ => Ok(()),
    }
}

fn parse_address(address: &str) -> Result<SocketAddr, ConfigError> {
    parse(address).ok_or_else(|| ConfigError::BadAddress { address: address.to_owned() })
}

fn check_address(address: &str) -> Result<SocketAddr, ConfigError> {
    let parsed = parse_address(address)?;
    if parsed.ip().is_unspecified() {
        return Err(ConfigError::UnspecifiedAddress { address: parsed });
    }
    Ok(parsed)
}

enum Seed {
    Address(SocketAddr),
    /// A host name and a port, to be looked up.
    Name,
}

fn check_seed(seed: &str) -> Result<Seed, ConfigError> {
    let bad = || ConfigError::BadSeed { seed: seed.to_owned() };
    if let Some(address) = parse(seed) {
        let is_reachable = address.port() != 0 && !address.ip().is_unspecified();
        return is_reachable.then_some(Seed::Address(address)).ok_or_else(bad);
    }
    let (host, port) = seed.rsplit_once(':').ok_or_else(bad)?;
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_');
    let is_name = host.chars().all(is_of_name) && (1..=253).contains(&host.len());
    // "10.0.0.256" or "1.2.3" are mistakes, not names: no top-level domain is a number.
    let is_named = host
        .trim_end_matches('.')
        .rsplit('.')
        .next()
        .is_some_and(|last| last.chars().any(|letter| letter.is_ascii_alphabetic()));
    let has_port = port.parse::<u16>().is_ok_and(|port| port != 0);
    (is_name && is_named && has_port).then_some(Seed::Name).ok_or_else(bad)
}

/// An IPv4 address that was written as an IPv6 one becomes IPv4: one node, one spelling.
fn parse(address: &str) -> Option<SocketAddr> {
    let parsed: SocketAddr = address.parse().ok()?;
    Some(SocketAddr::new(parsed.ip().to_canonical(), parsed.port()))
}

fn check_duration(
    option: &'static str,
    value: Duration,
    least: Duration,
    most: Duration,
) -> Result<(), ConfigError> {
    if value < least || value > most {
        return Err(ConfigError::BadDuration { option, value, least, most });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> Config {
        Config::new("a", "127.0.0.1:0")
    }

    fn error(config: Config) -> ConfigError {
        config.check().unwrap_err()
    }

    #[test]
    fn defaults_are_three_two_one() {
        let settings = valid().check().unwrap();
        assert_eq!((settings.replicas, settings.write_quorum, settings.read_quorum), (3, 2, 1));
        let settings = valid().replicas(1).check().unwrap();
        assert_eq!((settings.replicas, settings.write_quorum, settings.read_quorum), (1, 1, 1));
        let settings = Config::standalone("a").cores(2).check().unwrap();
        assert_eq!((settings.replicas, settings.address), (1, None));
        assert_eq!((settings.memory, settings.eviction), (None, Eviction::Sieve));
    }

    #[test]
    fn there_is_a_core_for_each_cpu_that_is_named() {
        assert_eq!(valid().check().unwrap().cores, 1);
        let settings = valid().pin_cpus([5, 3]).check().unwrap();
        assert_eq!((settings.cores, settings.pin_cpus), (2, Some(vec![5, 3])));
        assert_eq!(error(valid().pin_cpus([1, 2]).cores(3)), ConfigError::PinnedCpus { cpus: 2, cores: 3 });
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
    fn each_mistake_has_its_own_error() {
        assert_eq!(error(Config::new("", "127.0.0.1:0")), ConfigError::EmptyNodeId);
        assert_eq!(
            error(Config::new("x".repeat(256), "127.0.0.1:0")),
            ConfigError::NodeIdTooLong { length: 256 }
        );
        assert_eq!(error(valid().cluster("")), ConfigError::EmptyClusterName);
        assert_eq!(error(valid().cluster("x".repeat(300))), ConfigError::ClusterNameTooLong { length: 300 });
        for address in ["localhost:80", "127.0.0.1", "", "127.0.0.1:99999"] {
            assert_eq!(error(Config::new("a", address)), ConfigError::BadAddress { address: address.into() });
        }
        for address in ["0.0.0.0:80", "[::]:80"] {
            let parsed = address.parse().unwrap();
            assert_eq!(error(Config::new("a", address)), ConfigError::UnspecifiedAddress { address: parsed });
        }
        for seed in
            ["nowhere", "10.0.0.1:0", "0.0.0.0:8000", "10.0.0.256:1", "a b:1", ":1", "host:0", "host:"]
        {
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
                ConfigError::BadWriteQuorum { write_quorum, replicas: 3 }
            );
        }
        for read_quorum in [0, 4] {
            assert_eq!(
                error(valid().read_quorum(read_quorum)),
                ConfigError::BadReadQuorum { read_quorum, replicas: 3 }
            );
        }
        assert_eq!(
            error(valid().write_quorum(1).read_quorum(3)),
            ConfigError::QuorumsDoNotOverlap { read_quorum: 3, write_quorum: 1, replicas: 3 }
        );
        for nodes in [0, 2, 1001] {
            assert_eq!(
                error(valid().require_majority(nodes)),
                ConfigError::BadMajority { nodes, replicas: 3 }
            );
        }
        assert_eq!(
            error(valid().require_majority(5).write_quorum(1)),
            ConfigError::MajorityNeedsOverlap { write_quorum: 1, replicas: 3 }
        );
        assert_eq!(valid().require_majority(5).check().unwrap().majority_of, 5);
        for cores in [0, 257] {
            assert_eq!(error(valid().cores(cores)), ConfigError::BadCores { cores });
        }
        assert!(matches!(
            error(valid().request_timeout(Duration::ZERO)),
            ConfigError::BadDuration { option: "request_timeout", .. }
        ));
        assert!(matches!(
            error(valid().forget_after(Duration::ZERO)),
            ConfigError::BadDuration { option: "forget_after", .. }
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
            (Config::standalone("a").require_majority(3), "require_majority"),
            (Config::standalone("a").discovery(|| Ok(Vec::new())), "discovery"),
            (Config::standalone("a").advertise("10.0.0.1:1"), "advertise"),
            (Config::standalone("a").data_center("d"), "data_center"),
            (Config::standalone("a").zone("z"), "zone"),
            (Config::standalone("a").weight(1), "weight"),
        ] {
            assert_eq!(error(config), ConfigError::Standalone { option });
        }
    }

    #[test]
    fn seeds_are_addresses_or_names() {
        let seeds = ["10.0.0.1:1", "db-1.example.com:2", "[::1]:3", "localhost:4", "a_b.svc.:5"];
        let settings = valid().seeds(seeds).check().unwrap();
        assert_eq!(settings.seeds, [0, 2].map(|at: usize| seeds[at].parse::<SocketAddr>().unwrap()));
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
