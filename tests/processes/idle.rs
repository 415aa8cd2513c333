//! What a process costs while nothing happens.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use gridkv::{Config, Engine};

use crate::support::process::{cluster, write};

/// What a process has used so far, and uses.
struct Usage {
    cpu: Duration,
    resident_kib: u64,
    /// How often each thread has gone to sleep, and for how many nanoseconds it has run, where the
    /// system counts these: the ticks are coarse.
    threads: BTreeMap<String, (u64, u64)>,
}

/// Returns what the process with this folder under `/proc` has used so far.
fn usage(process: &Path) -> Usage {
    let read = |path: &Path| fs::read_to_string(path).expect("Linux has it");
    let field = |text: &str, name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("Linux says it");
        line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    };
    let stat = read(&process.join("stat"));
    // Behind the name, which may have spaces; the times are the 14th and 15th field of all.
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    let threads = fs::read_dir(process.join("task")).expect("Linux has it");
    let threads = threads.map(|thread| {
        let folder = thread.unwrap().path();
        let status = read(&folder.join("status"));
        let run = fs::read_to_string(folder.join("schedstat")).unwrap_or_default();
        let run = run.split_whitespace().next().map_or(0, |nanos| nanos.parse().expect("a number"));
        let name =
            status.lines().next().and_then(|line| line.strip_prefix("Name:")).expect("a name");
        (name.trim().to_owned(), (field(&status, "voluntary_ctxt_switches:"), run))
    });
    Usage {
        // A hundred ticks a second, on every Linux there is.
        cpu: Duration::from_millis(10 * ticks),
        resident_kib: field(&read(&process.join("status")), "VmRSS:"),
        threads: threads.collect(),
    }
}

/// Leaves these processes alone for a while, and checks what each of them has used then.
fn assert_idle(what: &str, processes: &[PathBuf]) {
    let seconds =
        std::env::var("GRIDKV_IDLE_SECONDS").map_or(30.0, |text| text.parse().expect("a number"));
    let before: Vec<Usage> = processes.iter().map(|process| usage(process)).collect();
    thread::sleep(Duration::from_secs_f64(seconds));
    let after: Vec<Usage> = processes.iter().map(|process| usage(process)).collect();
    let mut is_idle = true;
    for (before, after) in before.iter().zip(&after) {
        let percent = (after.cpu - before.cpu).as_secs_f64() / seconds * 100.0;
        println!("{what}: {percent:.2} % of one CPU, {} KiB resident", after.resident_kib);
        for (thread, (sleeps, run)) in &after.threads {
            let (sleeps_before, run_before) = before.threads.get(thread).unwrap_or(&(0, 0));
            let slept = (sleeps - sleeps_before) as f64 / seconds;
            let percent = (run - run_before) as f64 / seconds / 1e7;
            println!(
                "    {thread} slept {slept:.1} times a second, and ran for {percent:.3} % of it"
            );
        }
        is_idle &= percent < 0.2 && after.resident_kib < 10 << 10;
    }
    assert!(is_idle, "{what}: more than 0.2 % of one CPU, or more than 10 MiB");
}

#[test]
#[ignore = "a minute on a machine with nothing else to do: CONTRIBUTING.md has the command"]
fn an_idle_engine_uses_next_to_nothing() {
    // In this process, so before anything in here can fail: that would print its stack, from a
    // hundred megabytes.
    let engine = Engine::start(Config::standalone("solo")).unwrap();
    for n in 0..1000 {
        engine.set(format!("k{n}"), "v").unwrap();
    }
    assert_idle("standalone", &["/proc/self".into()]);
    drop(engine);

    let mut nodes = cluster(3, &[]);
    write(&mut nodes[0], 1000);
    let processes: Vec<PathBuf> =
        nodes.iter().map(|node| format!("/proc/{}", node.child.id()).into()).collect();
    assert_idle("a node of three", &processes);
}
