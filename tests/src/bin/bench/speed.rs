//! Rates and times beside their limits.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use pgmq_mail_tests::{Certificates, Cluster, Database, Sink, available};
use postgres::Client;

use crate::report::{Bound, Section, named};
use crate::sides::{
    ROUNDS, by_turns, counting, drain, drained, enqueue as backlog, pgbench, settled, smtp_source,
    text, tidy,
};
use crate::{Series, deliver_to, one_by_one, percentile};

/// A backlog, beside what Postfix's tool gets through to the same sink.
pub fn drains(cluster: &Cluster) -> Vec<Section> {
    const MAILS: usize = 60_000;
    if !available("smtp-source", Path::new("/usr/sbin/smtp-source").exists()) {
        return Vec::new();
    }
    let certificates = Certificates::new();
    let sink = counting(None);
    let series = by_turns(
        ROUNDS,
        &mut [
            (
                "smtp-source -d, 8 connections",
                Box::new(|| smtp_source(&sink, MAILS)),
            ),
            ("pgmq_mail", Box::new(|| drained(cluster, None, MAILS))),
            (
                "pgmq_mail with TLS",
                Box::new(|| drained(cluster, Some(&certificates), MAILS)),
            ),
        ],
    );
    let [source, plain, tls] = [0, 1, 2].map(|side| series[side].median());
    vec![
        Section::new(
            "Drain: a backlog of 60,000 mails of 2 KB to one sink",
            "mails/s",
            series,
        )
        .goal("plain, of smtp-source", plain / source, Bound::AtLeast(1.2))
        .goal(
            "with TLS, of smtp-source",
            tls / source,
            Bound::AtLeast(0.6),
        ),
    ]
}

/// From COMMIT to the final dot, beside the time that the same exchange takes on a connection that is open.
pub fn latency(cluster: &Cluster) -> Vec<Section> {
    const MAILS: usize = 1000;
    let sink = Sink::start();
    let (_database, mut client) = deliver_to(cluster, &sink);
    let mut columns = [const { Vec::new() }; 6];
    for _ in 0..ROUNDS {
        let mut network = network(&sink, MAILS);
        let mut times = one_by_one(&mut client, &sink, MAILS);
        let sides = [&mut network, &mut times.from_answer, &mut times.from_commit];
        for (side, times) in sides.into_iter().enumerate() {
            for (at, percent) in [50, 99].into_iter().enumerate() {
                columns[side * 2 + at].push(percentile(times, percent).as_secs_f64() * 1e3);
            }
        }
    }
    let names = [
        "network alone, p50",
        "network alone, p99",
        "COMMIT answered to accepted, p50",
        "COMMIT answered to accepted, p99",
        "COMMIT sent to accepted, p50",
        "COMMIT sent to accepted, p99",
    ];
    let series = named(names, columns);
    let over = [2, 3].map(|side| series[side].median() - series[side - 2].median());
    vec![
        Section::new("Latency: one mail at a time", "ms", series)
            .goal(
                "p50 over the network's own time",
                over[0],
                Bound::AtMost(0.15),
            )
            .goal(
                "p99 over the network's own time",
                over[1],
                Bound::AtMost(0.5),
            ),
        many_queues(cluster),
        under_load(cluster),
    ]
}

/// One mail at a time, each to another of 1,000 queues.
fn many_queues(cluster: &Cluster) -> Section {
    const QUEUES: usize = 1000;
    let sink = Sink::start();
    let (_database, mut client) = deliver_to(cluster, &sink);
    client
        .batch_execute(
            "INSERT INTO mail.queue (name, transport, default_sender)
             SELECT 'q' || n, 'smtp', 'app@example.test' FROM generate_series(0, 999) n",
        )
        .expect("queues");
    let mut columns = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        let mut times: Vec<Duration> = (0..QUEUES)
            .map(|queue| {
                client
                    .execute(
                        "SELECT mail.enqueue('a@example.test', 'Hello', 'A short text.', queue => 'q' || $1::int)",
                        &[&(queue as i32)],
                    )
                    .expect("accepted");
                let answered = Instant::now();
                let at = sink.wait_for(1, Duration::from_secs(10))[0].at;
                sink.forget();
                at.saturating_duration_since(answered)
            })
            .collect();
        for (column, percent) in columns.iter_mut().zip([50, 99]) {
            column.push(percentile(&mut times, percent).as_secs_f64() * 1e3);
        }
    }
    let [p50, p99] = columns;
    Section::new(
        "Latency: one mail at a time, in 1,000 queues",
        "ms",
        vec![
            Series::new("COMMIT answered to accepted, p50", p50),
            Series::new("COMMIT answered to accepted, p99", p99),
        ],
    )
}

