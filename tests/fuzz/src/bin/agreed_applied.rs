//! libFuzzer over the target `agreed_applied`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("agreed_applied", data));
