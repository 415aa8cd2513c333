//! Clusters of processes, each in a network of its own, whose cables are pulled.
//!
//! [`Wires`] are two bridges, left and right, which a cable joins, with a host for each node. If
//! the system does not allow networks of their own (to root, most do), the tests say so and pass.

use std::time::{Duration, Instant};

use crate::support::load::Load;
use crate::support::process::NodeProcess;
use crate::support::wait_until;
use crate::support::wires::{Wires, wait_sees, wait_whole};

/// A write that a side makes soon after it was cut off: it may have to be tried again.
fn wait_ok(node: &mut NodeProcess, command: &str) {
    wait_until(command, || node.ask(command) == "ok");
}

/// What each node says is the same, and is this, unless that is up to them.
fn assert_same(nodes: &mut [NodeProcess], key: &str, expected: &[&str]) {
    let command = format!("get {key}");
    let found: Vec<String> = nodes.iter_mut().map(|node| node.ask(&command)).collect();
    assert!(
        expected.contains(&&*found[0]) && found.iter().all(|other| *other == found[0]),
        "{key}: {found:?} and not {expected:?}"
    );
}

// ── cables are pulled ──

#[test]
fn both_halves_serve_and_merge_and_what_was_deleted_in_either_stays_deleted() {
    let Some(wires) = Wires::new(2, 2) else { return };
    let mut nodes = wires.cluster(&[]);
    for n in 0..100 {
        nodes[n % 4].ok(&format!("set k{n} before"));
    }
    nodes[0].ok("wait-safe 20000");

    wires.set_cable("down");
    let (left, right) = nodes.split_at_mut(2);
    left.iter_mut().for_each(|node| wait_sees(node, &[2, 3], "Dead"));
    right.iter_mut().for_each(|node| wait_sees(node, &[0, 1], "Dead"));
    for n in 0..20 {
        wait_ok(&mut left[n % 2], &format!("del k{n}"));
        wait_ok(&mut right[n % 2], &format!("del k{}", 20 + n));
        wait_ok(&mut left[n % 2], &format!("set k{} left", 40 + n));
        wait_ok(&mut right[n % 2], &format!("set k{} right", 40 + n));
        wait_ok(&mut left[n % 2], &format!("set l{n} left"));
        wait_ok(&mut right[n % 2], &format!("set r{n} right"));
    }
    for node in left.iter_mut() {
        assert_eq!(node.ask("get l7"), "value left");
        assert_eq!(node.ask("get k45"), "value left");
        assert_eq!(node.ask("get r7"), "none");
        assert_eq!(node.ask("get k7"), "none");
    }
    for node in right.iter_mut() {
        assert_eq!(node.ask("get r7"), "value right");
        assert_eq!(node.ask("get k45"), "value right");
        assert_eq!(node.ask("get l7"), "none");
        assert_eq!(node.ask("get k27"), "none");
    }
    // Each half is two nodes of three.
    assert!(left[0].error("wait-safe 200").contains("no node should be stopped yet"));

    let begun = Instant::now();
    wires.set_cable("up");
    wait_whole(&mut nodes);
    println!("two halves: merged after {:.1?}", begun.elapsed());
    for n in 0..40 {
        assert_same(&mut nodes, &format!("k{n}"), &["none"]);
    }
    for n in 0..20 {
        // One of two concurrent writes stays, the same one everywhere.
        assert_same(&mut nodes, &format!("k{}", 40 + n), &["value left", "value right"]);
        assert_same(&mut nodes, &format!("l{n}"), &["value left"]);
        assert_same(&mut nodes, &format!("r{n}"), &["value right"]);
    }
    for n in 60..100 {
        assert_same(&mut nodes, &format!("k{n}"), &["value before"]);
    }
    let copies: usize = nodes.iter_mut().map(|node| node.list("keys").len()).sum();
    assert_eq!(copies, 3 * (60 + 40), "three copies of each key that is there, and of no other");
}

