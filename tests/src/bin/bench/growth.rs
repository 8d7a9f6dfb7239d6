//! What does not slow down: with how much waits, with old snapshots, with the time that it has run.
//!
//! `PGMQ_MAIL_BENCH_MESSAGES` says how many messages wait, or flow (1,000,000); the goals speak of 10,000,000.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pgmq_mail_tests::{Cluster, Database, Sink, until, wanted};
use postgres::Client;

use crate::report::{Bound, Section, named};
use crate::rotation::let_go;
use crate::sides::{ROUNDS, by_turns, counting, settled, text, tidy};
use crate::{MINUTES, Series, deliver_to};

/// How many are drained of those that wait.
const PART: usize = 10_000;

fn messages() -> usize {
    usize::try_from(wanted("PGMQ_MAIL_BENCH_MESSAGES", 1_000_000)).expect("a number")
}

/// So many short mails in a queue, in transactions of 100,000.
fn fill(client: &mut Client, mails: usize, arguments: &str) {
    let mut left = mails;
    while left > 0 {
        let part = left.min(100_000);
        client
            .execute(
                &format!(
                    "SELECT count(mail.enqueue('a@example.test', 'Mail ' || i, 'A short text.'{arguments}))
                     FROM generate_series(1, $1::bigint) i"
                ),
                &[&(part as i64)],
            )
            .expect("accepted");
        left -= part;
    }
}

/// Mails a second until the sink has `part` more.
fn part(client: &mut Client, sink: &Sink, part: usize, begin: &str) -> f64 {
    let goal = sink.count() + part;
    let start = Instant::now();
    client.batch_execute(begin).expect("it begins");
    sink.wait_for(goal, MINUTES);
    part as f64 / start.elapsed().as_secs_f64()
}

/// A database with mail that waits, of which a part can be drained again and again.
struct Waiting<'a> {
    database: Database<'a>,
    client: Client,
    sink: Sink,
}

impl<'a> Waiting<'a> {
    fn with(cluster: &'a Cluster, setup: &str, fill: impl FnOnce(&mut Client)) -> Self {
        let sink = counting(None);
        let (database, mut client) = deliver_to(cluster, &sink);
        client
            .batch_execute("SELECT mail.pause('default')")
            .expect("paused");
        client.batch_execute(setup).expect("it is set up");
        fill(&mut client);
        tidy(&mut client);
        Self {
            database,
            client,
            sink,
        }
    }

    /// Lets a part go, and stops the rest.
    fn part(&mut self, resume: &str, pause: &str) -> f64 {
        let rate = part(&mut self.client, &self.sink, PART, resume);
        self.client.batch_execute(pause).expect("paused");
        until("what is in flight has ended", MINUTES, || {
            self.client
                .query_one("SELECT NOT EXISTS (SELECT FROM mail.lease)", &[])
                .expect("a table")
                .get(0)
        });
        rate
    }
}

const RESUME: &str = "SELECT mail.resume('default')";
const PAUSE: &str = "SELECT mail.pause('default')";

/// Draining 10,000 of few, of many, of many in 1,000 queues, and beside many that are scheduled for later.
pub fn backlogs(cluster: &Cluster) -> Vec<Section> {
    let many = messages();
    let mut few = Waiting::with(cluster, "", |client| fill(client, PART + PART / 10, ""));
    let mut deep = Waiting::with(cluster, "", |client| fill(client, many, ""));
    let mut scheduled = Waiting::with(cluster, "", |client| {
        fill(
            client,
            many.min(1_000_000),
            ", send_at => now() + interval '1 day' * (1 + random())",
        );
        fill(client, PART * (ROUNDS + 1), "");
    });
    let mut wide = Waiting::with(
        cluster,
        "INSERT INTO mail.queue (name, transport, default_sender, paused)
         SELECT 'q' || n, 'smtp', 'app@example.test', true FROM generate_series(1, 1000) n",
        |client| fill(client, many, ", queue => 'q' || (1 + i % 1000)"),
    );
    let series = by_turns(
        ROUNDS,
        &mut [
            (
                "10,000 wait",
                Box::new(|| {
                    let rate = few.part(RESUME, PAUSE);
                    fill(&mut few.client, PART, "");
                    rate
                }),
            ),
            ("10,000 of many", Box::new(|| deep.part(RESUME, PAUSE))),
            (
                "10,000 beside scheduled ones",
                Box::new(|| scheduled.part(RESUME, PAUSE)),
            ),
            (
                "10,000 of many in 1,000 queues",
                Box::new(|| {
                    wide.part(
                        "UPDATE mail.queue SET paused = false WHERE name <> 'default'",
                        "UPDATE mail.queue SET paused = true",
                    )
                }),
            ),
        ],
    );
    let of_few = [1, 2, 3].map(|side| series[side].median() / series[0].median());
    let mut section = Section::new("Growth: draining 10,000 short mails", "mails/s", series)
        .goal(
            "of many, of the rate of few",
            of_few[0],
            Bound::AtLeast(0.9),
        )
        .goal("beside scheduled ones", of_few[1], Bound::AtLeast(0.9))
        .goal("in 1,000 queues", of_few[2], Bound::AtLeast(0.9));
    section.notes.push(format!("many: {many}"));
    vec![section]
}

