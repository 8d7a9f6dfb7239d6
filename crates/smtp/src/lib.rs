//! An SMTP client session (RFC 5321) for a queue that must know exactly what became of each message.
//! It knows nothing of Postgres, of queues or of retries.
//!
//! Layers, each knowing only those before it: [`reply`] and [`encode`] are pure functions over bytes,
//! `wire` reads and writes them over a `stream` with deadlines, `connect` (with `dial`, `tls`, `trust`,
//! `hello` and `auth`) opens a session, `plan` (with `path` and `dsn`) says what to ask for a message, `turn`
//! keeps what was answered, `session` drives both. A [`Transcript`] listens where it is asked for; `mask`
//! keeps secrets out of it and out of all else that is told.

mod auth;
mod connect;
mod dial;
mod dsn;
pub mod encode;
mod extensions;
mod file;
mod hello;
mod mask;
mod path;
mod plan;
pub mod reply;
mod session;
mod stream;
mod text;
mod tls;
mod transcript;
mod trust;
mod turn;
mod types;
mod wire;

pub use dsn::{Dsn, Notify, Ret, xtext};
pub use extensions::Extensions;
pub use file::read_file;
pub use hello::qualified as qualified_name;
pub use session::Session;
pub use text::Text;
pub use transcript::{Transcript, TranscriptLine, Who};
pub use types::*;
