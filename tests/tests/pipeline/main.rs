//! The whole pipeline: what is committed here arrives there. Against real mail servers, and against
//! one that does whatever the test says.
//!
//! The server's safety net, the sweep, comes only every ten minutes in these tests: a wake-up that is
//! lost makes a test fail instead of making it slow.

#![allow(clippy::missing_panics_doc, clippy::new_without_default)] // a panic is how a test reports

mod attachments;
mod certificates;
mod closing;
mod content;
mod crash;
mod deferrals;
mod delivered;
mod dkim;
mod dsn;
mod effect;
mod flow;
mod guarded;
mod injection;
mod limits;
mod many;
mod order;
mod probe;
mod probing;
mod recipients;
mod refused;
mod relays;
mod reloaded;
mod replies;
mod restore;
mod rights;
mod secrets;
mod servers;
mod settings;
mod table;
mod templates;
mod uncertain;
mod world;

pub use world::{SOON, World, quoted, secrets_directory};
