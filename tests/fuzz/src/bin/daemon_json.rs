//! libFuzzer over the target `daemon_json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("daemon_json", data));
