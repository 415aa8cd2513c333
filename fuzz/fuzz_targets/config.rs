//! Drives [`gridkv::fuzzing::config`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gridkv::fuzzing::config(bytes));
