//! libFuzzer over the target `docker_record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("docker_record", data));
