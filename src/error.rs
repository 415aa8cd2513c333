//! One error type per kind of call. Those of writes say whether the write may have happened.
//!
//! All of them convert into [`enum@Error`] for apps that want a single type.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;

use crate::types::{ALL, MAX_CORES, MAX_KEY_BYTES, MAX_NAME_BYTES, MAX_REPLICAS, MAX_VALUE_BYTES, NodeId};

/// Any error of this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The cluster was not ready in time.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// It was not safe to stop a node in time.
    #[error(transparent)]
    NotSafe(#[from] NotSafe),
    /// A write failed.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A read failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A closure did not run on its core, or its writes failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The data was not handed over in time.
    #[error(transparent)]
    Leave(#[from] LeaveError),
}

/// A mistake in a [`Config`](crate::Config), found before anything was started.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The node id has no characters.
    #[error("the node id is empty: give every node a name of its own, such as its host name")]
    EmptyNodeId,
    /// The node id is too long.
    #[error("the node id has {length} bytes, the most is {MAX_NAME_BYTES}")]
    NodeIdTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The cluster's name has no characters.
    #[error("the cluster name is empty: leave Config::cluster out for the default")]
    EmptyClusterName,
    /// The cluster's name is too long.
    #[error("the cluster name has {length} bytes, the most is {MAX_NAME_BYTES}")]
    ClusterNameTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The address is not an IP address and a port.
    #[error(
        "the address {address:?} is not an IP address and a port, such as \"10.0.0.1:8001\" or \"[::1]:8001\""
    )]
    BadAddress {
        /// What was given.
        address: String,
    },
    /// The address means "any of mine": nothing that others could connect to.
    #[error(
        "the address {address} names no interface: other nodes connect to this address, so give the one they reach, \
         or give that to Config::advertise"
    )]
    UnspecifiedAddress {
        /// What was given.
        address: SocketAddr,
    },
    /// A seed is neither an IP address nor a host name, with a port.
    #[error(
        "the seed {seed:?} is not an IP address or host name and a port, such as \"10.0.0.2:8001\" or \
         \"grid.example.com:8001\""
    )]
    BadSeed {
        /// What was given.
        seed: String,
    },
    /// The data center's name is too long.
    #[error("the data center has {length} bytes, and {MAX_NAME_BYTES} are allowed")]
    DataCenterTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The zone's name is too long.
    #[error("the zone has {length} bytes, and {MAX_NAME_BYTES} are allowed")]
    ZoneTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The weight is zero, or out of all proportion.
    #[error("a weight of {weight} is not between 1 and 10000: 100 is the default, 200 holds twice as much")]
    BadWeight {
        /// What was asked for.
        weight: u16,
    },
    /// A standalone engine talks to nobody.
    #[error("a standalone engine has no {option}: use Config::new for a node of a cluster")]
    Standalone {
        /// The option that only a node of a cluster has.
        option: &'static str,
    },
    /// N is out of range.
    #[error("replicas is {replicas}; it must be from 1 to {MAX_REPLICAS}")]
    BadReplicas {
        /// What was given.
        replicas: usize,
    },
    /// W is out of range.
    #[error("write_quorum is {write_quorum}; it must be from 1 to replicas, which is {replicas}")]
    BadWriteQuorum {
        /// What was given.
        write_quorum: usize,
        /// N.
        replicas: usize,
    },
    /// Of how many replicas must apply a write says something else with `Replicas::All`.
    #[error(
        "with Replicas::All there is no write_quorum: Config::unacknowledged says how many nodes a write need not wait for"
    )]
    WriteQuorumOfAll,
    /// How many replicas need not acknowledge is only asked with `Replicas::All`.
    #[error(
        "unacknowledged is for Replicas::All; with {replicas} replicas write_quorum says how many must acknowledge"
    )]
    UnacknowledgedWithoutAll {
        /// N.
        replicas: usize,
    },
    /// How many replicas need not acknowledge is out of range.
    #[error("unacknowledged is {unacknowledged}; it must be from 0 to {MAX_REPLICAS}")]
    BadUnacknowledged {
        /// What was given.
        unacknowledged: usize,
    },
    /// R ≥ 2 asks for linearizable keys, and a read must then meet every write.
    #[error(
        "read_quorum {read_quorum} promises linearizable keys, which needs more than unacknowledged, {unacknowledged}"
    )]
    TooManyUnacknowledged {
        /// How many need not acknowledge.
        unacknowledged: usize,
        /// R.
        read_quorum: usize,
    },
    /// R is out of range.
    #[error("read_quorum is {read_quorum}; it must be from 1 to replicas, which is {replicas}")]
    BadReadQuorum {
        /// What was given.
        read_quorum: usize,
        /// N.
        replicas: usize,
    },
    /// R ≥ 2 asks for linearizable keys, and two writes must then share a replica.
    #[error(
        "read_quorum {read_quorum} promises linearizable keys, which needs write_quorum + read_quorum > replicas and \
         2 × write_quorum > replicas; write_quorum is {write_quorum} and replicas {replicas}"
    )]
    QuorumsDoNotOverlap {
        /// R.
        read_quorum: usize,
        /// W.
        write_quorum: usize,
        /// N.
        replicas: usize,
    },
    /// The number of nodes of which a majority is required is out of range.
    #[error(
        "require_majority names {nodes} nodes; name the most that the cluster will ever have: at least replicas, which \
         is {replicas}, and at most 1000"
    )]
    BadMajority {
        /// What was given.
        nodes: usize,
        /// N.
        replicas: usize,
    },
    /// With 2 W ≤ N two sides of a network partition can each hold W replicas of one key.
    #[error(
        "require_majority needs 2 × write_quorum > replicas; write_quorum is {write_quorum} and replicas {replicas}"
    )]
    MajorityNeedsOverlap {
        /// W.
        write_quorum: usize,
        /// N.
        replicas: usize,
    },
    /// The number of core threads is out of range.
    #[error("cores is {cores}; it must be from 1 to {MAX_CORES}")]
    BadCores {
        /// What was given.
        cores: usize,
    },
    /// Each core is pinned to a CPU of its own, or none is.
    #[error(
        "pin_cpus names {cpus} CPUs and cores is {cores}: name one CPU for each core, or leave Config::cores out"
    )]
    PinnedCpus {
        /// How many CPUs were named.
        cpus: usize,
        /// How many cores there are to be.
        cores: usize,
    },
    /// Two cores on one CPU would wait for each other.
    #[error("pin_cpus names CPU {cpu} twice: each core needs one of its own")]
    CpuTwice {
        /// Its number.
        cpu: usize,
    },
    /// The memory limit is too small to be split over the cores.
    #[error(
        "max_memory is {max_memory} bytes; it must be at least {least}, which is 1 MiB for each core: raise it, or \
         run fewer cores"
    )]
    BadMemory {
        /// What was given, in bytes.
        max_memory: usize,
        /// The least that is allowed with so many cores.
        least: usize,
    },
    /// A time is zero, or too long to count with.
    #[error("{option} is {value:?}; it must be from {least:?} to {most:?}")]
    BadDuration {
        /// Which option.
        option: &'static str,
        /// What was given.
        value: Duration,
        /// The least that is allowed.
        least: Duration,
        /// The most that is allowed.
        most: Duration,
    },
}

