//! Partitions: written by turns, emptied as a whole when everything in them is over, and nothing is lost by it.

use pgmq_mail_tests::{Database, SOON, all, database, one, reaches, run_sql, until, worker_of};
use postgres::Client;

use crate::put;

/// A database whose worker lets go of nothing by itself: the test does that, as the worker would.
fn by_hand(database: &Database<'_>) -> Client {
    let mut client = database.connect();
    worker_of(&mut client);
    run_sql(
        &mut client,
        "UPDATE mail.queue SET retain_body = '1 day', retain_sent = '10 days'",
    );
    client
}

/// Makes everything older than it is.
fn older(client: &mut Client, days: i64) {
    // Ids carry the time: what refers to them goes along.
    run_sql(
        client,
        &format!(
            "BEGIN;
             UPDATE mail.partition SET since = since - interval '{days} days';
             UPDATE mail.installation SET since = since - interval '{days} days';
             UPDATE mail.pending SET id = id - ({days}::bigint * 86400 << 32);
             UPDATE mail.message SET id = id - ({days}::bigint * 86400 << 32), enqueued_at = enqueued_at - interval '{days} days';
             UPDATE mail.event SET message_id = message_id - ({days}::bigint * 86400 << 32), at = at - interval '{days} days';
             UPDATE mail.dead_letter SET id = id - ({days}::bigint * 86400 << 32), at = at - interval '{days} days';
             UPDATE mail.capture SET message_id = message_id - ({days}::bigint * 86400 << 32);
             UPDATE mail.message_attachment SET message_id = message_id - ({days}::bigint * 86400 << 32);
             COMMIT"
        ),
    );
}

/// Has the second of such partitions written instead of the first.
fn next_turn(client: &mut Client, holds: &str) {
    run_sql(
        client,
        &format!(
            "UPDATE mail.partition SET current = false, since = NULL WHERE name = '{holds}_1';
             UPDATE mail.partition SET current = true, since = now() WHERE name = '{holds}_2'"
        ),
    );
}

/// Lets go of what is over, in small pieces.
fn let_go(client: &mut Client) {
    // What was gone through is emptied when it is looked at again.
    for _ in 0..2 {
        let before: std::time::SystemTime = one(client, "SELECT clock_timestamp()", &[]);
        run_sql(client, "SET SESSION AUTHORIZATION mail_worker");
        while one::<bool>(client, "SELECT mail._retain(2, $1)", &[&before]) {}
        run_sql(client, "RESET SESSION AUTHORIZATION");
    }
}

/// Until no partition is left in which everything is over: a lock or a snapshot of somebody else's puts it off.
fn all_goes(client: &mut Client) {
    until("what is over is gone", SOON, || {
        let_go(client);
        one(
            client,
            "SELECT NOT EXISTS (SELECT FROM mail.partition p WHERE mail._is_over(p, clock_timestamp()))",
            &[],
        )
    });
}

/// How many rows are in which table.
fn places(client: &mut Client, of: &str) -> Vec<String> {
    let query = format!(
        "SELECT format('%s %s', tableoid::regclass, count(*)) FROM mail.{of} GROUP BY tableoid ORDER BY 1"
    );
    all(client, &query, &[])
}

fn current(client: &mut Client) -> Vec<String> {
    let query = "SELECT name FROM mail.partition WHERE current ORDER BY name";
    all(client, query, &[])
}

#[test]
fn messages_and_events_go_where_it_is_their_turn() {
    let database = database();
    let mut client = by_hand(&database);
    assert_eq!(current(&mut client), ["event_1", "message_1", "record_1"]);
    let first = put(&mut client, "first", "");
    reaches(&mut client, first, "sent");
    older(&mut client, 2);
    all_goes(&mut client);
    assert_eq!(current(&mut client), ["event_1", "message_2", "record_1"]);
    let second = put(&mut client, "second", "");
    reaches(&mut client, second, "sent");
    assert_eq!(
        places(&mut client, "message"),
        ["mail.message_2 1", "mail.record_1 1"]
    );
    assert_eq!(places(&mut client, "event"), ["mail.event_1 2"]);
    // By SQL, too.
    let third = put(
        &mut client,
        "third",
        ", send_at => now() + interval '1 day'",
    );
    assert!(one::<bool>(
        &mut client,
        "SELECT mail.cancel($1)",
        &[&third]
    ));
    assert_eq!(places(&mut client, "event"), ["mail.event_1 3"]);
}

