//! Configuration by plain DML, and the administrator's functions.

use std::time::Duration;

use pgmq_mail_tests::{code, database};
use postgres::fallible_iterator::FallibleIterator as _;

use crate::{all, claimed, one, put, state, take, work};

#[test]
fn there_is_one_queue_at_first_and_it_captures() {
    let database = database();
    let mut client = database.connect();
    let queues: Vec<String> = all(
        &mut client,
        "SELECT name || ' ' || transport FROM mail.queue",
        &[],
    );
    assert_eq!(queues, ["default capture"]);
    assert_eq!(
        one::<i64>(&mut client, "SELECT count(*) FROM mail.relay", &[]),
        0
    );
}

#[test]
fn wrong_configuration_is_refused() {
    let database = database();
    let mut client = database.connect();
    let cases = [
        "INSERT INTO mail.relay (name, url) VALUES ('r', 'http://localhost')",
        "INSERT INTO mail.relay (name, url) VALUES ('r', 'smtp://')",
        "INSERT INTO mail.relay (name, url) VALUES ('r', 'smtp://localhost:99999')",
        "INSERT INTO mail.relay (name, url) VALUES ('r', 'smtp://localhost?starttls=perhaps')",
        "INSERT INTO mail.relay (name, url) VALUES ('r', 'smtp://localhost?color=red')",
        "INSERT INTO mail.relay (name, url) VALUES ('r', NULL)",
        "INSERT INTO mail.relay (name, url, max_connections) VALUES ('r', 'smtp://localhost', 0)",
        "INSERT INTO mail.relay (name, url, username, secret)
         VALUES ('r', 'smtp://localhost', 'u', 'file:../../etc/passwd')",
        "INSERT INTO mail.queue (name, transport) VALUES ('q', 'pigeon')",
        "INSERT INTO mail.queue (name, transport, default_sender) VALUES ('q', 'smtp', 'nobody')",
        "INSERT INTO mail.queue (name, on_uncertain) VALUES ('q', 'panic')",
        "INSERT INTO mail.queue (name, max_attempts) VALUES ('q', 0)",
        "INSERT INTO mail.queue (name, retry_base) VALUES ('q', '-1 second')",
        "INSERT INTO mail.queue (name) VALUES ('')",
        "INSERT INTO mail.queue (name) VALUES ('default'), ('default')",
    ];
    for query in cases {
        let code = code(client.execute(query, &[]));
        let fits = ["22023", "23514", "23502", "23505"].contains(&code.code());
        assert!(fits, "{query}: {code:?}");
    }
}

#[test]
fn a_stored_secret_is_shown_to_nobody() {
    let database = database();
    let mut client = database.connect();
    client
        .batch_execute(
            "INSERT INTO mail.relay (name, url, username, secret)
             VALUES ('r', 'smtp://127.0.0.1:1', 'app', 'sesame')",
        )
        .unwrap();
    let shown: String = one(&mut client, "SELECT r::text FROM mail.relay r", &[]);
    assert!(!shown.contains("sesame"), "{shown}");
    let mut admin = database.connect_as("secret_admin", &["mail_admin"]);
    let tables: Vec<String> = all(
        &mut client,
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'mail'",
        &[],
    );
    for table in tables {
        let rows = admin
            .query(&format!("SELECT t::text FROM {table} t"), &[])
            .unwrap_or_default();
        assert!(
            rows.iter()
                .all(|row| !row.get::<_, String>(0).contains("sesame")),
            "{table}"
        );
    }
    assert!(!database.cluster().log().contains("sesame"));
}

#[test]
fn dead_letters_are_retried_one_by_one_or_by_queue() {
    let database = database();
    let mut client = work(&database);
    let ids: Vec<i64> = ["a", "b", "c"]
        .iter()
        .map(|subject| put(&mut client, subject, ""))
        .collect();
    for id in &ids {
        let (_, token) = take(&mut client, "1 minute").unwrap();
        let _: String = one(
            &mut client,
            "SELECT mail.nack($1, $2, permanent => true)",
            &[id, &token],
        );
    }
    client.execute("SELECT mail.retry($1)", &[&ids[1]]).unwrap();
    assert_eq!(state(&mut client, ids[1]), "queued");
    let attempt: i32 = one(&mut client, "SELECT attempt FROM mail.claim('work')", &[]);
    assert_eq!(attempt, 1, "it begins anew");
    let later: i64 = one(
        &mut client,
        "SELECT mail.retry_dead_letters('work', since => now() + interval '1 hour')",
        &[],
    );
    assert_eq!(later, 0);
    assert_eq!(
        one::<i64>(&mut client, "SELECT mail.retry_dead_letters('work')", &[]),
        2
    );
    assert_eq!(claimed(&mut client, 10), ["a", "c"]);
    let left: i64 = one(&mut client, "SELECT count(*) FROM mail.dead_letters", &[]);
    assert_eq!(left, 0);
}

