//! What an engine takes from its process it gives back: threads and descriptors. A binary of its own with
//! a single test, so that nobody else's are counted.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "tests are apps: they start threads, and wait")]

mod support;

use std::fs;
use std::thread;
use std::time::Duration;

use gridkv::{Config, Engine};
use support::{LATE, address, cluster, node, start, wait_until};

/// Threads and open descriptors of this process.
fn usage() -> (usize, usize) {
    let count = |folder: &str| fs::read_dir(folder).expect("Linux has it").count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}

fn thread_names() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux has it");
    let mut names: Vec<String> = tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| name.starts_with("gridkv"))
        .collect();
    names.sort();
    names
}

#[test]
fn nothing_is_left_of_an_engine_that_stopped() {
    // Whatever the process takes once and keeps, it takes now.
    drop(start(Config::standalone("warm-up")));
    let before = usage();
    let is_back = |what: &str| wait_until(&format!("{what}: {before:?} again"), || usage() == before);

    let engine = start(Config::standalone("solo").cores(3));
    // A thread names itself, in its own time.
    wait_until("its threads", || thread_names() == ["gridkv-core-0", "gridkv-core-1", "gridkv-core-2"]);
    engine.set("k", "v").unwrap();
    drop(engine);
    is_back("a standalone engine was dropped");

    let engine = start(node("a").cores(2));
    wait_until("its threads", || thread_names() == ["gridkv-control", "gridkv-core-0", "gridkv-core-1"]);
    let taken = address(&engine);
    let with_one = usage();
    assert!(Engine::start(Config::new("b", &taken).cores(4)).is_err());
    assert_eq!(usage(), with_one, "what does not start leaves nothing");
    drop(engine);
    is_back("a lone node was dropped");

    let stops: [fn(Engine); 3] = [drop, |engine| engine.abort(), |engine| engine.leave(LATE).unwrap()];
    for stop in stops {
        let engines = cluster(3, |config| config.cores(2));
        for n in 0..200 {
            engines[n % 3].set(format!("k{n}"), "v").unwrap();
        }
        engines.into_iter().for_each(stop);
        is_back("three nodes were stopped");
    }

    let engines = cluster(3, |config| config.request_timeout(Duration::from_millis(500)));
    thread::scope(|scope| {
        for engine in engines {
            scope.spawn(move || {
                for n in 0.. {
                    // Until the others are gone.
                    if engine.set(format!("k{n}"), "v").is_err() || n == 500 {
                        break;
                    }
                }
            });
        }
    });
    is_back("three nodes were dropped at work, each by another thread");

    let engine = start(Config::standalone("solo"));
    let events = engine.events();
    let keys = engine.local_keys("");
    drop((engine, keys));
    assert_eq!(events.next_within(Duration::ZERO), None);
    drop(events);
    is_back("a walk held the last handle");
}