/// Each half is two nodes of four. Of each key's three replicas one half has two, and goes on; the
/// other one has one, and refuses.
#[test]
fn of_two_halves_one_writes_a_key_and_the_other_one_refuses() {
    let Some(wires) = Wires::new(2, 2) else { return };
    let flags = ["--on-partition", "majority", "--expect", "4", "--timeout-ms", "500"];
    let mut nodes = wires.cluster(&flags);
    for n in 0..60 {
        nodes[n % 4].ok(&format!("set k{n} before"));
    }
    nodes[0].ok("wait-safe 20000");
    let cut = Instant::now();
    wires.set_cable("down");
    let (left, right) = nodes.split_at_mut(2);
    left.iter_mut().for_each(|node| wait_sees(node, &[2, 3], "Dead"));
    right.iter_mut().for_each(|node| wait_sees(node, &[0, 1], "Dead"));
    // A node that is no replica lets the one that there is try: that write may have happened, and
    // is the latest when the halves meet.
    let mut is_open = [false; 60];
    let mut written = Vec::new();
    for (n, is_open) in is_open.iter_mut().enumerate() {
        let mut write = |node: &mut NodeProcess, value: &str| {
            let answer = node.ask(&format!("set k{n} {value}"));
            *is_open |= answer.contains("may have happened");
            answer == "ok"
        };
        let mut by = None;
        wait_until("one half writes", || {
            let is_left = write(&mut left[n % 2], "left");
            let is_right = write(&mut right[n % 2], "right");
            assert!(!(is_left && is_right), "both halves wrote k{n}");
            by = is_left.then_some("left").or(is_right.then_some("right"));
            by.is_some()
        });
        written.extend(by);
    }
    println!("a majority: every key written after {:.1?}", cut.elapsed());
    for (n, by) in written.iter().enumerate().take(10) {
        let waiting = if *by == "left" { &mut *right } else { &mut *left };
        let refusals = waiting.iter_mut().map(|node| node.error(&format!("set k{n} refused")));
        let at_once = "not applied: 2 replicas must acknowledge the write and 1 are alive";
        let at_once = refusals.filter(|error| error.contains(at_once)).count();
        assert_eq!(at_once, 1, "the one that is a replica of k{n}");
        is_open[n] = true;
    }
    wires.set_cable("up");
    wait_whole(&mut nodes);
    // Whole within 60 ms: writes as young as these are not waited for by `wait-safe`, and reads
    // with R = 1 may be old.
    let certain = || written.iter().enumerate().filter(|(n, _)| !is_open[*n]);
    for (n, by) in certain() {
        let (command, value) = (format!("get k{n}"), format!("value {by}"));
        wait_until(&command, || nodes.iter_mut().all(|node| node.ask(&command) == value));
    }
    assert!(certain().count() >= 10, "{}", certain().count());
    wait_ok(&mut nodes[0], "set k0 again");
}

/// When the host was heard again after ten seconds, its connections from before were not: TCP had
/// tried them again ever more seldom. Calls through other nodes waited for three seconds for what
/// was on its way over these.
#[test]
fn a_silent_host_is_noticed_and_nothing_is_lost() {
    // Until the calls through the host itself are given up it stays silent.
    if let Some(longest) = silent_host("a silent host", &["--timeout-ms", "10000"], false) {
        assert!(longest < Duration::from_secs(2), "a call through another node took {longest:?}");
    }
}

#[test]
fn strong_reads_do_not_notice_a_silent_host() {
    silent_host("a silent host, R = 2", &["--read-quorum", "2", "--timeout-ms", "5000"], true);
}

/// The longest call through another node.
fn silent_host(what: &str, flags: &[&str], is_strong: bool) -> Option<Duration> {
    let wires = Wires::new(2, 1)?;
    let mut nodes = wires.cluster(flags);
    let load = Load::new(&nodes, is_strong);
    load.during(|| {
        load.wait_writes(2);
        load.may_fail(2);
        let cut = Instant::now();
        wires.set_port(2, "down");
        for node in &mut nodes[..2] {
            wait_sees(node, &[2], "Dead");
        }
        let noticed = cut.elapsed();
        load.close(2);
        load.wait_writes(2);
        // Alone it has no W replicas, and says so.
        wait_sees(&mut nodes[2], &[0, 1], "Dead");
        let error = nodes[2].error("set alone 1");
        assert!(error.contains("2 replicas must acknowledge the write and 1 are alive"), "{error}");

        let plugged_in = Instant::now();
        wires.set_port(2, "up");
        wait_whole(&mut nodes);
        println!(
            "{what}: noticed after {noticed:.1?}, safe {:.1?} after it was back",
            plugged_in.elapsed()
        );
        load.open(2, &nodes[2]);
        load.wait_writes(2);
    });
    nodes[0].ok("wait-safe 20000");
    load.check_nothing_lost(&mut nodes);
    println!("{what}: {}", load.figures());
    Some(load.longest())
}

#[test]
fn who_is_heard_by_one_node_less_than_it_hears_serves_on() {
    let Some(wires) = Wires::new(3, 0) else { return };
    let mut nodes = wires.cluster(&["--timeout-ms", "5000"]);
    let load = Load::new(&nodes, false);
    load.during(|| {
        load.wait_writes(2);
        wires.cut_one_way(0, 1);
        // For longer than silence takes to be noticed; all go on, each with the third node.
        load.go_on(Duration::from_secs(3));
        wires.heal_one_way(0, 1);
        wait_whole(&mut nodes);
        load.wait_writes(2);
    });
    nodes[0].ok("wait-safe 20000");
    load.check_nothing_lost(&mut nodes);
    println!("a one-way cut: {}", load.figures());
}

#[test]
fn who_hears_all_and_is_heard_by_none_is_dead_to_them_until_it_is_heard() {
    let Some(wires) = Wires::new(3, 0) else { return };
    let mut nodes = wires.cluster(&["--timeout-ms", "5000"]);
    let load = Load::new(&nodes, false);
    load.during(|| {
        load.wait_writes(2);
        load.may_fail(2);
        wires.cut_one_way(2, 0);
        wires.cut_one_way(2, 1);
        for node in &mut nodes[..2] {
            wait_sees(node, &[2], "Dead");
        }
        load.close(2);
        load.wait_writes(2);
        wires.heal_one_way(2, 0);
        wires.heal_one_way(2, 1);
        wait_whole(&mut nodes);
        load.open(2, &nodes[2]);
        load.wait_writes(2);
    });
    nodes[0].ok("wait-safe 20000");
    load.check_nothing_lost(&mut nodes);
    println!("a host without a voice: {}", load.figures());
}
