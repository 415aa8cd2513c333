//! Apps whose address space is limited (`ulimit -v`).

use std::fs;

use gridkv::{Config, Engine, StartError};

use crate::support::engines::node;
use crate::support::wait::LATE;
use crate::{start_app, trial};

/// Limits the address space of this process to what it takes now and `bytes` more.
fn limit_address_space(bytes: u64) {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("Linux says it");
    let kib: u64 = size.trim().trim_end_matches(" kB").parse().expect("a number");
    let limit = libc::rlimit { rlim_cur: kib * 1024 + bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit lives during the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

/// Starts an engine with so many bytes to spare, and lets it work if it starts.
fn try_with(kib: u64, config: impl Fn() -> Config) {
    limit_address_space(kib * 1024);
    match Engine::start(config()) {
        Ok(engine) => {
            engine.wait_ready(LATE).expect("one node is enough");
            for n in 0..1000u32 {
                let key = n.to_le_bytes();
                engine.set(key, [7; 100]).expect("there is room");
                assert!(engine.get(key).expect("it serves").is_some());
            }
            drop(engine);
            println!("it works");
        }
        Err(error @ StartError::AddressSpace { .. }) => {
            assert!(error.to_string().contains("RLIMIT_AS"), "{error}");
            println!("it is refused: {error}");
        }
        Err(error) => println!("the system refuses: {error}"),
    }
}

/// Tries a range of limits, each with a process of its own: up to `most_mib`, closely at first.
fn all_work_or_are_refused(
    test: &str,
    environment: &[(&str, &str)],
    most_mib: u64,
    config: impl Fn() -> Config,
) {
    if let Some(kib) = trial(test) {
        return try_with(kib.parse().expect("a number"), config);
    }
    let (mut works, mut refused) = (0, 0);
    let limits = (0..most_mib * 1024).step_by(1 + most_mib as usize * 1024 / 40);
    for kib in limits {
        let output = start_app(test, &kib.to_string(), environment);
        let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        assert!(output.status.success(), "{kib} KiB: {}\n{out}\n{err}", output.status);
        works += usize::from(out.contains("it works"));
        refused += usize::from(out.contains("it is refused"));
    }
    assert!(works > 5 && refused > 5, "{works} work, {refused} are refused");
}

/// The timeout is long, as tests share their processors.
fn standalone() -> Config {
    Config::standalone("solo").request_timeout(LATE)
}

/// What keeps glibc from reserving memory for each thread.
const ONE_ARENA: &[(&str, &str)] = &[("MALLOC_ARENA_MAX", "1")];

/// The allocator gave the cores a page for each allocation if there was too little room, until
/// there was none left and the process aborted.
#[test]
fn a_standalone_engine_works_or_is_refused_under_any_limit() {
    let test = "limits::a_standalone_engine_works_or_is_refused_under_any_limit";
    all_work_or_are_refused(test, &[], 400, standalone);
}

#[test]
fn a_node_works_or_is_refused_under_any_limit() {
    let test = "limits::a_node_works_or_is_refused_under_any_limit";
    let config = || node("a").cores(2).replicas(1).max_memory(8 << 20);
    all_work_or_are_refused(test, &[], 800, config);
}

#[test]
fn a_node_without_arenas_works_or_is_refused_under_any_limit() {
    let test = "limits::a_node_without_arenas_works_or_is_refused_under_any_limit";
    let config = || node("a").cores(2).replicas(1).max_memory(2 << 20);
    all_work_or_are_refused(test, ONE_ARENA, 40, config);
}

/// Memory that an app promises to the engine and does not have is missed when it is needed, which
/// no process survives.
#[test]
fn a_memory_limit_above_the_address_space_is_refused() {
    let test = "limits::a_memory_limit_above_the_address_space_is_refused";
    let Some(max_memory) = trial(test) else {
        for (max_memory, outcome) in [(16, "it works"), (200, "it is refused")] {
            let output = start_app(test, &max_memory.to_string(), ONE_ARENA);
            let out = String::from_utf8_lossy(&output.stdout);
            assert!(out.contains(outcome), "{max_memory} MiB: {out}");
        }
        return;
    };
    let bytes = max_memory.parse::<usize>().expect("a number") << 20;
    try_with(100 * 1024, || standalone().max_memory(bytes));
}
