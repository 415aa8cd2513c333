//! gridkv
mod clock;
pub mod config;
mod entry;
pub mod error;
mod membership;
mod placement;
mod store;
mod replication;
mod shard;
mod types;
mod wire;
