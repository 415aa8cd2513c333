//! Drives [`gridkv::fuzzing::hello`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gridkv::fuzzing::hello(bytes));