/// The exchange of one mail on a warm connection, by a client that does nothing else: from its first byte to the final dot.
fn network(sink: &Sink, mails: usize) -> Vec<Duration> {
    let stream = TcpStream::connect(("127.0.0.1", sink.port())).expect("it listens");
    stream.set_nodelay(true).expect("an option");
    let mut replies = BufReader::new(stream.try_clone().expect("a socket"));
    let mut stream = stream;
    let mut read = |lines: usize| {
        for _ in 0..lines {
            let mut line = String::new();
            while replies.read_line(&mut line).expect("a reply") > 0 && line.as_bytes()[3] == b'-' {
                line.clear();
            }
        }
    };
    read(1);
    stream.write_all(b"EHLO bench\r\n").expect("sent");
    read(1);
    let mut times = Vec::new();
    for mail in 0..mails + 100 {
        let begin = Instant::now();
        stream
            .write_all(b"MAIL FROM:<app@example.test>\r\nRCPT TO:<a@example.test>\r\nDATA\r\n")
            .expect("sent");
        read(3);
        stream
            .write_all(b"Subject: Hello\r\n\r\nA short text.\r\n.\r\n")
            .expect("sent");
        read(1);
        let at = sink.wait_for(1, Duration::from_secs(10))[0].at;
        sink.forget();
        if mail >= 100 {
            times.push(at.duration_since(begin));
        }
    }
    times
}

/// Mail at half the rate of a drain, in transactions of ten: from each COMMIT to each final dot.
fn under_load(cluster: &Cluster) -> Section {
    const SPAN: Duration = Duration::from_secs(3);
    const EACH: usize = 10;
    let half = drained(cluster, None, 40_000) / 2.0;
    let mut columns = [const { Vec::new() }; 2];
    let mut offered = Vec::new();
    for _ in 0..ROUNDS {
        let sink = Sink::start();
        let (_database, mut client) = deliver_to(cluster, &sink);
        let enqueue = client
            .prepare(
                "SELECT count(mail.enqueue('a@example.test', $1, $2)) FROM generate_series(1, $3::int)",
            )
            .expect("a statement");
        let body = text(2048);
        let begin = Instant::now();
        let mut commits = Vec::new();
        while begin.elapsed() < SPAN {
            let number = commits.len();
            let due = Duration::from_secs_f64(number as f64 * EACH as f64 / half);
            std::thread::sleep(due.saturating_sub(begin.elapsed()));
            client
                .query(&enqueue, &[&number.to_string(), &body, &(EACH as i32)])
                .expect("accepted");
            commits.push(Instant::now());
        }
        offered.push((commits.len() * EACH) as f64 / begin.elapsed().as_secs_f64());
        let mut times: Vec<Duration> = sink
            .wait_for(commits.len() * EACH, crate::MINUTES)
            .iter()
            .map(|mail| {
                let number: usize = mail
                    .header("Subject")
                    .and_then(|subject| subject.parse().ok())
                    .expect("a number");
                mail.at.saturating_duration_since(commits[number])
            })
            .collect();
        for (column, percent) in columns.iter_mut().zip([50, 99]) {
            column.push(percentile(&mut times, percent).as_secs_f64() * 1e3);
        }
    }
    let [p50, p99] = columns;
    let p99 = Series::new("COMMIT answered to accepted, p99", p99);
    let goal = p99.median();
    let mut section = Section::new(
        "Latency at half the rate of a drain (2 KB, ten a transaction)",
        "ms",
        vec![Series::new("COMMIT answered to accepted, p50", p50), p99],
    )
    .goal("p99", goal, Bound::AtMost(10.0));
    section.notes.push(format!(
        "half the drain: {half:.0}/s; offered: {:.0}/s",
        Series::new("", offered).median()
    ));
    section
}

