//! libFuzzer over the target `api_shapes`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("api_shapes", data));