#[test]
fn what_is_over_goes_as_a_whole_and_what_is_not_stays() {
    let database = database();
    let mut client = by_hand(&database);
    let over = put(&mut client, "over", "");
    reaches(&mut client, over, "sent");
    run_sql(
        &mut client,
        "INSERT INTO mail.queue (name, transport, default_sender) VALUES ('outside', 'external', 'a@b.test')",
    );
    run_sql(
        &mut client,
        "UPDATE mail.queue SET retain_body = '1 day', retain_sent = '10 days', max_attempts = 1",
    );
    let waits = put(
        &mut client,
        "waits",
        ", send_at => now() + interval '1 year'",
    );
    let dead: i64 = one(
        &mut client,
        "SELECT mail.enqueue(message => '{\"x\": 1}', queue => 'outside')",
        &[],
    );
    let nack =
        "SELECT mail.nack(c.id, c.token, 'no', permanent => true) FROM mail.claim('outside') c";
    assert_eq!(one::<String>(&mut client, nack, &[]), "failed");
    next_turn(&mut client, "message");
    next_turn(&mut client, "event");
    // The year that it waits is not over.
    older(&mut client, 30);
    let back = |id: i64| id - ((30 * 86400) << 32);
    all_goes(&mut client);
    assert_eq!(places(&mut client, "message"), ["mail.message 2"]);
    let of_it = "SELECT kind || ' ' || state FROM mail.events";
    assert_eq!(all::<String>(&mut client, of_it, &[]), ["failed failed"]);
    for table in ["message_1", "event_1"] {
        let size = format!("SELECT pg_relation_size('mail.{table}')");
        assert_eq!(one::<i64>(&mut client, &size, &[]), 0, "{table} is empty");
    }
    let states: Vec<String> = all(
        &mut client,
        "SELECT format('%s %s', id, state) FROM mail.messages ORDER BY id",
        &[],
    );
    assert_eq!(
        states,
        [
            format!("{} queued", back(waits)),
            format!("{} failed", back(dead))
        ]
    );
    // Both go on.
    assert!(one::<bool>(
        &mut client,
        "SELECT mail.retry($1)",
        &[&back(dead)]
    ));
    run_sql(&mut client, "UPDATE mail.pending SET due_at = now()");
    reaches(&mut client, back(waits), "sent");
    let ack = "SELECT mail.ack(c.id, c.token) FROM mail.claim('outside') c";
    assert!(one::<bool>(&mut client, ack, &[]));
    reaches(&mut client, back(dead), "sent");
    // And are over at last: nothing is left of anything.
    all_goes(&mut client);
    assert_eq!(places(&mut client, "message"), [""; 0]);
}

#[test]
fn bodies_go_when_their_time_is_over_and_records_stay() {
    let database = database();
    let mut client = by_hand(&database);
    let id = put(
        &mut client,
        "a body",
        ", options => '{\"attachments\": [{\"filename\": \"a.txt\", \"text\": \"x\"}]}'",
    );
    reaches(&mut client, id, "sent");
    older(&mut client, 2);
    all_goes(&mut client);
    assert_eq!(places(&mut client, "message"), ["mail.record_1 1"]);
    let kept: bool = one(
        &mut client,
        "SELECT m.content IS NULL AND m.subject = 'a body' AND m.files = 1 AND v.state = 'sent'
             AND NOT EXISTS (SELECT FROM mail.message_attachment) AND NOT EXISTS (SELECT FROM mail.capture)
         FROM mail.message m JOIN mail.messages v USING (id)",
        &[],
    );
    assert!(kept);
}

