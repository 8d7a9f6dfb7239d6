//! What is not sent: by a standby nothing, by a primary nothing that its standby does not have.

use pgmq_mail_tests::{
    Cluster, SOON, Sink, Stop, all, code, one, reaches, run_sql, until, worker_of,
};
use postgres::Client;
use postgres::error::SqlState;

use crate::orders::open_shop;
use crate::pair::{Pair, options, waits};

/// A standby has no process that could deliver, and finds nothing wrong with that.
pub fn assert_silent(client: &mut Client) {
    assert!(one::<bool>(client, "SELECT pg_is_in_recovery()", &[]));
    let processes: i64 = one(
        client,
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pgmq_mail%'",
        &[],
    );
    assert_eq!(processes, 0);
    let workers: i64 = one(client, "SELECT count(*) FROM mail.workers", &[]);
    assert_eq!(workers, 0);
    let findings: i64 = one(
        client,
        "SELECT count(*) FROM mail.health() WHERE \"check\" = 'worker'",
        &[],
    );
    assert_eq!(findings, 0);
}

fn put(client: &mut Client) -> i64 {
    one(
        client,
        "SELECT mail.enqueue('a@example.test', '1', 'x', queue => 'out')",
        &[],
    )
}

#[test]
fn a_standby_delivers_nothing_whether_its_primary_runs_or_not() {
    let sink = Sink::start();
    let mut primary = Cluster::with(&options().setting("pgmq_mail.delivery", "hold"));
    let mut client = primary.connect("postgres");
    open_shop(&mut client, &sink, "retry");
    run_sql(
        &mut client,
        "INSERT INTO mail.template (name, subject, text) VALUES ('welcome', 'Welcome, {{ name }}', 'x')",
    );
    let mut standby = primary.standby(&options());
    standby.resume();
    let id = put(&mut client);
    drop(client);
    primary.stop(Stop::Fast);

    let mut client = standby.connect("postgres");
    until("the standby has it", SOON, || {
        one(
            &mut client,
            "SELECT EXISTS (SELECT FROM mail.pending WHERE id = $1 AND due_at <= now())",
            &[&id],
        )
    });
    assert_silent(&mut client);
    for statement in [
        "SELECT mail.start_worker()",
        "SELECT mail.cancel(1)",
        "SELECT mail.enqueue('a@example.test', '1', 'x')",
        "SELECT mail.claim('out')",
    ] {
        assert_eq!(
            code(client.simple_query(statement)),
            SqlState::READ_ONLY_SQL_TRANSACTION,
            "{statement}"
        );
    }
    assert!(!one::<bool>(&mut client, "SELECT mail.stop_worker()", &[]));
    // What only looks works.
    let subject: String = one(
        &mut client,
        "SELECT subject FROM mail.preview('welcome', '{\"name\": \"Eve\"}')",
        &[],
    );
    assert_eq!(subject, "Welcome, Eve");
    // The standby is started anew, without anybody to follow.
    drop(client);
    standby.restart(Stop::Fast);
    assert_silent(&mut standby.connect("postgres"));
    assert_eq!(sink.connections(), 0);

    standby.promote();
    let mut client = standby.connect("postgres");
    worker_of(&mut client);
    reaches(&mut client, id, "sent");
    assert_eq!(sink.count(), 1);
}

#[test]
fn what_only_the_primary_has_is_not_sent_whatever_synchronous_commit_says() {
    let sink = Sink::start();
    let mut pair = Pair::start(&sink, "retry");
    // The worker of a server that has been set up like this from its start.
    pair.primary.set("synchronous_commit", "local");
    pair.primary.restart(Stop::Fast);
    let mut client = pair.primary.connect("postgres");
    worker_of(&mut client);
    pair.standby.stop(Stop::Fast);
    // COMMIT is answered at once, and the worker finds the message.
    let id = put(&mut client);
    until("the worker waits for the standby", SOON, || {
        waits(&mut client, "pgmq_mail worker")
    });
    assert_eq!(sink.connections(), 0);
    let findings = "SELECT detail FROM mail.health() WHERE \"check\" = 'standby'";
    assert_eq!(
        all::<String>(&mut client, findings, &[]),
        ["commits wait for 1 synchronous standby, and none is there: no mail goes out"]
    );
    pair.standby.resume();
    reaches(&mut client, id, "sent");
    assert_eq!(all::<String>(&mut client, findings, &[]), [""; 0]);
    assert_eq!(sink.count(), 1);
}

#[test]
fn a_primary_whose_standby_is_missing_can_be_stopped() {
    let sink = Sink::start();
    let mut pair = Pair::start(&sink, "retry");
    pair.standby.stop(Stop::Fast);
    let mut client = pair.primary.connect("postgres");
    run_sql(&mut client, "SET synchronous_commit = local");
    let id = put(&mut client);
    until("the worker waits for the standby", SOON, || {
        waits(&mut client, "pgmq_mail worker")
    });
    drop(client);
    pair.primary.restart(Stop::Fast);
    pair.standby.resume();
    let mut client = pair.primary.connect("postgres");
    reaches(&mut client, id, "sent");
}
