//! What the pool is given and what it reports.

use std::{fmt::Debug, sync::Arc, time::Duration};

use mail_smtp::{Dsn, Endpoint, Outcome, RelayFault, Text, TlsInfo};

use crate::rules::{Decision, Rule};

/// So many in each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many, at least 1.
    pub count: u32,
    /// The window's length, more than nothing.
    pub window: Duration,
}

/// One relay as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// Its id in the configuration.
    pub id: i32,
    /// Its name, for the record.
    pub name: String,
    /// Where and how to reach it.
    pub endpoint: Endpoint,
    /// Relays of a lower tier are used while one of them is up.
    pub tier: i32,
    /// Its share of its tier's mail; 0: only while all others of the tier are down.
    pub weight: u32,
    /// Sender domains that it serves, see [`RelayConfig::serves`]; empty: any.
    pub sender_domains: Vec<String>,
    /// Recipient domains that it serves; empty: any.
    pub recipient_domains: Vec<String>,
    /// Connections open at once, at least 1.
    pub max_connections: usize,
    /// Messages over one connection before it is closed, at least 1.
    pub max_messages_per_connection: usize,
    /// How long a connection without work is kept before QUIT.
    pub idle: Duration,
    /// How old a connection may become before it takes no more messages.
    pub lifetime: Duration,
    /// How many messages it may get.
    pub rate: Option<Rate>,
}

impl RelayConfig {
    /// A relay without limits of its own: tier 1, weight 1, 10 connections for at most 5 minutes and 1,000 messages each,
    /// 15 seconds without work.
    pub fn new(id: i32, name: impl Into<String>, endpoint: Endpoint) -> Self {
        Self {
            id,
            name: name.into(),
            endpoint,
            tier: 1,
            weight: 1,
            sender_domains: Vec::new(),
            recipient_domains: Vec::new(),
            max_connections: 10,
            max_messages_per_connection: 1000,
            idle: Duration::from_secs(15),
            lifetime: Duration::from_mins(5),
            rate: None,
        }
    }
}

/// A queue's own limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueLimit {
    /// The queue's id.
    pub id: i32,
    /// How many of its messages may be sent.
    pub rate: Rate,
}

/// What a recipient domain may get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainLimit {
    /// The domain, in lower case.
    pub domain: String,
    /// Messages on their way to it at once.
    pub concurrency: Option<usize>,
    /// How many it may get.
    pub rate: Option<Rate>,
}

/// All that the pool goes by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// The relays that may be used.
    pub relays: Vec<RelayConfig>,
    /// Queues with a limit.
    pub queues: Vec<QueueLimit>,
    /// Domains with a limit.
    pub domains: Vec<DomainLimit>,
    /// What replies ask for, in order.
    pub rules: Vec<Rule>,
}

/// What is to happen with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// To one of these relays.
    Smtp(Arc<[i32]>),
    /// Make it only and hand back the bytes.
    Capture,
}

impl Transport {
    /// The relays that may be used.
    pub(crate) fn relays(&self) -> Option<&[i32]> {
        match self {
            Self::Smtp(relays) => Some(relays),
            Self::Capture => None,
        }
    }
}

/// A message as it goes out.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// The RFC 5322 message.
    pub text: Text,
    /// What to report about its delivery.
    pub dsn: Dsn,
    /// What is to be remembered of how it was made; comes back in [`Finished::note`].
    pub note: Option<Arc<str>>,
}

/// From what a message is made when its turn has come.
pub trait Source: Debug + Send + Sync {
    /// Makes it, on the network thread and within bounds; or says why it cannot be made. A job that goes by several
    /// ways, or to several relays in turn, asks again: it should get the same.
    ///
    /// # Errors
    /// What keeps it from being made, now and later.
    fn make(&self) -> Result<Made, String>;
}

/// One that is made already.
impl Source for Made {
    fn make(&self) -> Result<Made, String> {
        Ok(self.clone())
    }
}