/// A drain of 100,000 while another session holds a snapshot from before it.
pub fn snapshot(cluster: &Cluster) -> Vec<Section> {
    const MAILS: usize = 100_000;
    let mut columns = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        for (held, columns) in [false, true].into_iter().zip(columns.chunks_mut(2)) {
            let mut waiting = Waiting::with(cluster, "", |client| fill(client, MAILS, ""));
            let mut holder = waiting.database.connect();
            if held {
                holder
                    .batch_execute(
                        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM mail.queue",
                    )
                    .expect("a snapshot");
            }
            let first = part(&mut waiting.client, &waiting.sink, PART, RESUME);
            part(&mut waiting.client, &waiting.sink, MAILS - 2 * PART, "");
            let start = (Instant::now(), MAILS - waiting.sink.count());
            waiting.sink.wait_for(MAILS, MINUTES);
            columns[0].push(first);
            columns[1].push(start.1 as f64 / start.0.elapsed().as_secs_f64());
            settled(&mut waiting.client);
        }
    }
    let names = [
        "first 10,000",
        "last 10,000",
        "first 10,000 under a held snapshot",
        "last 10,000 under a held snapshot",
    ];
    let series = named(names, columns);
    let ratio = series[3].median() / series[2].median();
    vec![
        Section::new(
            "Growth: a drain of 100,000 under an old snapshot",
            "mails/s",
            series,
        )
        .goal("last, of the first", ratio, Bound::AtLeast(0.95)),
    ]
}

/// What the tables take up after each tenth of a long flow, with autovacuum at its defaults and retention at work: mail is
/// kept for ten seconds, and the partitions take turns every five.
pub fn size(cluster: &Cluster) -> Vec<Section> {
    const TENTHS: usize = 10;
    let sink = counting(None);
    let (database, mut client) = deliver_to(cluster, &sink);
    client
        .batch_execute(
            "UPDATE mail.queue SET retain_body = '10 seconds', retain_sent = '10 seconds';
             UPDATE mail.installation SET since = '-infinity';
             CREATE OR REPLACE FUNCTION mail._turn_length(keep interval) RETURNS interval
                 LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN interval '5 seconds'",
        )
        .expect("an hour is as short as that");
    let body = text(200);
    let over = AtomicBool::new(false);
    let mut sizes = [const { Vec::new() }; 2];
    thread::scope(|scope| {
        let (mut other, over) = (database.connect(), &over);
        scope.spawn(move || let_go(&mut other, over, None));
        let mut flowed = 0;
        for _ in 0..TENTHS {
            let goal = sink.count() + messages() / TENTHS;
            while sink.count() < goal {
                // Never more than a moment's worth ahead of the worker.
                client
                    .execute(
                        "SELECT count(mail.enqueue('a@example.test', 'Hello', $1)) FROM generate_series(1, 500)",
                        &[&body],
                    )
                    .expect("accepted");
                flowed += 500;
                until("it keeps up", MINUTES, || flowed - sink.count() < 5000);
            }
            let row = client
                .query_one(
                    "SELECT (pg_total_relation_size('mail.pending') + pg_total_relation_size('mail.lease'))::float8 / 1048576,
                            (SELECT sum(pg_total_relation_size(c.oid))::float8 / 1048576 FROM pg_class c
                             WHERE c.relnamespace = 'mail'::regnamespace AND c.relkind = 'r')",
                    &[],
                )
                .expect("sizes");
            for (at, sizes) in sizes.iter_mut().enumerate() {
                sizes.push(row.get::<_, f64>(at));
            }
        }
        over.store(true, Ordering::SeqCst);
    });
    let titles = [
        "Growth: size of queue and leases in a steady flow",
        "Growth: size of all tables in a steady flow, mail kept for ten seconds",
    ];
    let section = |(title, sizes): (&'static str, Vec<f64>)| {
        // Of two tenths each, for the size goes up and down with the turns.
        let highest = |from: usize| sizes[from].max(sizes[from + 1]);
        let ratio = highest(TENTHS - 2) / highest(2);
        let named = |(at, size): (usize, &f64)| {
            let flowed = (at + 1) * messages() / TENTHS;
            Series::new(format!("after {flowed} mails"), vec![*size])
        };
        let series = sizes.iter().enumerate().map(named).collect();
        let what = "the last two, of the third and fourth";
        Section::new(title, "MiB", series).goal(what, ratio, Bound::AtMost(1.5))
    };
    titles.into_iter().zip(sizes).map(section).collect()
}

