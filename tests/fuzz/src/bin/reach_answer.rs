//! libFuzzer over the target `reach_answer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("reach_answer", data));
