//! What commits or falls due behind the worker's cursor is found at once: one test for each way to get there.

use pgmq_mail_tests::{SOON, all, one, reaches, run_sql, state, until};

use crate::{pass, put, put_claimed, served};

#[test]
fn a_long_transaction_that_enqueued_first_and_commits_last() {
    let (database, mut client) = served();
    let mut slow = database.connect();
    let mut long = slow.transaction().unwrap();
    let early: Vec<i64> = (0..3)
        .map(|n| put(&mut long, &format!("early {n}"), ""))
        .collect();
    run_sql(
        &mut client,
        "SELECT mail.enqueue('a@example.test', 'later ' || n, 'x') FROM generate_series(1, 400) n",
    );
    for n in 0..100 {
        put(&mut client, &format!("later, alone {n}"), "");
    }
    until("the later ones are delivered", SOON, || {
        one(&mut client, "SELECT count(*) = 501 FROM mail.captured", &[])
    });
    long.commit().unwrap();
    for id in early {
        reaches(&mut client, id, "sent");
    }
}

#[test]
fn many_transactions_that_commit_in_another_order_than_they_began() {
    let (database, mut client) = served();
    let ids: Vec<i64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|me: u32| {
                let mut session = database.connect();
                scope.spawn(move || {
                    let mut ids = Vec::new();
                    for n in 0..40 {
                        let mut transaction = session.transaction().unwrap();
                        ids.push(put(&mut transaction, &format!("{me} {n}"), ""));
                        // A made-up order: nothing is waited for here.
                        let pause = (me * 7 + n * 13) % 5;
                        transaction
                            .execute("SELECT pg_sleep($1)", &[&(f64::from(pause) / 1000.0)])
                            .unwrap();
                        if (me + n).is_multiple_of(6) {
                            ids.pop();
                            transaction.rollback().unwrap();
                        } else {
                            transaction.commit().unwrap();
                        }
                    }
                    ids
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    until("all are delivered", SOON, || {
        one(&mut client, "SELECT count(*) = 0 FROM mail.pending", &[])
    });
    let sent: i64 = one(
        &mut client,
        "SELECT count(*) FROM mail.captured WHERE message_id = ANY ($1)",
        &[&ids],
    );
    assert_eq!(sent, ids.len() as i64);
}

#[test]
fn a_higher_priority_that_arrives_later() {
    let (_database, mut client) = served();
    let id = put(&mut client, "x", ", priority => 7");
    reaches(&mut client, id, "sent");
    pass(&mut client, "");
    let id = put(&mut client, "x", ", priority => 7");
    reaches(&mut client, id, "sent");
}

#[test]
fn a_lower_priority_that_arrives_later() {
    let (_database, mut client) = served();
    let id = put(&mut client, "x", ", priority => -7");
    reaches(&mut client, id, "sent");
    pass(&mut client, "");
    let id = put(&mut client, "x", ", priority => -7");
    reaches(&mut client, id, "sent");
}

#[test]
fn an_earlier_time_than_one_that_is_scheduled() {
    let (_database, mut client) = served();
    let later = put(
        &mut client,
        "later",
        ", send_at => clock_timestamp() + interval '2 seconds'",
    );
    let earlier = put(
        &mut client,
        "earlier",
        ", send_at => clock_timestamp() + interval '500 milliseconds'",
    );
    let now = put(
        &mut client,
        "now",
        ", send_at => clock_timestamp() - interval '1 year'",
    );
    reaches(&mut client, now, "sent");
    reaches(&mut client, earlier, "sent");
    assert_eq!(state(&mut client, later), "queued");
    reaches(&mut client, later, "sent");
    let early: bool = one(
        &mut client,
        "SELECT bool_or(c.at < m.send_at) FROM mail.captured c JOIN mail.messages m ON m.id = c.message_id",
        &[],
    );
    assert!(!early, "nothing goes before its time");
}

#[test]
fn a_scheduled_message_that_falls_due_is_sent_on_time() {
    let (_database, mut client) = served();
    let id = put(
        &mut client,
        "x",
        ", send_at => clock_timestamp() + interval '600 milliseconds'",
    );
    pass(&mut client, "");
    reaches(&mut client, id, "sent");
    let late: f64 = one(
        &mut client,
        "SELECT extract(epoch FROM c.at - m.send_at)::float8 FROM mail.captured c JOIN mail.messages m ON m.id = c.message_id
         WHERE m.id = $1",
        &[&id],
    );
    assert!((0.0..2.0).contains(&late), "{late} s late");
}

#[test]
fn a_scheduled_message_whose_transaction_commits_after_its_time() {
    let (database, mut client) = served();
    let mut slow = database.connect();
    let mut long = slow.transaction().unwrap();
    let id = put(
        &mut long,
        "x",
        ", send_at => clock_timestamp() + interval '200 milliseconds'",
    );
    let due: String = one(&mut long, "SELECT due_at::text FROM mail.pending", &[]);
    until("its time is over", SOON, || {
        one(
            &mut client,
            "SELECT clock_timestamp() > $1::text::timestamptz",
            &[&due],
        )
    });
    pass(&mut client, "");
    long.commit().unwrap();
    reaches(&mut client, id, "sent");
}

#[test]
fn a_retry_after_the_nack_of_an_outside_claimer() {
    let (_database, mut client) = served();
    let (id, token) = put_claimed(&mut client, "default", "1 hour", "");
    pass(&mut client, "");
    let answer: String = one(
        &mut client,
        "SELECT mail.nack($1, $2, retry_after => '0')",
        &[&id, &token],
    );
    assert_eq!(answer, "deferred");
    reaches(&mut client, id, "sent");

    let (id, token) = put_claimed(&mut client, "default", "1 hour", "");
    pass(&mut client, "");
    run_sql(
        &mut client,
        &format!("SELECT mail.nack({id}, {token}, retry_after => '400 milliseconds')"),
    );
    pass(&mut client, "");
    reaches(&mut client, id, "sent");
}

#[test]
fn a_dead_letter_that_is_put_back() {
    let (_database, mut client) = served();
    let (id, token) = put_claimed(&mut client, "default", "1 hour", "");
    run_sql(
        &mut client,
        &format!("SELECT mail.nack({id}, {token}, permanent => true)"),
    );
    assert_eq!(state(&mut client, id), "failed");
    pass(&mut client, "");
    assert!(one::<bool>(&mut client, "SELECT mail.retry($1)", &[&id]));
    reaches(&mut client, id, "sent");
}

#[test]
fn many_dead_letters_that_are_put_back() {
    let (_database, mut client) = served();
    let mut ids = Vec::new();
    for n in 0..5 {
        let (id, token) = put_claimed(
            &mut client,
            "default",
            "1 hour",
            &format!(", priority => {n}"),
        );
        run_sql(
            &mut client,
            &format!("SELECT mail.nack({id}, {token}, permanent => true)"),
        );
        ids.push(id);
    }
    pass(&mut client, "");
    assert_eq!(
        one::<i64>(
            &mut client,
            "SELECT mail.retry_dead_letters('default')",
            &[]
        ),
        5
    );
    for id in ids {
        reaches(&mut client, id, "sent");
    }
}

#[test]
fn what_was_enqueued_into_a_paused_queue_goes_when_it_is_resumed() {
    let (_database, mut client) = served();
    run_sql(
        &mut client,
        "INSERT INTO mail.queue (name, transport, default_sender) VALUES ('other', 'capture', 'a@b.test')",
    );
    assert!(one::<bool>(
        &mut client,
        "SELECT mail.pause('default')",
        &[]
    ));
    let ids: Vec<i64> = (0..3)
        .map(|n| put(&mut client, &n.to_string(), &format!(", priority => {n}")))
        .collect();
    pass(&mut client, ", queue => 'other'");
    for id in &ids {
        assert_eq!(state(&mut client, *id), "queued");
    }
    assert!(one::<bool>(
        &mut client,
        "SELECT mail.resume('default')",
        &[]
    ));
    for id in ids {
        reaches(&mut client, id, "sent");
    }
}

#[test]
fn a_queue_that_was_created_a_moment_ago_and_one_that_changed_hands() {
    let (_database, mut client) = served();
    let mut transaction = client.transaction().unwrap();
    run_sql(
        &mut transaction,
        "INSERT INTO mail.queue (name, transport, default_sender) VALUES ('new', 'capture', 'a@b.test')",
    );
    let first = put(
        &mut transaction,
        "in the same transaction",
        ", queue => 'new'",
    );
    transaction.commit().unwrap();
    reaches(&mut client, first, "sent");
    run_sql(
        &mut client,
        "UPDATE mail.queue SET transport = 'external' WHERE name = 'new'",
    );
    pass(&mut client, "");
    let second = put(&mut client, "left alone", ", queue => 'new'");
    pass(&mut client, "");
    assert_eq!(state(&mut client, second), "queued");
    run_sql(
        &mut client,
        "UPDATE mail.queue SET transport = 'capture' WHERE name = 'new'",
    );
    reaches(&mut client, second, "sent");
}

#[test]
fn what_a_batch_enqueues_after_a_rollback_to_a_savepoint() {
    let (_database, mut client) = served();
    let mut transaction = client.transaction().unwrap();
    let mut inner = transaction.savepoint("here").unwrap();
    put(&mut inner, "never", ", priority => 3");
    inner.rollback().unwrap();
    let kept = all::<i64>(
        &mut transaction,
        "SELECT mail.enqueue_batch(ARRAY['{\"to\": [\"a@b.test\"], \"subject\": \"kept\"}']::jsonb[], priority => 4)",
        &[],
    );
    transaction.commit().unwrap();
    reaches(&mut client, kept[0], "sent");
    assert_eq!(
        one::<i64>(
            &mut client,
            "SELECT count(*) FROM mail.messages WHERE subject = 'never'",
            &[]
        ),
        0
    );
}
