//! A node whose system clock is set while it runs. `libfaketime` stands between its process and the
//! C library's clocks: it moves wall time alone, by what a file says.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::process::{NodeProcess, wait_settled};
use crate::support::wait_until;

const HOUR_S: i64 = 3600;

/// How many keys have a time to live, of half an hour.
const KEYS: usize = 40;

/// The paths at which packages put the library.
const FOLDERS: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime",
    "/usr/lib/aarch64-linux-gnu/faketime",
    "/usr/lib64/faketime",
    "/usr/lib/faketime",
];

fn library() -> Option<PathBuf> {
    let found = FOLDERS.iter().map(|folder| Path::new(folder).join("libfaketimeMT.so.1"));
    let found = found.into_iter().find(|library| library.exists());
    if found.is_none() {
        println!("skipped: no clock can be set without libfaketime (apt-get install faketime)");
    }
    found
}

/// The wall clock of a process.
struct WallClock(PathBuf);

impl WallClock {
    fn new(test: &str) -> Self {
        let file = std::env::temp_dir().join(format!("gridkv-{test}-{}", std::process::id()));
        let clock = Self(file);
        clock.set(0);
        clock
    }

    /// Sets it to the time of the host and as many seconds.
    fn set(&self, ahead_s: i64) {
        // At once, as the process reads the file at any time.
        let new = self.0.with_extension("new");
        fs::write(&new, format!("{ahead_s:+}\n")).expect("a file for the clock");
        fs::rename(&new, &self.0).expect("the file is replaced");
    }

    /// Starts a node that goes by this clock.
    fn start(&self, library: &Path, id: &str, flags: &[&str]) -> NodeProcess {
        let preload = format!("LD_PRELOAD={}", library.display());
        let file = format!("FAKETIME_TIMESTAMP_FILE={}", self.0.display());
        let launcher = ["env", &preload, &file, "FAKETIME_NO_CACHE=1", "DONT_FAKE_MONOTONIC=1"];
        NodeProcess::start_by(&launcher, id, flags)
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Nodes `a` and `b` with the clock of the host, and `c` with one of its own. W = N, so that each
/// node believes what it has itself.
fn start(clock: &WallClock, library: &Path) -> Vec<NodeProcess> {
    let flags = ["--write-quorum", "3", "--cores", "2"];
    let first = NodeProcess::start("a", &flags);
    let seed = first.seed();
    let with_seed = [&flags[..], &["--seed", &seed]].concat();
    let mut nodes = vec![first, NodeProcess::start("b", &with_seed)];
    nodes.push(clock.start(library, "c", &with_seed));
    wait_settled(&mut nodes);
    nodes
}

fn keys(node: &mut NodeProcess) -> usize {
    let stats = node.ask("stats");
    let count = stats.split("keys: ").nth(1).and_then(|rest| rest.split(',').next());
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no keys in {stats}"))
}

/// Wall time was read once, at the start: a step of the system's clock never arrived, so that times
/// to live were wrong for as long as the process ran. A first remedy followed the steps, and left
/// keys expired that lived on all other nodes when the clock was right again.
#[test]
fn expiry_follows_the_system_clock_forward_and_back() {
    let Some(library) = library() else { return };
    let clock = WallClock::new("expiry");
    let mut nodes = start(&clock, &library);
    for n in 0..KEYS {
        nodes[n % 3].ok(&format!("setfor k{n} {n} 1800000"));
    }
    nodes.iter_mut().for_each(|node| assert_eq!(keys(node), KEYS));
    clock.set(HOUR_S);
    wait_until("the keys have expired on c", || {
        (0..KEYS).all(|n| nodes[2].ask(&format!("get k{n}")) == "none")
    });
    wait_until("c has freed them", || keys(&mut nodes[2]) == 0);
    for n in 0..KEYS {
        assert_eq!(nodes[0].ask(&format!("get k{n}")), format!("value {n}"));
    }
    // A time to live counts from the new time.
    nodes[2].ok("setfor short 1 1000");
    assert_eq!(nodes[2].ask("get short"), "value 1");
    wait_until("it is over", || nodes[2].ask("get short") == "none");
    clock.set(0);
    wait_until("the keys are back on c", || {
        (0..KEYS).all(|n| nodes[2].ask(&format!("get k{n}")) == format!("value {n}"))
    });
    assert!(keys(&mut nodes[2]) >= KEYS);
}

/// Versions go on growing from the latest time that a clock has shown: what is written later wins,
/// through any node, and nothing waits for the clock to get there.
#[test]
fn later_writes_win_whatever_the_clock_was_set_to() {
    let Some(library) = library() else { return };
    let clock = WallClock::new("versions");
    let mut nodes = start(&clock, &library);
    for (round, ahead_s) in [0, HOUR_S, 0, -HOUR_S, 30 * 24 * HOUR_S, 0].into_iter().enumerate() {
        clock.set(ahead_s);
        for n in 0..12 {
            // Through c last, and through it first.
            for writer in [2, n % 2, 2, (n + 1) % 2] {
                let value = format!("{round}-{n}-{writer}");
                nodes[writer].ok(&format!("set k{n} {value}"));
                for node in &mut nodes {
                    assert_eq!(node.ask(&format!("get k{n}")), format!("value {value}"));
                }
            }
            nodes[n % 3].ok(&format!("del k{n}"));
            for node in &mut nodes {
                assert_eq!(node.ask(&format!("get k{n}")), "none");
            }
        }
    }
    nodes[2].ok("wait-safe 10000");
    for node in &mut nodes {
        let alive = node.list("members").iter().filter(|line| line.ends_with(" Alive")).count();
        assert_eq!(alive, 3);
    }
}
