//! libFuzzer over the target `multiaddress`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("multiaddress", data));
