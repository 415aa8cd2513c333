//! Drives [`gridkv::fuzzing::messages`], and counts what it allocates.
#![no_main]

#[path = "../peak.rs"]
mod peak;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gridkv::fuzzing::messages(bytes, peak::peak_bytes));
