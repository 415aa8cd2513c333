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
//! A node of a cluster is given its own address and the addresses of others ([`Config::new`]). All
//! else stays the same.
//!
//! # How it works
//!
//! ```text
//!  app threads               core threads, one shard each
//! ┌────────────┐ local read ┌──────────────────────────────────────────┐
//! │ Engine     │───────────▶│ store: table, expiry, eviction           │
//! │ (a handle) │───call────▶│ shard: copies, quorums, handoff          │◀─▶ peers, TCP
//! │            │◀──reply────│                                          │
//! └────────────┘            └───────────────────▲──────────────────────┘
//!                                               │ placements, connections
//!                           ┌───────────────────┴──────────────────────┐
//!                           │ control thread: membership, placement,   │◀─▶ peers, UDP and TCP
//!                           │ accepting, handshakes                    │
//!                           └──────────────────────────────────────────┘
//! ```
//!
//! A key's hash names its partition, one of 4096. A partition has one owner core on this node, and
//! N replicas in the cluster. Only the owner core changes its shard. App threads read the shard's
//! table directly, and send everything else as a message.
//!
//! # Security
//!
//! Without [`Config::security`](Config#method.security) any host that reaches the port of a node
//! can read and write all keys, and can end the node: run it on a network that you trust. With it,
//! all nodes share one cluster key of 32 random bytes.
//!
//! - Connections are TLS 1.3 between nodes that have both proved the key. Datagrams are encrypted
//!   and authenticated with keys that are derived from it.
//! - A host without the key can neither read, nor write, nor join. A host with it is trusted.
//! - [`Engine::update_security`](Engine#method.update_security) replaces the key while all nodes
//!   run. `Security::optional` is for a cluster that runs without security and is given a key.
//! - `Security::certificates` also requires certificates of a PKI, which say what node id their
//!   holder may have.
//!
//! ```no_run
//! use gridkv::{ClusterKey, Config, Engine, Security};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Made once, for all nodes, by: openssl rand -hex 32
//! let key = ClusterKey::from_file("/run/secrets/gridkv.key")?;
//! let config = Config::new("app-1", "10.0.0.1:8001").security(Security::cluster_key(key));
//! let engine = Engine::start(config)?;
//! # Ok(())
//! # }
//! ```
//!
//! The feature `security`, which is on by default, brings it, and needs a C compiler. `ring` and
//! `rustls` do the cryptography.
//!
//! # The house
//!
//! The source is a house of rooms on floors. A room names only rooms below it, and a test holds it
//! to that.
//!
//! ```text
//! ┌──────────┬────────────────────────────────────────────────────────────────────────────┐
//! │ top      │ lib          this tour                                                     │
//! │          │ engine       the handle: what an app can do                                │
//! ├──────────┼────────────────────────────────────────────────────────────────────────────┤
//! │ drivers  │ fuzzing      what the fuzzers drive (in their builds, and in tests)        │
//! │          │ runtime      threads, sockets, the system's clock                          │
//! │          │ sim          the same control and shard in virtual time (feature "sim")    │
//! ├──────────┼────────────────────────────────────────────────────────────────────────────┤
//! │ protocol │ control      members -> placement -> what the cores are told               │
//! │          │ shard        one core's share of a node: it joins three parts              │
//! │          │  ├ coordinator   the calls of this node's apps                             │
//! │          │  ├ replica       the copies that this core keeps                           │
//! │          │  └ data_centers  what passes between sites                                 │
//! │          │ replication  one machine a file: quorum, write, read, handoff,             │
//! │          │              anti_entropy, purge, relay                                    │
//! ├──────────┼────────────────────────────────────────────────────────────────────────────┤
//! │ ground   │ config       what an app chose, checked                                    │
//! │          │ wire         messages, frames, handshake, codec, timing                    │
//! │          │ store        the table of a core: merge, limit, expiry, walk               │
//! │          │ membership, security, placement, entry, quorums, types, clock, events,     │
//! │          │ error, options, discovery, sync, logging, mutants                          │
//! └──────────┴────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The protocol and the ground are pure, except for the table's memory: state machines that get
//! events and the time, and return actions. They own no thread, socket, clock or random source. So
//! the simulator runs the same code as production, and replays a history from one number.
//!
//! # Reading the source
//!
//! In this order, in half an hour:
//!
//! 1. `engine/mod.rs`: what an app can do.
//! 2. `wire/message.rs`: what nodes say to each other, as one story.
//! 3. `shard/interface.rs` and `shard/mod.rs`: what goes into a shard and what comes out.
//! 4. `shard/coordinator/writes.rs` with `replication/write.rs`: how a write is acknowledged.
//! 5. `shard/replica/serve.rs` with `entry/mod.rs`: how a replica applies it.
//! 6. `shard/replica/lists.rs` with `replication/handoff`: how replicas change without a loss.
//! 7. `runtime/core_thread.rs`: the loop that drives a shard.
//! 8. `sim/mod.rs`: the same shard under virtual time.

// The top.
mod engine;

// The drivers.
#[cfg(any(fuzzing, test, feature = "sim"))]
#[doc(hidden)]
pub mod fuzzing;
mod runtime;
#[cfg(feature = "sim")]
pub mod sim;

// The protocol.
mod control;
mod replication;
mod shard;

// The ground.
mod clock;
mod config;
#[cfg(test)]
mod counting;
mod discovery;
mod entry;
mod error;
mod events;
mod logging;
mod membership;
mod mutants;
mod options;
mod placement;
mod prefetch;
mod quorums;
#[cfg(feature = "security")]
mod security;
#[cfg(not(feature = "security"))]
#[path = "security/absent.rs"]
mod security;
mod store;
mod sync;
mod types;
mod wire;

pub use config::Config;
pub use discovery::Discovery;
pub use engine::{Batch, Engine, LocalKeys, Stats, TimeToLive};
#[cfg(feature = "security")]
pub use error::UpdateSecurityError;
pub use error::{
    ConfigError, Error, LeaveError, LoadError, NotApplied, NotReady, NotSafe, ReadError, Risk,
    RunError, StartError, SubmitError, WriteError,
};
#[cfg(feature = "security")]
pub use events::MemberSecurity;
pub use events::{Event, Events, MemberInfo, MemberState};
pub use options::{
    Eviction, IdleStrategy, OnPartition, Quorum, ReadOptions, Replicas, WriteOptions,
};
pub use quorums::Count;
pub use runtime::completions::{Completed, Completion, Completions, Ticket};
#[cfg(feature = "security")]
pub use security::{
    Certificates, CertificatesError, ClusterKey, ClusterKeyError, Fingerprint, FingerprintError,
    KeyId, KeyringError, Names, NodeIdentity, NodeIdentityError, Security,
};
pub use shard::LocalShard;
pub use types::{MAX_CORES, MAX_KEY_BYTES, MAX_NAME_BYTES, MAX_REPLICAS, MAX_VALUE_BYTES, NodeId};

/// The code of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
