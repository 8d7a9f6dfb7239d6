//! An SMTP client session (RFC 5321) for a queue that must know exactly what became of each message.
//! It knows nothing of Postgres, of queues or of retries.
//!
//! Layers, each knowing only those before it: [`reply`] and [`encode`] are pure functions over bytes,
//! `wire` reads and writes them with deadlines, `connect` (with `tls` and `auth`) opens a session,
//! `plan` says what to ask for a message, `turn` keeps what was answered, `session` drives both.

mod auth;
mod connect;
pub mod encode;
mod extensions;
mod mask;
mod plan;
pub mod reply;
mod session;
mod tls;
mod turn;
mod types;
mod wire;

pub use extensions::Extensions;
pub use session::Session;
pub use types::*;