/// Why [`Engine::start`](crate::Engine::start) started nothing. No thread and no socket is left behind.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration has a mistake.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// Another process, or another engine, listens there.
    #[error(
        "{address} is in use: another process or engine listens there; give another port, or 0 for a free one"
    )]
    AddressInUse {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// This machine does not have the address.
    #[error("{address} is not an address of this machine: give one of its own, which other nodes can reach")]
    AddressNotAvailable {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// The system did not allow the address.
    #[error("no permission to listen on {address}: ports below 1024 need it, or a firewall rule forbids it")]
    PermissionDenied {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// A core was to run on a CPU that is not there, or that this process may not use.
    #[error(
        "CPU {cpu} cannot be pinned: this process may use {}; name some of these in Config::pin_cpus, or have it \
         given more (taskset, cpusets, the container's limits)",
        list(.allowed)
    )]
    CpuNotAllowed {
        /// Its number.
        cpu: usize,
        /// Those that this process may use.
        allowed: Vec<usize>,
    },
    /// The system refused a socket, a thread or a poll.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// As people write them: "CPUs 0, 1".
fn list(cpus: &[usize]) -> String {
    if cpus.is_empty() {
        return "no CPU that it could name".to_owned();
    }
    let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
    format!("CPUs {}", cpus.join(", "))
}

/// Why a write was not acknowledged, and whether it may have happened.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// Nothing was applied: it was not sent, or whoever got it turned it down. It did not happen and will
    /// not. Safe to try again.
    #[error("not applied: {0}")]
    NotApplied(#[from] NotApplied),
    /// Some replicas may have applied it, fewer than were asked for: it may be visible, and may take
    /// effect later, at most once. Read the key, or write it again.
    #[error("may have happened: {acked} of the {needed} replicas needed acknowledged it in time")]
    Indeterminate {
        /// How many replicas acknowledged it.
        acked: usize,
        /// How many were needed.
        needed: usize,
    },
    /// A thread of the engine has failed while the write was under way: it may have happened. The engine has
    /// stopped.
    #[error(
        "may have happened: the engine has failed and stopped (its log says why) while the write was under way"
    )]
    EngineFailed,
}

