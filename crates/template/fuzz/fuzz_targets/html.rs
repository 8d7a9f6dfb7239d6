//! Whatever HTML is compiled, its template tags are kept.

#![no_main]

#[allow(dead_code, reason = "each target uses the part it needs")]
#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(
    // A panic that the crate catches is no finding; the fuzzer's hook would abort at it.
    init: drop(std::panic::take_hook()),
    |data: &[u8]| checks::html(data)
);
