//! libFuzzer over the target `agreed_event`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("agreed_event", data));
