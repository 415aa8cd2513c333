//! gridkv
mod clock;
mod entry;
mod types;
