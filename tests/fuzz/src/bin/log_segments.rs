//! libFuzzer over the target `log_segments`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("log_segments", data));
