//! libFuzzer over the target `intermediate_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("intermediate_file", data));
