//! gridkv
mod clock;
pub mod config;
mod entry;
pub mod error;
mod membership;
mod placement;
mod store;
mod types;
mod wire;
