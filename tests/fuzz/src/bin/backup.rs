//! libFuzzer over the target `backup`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("backup", data));
