//! A new library serves the SQL of a released version until it is updated.

use pgmq_mail_tests::{
    Cluster, ClusterOptions, Sink, Stop, all, code, one, reaches, run_sql, worker_of,
};
use postgres::Client;
use postgres::error::SqlState;

use crate::filled::Filled;
use crate::{findings, released, served, trouble};

#[test]
fn all_its_mail_comes_to_its_end_also_after_a_restart() {
    let mut cluster = Cluster::with(&ClusterOptions::new());
    for version in released(&mut cluster.connect("postgres")) {
        let mut filled = Filled::new(&cluster, &version);
        cluster.restart(Stop::Fast);
        filled.client = cluster.connect(&filled.database);
        worker_of(&mut filled.client);
        filled.comes_to_its_end();
    }
    assert_eq!(
        trouble(&cluster.log(), &["terminating connection"]),
        [""; 0]
    );
}

/// A database with a released version, a queue with a relay, and one for consumers outside.
fn database(cluster: &Cluster, name: &str, version: &str, sink: &Sink) -> Client {
    cluster.create_database(name);
    let mut client = cluster.connect(name);
    run_sql(
        &mut client,
        &format!(
            "CREATE EXTENSION pgmq_mail VERSION '{version}';
             INSERT INTO mail.relay (name, url) VALUES ('sink', '{}');
             INSERT INTO mail.queue (name, transport, default_sender, retry_base) VALUES ('work', 'smtp', 'a@b.test', '50 milliseconds');
             INSERT INTO mail.queue (name, transport) VALUES ('outside', 'external')",
            sink.url()
        ),
    );
    worker_of(&mut client);
    client
}

#[test]
fn a_consumer_outside_claims_and_settles() {
    for (cluster, version) in served() {
        let sink = Sink::start();
        let mut client = database(&cluster, "outside", &version, &sink);
        let settle = |client: &mut Client, settle: &str, state: &str| {
            let put = "SELECT mail.enqueue(message => '{\"any\": 1}', queue => 'outside')";
            let id: i64 = one(client, put, &[]);
            let claim =
                format!("SELECT ({settle})::text FROM mail.claim('outside') c WHERE c.id = $1");
            let result: Option<String> = one(client, &claim, &[&id]);
            reaches(client, id, state);
            result
        };
        let more = [
            ("mail.ack(c.id, c.token, '{\"code\": \"250\"}')", "sent"),
            (
                "SELECT a FROM mail.ack(ARRAY[c.id], ARRAY[c.token]) a",
                "sent",
            ),
            (
                "mail.nack(c.id, c.token, 'no', permanent => true)",
                "failed",
            ),
            (
                "mail.nack(c.id, c.token, 'no', retry_after => '1 hour')",
                "deferred",
            ),
            ("mail.extend(c.id, c.token, '1 hour')", "sending"),
            ("mail.release(c.id, c.token)", "queued"),
        ];
        for (how, state) in more {
            assert!(settle(&mut client, how, state).is_some(), "{how}");
        }
        let purged = "SELECT mail.purge('outside')";
        assert_eq!(one::<i64>(&mut client, purged, &[]), 2);
        assert_eq!(
            one::<i64>(
                &mut client,
                "SELECT mail.retry_dead_letters('outside')",
                &[]
            ),
            1
        );
        assert_eq!(trouble(&cluster.log(), &[]), [""; 0]);
    }
}

