//! What a queue's row refuses, so that no message is forgotten and none takes another way than it was told.

use pgmq_mail_tests::{code, database};

use crate::{all, messages, one, put, state, take, work};

/// Name, transport and sender of every queue.
const QUEUES: &str =
    "SELECT concat_ws(' ', name, transport, default_sender) FROM mail.queue ORDER BY id";

#[test]
fn the_default_queue_is_there_and_is_not_inserted_over() {
    let database = database();
    let mut client = database.connect();
    let before: i32 = one(&mut client, "SELECT id FROM mail.queue", &[]);
    for insert in [
        "INSERT INTO mail.queue (name, transport) VALUES ('default', 'external')",
        "INSERT INTO mail.queue (id, name, transport) VALUES (7, 'default', 'external')",
    ] {
        assert_eq!(
            code(client.execute(insert, &[])).code(),
            "23505",
            "{insert}"
        );
        // Where it was changed already, too.
        client
            .execute("UPDATE mail.queue SET paused = paused", &[])
            .unwrap();
    }
    let queues: Vec<String> = all(&mut client, QUEUES, &[]);
    assert_eq!(queues, ["default capture postgres@localhost"]);
    assert_eq!(
        one::<i32>(&mut client, "SELECT id FROM mail.queue", &[]),
        before
    );
}

#[test]
fn an_upsert_of_the_default_queue_changes_what_it_names_and_keeps_its_messages() {
    let database = database();
    let mut client = database.connect();
    let before: i32 = one(&mut client, "SELECT id FROM mail.queue", &[]);
    let id: i64 = one(
        &mut client,
        "SELECT mail.enqueue('a@example.test', 'x', 'x', send_at => now() + interval '1 hour')",
        &[],
    );
    let done = client
        .execute(
            "INSERT INTO mail.queue (name, transport, default_sender) VALUES ('default', 'external', 'other@example.test')
             ON CONFLICT (name) DO NOTHING",
            &[],
        )
        .unwrap();
    assert_eq!(done, 0);
    client
        .execute(
            "INSERT INTO mail.queue (name, transport) VALUES ('default', 'external')
             ON CONFLICT (name) DO UPDATE SET transport = excluded.transport",
            &[],
        )
        .unwrap();
    let queues: Vec<String> = all(&mut client, QUEUES, &[]);
    assert_eq!(queues, ["default external postgres@localhost"]);
    assert_eq!(
        one::<i32>(&mut client, "SELECT id FROM mail.queue", &[]),
        before
    );
    let queue: String = one(
        &mut client,
        "SELECT queue FROM mail.messages WHERE id = $1",
        &[&id],
    );
    assert_eq!(
        (queue.as_str(), state(&mut client, id).as_str()),
        ("default", "queued")
    );
}

#[test]
fn a_queue_that_holds_messages_is_not_deleted_the_fresh_one_neither() {
    let database = database();
    let mut client = work(&database);
    client
        .execute("SELECT mail.enqueue('a@example.test', 'x', 'x')", &[])
        .unwrap();
    put(&mut client, "x", "");
    for statement in [
        "DELETE FROM mail.queue WHERE name = 'default'",
        "DELETE FROM mail.queue WHERE name = 'work'",
        "TRUNCATE mail.queue",
    ] {
        assert_eq!(
            code(client.execute(statement, &[])).code(),
            "55006",
            "{statement}"
        );
    }
    assert_eq!(messages(&mut client), 2);
    client
        .batch_execute(
            "SELECT mail.wait_idle();
             SELECT mail.purge('default', finished => true);
             DELETE FROM mail.queue WHERE name = 'default'",
        )
        .unwrap();
    assert_eq!(
        code(client.execute("TRUNCATE mail.queue", &[])).code(),
        "55006"
    );
    client
        .batch_execute("SELECT mail.purge('work', finished => true); TRUNCATE mail.queue")
        .unwrap();
    assert_eq!(
        one::<i64>(&mut client, "SELECT count(*) FROM mail.queue", &[]),
        0
    );
}

#[test]
fn what_holds_mail_is_not_truncated() {
    let database = database();
    let mut client = work(&database);
    put(&mut client, "x", "");
    for table in [
        "message",
        "pending",
        "lease",
        "event",
        "dead_letter",
        "idempotency",
        "supersede",
        "attachment",
        "message_attachment",
    ] {
        let refused = code(client.execute(&format!("TRUNCATE mail.{table} CASCADE"), &[]));
        assert_eq!(refused.code(), "0A000", "{table}");
    }
    assert_eq!(messages(&mut client), 1);
}

