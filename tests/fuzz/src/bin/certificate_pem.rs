//! libFuzzer over the target `certificate_pem`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("certificate_pem", data));
