//! libFuzzer over the target `membership_message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_fuzz::run("membership_message", data));
