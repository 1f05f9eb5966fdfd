//! libFuzzer over the target `raft_transfer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("raft_transfer", data));
