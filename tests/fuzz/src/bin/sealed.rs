//! libFuzzer over the target `sealed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("sealed", data));
