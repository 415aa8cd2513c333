//! Clusters of processes over loopback, each the `node` example, some of which are killed.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "tests are apps: they start threads, and wait")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use gridkv::Config;
use support::process::{Node, cluster, spawn, wait_settled};
use support::{LATE, start, wait_until};

fn assert_readable(nodes: &mut [Node], keys: usize) {
    for node in nodes {
        for n in 0..keys {
            assert_eq!(node.ask(&format!("get k{n}")), format!("value {n}"));
        }
    }
}

fn write(node: &mut Node, keys: usize) {
    for n in 0..keys {
        node.ok(&format!("set k{n} {n}"));
    }
}

#[test]
fn what_one_wrote_survives_a_kill_and_the_copies_are_restored() {
    let mut nodes = cluster(3, &["--cores", "2"]);
    write(&mut nodes[0], 300);
    assert_readable(&mut nodes[1..], 300);
    nodes[1].ok("del k0");
    wait_until("a local copy is old for a moment at most", || nodes[2].ask("get k0") == "none");
    nodes[2].ok("set k0 0");

    // Two of the three copies are acknowledged; the last one may be on its way.
    for node in &mut nodes {
        wait_until("three copies", || node.list("keys k").len() == 300);
    }
    nodes[2].signal("-KILL");
    nodes.pop();
    assert_readable(&mut nodes, 300);
    for node in &mut nodes {
        wait_until("the death is known", || node.sees("c", "Dead"));
    }
    nodes[0].ok("set during 1");

    let seed = nodes[1].seed();
    nodes.push(Node::start("d", &["--seed", &seed]));
    wait_settled(&mut nodes);
    for node in &mut nodes {
        wait_until("three copies again", || node.list("keys k").len() == 300);
    }
    assert_readable(&mut nodes, 300);
    assert_eq!(nodes[2].ask("get during"), "value 1");
    for node in nodes {
        assert!(node.end().success());
    }
}

#[test]
fn whoever_leaves_hands_over_and_is_remembered_as_left() {
    let mut nodes = cluster(3, &["--replicas", "2"]);
    write(&mut nodes[0], 200);
    let mut leaving = nodes.remove(1);
    leaving.ok("leave");
    assert!(leaving.end().success());
    for node in &mut nodes {
        wait_until("it left", || node.sees("b", "Left"));
        wait_until("each of two nodes holds both copies", || node.list("keys k").len() == 200);
    }
    assert_readable(&mut nodes, 200);
}

#[test]
fn a_node_that_restarts_takes_its_keys_back() {
    let mut nodes = cluster(3, &[]);
    write(&mut nodes[0], 100);
    let address = nodes[2].seed();
    let seed = nodes[0].seed();
    nodes.pop();
    // Its first life may not even be missed yet.
    nodes.push(Node::start("c", &["--address", &address, "--seed", &seed]));
    wait_settled(&mut nodes);
    for node in &mut nodes {
        wait_until("three copies", || node.list("keys k").len() == 100);
    }
    assert_readable(&mut nodes, 100);
}

#[test]
fn another_clusters_node_is_refused_on_both_sides_in_clear_words() {
    let mut nodes = cluster(2, &["--cluster", "shop"]);
    let seed = nodes[0].seed();
    let mut stranger = Node::start("x", &["--cluster", "stock", "--seed", &seed]);
    let text = "give both the same Config::cluster";
    wait_until("the member says so", || nodes[0].stderr().contains(text));
    wait_until("the stranger says so", || stranger.stderr().contains(text));
    let error = stranger.error("wait-ready 10");
    assert!(error.contains("members needed: 2, here: 1") && error.contains(text), "{error}");
    let error = stranger.error("set k v");
    assert!(error.contains("not applied") && error.contains("2 replicas must acknowledge"), "{error}");
    assert_eq!(stranger.end().code(), Some(1), "a command had failed");
    assert_eq!(nodes[0].list("members").len(), 2);
    nodes[0].ok("set k v");
}

