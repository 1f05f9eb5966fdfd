//! libFuzzer over the target `docker_answers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("docker_answers", data));
