//! libFuzzer over the target `wireguard_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("wireguard_request", data));