#[test]
fn a_cluster_works_under_every_idle_strategy() {
    for idle in ["park", "adaptive", "busy"] {
        // The timeout is the default one.
        let mut nodes = cluster(3, &["--idle", idle, "--timeout-ms", "2000"]);
        for n in 0..60 {
            nodes[n % 3].ok(&format!("set k{n} {n}"));
        }
        assert_readable(&mut nodes, 60);
    }
}

/// What a node that does not start says, and its exit code.
fn failure(flags: &[&str]) -> (Option<i32>, String) {
    let output = spawn("x", flags).wait_with_output().expect("it ends");
    assert!(output.stdout.is_empty(), "{:?}", String::from_utf8_lossy(&output.stdout));
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_port_in_use_and_bad_flags_end_it_with_clear_words() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, text) = failure(&["--address", &address]);
    assert_eq!(code, Some(1));
    assert!(text.contains(&format!("error: {address} is in use")), "{text}");

    let (code, text) = failure(&["--address", "0.0.0.0:0"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("names no interface"), "{text}");

    for flags in [&["--replicas", "many"][..], &["--nonsense", "1"], &["--seed"]] {
        let (code, text) = failure(flags);
        assert_eq!(code, Some(2));
        assert!(text.starts_with("error: ") && text.contains("usage: node --id NAME"), "{text}");
    }
}

#[test]
fn a_write_to_a_stopped_replica_says_how_far_it_got_and_then_what_is_missing() {
    // Silence is noticed after two probes and the suspicion: far longer than the write's timeout.
    let flags = ["--write-quorum", "3", "--probe-period-ms", "500", "--suspicion-timeout-ms", "2000"];
    let mut nodes = cluster(3, &flags);
    nodes[0].ok("set k v");
    nodes[2].pause();

    let begun = Instant::now();
    let error = nodes[0].error("setq k w 3 300");
    let took = begun.elapsed();
    assert!(error.contains("may have happened: 2 of the 3 replicas needed acknowledged"), "{error}");
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(1), "it took {took:?}");
    assert!(!nodes[0].sees("c", "Dead"), "it was to time out before the death is known");

    wait_until("the death is known", || nodes[0].sees("c", "Dead"));
    let begun = Instant::now();
    let error = nodes[0].error("setq k x 3 5000");
    assert!(error.contains("not applied: 3 replicas must acknowledge the write and 2 are alive"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(1), "it took {:?}", begun.elapsed());
    assert_eq!(nodes[1].ask("get k"), "value w");

    // It was only asleep: it finds itself dead to the others, comes back and catches up.
    nodes[2].resume();
    wait_until("it says that it is back", || nodes[2].stderr().contains("event: Returned"));
    wait_settled(&mut nodes);
    nodes[0].ok("set k y");
    for node in &mut nodes {
        assert_eq!(node.ask("get k"), "value y");
    }
    nodes[2].ok("set k z");
    assert_eq!(nodes[0].ask("get k"), "value z");
}

