//! Engines in this process, alone or as the nodes of a cluster over loopback.

use std::time::{Duration, Instant};

use gridkv::{Config, Engine, MemberState};

use super::wait::LATE;

/// The configuration of a node on a port that the system chooses. Its timeouts are long: tests
/// share their processors, so silence is no sign of death for a while.
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

/// Starts nodes `n0`, `n1`, … and waits until they see each other and hold all that they should.
/// The first one is the only seed of the others.
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

/// How many members are alive as this node sees it, the suspects among them.
pub(crate) fn alive(engine: &Engine) -> usize {
    let is_alive = |state| matches!(state, MemberState::Alive | MemberState::Suspect);
    engine.members().iter().filter(|member| is_alive(member.state)).count()
}
