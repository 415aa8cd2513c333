//! Clusters of processes that have a cluster key, are given one, or are given another one.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::rolling::Three;
use crate::support::load::Load;
use crate::support::process::{NodeProcess, cluster};
use crate::support::wait_until;

/// A file with a cluster key, which is removed at the end.
struct KeyFile(PathBuf);

impl KeyFile {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gridkv-cluster-key-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let digits: String = (0..32).map(|at| format!("{:02x}", at * 7 + number)).collect();
        std::fs::write(&path, digits).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("it is text")
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Which key each other member has shown to this node, or `plain`.
fn keys(node: &NodeProcess) -> Vec<String> {
    let answer = node.ask_beside("secured");
    let of_member = |word: &str| word.rsplit('=').next().unwrap_or_default().to_owned();
    answer.split_whitespace().map(of_member).collect()
}

/// Waits until every node has shown one and the same key to all others, and returns that.
fn wait_one_key(nodes: &[NodeProcess], not: &str) -> String {
    let mut found = String::new();
    wait_until("all nodes have one key, and another one than before", || {
        let all: Vec<String> = nodes.iter().flat_map(keys).collect();
        found = all.first().cloned().unwrap_or_default();
        all.len() == 6 && all.iter().all(|key| *key == found && key != "plain" && key != not)
    });
    found
}

#[test]
fn a_rolling_restart_of_a_secured_cluster_loses_nothing() {
    let key = KeyFile::new();
    let mut three = Three::start(&["--key", key.path()]);
    let load = Load::new(&three.nodes, false);
    load.during(|| {
        three.roll(&load);
        for slot in 0..3 {
            load.wait_writes(2);
            three.kill(&load, slot);
        }
        load.wait_writes(1);
    });
    three.check_nothing_lost(&load);
    wait_one_key(&three.nodes, "");
    println!("secured: {}", load.figures());
}

/// From no security to one that is required, and from one key to another: no call fails, and no
/// node is taken for dead.
#[test]
fn a_cluster_under_load_is_given_a_key_and_then_another_one() {
    let (old, new) = (KeyFile::new(), KeyFile::new());
    let (old_path, new_path) = (old.path().to_owned(), new.path().to_owned());
    let mut three = Three::start(&[]);
    let load = Load::new(&three.nodes, false);
    load.during(|| {
        three.flags = ["--key", &old_path, "--security", "optional"].map(str::to_owned).to_vec();
        three.roll(&load);
        let mut key = wait_one_key(&three.nodes, "");
        let died = |nodes: &[NodeProcess]| -> usize {
            nodes.iter().map(|node| node.stderr().matches("Died").count()).sum()
        };
        let before = died(&three.nodes);
        for (keys, ends_with_another) in [
            (vec![&old_path], false),
            (vec![&old_path, &new_path], false),
            (vec![&new_path, &old_path], true),
            (vec![&new_path], false),
        ] {
            let keys: Vec<&str> = keys.into_iter().map(String::as_str).collect();
            for node in &three.nodes {
                node.ok_beside(&format!("security required {}", keys.join(" ")));
                load.wait_writes(1);
            }
            if ends_with_another {
                key = wait_one_key(&three.nodes, &key);
            }
            // Connections that a change ends do so within five seconds.
            load.go_on(Duration::from_secs(6));
            assert_eq!(wait_one_key(&three.nodes, ""), key);
        }
        assert_eq!(died(&three.nodes), before);
    });
    three.check_nothing_lost(&load);
    println!("given keys: {}", load.figures());
}

#[test]
fn nodes_with_another_key_or_none_stay_out_and_say_why() {
    let (key, other) = (KeyFile::new(), KeyFile::new());
    let mut nodes = cluster(3, &["--key", key.path()]);
    let seed = nodes[0].seed();
    for (flags, why) in [
        (vec![], "it speaks without security"),
        (vec!["--key", other.path()], "its cluster key has the id"),
        (vec!["--key", key.path(), "--cluster", "other"], "its cluster key has the id"),
    ] {
        let mut flags = flags;
        flags.extend(["--seed", &seed]);
        let mut stranger = NodeProcess::start("x", &flags);
        wait_until("it is told why", || stranger.stderr().contains(why));
        let refused = stranger.error("wait-ready 100");
        assert!(refused.contains(why), "{refused}");
        assert_eq!(stranger.list("members").len(), 1);
    }
    nodes[0].ok("set k v");
    for node in &mut nodes {
        assert_eq!(node.list("members").len(), 3);
        assert_eq!(node.ask("get k"), "value v");
    }
}

/// A node keeps its key. It is stopped, denied by the others, and comes back.
#[test]
fn a_node_that_is_denied_does_not_come_back() {
    let (key, own_key) = (KeyFile::new(), KeyFile::new());
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend(1..=32);
    std::fs::write(&own_key.0, der).unwrap();
    let mut nodes = cluster(2, &["--key", key.path()]);
    let seed = nodes[0].seed();
    let flags = ["--key", key.path(), "--node-key", own_key.path(), "--seed", &seed];
    let mut denied = NodeProcess::start("c", &flags);
    denied.ok("wait-ready 20000");
    wait_until("it is a member", || nodes.iter_mut().all(|node| node.sees("c", "Alive")));
    let fingerprint = denied.ask("fingerprint");
    denied.ok("leave 30000");
    drop(denied);
    for node in &mut nodes {
        node.ok(&format!("security required {} deny={fingerprint}", key.path()));
    }
    let mut denied = NodeProcess::start("c", &flags);
    assert_eq!(denied.ask("fingerprint"), fingerprint, "it keeps its key");
    let why = format!("its key {fingerprint} is denied");
    wait_until("it is told why", || denied.stderr().contains(&why));
    assert!(denied.error("wait-ready 100").contains(&why));
    nodes[0].ok("set k v");
    assert!(nodes.iter_mut().all(|node| !node.sees("c", "Alive")));
    // Another key may come back in its name, as that one is not denied.
    let mut other = NodeProcess::start("c", &["--key", key.path(), "--seed", &seed]);
    let refused = other.error("wait-ready 100");
    assert!(refused.contains("forget_identity"), "{refused}");
    for node in &mut nodes {
        node.ok("forget-identity c");
    }
    other.ok("wait-ready 20000");
}

#[test]
fn a_member_that_is_denied_while_it_runs_is_dead_until_it_is_allowed() {
    let key = KeyFile::new();
    let mut nodes = cluster(3, &["--key", key.path()]);
    let mut denied = nodes.pop().expect("three nodes");
    denied.ok("set k v");
    let fingerprint = denied.ask("fingerprint");
    for node in &mut nodes {
        node.ok(&format!("security required {} deny={fingerprint}", key.path()));
    }
    wait_until("it is dead for the others", || nodes.iter_mut().all(|it| it.sees("c", "Dead")));
    nodes[0].ok("set k w");
    assert_eq!(nodes[1].ask("get k"), "value w");
    assert!(nodes.iter_mut().all(|node| node.sees("c", "Dead")), "it runs, and stays out");
    for node in &mut nodes {
        node.ok(&format!("security required {}", key.path()));
    }
    wait_until("it is back", || nodes.iter_mut().all(|node| node.sees("c", "Alive")));
    // It was cut off, and had served its own copy.
    wait_until("it has what was written", || denied.ask("get k") == "value w");
}
