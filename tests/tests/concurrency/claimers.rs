//! Many claimers of one queue.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use pgmq_mail_tests::{Cluster, Database, Sink, all, one, run_sql, until};
use postgres::Client;

use crate::{delivering, external, put, served};

/// Claims, acknowledges, and now and then releases or rolls back, until `total` messages were acknowledged by
/// anybody. Returns what it acknowledged.
fn consume(client: &mut Client, me: usize, total: usize, done: &AtomicUsize) -> Vec<i64> {
    let mut mine = Vec::new();
    let begin = Instant::now();
    for turn in me.. {
        if done.load(SeqCst) >= total {
            break;
        }
        assert!(
            begin.elapsed() < Cluster::PATIENCE,
            "{} of {total}",
            done.load(SeqCst)
        );
        let mut transaction = client.transaction().unwrap();
        let batch = i32::try_from(turn % 13 + 1).unwrap();
        let rows = transaction
            .query(
                "SELECT id, token FROM mail.claim('work', batch => $1, lease => '1 minute')",
                &[&batch],
            )
            .unwrap();
        if turn % 11 == 0 {
            transaction.rollback().unwrap();
            continue;
        }
        transaction.commit().unwrap();
        let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        let tokens: Vec<i64> = rows.iter().map(|row| row.get(1)).collect();
        if turn % 7 == 0 {
            for (id, token) in ids.iter().zip(&tokens) {
                assert!(one::<bool>(
                    client,
                    "SELECT mail.release($1, $2)",
                    &[id, token]
                ));
            }
            continue;
        }
        let acked: Vec<i64> = all(
            client,
            "SELECT * FROM mail.ack($1::bigint[], $2::bigint[])",
            &[&ids, &tokens],
        );
        assert_eq!(acked.len(), ids.len());
        done.fetch_add(acked.len(), SeqCst);
        mine.extend(acked);
    }
    mine
}

