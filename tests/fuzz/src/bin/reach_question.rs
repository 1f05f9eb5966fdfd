//! libFuzzer over the target `reach_question`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("reach_question", data));
