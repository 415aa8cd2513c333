//! What the attacks share: victims, and what these cost.

#[path = "../../support/engines.rs"]
#[allow(dead_code, reason = "tests/sockets uses more of it")]
pub(crate) mod engines;
#[path = "../../processes/support/process.rs"]
#[allow(dead_code, reason = "tests/processes uses more of it")]
pub(crate) mod process;
#[path = "../../support/wait.rs"]
mod wait;

use std::fs;

use self::process::NodeProcess;
pub(crate) use self::wait::{LATE, wait_until};

/// How much more memory a node may hold after an attack: the allocator keeps some of what it had.
const MORE_MEMORY_KIB: usize = 16 << 10;

/// How many more descriptors a node may hold after an attack.
const MORE_DESCRIPTORS: usize = 8;

/// What nodes held before an attack.
pub(crate) struct Before {
    /// For each node, memory in KiB and descriptors.
    costs: Vec<(usize, usize)>,
}

/// Returns the memory that a node holds, in KiB.
pub(crate) fn memory_kib(node: &NodeProcess) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", node.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it runs");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Returns how many descriptors a node has.
pub(crate) fn descriptors(node: &NodeProcess) -> usize {
    fs::read_dir(format!("/proc/{}/fd", node.child.id())).unwrap().count()
}

impl Before {
    pub(crate) fn of(nodes: &[NodeProcess]) -> Self {
        Self { costs: nodes.iter().map(|node| (memory_kib(node), descriptors(node))).collect() }
    }

    /// Waits until the nodes hold about what they did, and checks that they serve.
    pub(crate) fn assert_again(self, nodes: &mut [NodeProcess]) {
        for (node, (memory, fds)) in nodes.iter().zip(&self.costs) {
            wait_until("the attack costs no descriptors any more", || {
                descriptors(node) <= fds + MORE_DESCRIPTORS
            });
            wait_until("the attack costs no memory any more", || {
                memory_kib(node) <= memory + MORE_MEMORY_KIB
            });
        }
        nodes[0].ok("set after attack");
        for node in nodes {
            assert_eq!(node.ask("get after"), "value attack");
            assert!(!node.stderr().contains("panicked"), "{}", node.stderr());
        }
    }
}
