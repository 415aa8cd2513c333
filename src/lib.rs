//! gridkv
mod clock;
mod entry;
mod placement;
mod types;