/// Why a write did not happen.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotApplied {
    /// The key is too long.
    #[error("the key has {length} bytes, the most is {MAX_KEY_BYTES}")]
    KeyTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The value is too long.
    #[error("the value has {length} bytes, the most is {MAX_VALUE_BYTES}")]
    ValueTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A time to live of zero, or one that ends beyond the calendar.
    #[error(
        "a time to live of {ttl:?} cannot be kept: it must be at least a millisecond and end before the year 10000"
    )]
    BadTtl {
        /// What was given.
        ttl: Duration,
    },
    /// A call may ask for more copies than W, never for fewer, and for no more than N.
    #[error("the call asks for {asked} acknowledgements; {}", acknowledgements(*.write_quorum, *.replicas))]
    BadQuorum {
        /// What the call asked for.
        asked: usize,
        /// W; with [`Replicas::All`](crate::Replicas::All) 255 less how many need not acknowledge.
        write_quorum: usize,
        /// N; 255 with [`Replicas::All`](crate::Replicas::All).
        replicas: usize,
    },
    /// Fewer replicas are alive than must acknowledge the write.
    #[error(
        "{needed} replicas must acknowledge the write and {alive} are alive: start more nodes or wait for them \
         (Engine::wait_ready), or run one node with Config::standalone"
    )]
    NotEnoughReplicas {
        /// How many nodes can hold the key now.
        alive: usize,
        /// How many must acknowledge.
        needed: usize,
    },
    /// [`Config::require_majority`](crate::Config::require_majority): this node may be cut off from the others.
    #[error(
        "this node hears from no majority of {nodes} nodes, which Config::require_majority asks for: it may be cut off \
         from the others, or too few of them run; Event::MajorityFound tells when that is over"
    )]
    NoMajority {
        /// Of how many nodes a majority is required.
        nodes: usize,
    },
    /// The memory limit is full, and [`Eviction::None`](crate::Eviction::None) makes no room; or what deleted
    /// and expired keys leave behind in a cluster fills it, which nothing evicts.
    #[error(
        "the memory limit of {max_memory} bytes is full of what may not be evicted: raise Config::max_memory; with \
         Eviction::None, delete keys, give them a time to live, or choose Eviction::Sieve"
    )]
    OutOfMemory {
        /// The limit of this node, in bytes.
        max_memory: usize,
    },
    /// The key and its value would not fit, were everything else evicted.
    #[error(
        "the entry takes {bytes} bytes and a core's share of the memory limit is {share}: raise Config::max_memory, \
         run fewer cores, or store less under one key"
    )]
    EntryTooLarge {
        /// How much memory key and value take, with what is kept beside them.
        bytes: usize,
        /// How much of [`Config::max_memory`](crate::Config::max_memory) each core has.
        share: usize,
    },
    /// No replica could take the write before the deadline: none was reached, or those that were had no
    /// room for it.
    #[error(
        "no replica of the key could take the write in time: none was reached, or those that were had no room for it"
    )]
    Unavailable,
    /// No core took the call before the deadline; or the memory that was overwritten, deleted or evicted
    /// and that readers still hold has reached its bound. Both pass by themselves.
    #[error(
        "overloaded: no core took the call before its deadline, or readers hold up too much memory: call less, give it \
         more time, keep what is given to Engine::read short"
    )]
    Overloaded,
    /// A closure may write the keys of the core that it runs on, and this is another's.
    #[error(
        "the key belongs to another core than the one that the closure runs on: give run_on a key of that core, or write it outside of the closure"
    )]
    OtherCore,
    /// The engine has stopped, or is stopping.
    #[error("the engine has stopped")]
    ShutDown,
    /// A thread of the engine has panicked or could not poll; the log says what happened. The engine has stopped
    /// and its node has left the cluster: start a new one.
    #[error("the engine has failed and stopped (its log says why): start a new one")]
    EngineFailed,
    /// It was made on one of an engine's own threads, from a closure that was given to
    /// [`Engine::run_on`](crate::Engine::run_on), and would have made that thread wait.
    #[error(
        "called on an engine's own thread, which must not wait: use what Engine::run_on hands to its closure, or call \
         from a thread of the app"
    )]
    WouldBlockCore,
}

