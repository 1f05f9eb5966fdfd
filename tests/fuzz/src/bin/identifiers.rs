//! libFuzzer over the target `identifiers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("identifiers", data));
