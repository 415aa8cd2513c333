//! The arrows that must never exist, read off the source.

use std::fs;
use std::path::{Path, PathBuf};

/// Where logic is pure: it takes time, events and chance as arguments and returns actions.
const PURE: &[&str] = &[
    "clock.rs",
    "control",
    "entry.rs",
    "membership",
    "placement.rs",
    "replication",
    "shard",
    "sim",
    "store",
    "types.rs",
    "wire",
];

/// What pure code never names: the system, and whoever drives it.
const IMPURE: &[&str] = &[
    "std::thread",
    "std::io",
    "std::process",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "std::time::Instant",
    "SystemTime",
    "mio::",
    "socket2::",
    "crossbeam::",
    "thread_rng",
    "rand::rng(",
    "RandomState",
    "crate::runtime",
    "crate::engine",
];

/// What may have unsafe code: memory that is shared without locks.
const UNSAFE: &[&str] =
    &["entry.rs", "prefetch.rs", "runtime/ring.rs", "runtime/slot.rs", "store/reclaim.rs", "store/table.rs"];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file at or below `path`.
fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    entries.flat_map(|entry| files(&entry.unwrap().path())).collect()
}

/// The lines of a file that are code: no comments, no tests.
fn code(path: &Path) -> String {
    let parts = path.strip_prefix(source()).unwrap();
    if parts.ends_with("tests.rs") || parts.iter().any(|part| part == "tests") {
        return String::new();
    }
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

fn assert_absent(parts: &[&str], names: &[&str]) {
    for file in parts.iter().flat_map(|part| files(&source().join(part))) {
        let code = code(&file);
        for name in names {
            assert!(!code.contains(name), "{} names {name}", file.display());
        }
    }
}

#[test]
fn pure_code_names_neither_the_system_nor_its_drivers() {
    assert_absent(PURE, IMPURE);
}

#[test]
fn store_and_replication_meet_in_the_shard_alone() {
    assert_absent(&["store"], &["crate::replication", "crate::shard"]);
    assert_absent(&["replication"], &["crate::store", "crate::shard"]);
}

#[test]
fn sockets_know_neither_shard_nor_store() {
    assert_absent(
        &["runtime/net"],
        &["crate::shard", "crate::store", "crate::control", "crate::replication"],
    );
}

#[test]
fn nothing_but_the_simulator_names_the_simulator() {
    for file in files(&source()).into_iter().filter(|file| !file.starts_with(source().join("sim"))) {
        let code = code(&file);
        let names_it = code.contains("crate::sim::") || code.contains("crate::sim;");
        assert!(!names_it, "{} names the simulator", file.display());
    }
}

#[test]
fn nothing_names_the_engine() {
    let is_below = |file: &PathBuf| !file.ends_with("engine.rs") && !file.ends_with("lib.rs");
    for file in files(&source()).into_iter().filter(is_below) {
        assert!(!code(&file).contains("crate::engine"), "{} names the engine", file.display());
    }
}

#[test]
fn unsafe_code_is_where_it_belongs() {
    let is_elsewhere = |file: &PathBuf| !UNSAFE.iter().any(|part| file.starts_with(source().join(part)));
    for file in files(&source()).into_iter().filter(is_elsewhere) {
        assert!(!code(&file).contains("unsafe "), "{} has unsafe code", file.display());
    }
}
