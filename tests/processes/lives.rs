//! Nodes that are killed, leave, restart, stand still, or do not start at all.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::load;
use crate::support::process::{NodeProcess, assert_readable, cluster, spawn, wait_settled, write};
use crate::support::wait_until;

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
    nodes.push(NodeProcess::start("d", &["--seed", &seed]));
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
    // The others might not even have missed its first life yet.
    nodes.push(NodeProcess::start("c", &["--address", &address, "--seed", &seed]));
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
    let mut stranger = NodeProcess::start("x", &["--cluster", "stock", "--seed", &seed]);
    let text = "give both the same Config::cluster";
    wait_until("the member says so", || nodes[0].stderr().contains(text));
    wait_until("the stranger says so", || stranger.stderr().contains(text));
    let error = stranger.error("wait-ready 10");
    assert!(error.contains("members needed: 2, here: 1") && error.contains(text), "{error}");
    let error = stranger.error("set k v");
    assert!(
        error.contains("not applied") && error.contains("2 replicas must acknowledge"),
        "{error}"
    );
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

#[test]
fn a_write_to_a_stopped_replica_says_how_far_it_got_and_then_what_is_missing() {
    let _turn = load::without();
    // Silence is noticed after two probes and the suspicion: far longer than the write's timeout.
    let flags =
        ["--write-quorum", "3", "--probe-period-ms", "500", "--suspicion-timeout-ms", "2000"];
    let mut nodes = cluster(3, &flags);
    nodes[0].ok("set k v");
    nodes[2].pause();

    let begun = Instant::now();
    let error = nodes[0].error("setq k w 3 300");
    let took = begun.elapsed();
    assert!(
        error.contains("may have happened: 2 of the 3 replicas needed acknowledged"),
        "{error}"
    );
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_secs(1),
        "it took {took:?}"
    );
    assert!(!nodes[0].sees("c", "Dead"), "it was to time out before the death is known");

    wait_until("the death is known", || nodes[0].sees("c", "Dead"));
    let begun = Instant::now();
    let error = nodes[0].error("setq k x 3 5000");
    assert!(
        error.contains("not applied: 3 replicas must acknowledge the write and 2 are alive"),
        "{error}"
    );
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
