//! What producers feel while partitions take turns and are emptied.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pgmq_mail_tests::{Cluster, Database, Folder, all, run};
use postgres::Client;

use crate::report::{Bound, Section, named};
use crate::sides::{ROUNDS, counting, text, tidy};
use crate::{MINUTES, deliver_to};

/// Partitions that are full of what is over, and how much is in each.
const FULL: [i64; 3] = [3, 4, 5];
const ROWS: i64 = 5_000;

/// Every transaction's time in milliseconds, of 8 clients at half of what they could do.
fn latencies(cluster: &Cluster, database: &Database<'_>, script: &str) -> Vec<f64> {
    let folder = Folder::new("bench");
    let file = folder.write("script", script);
    // The server's user writes them.
    let log = cluster.folder().join("latencies");
    run(
        cluster
            .program("pgbench")
            .env("PGDATABASE", database.name())
            .args([
                "-n", "-c", "8", "-j", "2", "-M", "prepared", "-T", "8", "-R", "3000", "-l",
            ])
            .arg("--log-prefix")
            .arg(&log)
            .arg("-f")
            .arg(file),
        MINUTES,
    );
    let mut times = Vec::new();
    for file in fs::read_dir(cluster.folder()).expect("a folder") {
        let path = file.expect("a file").path();
        if path.to_string_lossy().starts_with(&*log.to_string_lossy()) {
            let text = fs::read_to_string(&path).expect("a log");
            let time = |line: &str| line.split(' ').nth(2)?.parse::<f64>().ok();
            times.extend(text.lines().filter_map(time).map(|time| time / 1000.0));
            fs::remove_file(path).expect("it is ours");
        }
    }
    times.sort_by(f64::total_cmp);
    assert!(!times.is_empty(), "there are transactions");
    times
}

/// Fills partitions with what is over: messages, and events of others that are gone already.
fn fill(client: &mut Client, body: &str) {
    for part in FULL {
        let first = "mail._first_id(now() - interval '120 days')";
        client
            .execute(
                &format!(
                    "INSERT INTO mail.message_{part} (id, queue_id, priority, enqueued_at, enqueued_by, envelope_from, recipients, subject, content)
                     SELECT {first} + {part} * {ROWS} + n, q.id, 0, now() - interval '120 days', current_user, 'a@b.test', '{{a@b.test}}', 'x',
                            jsonb_build_object('text', $1::text)::text
                     FROM mail.queue q, generate_series(1, {ROWS}) n WHERE q.name = 'default'"
                ),
                &[&body],
            )
            .expect("messages");
        let first = "mail._first_id(now() - interval '150 days')";
        client
            .execute(
                &format!(
                    "INSERT INTO mail.event_{part} (id, message_id, queue_id, attempt, kind, state)
                     SELECT nextval('mail.event_id_seq'), {first} + {part} * {ROWS} + n, q.id, 1, 'sent', 'sent'
                     FROM mail.queue q, generate_series(1, {ROWS}) n WHERE q.name = 'default'"
                ),
                &[],
            )
            .expect("events");
    }
    client
        .batch_execute(
            "UPDATE mail.partition SET since = NULL WHERE NOT current;
             UPDATE mail.installation SET since = '-infinity'",
        )
        .expect("they were filled long ago");
    tidy(client);
}

/// What the worker does every ten minutes, over and over: one piece after the other, a tenth of the time. With `turn`, the
/// partitions take turns so often.
pub fn let_go(client: &mut Client, over: &AtomicBool, turn: Option<Duration>) {
    let mut next_turn = Instant::now();
    let mut run = |statement: &str| client.batch_execute(statement).expect(statement);
    while !over.load(Ordering::SeqCst) {
        if let Some(turn) = turn
            && Instant::now() >= next_turn
        {
            next_turn += turn;
            run("UPDATE mail.partition SET since = '-infinity' WHERE current");
        }
        run("SET SESSION AUTHORIZATION mail_worker");
        let begin = Instant::now();
        run("SELECT mail._retain(1000, clock_timestamp() - interval '1 second')");
        let took = begin.elapsed();
        run("RESET SESSION AUTHORIZATION");
        thread::sleep(took * 9);
    }
}

/// The file of each partition: one that is emptied gets another.
fn files(client: &mut Client) -> Vec<String> {
    let query = "SELECT p.name || pg_relation_filenode(format('mail.%I', p.name)::regclass) FROM mail.partition p";
    all(client, query, &[])
}

/// Enqueuing while nothing happens, and while partitions take turns and are emptied.
pub fn rotation(cluster: &Cluster) -> Vec<Section> {
    let body = text(2048);
    let script = format!("SELECT mail.enqueue('a@example.test', 'Hello', '{body}');");
    let mut columns = [const { Vec::new() }; 6];
    let mut emptied = 0;
    for _ in 0..ROUNDS {
        for (rotating, columns) in [false, true].into_iter().zip(columns.chunks_mut(3)) {
            let sink = counting(None);
            let (database, mut client) = deliver_to(cluster, &sink);
            client
                .batch_execute(
                    "UPDATE mail.queue SET retain_body = '100 days', retain_sent = '100 days'",
                )
                .expect("a queue");
            if rotating {
                fill(&mut client, &body);
            }
            let over = AtomicBool::new(false);
            let before = files(&mut client);
            let times = thread::scope(|scope| {
                if rotating {
                    let mut other = database.connect();
                    let over = &over;
                    scope.spawn(move || let_go(&mut other, over, Some(Duration::from_millis(500))));
                }
                let times = latencies(cluster, &database, &script);
                over.store(true, Ordering::SeqCst);
                times
            });
            let after = files(&mut client);
            if rotating {
                emptied += before.iter().filter(|file| !after.contains(file)).count();
            }
            columns[0].push(times[times.len() / 2]);
            columns[1].push(times[times.len() * 99 / 100]);
            columns[2].push(times[times.len() * 999 / 1000]);
        }
    }
    assert!(emptied > 0, "partitions are emptied while it is measured");
    let names = [
        "usual, p50",
        "usual, p99",
        "usual, p99.9",
        "while partitions take turns, p50",
        "while partitions take turns, p99",
        "while partitions take turns, p99.9",
    ];
    let series = named(names, columns);
    let ratio = series[4].median() / series[1].median();
    let mut section = Section::new(
        "Growth: enqueuing while partitions take turns and are emptied",
        "ms",
        series,
    )
    .goal("p99, of the usual", ratio, Bound::AtMost(2.0));
    section.notes.push(format!(
        "3,000 a second offered; {emptied} partitions emptied, and turns taken every half second while one is empty"
    ));
    vec![section]
}