/// A table with the same bytes, and the queue `default` paused.
fn beside_a_plain_table(cluster: &Cluster) -> (Database<'_>, Client) {
    let database = Database::new(cluster);
    let mut client = database.connect();
    client
        .batch_execute(
            "SELECT mail.pause('default');
             INSERT INTO mail.queue (name, transport, default_sender, paused, notify)
             VALUES ('notified', 'capture', 'app@example.test', true, true);
             CREATE TABLE plain (id bigserial PRIMARY KEY, at timestamptz DEFAULT now(), recipient text, subject text,
                                 body text);
             CREATE TABLE plain_json (id bigserial PRIMARY KEY, at timestamptz DEFAULT now(), message jsonb);
             SET statement_timeout = 0",
        )
        .expect("a table");
    (database, client)
}

/// `mail.enqueue` against a bare INSERT of the same bytes.
pub fn enqueues(cluster: &Cluster) -> Vec<Section> {
    const SECONDS: u32 = 4;
    let (database, mut client) = beside_a_plain_table(cluster);
    let body = text(2048);
    let rate = |script: String| pgbench(cluster, database.name(), &script, SECONDS);
    let one = by_turns(
        ROUNDS,
        &mut [
            (
                "INSERT",
                Box::new(|| {
                    rate(format!(
                        "INSERT INTO plain (recipient, subject, body) VALUES ('a@example.test', 'Hello', '{body}');"
                    ))
                }),
            ),
            (
                "mail.enqueue",
                Box::new(|| {
                    rate(format!(
                        "SELECT mail.enqueue('a@example.test', 'Hello', '{body}');"
                    ))
                }),
            ),
            (
                "mail.enqueue into a queue that notifies",
                Box::new(|| {
                    rate(format!(
                        "SELECT mail.enqueue('a@example.test', 'Hello', '{body}', queue => 'notified');"
                    ))
                }),
            ),
        ],
    );
    let ratio = one[1].median() / one[0].median();
    client
        .batch_execute("TRUNCATE plain; SELECT mail.purge('default'), mail.purge('notified')")
        .expect("room");
    tidy(&mut client);
    let batch = batches(&database, &body);
    let of_plain = [1, 3].map(|side| batch[side].median() / batch[side - 1].median());
    vec![
        Section::new(
            "Enqueue: 8 clients, 2 KB, one a transaction",
            "mails/s",
            one,
        )
        .goal("of a bare INSERT", ratio, Bound::AtLeast(0.85)),
        Section::new(
            "Enqueue: one client, 2 KB, 1,000 a transaction",
            "mails/s",
            batch,
        )
        .goal(
            "text form, of a bare INSERT",
            of_plain[0],
            Bound::AtLeast(0.85),
        )
        .goal(
            "JSON form, of a bare INSERT of the same JSON",
            of_plain[1],
            Bound::AtLeast(0.85),
        ),
    ]
}