#[test]
fn eight_claimers_get_each_of_five_thousand_messages_exactly_once() {
    const TOTAL: usize = 5000;
    let (database, mut client) = external();
    let sent: i64 = one(
        &mut client,
        "SELECT count(*) FROM generate_series(1, $1::bigint) n,
                LATERAL mail.enqueue('a@example.test', 'm' || n, 'x', queue => 'work', priority => (n % 3)::int)",
        &[&(TOTAL as i64)],
    );
    assert_eq!(sent, TOTAL as i64);
    let done = AtomicUsize::new(0);
    let acked: Vec<i64> = std::thread::scope(|scope| {
        let done = &done;
        let threads: Vec<_> = (0..8)
            .map(|me| {
                let mut client = database.connect();
                scope.spawn(move || consume(&mut client, me, TOTAL, done))
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    let mut times: HashMap<i64, usize> = HashMap::new();
    for id in &acked {
        *times.entry(*id).or_default() += 1;
    }
    assert_eq!(times.len(), TOTAL);
    assert!(times.values().all(|times| *times == 1));
    let left: i64 = one(
        &mut client,
        "SELECT (SELECT count(*) FROM mail.pending) + (SELECT count(*) FROM mail.lease)",
        &[],
    );
    assert_eq!(left, 0);
    let wrong: i64 = one(
        &mut client,
        "SELECT count(*) FROM mail.messages m WHERE m.queue = 'work' AND (m.state <> 'sent' OR m.attempts <> 1 OR
            (SELECT count(*) FROM mail.events e WHERE e.message_id = m.id AND e.kind = 'sent') <> 1)",
        &[],
    );
    assert_eq!(wrong, 0);
}

/// Producers, claimers and the worker on the same queue: every message is sent once.
fn once_each(database: &Database<'_>, queue: &'static str, total: usize) {
    std::thread::scope(|scope| {
        for producer in 0..3 {
            let mut client = database.connect();
            scope.spawn(move || {
                for n in 0..total / 3 {
                    // Several lanes, and batches in which a claimer can find something.
                    let more = format!(", queue => '{queue}', priority => {}", n % 4);
                    let mut transaction = client.transaction().unwrap();
                    put(&mut transaction, &format!("p{producer} n{n}"), &more);
                    put(&mut transaction, &format!("p{producer} n{n} again"), &more);
                    transaction.commit().unwrap();
                }
            });
        }
        for _ in 0..4 {
            let mut client = database.connect();
            scope.spawn(move || {
                let claim = format!("SELECT id, token FROM mail.claim('{queue}', batch => 5)");
                let left = "SELECT count(*) FILTER (WHERE state = 'sent') FROM mail.messages WHERE queue = $1";
                let begin = Instant::now();
                loop {
                    assert!(begin.elapsed() < Cluster::PATIENCE);
                    let rows = client.query(&claim, &[]).unwrap();
                    for row in &rows {
                        let (id, token): (i64, i64) = (row.get(0), row.get(1));
                        assert!(one::<bool>(&mut client, "SELECT mail.ack($1::bigint, $2, '{\"text\": \"outside\"}')", &[&id, &token]));
                    }
                    if rows.is_empty() && one::<i64>(&mut client, left, &[&queue]) >= 2 * total as i64 {
                        break;
                    }
                }
            });
        }
    });
    let mut client = database.connect();
    let more_than_once: Vec<i64> = all(
        &mut client,
        "SELECT e.message_id FROM mail.events e WHERE e.kind = 'sent' GROUP BY 1 HAVING count(*) <> 1",
        &[],
    );
    assert_eq!(more_than_once, [0_i64; 0]);
}

#[test]
fn claimers_beside_the_worker_of_a_capture_queue_never_deliver_twice() {
    let (database, mut client) = served();
    once_each(&database, "default", 600);
    let twice: i64 = one(
        &mut client,
        "SELECT count(*) FROM mail.captured c JOIN mail.events e ON e.message_id = c.message_id AND e.text = 'outside'",
        &[],
    );
    assert_eq!(twice, 0);
}

#[test]
fn claimers_beside_the_worker_of_an_smtp_queue_never_deliver_twice() {
    let (database, mut client) = served();
    let sink = Sink::start();
    delivering(&mut client, &sink);
    once_each(&database, "out", 600);
    let by_worker: i64 = one(
        &mut client,
        "SELECT count(*) FROM mail.events e WHERE e.queue = 'out' AND e.kind = 'sent' AND e.relay = 'sink'",
        &[],
    );
    assert_eq!(sink.count() as i64, by_worker);
    let mut subjects: Vec<String> = sink
        .mails()
        .iter()
        .filter_map(|mail| mail.header("Subject"))
        .collect();
    subjects.sort_unstable();
    let all = subjects.len();
    subjects.dedup();
    assert_eq!(subjects.len(), all);
}

/// The worker has found messages in two lanes, and is about to lease them, while somebody outside claims.
#[test]
fn what_the_worker_is_about_to_lease_is_nobody_elses() {
    let (database, mut client) = served();
    run_sql(
        &mut client,
        "CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
         BEGIN
             IF NEW.holder IS NOT NULL THEN
                 SET LOCAL lock_timeout = 0;
                 PERFORM pg_advisory_xact_lock(1, 1);
             END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER wait_here BEFORE INSERT ON mail.lease FOR EACH ROW EXECUTE FUNCTION wait_here()",
    );
    let worker = pgmq_mail_tests::worker_of(&mut client);
    let mut holder = database.connect();
    run_sql(&mut holder, "SELECT pg_advisory_lock(1, 1)");
    let mut transaction = client.transaction().unwrap();
    put(&mut transaction, "first lane", ", priority => 1");
    put(&mut transaction, "second lane", "");
    transaction.commit().unwrap();
    pgmq_mail_tests::blocks(&mut client, worker);
    let claimed = client
        .query("SELECT id FROM mail.claim(batch => 10)", &[])
        .unwrap();
    assert!(claimed.is_empty(), "{claimed:?}");
    run_sql(&mut holder, "SELECT pg_advisory_unlock(1, 1)");
    until("the worker is done", pgmq_mail_tests::SOON, || {
        one(
            &mut client,
            "SELECT NOT EXISTS (SELECT FROM mail.pending) AND NOT EXISTS (SELECT FROM mail.lease)",
            &[],
        )
    });
    let captured: Vec<i64> = one(
        &mut client,
        "SELECT array_agg(n) FROM (SELECT count(*) AS n FROM mail.captured GROUP BY message_id) c",
        &[],
    );
    // With the one that showed that the worker is there.
    assert_eq!(captured, [1, 1, 1], "each by the worker, once");
}

#[test]
fn no_claimer_goes_away_empty_while_there_is_enough_for_all() {
    const EACH: usize = 150;
    let (database, mut client) = external();
    let total = i64::try_from(8 * EACH).unwrap();
    run_sql(
        &mut client,
        &format!(
            "SELECT mail.enqueue('a@example.test', 'm' || n, 'x', queue => 'work') FROM generate_series(1, {total}) n"
        ),
    );
    let mut ids: Vec<i64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let mut client = database.connect();
                scope.spawn(move || {
                    let claim = "SELECT id FROM mail.claim('work', lease => '1 minute')";
                    (0..EACH)
                        .flat_map(|turn| {
                            let found: Vec<i64> = all(&mut client, claim, &[]);
                            assert_eq!(found.len(), 1, "claim {turn}");
                            found
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 8 * EACH);
}

#[test]
fn what_has_expired_does_not_keep_a_claimer_from_what_has_not() {
    let (_database, mut client) = external();
    // In one transaction, so that nobody else ends it.
    let mut transaction = client.transaction().unwrap();
    run_sql(
        &mut transaction,
        "SELECT mail.enqueue('a@example.test', 'late', 'x', queue => 'work', priority => 1,
                             expires_at => clock_timestamp() + interval '1 second');
         SELECT mail.enqueue('a@example.test', 'in time', 'x', queue => 'work')",
    );
    until("the first one has expired", Cluster::PATIENCE, || {
        one(
            &mut transaction,
            "SELECT expires_at < clock_timestamp() FROM mail.message WHERE expires_at IS NOT NULL",
            &[],
        )
    });
    let subjects: Vec<String> = all(
        &mut transaction,
        "SELECT message ->> 'subject' FROM mail.claim('work')",
        &[],
    );
    assert_eq!(subjects, ["in time"]);
}
