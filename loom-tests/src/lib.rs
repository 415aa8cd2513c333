//! Models of the lock-free parts of gridkv: a writer and its readers, app threads and core threads.
//! They run in every order that the memory model allows, by loom (after Norris & Demsky,
//! "CDSChecker", OOPSLA '13).
//!
//! ```sh
//! RUSTFLAGS="--cfg gridkv_loom" CARGO_TARGET_DIR=target/loom \
//!     cargo test --release -p gridkv-loom-tests
//! ```
//!
//! What runs is the source that ships: it is compiled here a second time, with loom's atomics for
//! the standard library's and with a segment of four slots. Without the flag this crate is empty.
//!
//! Each model runs as it is and must hold, and then with each of its mutants (`OrderingMutant` in
//! `src/mutants.rs`) left out, which it must reject for the reason that it names. A model that
//! holds with its mutant too has proved nothing.
//!
//! # What is left out
//!
//! - In the larger models, orders with more than four switches from a thread that could have gone
//!   on, or three if there are three threads: the *preemption bound*. Which store a load sees is
//!   not bounded by it. The others, with `preemptions: None`, run in all orders.
//! - The fence on every processor: in the models readers run a fence too. The argument for the
//!   other is in `src/store/reclaim.rs`.
//! - The instructions that compare tags on x86-64: the models run what other processors do.
//! - Time: a deadline has passed already, or never does.
//! - That processors may order sequentially consistent fences less strictly than loom does, for
//!   which two of them synchronize. The argument of `src/store/reclaim.rs` needs no more than that
//!   one comes first.
//! - The tree of crafted keys, which only the owner looks into: it takes longer arrays than loom
//!   can bear.
//! - Which slot of a `thread_local` a thread has: the threads of a model keep their places by
//!   themselves.

// Not as a test of its own: the source's unit tests would come along, which are not loom's.
#![cfg(all(gridkv_loom, not(test)))]
#![expect(
    dead_code,
    unreachable_pub,
    unused_imports,
    unused_macros,
    reason = "the models use a part of the engine's source"
)]

#[path = "../../src/runtime/bell.rs"]
mod bell;
#[path = "../../src/clock.rs"]
mod clock;
#[path = "../../src/entry/mod.rs"]
mod entry;
#[path = "../../src/logging.rs"]
mod logging;
#[path = "../../src/runtime/mailbox.rs"]
mod mailbox;
#[path = "../../src/mutants.rs"]
mod mutants;
#[path = "../../src/options.rs"]
mod options;
#[path = "../../src/runtime/parker.rs"]
mod parker;
#[path = "../../src/prefetch.rs"]
mod prefetch;
#[path = "../../src/runtime/ring.rs"]
mod ring;
#[path = "../../src/runtime/slot.rs"]
mod slot;
#[path = "../../src/store/mod.rs"]
mod store;
#[path = "../../src/sync.rs"]
mod sync;
#[path = "../../src/types.rs"]
mod types;
#[path = "../../src/runtime/wait_list.rs"]
mod wait_list;

mod calls;
mod graveyard;
mod harness;
mod models;

pub use calls::*;
pub use harness::Model;
pub use models::*;
