//! Hosts of which one kind of traffic is cut, and a node that advertises an address that none
//! reaches. (TCP alone is cut in `partial`.)

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::load::Load;
use crate::support::process::{NodeProcess, cluster, wait_settled};
use crate::support::wait_until;
use crate::support::wires::{Wires, wait_sees, wait_whole};

/// Longer than a silent host is waited for.
const LONG: Duration = Duration::from_secs(3);

/// How often one node took another for dead, of these.
fn deaths(nodes: &[NodeProcess], ids: &[&str]) -> usize {
    let count = |node: &NodeProcess| {
        let said = node.stderr();
        let deaths = said.lines().filter(|line| line.contains("event: Died"));
        deaths.filter(|line| ids.iter().any(|id| line.contains(&format!("{id:?}")))).count()
    };
    nodes.iter().map(count).sum()
}

/// A firewall drops the datagrams of one host, and lets its connections pass. The others serve on,
/// and none of them dies for another. The host is told, and is back soon after.
#[test]
fn a_host_whose_udp_alone_is_cut_harms_no_other_and_is_told() {
    let Some(wires) = Wires::new(4, 0) else { return };
    let mut nodes = wires.cluster(&["--timeout-ms", "10000"]);
    let load = Load::new(&nodes, false);
    load.during(|| {
        load.wait_writes(2);
        load.may_fail(3);
        load.close(3);
        for (to_it, from_it) in [(true, false), (false, true), (true, true)] {
            if !wires.cut_udp(3, to_it, from_it) {
                return;
            }
            for node in &mut nodes[..3] {
                wait_sees(node, &[3], "Dead");
            }
            if to_it && from_it {
                wait_until("the host is told", || {
                    nodes[3].stderr().contains("no UDP datagram is answered")
                });
            }
            load.go_on(LONG);
            wires.heal_udp(3, to_it, from_it);
            let healed = Instant::now();
            wait_whole(&mut nodes);
            let whole = healed.elapsed();
            println!("UDP alone: whole {whole:.1?} after it was mended");
            assert!(whole < Duration::from_secs(20), "whole after {whole:?}");
        }
        load.open(3, &nodes[3]);
        load.wait_writes(2);
    });
    nodes[0].ok("wait-safe 20000");
    load.check_nothing_lost(&mut nodes);
    assert_eq!(deaths(&nodes[..3], &["a", "b", "c"]), 0, "{}", nodes[0].stderr());
    println!("UDP alone: {}", load.figures());
}

/// A guest advertises an address at which no process listens, as one that is behind another
/// host, or has a typing error in its configuration, does. It once made healthy nodes declare each
/// other dead, and it was never safe while the guest ran.
#[test]
fn a_node_whose_address_none_reaches_unsettles_no_other_and_says_what_is_wrong() {
    let mut nodes = cluster(3, &[]);
    let seeds: Vec<String> = nodes.iter().map(NodeProcess::seed).collect();
    // No socket listens there any more.
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut flags = vec!["--advertise", &nowhere];
    seeds.iter().for_each(|seed| flags.extend(["--seed", seed]));
    let mut guest = NodeProcess::start("x", &flags);
    let why = guest.error("wait-ready 3000");
    for part in ["nobody listens at", &nowhere, "Config::advertise"] {
        assert!(why.contains(part), "{why}");
    }
    for round in 0..20 {
        nodes[round % 3].ok(&format!("set k{round} v"));
        nodes[0].ok("wait-safe 5000");
        assert_eq!(nodes[round % 3].list("members").len(), 3, "the guest is a member");
    }
    for node in &nodes {
        let said = node.stderr();
        let words = ["event: Died", "event: Suspected", "event: Returned", "\"x\""];
        assert!(!words.iter().any(|word| said.contains(word)), "{said}");
    }
    assert!(guest.stderr().contains("event: Unreachable"), "{}", guest.stderr());
    drop(guest);
    wait_settled(&mut nodes);
}
