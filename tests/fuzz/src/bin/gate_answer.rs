//! libFuzzer over the target `gate_answer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("gate_answer", data));