/// 1,000 at once, as values of one statement.
fn batches(database: &Database<'_>, body: &str) -> Vec<Series> {
    const EACH: usize = 1000;
    const TIMES: usize = 20;
    let message = serde_json::json!({ "to": "a@example.test", "subject": "Hello", "text": body });
    let bodies = vec![body; EACH];
    let messages = vec![message; EACH];
    let run = |sql: &str, value: &(dyn postgres::types::ToSql + Sync)| {
        let mut client = database.connect();
        let statement = client.prepare(sql).expect("a statement");
        client.execute(&statement, &[value]).expect("accepted");
        let begin = Instant::now();
        for _ in 0..TIMES {
            client.execute(&statement, &[value]).expect("accepted");
        }
        (EACH * TIMES) as f64 / begin.elapsed().as_secs_f64()
    };
    by_turns(
        ROUNDS,
        &mut [
            (
                "INSERT … SELECT FROM unnest",
                Box::new(|| {
                    run(
                        "INSERT INTO plain (recipient, subject, body) SELECT 'a@example.test', 'Hello', b FROM unnest($1::text[]) b",
                        &bodies,
                    )
                }),
            ),
            (
                "mail.enqueue … FROM unnest",
                Box::new(|| {
                    run(
                        "SELECT count(mail.enqueue('a@example.test', 'Hello', b)) FROM unnest($1::text[]) b",
                        &bodies,
                    )
                }),
            ),
            (
                "INSERT of JSON … FROM unnest",
                Box::new(|| {
                    run(
                        "INSERT INTO plain_json (message) SELECT m FROM unnest($1::jsonb[]) m",
                        &messages,
                    )
                }),
            ),
            (
                "mail.enqueue_batch (JSON)",
                Box::new(|| run("SELECT count(*) FROM mail.enqueue_batch($1)", &messages)),
            ),
        ],
    )
}

/// Bytes of WAL for each mail, without the images of pages after a checkpoint.
pub fn wal(cluster: &Cluster) -> Vec<Section> {
    let mut columns = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        let sink = counting(None);
        let (database, mut client) = deliver_to(cluster, &sink);
        client
            .batch_execute(
                "CREATE TABLE plain (id bigserial PRIMARY KEY, at timestamptz DEFAULT now(), recipient text, subject text,
                                     body text)",
            )
            .expect("a table");
        // What an index and a table need once.
        backlog(&mut client, 2000);
        drain(&mut client, &sink, 2000);
        client
            .batch_execute("SELECT mail.pause('default')")
            .expect("paused");
        let body = text(2048);
        let scripts = [
            format!(
                "INSERT INTO plain (recipient, subject, body) VALUES ('a@example.test', 'Hello', '{body}');"
            ),
            format!("SELECT mail.enqueue('a@example.test', 'Hello', '{body}');"),
        ];
        let mut sums = scripts.map(|script| {
            let count = |client: &mut Client| {
                let row = client
                    .query_one(
                        "SELECT (SELECT count(*) FROM plain) + (SELECT count(*) FROM mail.pending)",
                        &[],
                    )
                    .expect("tables");
                row.get::<_, i64>(0)
            };
            let before = (count(&mut client), position(&mut client));
            pgbench(cluster, database.name(), &script, 2);
            let after = (position(&mut client), count(&mut client));
            (after.0 - before.1) / (after.1 - before.0) as f64
        });
        let waiting = client
            .query_one("SELECT count(*) FROM mail.pending", &[])
            .expect("a table")
            .get::<_, i64>(0) as usize;
        let before = position(&mut client);
        drain(&mut client, &sink, waiting.max(1));
        settled(&mut client);
        let deliver = (position(&mut client) - before) / waiting.max(1) as f64;
        sums[1] += deliver;
        for (column, value) in columns.iter_mut().zip([sums[0], sums[1], deliver]) {
            column.push(value);
        }
    }
    let names = [
        "INSERT",
        "pgmq_mail, from enqueue to sent",
        "of that for delivering",
    ];
    let series = named(names, columns);
    let [plain, all, deliver] = [0, 1, 2].map(|side| series[side].median());
    vec![
        Section::new("WAL: mails of 2 KB", "bytes a mail", series)
            .goal("for delivering", deliver, Bound::AtMost(250.0))
            .goal("in all, of a bare INSERT", all / plain, Bound::AtMost(1.3)),
    ]
}

/// Where the WAL has got to, in bytes.
fn position(client: &mut Client) -> f64 {
    client
        .query_one("SELECT (pg_current_wal_insert_lsn() - '0/0')::float8", &[])
        .expect("a position")
        .get(0)
}
