//! [`Settings`]: a configuration that was checked; and the checks, with every default and bound.
//!
//! [`Given`] holds what an app gave, [`Given::check`] turns it into settings or names the first
//! mistake. What the settings hold was checked here and is not checked again.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::discovery::{AddressSource, Custom};
use crate::error::ConfigError;
use crate::options::{Eviction, IdleStrategy, OnPartition, Replicas};
use crate::placement::{DEFAULT_WEIGHT, Site};
use crate::quorums::{Count, Quorums};
#[cfg(feature = "security")]
use crate::security::Security;
use crate::types::{MAX_CORES, MAX_NAME_BYTES, MAX_REPLICAS, Retention, is_one_host};

/// Three copies survive one death and keep two while the third is restored.
const DEFAULT_REPLICAS: usize = 3;
/// Two acknowledgements: a write survives the death of any one node.
const DEFAULT_WRITE_QUORUM: usize = 2;
/// A local copy answers alone: reads at memory speed.
const DEFAULT_READ_QUORUM: usize = 1;
/// One replica may miss a write, as with N = 3 and W = 2.
const DEFAULT_UNACKNOWLEDGED: usize = 1;
/// Longer than a replica takes on a busy LAN, which is a millisecond or two, and short enough not
/// to show when a replica falls silent: each core waits for it once.
pub(crate) const DEFAULT_EVERY_LIVE_PATIENCE: Duration = Duration::from_millis(10);
const DEFAULT_CLUSTER: &str = "gridkv";
/// Longer than it takes to notice a silent host, so that a call outlives one death.
pub(crate) const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// With the suspicion timeout, a silent host is dead to the others within about a second, at some
/// 1 KB/s of gossip a node.
pub(crate) const DEFAULT_PROBE_PERIOD: Duration = Duration::from_millis(200);
/// Nearly two probe periods for the accused to refute; the accusation is told seven times until
/// then.
pub(crate) const DEFAULT_SUSPICION_TIMEOUT: Duration = Duration::from_millis(350);
/// A hundred keys that expire in a second leave some 40 MB in an hour, and a gigabyte in a day. A
/// data center that loses its line in the evening can come back the next day.
pub(crate) const DEFAULT_RETENTION: Retention = Retention {
    member: Duration::from_secs(60 * 60),
    data_center: Duration::from_secs(24 * 60 * 60),
};

const MIN_RETENTION: Duration = Duration::from_secs(1);
const MAX_RETENTION: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// What a core needs to work with: room for the largest parts of its table at once.
const MIN_CORE_MEMORY: usize = 1 << 20;
/// Three nodes with two cores each, and some room for one that starts again.
const MIN_CONNECTIONS: usize = 16;
/// Longer is [`IdleStrategy::Busy`].
const MAX_SPIN: Duration = Duration::from_millis(10);
/// Longer than that is a quorum of all replicas.
const MAX_EVERY_LIVE_PATIENCE: Duration = Duration::from_secs(1);
const MIN_REQUEST_TIMEOUT: Duration = Duration::from_millis(1);
const MAX_REQUEST_TIMEOUT: Duration = Duration::from_secs(3600);
const MIN_PROBE_PERIOD: Duration = Duration::from_millis(20);
const MAX_PROBE_PERIOD: Duration = Duration::from_secs(60);
/// Far more would leave the others with nothing.
const MAX_WEIGHT: u16 = 10_000;
/// The most nodes that a cluster can be expected to have at its birth.
const MAX_NODES: usize = 1000;

