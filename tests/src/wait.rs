//! Waiting for conditions, never for times.

use std::time::{Duration, Instant};

/// Polls until `condition` yields a value, and panics with `what` and the time waited when it does
/// not within `timeout`. The pauses start at a fraction of a millisecond, so that waiting costs a
/// fast answer nothing.
#[track_caller]
pub fn eventually<T>(what: &str, timeout: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        let waited = begin.elapsed();
        assert!(waited < timeout, "waited {waited:.1?} in vain: {what}");
        std::thread::sleep(pause.min(timeout.saturating_sub(waited)));
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// [`eventually`] for a condition that is only true or false.
#[track_caller]
pub fn until(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    eventually(what, timeout, || condition().then_some(()));
}
