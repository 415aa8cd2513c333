//! Nodes behind forwarders, as sidecars, proxies and firewalls are, that keep a connection and no
//! longer deliver what comes over it.

use std::time::{Duration, Instant};

use crate::support::forwarder::Forwarder;
use crate::support::load::Load;
use crate::support::process::{NodeProcess, wait_settled};

/// After how long calls work again at the latest. A request stays without an answer for 4 s until
/// its connection ends; a call may wait for two such connections, one after the other: that of its
/// node to a replica that passes it on, and that node's own.
const WORKS_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// How long a call may wait: much longer than that.
const TIMEOUT_MS: &str = "25000";

fn start(id: &str, at: &Forwarder, seeds: &[String]) -> NodeProcess {
    let (address, advertised) = (at.behind.to_string(), at.front.to_string());
    let mut flags = vec!["--address", &address, "--advertise", &advertised];
    flags.extend(["--timeout-ms", TIMEOUT_MS, "--read-quorum", "2"]);
    seeds.iter().for_each(|seed| flags.extend(["--seed", seed]));
    NodeProcess::start(id, &flags)
}

/// A forwarder whose connections stay, and which passes nothing on any more: it acknowledges, so
/// the systems of both hosts find nothing wrong, and the datagrams that pass say that all members
/// are alive. Each call over such a connection once waited until it was given up, as the next one
/// did, for as long as the node ran; and `wait_until_safe` never succeeded again.
#[test]
fn connections_over_which_nothing_is_delivered_any_more_are_opened_again() {
    let forwarders: Vec<Forwarder> = (0..4).map(|_| Forwarder::new()).collect();
    let seeds: Vec<String> = forwarders.iter().map(|it| it.front.to_string()).collect();
    let ids = ["a", "b", "c", "d"];
    let nodes = ids.iter().zip(&forwarders).map(|(id, forwarder)| start(id, forwarder, &seeds));
    let mut nodes: Vec<NodeProcess> = nodes.collect();
    wait_settled(&mut nodes);
    let load = Load::new(&nodes, true);
    load.during(|| {
        load.wait_writes(2);
        let swallowed = Instant::now();
        forwarders.iter().for_each(Forwarder::swallow);
        load.wait_writes(2);
        println!("swallowed: every key is written {:.1?} after", swallowed.elapsed());
        for node in &nodes {
            node.ok_beside("wait-safe 20000");
        }
        println!("swallowed: safe {:.1?} after", swallowed.elapsed());
        assert!(forwarders.iter().all(|it| it.swallowed_bytes() > 0), "nothing was lost");
    });
    let longest = load.longest();
    assert!(longest < WORKS_AGAIN_AFTER, "a call took {longest:?}");
    nodes[0].ok("wait-safe 20000");
    load.check_nothing_lost(&mut nodes);
    for node in &nodes {
        let said = node.stderr();
        let words = ["event: Died", "event: Suspected", "event: Returned"];
        assert!(!words.iter().any(|word| said.contains(word)), "{said}");
    }
    println!("swallowed: {}", load.figures());
}
