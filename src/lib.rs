//! gridkv
mod clock;
pub mod config;
mod entry;
mod membership;
mod types;
mod wire;
