//! What the tests over loopback share.

#[path = "../../support/dice.rs"]
mod dice;
#[path = "../../support/mod.rs"]
mod shared;
#[path = "../../support/stress.rs"]
mod stress;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gridkv::{Config, Engine, Event, Events, NotApplied, ReadOptions, TimeToLive, WriteError};

pub(crate) use self::dice::Dice;
pub(crate) use self::shared::engines::{address, alive, cluster, node, start, wait_settled};
pub(crate) use self::shared::wait::{LATE, wait_until};
pub(crate) use self::stress::{check, stress_time, value};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// So short that a call which has to wait for anything times out.
pub(crate) const SOON: Duration = Duration::from_millis(30);

/// Long enough for a call that nothing is in the way of, on a machine that is busy with other tests
/// too; and short enough to be waited out.
pub(crate) const A_WHILE: Duration = Duration::from_millis(500);

/// Returns the processors, until the guard is dropped. Tests of three kinds take them and run one
/// at a time: those that keep every processor busy, those that count how far other callers get at
/// the same time, and those that move all partitions again and again within a limit. All other
/// tests run along with them, and have long timeouts.
pub(crate) fn processors() -> MutexGuard<'static, ()> {
    static PROCESSORS: Mutex<()> = Mutex::new(());
    // A test that failed has left nothing behind.
    PROCESSORS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An engine on its own, with the defaults.
pub(crate) fn solo() -> Engine {
    start(Config::standalone("solo"))
}

/// An engine on its own, whose calls may take as long as a test waits.
pub(crate) fn patient_solo(cores: usize) -> Engine {
    start(Config::standalone("solo").cores(cores).request_timeout(LATE))
}

pub(crate) fn not_applied(error: NotApplied) -> Result<(), WriteError> {
    Err(WriteError::NotApplied(error))
}

/// The keys that a node holds, sorted.
pub(crate) fn keys(engine: &Engine, prefix: &str) -> Vec<String> {
    let keys = engine.local_keys(prefix).map(|key| String::from_utf8(key.unwrap()).unwrap());
    let mut keys: Vec<String> = keys.collect();
    keys.sort();
    keys
}

/// The value of a key, as text.
pub(crate) fn text(engine: &Engine, key: &str) -> Option<String> {
    engine.get(key).unwrap().map(|value| String::from_utf8(value).unwrap())
}

/// Whether a key lives for most of an [`HOUR`] still, and not for ever.
pub(crate) fn is_expiring(engine: &Engine, key: &str) -> bool {
    match engine.ttl(key).unwrap() {
        Some(TimeToLive::Left(left)) => left <= HOUR && left > HOUR / 2,
        other => {
            assert_eq!(other, Some(TimeToLive::Forever), "{key}");
            false
        }
    }
}

/// How many nodes hold this value of the key themselves.
pub(crate) fn holders(engines: &[Engine], key: &str, value: &str) -> usize {
    let local = ReadOptions::new().local();
    let value = Some(value.as_bytes());
    let holds = |engine: &&Engine| engine.get_with(key, &local).unwrap().as_deref() == value;
    engines.iter().filter(holds).count()
}

/// Asserts that every call of an engine that has ended says so.
pub(crate) fn assert_shut_down(engine: &Engine) {
    use gridkv::{LeaveError, NotReady, ReadError};
    assert_eq!(engine.set("k", "v"), not_applied(NotApplied::ShutDown));
    assert_eq!(engine.delete("k"), not_applied(NotApplied::ShutDown));
    assert_eq!(engine.get("k"), Err(ReadError::ShutDown));
    assert_eq!(engine.read("k", <[u8]>::len), Err(ReadError::ShutDown));
    assert_eq!(engine.ttl("k"), Err(ReadError::ShutDown));
    assert_eq!(engine.contains("k"), Err(ReadError::ShutDown));
    assert_eq!(engine.get_many(&["k"]), Err(ReadError::ShutDown));
    assert_eq!(engine.stats(), Err(ReadError::ShutDown));
    assert_eq!(engine.wait_ready(LATE), Err(NotReady::ShutDown));
    assert_eq!(engine.leave(LATE), Err(LeaveError::ShutDown));
    assert_eq!(engine.local_keys("").collect::<Vec<_>>(), [Err(ReadError::ShutDown)]);
    assert_eq!(engine.events().next_within(LATE), None);
    engine.abort();
}

/// Waits for an event that `wanted` picks, passes over the others, and returns what it picked.
pub(crate) fn wait_event<T>(
    events: &Events,
    what: &str,
    wanted: impl Fn(&Event) -> Option<T>,
) -> T {
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
