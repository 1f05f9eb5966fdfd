//! libFuzzer over the target `host_files`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("host_files", data));
