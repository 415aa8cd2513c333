//! A binary of its own, because its tests count what the whole process has: threads and open files.
//! They run one at a time.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "tests are apps: they start threads, and wait")]

#[path = "../support/dice.rs"]
mod dice;
#[path = "../support/stress.rs"]
mod stress;
#[path = "../support/mod.rs"]
mod support;

mod left_behind;
mod storm;

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Returns the process, until the guard is dropped.
fn process() -> MutexGuard<'static, ()> {
    static PROCESS: Mutex<()> = Mutex::new(());
    // A test that failed says so itself.
    PROCESS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The names of all threads of this process, sorted.
fn thread_names() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux has it");
    let mut names: Vec<String> = tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect();
    names.sort();
    names
}

/// The names of the threads that engines started, sorted.
fn engine_threads() -> Vec<String> {
    thread_names().into_iter().filter(|name| name.starts_with("gridkv")).collect()
}