#[test]
fn retry_of_what_is_no_dead_letter_changes_nothing() {
    let database = database();
    let mut client = work(&database);
    let id = put(&mut client, "x", "");
    for id in [id, 4711] {
        let _ = client.execute("SELECT mail.retry($1)", &[&id]);
    }
    assert_eq!(state(&mut client, id), "queued");
    assert_eq!(claimed(&mut client, 10), ["x"]);
}

#[test]
fn purge_empties_a_queue_but_for_what_is_in_flight() {
    let database = database();
    let mut client = work(&database);
    let flying = put(&mut client, "flying", "");
    let (_, token) = take(&mut client, "1 minute").unwrap();
    put(&mut client, "a", "");
    put(&mut client, "b", ", send_at => now() + interval '1 hour'");
    assert_eq!(one::<i64>(&mut client, "SELECT mail.purge('work')", &[]), 2);
    assert_eq!(claimed(&mut client, 10), [""; 0]);
    assert!(one::<bool>(
        &mut client,
        "SELECT mail.ack($1::bigint, $2)",
        &[&flying, &token]
    ));
}

#[test]
fn wait_idle_returns_when_everything_is_done_and_gives_up_in_time() {
    let database = database();
    let mut client = work(&database);
    for _ in 0..20 {
        client
            .execute("SELECT mail.enqueue('a@example.test', 'x', 'x')", &[])
            .unwrap();
    }
    client
        .execute("SELECT mail.wait_idle('default', '20 seconds')", &[])
        .unwrap();
    let waiting: i64 = one(
        &mut client,
        "SELECT count(*) FROM mail.messages WHERE queue = 'default' AND state <> 'sent'",
        &[],
    );
    assert_eq!(waiting, 0);
    put(&mut client, "nobody takes this", "");
    let begin = std::time::Instant::now();
    let _ = client.execute("SELECT mail.wait_idle('work', '200 milliseconds')", &[]);
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_disarmed_database_says_so_until_it_is_armed() {
    let database = database();
    let mut client = database.connect();
    client
        .batch_execute("INSERT INTO mail.relay (name, url) VALUES ('r', 'smtp://127.0.0.1:1')")
        .unwrap();
    let findings = "SELECT count(*) FROM mail.health() WHERE detail LIKE '%\"r\"%'";
    assert_eq!(
        one::<i64>(&mut client, findings, &[]),
        0,
        "armed where it was configured"
    );
    client
        .execute("SELECT mail.disarm('staging')", &[])
        .unwrap();
    let why: String = one(
        &mut client,
        "SELECT string_agg(detail, ' ') FROM mail.health()",
        &[],
    );
    assert!(why.contains("staging"), "{why}");
    client.execute("SELECT mail.arm()", &[]).unwrap();
    assert_eq!(one::<i64>(&mut client, findings, &[]), 0);
}

#[test]
fn listeners_hear_of_external_queues_once_per_transaction_and_of_nothing_else() {
    let database = database();
    let mut client = work(&database);
    let mut listener = database.connect();
    listener.batch_execute("LISTEN mail_queue").unwrap();
    client
        .batch_execute(
            "SELECT mail.enqueue('a@example.test', 'quiet', 'x');
             BEGIN;
             SELECT mail.enqueue('a@example.test', '1', 'x', queue => 'work');
             SELECT mail.enqueue('a@example.test', '2', 'x', queue => 'work');
             COMMIT;
             BEGIN;
             SELECT mail.enqueue('a@example.test', 'never', 'x', queue => 'work');
             ROLLBACK;
             NOTIFY mail_queue, 'end'",
        )
        .unwrap();
    let mut heard = Vec::new();
    let mut notifications = listener.notifications();
    let mut incoming = notifications.timeout_iter(Duration::from_secs(10));
    while let Some(notification) = incoming.next().unwrap() {
        heard.push(notification.payload().to_owned());
        if notification.payload() == "end" {
            break;
        }
    }
    assert_eq!(heard, ["work", "end"]);
}
