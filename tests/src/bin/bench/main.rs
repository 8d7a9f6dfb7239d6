//! `make bench`: what it does beside what limits it, on a server that waits for the disk, as a table and as
//! `target/bench/report.html`. Names of measurements as arguments choose among them.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures"
)]

mod cpu;
mod flow;
mod growth;
mod memory;
mod report;
mod rotation;
mod session;
mod sides;
mod speed;

use std::time::{Duration, Instant};

use pgmq_mail_tests::{Cluster, ClusterOptions, Database, Sink};
use postgres::Client;

const MINUTES: Duration = Duration::from_mins(5);

use report::{Section, Series};

type Measurement = (&'static str, fn(&Cluster) -> Vec<Section>);

/// A measurement that says what it found itself.
macro_rules! told {
    ($measure:path) => {
        |cluster| {
            $measure(cluster);
            Vec::new()
        }
    };
}

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    let measurements: [Measurement; 16] = [
        ("drain", speed::drains),
        ("latency", speed::latency),
        ("enqueue", speed::enqueues),
        ("wal", speed::wal),
        ("backlogs", growth::backlogs),
        ("snapshot", growth::snapshot),
        ("size", growth::size),
        ("rotation", rotation::rotation),
        ("consumers", growth::consumers),
        ("cpu", cpu::cpu),
        ("memory", told!(memory::memory)),
        ("files", told!(memory::files)),
        ("session", told!(session::session)),
        ("late", told!(session::late)),
        ("isolation", told!(flow::isolation)),
        ("rates", told!(flow::rates)),
    ];
    let options = ClusterOptions::new()
        .fsync(true)
        .setting("synchronous_commit", "on")
        .setting("shared_buffers", "256MB")
        .setting("max_wal_size", "4GB")
        .setting("log_min_messages", "warning");
    let cluster = Cluster::with(&options);
    let server: String = cluster
        .connect("postgres")
        .query_one("SELECT split_part(version(), ' on ', 1)", &[])
        .expect("a version")
        .get(0);
    let machine = report::machine(&server);
    println!("{machine}");
    let mut all = Vec::new();
    let memory = memory::watched();
    for (name, measure) in measurements {
        if chosen.is_empty() || chosen.iter().any(|choice| choice == name) {
            let sections = measure(&cluster);
            sections.iter().for_each(Section::print);
            all.extend(sections);
        }
    }
    let section = memory.section();
    section.print();
    all.push(section);
    println!("\nreport: {}", report::write(&machine, &all).display());
}

/// A database whose queue `default` delivers to the sink.
fn deliver_to<'a>(cluster: &'a Cluster, sink: &Sink) -> (Database<'a>, Client) {
    deliver_to_url(cluster, &sink.url())
}

/// A database whose queue `default` delivers to the relay `sink` there.
fn deliver_to_url<'a>(cluster: &'a Cluster, url: &str) -> (Database<'a>, Client) {
    let database = Database::new(cluster);
    let mut client = database.connect();
    client
        .batch_execute("SET statement_timeout = 0")
        .expect("a setting");
    client
        .execute(
            &format!("INSERT INTO mail.relay (name, url) VALUES ('sink', '{url}')"),
            &[],
        )
        .expect("a relay");
    client
        .batch_execute(
            "UPDATE mail.queue SET transport = 'smtp', default_sender = 'app@example.test'
             WHERE name = 'default'",
        )
        .expect("a queue");
    (database, client)
}

/// How long mails took to the sink.
#[derive(Default)]
struct Times {
    from_commit: Vec<Duration>,
    from_answer: Vec<Duration>,
}

/// Sends so many mails through the queue `default`, after some that do not count.
fn one_by_one(client: &mut Client, sink: &Sink, mails: usize) -> Times {
    const WARM_UP: usize = 200;
    let enqueue = client
        .prepare("SELECT mail.enqueue('a@example.test', 'Hello', 'A short text.')")
        .expect("a statement");
    let mut times = Times::default();
    for mail in 0..mails + WARM_UP {
        client.batch_execute("BEGIN").expect("a transaction");
        client.query(&enqueue, &[]).expect("accepted");
        let begin = Instant::now();
        client.batch_execute("COMMIT").expect("a commit");
        let end = Instant::now();
        let arrived = sink.wait_for(1, Duration::from_secs(10));
        let at = arrived[0].at;
        sink.forget();
        if mail >= WARM_UP {
            times.from_commit.push(at.duration_since(begin));
            times.from_answer.push(at.saturating_duration_since(end));
        }
    }
    times
}

/// The shortest time that so many of a hundred do not exceed.
fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

fn rate(count: usize, time: Duration) -> u64 {
    (count as u128 * 1_000_000_000 / time.as_nanos().max(1)) as u64
}
