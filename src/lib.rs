//! gridkv
mod clock;
mod entry;
mod membership;
mod types;
