//! libFuzzer over the target `call_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("call_frame", data));
