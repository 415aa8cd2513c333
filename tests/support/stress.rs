//! What the stress tests share: for how long they run, and values that say what they are.

use std::time::Duration;

/// How long a stress takes: as many seconds as `GRIDKV_STRESS_SECONDS` says, or two.
pub(crate) fn stress_time() -> Duration {
    let seconds = std::env::var("GRIDKV_STRESS_SECONDS");
    let seconds = seconds.map_or(2.0, |text| text.parse().expect("a number"));
    Duration::from_secs_f64(seconds)
}

/// The value of key `n` in this version, which says so itself; it has at least 24 bytes.
pub(crate) fn value(n: u64, version: u64, length: usize) -> Vec<u8> {
    let mut value = Vec::with_capacity(length);
    let words = [n, version, length as u64];
    words.iter().for_each(|word| value.extend_from_slice(&word.to_le_bytes()));
    value.resize(length, (n ^ version) as u8);
    value
}

/// Asserts that it is a whole value of key `n`, and returns its version.
pub(crate) fn check(n: u64, value: &[u8]) -> u64 {
    let word = |at: usize| u64::from_le_bytes(value[8 * at..8 * at + 8].try_into().unwrap());
    let version = word(1);
    let says = (word(0), word(2));
    assert_eq!(says, (n, value.len() as u64), "another key's value, or a part of one");
    assert!(value[24..].iter().all(|byte| *byte == (n ^ version) as u8), "a torn value");
    version
}
