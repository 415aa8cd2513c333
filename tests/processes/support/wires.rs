//! A network for processes, whose cables are pulled.
//!
//! A *host* is a network namespace with one interface. All are plugged into two bridges, left and
//! right, which a cable joins. The system must allow this (to root, on most); if it does not, the
//! tests say so and pass.

use std::io::Write;
use std::path::Path;
use std::process::{self, Command};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::process::{NodeProcess, wait_settled};
use super::wait_until;

const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// An address at which no host is.
const NOBODY: &str = "02:00:00:00:00:ff";

/// How a system says that it does not allow, or does not have, such networks.
const REFUSALS: [&str; 5] =
    ["not permitted", "Permission denied", "not supported", "Unknown device type", "no program"];

/// Where what a host sends over TCP goes when that is cut: at this address no host is.
const NOWHERE: &str = "10.77.0.254";

/// The table of routes that leads there.
const LOST: &str = "77";

/// Hosts and what joins them. Dropped, all of it is removed.
pub(crate) struct Wires {
    switch: String,
    hosts: Vec<String>,
}

impl Wires {
    /// This many hosts at the left, and this many at the right. `None`, and a word about it, where
    /// the system does not allow such things.
    pub(crate) fn new(left: usize, right: usize) -> Option<Self> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        let name = format!("gridkv-{}-{}", process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let host = |number: usize| format!("{name}-{}", IDS[number]);
        let wires =
            Self { switch: format!("{name}-s"), hosts: (0..left + right).map(host).collect() };
        if let Err(why) = wires.make(left) {
            let is_refusal = REFUSALS.iter().any(|refusal| why.contains(refusal));
            assert!(is_refusal, "the network cannot be made, and not because it may not be: {why}");
            skip("network namespaces", &why);
            return None;
        }
        Some(wires)
    }

    fn make(&self, left: usize) -> Result<(), String> {
        let switch = &self.switch;
        ip(&format!("netns add {switch}"))?;
        for side in ["left", "right"] {
            ip(&format!("-n {switch} link add {side} type bridge"))?;
            ip(&format!("-n {switch} link set {side} up"))?;
        }
        ip(&format!("-n {switch} link add cable type veth peer name cable-end"))?;
        for (end, side) in [("cable", "left"), ("cable-end", "right")] {
            ip(&format!("-n {switch} link set {end} master {side} up"))?;
        }
        for (number, host) in self.hosts.iter().enumerate() {
            let side = if number < left { "left" } else { "right" };
            let (port, mac, address) = (port(number), mac(number), address(number));
            ip(&format!("netns add {host}"))?;
            ip(&format!(
                "-n {switch} link add {port} type veth peer name eth0 address {mac} netns {host}"
            ))?;
            ip(&format!("-n {switch} link set {port} master {side} up"))?;
            ip(&format!("-n {host} address add {address}/24 dev eth0"))?;
            ip(&format!("-n {host} link set lo up"))?;
            ip(&format!("-n {host} link set eth0 up"))?;
            // Processes can be started there.
            ip(&format!("netns exec {host} true"))?;
        }
        Ok(())
    }

    /// Cuts the cable between left and right, or repairs it.
    pub(crate) fn set_cable(&self, state: &str) {
        ip(&format!("-n {} link set cable {state}", self.switch)).expect("it is there");
    }

    /// Unplugs a host, or plugs it in. It keeps its address and hears nothing.
    pub(crate) fn set_port(&self, host: usize, state: &str) {
        ip(&format!("-n {} link set {} {state}", self.switch, port(host))).expect("it is there");
    }

    /// What one host sends to another gets lost. It still hears the other.
    pub(crate) fn cut_one_way(&self, from: usize, to: usize) {
        self.set_neighbour(from, to, NOBODY);
    }

    pub(crate) fn heal_one_way(&self, from: usize, to: usize) {
        self.set_neighbour(from, to, &mac(to));
    }

    /// Two hosts do not hear each other any more, by any protocol. All others hear both.
    pub(crate) fn cut(&self, one: usize, other: usize) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// What a host sends over TCP gets lost, so none of its connections goes on and none is made.
    /// Its datagrams arrive. Whether the system can do this: if not, a word about it is said.
    #[must_use]
    pub(crate) fn cut_tcp(&self, host: usize) -> bool {
        let made = self.set_tcp(host, "add");
        if let Err(why) = &made {
            skip("rules for routes that ask for the protocol", why);
        }
        made.is_ok()
    }

    pub(crate) fn heal_tcp(&self, host: usize) {
        self.set_tcp(host, "delete").expect("it is there");
    }

    fn set_tcp(&self, host: usize, change: &str) -> Result<(), String> {
        self.set_rule(host, change, "ipproto tcp")
    }

