//! Drives [`gridkv::fuzzing::introductions`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gridkv::fuzzing::introductions(bytes));
