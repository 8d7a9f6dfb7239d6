//! Whatever leads off a list stands in the header in one piece, or is refused.

#![no_main]

#[allow(dead_code, reason = "each target uses the part it needs")]
#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::list_unsubscribe(data));
