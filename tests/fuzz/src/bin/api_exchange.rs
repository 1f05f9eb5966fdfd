//! libFuzzer over the target `api_exchange`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("api_exchange", data));
