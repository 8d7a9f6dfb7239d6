//! What the tests share: a pool whose reports can be waited for, and jobs.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod sink;

use std::{
    collections::HashMap,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use mail_relay::{
    Config, Finished, Job, JobResult, Limited, Made, Pool, RelayConfig, Report, Settings, Transport,
};
use mail_smtp::{Endpoint, Outcome, TlsMode, Verdict};

/// Long enough for any machine; no test that passes waits for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn quick() -> Settings {
    Settings {
        first_pause: Duration::from_millis(100),
        max_pause: Duration::from_millis(400),
        ..Settings::default()
    }
}

/// A pause during which a test is sure to act.
pub fn slow() -> Settings {
    Settings {
        first_pause: Duration::from_mins(1),
        ..Settings::default()
    }
}

/// A relay of a tier of its own.
pub fn relay(id: i32, port: u16, max_connections: usize) -> RelayConfig {
    let endpoint = Endpoint {
        host: "127.0.0.1".to_owned(),
        port,
        tls: TlsMode::Never,
        helo_name: "test.example".to_owned(),
        ..Endpoint::default()
    };
    RelayConfig {
        tier: id,
        max_connections,
        max_messages_per_connection: 1_000_000,
        ..RelayConfig::new(id, format!("r{id}"), endpoint)
    }
}

/// A configuration of these relays and nothing else.
pub fn only(relays: Vec<RelayConfig>) -> Config {
    Config {
        relays,
        ..Config::default()
    }
}

/// A message that is there already.
pub fn made(text: &str) -> Arc<Made> {
    Arc::new(Made {
        text: text.as_bytes().to_vec().into(),
        ..Made::default()
    })
}

pub fn job(id: i64, relays: &[i32]) -> Job {
    let from = "s@example.com";
    Job {
        id,
        token: id + 1_000_000,
        queue: 1,
        transport: Transport::Smtp(Arc::from(relays)),
        from: from.to_owned(),
        to: vec![format!("u{id}@example.org")],
        source: made(&format!(
            "From: {from}\r\nMessage-ID: <{id}@example.com>\r\nSubject: job {id}\r\n\r\nhello\r\n"
        )),
    }
}

/// A job for these recipients.
pub fn job_to(id: i64, relays: &[i32], to: &[&str]) -> Job {
    Job {
        to: to.iter().map(|&to| to.to_owned()).collect(),
        ..job(id, relays)
    }
}

pub fn jobs(ids: std::ops::Range<i64>, relays: &[i32]) -> Vec<Job> {
    ids.map(|id| job(id, relays)).collect()
}

/// A port that nothing listens on.
pub fn dead_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

pub struct Harness {
    pub pool: Pool,
    reports: mpsc::Receiver<Report>,
    pub finished: HashMap<i64, Finished>,
    /// What was told of recipients of jobs that were not over.
    pub before: Vec<Finished>,
    pub downs: Vec<(i32, Duration)>,
    pub ups: Vec<i32>,
    pub silent: Vec<i32>,
    pub exhausted: Vec<(Limited, Duration)>,
    pub paused: Vec<Report>,
    /// What was asked for: queue, domain, how many.
    pub roomy: Vec<(i32, String, usize)>,
}

impl Harness {
    pub fn start(settings: Settings, relays: Vec<RelayConfig>) -> Self {
        Self::with(settings, only(relays))
    }

    pub fn with(settings: Settings, config: Config) -> Self {
        let (sender, reports) = mpsc::channel();
        let pool = Pool::start(move |report| drop(sender.send(report)), settings).unwrap();
        pool.configure(config);
        Self {
            pool,
            reports,
            finished: HashMap::new(),
            before: Vec::new(),
            downs: Vec::new(),
            ups: Vec::new(),
            silent: Vec::new(),
            exhausted: Vec::new(),
            paused: Vec::new(),
            roomy: Vec::new(),
        }
    }

    fn take(&mut self, report: Report) {
        match report {
            Report::Finished(finished) => {
                assert_eq!(finished.token, finished.id + 1_000_000);
                assert!(!finished.to.is_empty());
                let id = finished.id;
                assert!(!self.finished.contains_key(&id), "job {id} was over");
                if finished.more {
                    self.before.push(finished);
                } else {
                    self.finished.insert(id, finished);
                }
            }
            Report::RelayDown { relay, pause, .. } => self.downs.push((relay, pause)),
            Report::Configured => {}
            Report::RelayUp { relay } => self.ups.push(relay),
            Report::RelaySilent { relay, .. } => self.silent.push(relay),
            Report::Roomy {
                queue,
                domain,
                count,
            } => self.roomy.push((queue, domain, count)),
            Report::Exhausted { limit, wait } => self.exhausted.push((limit, wait)),
            paused @ Report::DomainPaused { .. } => self.paused.push(paused),
        }
    }

    /// Takes reports until `enough`.
    pub fn until(&mut self, what: &str, enough: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !enough(self) {
            // What is waited for may be no report.
            let moment = Duration::from_millis(10);
            match self.reports.recv_timeout(moment) {
                Ok(report) => self.take(report),
                Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(error) => panic!(
                    "{what}: {error}; {} finished, {:?} down",
                    self.finished.len(),
                    self.downs
                ),
            }
        }
    }

    pub fn until_finished(&mut self, count: usize) {
        self.until(&format!("{count} jobs finish"), |h| {
            h.finished.len() >= count
        });
    }

    pub fn result(&self, id: i64) -> &JobResult {
        &self
            .finished
            .get(&id)
            .unwrap_or_else(|| panic!("job {id} is not finished"))
            .result
    }

    pub fn delivered(&self, id: i64) -> bool {
        verdict(self.result(id)) == Some(Verdict::Delivered)
    }

    pub fn not_tried(&self, id: i64) -> bool {
        matches!(self.result(id), JobResult::Smtp(Outcome::NotTried(_)))
    }

    /// Why a job was returned.
    pub fn returned(&self, id: i64) -> &str {
        match self.result(id) {
            JobResult::Returned(why) => why,
            other => panic!("job {id}: {other:?}"),
        }
    }

    /// Stops the pool, takes what it still reports, and says how long the thread took to end.
    pub fn stop(mut self, grace: Duration) -> (Stopped, Duration) {
        let start = Instant::now();
        self.pool.stop(grace);
        let Self { pool, reports, .. } = self;
        assert!(pool.join(PATIENCE), "the thread ends");
        let took = start.elapsed();
        let mut rest = Stopped {
            finished: std::mem::take(&mut self.finished),
        };
        for report in reports.try_iter() {
            if let Report::Finished(finished) = report {
                let id = finished.id;
                assert!(
                    rest.finished.insert(id, finished).is_none(),
                    "job {id} was reported twice"
                );
            }
        }
        (rest, took)
    }
}

pub struct Stopped {
    pub finished: HashMap<i64, Finished>,
}

pub fn verdict(result: &JobResult) -> Option<Verdict> {
    match result {
        JobResult::Smtp(Outcome::Judged(results)) => results.first().map(|result| result.verdict),
        _ => None,
    }
}
