//! libFuzzer over the target `certificate_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("certificate_request", data));
