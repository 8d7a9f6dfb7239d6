//! A server, a relay, and applications that use both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::SystemTime;

use pgmq_mail_tests::{Cluster, ClusterOptions, PgBouncer, available, run_sql};
use postgres::Client;

use crate::faults::{Fault, pause};
use crate::ledger::Ledger;
use crate::producer::Producer;
use crate::weather::Relay;
use pgmq_mail_tests::Dice;

/// Applications at the same time.
const PRODUCERS: usize = 4;
/// The most connections that the relay gets.
pub const CONNECTIONS: u64 = 6;
/// The most messages of a queue that the worker has in flight: so many can be repeated by a crash, and no more.
pub const IN_FLIGHT: u64 = 30;

pub struct Arena {
    pub cluster: Cluster,
    pub relay: Relay,
    /// Before every other application.
    bouncer: Option<PgBouncer>,
    pub ledger: Arc<Ledger>,
    /// A transaction that holds an old snapshot.
    pub snapshot: Option<Client>,
    /// What ended the worker, and when.
    pub ends: Vec<(Fault, SystemTime)>,
    /// How often each fault struck.
    pub struck: BTreeMap<Fault, u64>,
}

impl Arena {
    pub fn new() -> Self {
        Self::with(&ClusterOptions::new().fsync(true), "VERSION '0.1.0'")
    }

    pub fn with(options: &ClusterOptions, version: &str) -> Self {
        let ledger = Arc::new(Ledger::default());
        let relay = Relay::new(Arc::clone(&ledger));
        let cluster = Cluster::with(options);
        run_sql(
            &mut cluster.connect("postgres"),
            &format!(
                "CREATE EXTENSION pgmq_mail {version};
                 CREATE TABLE business (name text PRIMARY KEY, message bigint NOT NULL);
                 INSERT INTO mail.relay (name, url, max_connections, greeting_timeout, command_timeout, data_timeout, block_timeout, dot_timeout)
                 VALUES ('sink', 'smtp://127.0.0.1:{}', {CONNECTIONS}, '1 second', '1 second', '1 second', '1 second', '1 second');
                 INSERT INTO mail.queue (name, transport, default_sender, retry_base, retry_max, max_attempts, concurrency, on_uncertain)
                 VALUES ('again', 'smtp', 'a@b.test', '50 milliseconds', '200 milliseconds', 1000, {IN_FLIGHT}, 'retry'),
                        ('once', 'smtp', 'a@b.test', '50 milliseconds', '200 milliseconds', 1000, {IN_FLIGHT}, 'hold')",
                relay.port()
            ),
        );
        let bouncer =
            available("PgBouncer", PgBouncer::is_available()).then(|| PgBouncer::start(&cluster));
        Self {
            cluster,
            relay,
            bouncer,
            ledger,
            snapshot: None,
            ends: Vec::new(),
            struck: BTreeMap::new(),
        }
    }

    /// How often everything in the server's memory was lost.
    pub fn crashes(&self) -> u64 {
        self.ends.iter().filter(|(end, _)| end.is_crash()).count() as u64
    }

    /// A connection, if the server is up.
    pub fn try_connect(&self) -> Option<Client> {
        self.cluster.try_connect("postgres").ok()
    }

    /// A statement that may fail.
    pub fn tell(&self, statement: &str) {
        if let Some(mut client) = self.try_connect() {
            let _ = client.batch_execute("SET lock_timeout = '2s'");
            let _ = client.simple_query(statement);
        }
    }

    /// Updates the extension while everything else goes on, if no crash comes in between; once it is done there is nothing
    /// to do. What a crash left prepared keeps its locks until somebody ends it.
    pub fn update(&self) {
        let Some(mut client) = self.try_connect() else {
            return;
        };
        std::thread::spawn(move || {
            let left = client.query(
                "SELECT format('COMMIT PREPARED %L', gid) FROM pg_prepared_xacts",
                &[],
            )?;
            for commit in left {
                let _ = client.batch_execute(commit.get(0)); // perhaps its producer was first
            }
            client.batch_execute("ALTER EXTENSION pgmq_mail UPDATE")
        });
    }

    /// Whether that is done.
    pub fn is_updated(&self) -> bool {
        let query = "SELECT extversion <> '0.1.0' FROM pg_extension WHERE extname = 'pgmq_mail'";
        let row = self
            .try_connect()
            .and_then(|mut client| client.query_one(query, &[]).ok());
        row.is_some_and(|row| row.get(0))
    }

    /// The applications, until they are told to stop.
    pub fn produce(&self, dice: &mut Dice, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
        let straight = self.cluster.config("postgres", "postgres");
        let pooled = self
            .bouncer
            .as_ref()
            .map(|bouncer| bouncer.config("postgres"));
        (0..PRODUCERS)
            .map(|number| {
                let through = pooled.as_ref().filter(|_| number % 2 == 1);
                let mut config = through.unwrap_or(&straight).clone();
                config.application_name("producer");
                Producer::new(
                    number,
                    config,
                    dice.split(),
                    Arc::clone(&self.ledger),
                    Arc::clone(stop),
                )
                .start()
            })
            .collect()
    }

    /// Lets it rain until there were so many crashes and committed messages; then all is well again.
    pub fn run(&mut self, dice: &mut Dice, crashes: u64, mails: u64) {
        let stop = Arc::new(AtomicBool::new(false));
        let producers = self.produce(dice, &stop);
        while self.crashes() < crashes || self.ledger.committed() < mails {
            pause(dice, 600);
            let fault = if self.crashes() < crashes || dice.percent(50) {
                Fault::random(dice)
            } else {
                Fault::BadWeather
            };
            if fault.ends_worker() {
                self.ends.push((fault, SystemTime::now()));
            }
            fault.strike(self, dice);
            *self.struck.entry(fault).or_default() += 1;
            self.relay.collect();
            if dice.percent(50) {
                self.relay.weather(None);
                self.snapshot = None;
            }
        }
        stop.store(true, Ordering::Relaxed);
        for producer in producers {
            producer.join().expect("no producer saw what must not be");
        }
        self.snapshot = None;
        self.relay.start();
        self.relay.weather(None);
    }
}