#[test]
fn the_id_of_a_queue_cannot_be_changed() {
    let database = database();
    let mut client = work(&database);
    let before: Vec<i32> = all(&mut client, "SELECT id FROM mail.queue ORDER BY name", &[]);
    for statement in [
        "UPDATE mail.queue SET id = id + 1",
        "UPDATE mail.queue SET id = 4711 WHERE name = 'work'",
        "INSERT INTO mail.queue (id, name) VALUES (4711, 'work')
         ON CONFLICT (name) DO UPDATE SET id = excluded.id",
    ] {
        assert_eq!(
            code(client.execute(statement, &[])).code(),
            "22023",
            "{statement}"
        );
    }
    let after: Vec<i32> = all(&mut client, "SELECT id FROM mail.queue ORDER BY name", &[]);
    assert_eq!(after, before);
    client
        .execute("UPDATE mail.queue SET id = id, name = name || '2'", &[])
        .unwrap();
}

#[test]
fn a_missing_relay_name_and_an_endless_interval_are_refused() {
    let database = database();
    let mut client = work(&database);
    // The constraint is asked for by name: retry_max must not be shorter than retry_base.
    let cases = [
        ("queue_relays_check", "relays = '{NULL}'"),
        ("queue_relays_check", "relays = '{a, NULL}'"),
        (
            "queue_retry_base_check",
            "retry_base = '100 years 1 day', retry_max = '101 years'",
        ),
        ("queue_retry_max_check", "retry_max = '100 years 1 day'"),
        (
            "queue_give_up_after_check",
            "give_up_after = '170000 years'",
        ),
        (
            "queue_idempotency_window_check",
            "idempotency_window = '101 years'",
        ),
        ("queue_retain_body_check", "retain_body = '101 years'"),
        ("queue_retain_sent_check", "retain_sent = '170000 years'"),
        ("queue_retain_sent_check", "retain_sent = '-1 second'"),
    ];
    for (constraint, columns) in cases {
        let update = format!("UPDATE mail.queue SET {columns} WHERE name = 'work'");
        let error = client.execute(&update, &[]).expect_err(&update);
        let error = error.as_db_error().expect("an answer of the server");
        assert_eq!(error.code().code(), "23514", "{columns}: {error:?}");
        assert_eq!(error.constraint(), Some(constraint), "{columns}");
    }
    client
        .batch_execute(
            "UPDATE mail.queue SET retry_base = '100 years', retry_max = '100 years', give_up_after = '100 years',
                 idempotency_window = '100 years', retain_body = '100 years', retain_sent = '100 years';
             UPDATE mail.queue SET retain_body = NULL, retain_sent = NULL, relays = '{}'",
        )
        .unwrap();
    let id = put(&mut client, "with the longest", ", idempotency_key => 'k'");
    assert_eq!(put(&mut client, "again", ", idempotency_key => 'k'"), id);
    let (id, token) = take(&mut client, "1 minute").unwrap();
    let state: String = one(&mut client, "SELECT mail.nack($1, $2)", &[&id, &token]);
    assert_eq!(state, "deferred");
}

#[test]
fn a_send_at_long_past_does_not_make_a_message_old() {
    let database = database();
    let mut client = work(&database);
    for send_at in ["now() - interval '5 days'", "'-infinity'", "'epoch'"] {
        let put = put(&mut client, send_at, &format!(", send_at => {send_at}"));
        let (id, token) = take(&mut client, "1 minute").unwrap();
        assert_eq!(id, put, "it is due at once");
        let answer: String = one(
            &mut client,
            "SELECT mail.nack($1, $2, 'later')",
            &[&id, &token],
        );
        assert_eq!(
            (answer.as_str(), state(&mut client, id).as_str()),
            ("deferred", "deferred")
        );
    }
    let letters: i64 = one(&mut client, "SELECT count(*) FROM mail.dead_letters", &[]);
    assert_eq!(letters, 0);
}

#[test]
fn json_that_a_consumer_could_not_read_is_refused() {
    let database = database();
    let mut client = work(&database);
    let deep = |depth: usize| {
        format!(
            "SELECT mail.enqueue((repeat('[', {depth}) || repeat(']', {depth}))::jsonb, queue => 'work')"
        )
    };
    assert_eq!(code(client.execute(&deep(5000), &[])).code(), "54000");
    client.execute(&deep(1000), &[]).unwrap();
    assert!(take(&mut client, "1 minute").is_some());
}
