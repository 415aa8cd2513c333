//! Errors of an engine's life: starting, waiting for others, new security, and leaving.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

use super::config::ConfigError;
#[cfg(feature = "security")]
use crate::security::{CertificatesError, Fingerprint, KeyId, KeyringError};
use crate::types::NodeId;

/// Why [`Engine::start`](crate::Engine::start) started nothing. No thread and no socket is left
/// behind.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration has a mistake.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// Another process, or another engine, listens at the address.
    #[error(
        "{address} is in use: another process or engine listens there; give another port, or 0 for \
         a free one"
    )]
    AddressInUse {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// This machine does not have the address.
    #[error(
        "{address} is not an address of this machine: give one of its own, which other nodes can \
         reach"
    )]
    AddressNotAvailable {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// The system did not allow this process to listen at the address.
    #[error(
        "no permission to listen on {address}: ports below 1024 need it, or a firewall rule \
         forbids it"
    )]
    PermissionDenied {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// A core was to run on a CPU that does not exist, or that this process must not use.
    #[error(
        "CPU {cpu} cannot be pinned: this process may use {}; name some of these in \
         Config::pin_cpus, or have it given more (taskset, cpusets, the container's limits)",
        list(.allowed)
    )]
    CpuNotAllowed {
        /// The number of the CPU.
        cpu: usize,
        /// The CPUs that this process may use.
        allowed: Vec<usize>,
    },
    /// A limit of this process leaves too little memory: for the engine's threads and tables, and
    /// for [`Config::max_memory`](crate::Config::max_memory) if that is set. An engine that ran out
    /// of it would end the process.
    ///
    /// On Linux with glibc most of it is address space that the allocator asks for, 128 MiB for
    /// each thread. With `MALLOC_ARENA_MAX=1` in the environment it reserves none.
    #[error(
        "too little memory: {limit} allows this process {limit_bytes} bytes (ulimit -v is \
         RLIMIT_AS, ulimit -d is RLIMIT_DATA), {free_bytes} of them are free, and the engine needs \
         about {needed_bytes}: raise the limit, lower Config::max_memory or Config::cores, or set \
         MALLOC_ARENA_MAX=1, without which glibc asks for 128 MiB for each thread"
    )]
    AddressSpace {
        /// The name of the limit.
        limit: &'static str,
        /// The limit, in bytes.
        limit_bytes: u64,
        /// How many bytes were left of it.
        free_bytes: u64,
        /// About how many bytes the engine needs.
        needed_bytes: u64,
    },
    /// The system refused a socket, a thread or a poll.
    #[error("{what}: {source}")]
    System {
        /// The step that failed.
        what: &'static str,
        /// The system's own error.
        source: io::Error,
    },
}

/// Returns the numbers of CPUs as people write them: "CPUs 0, 1".
fn list(cpus: &[usize]) -> String {
    if cpus.is_empty() {
        return "no CPU that it could name".to_owned();
    }
    let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
    format!("CPUs {}", cpus.join(", "))
}

/// Why [`Engine::wait_ready`](crate::Engine::wait_ready) gave up. The engine runs on and keeps
/// trying.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotReady {
    /// Too few members are here so far.
    #[error(
        "members needed: {needed}, here: {members}{}: check that the seeds are right and running",
        .hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default()
    )]
    TooFewMembers {
        /// How many members this node sees, itself included.
        members: usize,
        /// How many members the quorums need.
        needed: usize,
        /// What might be the cause, if something went wrong: a node that refused this one, a name
        /// that could not be looked up, an address at which no node reaches this one.
        hint: Option<String>,
    },
    /// The members are here and have not yet agreed on the placement of the partitions.
    #[error(
        "the members that are here ({members}) have not yet agreed on their partitions{}",
        .hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default()
    )]
    Settling {
        /// How many members this node sees, itself included.
        members: usize,
        /// What might be the cause, if something went wrong: see `TooFewMembers`.
        hint: Option<String>,
    },
    /// The engine has stopped, or is stopping.
    #[error("the engine has stopped")]
    ShutDown,
    /// A thread of the engine has panicked or could not poll; the log says which. The engine has
    /// stopped and its node has left the cluster: start a new one.
    #[error("the engine has failed and stopped (its log says why): start a new one")]
    EngineFailed,
    /// The call came from an engine's own thread, which must not wait: from a closure that was
    /// given to [`Engine::run_on`](crate::Engine::run_on).
    #[error(
        "called on an engine's own thread, which must not wait: use what Engine::run_on hands to \
         its closure, or call from a thread of the app"
    )]
    WouldBlockCore,
}

