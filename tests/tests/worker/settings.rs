//! Configuration in effect at reload and at commit.

use pgmq_mail_tests::{Cluster, Sink, database, one, reaches, run_sql, state};

use crate::{delivering, findings, put};

/// A message of the capture queue has gone, so the worker has looked.
#[track_caller]
fn pass(client: &mut postgres::Client) {
    let id = put(client, "pass", "");
    reaches(client, id, "sent");
}

#[test]
fn delivery_can_be_held_and_let_go_by_a_reload() {
    let sink = Sink::start();
    let mut cluster = Cluster::start();
    let mut client = cluster.connect("postgres");
    run_sql(&mut client, "CREATE EXTENSION pgmq_mail");
    delivering(&mut client, &sink);
    let id = put(&mut client, "x", ", queue => 'out'");
    reaches(&mut client, id, "sent");
    for round in 0..2 {
        cluster.set("pgmq_mail.delivery", "hold");
        cluster.reload();
        pgmq_mail_tests::until("the reload arrives", pgmq_mail_tests::SOON, || {
            findings(&mut client).contains(&"delivery".to_owned())
        });
        pass(&mut client);
        let id = put(&mut client, "held", ", queue => 'out'");
        pass(&mut client);
        assert_eq!(state(&mut client, id), "queued");
        assert_eq!(sink.count(), round + 1);
        cluster.set("pgmq_mail.delivery", "on");
        cluster.reload();
        reaches(&mut client, id, "sent");
        // This session reads the new setting when it comes to it.
        pgmq_mail_tests::until("all is well", pgmq_mail_tests::SOON, || {
            findings(&mut client).is_empty()
        });
    }
}

#[test]
fn a_new_relay_is_used_from_its_commit_on() {
    let sink = Sink::start();
    let database = database();
    let mut client = database.connect();
    run_sql(
        &mut client,
        "INSERT INTO mail.queue (name, transport, default_sender) VALUES ('out', 'smtp', 'a@b.test')",
    );
    let id = put(&mut client, "x", ", queue => 'out'");
    pass(&mut client);
    assert_eq!(state(&mut client, id), "queued");
    assert!(findings(&mut client).contains(&"relays".to_owned()));
    let mut other = database.connect();
    let mut transaction = other.transaction().unwrap();
    run_sql(
        &mut transaction,
        &format!(
            "INSERT INTO mail.relay (name, url) VALUES ('sink', '{}')",
            sink.url()
        ),
    );
    pass(&mut client);
    assert_eq!(sink.connections(), 0);
    transaction.commit().unwrap();
    reaches(&mut client, id, "sent");
}

#[test]
fn a_relay_that_moved_or_was_switched_off_is_left() {
    let (old, new) = (Sink::start(), Sink::start());
    let database = database();
    let mut client = database.connect();
    delivering(&mut client, &old);
    let id = put(&mut client, "x", ", queue => 'out'");
    reaches(&mut client, id, "sent");
    run_sql(
        &mut client,
        &format!("UPDATE mail.relay SET url = '{}'", new.url()),
    );
    pass(&mut client);
    let id = put(&mut client, "x", ", queue => 'out'");
    reaches(&mut client, id, "sent");
    assert_eq!((old.count(), new.count()), (1, 1));
    run_sql(&mut client, "UPDATE mail.relay SET enabled = false");
    pass(&mut client);
    let id = put(&mut client, "x", ", queue => 'out'");
    pass(&mut client);
    assert_eq!(state(&mut client, id), "queued");
    run_sql(&mut client, "UPDATE mail.relay SET enabled = true");
    reaches(&mut client, id, "sent");
    assert_eq!((old.count(), new.count()), (1, 2));
}

#[test]
fn disarmed_relays_deliver_nothing_until_they_are_armed() {
    let sink = Sink::start();
    let database = database();
    let mut client = database.connect();
    delivering(&mut client, &sink);
    assert_eq!(
        one::<i64>(&mut client, "SELECT mail.disarm('a drill')", &[]),
        1
    );
    pass(&mut client);
    let id = put(&mut client, "x", ", queue => 'out'");
    pass(&mut client);
    assert_eq!(state(&mut client, id), "queued");
    assert_eq!(sink.count(), 0);
    let detail: String = one(
        &mut client,
        "SELECT detail FROM mail.health() WHERE \"check\" = 'armed'",
        &[],
    );
    assert!(detail.contains("a drill"), "{detail}");
    assert_eq!(one::<i64>(&mut client, "SELECT mail.arm()", &[]), 1);
    reaches(&mut client, id, "sent");
}

#[test]
fn a_pause_takes_effect_at_its_commit_and_not_before() {
    let database = database();
    let mut client = database.connect();
    run_sql(
        &mut client,
        "INSERT INTO mail.queue (name, transport, default_sender) VALUES ('other', 'capture', 'a@b.test')",
    );
    let mut admin = database.connect();
    let mut transaction = admin.transaction().unwrap();
    run_sql(&mut transaction, "SELECT mail.pause('other')");
    let id = put(&mut client, "x", ", queue => 'other'");
    reaches(&mut client, id, "sent");
    transaction.commit().unwrap();
    pass(&mut client);
    let id = put(&mut client, "x", ", queue => 'other'");
    pass(&mut client);
    assert_eq!(state(&mut client, id), "queued");
    assert!(findings(&mut client).contains(&"paused".to_owned()));
    run_sql(&mut admin, "SELECT mail.resume('other')");
    reaches(&mut client, id, "sent");
}