    /// Whether what a host sends by a rule's kind of traffic gets lost.
    fn set_rule(&self, host: usize, change: &str, traffic: &str) -> Result<(), String> {
        let host = &self.hosts[host];
        ip(&format!(
            "-n {host} neighbour replace {NOWHERE} lladdr {NOBODY} nud permanent dev eth0"
        ))?;
        ip(&format!("-n {host} route replace default via {NOWHERE} table {LOST}"))?;
        ip(&format!("-n {host} rule {change} {traffic} lookup {LOST}"))
    }

    /// The datagrams between a host and all others get lost, those to it, those from it, or both.
    /// Its connections go on. Whether the system can do this: if not, a word about it is said.
    #[must_use]
    pub(crate) fn cut_udp(&self, host: usize, to_it: bool, from_it: bool) -> bool {
        let made = self.set_udp(host, (to_it, from_it), "add");
        if let Err(why) = &made {
            skip("rules for routes that ask for the protocol", why);
        }
        made.is_ok()
    }

    pub(crate) fn heal_udp(&self, host: usize, to_it: bool, from_it: bool) {
        self.set_udp(host, (to_it, from_it), "delete").expect("it is there");
    }

    fn set_udp(
        &self,
        host: usize,
        (to_it, from_it): (bool, bool),
        change: &str,
    ) -> Result<(), String> {
        if from_it {
            self.set_rule(host, change, "ipproto udp")?;
        }
        let to = format!("to {} ipproto udp", address(host));
        let mut others = (0..self.hosts.len()).filter(|other| to_it && *other != host);
        others.try_for_each(|other| self.set_rule(other, change, &to))
    }

    fn set_neighbour(&self, from: usize, to: usize, mac: &str) {
        let (host, to) = (&self.hosts[from], address(to));
        ip(&format!("-n {host} neighbour replace {to} lladdr {mac} nud permanent dev eth0"))
            .expect("it is there");
    }

    /// A node on each host that see each other and serve.
    pub(crate) fn cluster(&self, flags: &[&str]) -> Vec<NodeProcess> {
        let mut nodes: Vec<NodeProcess> =
            (0..self.hosts.len()).map(|host| self.start(host, flags)).collect();
        wait_settled(&mut nodes);
        nodes
    }

    /// Its seeds are all the hosts.
    pub(crate) fn start(&self, host: usize, flags: &[&str]) -> NodeProcess {
        let address = |host| format!("{}:7000", address(host));
        let own = address(host);
        let seeds: Vec<String> =
            (0..self.hosts.len()).filter(|other| *other != host).map(address).collect();
        let mut all = vec!["--address", &own, "--suspicion-timeout-ms", "1000"];
        seeds.iter().for_each(|seed| all.extend(["--seed", seed]));
        all.extend(flags);
        NodeProcess::start_by(&["ip", "netns", "exec", &self.hosts[host]], IDS[host], &all)
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        // What was plugged in goes with it. Those that were never made are not missed.
        for name in self.hosts.iter().chain([&self.switch]) {
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

/// Says that a test does nothing. Not by a macro: what these print is not seen of a test that
/// passes.
fn skip(wanted: &str, why: &str) {
    let _ = writeln!(
        std::io::stderr(),
        "\n*** SKIPPED: a test of tests/processes wants {wanted}, and {why} ***"
    );
}

/// Removes what tests left that were killed, and so could not remove it themselves. Their nodes
/// have ended: nothing comes on their standard input any more.
fn sweep() {
    let Ok(list) = Command::new("ip").args(["netns", "list"]).output() else { return };
    for line in String::from_utf8_lossy(&list.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let maker = name.strip_prefix("gridkv-").and_then(|rest| rest.split('-').next());
        if maker.is_some_and(|maker| !Path::new("/proc").join(maker).exists()) {
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

/// The other end of its interface, at the switch.
fn port(host: usize) -> String {
    format!("port-{}", IDS[host])
}

fn mac(host: usize) -> String {
    format!("02:00:00:00:00:{:02x}", host + 1)
}

fn address(host: usize) -> String {
    format!("10.77.0.{}", host + 1)
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("there is no program `ip`: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("`ip {arguments}` says: {}", said.trim()))
    }
}

/// Waits until a node sees these others in this state.
pub(crate) fn wait_sees(node: &mut NodeProcess, others: &[usize], state: &str) {
    for other in others {
        wait_until("a member's state is known", || node.sees(IDS[*other], state));
    }
}

/// Waits until all see all alive, and no copy is missing.
pub(crate) fn wait_whole(nodes: &mut [NodeProcess]) {
    let all: Vec<usize> = (0..nodes.len()).collect();
    for node in nodes.iter_mut() {
        wait_sees(node, &all, "Alive");
    }
    for node in nodes {
        node.ok_beside("wait-safe 25000");
    }
}
