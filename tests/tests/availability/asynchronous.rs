//! What a failover loses when commits do not wait for the standby.

use pgmq_mail_tests::{Cluster, SOON, Sink, Stop, all, one, reaches, run_sql, until, worker_of};
use postgres::Client;

use crate::orders::open_shop;
use crate::pair::options;

fn put(client: &mut Client, subject: &str) -> i64 {
    one(
        client,
        "SELECT mail.enqueue('a@example.test', $1, 'x', queue => 'out')",
        &[&subject],
    )
}

#[test]
fn without_synchronous_replication_a_record_that_is_lost_means_a_second_copy() {
    let sink = Sink::start();
    let mut primary = Cluster::with(&options());
    let mut client = primary.connect("postgres");
    open_shop(&mut client, &sink, "retry");
    let mut standby = primary.standby(&options());
    standby.resume();
    run_sql(&mut client, "SELECT mail.pause('out')");
    let known = put(&mut client, "known");
    let mut reader = standby.connect("postgres");
    until("the standby has it", SOON, || {
        one(
            &mut reader,
            "SELECT EXISTS (SELECT FROM mail.pending WHERE id = $1)",
            &[&known],
        )
    });
    drop(reader);
    standby.stop(Stop::Fast);
    run_sql(&mut client, "SELECT mail.resume('out')");
    reaches(&mut client, known, "sent");
    let unknown = put(&mut client, "unknown");
    reaches(&mut client, unknown, "sent");
    drop(client);
    primary.stop(Stop::Crash);

    standby.resume();
    standby.promote();
    let mut client = standby.connect("postgres");
    worker_of(&mut client);
    run_sql(&mut client, "SELECT mail.resume('out')");
    reaches(&mut client, known, "sent");
    let ids: Vec<i64> = all(&mut client, "SELECT id FROM mail.messages", &[]);
    assert_eq!(ids, [known], "the other one has no record");
    let mut names: Vec<String> = Vec::new();
    for mail in sink.mails() {
        if mail.header("Subject").as_deref() == Some("known") {
            names.push(mail.header("Message-ID").expect("it is fixed at enqueue"));
        }
    }
    assert_eq!(names.len(), 2);
    assert_eq!(names[0], names[1]);
    assert_eq!(sink.count(), 3);
}
