//! What the pool is given and what it reports.

use std::{sync::Arc, time::Duration};

use mail_smtp::{Endpoint, Outcome, RelayFault, TlsInfo};

/// One relay as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// Its id in the configuration.
    pub id: i32,
    /// Where and how to reach it.
    pub endpoint: Endpoint,
    /// Connections open at once, at least 1.
    pub max_connections: usize,
    /// Messages over one connection before it is closed, at least 1.
    pub max_messages_per_connection: usize,
}

/// What is to happen with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// To the first of these relays that is not suspended.
    Smtp(Arc<[i32]>),
    /// Compose only and hand back the bytes.
    Capture,
}

/// One claimed message.
#[derive(Clone, Debug)]
pub struct Job {
    /// The message's id.
    pub id: i64,
    /// The lease that it was claimed under.
    pub token: i64,
    /// Where it goes.
    pub transport: Transport,
    /// Reverse path; empty for the null sender.
    pub from: String,
    /// The outstanding recipients, at least one.
    pub to: Vec<String>,
    /// The canonical JSON that `mail_message::compose` reads.
    pub content: String,
    /// The `Date:` header, seconds since the Unix epoch.
    pub date: i64,
}

/// What the pool says back.
#[derive(Debug)]
pub enum Report {
    /// One job ended. Every job ends in exactly one of these.
    Finished(Finished),
    /// A relay is suspended for this long.
    RelayDown {
        /// Which.
        relay: i32,
        /// For how long.
        pause: Duration,
        /// Why.
        fault: RelayFault,
    },
    /// A relay answered again after having been down.
    RelayUp {
        /// Which.
        relay: i32,
    },
}

/// The end of one job.
#[derive(Debug)]
pub struct Finished {
    /// [`Job::id`].
    pub id: i64,
    /// [`Job::token`].
    pub token: i64,
    /// The recipients, as in [`Job::to`].
    pub to: Vec<String>,
    /// The relay that was used or tried last, if any.
    pub relay: Option<i32>,
    /// What became of it.
    pub result: JobResult,
    /// How the connection was protected.
    pub tls: Option<TlsInfo>,
    /// From the start of its transaction (or the connect made for it) to the verdict.
    pub duration: Duration,
}

/// What became of one job.
#[derive(Debug)]
pub enum JobResult {
    /// The session's outcome. `NotTried` gives it back without an attempt.
    Smtp(Outcome),
    /// The composed message of a capture job.
    Captured(Vec<u8>),
    /// It cannot be composed, now or later: why.
    Unrenderable(String),
    /// It was never started: the pool stops, or no relay is available.
    Returned(String),
}
