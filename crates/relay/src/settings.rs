//! What can be tuned about the pool as a whole.

use std::time::Duration;

/// The pool's own patience; what concerns one relay stands in [`crate::RelayConfig`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The pause after a relay's first failure; it doubles with each further one. Default 1 s.
    pub first_pause: Duration,
    /// The longest pause, before ±20 % of jitter. Default 300 s.
    pub max_pause: Duration,
    /// After a relay refused a connection while others worked: how many answered messages allow one
    /// connection more. Default 10.
    pub grow_after: u32,
    /// After so long without a word from a relay, what waits for it goes elsewhere if it can. Default 10 s.
    pub silence: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_secs(1),
            max_pause: Duration::from_mins(5),
            grow_after: 10,
            silence: Duration::from_secs(10),
        }
    }
}
