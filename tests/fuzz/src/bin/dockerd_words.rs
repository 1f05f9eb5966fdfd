//! libFuzzer over the target `dockerd_words`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("dockerd_words", data));
