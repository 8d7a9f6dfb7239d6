//! Servers and helpers for the tests: a throwaway PostgreSQL ([`Cluster`]), a scriptable SMTP server
//! in the test's own process ([`Sink`]), real ones ([`MailServer`]), and servers that a tool keeps
//! available ([`AutoFailover`]).
//!
//! Three rules hold for all of them. Everything has a deadline, so that a test that waits for what
//! never comes fails instead of hanging. Everything that is started is ended and removed, even when
//! the test process is killed: a [`Guard`] sees to it from outside. And nothing reaches beyond the
//! loopback interface.
//!
//! Environment: `PG_CONFIG` names the server under test (default: the one that `make stage` made),
//! `PGMQ_MAIL_KEEP=1` keeps the directories of what was stopped, `PGMQ_MAIL_REQUIRE=1` (the default
//! under `CI`) makes a missing mail server a failure instead of a skipped test.

// This package is test code: a panic is how it reports.
#![allow(clippy::missing_panics_doc)]

mod ask;
mod auto_failover;
mod certificates;
mod client;
mod cluster;
mod database;
mod dice;
mod exim;
mod gate;
mod guard;
mod mail_server;
mod mailbox;
mod opensmtpd;
mod options;
mod pgbouncer;
mod postfix;
mod process;
mod sink;
mod standby;
mod wait;

pub use ask::{SOON, all, blocks, one, pid, reaches, run_sql, sleeps, state, worker_of};
pub use auto_failover::AutoFailover;
pub use certificates::Certificates;
pub use client::SmtpClient;
pub use cluster::{Cluster, Stop, pg_config};
pub use database::{Database, code, database, shared};
pub use dice::{Dice, seed, wanted};
pub use gate::Gate;
pub use guard::{Folder, Guard};
pub use mail_server::{MailServer, Make};
pub use mailbox::{DOMAIN, LOGIN, USERS};
pub use options::ClusterOptions;
pub use pgbouncer::PgBouncer;
pub use process::{available, free_port, is_root, run};
pub use sink::{Action, Event, Mail, Phase, Sink, SinkBuilder};
pub use wait::{eventually, until};
