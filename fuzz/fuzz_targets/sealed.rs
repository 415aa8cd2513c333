//! Drives [`gridkv::fuzzing::sealed`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gridkv::fuzzing::sealed(bytes));
