//! What the report and the conventional suite share: the machine, the keys, the engine under test,
//! its rivals, and how two of them are compared.
//!
//! `cargo run --release -p gridkv-benches --bin report` is the main piece; `README.md` says how it
//! measures.

pub mod compare;
pub mod grid;
pub mod keys;
pub mod machine;
pub mod rivals;
