//! `NOTIFY mail_queue`.

use std::time::Duration;

use pgmq_mail_tests::{Database, SOON, run_sql};
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator as _;

use crate::{external, pass, put, served};

/// The payloads that arrive up to a notification that the test sends behind them.
#[track_caller]
fn heard(listener: &mut Client, database: &Database<'_>) -> Vec<String> {
    run_sql(&mut database.connect(), "NOTIFY mail_queue, 'that is all'");
    let mut payloads = Vec::new();
    let mut notifications = listener.notifications();
    let mut iterator = notifications.timeout_iter(SOON);
    loop {
        let next = iterator
            .next()
            .expect("the connection lives")
            .expect("the last one arrives");
        assert_eq!(next.channel(), "mail_queue");
        if next.payload() == "that is all" {
            return payloads;
        }
        payloads.push(next.payload().to_owned());
    }
}

fn listener(database: &Database<'_>) -> Client {
    let mut client = database.connect();
    run_sql(&mut client, "LISTEN mail_queue");
    client
}

#[test]
fn listeners_are_told_once_per_transaction_and_queue() {
    let (database, mut client) = external();
    run_sql(
        &mut client,
        "INSERT INTO mail.queue (name, transport, default_sender) VALUES ('more', 'external', 'a@b.test')",
    );
    let mut listener = listener(&database);
    let mut transaction = client.transaction().unwrap();
    for n in 0..5 {
        put(&mut transaction, &n.to_string(), ", queue => 'work'");
        put(&mut transaction, &n.to_string(), ", queue => 'more'");
    }
    transaction.commit().unwrap();
    let mut payloads = heard(&mut listener, &database);
    payloads.sort_unstable();
    assert_eq!(payloads, ["more", "work"]);
    put(&mut client, "x", ", queue => 'work'");
    put(&mut client, "x", ", queue => 'work'");
    assert_eq!(heard(&mut listener, &database), ["work", "work"]);
}

#[test]
fn a_rollback_tells_nobody_anything() {
    let (database, mut client) = external();
    let mut listener = listener(&database);
    let mut transaction = client.transaction().unwrap();
    put(&mut transaction, "x", ", queue => 'work'");
    transaction.rollback().unwrap();
    assert_eq!(heard(&mut listener, &database), [""; 0]);
}

#[test]
fn queues_of_the_worker_are_silent_unless_they_are_told_to_speak() {
    let (database, mut client) = served();
    let mut listener = listener(&database);
    pass(&mut client, "");
    assert_eq!(heard(&mut listener, &database), [""; 0]);
    run_sql(
        &mut client,
        "UPDATE mail.queue SET notify = true WHERE name = 'default'",
    );
    put(&mut client, "x", "");
    assert_eq!(heard(&mut listener, &database), ["default"]);
}

#[test]
fn an_external_queue_can_be_silenced_for_sessions_that_knew_it_before() {
    let (database, mut client) = external();
    let mut listener = listener(&database);
    put(&mut client, "x", ", queue => 'work'");
    run_sql(
        &mut database.connect(),
        "UPDATE mail.queue SET notify = false WHERE name = 'work'",
    );
    put(&mut client, "x", ", queue => 'work'");
    assert_eq!(heard(&mut listener, &database), ["work"]);
}

#[test]
fn listeners_are_told_of_what_comes_back() {
    let (database, mut client) = external();
    let (id, token) = crate::put_claimed(&mut client, "work", "1 hour", "");
    let mut listener = listener(&database);
    run_sql(&mut client, &format!("SELECT mail.release({id}, {token})"));
    assert_eq!(heard(&mut listener, &database), ["work"]);
    let short = "SELECT mail.claim('work', lease => '100 milliseconds')";
    run_sql(&mut client, short);
    // The worker ends the lease, and with it comes the notification.
    let mut notifications = listener.notifications();
    let next = notifications
        .timeout_iter(Duration::from_secs(4))
        .next()
        .unwrap();
    assert_eq!(next.expect("somebody says so").payload(), "work");
}
