//! gridkv
mod clock;
mod entry;
mod membership;
mod placement;
mod types;
mod wire;
