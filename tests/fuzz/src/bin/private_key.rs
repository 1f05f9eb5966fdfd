//! libFuzzer over the target `private_key`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("private_key", data));