/// One claimed message.
#[derive(Clone, Debug)]
pub struct Job {
    /// The message's id.
    pub id: i64,
    /// The lease that it was claimed under.
    pub token: i64,
    /// The queue that it is from.
    pub queue: i32,
    /// Where it goes.
    pub transport: Transport,
    /// Reverse path; empty for the null sender.
    pub from: String,
    /// The outstanding recipients, at least one.
    pub to: Vec<String>,
    /// What it is made from.
    pub source: Arc<dyn Source>,
}

/// What the pool says back.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every report is one of the largest"
)]
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
        /// The rule that understands the fault's reply as a wish for this pause; `None`: the relay failed.
        rule: Option<String>,
    },
    /// Mail for a recipient domain waits for this long, since a rule understands a relay so.
    DomainPaused {
        /// Which.
        domain: String,
        /// For how long from now.
        pause: Duration,
        /// The relay that said so.
        relay: i32,
        /// The rule.
        rule: String,
        /// What the relay said.
        words: String,
    },
    /// A relay has not said anything for so long while mail waits for it. It may still answer.
    RelaySilent {
        /// Which.
        relay: i32,
        /// For how long.
        silence: Duration,
    },
    /// A relay answered again after having been down or silent.
    RelayUp {
        /// Which.
        relay: i32,
    },
    /// A domain can take more of what was put off for it: those whose time comes first may come now.
    Roomy {
        /// Of this queue.
        queue: i32,
        /// As in [`Finished::waits_for`].
        domain: String,
        /// How many.
        count: usize,
    },
    /// A configuration is in force: what was reported before was by another.
    Configured,
    /// A limit is used up: nothing more can go for so long.
    Exhausted {
        /// Whose limit.
        limit: Limited,
        /// For how long.
        wait: Duration,
    },
}

/// What has a limit of its own for which jobs come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limited {
    /// This relay.
    Relay(i32),
    /// This queue.
    Queue(i32),
}

/// The end of one job, or of some of its recipients.
#[derive(Debug)]
pub struct Finished {
    /// [`Job::id`].
    pub id: i64,
    /// [`Job::token`].
    pub token: i64,
    /// The recipients that this is about: those in [`Job::to`], or a part of them.
    pub to: Vec<String>,
    /// The relay that was used or tried last, if any.
    pub relay: Option<i32>,
    /// What became of it.
    pub result: JobResult,
    /// How the connection was protected.
    pub tls: Option<TlsInfo>,
    /// From the start of its transaction (or the connect made for it) to the verdict.
    pub duration: Duration,
    /// What rules decided for the recipients, in their order; empty: nothing.
    pub decisions: Vec<Option<Decision>>,
    /// What became of further recipients, who went another way. Only where this part was judged.
    pub others: Vec<Finished>,
    /// Some recipients were not tried: when to do it.
    pub untried: Option<Duration>,
    /// This is not the end of the job: others of its recipients, who go another way, are still being tried. Those here
    /// are delivered to, or failed for good.
    pub more: bool,
    /// The domain, in lower case, that was not tried and may ask for the message before its time: [`Report::Roomy`].
    pub waits_for: Option<String>,
    /// [`Made::note`], where it was made.
    pub note: Option<Arc<str>>,
}

/// What became of one job.
#[derive(Debug)]
pub enum JobResult {
    /// The session's outcome. `NotTried` gives it back without an attempt.
    Smtp(Outcome),
    /// The message of a capture job.
    Captured(Vec<u8>),
    /// It cannot be made, now or later: why.
    Unrenderable(String),
    /// It was never started: the pool stops, or no relay is available.
    Returned(String),
    /// It was never started, and should wait so long before it is claimed again: its recipient's domain has reached a
    /// limit, is suspended, is slow, or gives no answer.
    PutOff {
        /// How long.
        wait: Duration,
        /// Why.
        why: String,
        /// Whether that is worth a record: it is no passing matter.
        told: bool,
        /// The relay's trouble that it is because of, where it is told.
        fault: Option<RelayFault>,
    },
}
