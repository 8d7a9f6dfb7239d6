//! Bytes from a relay, cut anywhere, are replies or garbage.

#![no_main]

#[allow(dead_code, reason = "each target uses the part it needs")]
#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::reply(data));
