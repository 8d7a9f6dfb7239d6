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
mod report;
mod session;
mod sides;
mod speed;

use std::time::{Duration, Instant};

use pgmq_mail_tests::{Action, Cluster, ClusterOptions, Database, Sink, until};
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
    let measurements: [Measurement; 15] = [
        ("drain", speed::drains),
        ("latency", speed::latency),
        ("enqueue", speed::enqueues),
        ("wal", speed::wal),
        ("backlogs", growth::backlogs),
        ("snapshot", growth::snapshot),
        ("size", growth::size),
        ("consumers", growth::consumers),
        ("cpu", cpu::cpu),
        ("memory", told!(memory)),
        ("files", told!(files)),
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
    for (name, measure) in measurements {
        if chosen.is_empty() || chosen.iter().any(|choice| choice == name) {
            let sections = measure(&cluster);
            sections.iter().for_each(Section::print);
            all.extend(sections);
        }
    }
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

/// What the worker holds while a million messages wait for a relay that never answers.
/// The most memory that a process has, in KiB, until something is done: its own, and with shared memory.
fn highest(process: i32, mut done: impl FnMut() -> bool) -> [u64; 2] {
    let mut highest = [0, 0];
    while !done() {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it lives");
        for (field, most) in ["RssAnon:", "VmRSS:"].iter().zip(&mut highest) {
            let kib = status
                .lines()
                .find_map(|line| {
                    line.strip_prefix(field)?
                        .split_whitespace()
                        .next()?
                        .parse()
                        .ok()
                })
                .unwrap_or(0_u64);
            *most = kib.max(*most);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    highest
}

/// Mails with a file of 25 MB, one and ten at once.
fn files(cluster: &Cluster) {
    let sink = Sink::start();
    let (_database, mut client) = deliver_to(cluster, &sink);
    client
        .batch_execute(
            "CREATE TABLE file AS SELECT string_agg(decode(md5(n::text), 'hex'), '') AS content
             FROM generate_series(1, 25 * 65536) n",
        )
        .expect("a file");
    let worker: i32 = client
        .query_one("SELECT pid FROM mail.workers", &[])
        .expect("it runs")
        .get(0);
    let before = highest(worker, {
        let end = Instant::now() + Duration::from_millis(200);
        move || Instant::now() >= end
    })[0];
    let mut sent = 0;
    for count in [1, 10] {
        client
            .execute(
                "SELECT count(mail.enqueue(jsonb_build_object('to', 'a@example.test', 'text', 'See there.',
                            'attachments', jsonb_build_array(mail.attach(f.content, 'file.bin')))))
                 FROM file f, generate_series(1, $1) n",
                &[&count],
            )
            .expect("accepted");
        sent += usize::try_from(count).unwrap_or_default();
        let begin = Instant::now();
        let most = highest(worker, || sink.count() >= sent);
        println!(
            "files: {count} mails with 25 MB each in {:.1?}: worker grew by {:.1} MiB",
            begin.elapsed(),
            mebibytes(most[0].saturating_sub(before))
        );
    }
}

fn memory(cluster: &Cluster) {
    const MESSAGES: i64 = 1_000_000;
    let sink = Sink::scripted(|_| Action::Silence);
    let (database, mut client) = deliver_to(cluster, &sink);
    let begin = Instant::now();
    client
        .execute(
            "SELECT count(mail.enqueue('a@example.test', 'Mail ' || i, 'A short text.'))
             FROM generate_series(1::bigint, $1) i",
            &[&MESSAGES],
        )
        .expect("accepted");
    println!(
        "memory: one transaction enqueued {MESSAGES} messages in {:.1?} ({}/s)",
        begin.elapsed(),
        rate(MESSAGES as usize, begin.elapsed())
    );
    until("the worker tries", Duration::from_mins(1), || {
        sink.open() > 0
    });
    let worker: i32 = client
        .query_one("SELECT pid FROM mail.workers", &[])
        .expect("it runs")
        .get(0);
    // The highest of some seconds, in which it claims, scans and sweeps.
    let end = Instant::now() + Duration::from_secs(12);
    let highest = highest(worker, || Instant::now() >= end);
    println!(
        "memory: worker with {MESSAGES} messages waiting: {:.1} MiB of its own, {:.1} MiB with shared memory",
        mebibytes(highest[0]),
        mebibytes(highest[1])
    );
    drop(database);
}

fn rate(count: usize, time: Duration) -> u64 {
    (count as u128 * 1_000_000_000 / time.as_nanos().max(1)) as u64
}

fn mebibytes(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
}
