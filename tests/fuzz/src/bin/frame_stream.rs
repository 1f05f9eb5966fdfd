//! libFuzzer over the target `frame_stream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("frame_stream", data));
