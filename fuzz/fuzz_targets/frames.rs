//! Drives [`gridkv::fuzzing::frames`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gridkv::fuzzing::frames(bytes));
