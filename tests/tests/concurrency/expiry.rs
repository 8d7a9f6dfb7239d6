//! `expires_at` ends a message by itself, whatever holds up its queue; but not under the hands of who has it.

use std::sync::OnceLock;

use pgmq_mail_tests::{Cluster, ClusterOptions, Database, all, one, reaches, run_sql, state};
use postgres::Client;

use crate::{put, put_claimed};

/// A server whose workers sweep all the time.
fn sweeping() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        Cluster::with(&ClusterOptions::new().setting("pgmq_mail.sweep_interval", "200ms"))
    })
}

/// A database with queues that go nowhere.
fn stuck() -> (Database<'static>, Client) {
    let database = Database::new(sweeping());
    let mut client = database.connect();
    run_sql(
        &mut client,
        "INSERT INTO mail.queue (name, transport, default_sender, paused)
         VALUES ('paused', 'capture', 'app@example.test', true), ('work', 'external', 'app@example.test', false),
                ('stopped', 'external', 'app@example.test', true), ('lost', 'smtp', 'app@example.test', false)",
    );
    (database, client)
}

/// An argument of enqueue.
fn expiring(queue: &str, after: &str) -> String {
    format!(", queue => '{queue}', expires_at => clock_timestamp() + interval '{after}'")
}

#[test]
fn a_message_whose_queue_goes_nowhere_expires_by_itself() {
    let (_database, mut client) = stuck();
    for queue in ["paused", "work", "stopped", "lost"] {
        let late = put(&mut client, "late", &expiring(queue, "500 milliseconds"));
        let in_time = put(&mut client, "in time", &expiring(queue, "1 hour"));
        let timeless = put(&mut client, "timeless", &format!(", queue => '{queue}'"));
        reaches(&mut client, late, "expired");
        let kinds: Vec<String> = all(
            &mut client,
            "SELECT kind FROM mail.events WHERE message_id = $1",
            &[&late],
        );
        assert_eq!(kinds, ["expired"], "{queue}");
        let states = [in_time, timeless].map(|id| state(&mut client, id));
        assert_eq!(states, ["queued", "queued"], "{queue}");
    }
    assert_eq!(
        one::<i64>(&mut client, "SELECT count(*) FROM mail.captured", &[]),
        0
    );
}

#[test]
fn a_message_that_is_in_flight_does_not_expire() {
    let (_database, mut client) = stuck();
    let more = expiring("work", "1 second").replace(", queue => 'work'", "");
    let (sent, sent_token) = put_claimed(&mut client, "work", "1 minute", &more);
    let (late, late_token) = put_claimed(&mut client, "work", "1 minute", &more);
    // A sweep that ends this one has seen the others.
    let other = put(
        &mut client,
        "other",
        &expiring("paused", "1500 milliseconds"),
    );
    reaches(&mut client, other, "expired");
    let states = [sent, late].map(|id| state(&mut client, id));
    assert_eq!(states, ["sending", "sending"]);
    assert!(one::<bool>(
        &mut client,
        "SELECT mail.ack($1::bigint, $2)",
        &[&sent, &sent_token]
    ));
    assert_eq!(state(&mut client, sent), "sent");
    let answer: String = one(
        &mut client,
        "SELECT mail.nack($1, $2)",
        &[&late, &late_token],
    );
    assert_eq!(answer, "deferred");
    reaches(&mut client, late, "expired");
}

#[test]
fn a_dead_letter_that_is_put_back_too_late_expires() {
    let (_database, mut client) = stuck();
    let more = expiring("work", "1 second").replace(", queue => 'work'", "");
    let (id, token) = put_claimed(&mut client, "work", "1 minute", &more);
    let query = "SELECT mail.nack($1, $2, permanent => true)";
    assert_eq!(one::<String>(&mut client, query, &[&id, &token]), "failed");
    assert!(one::<bool>(&mut client, "SELECT mail.retry($1)", &[&id]));
    reaches(&mut client, id, "expired");
}