#[test]
fn whatever_comes_to_its_ports_a_node_keeps_serving() {
    let mut nodes = cluster(2, &[]);
    nodes[0].ok("set k v");
    let target = nodes[0].address;
    let mut random = Random(42);
    let noise: Vec<u8> = (0..100_000).map(|_| random.next() as u8).collect();
    let hello_of_another_version = header(1, 64);
    let messages: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        vec![],
        vec![0],
        vec![0; 16],
        vec![0xff; 16],
        header(1, u32::MAX),
        header(2, 1 << 30),
        [header(1, 64), vec![0; 64]].concat(),
        [header(77, 8), vec![7; 8]].concat(),
        hello_of_another_version[..9].to_vec(),
        [hello_of_another_version, vec![0xee; 64]].concat(),
        noise.clone(),
    ];
    for message in &messages {
        let mut stream = TcpStream::connect(target).unwrap();
        // It may hang up before all is written.
        let _ = stream.write_all(message);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream.set_read_timeout(Some(LATE)).unwrap();
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::ConnectionReset,
                "it did not hang up on {message:?}"
            );
        }
        assert!(answer.len() < 4096, "it says little to strangers");
    }
    // Some say nothing, and some go away in the middle.
    let silent: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(target).unwrap()).collect();
    for mut stream in (0..50).map(|_| TcpStream::connect(target).unwrap()) {
        let _ = stream.write_all(&header(1, 500));
    }
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..2000 {
        let length = random.next() as usize % 2000;
        let from = random.next() as usize % (noise.len() - length);
        let _ = socket.send_to(&noise[from..from + length], target);
    }
    nodes[0].ok("set k w");
    assert_eq!(nodes[1].ask("get k"), "value w");
    for node in &mut nodes {
        assert_eq!(node.list("members").iter().filter(|line| line.ends_with(" Alive")).count(), 2);
    }
    drop(silent);
    for node in nodes {
        assert!(node.end().success());
    }
}

#[test]
fn a_node_of_another_protocol_version_is_refused_in_clear_words() {
    // A real HELLO, from a node whose seed is this test.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let curious = Node::start("x", &["--seed", &listener.local_addr().unwrap().to_string()]);
    let (mut stream, _) = listener.accept().unwrap();
    let mut hello = vec![0; 16];
    stream.read_exact(&mut hello).unwrap();
    let length = u32::from_le_bytes(hello[..4].try_into().unwrap()) as usize;
    hello.resize(16 + length.next_multiple_of(16), 0);
    stream.read_exact(&mut hello[16..]).unwrap();
    drop((curious, stream));

    let mut nodes = cluster(2, &[]);
    let target = nodes[0].address;
    // It speaks versions 1 to 1, wherever in the message it says so.
    let places = (16..hello.len() - 4).filter(|&at| hello[at..at + 4] == [1, 0, 1, 0]);
    let refusals = places.filter(|&at| {
        let mut changed = hello.clone();
        changed[at..at + 4].copy_from_slice(&[9, 0, 10, 0]);
        let mut stream = TcpStream::connect(target).unwrap();
        stream.write_all(&changed).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).contains("speaks 9..=10: upgrade one version at a time")
    });
    assert_eq!(refusals.count(), 1);
    nodes[0].ok("set k v");
    assert_eq!(nodes[1].ask("get k"), "value v");
}

/// The header of a frame of this type, for partition zero.
fn header(kind: u8, length: u32) -> Vec<u8> {
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.resize(16, 0);
    bytes[4] = kind;
    bytes
}

/// SplitMix64: the same noise in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

// ── what costs something though nothing happens ─────────────────────────────────────────────────────────

/// What a process has used so far, and uses.
struct Usage {
    cpu: Duration,
    resident_kib: u64,
    /// How often each thread has gone to sleep, and for how many nanoseconds it has run, where the system counts
    /// these: the ticks are coarse.
    threads: BTreeMap<String, (u64, u64)>,
}

/// Of the process with this folder under `/proc`.
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
        let name = status.lines().next().and_then(|line| line.strip_prefix("Name:")).expect("a name");
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
    let seconds = std::env::var("GRIDKV_IDLE_SECONDS").map_or(30.0, |text| text.parse().expect("a number"));
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
                "    {thread} went to sleep {slept:.1} times a second, and ran for {percent:.3} % of it"
            );
        }
        is_idle &= percent < 0.2 && after.resident_kib < 10 << 10;
    }
    assert!(is_idle, "{what}: more than 0.2 % of one CPU, or more than 10 MiB");
}

#[test]
#[ignore = "a minute on a machine with nothing else to do: cargo test --release --test processes idle_engine -- --ignored --nocapture"]
fn an_idle_engine_uses_next_to_nothing() {
    // In this process, so before anything in here can fail: that would print its stack, from a hundred megabytes.
    let engine = start(Config::standalone("solo"));
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
