//! libFuzzer over the target `engine_version`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("engine_version", data));
