//! libFuzzer over the target `mesh_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("mesh_file", data));