#[test]
fn a_queue_that_keeps_for_a_short_time_does_not_wait_for_the_others() {
    let database = database();
    let mut client = by_hand(&database);
    run_sql(
        &mut client,
        "INSERT INTO mail.queue (name, transport, default_sender, retain_body, retain_sent)
         VALUES ('short', 'capture', 'a@b.test', '1 hour', '1 hour')",
    );
    let short = put(&mut client, "short", ", queue => 'short'");
    let long = put(&mut client, "long", "");
    for id in [short, long] {
        reaches(&mut client, id, "sent");
    }
    older(&mut client, 2);
    all_goes(&mut client);
    let left: Vec<String> = all(&mut client, "SELECT subject FROM mail.messages", &[]);
    assert_eq!(left, ["long"]);
    let events: i64 = one(&mut client, "SELECT count(*) FROM mail.events", &[]);
    assert_eq!(events, 1);
}

#[test]
fn with_a_queue_that_keeps_for_ever_nothing_goes_as_a_whole() {
    let database = database();
    let mut client = by_hand(&database);
    run_sql(
        &mut client,
        "INSERT INTO mail.queue (name, transport, default_sender, retain_body, retain_sent)
         VALUES ('archive', 'capture', 'a@b.test', NULL, NULL)",
    );
    let kept = put(&mut client, "kept", ", queue => 'archive'");
    let over = put(&mut client, "over", "");
    for id in [kept, over] {
        reaches(&mut client, id, "sent");
    }
    older(&mut client, 1000);
    let_go(&mut client);
    assert_eq!(current(&mut client), ["event_1", "message_1", "record_1"]);
    let left: Vec<String> = all(&mut client, "SELECT subject FROM mail.messages", &[]);
    assert_eq!(left, ["kept"]);
    assert_eq!(places(&mut client, "message"), ["mail.message_1 1"]);
}

#[test]
fn a_transaction_that_is_open_keeps_what_it_wrote() {
    let database = database();
    let mut client = by_hand(&database);
    run_sql(
        &mut client,
        "UPDATE mail.queue SET retain_body = '0', retain_sent = '0'",
    );
    let mut open = database.connect();
    run_sql(&mut open, "BEGIN");
    put(&mut open, "open", ", send_at => now() + interval '1 hour'");
    let first = put(&mut client, "first", "");
    reaches(&mut client, first, "sent");
    run_sql(
        &mut client,
        "UPDATE mail.installation SET since = '-infinity';
         UPDATE mail.partition SET since = now() - interval '1 day' WHERE current",
    );
    let_go(&mut client);
    let_go(&mut client);
    assert_eq!(current(&mut client), ["event_2", "message_2", "record_1"]);
    let sizes = "SELECT pg_relation_size('mail.message_1') > 0";
    assert!(one::<bool>(&mut client, sizes, &[]), "it is not emptied");
    run_sql(&mut open, "COMMIT");
    until("now it is", SOON, || {
        let_go(&mut client);
        !one::<bool>(&mut client, sizes, &[])
    });
    let left: Vec<String> = all(
        &mut client,
        "SELECT subject || ' ' || state FROM mail.messages",
        &[],
    );
    assert_eq!(left, ["open queued"]);
    assert_eq!(places(&mut client, "message"), ["mail.message 1"]);
}

