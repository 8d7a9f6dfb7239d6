//! `pgmq_mail`: a transactional mail queue inside PostgreSQL.
//!
//! This package is the thin shell between Postgres and the pure crates under `crates/`. It owns settings, the C
//! functions that the SQL of `sql/` declares, and the background workers. What touches Postgres' internals stands
//! in [`pg`], the only module with `unsafe` code.

mod cached;
mod dkim;
mod error;
mod functions;
mod guc;
mod look;
mod outgoing;
mod partitions;
#[allow(
    unsafe_code,
    reason = "the one place that talks to Postgres' C interface"
)]
mod pg;
mod preview;
mod probe;
mod produce;
mod queues;
mod relays;
mod senders;
mod stamp;
mod state;
mod templates;
mod worker;