/// What an app gave, unchecked. `None` is an option that was not set.
#[derive(Clone, Debug)]
pub(super) struct Given {
    node_id: String,
    /// `None`: standalone.
    address: Option<String>,
    pub(super) cluster: Option<String>,
    pub(super) seeds: Vec<String>,
    pub(super) discovery: Option<Custom>,
    pub(super) advertise: Option<String>,
    pub(super) replicas: Option<Replicas>,
    pub(super) write_quorum: Option<usize>,
    pub(super) unacknowledged: Option<usize>,
    pub(super) read_quorum: Option<usize>,
    pub(super) wait_for_every_live: Option<bool>,
    pub(super) every_live_patience: Option<Duration>,
    pub(super) cores: Option<usize>,
    pub(super) pin_cpus: Option<Vec<usize>>,
    pub(super) idle: IdleStrategy,
    pub(super) max_memory: Option<usize>,
    pub(super) max_connections: Option<usize>,
    pub(super) eviction: Eviction,
    pub(super) membarrier: bool,
    pub(super) request_timeout: Duration,
    pub(super) probe_period: Duration,
    pub(super) suspicion_timeout: Duration,
    pub(super) local_health: bool,
    pub(super) retention: Retention,
    pub(super) on_partition: Option<OnPartition>,
    pub(super) expect: Option<usize>,
    pub(super) data_center: Option<String>,
    pub(super) zone: Option<String>,
    pub(super) weight: Option<u16>,
    #[cfg(feature = "security")]
    pub(super) security: Option<Security>,
}

/// A configuration that was checked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) node_id: String,
    /// The address at which this node listens; `None` for a standalone engine.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) cluster: String,
    pub(crate) seeds: Vec<SocketAddr>,
    /// Seeds that are host names, and the app's own discovery.
    pub(crate) finder: AddressSource,
    /// The address at which others reach this node, if it is not the one at which it listens.
    /// Port 0 is the port that it listens on.
    pub(crate) advertise: Option<SocketAddr>,
    pub(crate) quorums: Quorums,
    /// Whether a write that names no quorum waits for every replica that is alive.
    pub(crate) wait_for_every_live: bool,
    pub(crate) every_live_patience: Duration,
    pub(crate) cores: u16,
    /// One CPU for each core, if cores are pinned.
    pub(crate) pin_cpus: Option<Vec<usize>>,
    pub(crate) idle: IdleStrategy,
    /// Each core's share of the memory limit, in bytes.
    pub(crate) memory: Option<usize>,
    /// How many accepted connections there are at most; `None` for what the system allows.
    pub(crate) max_connections: Option<usize>,
    pub(crate) eviction: Eviction,
    pub(crate) membarrier: bool,
    pub(crate) request_timeout: Duration,
    pub(crate) probe_period: Duration,
    pub(crate) suspicion_timeout: Duration,
    pub(crate) local_health: bool,
    pub(crate) retention: Retention,
    pub(crate) on_partition: OnPartition,
    /// The number of nodes of which a majority must be there at the birth; zero if W are enough.
    pub(crate) expect: u16,
    pub(crate) site: Site,
    /// Its keys can be used together in this cluster.
    #[cfg(feature = "security")]
    pub(crate) security: Option<Security>,
}

impl Given {
    pub(super) fn new(node_id: String, address: Option<String>) -> Self {
        Self {
            node_id,
            address,
            cluster: None,
            seeds: Vec::new(),
            discovery: None,
            advertise: None,
            replicas: None,
            write_quorum: None,
            unacknowledged: None,
            read_quorum: None,
            wait_for_every_live: None,
            every_live_patience: None,
            cores: None,
            pin_cpus: None,
            idle: IdleStrategy::default(),
            max_memory: None,
            max_connections: None,
            eviction: Eviction::default(),
            membarrier: true,
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
            probe_period: DEFAULT_PROBE_PERIOD,
            suspicion_timeout: DEFAULT_SUSPICION_TIMEOUT,
            local_health: true,
            retention: DEFAULT_RETENTION,
            on_partition: None,
            expect: None,
            data_center: None,
            zone: None,
            weight: None,
            #[cfg(feature = "security")]
            security: None,
        }
    }

