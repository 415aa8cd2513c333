//! Drives [`gridkv::fuzzing::datagrams`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gridkv::fuzzing::datagrams(bytes));
