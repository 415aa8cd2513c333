//! Drives [`gridkv::fuzzing::swim`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gridkv::fuzzing::swim(bytes));