#[test]
fn producers_and_administrators_have_what_they_had() {
    for (cluster, version) in served() {
        let roles = "CREATE ROLE one LOGIN; CREATE ROLE other LOGIN; CREATE ROLE admin LOGIN";
        run_sql(&mut cluster.connect("postgres"), roles);
        let sink = Sink::start();
        let mut client = database(&cluster, "served", &version, &sink);
        run_sql(
            &mut client,
            "GRANT mail_sender TO one, other; GRANT mail_admin TO admin",
        );
        let [mut sender, mut other, mut admin] =
            ["one", "other", "admin"].map(|role| cluster.connect_as("served", role));
        let later = "SELECT mail.enqueue('a@b.test', 'x', 'x', queue => 'work', send_at => now() + interval '1 hour')";
        let cancel = "SELECT mail.cancel($1)";
        let id: i64 = one(&mut sender, later, &[]);
        assert_eq!(
            code(other.query(cancel, &[&id])),
            SqlState::INSUFFICIENT_PRIVILEGE
        );
        assert!(one::<bool>(&mut sender, cancel, &[&id]));
        let id: i64 = one(&mut sender, later, &[]);
        assert!(one::<bool>(&mut admin, cancel, &[&id]));
        let own = "SELECT count(*) FROM mail.messages";
        assert_eq!(one::<i64>(&mut sender, own, &[]), 2);
        assert_eq!(one::<i64>(&mut other, own, &[]), 0);
        let batch = "SELECT mail.enqueue_batch(ARRAY['{\"to\": \"a@b.test\", \"text\": \"1\"}', '{\"to\": \"a@b.test\", \"text\": \"2\"}']::jsonb[], queue => 'work')";
        for id in all::<i64>(&mut sender, batch, &[]) {
            reaches(&mut client, id, "sent");
        }
        let preview = "SELECT subject FROM mail.preview(message => '{\"to\": \"a@b.test\", \"subject\": \"s\", \"text\": \"x\"}')";
        assert_eq!(one::<String>(&mut sender, preview, &[]), "s");
        let no_queue = sender.query(
            "SELECT mail.enqueue('a@b.test', 'x', 'x', queue => 'no')",
            &[],
        );
        assert_eq!(code(no_queue), SqlState::UNDEFINED_OBJECT);
        administers(&mut admin);
        pgmq_mail_tests::until("all is well", pgmq_mail_tests::SOON, || {
            findings(&mut client).is_empty()
        });
    }
}

fn administers(admin: &mut Client) {
    run_sql(
        admin,
        "INSERT INTO mail.template (name, subject, text) VALUES ('t', 'first', 'x');
         UPDATE mail.template SET subject = 'second'",
    );
    for (call, expected) in [
        ("mail.pause('work')", "true"),
        ("mail.resume('work')", "true"),
        ("mail.wait_idle('work')", "true"),
        ("mail.rollback_template('t')", "1"),
        ("subject FROM mail.preview('t')", "first"),
        ("mail.activate_template('t', 2)", ""),
        ("count(*) > 3 FROM mail.test_relay('sink')", "true"),
        (
            "text LIKE '250%' FROM mail.test_relay('sink', 'a@b.test') WHERE who = 'relay' AND text LIKE '250%' LIMIT 1",
            "true",
        ),
        ("mail.disarm('a reason')", "1"),
        ("mail.arm()", "1"),
        ("mail.stop_worker()", "true"),
        ("mail.start_worker() IS NOT NULL", "true"),
        (
            "count(*) FROM mail.generate_dkim_key('b.test', 's', 'ed25519')",
            "1",
        ),
    ] {
        let mut rows: Vec<String> = all(
            admin,
            &format!("SELECT (q.r)::text FROM (SELECT {call}) AS q (r)"),
            &[],
        );
        assert_eq!(rows.pop().as_deref(), Some(expected), "{call}");
    }
    // A queue that is renamed, and one that is deleted.
    run_sql(
        admin,
        "UPDATE mail.queue SET name = 'renamed' WHERE name = 'outside'; DELETE FROM mail.queue WHERE name = 'renamed'",
    );
    worker_of(admin);
}

#[test]
fn databases_with_different_versions_are_served_side_by_side() {
    for (cluster, version) in served() {
        let sink = Sink::start();
        let mut old = database(&cluster, "old", &version, &sink);
        let mut updated = database(&cluster, "updated", &version, &sink);
        run_sql(&mut updated, "ALTER EXTENSION pgmq_mail UPDATE");
        let put = "SELECT mail.enqueue('a@b.test', 'x', 'x', queue => 'work')";
        for client in [&mut old, &mut updated] {
            let before = worker_of(client);
            let id: i64 = one(client, put, &[]);
            reaches(client, id, "sent");
            // The next worker connects as its role, in either.
            assert!(one::<bool>(client, "SELECT mail.stop_worker()", &[]));
            pgmq_mail_tests::until("another one comes", pgmq_mail_tests::SOON, || {
                all::<i32>(client, "SELECT pid FROM mail.workers", &[])
                    .first()
                    .is_some_and(|pid| *pid != before)
            });
            let id: i64 = one(client, put, &[]);
            reaches(client, id, "sent");
            let user =
                "SELECT a.usename::text FROM pg_stat_activity a JOIN mail.workers w USING (pid)";
            assert_eq!(one::<String>(client, user, &[]), "mail_worker");
        }
        // What comes later is the version that was asked for.
        database(&cluster, "later", &version, &sink);
        assert_eq!(trouble(&cluster.log(), &[]), [""; 0]);
    }
}
