//! libFuzzer over the target `view_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("view_file", data));
