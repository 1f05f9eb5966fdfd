//! libFuzzer over the target `raft_snapshot`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("raft_snapshot", data));