    /// Returns the settings, or the first mistake. Names are checked first, then limits, quorums,
    /// times and addresses.
    pub(super) fn check(&self) -> Result<Settings, ConfigError> {
        check_name(&self.node_id, ConfigError::EmptyNodeId, |length| ConfigError::NodeIdTooLong {
            length,
        })?;
        let cluster = self.cluster.as_deref().unwrap_or(DEFAULT_CLUSTER);
        check_name(cluster, ConfigError::EmptyClusterName, |length| {
            ConfigError::ClusterNameTooLong { length }
        })?;
        let cores = self.check_cores()?;
        let memory = self.check_memory(cores)?;
        self.check_connections()?;
        let quorums = self.check_quorums()?;
        self.check_durations()?;
        let advertise = self.advertise.as_deref().map(check_address).transpose()?;
        let (seeds, names) = self.check_seeds()?;
        let check_listen = |address| match advertise {
            Some(_) => parse_address(address),
            None => check_address(address),
        };
        Ok(Settings {
            node_id: self.node_id.clone(),
            address: self.address.as_deref().map(check_listen).transpose()?,
            cluster: cluster.to_owned(),
            seeds,
            finder: AddressSource { names, custom: self.discovery.clone() },
            advertise,
            quorums,
            // A write of W ≥ 2 waits for other nodes in any case, and the last of them answers
            // little later than the first: the benchmarks' report has by how much.
            wait_for_every_live: self.wait_for_every_live.unwrap_or(!quorums.one_acknowledges()),
            every_live_patience: self.patience(),
            cores: cores as u16,
            pin_cpus: self.pin_cpus.clone(),
            idle: self.idle,
            memory,
            max_connections: self.max_connections,
            eviction: self.eviction,
            membarrier: self.membarrier,
            request_timeout: self.request_timeout,
            probe_period: self.probe_period,
            suspicion_timeout: self.suspicion_timeout,
            local_health: self.local_health,
            retention: self.retention,
            on_partition: self.check_on_partition(quorums)?,
            expect: self.check_expect()?,
            site: self.check_site()?,
            #[cfg(feature = "security")]
            security: self.check_security(cluster)?,
        })
    }

