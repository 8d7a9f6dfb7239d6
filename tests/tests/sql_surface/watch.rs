//! Views and `mail.health()`: what happened, for who can run psql.

use pgmq_mail_tests::{database, until};

use crate::{SOON, all, one, put, take, work};

#[test]
fn the_views_have_the_columns_that_are_promised() {
    let promised = [
        (
            "messages",
            "id queue state recipients subject attempts enqueued_at send_at next_attempt_at \
             finished_at last_code last_status last_error message_id tags metadata",
        ),
        ("dead_letters", "id queue recipients subject last_error"),
        (
            "events",
            "id at message_id kind recipient attempt relay code status text",
        ),
        ("queue_stats", "queue"),
        ("relay_stats", "relay rule"),
        (
            "domain_stats",
            "domain since suspended_until relay rule reason",
        ),
        ("workers", "pid"),
        ("captured", "message_id recipients mime"),
    ];
    let database = database();
    let mut client = database.connect();
    for (view, columns) in promised {
        let have: Vec<String> = all(
            &mut client,
            "SELECT attname::text FROM pg_attribute WHERE attrelid = ('mail.' || $1)::regclass
             AND attnum > 0",
            &[&view],
        );
        for column in columns.split_whitespace() {
            assert!(
                have.iter().any(|name| name == column),
                "mail.{view} has no {column}: {have:?}"
            );
        }
    }
}

#[test]
fn states_follow_a_message_through_its_life() {
    let database = database();
    let mut client = work(&database);
    let id = put(&mut client, "x", "");
    let look = "SELECT state || ' ' || attempts || ' ' || (next_attempt_at IS NOT NULL) || ' '
                || (finished_at IS NOT NULL) FROM mail.messages WHERE id = $1";
    assert_eq!(
        one::<String>(&mut client, look, &[&id]),
        "queued 0 true false"
    );
    let (_, token) = take(&mut client, "1 minute").unwrap();
    assert_eq!(
        one::<String>(&mut client, look, &[&id]),
        "sending 0 false false"
    );
    let _: String = one(
        &mut client,
        "SELECT mail.nack($1, $2, 'later', retry_after => '0')",
        &[&id, &token],
    );
    assert_eq!(
        one::<String>(&mut client, look, &[&id]),
        "deferred 1 true false"
    );
    let (_, token) = take(&mut client, "1 minute").unwrap();
    let _: bool = one(
        &mut client,
        "SELECT mail.ack($1::bigint, $2)",
        &[&id, &token],
    );
    assert_eq!(
        one::<String>(&mut client, look, &[&id]),
        "sent 2 false true"
    );
    let kinds: Vec<String> = all(
        &mut client,
        "SELECT kind FROM mail.events WHERE message_id = $1 ORDER BY id",
        &[&id],
    );
    assert_eq!(kinds, ["deferred", "sent"]);
}

#[test]
fn queue_stats_count_by_state() {
    let database = database();
    let mut client = work(&database);
    put(&mut client, "waits", "");
    put(
        &mut client,
        "later",
        ", send_at => now() + interval '1 hour'",
    );
    put(&mut client, "flies", ", priority => 1");
    take(&mut client, "1 minute").unwrap();
    let row = client
        .query_one(
            "SELECT queued, scheduled, sending, deferred, failed, oldest_age > '0'
             FROM mail.queue_stats WHERE queue = 'work'",
            &[],
        )
        .unwrap();
    let counts: Vec<i64> = (0..5).map(|at| row.get(at)).collect();
    assert_eq!(counts, [1, 1, 1, 0, 0]);
    assert!(row.get::<_, bool>(5));
}

#[test]
fn a_fresh_installation_is_healthy_and_has_one_worker() {
    let database = database();
    let mut client = database.connect();
    until("the worker runs", SOON, || {
        one::<i64>(&mut client, "SELECT count(*) FROM mail.workers", &[]) == 1
    });
    let findings: Vec<String> = all(&mut client, "SELECT detail FROM mail.health()", &[]);
    assert_eq!(findings, [""; 0]);
    let alive: bool = one(
        &mut client,
        "SELECT EXISTS (SELECT FROM pg_stat_activity a JOIN mail.workers w USING (pid))",
        &[],
    );
    assert!(alive);
}

#[test]
fn health_names_what_is_wrong_and_what_to_do() {
    let database = database();
    let mut client = work(&database);
    client
        .batch_execute(
            "INSERT INTO mail.queue (name, transport, relays) VALUES ('lost', 'smtp', '{missing}');
             UPDATE mail.queue SET max_attempts = 1 WHERE name = 'work'",
        )
        .unwrap();
    let id = put(&mut client, "x", "");
    let (_, token) = take(&mut client, "1 minute").unwrap();
    let _: String = one(&mut client, "SELECT mail.nack($1, $2)", &[&id, &token]);
    put(&mut client, "y", "");
    client.execute("SELECT mail.pause('work')", &[]).unwrap();
    let rows = client
        .query(
            "SELECT severity, \"check\", detail, hint FROM mail.health()",
            &[],
        )
        .unwrap();
    let details: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
    for part in ["\"lost\"", "dead letter", "paused"] {
        assert!(
            details.iter().any(|detail| detail.contains(part)),
            "no {part} in {details:?}"
        );
    }
    for row in &rows {
        assert!(
            !row.get::<_, &str>("severity").is_empty() && !row.get::<_, &str>("check").is_empty()
        );
        assert!(!row.get::<_, &str>("hint").is_empty());
    }
}
