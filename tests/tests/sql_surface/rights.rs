//! Roles: nothing for PUBLIC, and each of the four what it is for.

use pgmq_mail_tests::{code, database};

use crate::{all, one, put, take, work};

#[test]
fn nothing_is_granted_to_public() {
    let database = database();
    let mut client = database.connect_as("rights_nobody", &[]);
    let calls = [
        "SELECT mail.enqueue('a@example.test', 'x', 'x')",
        "SELECT mail.claim('default')",
        "SELECT mail.cancel(1)",
        "SELECT * FROM mail.messages",
        "SELECT * FROM mail.captured",
        "SELECT * FROM mail.relay",
        "SELECT * FROM mail.domain_stats",
        "SELECT * FROM mail.health()",
        "SELECT mail.purge('default')",
        "INSERT INTO mail.queue (name) VALUES ('q')",
    ];
    for call in calls {
        assert_eq!(code(client.execute(call, &[])).code(), "42501", "{call}");
    }
    let mut admin = database.connect();
    let open: Vec<String> = all(
        &mut admin,
        "SELECT p.oid::regprocedure::text FROM pg_proc p
         WHERE p.pronamespace = 'mail'::regnamespace
           AND has_function_privilege('rights_nobody', p.oid, 'EXECUTE')
         UNION ALL
         SELECT c.oid::regclass::text FROM pg_class c
         WHERE c.relnamespace = 'mail'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
           AND (CASE WHEN c.relkind = 'S' THEN has_sequence_privilege('rights_nobody', c.oid, 'USAGE, SELECT')
                     ELSE has_table_privilege('rights_nobody', c.oid, 'SELECT, INSERT, UPDATE, DELETE') END)",
        &[],
    );
    assert_eq!(open, [""; 0]);
}

#[test]
fn a_sender_enqueues_and_cancels_its_own_and_reaches_nothing_else() {
    let database = database();
    let mut admin = work(&database);
    let theirs = put(&mut admin, "theirs", "");
    let mut sender = database.connect_as("rights_sender", &["mail_sender"]);
    let mine = put(&mut sender, "mine", "");
    assert_eq!(
        code(sender.execute("SELECT mail.cancel($1)", &[&theirs])).code(),
        "42501"
    );
    assert!(one::<bool>(&mut sender, "SELECT mail.cancel($1)", &[&mine]));
    for call in [
        "SELECT mail.claim('work')",
        "SELECT mail.ack(1, 1)",
        "SELECT mail.retry(1)",
        "SELECT mail.purge('work')",
        "SELECT mail.pause('work')",
        "SELECT * FROM mail.captured",
        "SELECT * FROM mail.relay",
        "SELECT * FROM mail.domain_stats",
        "UPDATE mail.queue SET paused = true",
    ] {
        assert_eq!(code(sender.execute(call, &[])).code(), "42501", "{call}");
    }
}

#[test]
fn a_consumer_claims_and_settles_and_does_not_enqueue() {
    let database = database();
    let mut admin = work(&database);
    for subject in ["a", "b", "c"] {
        put(&mut admin, subject, "");
    }
    let mut consumer = database.connect_as("rights_consumer", &["mail_consumer"]);
    let (id, token) = take(&mut consumer, "1 minute").unwrap();
    assert!(one::<bool>(
        &mut consumer,
        "SELECT mail.ack($1::bigint, $2)",
        &[&id, &token]
    ));
    let (id, token) = take(&mut consumer, "1 minute").unwrap();
    assert_eq!(
        one::<String>(&mut consumer, "SELECT mail.nack($1, $2)", &[&id, &token]),
        "deferred"
    );
    let (id, token) = take(&mut consumer, "1 minute").unwrap();
    let extended: bool = one(
        &mut consumer,
        "SELECT mail.extend($1, $2, '1 hour') > now()",
        &[&id, &token],
    );
    assert!(extended);
    assert!(one::<bool>(
        &mut consumer,
        "SELECT mail.release($1, $2)",
        &[&id, &token]
    ));
    for call in [
        "SELECT mail.enqueue('a@example.test', 'x', 'x', queue => 'work')",
        "SELECT mail.purge('work')",
        "SELECT * FROM mail.relay",
    ] {
        assert_eq!(code(consumer.execute(call, &[])).code(), "42501", "{call}");
    }
}

#[test]
fn a_reader_sees_everything_and_changes_nothing() {
    let database = database();
    let mut admin = work(&database);
    let id = put(&mut admin, "x", "");
    let mut reader = database.connect_as("rights_reader", &["mail_reader"]);
    for view in [
        "messages",
        "dead_letters",
        "events",
        "queue_stats",
        "relay_stats",
        "domain_stats",
        "workers",
        "captured",
    ] {
        reader
            .query(&format!("SELECT * FROM mail.{view}"), &[])
            .expect(view);
    }
    reader
        .query("SELECT * FROM mail.health()", &[])
        .expect("health");
    for call in [
        "SELECT mail.enqueue('a@example.test', 'x', 'x', queue => 'work')".to_owned(),
        format!("SELECT mail.cancel({id})"),
        "SELECT mail.claim('work')".to_owned(),
        "DELETE FROM mail.queue".to_owned(),
    ] {
        assert_eq!(code(reader.execute(&call, &[])).code(), "42501", "{call}");
    }
}

#[test]
fn an_admin_configures_and_repairs_without_being_superuser() {
    let database = database();
    let mut admin = database.connect_as("rights_admin", &["mail_admin"]);
    admin
        .batch_execute(
            "INSERT INTO mail.relay (name, url, username, secret)
             VALUES ('r', 'smtp://127.0.0.1:1', 'u', 'sesame');
             INSERT INTO mail.queue (name, transport, relays) VALUES ('q', 'smtp', '{r}');
             SELECT mail.pause('q');
             UPDATE mail.queue SET default_sender = 'a@example.test' WHERE name = 'q';
             SELECT mail.enqueue('a@example.test', 'x', 'x', queue => 'q');
             SELECT mail.purge('q');
             SELECT mail.disarm('test'), mail.arm();
             SELECT * FROM mail.health();
             DELETE FROM mail.relay WHERE name = 'r';",
        )
        .unwrap();
}
