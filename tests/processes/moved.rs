//! A node that comes back at another address.

use crate::support::process::{NodeProcess, cluster, wait_settled};
use crate::support::wait_until;

/// A host vanished, and its container was started on another one: the members let it in before the
/// suspicion ends.
#[test]
fn a_node_that_was_moved_gets_in_at_once() {
    // Longer than this test waits for anything.
    let flags = ["--suspicion-timeout-ms", "60000"];
    let mut nodes = cluster(3, &flags);
    let old = nodes.pop().unwrap();
    old.pause();
    let seed = nodes[0].seed();
    let mut moved = NodeProcess::start(
        "c",
        &[&flags[..], &["--address", "127.0.0.2:0", "--seed", &seed]].concat(),
    );
    let at = |node: &NodeProcess| format!("c {} Alive", node.address);
    let line = at(&moved);
    for node in nodes.iter_mut().chain([&mut moved]) {
        wait_until("it is in", || node.list("members").contains(&line));
        // Its earlier life was a second member for itself.
        wait_until("it is one member", || {
            node.list("members").iter().filter(|line| line.starts_with("c ")).count() == 1
        });
    }
    moved.ok("set k v");

    old.resume();
    wait_until("the old one knows why it is out", || {
        let said = old.stderr();
        said.contains("needs an id of its own")
            && said.contains(&moved.seed())
            && said.contains(&old.seed())
    });
    assert_eq!(nodes[0].ask("get k"), "value v");
    moved.signal("-KILL");
    for node in &mut nodes {
        wait_until("the old one is back", || node.list("members").contains(&at(&old)));
    }
    nodes.push(old);
    wait_settled(&mut nodes);
    assert_eq!(nodes[2].ask("get k"), "value v");
}