#[test]
fn what_an_old_snapshot_writes_into_a_table_that_was_gone_through_stays() {
    let database = database();
    let mut client = by_hand(&database);
    run_sql(
        &mut client,
        "UPDATE mail.queue SET retain_body = '0', retain_sent = '0'",
    );
    let first = put(&mut client, "first", "");
    reaches(&mut client, first, "sent");
    let mut old = database.connect();
    run_sql(&mut old, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    run_sql(
        &mut client,
        "UPDATE mail.installation SET since = '-infinity';
         UPDATE mail.partition SET since = now() - interval '1 day' WHERE current",
    );
    let cleared = "SELECT cleared IS NOT NULL FROM mail.partition WHERE name = 'message_1'";
    until("it is gone through", SOON, || {
        let_go(&mut client);
        one(&mut client, cleared, &[])
    });
    let id = put(&mut old, "old", ", send_at => now() + interval '1 hour'");
    run_sql(&mut old, "COMMIT");
    assert_eq!(places(&mut client, "message"), ["mail.message_1 2"]);
    // Long enough to be over, going by its id.
    until("its second is over", SOON, || {
        let over = "SELECT mail._newest(p) < mail._first_id(clock_timestamp()) FROM mail.partition p WHERE p.name = 'message_1'";
        one(&mut client, over, &[])
    });
    all_goes(&mut client);
    assert_eq!(places(&mut client, "message"), ["mail.message 1"]);
    run_sql(&mut client, "UPDATE mail.pending SET due_at = now()");
    reaches(&mut client, id, "sent");
}

#[test]
fn what_comes_out_of_turn_is_looked_at_before_its_table_is_emptied() {
    let database = database();
    let mut client = by_hand(&database);
    run_sql(
        &mut client,
        "UPDATE mail.queue SET retain_body = '0', retain_sent = '0'; SELECT mail.pause('default')",
    );
    for subject in ["one", "two", "three", "four", "five"] {
        put(&mut client, subject, "");
    }
    older(&mut client, 1);
    run_sql(
        &mut client,
        "CREATE TABLE kept AS SELECT * FROM mail.message WHERE subject = 'one';
         CREATE TABLE waits AS SELECT * FROM mail.pending p WHERE p.id IN (SELECT k.id FROM kept k);
         DELETE FROM mail.pending p WHERE p.id IN (SELECT k.id FROM kept k);
         DELETE FROM mail.message m WHERE m.id IN (SELECT k.id FROM kept k);
         SELECT mail.resume('default')",
    );
    until("all are sent", SOON, || {
        one(
            &mut client,
            "SELECT NOT EXISTS (SELECT FROM mail.pending)",
            &[],
        )
    });
    next_turn(&mut client, "message");
    run_sql(
        &mut client,
        "UPDATE mail.partition SET looked_at = 'infinity' WHERE name <> 'message_1'",
    );
    // Halfway through, as a restore brings it: a row that was passed by already.
    let piece = "SELECT mail._retain(2, 'infinity')";
    run_sql(&mut client, "SET SESSION AUTHORIZATION mail_worker");
    assert!(one::<bool>(&mut client, piece, &[]));
    run_sql(&mut client, "RESET SESSION AUTHORIZATION");
    let clearing = "SELECT clearing AND behind > 0 FROM mail.partition WHERE name = 'message_1'";
    assert!(one::<bool>(&mut client, clearing, &[]));
    run_sql(
        &mut client,
        "BEGIN; SELECT mail.pause('default');
         INSERT INTO mail.message_1 SELECT * FROM kept; INSERT INTO mail.pending SELECT * FROM waits; COMMIT",
    );
    assert!(!one::<bool>(&mut client, clearing, &[]));
    run_sql(
        &mut client,
        "UPDATE mail.partition SET looked_at = '-infinity'",
    );
    let_go(&mut client);
    let kept = "SELECT pg_relation_size('mail.message_1') > 0 AND since > now() - interval '1 minute' FROM mail.partition WHERE name = 'message_1'";
    assert!(one::<bool>(&mut client, kept, &[]), "not within a day");
    run_sql(
        &mut client,
        "UPDATE mail.partition SET since = since - interval '2 days' WHERE name = 'message_1'",
    );
    all_goes(&mut client);
    assert_eq!(places(&mut client, "message"), ["mail.message 1"]);
    run_sql(&mut client, "SELECT mail.resume('default')");
    let id: i64 = one(&mut client, "SELECT id FROM kept", &[]);
    reaches(&mut client, id, "sent");
}

#[test]
fn an_old_snapshot_goes_on_to_see_what_it_saw() {
    let database = database();
    let mut client = by_hand(&database);
    let waits = put(
        &mut client,
        "waits",
        ", send_at => now() + interval '1 year'",
    );
    let over = put(&mut client, "over", "");
    reaches(&mut client, over, "sent");
    older(&mut client, 30);
    next_turn(&mut client, "message");
    let mut old = database.connect();
    run_sql(&mut old, "BEGIN ISOLATION LEVEL REPEATABLE READ");
    let sees = "SELECT count(*) FROM mail.pending p JOIN mail.message m USING (id)";
    run_sql(&mut old, "SELECT 1");
    let_go(&mut client);
    let_go(&mut client);
    assert_eq!(one::<i64>(&mut old, sees, &[]), 1);
    // Somebody should know what takes up the disk.
    let told = "SELECT severity FROM mail.health() WHERE \"check\" = 'retention' AND detail LIKE 'mail.message_1 (%) is over %'";
    assert_eq!(all::<String>(&mut client, told, &[]), ["warning"]);
    run_sql(&mut old, "COMMIT");
    let empty = "SELECT pg_relation_size('mail.message_1') = 0";
    until("it is emptied then", SOON, || {
        let_go(&mut client);
        one(&mut client, empty, &[])
    });
    let left: Vec<i64> = all(&mut client, "SELECT id FROM mail.messages", &[]);
    assert_eq!(left, [waits - ((30 * 86400) << 32)]);
    assert_eq!(all::<String>(&mut client, told, &[]), [""; 0]);
}

#[test]
fn what_queues_say_later_holds_for_what_was_looked_at_before() {
    let database = database();
    let mut client = by_hand(&database);
    run_sql(&mut client, "UPDATE mail.queue SET retain_body = '10 days'");
    for subject in ["one", "two", "three"] {
        let id = put(&mut client, subject, "");
        reaches(&mut client, id, "sent");
    }
    older(&mut client, 11);
    next_turn(&mut client, "message");
    run_sql(
        &mut client,
        "UPDATE mail.partition SET looked_at = 'infinity' WHERE name <> 'message_1';
         SET SESSION AUTHORIZATION mail_worker",
    );
    assert!(one::<bool>(
        &mut client,
        "SELECT mail._retain(2, 'infinity')",
        &[]
    ));
    run_sql(&mut client, "RESET SESSION AUTHORIZATION");
    let cleared =
        "SELECT clearing OR cleared IS NOT NULL FROM mail.partition WHERE name = 'message_1'";
    assert!(one::<bool>(&mut client, cleared, &[]));
    run_sql(
        &mut client,
        "UPDATE mail.queue SET retain_sent = NULL; UPDATE mail.partition SET looked_at = '-infinity'",
    );
    let_go(&mut client);
    let left: i64 = one(&mut client, "SELECT count(*) FROM mail.messages", &[]);
    assert_eq!(left, 3);
}

#[test]
fn a_table_that_cannot_be_gone_through_does_not_hold_up_the_others() {
    let database = database();
    let mut client = by_hand(&database);
    let id = put(&mut client, "x", "");
    reaches(&mut client, id, "sent");
    older(&mut client, 2);
    run_sql(
        &mut client,
        "REVOKE SELECT ON mail.message_3 FROM mail_worker",
    );
    all_goes(&mut client);
    assert_eq!(places(&mut client, "message"), ["mail.record_1 1"]);
    run_sql(&mut client, "GRANT SELECT ON mail.message_3 TO mail_worker");
}

#[test]
fn nobody_but_the_worker_truncates_a_partition() {
    let database = database();
    let mut client = database.connect();
    let refused = client.batch_execute("TRUNCATE mail.message_1");
    let code = refused.expect_err("it is refused").code().cloned();
    assert_eq!(code, Some(postgres::error::SqlState::FEATURE_NOT_SUPPORTED));
    let mut admin = database.connect_as("partition_admin", &["mail_admin", "mail_reader"]);
    for statement in [
        "TRUNCATE mail.message_1",
        "SELECT * FROM mail.message_1",
        "SELECT mail._empty('message_2')",
        "UPDATE mail.partition SET current = false",
    ] {
        let code = admin.batch_execute(statement).expect_err(statement);
        assert_eq!(
            code.code(),
            Some(&postgres::error::SqlState::INSUFFICIENT_PRIVILEGE),
            "{statement}"
        );
    }
    // Who may read every table sees nothing that the views do not show him.
    put(&mut client, "secret", "");
    let mut reader = database.connect_as("partition_reader", &["pg_read_all_data"]);
    let count =
        "SELECT (SELECT count(*) FROM mail.message_1) + (SELECT count(*) FROM mail.message)";
    assert_eq!(one::<i64>(&mut reader, count, &[]), 0);
}
