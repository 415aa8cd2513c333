//! gridkv
mod clock;
mod entry;
mod membership;
mod placement;
mod runtime;
mod types;
mod wire;
