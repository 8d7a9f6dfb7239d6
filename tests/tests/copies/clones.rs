//! Copies of a server's data directory, as `pg_basebackup` makes them, which by their data are the original.

use pgmq_mail_tests::{Cluster, ClusterOptions, Sink, one, run_sql};
use postgres::Client;

use crate::{health, options, put, reaches, worker_has_looked};

/// A server that delivers to a sink; the queue `waiting` is paused, `kept` captures.
pub fn original(options: &ClusterOptions, sink: &Sink) -> (Cluster, Client) {
    let cluster = Cluster::with(options);
    let mut client = cluster.connect("postgres");
    run_sql(
        &mut client,
        &format!(
            "CREATE EXTENSION pgmq_mail;
             UPDATE mail.queue SET transport = 'smtp', default_sender = 'app@example.test', retry_base = '200 ms', retry_max = '1 s';
             INSERT INTO mail.queue (name, transport, default_sender, paused) VALUES
                 ('kept', 'capture', 'app@example.test', false), ('waiting', 'smtp', 'app@example.test', true);
             INSERT INTO mail.relay (name, url) VALUES ('main', '{}')",
            sink.url()
        ),
    );
    (cluster, client)
}

/// Starts a copy of its data, and lets go there what waits.
pub fn started(original: &Cluster, options: &ClusterOptions) -> (Cluster, Client) {
    let mut clone = Cluster::clone_of(original, options);
    clone.resume();
    let mut client = clone.connect("postgres");
    run_sql(&mut client, "SELECT mail.resume('waiting')");
    (clone, client)
}

#[test]
fn a_clone_with_hold_keeps_its_mail_and_captures() {
    let sink = Sink::start();
    let (cluster, mut client) = original(&options(), &sink);
    let waiting = put(
        &mut client,
        "alice@example.test",
        "waiting",
        ", queue => 'waiting'",
    );
    let hold = options().setting("pgmq_mail.delivery", "hold");
    let (mut clone, mut copy) = started(&cluster, &hold);
    let new = put(&mut copy, "alice@example.test", "new", "");
    worker_has_looked(&mut copy);
    for id in [waiting, new] {
        let state: String = pgmq_mail_tests::state(&mut copy, id);
        assert_eq!(state, "queued");
    }
    assert_eq!(sink.connections(), 0);
    let findings = health(&mut copy);
    assert!(
        findings
            .contains(&"delivery: delivery is \"hold\" in this server's configuration".to_owned()),
        "{findings:?}"
    );
    assert!(
        !findings.iter().any(|finding| finding.starts_with("armed")),
        "its data is the original's: {findings:?}"
    );

    let id = put(&mut client, "alice@example.test", "original", "");
    reaches(&mut client, id, "sent");
    assert_eq!(sink.count(), 1);

    // Whoever wants it to send says so.
    clone.set("pgmq_mail.delivery", "on");
    clone.reload();
    for id in [waiting, new] {
        reaches(&mut copy, id, "sent");
    }
    assert_eq!(sink.count(), 3);
}

/// What the documentation warns of.
#[test]
fn a_clone_without_any_setting_sends() {
    let sink = Sink::start();
    let (cluster, mut client) = original(&options(), &sink);
    let waiting = put(
        &mut client,
        "alice@example.test",
        "waiting",
        ", queue => 'waiting'",
    );
    let (_clone, mut copy) = started(&cluster, &options());
    reaches(&mut copy, waiting, "sent");
    assert_eq!(
        one::<i64>(&mut copy, "SELECT count(*) FROM mail.health()", &[]),
        0
    );
}
