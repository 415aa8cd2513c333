//! What an app asks for, as it might come from files and command lines.

use std::net::SocketAddr;
use std::time::Duration;

use super::input::Input;
use super::nodes::first_life;
use crate::config::{Config, Settings};
use crate::options::{IdleStrategy, OnPartition, Replicas};
use crate::quorums::Count;
use crate::types::{Identity, MAX_CORES, MAX_NAME_BYTES, MAX_REPLICAS};

/// Longer than any name or address that is allowed.
const MAX_TEXT_BYTES: usize = 300;
const MAX_SEEDS: u8 = 8;
const MAX_CPUS: u8 = 8;

/// Checks a configuration that has the options of the input: each of its parts is the number of an
/// option, and its value.
///
/// Every configuration is checked to its end. What passes is within the bounds on which the engine
/// relies, and what does not has a text of bounded length.
pub fn config(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut config = match input.below(4) {
        0 => Config::standalone("a"),
        1 => Config::new(input.text(MAX_TEXT_BYTES), "10.0.0.1:8001"),
        2 => Config::new("a", input.text(MAX_TEXT_BYTES)),
        _ => Config::new("a", "10.0.0.1:8001"),
    };
    while !input.is_empty() {
        config = with_option(config, &mut input);
    }
    match config.check() {
        Ok(settings) => is_in_bounds(&settings),
        Err(error) => {
            // A text is quoted, so that a byte of it can take some more.
            let text = error.to_string();
            assert!(text.len() <= 500 + 10 * MAX_TEXT_BYTES, "{text}");
            assert!(!text.chars().any(char::is_control), "more than one line: {text:?}");
        }
    }
}

fn with_option(config: Config, input: &mut Input<'_>) -> Config {
    match input.below(24) {
        0 => config.cluster(input.text(MAX_TEXT_BYTES)),
        1 | 2 => {
            let count = input.below(MAX_SEEDS);
            let seeds: Vec<String> = (0..count).map(|_| input.text(MAX_TEXT_BYTES)).collect();
            config.seeds(seeds)
        }
        3 | 4 => config.advertise(input.text(MAX_TEXT_BYTES)),
        5 => config.data_center(input.text(MAX_TEXT_BYTES)),
        6 => config.zone(input.text(MAX_TEXT_BYTES)),
        7 => config.weight(input.u16()),
        8 => config.replicas(number(input)),
        9 => config.replicas(Replicas::All),
        10 => config.write_quorum(number(input)),
        11 => config.unacknowledged(number(input)),
        12 => config.read_quorum(number(input)),
        13 => config.every_live_patience(duration(input)),
        14 => config.cores(number(input)),
        15 => {
            let count = input.below(MAX_CPUS);
            let cpus: Vec<usize> = (0..count).map(|_| number(input)).collect();
            config.pin_cpus(cpus)
        }
        16 => config.idle(IdleStrategy::Adaptive { max_spin: duration(input) }),
        17 => config.max_memory(number(input)),
        18 => config.max_connections(number(input)),
        19 => config.request_timeout(duration(input)),
        20 => config.probe_period(duration(input)).suspicion_timeout(duration(input)),
        21 => config.tombstone_retention(duration(input)).data_center_retention(duration(input)),
        22 => config.on_partition(input.one_of(&[OnPartition::Serve, OnPartition::Majority])),
        _ => config.expect(number(input)),
    }
}

/// Returns a number that is small, or close to the largest one.
fn number(input: &mut Input<'_>) -> usize {
    match input.byte() {
        u8::MAX => usize::MAX - usize::from(input.byte()),
        254 => input.u64() as usize,
        small => usize::from(small),
    }
}

fn duration(input: &mut Input<'_>) -> Duration {
    match input.byte() {
        u8::MAX => Duration::MAX,
        254 => Duration::from_nanos(input.u64()),
        small => Duration::from_millis(u64::from(small) * u64::from(small)),
    }
}

/// What the engine relies on.
fn is_in_bounds(settings: &Settings) {
    let is_name = |name: &str| (1..=MAX_NAME_BYTES).contains(&name.len());
    assert!(is_name(&settings.node_id) && is_name(&settings.cluster));
    let site = &settings.site;
    assert!(site.data_center.len() <= MAX_NAME_BYTES && site.zone.len() <= MAX_NAME_BYTES);
    assert!(site.weight > 0);
    let cores = usize::from(settings.cores);
    assert!((1..=MAX_CORES).contains(&cores));
    assert!(settings.pin_cpus.as_ref().is_none_or(|cpus| cpus.len() == cores));
    assert!(settings.memory.is_none_or(|bytes| bytes >= 1 << 20));
    for seed in &settings.seeds {
        assert!(seed.port() != 0 && !seed.ip().is_unspecified(), "{seed}");
    }
    for name in &settings.finder.names {
        let (host, port) = name.rsplit_once(':').expect("a port");
        assert!(!host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0), "{name}");
    }
    if let Some(reached) = settings.advertise.or(settings.address) {
        // Port 0 becomes another one.
        let addr = SocketAddr::new(reached.ip(), reached.port().max(1));
        let identity = Identity { addr, ..first_life(1) };
        assert!(identity.is_possible(), "no node would believe in {reached}");
    }
    quorums_are_sound(settings);
}

fn quorums_are_sound(settings: &Settings) {
    let quorums = settings.quorums;
    let is_number = |count| match count {
        Count::Exactly(count) => (1..=MAX_REPLICAS).contains(&usize::from(count)),
        Count::AllBut(_) => false,
    };
    assert!(is_number(quorums.read), "{quorums:?}");
    match quorums.replicas {
        Count::ALL => assert!(matches!(quorums.write, Count::AllBut(_)), "{quorums:?}"),
        replicas => assert!(is_number(replicas) && is_number(quorums.write), "{quorums:?}"),
    }
    for members in 1..=2 * MAX_REPLICAS {
        let copies = quorums.replicas.copies(members);
        let (write, read) = (quorums.write.count(copies), quorums.read.count(copies));
        assert!(write > 0 && read > 0);
        if let Count::Exactly(replicas) = quorums.replicas {
            let replicas = usize::from(replicas);
            assert!(write <= replicas && read <= replicas, "{quorums:?}");
            assert!(read < 2 || read + write > replicas, "{quorums:?}");
        }
    }
    let is_strict = settings.on_partition == OnPartition::Majority;
    assert!(!is_strict || quorums.writes_overlap(), "{quorums:?}");
}
