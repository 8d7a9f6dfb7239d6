//! The relay pool: one network thread that has messages made, keeps connections to relays, and says
//! for every job what became of it. It knows nothing of Postgres, of queues or of retries over time.
//!
//! Layers: `ticket` guards that each job is reported exactly once, `parts` puts the ends of a job together whose
//! recipients go different ways; `rate`, `rules`, `rulings`, `routes` and `health` decide without I/O; `domain`, `line` and
//! `fair` keep mail for one domain from holding up that for another; `relay` is one relay's queue and counters;
//! `connection` drives one session, `conclude` says what came of it, and `blame` whose trouble it was; `flow` leads jobs through the limits of queues (`gate`) to relays, `hub` sees to relays in trouble;
//! [`Pool`] is the handle that other threads hold.
//!
//! Invariants:
//! - Every submitted job ends in exactly one [`Report::Finished`] without `more`, whatever panics or hangs.
//! - Trouble that is the relay's burns no job's attempt: it comes back as `NotTried` or `Returned`.
//! - All state lives on the one thread, in `Rc` and `Cell`; a job costs no task and no lock.

mod blame;
mod conclude;
mod connection;
mod domain;
mod fair;
mod flow;
mod gate;
mod health;
mod hub;
mod keeper;
mod line;
mod parts;
mod pool;
mod probe;
mod rate;
mod relay;
mod routes;
mod rules;
mod rulings;
mod settings;
mod ticket;
mod types;
mod url;

pub use pool::Pool;
pub use probe::Probe;
pub use rules::{Action, Decision, Rule, decide, has_group, pattern};
pub use settings::Settings;
pub use types::*;
pub use url::{RelayUrl, UrlError};
