//! What the tests over real sockets share: clusters in this process, and waiting for conditions.
#![allow(dead_code, reason = "each test binary takes what it needs")]

pub(crate) mod load;
pub(crate) mod process;

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

/// How long a stress takes: as many seconds as `GRIDKV_STRESS_SECONDS` says, or two.
pub(crate) fn stress_time() -> Duration {
    let seconds = std::env::var("GRIDKV_STRESS_SECONDS").map_or(2.0, |text| text.parse().expect("a number"));
    Duration::from_secs_f64(seconds)
}

/// Numbers that look random, the same ones every time.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ x >> 31) % sides
    }
}

/// The value of key `n` in this version, which says so itself; at least 24 bytes.
pub(crate) fn value(n: u64, version: u64, length: usize) -> Vec<u8> {
    let mut value = Vec::with_capacity(length);
    [n, version, length as u64].iter().for_each(|word| value.extend_from_slice(&word.to_le_bytes()));
    value.resize(length, (n ^ version) as u8);
    value
}

/// That it is a whole value of key `n`. Its version.
pub(crate) fn check(n: u64, value: &[u8]) -> u64 {
    let word = |at: usize| u64::from_le_bytes(value[8 * at..8 * at + 8].try_into().unwrap());
    let version = word(1);
    assert_eq!((word(0), word(2)), (n, value.len() as u64), "another key's value, or a part of one");
    assert!(value[24..].iter().all(|byte| *byte == (n ^ version) as u8), "a torn value");
    version
}
