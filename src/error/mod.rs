//! Errors: one type for each kind of call. Those of writes say whether the write may have happened.
//!
//! This file has the errors of calls. `config.rs` has the mistakes of a configuration, and
//! `lifecycle.rs` the errors of starting, waiting, new security and leaving. All of them convert
//! into [`enum@Error`], for apps that want a single type.

mod config;
mod lifecycle;

use std::time::Duration;

use thiserror::Error;

pub use self::config::ConfigError;
#[cfg(feature = "security")]
pub use self::lifecycle::UpdateSecurityError;
pub use self::lifecycle::{LeaveError, NotReady, NotSafe, Risk, StartError};
use crate::quorums::Count;
use crate::types::{MAX_KEY_BYTES, MAX_REPLICAS, MAX_VALUE_BYTES};

/// Any error of an engine: each type of error converts into it.
///
/// The exceptions are [`LoadError`] and [`SubmitError`], which belong to one method each.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The cluster was not ready in time.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// It did not become safe to stop a node in time.
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
    /// The node's data was not handed over in time.
    #[error(transparent)]
    Leave(#[from] LeaveError),
    /// What traffic is secured with was not changed.
    #[cfg(feature = "security")]
    #[error(transparent)]
    UpdateSecurity(#[from] UpdateSecurityError),
}

/// Why a write was not acknowledged, and whether it may have happened.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// The write did not happen and will not happen: it was not sent, or every replica that got it
    /// refused it. It is safe to try again.
    #[error("not applied: {0}")]
    NotApplied(#[from] NotApplied),
    /// The write may have happened: some replicas might have applied it, but fewer than were asked
    /// for confirmed it in time.
    ///
    /// It might be visible now, or take effect later, at most once. Read the key, or write it
    /// again.
    #[error("may have happened: {acked} of the {needed} replicas needed acknowledged it in time")]
    Indeterminate {
        /// How many replicas acknowledged the write.
        acked: usize,
        /// How many acknowledgements were needed.
        needed: usize,
    },
    /// The write may have happened: a thread of the engine failed during the call. The engine has
    /// stopped.
    #[error(
        "may have happened: the engine has failed and stopped (its log says why) while the write \
         was under way"
    )]
    EngineFailed,
}

/// Why a write did not happen.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotApplied {
    /// The key is longer than [`MAX_KEY_BYTES`].
    #[error("the key has {length} bytes, the most is {MAX_KEY_BYTES}")]
    KeyTooLong {
        /// The length of the key, in bytes.
        length: usize,
    },
    /// The value is longer than [`MAX_VALUE_BYTES`].
    #[error("the value has {length} bytes, the most is {MAX_VALUE_BYTES}")]
    ValueTooLong {
        /// The length of the value, in bytes.
        length: usize,
    },
    /// The time to live is under a millisecond, or ends after the year 9999.
    #[error(
        "a time to live of {ttl:?} cannot be kept: it must be at least a millisecond and end \
         before the year 10000"
    )]
    BadTtl {
        /// The time to live that was given.
        ttl: Duration,
    },
    /// The call asks for fewer acknowledgements than W, or for more than N. With
    /// [`Replicas::All`](crate::Replicas::All) it asks for a fixed number.
    #[error(
        "the call asks for {asked} acknowledgements; {}",
        acknowledgements(*.write_quorum, *.replicas)
    )]
    BadQuorum {
        /// The number that the call asked for.
        asked: usize,
        /// W.
        write_quorum: Count,
        /// N.
        replicas: Count,
    },
    /// Fewer replicas are alive, as this node sees it, than must acknowledge the write.
    ///
    /// With [`OnPartition::Majority`](crate::OnPartition::Majority) that is so as well if other
    /// nodes are alive and must not take the place of the key's replicas.
    #[error(
        "{needed} replicas must acknowledge the write and {alive} are alive: start more nodes or \
         wait for them (Engine::wait_ready), or run one node with Config::standalone; if this node \
         is cut off from the others, it passes by itself when they are back"
    )]
    NotEnoughReplicas {
        /// How many nodes can hold the key now.
        alive: usize,
        /// How many replicas must acknowledge.
        needed: usize,
    },
    /// The memory limit of this node, or of replicas without which W cannot be reached, is full of
    /// entries that must not be evicted.
    ///
    /// That is every entry with [`Eviction::None`](crate::Eviction::None). In a cluster it is also
    /// what deleted and expired keys leave behind, with any eviction.
    #[error(
        "a node's memory limit of {max_memory} bytes is full of what must not be evicted: raise \
         Config::max_memory or add nodes; with Eviction::None, delete keys, give them a time to \
         live, or choose Eviction::Sieve"
    )]
    OutOfMemory {
        /// The limit of the node that is full, in bytes.
        max_memory: usize,
    },
    /// The key and its value would not fit if everything else were evicted.
    #[error(
        "the entry takes {bytes} bytes and a core's share of the memory limit is {share}: raise \
         Config::max_memory, run fewer cores, or store less under one key"
    )]
    EntryTooLarge {
        /// How much memory the key and the value take, with their index and timers, in bytes.
        bytes: usize,
        /// How much of [`Config::max_memory`](crate::Config::max_memory) each core has, in bytes.
        share: usize,
    },
    /// No replica could take the write before the deadline: no replica was reached, or those that
    /// were reached had no room for it.
    #[error(
        "no replica of the key could take the write in time: none was reached, or those that were \
         had no room for it"
    )]
    Unavailable,
    /// No core took the call before the deadline, or readers hold too much memory that was
    /// overwritten, deleted or evicted. Both pass by themselves.
    #[error(
        "overloaded: no core took the call before its deadline, or readers hold up too much \
         memory: call less, give it more time, keep what is given to Engine::read short"
    )]
    Overloaded,
    /// A closure on a core wrote a key that belongs to another core.
    #[error(
        "the key belongs to another core than the one that the closure runs on: give run_on a key \
         of that core, or write it outside of the closure"
    )]
    OtherCore,
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

