//! libFuzzer over the target `api_error`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("api_error", data));
