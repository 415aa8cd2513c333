//! Drives [`gridkv::fuzzing::tls`], and counts what it allocates.
#![no_main]

#[path = "../peak.rs"]
mod peak;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gridkv::fuzzing::tls(bytes, peak::peak_bytes));
