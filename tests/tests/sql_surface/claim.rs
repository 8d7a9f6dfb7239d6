//! `mail.claim`: what it hands out, to whom, and when it waits.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use pgmq_mail_tests::{code, database};

use crate::{all, claimed, one, put, state, take, work};

#[test]
fn a_claimed_message_comes_with_all_that_a_consumer_needs() {
    let database = database();
    let mut client = work(&database);
    let id = put(&mut client, "hello", "");
    let row = client
        .query_one(
            "SELECT id, token, attempt, enqueued_at <= now(), lease_until - clock_timestamp()
                    BETWEEN '55 seconds' AND '60 seconds', message ->> 'text', recipients
             FROM mail.claim('work', lease => '1 minute')",
            &[],
        )
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), id);
    assert!(row.get::<_, i64>(1) > 0);
    assert_eq!(row.get::<_, i32>(2), 1);
    assert!(row.get::<_, bool>(3));
    assert!(row.get::<_, bool>(4), "the lease is the one asked for");
    assert_eq!(row.get::<_, String>(5), "x");
    assert_eq!(row.get::<_, Vec<String>>(6), ["a@example.test"]);
    assert_eq!(state(&mut client, id), "sending");
}

#[test]
fn a_claim_of_nothing_returns_at_once_with_nothing() {
    let database = database();
    let mut client = work(&database);
    let begin = Instant::now();
    assert_eq!(claimed(&mut client, 10), [""; 0]);
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_claim_that_is_rolled_back_gives_its_messages_back_with_no_attempt_counted() {
    let database = database();
    let mut client = work(&database);
    let id = put(&mut client, "x", "");
    let mut transaction = client.transaction().unwrap();
    let rows = transaction
        .query("SELECT * FROM mail.claim('work')", &[])
        .unwrap();
    assert_eq!(rows.len(), 1);
    transaction.rollback().unwrap();
    assert_eq!(state(&mut client, id), "queued");
    let attempt: i32 = one(&mut client, "SELECT attempt FROM mail.claim('work')", &[]);
    assert_eq!(attempt, 1);
}

#[test]
fn two_sessions_never_hold_the_same_message_even_before_they_commit() {
    let database = database();
    let mut client = work(&database);
    put(&mut client, "one", "");
    put(&mut client, "two", "");
    let mut other = database.connect();
    let mut transaction = client.transaction().unwrap();
    let mine: i64 = transaction
        .query_one("SELECT id FROM mail.claim('work')", &[])
        .unwrap()
        .get(0);
    let theirs: Vec<i64> = all(
        &mut other,
        "SELECT id FROM mail.claim('work', batch => 10)",
        &[],
    );
    assert_eq!(theirs.len(), 1);
    assert_ne!(theirs[0], mine);
    transaction.commit().unwrap();
    assert_eq!(claimed(&mut other, 10), [""; 0]);
}

#[test]
fn eight_claimers_get_every_message_exactly_once() {
    const MESSAGES: i64 = 600;
    let database = database();
    let mut client = work(&database);
    let ids: Vec<i64> = all(
        &mut client,
        "SELECT mail.enqueue('a@example.test', i::text, 'x', queue => 'work',
                ordering_key => CASE WHEN i % 10 = 0 THEN 'k' || i % 20 END, priority => (i % 3)::int)
         FROM generate_series(1, $1::bigint) i",
        &[&MESSAGES],
    );
    let taken: Vec<i64> = std::thread::scope(|scope| {
        let claimers: Vec<_> = (0..8)
            .map(|number| {
                let database = &database;
                scope.spawn(move || {
                    let mut client = database.connect();
                    let mut got = Vec::new();
                    let deadline = Instant::now() + Duration::from_mins(1);
                    loop {
                        assert!(Instant::now() < deadline, "the queue never ran empty");
                        let rows = client
                            .query(
                                "SELECT id, token FROM mail.claim('work', batch => $1)",
                                &[&(1 + number % 4)],
                            )
                            .unwrap();
                        if rows.is_empty() {
                            let left: i64 = one(
                                &mut client,
                                "SELECT count(*) FROM mail.messages WHERE finished_at IS NULL",
                                &[],
                            );
                            if left == 0 {
                                break got;
                            }
                        }
                        for row in rows {
                            let (id, token): (i64, i64) = (row.get(0), row.get(1));
                            assert!(one::<bool>(
                                &mut client,
                                "SELECT mail.ack($1::bigint, $2)",
                                &[&id, &token]
                            ));
                            got.push(id);
                        }
                    }
                })
            })
            .collect();
        claimers
            .into_iter()
            .flat_map(|claimer| claimer.join().unwrap())
            .collect()
    });
    assert_eq!(taken.len() as i64, MESSAGES, "none twice");
    assert_eq!(
        taken.into_iter().collect::<HashSet<_>>(),
        ids.into_iter().collect()
    );
}

#[test]
fn a_waiting_claim_wakes_at_the_commit_of_another_session() {
    let database = database();
    let mut client = work(&database);
    let mut waiter = database.connect();
    let (prompt, subject) = std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            let row = waiter
                .query_one(
                    "SELECT message ->> 'subject', clock_timestamp() - enqueued_at < '2 seconds'
                     FROM mail.claim('work', wait => '30 seconds')",
                    &[],
                )
                .unwrap();
            (row.get::<_, bool>(1), row.get::<_, String>(0))
        });
        // The other session is inside its claim: it holds no transaction that we could see by a lock.
        pgmq_mail_tests::until("it waits", crate::SOON, || {
            one(
                &mut client,
                "SELECT EXISTS (SELECT FROM pg_stat_activity
                                WHERE query LIKE '%30 seconds%' AND state = 'active'
                                      AND datname = current_database() AND pid <> pg_backend_pid())",
                &[],
            )
        });
        put(&mut client, "wake up", "");
        waiting.join().unwrap()
    });
    assert_eq!(subject, "wake up");
    assert!(
        prompt,
        "it came at the commit, not at the end of some interval"
    );
}

#[test]
fn a_waiting_claim_ends_when_its_time_is_over_and_can_be_interrupted() {
    let database = database();
    let mut client = work(&database);
    let begin = Instant::now();
    let rows = client.query(
        "SELECT * FROM mail.claim('work', wait => '300 milliseconds')",
        &[],
    );
    assert!(rows.unwrap().is_empty());
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert!(begin.elapsed() < Duration::from_secs(5));

    client
        .batch_execute("SET statement_timeout = '300ms'")
        .unwrap();
    let begin = Instant::now();
    let result = client.query("SELECT * FROM mail.claim('work', wait => '1 hour')", &[]);
    assert_eq!(code(result).code(), "57014");
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_paused_queue_gives_nothing_until_it_is_resumed_and_still_accepts() {
    let database = database();
    let mut client = work(&database);
    client.execute("SELECT mail.pause('work')", &[]).unwrap();
    put(&mut client, "patient", "");
    assert_eq!(claimed(&mut client, 10), [""; 0]);
    client.execute("SELECT mail.resume('work')", &[]).unwrap();
    assert_eq!(claimed(&mut client, 10), ["patient"]);
}

#[test]
fn a_claim_leaves_other_queues_alone() {
    let database = database();
    let mut client = work(&database);
    client
        .batch_execute(
            "INSERT INTO mail.queue (name, transport) VALUES ('work2', 'external');
             SELECT mail.enqueue(message => '{\"subject\": \"two\"}'::jsonb, queue => 'work2');",
        )
        .unwrap();
    assert_eq!(claimed(&mut client, 10), [""; 0]);
    assert!(take(&mut client, "1 minute").is_none());
}
