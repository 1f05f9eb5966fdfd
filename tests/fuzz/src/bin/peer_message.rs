//! libFuzzer over the target `peer_message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("peer_message", data));
