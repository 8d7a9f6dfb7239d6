//! Whatever EHLO is answered, something is made of it.

#![no_main]

#[allow(dead_code, reason = "each target uses the part it needs")]
#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::ehlo(data));
