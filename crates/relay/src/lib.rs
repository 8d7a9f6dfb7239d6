//! The relay pool: one network thread that composes messages, keeps connections to relays, and says
//! for every job what became of it. It knows nothing of Postgres, of queues or of retries over time.
//!
//! Layers: `ticket` guards that each job is reported exactly once; `health` decides, without I/O,
//! whether a relay may be used and how many connections it may have; `relay` is one relay's queue and
//! counters; `connection` drives one session; `hub` routes jobs between relays; [`Pool`] is the handle
//! that other threads hold.
//!
//! Invariants:
//! - Every submitted job ends in exactly one [`Report::Finished`], whatever panics or hangs.
//! - Trouble that is the relay's burns no job's attempt: it comes back as `NotTried` or `Returned`.
//! - All state lives on the one thread, in `Rc` and `Cell`; a job costs no task and no lock.

mod connection;
mod health;
mod hub;
mod pool;
mod relay;
mod settings;
mod ticket;
mod types;
mod url;

pub use pool::Pool;
pub use settings::Settings;
pub use types::*;
pub use url::{RelayUrl, UrlError};
