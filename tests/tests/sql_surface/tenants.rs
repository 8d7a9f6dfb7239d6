//! `mail.queue.owner`: several tenants in one database, none of whom learns of another.

use pgmq_mail_tests::{Database, code, database, reaches};
use postgres::Client;

use crate::{all, one};

/// A tenant: who administers its queues, who sends through them, and a message that waits.
struct Tenant {
    admin: Client,
    app: Client,
    message: i64,
}

/// Who administers the extension.
fn root(database: &Database<'_>) -> Client {
    database.connect_as(&format!("tenants_{}", database.name()), &["mail_admin"])
}

/// The queue `acme` and the like, for programs of the tenant, and `acme-kept`, where mail is captured.
fn tenant(database: &Database<'_>, name: &str) -> Tenant {
    // Roles belong to the whole server.
    let group = format!("tenants_{}_{name}", database.name());
    drop(database.connect_as(&group, &[]));
    root(database)
        .execute(
            "INSERT INTO mail.queue (name, transport, default_sender, owner) VALUES
             ($1, 'external', 'app@example.test', $2), ($1 || '-kept', 'capture', 'app@example.test', $2)",
            &[&name, &group],
        )
        .unwrap();
    let admin = database.connect_as(
        &format!("{group}_admin"),
        &[&group, "mail_tenant", "mail_consumer"],
    );
    let mut app = database.connect_as(&format!("{group}_app"), &[&group, "mail_sender"]);
    let enqueue = "SELECT mail.enqueue('a@example.test', $1, 'x', queue => $1, idempotency_key => 'same', supersede_key => 'same')";
    let message = one(&mut app, enqueue, &[&name]);
    Tenant {
        admin,
        app,
        message,
    }
}

#[test]
fn the_queues_of_another_tenant_do_not_exist() {
    let database = database();
    let mut acme = tenant(&database, "acme");
    let mut globex = tenant(&database, "globex");
    let calls = |queue: &str| {
        (
            [
                format!("SELECT mail.enqueue('a@example.test', 'x', 'x', queue => '{queue}')"),
                format!("SELECT mail.enqueue_batch(ARRAY['{{}}'::jsonb], '{queue}')"),
                format!(
                    "SELECT mail.preview('{{\"to\": \"a@example.test\", \"queue\": \"{queue}\"}}'::jsonb)"
                ),
                format!("SELECT mail.wait_idle('{queue}')"),
            ],
            [
                format!("SELECT mail.claim('{queue}')"),
                format!("SELECT mail.pause('{queue}')"),
                format!("SELECT mail.resume('{queue}')"),
                format!("SELECT mail.retry_dead_letters('{queue}')"),
                format!("SELECT mail.purge('{queue}')"),
                format!("SELECT mail.wait_idle('{queue}')"),
            ],
        )
    };
    // Told apart by nothing: neither code nor text depends on whether there is such a queue.
    for queue in ["globex", "globex-kept", "there is none"] {
        let (sends, administers) = calls(queue);
        let by_app = sends.iter().map(|call| (call, true));
        for (call, app) in by_app.chain(administers.iter().map(|call| (call, false))) {
            let client = if app { &mut acme.app } else { &mut acme.admin };
            let error = client.execute(call.as_str(), &[]).expect_err(call);
            let error = error.as_db_error().expect("an answer of the server");
            assert_eq!(error.code().code(), "42704", "{call}: {error:?}");
            let place = if call.contains("batch") {
                "messages[1]: "
            } else {
                ""
            };
            assert_eq!(
                error.message(),
                format!("{place}queue \"{queue}\" does not exist")
            );
        }
    }
    // The same keys are others, and the messages are still there.
    assert_ne!(acme.message, globex.message);
    let claimed: Vec<String> = all(
        &mut globex.admin,
        "SELECT message ->> 'subject' FROM mail.claim('globex', 10)",
        &[],
    );
    assert_eq!(claimed, ["globex"]);
}