/// Why a closure that was to run on a core has no result.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunError {
    /// It was not run: nothing happened and nothing will. Safe to try again.
    #[error("not run: {0}")]
    NotApplied(#[from] NotApplied),
    /// It panicked. The engine goes on; what the closure wrote before may have happened.
    #[error("the closure panicked: {message}")]
    Panicked {
        /// What the panic said, where that was text.
        message: String,
    },
    /// It ran to its end, and not all of its writes were acknowledged: the others were. What it returned is
    /// gone.
    #[error("the closure ran, and {failed} of its writes failed, the first of them: {first}")]
    Write {
        /// How many.
        failed: usize,
        /// How the one ended that failed first: it says whether that one may have happened.
        first: WriteError,
    },
    /// No answer came in time: it may have run, or may run yet, and its writes may have happened.
    #[error("may have run: no answer came in time")]
    Indeterminate,
    /// A thread of the engine failed meanwhile: it may have run. The engine has stopped.
    #[error("may have run: the engine has failed and stopped (its log says why)")]
    EngineFailed,
}

/// Why a read has no answer. A read changes nothing: it is always safe to try again.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// The key is too long, so it cannot exist.
    #[error("the key has {length} bytes, the most is {MAX_KEY_BYTES}")]
    KeyTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The call asks for no answer, or for more than there are replicas.
    #[error("the call asks for {asked} answers; from 1 to {replicas} (replicas) can be had")]
    BadQuorum {
        /// What the call asked for.
        asked: usize,
        /// N.
        replicas: usize,
    },
    /// Fewer replicas are alive than must answer.
    #[error(
        "{needed} replicas must answer the read and {alive} are alive: start more nodes or wait for them"
    )]
    NotEnoughReplicas {
        /// How many nodes can hold the key now.
        alive: usize,
        /// How many must answer.
        needed: usize,
    },
    /// [`Config::require_majority`](crate::Config::require_majority), with R ≥ 2: this node may be cut off from the others.
    #[error(
        "this node hears from no majority of {nodes} nodes, which Config::require_majority asks for: it may be cut off \
         from the others, or too few of them run; Event::MajorityFound tells when that is over"
    )]
    NoMajority {
        /// Of how many nodes a majority is required.
        nodes: usize,
    },
    /// This node holds no current copy of the key, and the call allowed no other.
    #[error("this node holds no copy of the key, and ReadOptions::local asks no other")]
    NotLocal,
    /// A closure may read the keys of the core that it runs on, and this is another's.
    #[error(
        "the key belongs to another core than the one that the closure runs on: give run_on a key of that core, or read it outside of the closure"
    )]
    OtherCore,
    /// Too few replicas answered before the deadline.
    #[error("{answered} of the {needed} replicas needed answered in time")]
    TimedOut {
        /// How many answered.
        answered: usize,
        /// How many were needed.
        needed: usize,
    },
    /// No core took the call before the deadline.
    #[error("overloaded: no core took the call before its deadline; call less, or give it more time")]
    Overloaded,
    /// The engine has stopped, or is stopping.
    #[error("the engine has stopped")]
    ShutDown,
    /// A thread of the engine has panicked or could not poll; the log says what happened. The engine has stopped
    /// and its node has left the cluster: start a new one.
    #[error("the engine has failed and stopped (its log says why): start a new one")]
    EngineFailed,
    /// It was made on one of an engine's own threads, from a closure that was given to
    /// [`Engine::run_on`](crate::Engine::run_on), and would have made that thread wait.
    #[error(
        "called on an engine's own thread, which must not wait: use what Engine::run_on hands to its closure, or call \
         from a thread of the app"
    )]
    WouldBlockCore,
}

