//! Many priorities at once.

use pgmq_mail_tests::{SOON, all, one, run_sql, until};

use crate::{pass, put, served};

#[test]
fn more_priorities_than_there_are_places_to_publish_them() {
    let (_database, mut client) = served();
    for _ in 0..2 {
        for priority in -50..50 {
            put(&mut client, "x", &format!(", priority => {priority}"));
        }
    }
    run_sql(
        &mut client,
        "SELECT mail.enqueue('a@example.test', 'x', 'x', priority => n) FROM generate_series(-100, 100) n",
    );
    until("all are sent", SOON, || {
        one(&mut client, "SELECT count(*) = 0 FROM mail.pending", &[])
    });
    // And with every place taken, one more.
    let id = put(&mut client, "x", ", priority => 12345");
    pgmq_mail_tests::reaches(&mut client, id, "sent");
    let id = put(
        &mut client,
        "x",
        ", priority => 777, send_at => clock_timestamp() + interval '300 milliseconds'",
    );
    pgmq_mail_tests::reaches(&mut client, id, "sent");
}

#[test]
fn what_waits_is_delivered_by_priority_and_then_by_age() {
    let (_database, mut client) = served();
    run_sql(
        &mut client,
        "UPDATE mail.queue SET concurrency = 1 WHERE name = 'default'",
    );
    pass(&mut client, "");
    let mut transaction = client.transaction().unwrap();
    for priority in [0, 5, -5, 5, 0, 9] {
        put(
            &mut transaction,
            &format!("p{priority}"),
            &format!(", priority => {priority}"),
        );
    }
    transaction.commit().unwrap();
    until("all are sent", SOON, || {
        one(&mut client, "SELECT count(*) = 0 FROM mail.pending", &[])
    });
    let order: Vec<String> = all(
        &mut client,
        "SELECT subject FROM mail.captured WHERE subject LIKE 'p_' OR subject LIKE 'p-_' ORDER BY id",
        &[],
    );
    assert_eq!(order, ["p9", "p5", "p5", "p0", "p0", "p-5"]);
}