    #[cfg(feature = "security")]
    fn check_security(&self, cluster: &str) -> Result<Option<Security>, ConfigError> {
        let Some(security) = &self.security else { return Ok(None) };
        if self.address.is_none() {
            return Err(ConfigError::StandaloneSecurity);
        }
        security.keyring(cluster)?;
        security.check_certificates(&self.node_id)?;
        Ok(Some(security.clone()))
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

    /// Returns each core's share of the memory limit.
    fn check_memory(&self, cores: usize) -> Result<Option<usize>, ConfigError> {
        let Some(max_memory) = self.max_memory else { return Ok(None) };
        let least = cores * MIN_CORE_MEMORY;
        if max_memory < least {
            return Err(ConfigError::BadMemory { max_memory, least });
        }
        Ok(Some(max_memory / cores))
    }

    fn check_connections(&self) -> Result<(), ConfigError> {
        match self.max_connections {
            Some(connections) if connections < MIN_CONNECTIONS => {
                Err(ConfigError::BadMaxConnections { connections, least: MIN_CONNECTIONS })
            }
            _ => Ok(()),
        }
    }

    fn check_durations(&self) -> Result<(), ConfigError> {
        if let IdleStrategy::Adaptive { max_spin } = self.idle {
            check_duration("idle's max_spin", max_spin, Duration::ZERO, MAX_SPIN)?;
        }
        for (option, value, least, most) in [
            ("request_timeout", self.request_timeout, MIN_REQUEST_TIMEOUT, MAX_REQUEST_TIMEOUT),
            ("probe_period", self.probe_period, MIN_PROBE_PERIOD, MAX_PROBE_PERIOD),
            ("suspicion_timeout", self.suspicion_timeout, MIN_PROBE_PERIOD, MAX_PROBE_PERIOD),
            ("tombstone_retention", self.retention.member, MIN_RETENTION, MAX_RETENTION),
            ("data_center_retention", self.retention.data_center, MIN_RETENTION, MAX_RETENTION),
            ("every_live_patience", self.patience(), Duration::ZERO, MAX_EVERY_LIVE_PATIENCE),
        ] {
            check_duration(option, value, least, most)?;
        }
        Ok(())
    }

    /// Returns for how long a write waits for replicas beyond W.
    fn patience(&self) -> Duration {
        self.every_live_patience.unwrap_or(DEFAULT_EVERY_LIVE_PATIENCE)
    }

    /// Returns the seeds that are addresses, and those that are host names.
    fn check_seeds(&self) -> Result<(Vec<SocketAddr>, Vec<String>), ConfigError> {
        let (mut seeds, mut names) = (Vec::new(), Vec::new());
        for seed in &self.seeds {
            match check_seed(seed)? {
                Seed::Address(address) => seeds.push(address),
                Seed::Name => names.push(seed.clone()),
            }
        }
        Ok((seeds, names))
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
        if !(1..=MAX_WEIGHT).contains(&weight) {
            return Err(ConfigError::BadWeight { weight });
        }
        Ok(Site { data_center: data_center.into(), zone: zone.into(), weight })
    }

    /// With 2 W ≤ N two sides of a network partition might each have W replicas of one list.
    fn check_on_partition(&self, quorums: Quorums) -> Result<OnPartition, ConfigError> {
        let on_partition = self.on_partition.unwrap_or_default();
        if on_partition == OnPartition::Majority && !quorums.writes_overlap() {
            let Quorums { replicas, write, .. } = quorums;
            return Err(ConfigError::MajorityNeedsOverlap { write_quorum: write, replicas });
        }
        Ok(on_partition)
    }

    fn check_expect(&self) -> Result<u16, ConfigError> {
        match self.expect {
            None => Ok(0),
            Some(nodes) if (1..=MAX_NODES).contains(&nodes) => Ok(nodes as u16),
            Some(nodes) => Err(ConfigError::BadExpect { nodes }),
        }
    }

    fn check_quorums(&self) -> Result<Quorums, ConfigError> {
        if self.address.is_none() {
            self.check_standalone()?;
            return Ok(Quorums::ONE);
        }
        match self.replicas.unwrap_or(Replicas::Count(DEFAULT_REPLICAS)) {
            Replicas::Count(replicas) => self.check_quorums_of(replicas),
            Replicas::All => self.check_quorums_of_all(),
        }
    }

    /// Refuses the options that only a node of a cluster has.
    fn check_standalone(&self) -> Result<(), ConfigError> {
        let options = [
            ("cluster", self.cluster.is_some()),
            ("seeds", !self.seeds.is_empty()),
            ("replicas", self.replicas.is_some()),
            ("write_quorum", self.write_quorum.is_some()),
            ("unacknowledged", self.unacknowledged.is_some()),
            ("read_quorum", self.read_quorum.is_some()),
            ("wait_for_every_live", self.wait_for_every_live.is_some()),
            ("every_live_patience", self.every_live_patience.is_some()),
            ("discovery", self.discovery.is_some()),
            ("advertise", self.advertise.is_some()),
            ("data_center", self.data_center.is_some()),
            ("zone", self.zone.is_some()),
            ("weight", self.weight.is_some()),
            ("max_connections", self.max_connections.is_some()),
            ("on_partition", self.on_partition.is_some()),
            ("expect", self.expect.is_some()),
        ];
        match options.into_iter().find(|(_, is_set)| *is_set) {
            Some((option, _)) => Err(ConfigError::Standalone { option }),
            None => Ok(()),
        }
    }

    /// N, W and R with a fixed number of copies.
    fn check_quorums_of(&self, replicas: usize) -> Result<Quorums, ConfigError> {
        let count = |asked: usize, most: usize| {
            (1..=most).contains(&asked).then_some(Count::Exactly(asked as u8))
        };
        let bad = ConfigError::BadReplicas { replicas };
        let n = count(replicas, MAX_REPLICAS).ok_or(bad)?;
        if self.unacknowledged.is_some() {
            return Err(ConfigError::UnacknowledgedWithoutAll { replicas: n });
        }
        let write_quorum = self.write_quorum.unwrap_or(DEFAULT_WRITE_QUORUM.min(replicas));
        let bad = ConfigError::BadWriteQuorum { write_quorum, replicas: n };
        let write = count(write_quorum, replicas).ok_or(bad)?;
        let read_quorum = self.read_quorum.unwrap_or(DEFAULT_READ_QUORUM);
        let bad = ConfigError::BadReadQuorum { read_quorum, replicas: n };
        let read = count(read_quorum, replicas).ok_or(bad)?;
        let quorums = Quorums { replicas: n, write, read };
        if read_quorum >= 2 && !(quorums.reads_see_writes() && quorums.writes_overlap()) {
            let (read_quorum, write_quorum, replicas) = (read, write, n);
            return Err(ConfigError::QuorumsDoNotOverlap { read_quorum, write_quorum, replicas });
        }
        Ok(quorums)
    }

    /// N, W and R with a copy on every node.
    fn check_quorums_of_all(&self) -> Result<Quorums, ConfigError> {
        if self.write_quorum.is_some() {
            return Err(ConfigError::WriteQuorumOfAll);
        }
        let unacknowledged = self.unacknowledged.unwrap_or(DEFAULT_UNACKNOWLEDGED);
        if unacknowledged > MAX_REPLICAS {
            return Err(ConfigError::BadUnacknowledged { unacknowledged });
        }
        let read_quorum = self.read_quorum.unwrap_or(DEFAULT_READ_QUORUM);
        if read_quorum == 0 || read_quorum > MAX_REPLICAS {
            return Err(ConfigError::BadReadQuorum { read_quorum, replicas: Count::ALL });
        }
        let (write, read) =
            (Count::AllBut(unacknowledged as u8), Count::Exactly(read_quorum as u8));
        let quorums = Quorums { replicas: Count::ALL, write, read };
        if read_quorum >= 2 && !quorums.reads_see_writes() {
            return Err(ConfigError::TooManyUnacknowledged { unacknowledged, read_quorum });
        }
        Ok(quorums)
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
    check_zone(address)?;
    parse(address).ok_or_else(|| ConfigError::BadAddress { address: address.to_owned() })
}

/// Refuses an address of a zone, such as `fe80::1%eth0`: a zone has its name and its number on one
/// host alone, so no node could tell another one where that address is.
fn check_zone(address: &str) -> Result<(), ConfigError> {
    let refuse = || Err(ConfigError::LinkLocalAddress { address: address.to_owned() });
    match address.parse() {
        Ok(SocketAddr::V6(v6)) if v6.scope_id() != 0 || v6.ip().is_unicast_link_local() => refuse(),
        Ok(_) => Ok(()),
        // The standard library knows zones that are numbers.
        Err(_) => {
            let (ip, zone) = address.split_once('%').unwrap_or_default();
            let ip: Option<Ipv6Addr> = ip.trim_start_matches('[').parse().ok();
            if ip.is_some() && !zone.is_empty() { refuse() } else { Ok(()) }
        }
    }
}

fn check_address(address: &str) -> Result<SocketAddr, ConfigError> {
    let parsed = parse_address(address)?;
    if parsed.ip().is_unspecified() {
        return Err(ConfigError::UnspecifiedAddress { address: parsed });
    }
    if !is_one_host(parsed.ip()) {
        return Err(ConfigError::ManyHosts { address: parsed });
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
    check_zone(seed)?;
    if let Some(address) = parse(seed) {
        let is_reachable = address.port() != 0 && is_one_host(address.ip());
        return is_reachable.then_some(Seed::Address(address)).ok_or_else(bad);
    }
    let (host, port) = seed.rsplit_once(':').ok_or_else(bad)?;
    let is_of_name =
        |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_');
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
