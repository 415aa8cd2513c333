//! [`ConfigError`]: the mistakes of a configuration, each with its own text.

use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;

use crate::quorums::Count;
#[cfg(feature = "security")]
use crate::security::{CertificatesError, KeyringError};
use crate::types::{MAX_CORES, MAX_NAME_BYTES, MAX_REPLICAS};

/// A mistake in a [`Config`](crate::Config), found before anything was started.
///
/// Fields named like an option hold what was given; the text says what is allowed.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The node id is empty.
    #[error("the node id is empty: give every node a name of its own, such as its host name")]
    EmptyNodeId,
    /// The node id is longer than [`MAX_NAME_BYTES`].
    #[error("the node id has {length} bytes, the most is {MAX_NAME_BYTES}")]
    NodeIdTooLong {
        /// The length of the id, in bytes.
        length: usize,
    },
    /// The cluster's name is empty.
    #[error("the cluster name is empty: leave Config::cluster out for the default")]
    EmptyClusterName,
    /// The cluster's name is longer than [`MAX_NAME_BYTES`].
    #[error("the cluster name has {length} bytes, the most is {MAX_NAME_BYTES}")]
    ClusterNameTooLong {
        /// The length of the name, in bytes.
        length: usize,
    },
    /// The address is not an IP address and a port.
    #[error(
        "the address {address:?} is not an IP address and a port, such as \"10.0.0.1:8001\" or \
         \"[::1]:8001\""
    )]
    BadAddress {
        /// The text that was given.
        address: String,
    },
    /// The address means "every address of this machine", to which no other node can connect.
    #[error(
        "the address {address} names no interface: other nodes connect to this address, so give \
         the one they reach, or give that to Config::advertise"
    )]
    UnspecifiedAddress {
        /// The address that was given.
        address: SocketAddr,
    },
    /// The address is not that of one host: it is a multicast or the broadcast address.
    #[error(
        "the address {address} is a multicast or broadcast address: other nodes connect to this \
         address, so give one that is this node's alone"
    )]
    ManyHosts {
        /// The address that was given.
        address: SocketAddr,
    },
    /// The address is an IPv6 address of one link, `fe80::…`, or has a zone, as in `fe80::1%eth0`.
    /// A zone is known on one host only, so no node could tell others of such an address.
    #[error(
        "{address:?} is an address of one network link, which other hosts cannot use as it is \
         written here: give a global or unique local IPv6 address (2000::/3, fd00::/8), an IPv4 \
         address, or for a seed a host name"
    )]
    LinkLocalAddress {
        /// The text that was given.
        address: String,
    },
    /// A seed is neither an IP address nor a host name with a port.
    #[error(
        "the seed {seed:?} is not an IP address or host name and a port, such as \"10.0.0.2:8001\" \
         or \"grid.example.com:8001\""
    )]
    BadSeed {
        /// The text that was given.
        seed: String,
    },
    /// The data center's name is longer than [`MAX_NAME_BYTES`].
    #[error("the data center has {length} bytes, and {MAX_NAME_BYTES} are allowed")]
    DataCenterTooLong {
        /// The length of the name, in bytes.
        length: usize,
    },
    /// The zone's name is longer than [`MAX_NAME_BYTES`].
    #[error("the zone has {length} bytes, and {MAX_NAME_BYTES} are allowed")]
    ZoneTooLong {
        /// The length of the name, in bytes.
        length: usize,
    },
    /// The weight is not between 1 and 10,000.
    #[error(
        "a weight of {weight} is not between 1 and 10000: 100 is the default, 200 holds twice as \
         much"
    )]
    BadWeight {
        /// The weight that was given.
        weight: u16,
    },
    /// A standalone engine was given an option that only a node of a cluster has.
    #[error("a standalone engine has no {option}: use Config::new for a node of a cluster")]
    Standalone {
        /// The name of the option.
        option: &'static str,
    },
    /// N is not between 1 and [`MAX_REPLICAS`].
    #[error("replicas is {replicas}; it must be from 1 to {MAX_REPLICAS}")]
    BadReplicas {
        /// The number that was given.
        replicas: usize,
    },
    /// W is not between 1 and N.
    #[error("write_quorum is {write_quorum}; it must be from 1 to replicas, which is {replicas}")]
    BadWriteQuorum {
        /// The number that was given.
        write_quorum: usize,
        /// N.
        replicas: Count,
    },
    /// A write quorum was given together with [`Replicas::All`](crate::Replicas::All), which takes
    /// [`Config::unacknowledged`](crate::Config::unacknowledged) instead.
    #[error(
        "with Replicas::All there is no write_quorum: Config::unacknowledged says how many nodes a \
         write need not wait for"
    )]
    WriteQuorumOfAll,
    /// [`Config::unacknowledged`](crate::Config::unacknowledged) was given without
    /// [`Replicas::All`](crate::Replicas::All).
    #[error(
        "unacknowledged is for Replicas::All; with {replicas} replicas write_quorum says how many \
         must acknowledge"
    )]
    UnacknowledgedWithoutAll {
        /// N.
        replicas: Count,
    },
    /// The number of replicas that need not acknowledge is above [`MAX_REPLICAS`].
    #[error("unacknowledged is {unacknowledged}; it must be from 0 to {MAX_REPLICAS}")]
    BadUnacknowledged {
        /// The number that was given.
        unacknowledged: usize,
    },
    /// R is 2 or more, and a write may miss as many replicas as a read asks: the read might miss
    /// the write.
    #[error(
        "read_quorum {read_quorum} promises linearizable keys, which needs more than \
         unacknowledged, {unacknowledged}"
    )]
    TooManyUnacknowledged {
        /// How many replicas need not acknowledge a write.
        unacknowledged: usize,
        /// R.
        read_quorum: usize,
    },
    /// R is not between 1 and N, or with [`Replicas::All`](crate::Replicas::All) not between 1 and
    /// [`MAX_REPLICAS`].
    #[error("read_quorum is {read_quorum}; it must be from 1 to {}", most_answers(*.replicas))]
    BadReadQuorum {
        /// The number that was given.
        read_quorum: usize,
        /// N.
        replicas: Count,
    },
    /// R is 2 or more, and two writes, or a read and a write, might share no replica.
    #[error(
        "read_quorum {read_quorum} promises linearizable keys, which needs write_quorum + \
         read_quorum > replicas and 2 × write_quorum > replicas; write_quorum is {write_quorum} \
         and replicas {replicas}"
    )]
    QuorumsDoNotOverlap {
        /// R.
        read_quorum: Count,
        /// W.
        write_quorum: Count,
        /// N.
        replicas: Count,
    },
    /// [`Config::expect`](crate::Config::expect) names no node, or more than 1000.
    #[error(
        "expect names {nodes} nodes; name the number of nodes that start the cluster, from 1 to \
         1000, or leave Config::expect out"
    )]
    BadExpect {
        /// The number that was given.
        nodes: usize,
    },
    /// [`OnPartition::Majority`](crate::OnPartition::Majority) with 2 W ≤ N: two sides of a network
    /// partition might each have W replicas of one key.
    #[error(
        "OnPartition::Majority needs 2 × write_quorum > replicas, or two sides of a network \
         partition could both have write_quorum replicas of a key; write_quorum is {write_quorum} \
         and replicas {replicas}: raise write_quorum to {}, or choose OnPartition::Serve",
        least_overlap(*.replicas)
    )]
    MajorityNeedsOverlap {
        /// W.
        write_quorum: Count,
        /// N.
        replicas: Count,
    },
    /// The number of core threads is not between 1 and [`MAX_CORES`].
    #[error("cores is {cores}; it must be from 1 to {MAX_CORES}")]
    BadCores {
        /// The number that was given.
        cores: usize,
    },
    /// The number of CPUs differs from the number of cores.
    #[error(
        "pin_cpus names {cpus} CPUs and cores is {cores}: name one CPU for each core, or leave \
         Config::cores out"
    )]
    PinnedCpus {
        /// How many CPUs were named.
        cpus: usize,
        /// How many cores were asked for.
        cores: usize,
    },
    /// Two cores were to share one CPU, on which they would wait for each other.
    #[error("pin_cpus names CPU {cpu} twice: each core needs one of its own")]
    CpuTwice {
        /// The number of the CPU.
        cpu: usize,
    },
    /// The memory limit is too small for the number of cores.
    #[error(
        "max_memory is {max_memory} bytes; it must be at least {least}, which is 1 MiB for each \
         core: raise it, or run fewer cores"
    )]
    BadMemory {
        /// The limit that was given, in bytes.
        max_memory: usize,
        /// The least that is allowed with this number of cores, in bytes.
        least: usize,
    },
    /// Fewer accepted connections are allowed than a small cluster needs.
    #[error(
        "max_connections is {connections}; it must be at least {least}: every other node needs \
         one, and one more for each pair of its cores and this node's"
    )]
    BadMaxConnections {
        /// The number that was given.
        connections: usize,
        /// The least that is allowed.
        least: usize,
    },
    /// A time is out of its range.
    #[error("{option} is {value:?}; it must be from {least:?} to {most:?}")]
    BadDuration {
        /// The name of the option.
        option: &'static str,
        /// The time that was given.
        value: Duration,
        /// The least that is allowed.
        least: Duration,
        /// The most that is allowed.
        most: Duration,
    },
    /// The cluster keys of [`Config::security`](crate::Config::security) cannot be used together.
    #[cfg(feature = "security")]
    #[error("security: {0}")]
    ClusterKeys(#[from] KeyringError),
    /// The certificates of [`Config::security`](crate::Config::security) do not fit this node.
    #[cfg(feature = "security")]
    #[error("security: {0}")]
    Certificates(#[from] CertificatesError),
    /// A standalone engine was given [`Config::security`](crate::Config::security). It speaks with
    /// no other node, so there is nothing to secure.
    #[cfg(feature = "security")]
    #[error(
        "a standalone engine speaks with no other node, so there is nothing to secure: leave \
         Config::security out, or use Config::new for a node of a cluster"
    )]
    StandaloneSecurity,
}

/// Returns the text for the most replicas that a read may ask.
fn most_answers(replicas: Count) -> String {
    match replicas {
        Count::Exactly(_) => format!("replicas, which is {replicas}"),
        Count::AllBut(_) => format!("{MAX_REPLICAS} with Replicas::All"),
    }
}

/// Returns the least W of which any two share a replica.
fn least_overlap(replicas: Count) -> usize {
    match replicas {
        Count::Exactly(replicas) => usize::from(replicas) / 2 + 1,
        // All but some are a majority always.
        Count::AllBut(_) => 1,
    }
}
