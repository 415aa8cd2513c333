//! An embedded, distributed, in-memory key-value engine: a library, not a server, without an async
//! runtime.
//!
//! Apps that embed it find each other, keep N copies of each key, and go on when one of them dies.
//!
//! ```
//! use gridkv::{Config, Engine};
//!
//! # fn main() -> Result<(), gridkv::Error> {
//! let engine = Engine::start(Config::standalone("app-1"))?;
//! engine.set("session:42", "Ada")?;
//! assert_eq!(engine.get("session:42")?.as_deref(), Some(&b"Ada"[..]));
//! # Ok(())
//! # }
//! ```
//!
//! A node of a cluster is given an address and the addresses of others ([`Config::new`]); everything else
//! stays the same.
//!
//! ```text
//!  app threads              core threads, one shard each
//! ┌────────────┐ local read ┌──────────────────────────────────────────┐
//! │ Engine     │───────────▶│ Store: table, timers, eviction           │
//! │ (a handle) │──call─────▶│ Shard: store, quorums, handoff           │◀─▶ peers, TCP
//! │            │◀─reply─────│                                          │
//! └────────────┘            └───────────────────▲──────────────────────┘
//!                                               │ placements, connections
//!                           ┌───────────────────┴──────────────────────┐
//!                           │ control thread: membership, placement,   │◀─▶ peers, UDP and TCP
//!                           │ accepting, handshakes                    │
//!                           └──────────────────────────────────────────┘
//! ```
//!
//! # Reading the source
//!
//! In this order: [`engine`](Engine), `wire/message`, `entry`, `store` and its `table`, `shard`,
//! `replication/write`, `runtime/core_thread`, and how calls reach it: `runtime/mailbox`, `ring`, `bell`, `slot`.
//! Everything outside `runtime` is pure: state machines that are told events and the time, and return actions. `sim`
//! drives the same code with a time and a network of its own.

mod clock;
mod completions;
mod config;
mod control;
mod discovery;
mod engine;
mod entry;
mod error;
mod events;
mod membership;
mod options;
mod placement;
mod prefetch;
mod quorums;
mod replication;
mod runtime;
mod shard;
#[cfg(feature = "sim")]
pub mod sim;
mod simulated;
mod store;
mod sync;
mod types;
mod wire;

pub use completions::{Completed, Completion, Completions, Ticket};
pub use config::Config;
pub use discovery::Discovery;
pub use engine::{Batch, Engine, LocalKeys, Stats, TimeToLive};
pub use error::{
    ConfigError, Error, LeaveError, LoadError, NotApplied, NotReady, NotSafe, ReadError, Risk, RunError,
    StartError, SubmitError, WriteError,
};
pub use events::{Event, Events, MemberInfo, MemberState};
pub use options::{Eviction, IdleStrategy, Quorum, ReadOptions, Replicas, WriteOptions};
pub use quorums::Count;
pub use shard::LocalShard;
pub use types::{MAX_CORES, MAX_KEY_BYTES, MAX_NAME_BYTES, MAX_REPLICAS, MAX_VALUE_BYTES, NodeId};

/// The code of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