/// Why [`Engine::get_or_insert_with`](crate::Engine::get_or_insert_with) has no value, or could not store it. `E`
/// is what the loader fails with.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadError<E> {
    /// Whether there is a value could not be found out; nothing was loaded.
    #[error("the key could not be read: {0}")]
    Read(#[from] ReadError),
    /// The loader failed. Nothing was stored; the next caller loads.
    #[error("the value could not be loaded: {0}")]
    Loader(E),
    /// The value was loaded and not stored, or perhaps not.
    #[error("the value was loaded and could not be stored: {error}")]
    NotStored {
        /// What was loaded.
        value: Vec<u8>,
        /// Why it was not stored, and whether it may have been.
        error: WriteError,
    },
    /// Another caller is loading the key and has taken longer than this one waits.
    #[error(
        "another caller is loading the key, for more than {waited:?}: raise Config::request_timeout above what loading takes"
    )]
    TimedOut {
        /// How long this caller has waited.
        waited: Duration,
    },
    /// The loader asks for the key that it is loading.
    #[error("the loader asks for the key that it is to load, and would wait for itself")]
    Recursive,
}

/// Why a call was not submitted. Nothing happened, and no completion will come.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubmitError {
    /// All places of the [`Completions`](crate::Completions) are taken.
    #[error(
        "all {capacity} places for completions are taken: take completions, and drop them, before submitting more"
    )]
    Full {
        /// How many there are.
        capacity: usize,
    },
    /// A read asks for no answer, or for more than there are replicas.
    #[error("the call asks for {asked} answers; from 1 to {replicas} (replicas) can be had")]
    BadReadQuorum {
        /// What the call asked for.
        asked: usize,
        /// N.
        replicas: usize,
    },
    /// It cannot be made, or not now. (Of reads, too: a key may be too long, a queue full, the engine stopped.)
    #[error("not made: {0}")]
    NotApplied(#[from] NotApplied),
}

/// Why [`Engine::wait_ready`](crate::Engine::wait_ready) gave up. The engine runs on and keeps trying.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotReady {
    /// Too few members so far.
    #[error(
        "members needed: {needed}, here: {members}{}: check that the seeds are right and running",
        .hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default()
    )]
    TooFewMembers {
        /// How many members this node sees, itself included.
        members: usize,
        /// How many the quorums need.
        needed: usize,
        /// What may be the cause, where something went wrong: a node that refused this one, a name that could not be
        /// looked up, an address at which nobody reaches this node.
        hint: Option<String>,
    },
    /// The members are here and have not yet agreed on who holds what.
    #[error("the members that are here ({members}) have not yet agreed on their partitions")]
    Settling {
        /// How many members this node sees, itself included.
        members: usize,
    },
    /// The engine has stopped, or is stopping.
    #[error("the engine has stopped")]
    ShutDown,
    /// A thread of the engine has panicked or could not poll; the log says what happened. The engine has stopped
    /// and its node has left the cluster: start a new one.
    #[error("the engine has failed and stopped (its log says why): start a new one")]
    EngineFailed,
    /// It was made on one of an engine's own threads, from a closure that was given to
    /// [`Engine::run_on`](crate::Engine::run_on), and would have made that thread wait.
    #[error(
        "called on an engine's own thread, which must not wait: use what Engine::run_on hands to its closure, or call \
         from a thread of the app"
    )]
    WouldBlockCore,
}

