//! Every input that the fuzzers kept, handed to the functions that they drive.
//!
//! So what a fuzzer found once stays found, on machines that have none. `fuzz/README.md` says how
//! the corpus is made. The name of an input that fails is the last line that the test prints.

#[path = "../../fuzz/peak.rs"]
mod peak;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use gridkv::fuzzing;

const TARGETS: [&str; 12] = [
    "claims",
    "config",
    "datagrams",
    "frames",
    "hello",
    "introductions",
    "keys",
    "messages",
    "opening",
    "sealed",
    "swim",
    "tls",
];

/// The most that all inputs together may take in the repository.
const MAX_CORPUS_BYTES: u64 = 2 << 20;

/// A path below the crate of the fuzzers.
fn fuzz(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(path)
}

/// The files of a folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Hands each input of a target to its function.
fn replay(target: &str, run: impl Fn(&[u8])) {
    let inputs = files(&fuzz("corpus").join(target));
    assert!(inputs.len() >= 10, "{} inputs", inputs.len());
    run(&[]);
    for input in inputs {
        println!("{}", input.display());
        run(&fs::read(&input).unwrap());
    }
}

#[test]
fn frames() {
    replay("frames", fuzzing::frames);
}

#[test]
fn messages() {
    replay("messages", |bytes| fuzzing::messages(bytes, peak::peak_bytes));
}

#[test]
fn datagrams() {
    replay("datagrams", fuzzing::datagrams);
}

#[test]
fn hello() {
    replay("hello", fuzzing::hello);
}

#[test]
fn claims() {
    replay("claims", fuzzing::claims);
}

#[test]
fn config() {
    replay("config", fuzzing::config);
}

#[test]
fn sealed() {
    replay("sealed", fuzzing::sealed);
}

#[test]
fn opening() {
    replay("opening", fuzzing::opening);
}

#[test]
fn introductions() {
    replay("introductions", fuzzing::introductions);
}

#[test]
fn keys() {
    replay("keys", fuzzing::keys);
}

#[test]
fn tls() {
    replay("tls", |bytes| fuzzing::tls(bytes, peak::peak_bytes));
}

#[test]
fn swim() {
    replay("swim", fuzzing::swim);
}

/// A target that was forgotten above fails this test, as does an allocator that counts nothing.
#[test]
fn every_target_has_a_corpus_and_all_of_it_is_small() {
    let stems = |folder: &str| -> BTreeSet<String> {
        let files = files(&fuzz(folder));
        files.iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let known: BTreeSet<String> = TARGETS.iter().map(|target| (*target).to_owned()).collect();
    assert_eq!(stems("fuzz_targets"), known);
    assert_eq!(stems("corpus"), known);
    let inputs = TARGETS.iter().flat_map(|target| files(&fuzz("corpus").join(target)));
    let bytes: u64 = inputs.map(|input| fs::metadata(input).unwrap().len()).sum();
    assert!(bytes <= MAX_CORPUS_BYTES, "{bytes} bytes");
    assert_eq!(peak::peak_bytes(&mut || drop(vec![0u8; 1000])), 1000);
}
