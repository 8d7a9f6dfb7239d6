//! Whatever is taken for addresses can stand in an envelope and in a header.

#![no_main]

#[allow(dead_code, reason = "each target uses the part it needs")]
#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::address(data));
