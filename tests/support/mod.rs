//! What the tests over real sockets share: clusters in this process, and waiting for conditions.
#![allow(dead_code, reason = "each test binary takes what it needs")]

use std::time::{Duration, Instant};

use gridkv::{Config, Engine, Event, Events, MemberState};

/// Longer than anything takes, on a machine that is busy with other tests too.
pub(crate) const LATE: Duration = Duration::from_secs(30);

/// Waits for a condition, looking every few milliseconds, and fails the test when it does not come.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LATE, "still not so after {LATE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A node on a port of the system's choice. Silence is no sign of death for a while: the tests share
/// their processors.
pub(crate) fn node(id: &str) -> Config {
    Config::new(id, "127.0.0.1:0")
        .suspicion_timeout(Duration::from_secs(5))
        .request_timeout(Duration::from_secs(10))
}

pub(crate) fn start(config: Config) -> Engine {
    Engine::start(config).expect("the engine starts")
}

pub(crate) fn address(engine: &Engine) -> String {
    engine.address().expect("a node of a cluster has an address").to_string()
}

/// Nodes `n0`, `n1`, …, that all see each other and hold everything that they should. The first one is
/// the others' only seed.
pub(crate) fn cluster(nodes: usize, options: impl Fn(Config) -> Config) -> Vec<Engine> {
    let mut engines: Vec<Engine> = Vec::new();
    for number in 0..nodes {
        let seeds: Vec<String> = engines.first().map(address).into_iter().collect();
        engines.push(start(options(node(&format!("n{number}")).seeds(seeds))));
    }
    wait_settled(&engines);
    engines
}

/// Waits until these are all the nodes that there are, and no copy is missing or too many.
pub(crate) fn wait_settled(engines: &[Engine]) {
    let is_settled = |engine: &Engine| {
        let stats = engine.stats().expect("it runs");
        alive(engine) == engines.len()
            && engine.wait_ready(Duration::ZERO).is_ok()
            && (stats.pending_partitions, stats.giving_partitions) == (0, 0)
    };
    let start = Instant::now();
    while !engines.iter().all(is_settled) {
        assert!(start.elapsed() < LATE, "not settled after {LATE:?}: {}", describe(engines));
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What each node sees and holds.
fn describe(engines: &[Engine]) -> String {
    let one = |engine: &Engine| {
        let ready = engine.wait_ready(Duration::ZERO);
        format!("\n{engine:?}: {ready:?}, {:?}, {:#?}", engine.stats(), engine.members())
    };
    engines.iter().map(one).collect()
}

/// How many members live, as this one sees it.
pub(crate) fn alive(engine: &Engine) -> usize {
    let members = engine.members();
    members.iter().filter(|m| matches!(m.state, MemberState::Alive | MemberState::Suspect)).count()
}

/// The next event that `wanted` picks; others are passed over.
pub(crate) fn wait_event<T>(events: &Events, what: &str, wanted: impl Fn(&Event) -> Option<T>) -> T {
    let start = Instant::now();
    let mut seen = Vec::new();
    while start.elapsed() < LATE {
        let Some(event) = events.next_within(LATE) else { break };
        if let Some(found) = wanted(&event) {
            return found;
        }
        seen.push(event);
    }
    panic!("no event: {what}; seen: {seen:?}")
}
