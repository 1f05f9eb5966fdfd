//! libFuzzer over the target `identity_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("identity_file", data));
