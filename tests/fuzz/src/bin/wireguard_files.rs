//! libFuzzer over the target `wireguard_files`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("wireguard_files", data));
