//! Drives [`gridkv::fuzzing::claims`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gridkv::fuzzing::claims(bytes));