#[test]
fn the_messages_of_another_tenant_are_not_seen_and_not_touched() {
    let database = database();
    let mut acme = tenant(&database, "acme");
    let mut globex = tenant(&database, "globex");
    let mut root = database.connect();
    let kept: i64 = one(
        &mut globex.app,
        "SELECT mail.enqueue('a@example.test', 'kept', 'x', queue => 'globex-kept')",
        &[],
    );
    reaches(&mut root, kept, "sent");
    let token: i64 = one(
        &mut globex.admin,
        "SELECT token FROM mail.claim('globex')",
        &[],
    );
    let id = globex.message;
    for (call, answer) in [
        (
            format!("SELECT mail.ack({id}, {token})::text"),
            Some("false"),
        ),
        (
            format!(
                "SELECT (SELECT count(*) FROM mail.ack(ARRAY[{id}], ARRAY[{token}]::bigint[]))::text"
            ),
            Some("0"),
        ),
        (format!("SELECT mail.nack({id}, {token})"), None),
        (
            format!("SELECT mail.extend({id}, {token}, '1 hour')::text"),
            None,
        ),
        (
            format!("SELECT mail.release({id}, {token})::text"),
            Some("false"),
        ),
        (format!("SELECT mail.cancel({id})::text"), Some("false")),
    ] {
        let found: Option<String> = acme.admin.query_one(&call, &[]).expect(&call).get(0);
        assert_eq!(found.as_deref(), answer, "{call}");
    }
    assert!(!one::<bool>(
        &mut acme.app,
        "SELECT mail.cancel($1)",
        &[&id]
    ));
    let nack = "SELECT mail.nack($1, $2, 'no', permanent => true)";
    assert_eq!(
        one::<String>(&mut globex.admin, nack, &[&id, &token]),
        "failed"
    );
    for call in ["retry", "dismiss", "cancel"] {
        let call = format!("SELECT mail.{call}($1)");
        assert!(!one::<bool>(&mut acme.admin, &call, &[&id]), "{call}");
    }
    assert_eq!(
        one::<i64>(&mut acme.admin, "SELECT mail.retry_dead_letters()", &[]),
        0
    );
    for (view, column) in [
        ("messages", "queue"),
        ("events", "queue"),
        ("dead_letters", "queue"),
        ("captured", "queue"),
        ("queue_stats", "queue"),
    ] {
        let query = format!("SELECT DISTINCT {column} FROM mail.{view} ORDER BY 1");
        let shown: Vec<String> = all(&mut acme.admin, &query, &[]);
        assert!(
            shown.iter().all(|queue| queue.starts_with("acme")),
            "{view}: {shown:?}"
        );
        let shown: Vec<String> = all(&mut globex.admin, &query, &[]);
        assert!(!shown.is_empty(), "{view}");
        assert!(
            shown.iter().all(|queue| queue.starts_with("globex")),
            "{view}: {shown:?}"
        );
        let everything: Vec<String> = all(&mut root, &query, &[]);
        assert!(
            everything.iter().any(|queue| queue.starts_with("globex")),
            "{view}"
        );
    }
    // Whoever only sends sees its own, as ever.
    let own: Vec<i64> = all(
        &mut globex.app,
        "SELECT id FROM mail.messages ORDER BY id",
        &[],
    );
    assert_eq!(own, [id, kept]);
    assert!(one::<bool>(
        &mut globex.admin,
        "SELECT mail.retry($1)",
        &[&id]
    ));
}