/// Why [`Engine::wait_until_safe`](crate::Engine::wait_until_safe) gave up.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotSafe {
    /// Some copy is missing, and the node that is stopped next might be the one that has it.
    #[error("no node should be stopped yet: {}", reasons(.risks))]
    TimedOut {
        /// What the nodes reported last. Empty if no node has reported.
        risks: Vec<Risk>,
    },
    /// The engine has stopped, or is stopping.
    #[error("the engine has stopped")]
    ShutDown,
    /// A thread of the engine has panicked or could not poll; the log says which. The engine has
    /// stopped and its node has left the cluster: start a new one.
    #[error("the engine has failed and stopped (its log says why): start a new one")]
    EngineFailed,
    /// The call came from an engine's own thread, which must not wait: from a closure that was
    /// given to [`Engine::run_on`](crate::Engine::run_on).
    #[error(
        "called on an engine's own thread, which must not wait: use what Engine::run_on hands to \
         its closure, or call from a thread of the app"
    )]
    WouldBlockCore,
}

/// Why a node should not be stopped, as [`NotSafe::TimedOut`] lists it.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Risk {
    /// A node lacks copies that it should hold, or has writes that other replicas lack.
    #[error(
        "at {node} {copies} copies of partitions are missing or not settled, and {writes} writes \
         not everywhere{}",
        no_room(*.missing_bytes)
    )]
    Owes {
        /// The node's name.
        node: NodeId,
        /// How many copies of partitions the node does not hold completely, has yet to give away,
        /// or finds no node for, because there are fewer nodes than replicas.
        copies: usize,
        /// How many writes the node has acknowledged that some replica has not confirmed.
        writes: usize,
        /// How many bytes of these copies the node has no room for. They stay missing until it has:
        /// add a node, raise [`Config::max_memory`](crate::Config::max_memory), or delete keys.
        missing_bytes: u64,
    },
    /// A node has not answered.
    #[error("{node} has not said whether it lacks anything")]
    Silent {
        /// The node's name.
        node: NodeId,
    },
    /// A node sees other members than the node that asked, or does not know all of them yet.
    #[error("{node} sees other members")]
    Disagrees {
        /// The node's name.
        node: NodeId,
    },
}

impl Risk {
    /// Returns how many bytes the node has no room for.
    pub(crate) fn missing_bytes(&self) -> u64 {
        match self {
            Self::Owes { missing_bytes, .. } => *missing_bytes,
            Self::Silent { .. } | Self::Disagrees { .. } => 0,
        }
    }
}

/// Returns the text for what finds no room, if there is any.
fn no_room(missing_bytes: u64) -> String {
    if missing_bytes == 0 {
        return String::new();
    }
    format!(
        "; {missing_bytes} bytes find no room: add a node, raise Config::max_memory, or delete keys"
    )
}

/// Returns the risks as one text.
fn reasons(risks: &[Risk]) -> String {
    if risks.is_empty() {
        return "no node has said yet whether it lacks anything".to_owned();
    }
    let risks: Vec<String> = risks.iter().map(Risk::to_string).collect();
    risks.join("; ")
}

/// Why [`Engine::leave`](crate::Engine::leave) did not hand everything over.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaveError {
    /// The time was up. The node has stopped all the same: the others treat it as dead and restore
    /// its copies from their own.
    #[error(
        "{partitions} partitions were not handed over and {unfinished} calls not ended in time; \
         the node has stopped, the others restore its copies{}",
        no_room(*.missing_bytes)
    )]
    TimedOut {
        /// How many partitions were not handed over.
        partitions: usize,
        /// How many calls had no answer, or were writes that some replica lacked. Counted only when
        /// all partitions are handed over.
        unfinished: usize,
        /// How many bytes the other nodes should hold and had no room for, as they said last.
        ///
        /// If it is above zero, fewer than N nodes hold some keys until there is room: add a node,
        /// raise [`Config::max_memory`](crate::Config::max_memory), or delete keys, and stop no
        /// other node before [`Engine::wait_until_safe`](crate::Engine::wait_until_safe) succeeds.
        missing_bytes: u64,
    },
    /// The engine had stopped before.
    #[error("the engine has stopped")]
    ShutDown,
    /// A thread of the engine has panicked or could not poll; the log says which. The engine has
    /// stopped and its node has left the cluster: start a new one.
    #[error("the engine has failed and stopped (its log says why): start a new one")]
    EngineFailed,
    /// The call came from an engine's own thread, which must not wait: from a closure that was
    /// given to [`Engine::run_on`](crate::Engine::run_on).
    #[error(
        "called on an engine's own thread, which must not wait: use what Engine::run_on hands to \
         its closure, or call from a thread of the app"
    )]
    WouldBlockCore,
}