/// Returns the text for how many acknowledgements a write may ask for.
fn acknowledgements(write_quorum: Count, replicas: Count) -> String {
    match replicas {
        Count::Exactly(_) => {
            format!("from {write_quorum} (write_quorum) to {replicas} (replicas) can be had")
        }
        Count::AllBut(_) => {
            "as every node keeps a copy, ask for Quorum::Configured or Quorum::All".to_owned()
        }
    }
}

/// Returns the text for how many answers a read may ask for.
fn answers(replicas: Count) -> String {
    match replicas {
        Count::Exactly(_) => format!("from 1 to {replicas} (replicas) can be had"),
        Count::AllBut(_) => format!(
            "as every node keeps a copy, from 1 to {MAX_REPLICAS} can be had, or Quorum::Majority \
             or Quorum::All"
        ),
    }
}

/// Why a closure that was to run on a core has no result.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunError {
    /// The closure did not run and will not run. It is safe to try again.
    #[error("not run: {0}")]
    NotApplied(#[from] NotApplied),
    /// The closure panicked. The engine goes on; writes that the closure made before may have
    /// happened.
    #[error("the closure panicked: {message}")]
    Panicked {
        /// The text of the panic, if it has one.
        message: String,
    },
    /// The closure ran to its end, but some of its writes were not acknowledged. Its result is
    /// lost.
    #[error("the closure ran, and {failed} of its writes failed, the first of them: {first}")]
    Write {
        /// How many writes were not acknowledged.
        failed: usize,
        /// The error of the first of them, which says whether that write may have happened.
        first: WriteError,
    },
    /// The closure may have run, or might still run, and its writes may have happened: no answer
    /// came in time.
    #[error("may have run: no answer came in time")]
    Indeterminate,
    /// The closure may have run: a thread of the engine failed during the call. The engine has
    /// stopped.
    #[error("may have run: the engine has failed and stopped (its log says why)")]
    EngineFailed,
}

