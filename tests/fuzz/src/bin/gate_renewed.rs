//! libFuzzer over the target `gate_renewed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("gate_renewed", data));
