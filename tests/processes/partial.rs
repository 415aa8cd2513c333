//! Networks in which some nodes reach all others and some do not, for as long as the test runs:
//! two hosts that do not hear each other, and one whose connections are dead while its datagrams
//! arrive. (Data centers that never reach each other are in `examples/edge.rs`.)

use std::time::{Duration, Instant};

use crate::support::load::Load;
use crate::support::process::NodeProcess;
use crate::support::wires::{Wires, wait_sees, wait_whole};

/// Longer than a broken connection is kept, and than a silent host is waited for.
const LONG: Duration = Duration::from_secs(4);

/// Asserts that no node ever took another one for dead, except these.
fn assert_no_false_deaths(nodes: &[NodeProcess], dead: &[&str]) {
    for (number, node) in nodes.iter().enumerate() {
        let said = node.stderr();
        let deaths = said.lines().filter(|line| line.contains("event: Died"));
        let is_false = |line: &&str| !dead.iter().any(|id| line.contains(&format!("{id:?}")));
        assert_eq!(deaths.filter(is_false).count(), 0, "node {number} said:\n{said}");
        assert!(!said.contains("event: Returned"), "node {number} said:\n{said}");
    }
}

/// A route between two hosts breaks and stays broken. What went from one to the other goes through
/// a third, so both count as alive, and are served and repaired like all others. Reads of two see
/// every write: reads of one may be a minute old, as what one of the two writes comes to the other
/// by comparison with a third.
#[test]
fn two_nodes_that_do_not_reach_each_other_hold_up_no_call_and_no_repair() {
    let Some(wires) = Wires::new(4, 0) else { return };
    let flags = ["--read-quorum", "2", "--timeout-ms", "10000"];
    let mut nodes = wires.cluster(&flags);
    let load = Load::new(&nodes, true);
    let mut repaired = Duration::ZERO;
    load.during(|| {
        load.wait_writes(2);
        wires.cut(0, 1);
        load.go_on(LONG);

        // Each key is on three of four nodes, so each of the three that are left lacks some.
        load.may_fail(2);
        nodes[2].signal("-KILL");
        let begun = Instant::now();
        nodes[2].wait_gone();
        load.close(2);
        for node in [0, 1, 3] {
            wait_sees(&mut nodes[node], &[2], "Dead");
        }
        for node in [0, 1, 3] {
            nodes[node].ok_beside("wait-safe 25000");
        }
        repaired = begun.elapsed();
        load.wait_writes(2);
        let keys: Vec<Vec<String>> = [0, 1, 3].map(|node| sorted_keys(&mut nodes[node])).to_vec();
        assert!(keys.iter().all(|held| *held == keys[0]), "each holds all: {keys:?}");

        nodes[2] = wires.start(2, &flags);
        wait_whole(&mut nodes);
        load.open(2, &nodes[2]);
        load.wait_writes(2);
    });
    nodes[0].ok("wait-safe 20000");
    load.check_nothing_lost(&mut nodes);
    assert_no_false_deaths(&nodes, &["c"]);
    println!("a broken route: safe {repaired:.1?} after a death; {}", load.figures());
}

fn sorted_keys(node: &mut NodeProcess) -> Vec<String> {
    let mut keys = node.list("keys");
    keys.sort();
    keys
}

/// The gossip of a node lives, so it counts as alive, and no connection to it or from it does. The
/// others serve all keys, those that it holds too, and one of them leaves: `leave` once waited for
/// a word of every member.
#[test]
fn a_node_with_dead_connections_and_live_gossip_holds_up_no_call_and_no_leave() {
    let Some(wires) = Wires::new(5, 0) else { return };
    let flags = ["--timeout-ms", "10000"];
    let mut nodes = wires.cluster(&flags);
    let load = Load::new(&nodes, false);
    let mut left = Duration::ZERO;
    let mut whole = Duration::ZERO;
    load.during(|| {
        load.wait_writes(2);
        load.may_fail(4);
        load.close(4);
        if !wires.cut_tcp(4) {
            return;
        }
        load.go_on(LONG);

        load.may_fail(3);
        let begun = Instant::now();
        nodes[3].ok_beside("leave 30000");
        left = begun.elapsed();
        load.close(3);
        nodes[3].ok("quit");
        nodes[3].wait_gone();
        for node in &mut nodes[..3] {
            wait_sees(node, &[3], "Left");
        }
        load.wait_writes(2);

        wires.heal_tcp(4);
        let begun = Instant::now();
        nodes[3] = wires.start(3, &flags);
        wait_whole(&mut nodes);
        whole = begun.elapsed();
        load.open(3, &nodes[3]);
        load.open(4, &nodes[4]);
        load.wait_writes(2);
    });
    nodes[0].ok("wait-safe 20000");
    load.check_nothing_lost(&mut nodes);
    println!("dead connections: left after {left:.1?}, whole {whole:.1?} after it was mended");
    println!("dead connections: {}", load.figures());
    assert!(left < Duration::from_secs(10), "it left after {left:?}");
}

/// Each of three nodes is restarted, and two of them never reach each other. Through these two no
/// call fails while one of them is away. While the third one is, neither has a quorum: calls fail,
/// and what was acknowledged before is there when it is back.
#[test]
fn a_rolling_restart_loses_nothing_where_two_nodes_reach_each_other_through_the_third_only() {
    let Some(wires) = Wires::new(3, 0) else { return };
    wires.cut(0, 1);
    let flags = ["--read-quorum", "2", "--timeout-ms", "5000"];
    let mut nodes = wires.cluster(&flags);
    let load = Load::new(&nodes, true);
    load.during(|| {
        for slot in 0..3 {
            load.wait_writes(2);
            load.may_fail(slot);
            load.pardon(slot == 2);
            let answer = nodes[slot].ask_beside("leave 8000");
            // Of the two that stay, one takes nothing from a leaver that it does not reach.
            let may_time_out = slot != 2 && answer.contains("partitions were not handed over");
            assert!(answer == "ok" || may_time_out, "{answer}");
            load.close(slot);
            nodes[slot].ask("quit");
            nodes[slot].wait_gone();
            nodes[slot] = wires.start(slot, &flags);
            nodes[slot].ok("wait-ready 20000");
            wait_whole(&mut nodes);
            load.pardon(false);
            load.open(slot, &nodes[slot]);
            load.check();
        }
        load.wait_writes(2);
    });
    nodes[0].ok("wait-safe 20000");
    load.check_nothing_lost(&mut nodes);
    println!("rolling restart around a broken route: {}", load.figures());
}
