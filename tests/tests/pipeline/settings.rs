//! Databases that are set up unlike others.

use pgmq_mail_tests::{Action, Cluster, Phase, Sink};

use crate::servers::parsed;
use crate::world::{options, shared};
use crate::{SOON, World};

/// What somebody may have set for a whole database.
const SETTINGS: [(&str, &str); 19] = [
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_read_only", "on"),
    ("row_security", "off"),
    ("search_path", "nowhere"),
    ("statement_timeout", "1"),
    ("lock_timeout", "1"),
    ("idle_in_transaction_session_timeout", "1"),
    ("datestyle", "german"),
    ("intervalstyle", "sql_standard"),
    ("timezone", "Asia/Kathmandu"),
    ("standard_conforming_strings", "off"),
    ("bytea_output", "escape"),
    ("client_encoding", "latin1"),
    ("enable_indexscan", "off"),
    ("synchronous_commit", "off"),
    ("plpgsql.variable_conflict", "use_variable"),
    ("check_function_bodies", "off"),
    ("extra_float_digits", "-15"),
    ("role", "mail_reader"),
];

#[test]
fn no_setting_of_a_database_stops_its_mail() {
    let sink = Sink::scripted(|event| match (event.phase, event.address()) {
        (Phase::Rcpt, "gone@example.test") => Action::reply("550 5.1.1 No"),
        _ => Action::Accept,
    });
    for (n, (setting, value)) in SETTINGS.into_iter().enumerate() {
        // In effect for the worker, which connects later, and not for this session.
        let mut world = World::on_with(shared(), |client, name| {
            let statement = format!("ALTER DATABASE \"{name}\" SET {setting} = '{value}'");
            client.batch_execute(&statement).expect("it can be set");
        });
        world.relay("main", &sink.url(), &[]);
        let id = world.put("Zoë <alice@example.test>, gone@example.test", "Grüße", "");
        println!("with {setting} = {value}");
        world.reaches(id, "failed");
        let mails = sink.wait_for(n + 1, SOON);
        assert_eq!(mails.len(), n + 1, "with {setting} = {value}");
        let mail = mails[n].text();
        assert_eq!(
            parsed(&mail).subject(),
            Some("Grüße"),
            "with {setting} = {value}"
        );
        let health = world.health();
        assert_eq!(health.len(), 1, "with {setting} = {value}: {health:?}");
    }
}

#[test]
fn mails_are_enqueued_at_every_isolation_level() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    for level in ["read committed", "repeatable read", "serializable"] {
        world.run(&format!("BEGIN ISOLATION LEVEL {level}"));
        let id = world.put(
            "alice@example.test",
            level,
            ", idempotency_key => now()::text, supersede_key => 'x'",
        );
        world.run("COMMIT");
        world.reaches(id, "sent");
    }
    assert_eq!(sink.count(), 3);
}

#[test]
fn a_database_in_another_encoding_sends_the_same_characters() {
    let sink = Sink::scripted(|event| match event.phase {
        Phase::Dot => Action::reply("250 2.0.0 Größe 🎉 日本"),
        _ => Action::Accept,
    });
    let cluster = Cluster::with(&options());
    for encoding in ["LATIN1", "WIN1252", "EUC_JP", "SQL_ASCII"] {
        let name = encoding.to_lowercase();
        cluster
            .connect("postgres")
            .batch_execute(&format!(
                "CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0"
            ))
            .expect("a database");
        let mut client = cluster.connect(&name);
        if let Err(error) = client.batch_execute("CREATE EXTENSION pgmq_mail") {
            // To refuse it is better than to send other characters.
            let message = error
                .as_db_error()
                .expect("an answer of the server")
                .message();
            assert!(message.contains("encoding"), "{encoding}: {message}");
            continue;
        }
        client
            .batch_execute(&format!(
                "INSERT INTO mail.relay (name, url) VALUES ('main', '{}');
                 UPDATE mail.queue SET transport = 'smtp'",
                sink.url()
            ))
            .expect("it can be set up");
        let (subject, body) = if encoding == "EUC_JP" {
            ("日本語", "本文")
        } else {
            ("Grüße", "schöne Größe")
        };
        let before = sink.count();
        let id: i64 = client
            .query_one(
                "SELECT mail.enqueue('alice@example.test', $1, $2)",
                &[&subject, &body],
            )
            .unwrap_or_else(|error| panic!("{encoding}: {error:?}"))
            .get(0);
        let mails = sink.wait_for(before + 1, SOON);
        let mail = mails[before].text();
        assert_eq!(parsed(&mail).subject(), Some(subject), "{encoding}");
        assert_eq!(
            parsed(&mail).body_text(0).as_deref().map(str::trim_end),
            Some(body),
            "{encoding}"
        );
        pgmq_mail_tests::until("it is recorded as sent", SOON, || {
            let query = "SELECT state = 'sent' AND attempts = 1 AND subject = $2 FROM mail.messages WHERE id = $1";
            client
                .query_one(query, &[&id, &subject])
                .is_ok_and(|row| row.get(0))
        });
    }
}