/// Why a read has no answer. A read changes nothing, so it is always safe to try again.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// The key is longer than [`MAX_KEY_BYTES`], so it cannot exist.
    #[error("the key has {length} bytes, the most is {MAX_KEY_BYTES}")]
    KeyTooLong {
        /// The length of the key, in bytes.
        length: usize,
    },
    /// The call asks for zero answers, or for more than there are replicas. With
    /// [`Replicas::All`](crate::Replicas::All) it asks for more than [`MAX_REPLICAS`] as a number.
    #[error("the call asks for {asked} answers; {}", answers(*.replicas))]
    BadQuorum {
        /// The number that the call asked for.
        asked: usize,
        /// N.
        replicas: Count,
    },
    /// Fewer replicas are alive, as this node sees it, than must answer.
    ///
    /// With [`OnPartition::Majority`](crate::OnPartition::Majority) that is so as well if other
    /// nodes are alive and must not take the place of the key's replicas.
    #[error(
        "{needed} replicas must answer the read and {alive} are alive: start more nodes or wait \
         for them"
    )]
    NotEnoughReplicas {
        /// How many nodes can hold the key now.
        alive: usize,
        /// How many replicas must answer.
        needed: usize,
    },
    /// This node holds no current copy of the key, and
    /// [`ReadOptions::local`](crate::ReadOptions::local) allows no other.
    #[error("this node holds no copy of the key, and ReadOptions::local asks no other")]
    NotLocal,
    /// A closure on a core read a key that belongs to another core.
    #[error(
        "the key belongs to another core than the one that the closure runs on: give run_on a key \
         of that core, or read it outside of the closure"
    )]
    OtherCore,
    /// The replicas that answered have no value, and too few of them answered: another replica
    /// might have one. It is not known whether the key exists.
    ///
    /// The other replicas are cut off, slow or dead. If too few nodes are alive, the read fails at
    /// once, otherwise at its deadline. What this means is for the app to decide: a cache can treat
    /// it as a miss, but a session that was not confirmed to be gone might still be valid.
    #[error(
        "{answered} of the {needed} replicas that must agree have no value, and the others did not \
         answer: one of them might have it; try again, or start more nodes if some are gone"
    )]
    Unconfirmed {
        /// How many replicas answered. All of them have no value.
        answered: usize,
        /// How many replicas must have no value before the key is known not to exist.
        needed: usize,
    },
    /// Too few replicas answered before the deadline.
    #[error("{answered} of the {needed} replicas needed answered in time")]
    TimedOut {
        /// How many replicas answered.
        answered: usize,
        /// How many answers were needed.
        needed: usize,
    },
    /// No core took the call before the deadline.
    #[error(
        "overloaded: no core took the call before its deadline; call less, or give it more time"
    )]
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

/// Why [`Engine::get_or_insert_with`](crate::Engine::get_or_insert_with) has no value, or could not
/// store it. `E` is the loader's own error.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadError<E> {
    /// The key could not be read, so nothing was loaded.
    #[error("the key could not be read: {0}")]
    Read(#[from] ReadError),
    /// The loader failed. Nothing was stored, and the next caller loads.
    #[error("the value could not be loaded: {0}")]
    Loader(E),
    /// The value was loaded, but storing it failed, or may have failed.
    #[error("the value was loaded and could not be stored: {error}")]
    NotStored {
        /// The value that was loaded.
        value: Vec<u8>,
        /// Why it was not stored, and whether it may have been.
        error: WriteError,
    },
    /// Another caller is loading the key and has taken longer than this caller waits.
    #[error(
        "another caller is loading the key, for more than {waited:?}: raise \
         Config::request_timeout above what loading takes"
    )]
    TimedOut {
        /// How long this caller has waited.
        waited: Duration,
    },
    /// The loader asks for the key that it is loading, and would wait for itself.
    #[error("the loader asks for the key that it is to load, and would wait for itself")]
    Recursive,
}

/// Why a call was not submitted. Nothing happened, and no completion will come.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubmitError {
    /// All places of the [`Completions`](crate::Completions) are taken.
    #[error(
        "all {capacity} places for completions are taken: take completions, and drop them, before \
         submitting more"
    )]
    Full {
        /// How many places there are.
        capacity: usize,
    },
    /// A read asks for zero answers, or for more than there are replicas, as
    /// [`ReadError::BadQuorum`] says.
    #[error("the call asks for {asked} answers; {}", answers(*.replicas))]
    BadReadQuorum {
        /// The number that the call asked for.
        asked: usize,
        /// N.
        replicas: Count,
    },
    /// The call cannot be made, or not now. Reads use it too: for a key that is too long, a full
    /// queue, a stopped engine.
    #[error("not made: {0}")]
    NotApplied(#[from] NotApplied),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_printed_without_a_number_that_stands_for_all() {
        let write = |write_quorum, replicas| {
            NotApplied::BadQuorum { asked: 1, write_quorum, replicas }.to_string()
        };
        let read = |replicas| ReadError::BadQuorum { asked: 20, replicas }.to_string();
        assert_eq!(
            write(Count::Exactly(2), Count::Exactly(3)),
            "the call asks for 1 acknowledgements; from 2 (write_quorum) to 3 (replicas) can be had"
        );
        let of_all = write(Count::AllBut(1), Count::AllBut(0));
        assert!(of_all.ends_with("ask for Quorum::Configured or Quorum::All"), "{of_all}");
        assert_eq!(
            read(Count::Exactly(3)),
            "the call asks for 20 answers; from 1 to 3 (replicas) can be had"
        );
        let of_all = read(Count::AllBut(0));
        assert!(of_all.contains("from 1 to 16 can be had"), "{of_all}");
        let (read_quorum, replicas) = (17, Count::AllBut(0));
        let config = ConfigError::BadReadQuorum { read_quorum, replicas }.to_string();
        assert_eq!(config, "read_quorum is 17; it must be from 1 to 16 with Replicas::All");
    }
}
