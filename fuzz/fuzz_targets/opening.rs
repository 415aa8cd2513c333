//! Drives [`gridkv::fuzzing::opening`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gridkv::fuzzing::opening(bytes));