#[test]
fn a_tenant_administers_its_own_queues_and_no_others() {
    let database = database();
    let mut acme = tenant(&database, "acme");
    assert!(one::<bool>(
        &mut acme.admin,
        "SELECT mail.pause('acme')",
        &[]
    ));
    let paused: Vec<String> = all(
        &mut acme.admin,
        "SELECT queue FROM mail.queue_stats WHERE paused",
        &[],
    );
    assert_eq!(paused, ["acme"]);
    assert!(one::<bool>(
        &mut acme.admin,
        "SELECT mail.resume('acme')",
        &[]
    ));
    assert!(one::<bool>(
        &mut acme.admin,
        "SELECT mail.cancel($1)",
        &[&acme.message]
    ));
    let again: i64 = one(
        &mut acme.app,
        "SELECT mail.enqueue('a@example.test', 'again', 'x', queue => 'acme')",
        &[],
    );
    assert_eq!(
        one::<i64>(&mut acme.admin, "SELECT mail.purge('acme')", &[]),
        1
    );
    let state: String = one(
        &mut acme.admin,
        "SELECT state FROM mail.messages WHERE id = $1",
        &[&again],
    );
    assert_eq!(state, "cancelled");
    // What is everybody's is not its to administer, nor is the configuration; and its application administers nothing.
    for call in [
        "SELECT mail.pause('default')",
        "SELECT mail.purge('default')",
        "SELECT * FROM mail.queue",
        "UPDATE mail.queue SET default_sender = 'ceo@bank.test' WHERE name = 'acme'",
        "SELECT * FROM mail.relay",
        "SELECT * FROM mail.health()",
        "SELECT * FROM mail.message",
        "SELECT mail.arm()",
        "SELECT mail._pause(10, 'globex')",
        "SELECT mail.__may_read(10, 1)",
    ] {
        assert_eq!(
            code(acme.admin.execute(call, &[])).code(),
            "42501",
            "{call}"
        );
    }
    for call in [
        "SELECT mail.pause('acme')",
        "SELECT mail.claim('acme')",
        "SELECT * FROM mail.captured",
    ] {
        assert_eq!(code(acme.app.execute(call, &[])).code(), "42501", "{call}");
    }
}

#[test]
fn files_are_read_by_those_who_may_use_the_queue() {
    let database = database();
    let mut acme = tenant(&database, "acme");
    let mut globex = tenant(&database, "globex");
    let mut anybody = database.connect_as("tenants_consumer", &["mail_consumer"]);
    let attach = |client: &mut Client, queue: &str| -> i64 {
        one(
            client,
            "SELECT mail.enqueue(jsonb_build_object('to', 'a@example.test', 'text', 'x',
                 'attachments', jsonb_build_array(mail.attach(convert_to($1, 'UTF8'), 'a.txt'))), queue => $1)",
            &[&queue],
        )
    };
    attach(&mut acme.app, "acme");
    attach(&mut globex.app, "globex");
    database
        .connect()
        .batch_execute("INSERT INTO mail.queue (name, transport, default_sender) VALUES ('work', 'external', 'app@example.test')")
        .unwrap();
    attach(&mut globex.app, "work");
    let read = "SELECT convert_from(f.content, 'UTF8') FROM mail.attachment f JOIN mail.message_attachment a ON a.attachment_id = f.id ORDER BY 1";
    assert_eq!(all::<String>(&mut acme.admin, read, &[]), ["acme", "work"]);
    assert_eq!(
        all::<String>(&mut globex.admin, read, &[]),
        ["globex", "work"]
    );
    assert_eq!(all::<String>(&mut anybody, read, &[]), ["work"]);
    assert_eq!(
        all::<String>(&mut database.connect(), read, &[]),
        ["acme", "globex", "work"]
    );
}

#[test]
fn an_owner_takes_effect_at_commit_and_one_that_does_not_exist_locks_out() {
    let database = database();
    let mut acme = tenant(&database, "acme");
    let mut globex = tenant(&database, "globex");
    let mut admin = root(&database);
    let enqueue = "SELECT mail.enqueue('a@example.test', 'x', 'x', queue => 'acme')";
    acme.app.execute(enqueue, &[]).unwrap();
    let mut give = |owner: &str| {
        admin
            .execute(
                "UPDATE mail.queue SET owner = $1 WHERE name = 'acme'",
                &[&owner],
            )
            .unwrap();
        all::<String>(
            &mut admin,
            "SELECT detail FROM mail.health() WHERE \"check\" = 'owner'",
            &[],
        )
    };
    assert_eq!(
        give(&format!("tenants_{}_globex", database.name())),
        [""; 0]
    );
    assert_eq!(code(acme.app.execute(enqueue, &[])).code(), "42704");
    globex.app.execute(enqueue, &[]).unwrap();
    assert_eq!(
        give("Nobody here"),
        ["queue \"acme\" belongs to a role \"Nobody here\" that does not exist"]
    );
    assert_eq!(code(globex.app.execute(enqueue, &[])).code(), "42704");
    admin.execute(enqueue, &[]).unwrap();
    admin
        .batch_execute("UPDATE mail.queue SET owner = NULL WHERE name = 'acme'")
        .unwrap();
    acme.app.execute(enqueue, &[]).unwrap();
}