/// Why [`Engine::wait_until_safe`](crate::Engine::wait_until_safe) gave up.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotSafe {
    /// Something is missing: the node that is stopped next may be the one that has it.
    #[error("no node should be stopped yet: {}", reasons(.risks))]
    TimedOut {
        /// What is missing where, as the nodes said last. Empty where none was heard.
        risks: Vec<Risk>,
    },
    /// The engine has stopped, or is stopping.
    #[error("the engine has stopped")]
    ShutDown,
    /// A thread of the engine has panicked or could not poll; the log says what happened. The engine has stopped
    /// and its node has left the cluster: start a new one.
    #[error("the engine has failed and stopped (its log says why): start a new one")]
    EngineFailed,
    /// It was made on one of an engine's own threads, from a closure that was given to
    /// [`Engine::run_on`](crate::Engine::run_on), and would have made that thread wait.
    #[error(
        "called on an engine's own thread, which must not wait: use what Engine::run_on hands to its closure, or call \
         from a thread of the app"
    )]
    WouldBlockCore,
}

/// Why a node should not be stopped.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Risk {
    /// Something of what a node should hold, or has acknowledged, is missing.
    #[error(
        "at {node} {copies} copies of partitions are missing or not settled, and {writes} writes not everywhere"
    )]
    Owes {
        /// Its name.
        node: NodeId,
        /// Copies of partitions that it should hold and has not completely, holds and has yet to give away, or for
        /// which there is no node, as there are fewer than replicas.
        copies: usize,
        /// Writes that it acknowledged and that some replica has not confirmed.
        writes: usize,
    },
    /// A node has not answered.
    #[error("{node} has not said whether it lacks anything")]
    Silent {
        /// Its name.
        node: NodeId,
    },
    /// A node sees other members than the one that asked, or does not know all of them yet.
    #[error("{node} sees other members")]
    Disagrees {
        /// Its name.
        node: NodeId,
    },
}

/// As people write them.
fn reasons(risks: &[Risk]) -> String {
    if risks.is_empty() {
        return "no node has said yet whether it lacks anything".to_owned();
    }
    let risks: Vec<String> = risks.iter().map(Risk::to_string).collect();
    risks.join("; ")
}

/// Why [`Engine::leave`](crate::Engine::leave) could not hand everything over.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaveError {
    /// Time ran out. The node has stopped all the same: the others treat it as dead and restore its
    /// copies from their own.
    #[error(
        "{partitions} partitions were not handed over and {unfinished} calls not ended in time; the node has stopped, the \
         others restore its copies"
    )]
    TimedOut {
        /// How many partitions were left.
        partitions: usize,
        /// How many calls had no answer, or were writes that not all replicas had, where nothing else was left.
        unfinished: usize,
    },
    /// The engine had stopped before.
    #[error("the engine has stopped")]
    ShutDown,
    /// A thread of the engine has panicked or could not poll; the log says what happened. The engine has stopped
    /// and its node has left the cluster: start a new one.
    #[error("the engine has failed and stopped (its log says why): start a new one")]
    EngineFailed,
    /// It was made on one of an engine's own threads, from a closure that was given to
    /// [`Engine::run_on`](crate::Engine::run_on), and would have made that thread wait.
    #[error(
        "called on an engine's own thread, which must not wait: use what Engine::run_on hands to its closure, or call \
         from a thread of the app"
    )]
    WouldBlockCore,
}

/// What a write may ask for.
fn acknowledgements(write_quorum: usize, replicas: usize) -> String {
    if replicas == ALL {
        return "as every node keeps a copy, ask for Quorum::Configured or Quorum::All".to_owned();
    }
    format!("from {write_quorum} (write_quorum) to {replicas} (replicas) can be had")
}
