//! Whatever a message holds, a strict server reads it back, and nothing after its final dot.

#![no_main]

#[allow(dead_code, reason = "each target uses the part it needs")]
#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::encode(data));
