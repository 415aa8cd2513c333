//! Real engines, all in this process, over sockets of this machine.
#![allow(clippy::disallowed_methods, reason = "tests are apps: they start threads, and wait")]

mod support;

mod batches;
mod closures;
mod clusters;
mod completions;
mod discovery;
mod everywhere;
mod fairness;
mod full;
mod loaders;
mod members;
mod one_engine;
mod reads;
mod starting_and_stopping;
mod stress;