/// Claimers from outside, each with its own connection, on one queue.
pub fn consumers(cluster: &Cluster) -> Vec<Section> {
    let count = [1, 2, 4, 8, 16];
    [1, 100]
        .into_iter()
        .map(|batch: i32| {
            let mut columns = count.map(|_| Vec::new());
            for _ in 0..ROUNDS {
                for (claimers, column) in count.into_iter().zip(&mut columns) {
                    column.push(claimed(cluster, claimers, batch));
                }
            }
            let series: Vec<Series> = count
                .into_iter()
                .zip(columns)
                .map(|(claimers, values)| Series::new(format!("{claimers} claimers"), values))
                .collect();
            let best = series.iter().map(Series::median).fold(0.0, f64::max);
            let of_best = series[4].median() / best;
            let title = if batch == 1 {
                "Consumers from outside: claim and ack one by one"
            } else {
                "Consumers from outside: claim and ack by the hundred"
            };
            Section::new(title, "messages/s", series).goal(
                "16 claimers, of the best",
                of_best,
                Bound::AtLeast(0.8),
            )
        })
        .collect()
}

/// What so many claimers get through in a second and a half.
fn claimed(cluster: &Cluster, claimers: usize, batch: i32) -> f64 {
    const SPAN: Duration = Duration::from_millis(1500);
    let database = Database::new(cluster);
    let mut client = database.connect();
    client
        .batch_execute(
            "SET statement_timeout = 0;
             INSERT INTO mail.queue (name, transport, notify) VALUES ('out', 'external', false)",
        )
        .expect("a queue");
    let enough = if batch == 1 { 20_000 } else { 150_000 };
    client
        .execute(
            "SELECT count(mail.enqueue(jsonb_build_object('n', i), queue => 'out')) FROM generate_series(1, $1) i",
            &[&enough],
        )
        .expect("accepted");
    tidy(&mut client);
    // Sessions make their plans at their first claim, before the time begins.
    let ready = Barrier::new(claimers);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..claimers)
            .map(|_| scope.spawn(|| claim_and_ack(&database, batch, &ready, SPAN)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("it ends"))
            .sum()
    })
}

/// What one claimer gets through, in messages a second.
fn claim_and_ack(database: &Database<'_>, batch: i32, ready: &Barrier, span: Duration) -> f64 {
    let mut client = database.connect();
    let claim = client
        .prepare("SELECT id, token FROM mail.claim('out', $1)")
        .expect("a statement");
    let ack = client
        .prepare("SELECT count(*) FROM mail.ack($1::bigint[], $2::bigint[])")
        .expect("a statement");
    let mut turn = || {
        let rows = client.query(&claim, &[&batch]).expect("claimed");
        let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        let tokens: Vec<i64> = rows.iter().map(|row| row.get(1)).collect();
        let acked: i64 = client
            .query_one(&ack, &[&ids, &tokens])
            .expect("acknowledged")
            .get(0);
        assert_eq!(
            acked as usize,
            ids.len(),
            "what was claimed is acknowledged"
        );
        ids.len()
    };
    assert!(turn() > 0, "there is enough for all");
    ready.wait();
    let (begin, mut done) = (Instant::now(), 0);
    while begin.elapsed() < span {
        match turn() {
            0 => break,
            some => done += some,
        }
    }
    done as f64 / begin.elapsed().as_secs_f64()
}