/// Why [`Engine::update_security`](crate::Engine::update_security) or
/// [`Engine::forget_identity`](crate::Engine::forget_identity) changed nothing.
#[cfg(feature = "security")]
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum UpdateSecurityError {
    /// The engine is standalone, and speaks with no other node.
    #[error("a standalone engine speaks with no other node, so there is nothing to secure")]
    Standalone,
    /// The engine was started without [`Config::security`](crate::Config::security).
    #[error(
        "the engine was started without Config::security: start it again with \
         Security::optional(), and require security when all nodes have the cluster key"
    )]
    StartedWithout,
    /// The cluster keys cannot be used together.
    #[error(transparent)]
    ClusterKeys(#[from] KeyringError),
    /// The certificates do not fit this node.
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
    /// Members still use a cluster key that would be refused from now on. Wait until they use
    /// another one, which [`Engine::members`](crate::Engine::members) shows, or give up on them by
    /// [`Security::force`](crate::Security::force).
    #[error(
        "{} still {} the cluster key {key}, which would be refused: have {} use another one first \
         (Engine::update_security), wait a few seconds if that was done, or say Security::force()",
        first_of(members),
        if members.len() == 1 { "uses" } else { "use" },
        if members.len() == 1 { "it" } else { "them" }
    )]
    #[non_exhaustive]
    StillUsed {
        /// The name of the key.
        key: KeyId,
        /// The members that use it.
        members: Vec<NodeId>,
    },
    /// Members present no certificate, which would be required from now on. Take the steps before
    /// on all nodes ([`Certificates`](crate::Certificates)), or give up on these members by
    /// [`Security::force`](crate::Security::force).
    #[error(
        "connections with {} have no certificate, which would be required: take the step \
         prefer() on all nodes first (Certificates), wait a few seconds if that was done, or say \
         Security::force()",
        first_of(members)
    )]
    #[non_exhaustive]
    WithoutCertificate {
        /// These members.
        members: Vec<NodeId>,
    },
    /// The node was given another key of its own than the one that it runs with.
    #[error(
        "the node runs with the key {running} and was given the key {given}: a node keeps its key \
         until it ends, so start it again to change it, or leave Security::identity out"
    )]
    OtherIdentity {
        /// The fingerprint of the key that the node runs with.
        running: Fingerprint,
        /// The fingerprint of the key that was given.
        given: Fingerprint,
    },
    /// TLS cannot be set up.
    #[error("{reason}")]
    Tls {
        /// What is wrong.
        reason: String,
    },
    /// The control thread took no message within
    /// [`Config::request_timeout`](crate::Config::request_timeout).
    #[error("overloaded: the control thread did not take the update in time; try again")]
    Overloaded,
    /// The engine has stopped, or is stopping.
    #[error("the engine has stopped")]
    ShutDown,
    /// A thread of the engine has panicked or could not poll; the log says which. The engine has
    /// stopped and its node has left the cluster: start a new one.
    #[error("the engine has failed and stopped (its log says why): start a new one")]
    EngineFailed,
    /// The call came from an engine's own thread, which must not wait: from a closure that was
    /// given to [`Engine::run_on`](crate::Engine::run_on).
    #[error(
        "called on an engine's own thread, which must not wait: use what Engine::run_on hands to \
         its closure, or call from a thread of the app"
    )]
    WouldBlockCore,
}

/// The first of these nodes, and how many more there are.
#[cfg(feature = "security")]
fn first_of(members: &[NodeId]) -> String {
    const MOST: usize = 5;
    let shown: Vec<&str> = members.iter().take(MOST).map(NodeId::as_str).collect();
    let shown = shown.join(", ");
    match members.len().saturating_sub(MOST) {
        0 => shown,
        more => format!("{shown} and {more} others"),
    }
}
