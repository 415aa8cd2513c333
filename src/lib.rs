//! gridkv
mod clock;
mod config;
mod control;
mod entry;
mod error;
mod events;
mod membership;
mod placement;
mod replication;
mod shard;
#[cfg(feature = "sim")]
pub mod sim;
mod store;
mod types;
mod wire;
pub use config::Config;
pub use error::*;
pub use events::*;
