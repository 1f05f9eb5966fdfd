//! libFuzzer over the target `access_rule`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("access_rule", data));
