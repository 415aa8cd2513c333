//! Drives [`gridkv::fuzzing::keys`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gridkv::fuzzing::keys(bytes));
