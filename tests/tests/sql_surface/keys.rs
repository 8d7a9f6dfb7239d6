//! `idempotency_key`, `ordering_key`, `supersede_key`, `priority`, `send_at` and `expires_at`.

use std::time::{Duration, Instant};

use pgmq_mail_tests::{database, until};

use crate::{SOON, all, claimed, messages, one, put, state, take, work};

#[test]
fn the_same_idempotency_key_gives_the_first_id_and_adds_nothing() {
    let database = database();
    let mut client = work(&database);
    let first = put(&mut client, "first", ", idempotency_key => 'k'");
    assert_eq!(
        put(&mut client, "second", ", idempotency_key => 'k'"),
        first
    );
    assert_ne!(
        put(&mut client, "third", ", idempotency_key => 'other'"),
        first
    );
    client
        .batch_execute("INSERT INTO mail.queue (name, transport) VALUES ('work2', 'external')")
        .unwrap();
    let elsewhere: i64 = one(
        &mut client,
        "SELECT mail.enqueue('a@example.test', 'x', 'x', sender => 'a@example.test',
                             queue => 'work2', idempotency_key => 'k')",
        &[],
    );
    assert_ne!(elsewhere, first);
    assert_eq!(messages(&mut client), 3);
    // Even after it was sent.
    let (id, token) = take(&mut client, "1 minute").unwrap();
    let _: bool = one(
        &mut client,
        "SELECT mail.ack($1::bigint, $2)",
        &[&id, &token],
    );
    assert_eq!(
        put(&mut client, "fourth", ", idempotency_key => 'k'"),
        first
    );
}

#[test]
fn an_idempotency_key_is_forgotten_after_its_window_and_with_a_rollback() {
    let database = database();
    let mut client = work(&database);
    client
        .batch_execute(
            "UPDATE mail.queue SET idempotency_window = '200 milliseconds' WHERE name = 'work'",
        )
        .unwrap();
    let mut transaction = client.transaction().unwrap();
    let enqueue =
        "SELECT mail.enqueue('a@example.test', 'x', 'x', queue => 'work', idempotency_key => 'k')";
    let gone: i64 = transaction.query_one(enqueue, &[]).unwrap().get(0);
    transaction.rollback().unwrap();
    let first: i64 = one(&mut client, enqueue, &[]);
    assert_ne!(first, gone);
    until("the window ends", SOON, || {
        one::<i64>(&mut client, enqueue, &[]) != first
    });
}

#[test]
fn sessions_that_use_one_idempotency_key_at_once_enqueue_one_mail() {
    let database = database();
    work(&database);
    let ids: Vec<i64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| put(&mut database.connect(), "once", ", idempotency_key => 'k'"))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(messages(&mut database.connect()), 1);
}

#[test]
fn higher_priority_goes_first_and_equals_go_in_order() {
    let database = database();
    let mut client = work(&database);
    put(&mut client, "low", ", priority => -5");
    put(&mut client, "normal one", "");
    put(&mut client, "high", ", priority => 7");
    put(&mut client, "normal two", "");
    assert_eq!(claimed(&mut client, 2), ["high", "normal one"]);
    put(&mut client, "late but urgent", ", priority => 9");
    assert_eq!(
        claimed(&mut client, 10),
        ["late but urgent", "normal two", "low"]
    );
}

#[test]
fn an_ordering_key_goes_one_at_a_time_in_enqueue_order_and_others_pass_it() {
    let database = database();
    let mut client = work(&database);
    put(&mut client, "a1", ", ordering_key => 'a'");
    put(&mut client, "a2", ", ordering_key => 'a'");
    put(&mut client, "b1", ", ordering_key => 'b'");
    put(&mut client, "free", "");
    put(&mut client, "a3", ", ordering_key => 'a', priority => 50");
    let row = client
        .query(
            "SELECT id, token, message ->> 'subject' FROM mail.claim('work', batch => 10)",
            &[],
        )
        .unwrap();
    let subjects: Vec<String> = row.iter().map(|row| row.get(2)).collect();
    assert_eq!(subjects, ["a1", "b1", "free"]);
    assert_eq!(claimed(&mut client, 10), [""; 0], "a2 waits for a1");

    // A deferred message still holds up those behind it: the order is strict.
    let (id, token): (i64, i64) = (row[0].get(0), row[0].get(1));
    let state: String = one(
        &mut client,
        "SELECT mail.nack($1, $2, 'later', retry_after => '1 hour')",
        &[&id, &token],
    );
    assert_eq!(state, "deferred");
    assert_eq!(
        claimed(&mut client, 10),
        [""; 0],
        "a2 waits for the retry of a1"
    );
    assert!(one::<bool>(&mut client, "SELECT mail.cancel($1)", &[&id]));
    assert_eq!(claimed(&mut client, 10), ["a2"]);
}

#[test]
fn a_supersede_key_cancels_what_was_not_sent_yet_and_leaves_what_was() {
    let database = database();
    let mut client = work(&database);
    let sent = put(&mut client, "sent", ", supersede_key => 'k'");
    let (id, token) = take(&mut client, "1 minute").unwrap();
    assert!(one::<bool>(
        &mut client,
        "SELECT mail.ack($1::bigint, $2)",
        &[&id, &token]
    ));
    let old = put(&mut client, "old", ", supersede_key => 'k'");
    let unrelated = put(&mut client, "unrelated", ", supersede_key => 'other'");
    let new = put(&mut client, "new", ", supersede_key => 'k'");
    assert_eq!(state(&mut client, sent), "sent");
    assert_eq!(state(&mut client, old), "cancelled");
    assert_eq!(state(&mut client, unrelated), "queued");
    assert_eq!(state(&mut client, new), "queued");
    assert_eq!(claimed(&mut client, 10), ["unrelated", "new"]);
}

#[test]
fn a_mail_for_later_is_claimable_on_time_and_not_before() {
    let database = database();
    let mut client = work(&database);
    let id = put(
        &mut client,
        "later",
        ", send_at => clock_timestamp() + interval '400 milliseconds'",
    );
    assert_eq!(state(&mut client, id), "queued");
    assert_eq!(claimed(&mut client, 10), [""; 0]);
    let late: f64 = one(
        &mut client,
        "SELECT extract(epoch FROM clock_timestamp() - send_at)::float8 FROM mail.messages
         WHERE id = (SELECT id FROM mail.claim('work', wait => '10 seconds'))",
        &[],
    );
    assert!(
        (0.0..2.0).contains(&late),
        "it was claimed {late} s after it was due"
    );
}

#[test]
fn an_expired_mail_is_never_claimed() {
    let database = database();
    let mut client = work(&database);
    let id = put(
        &mut client,
        "too late",
        ", expires_at => clock_timestamp() + interval '50 milliseconds'",
    );
    until("it expires", SOON, || {
        one(
            &mut client,
            "SELECT expires_at < clock_timestamp() FROM mail.messages",
            &[],
        )
    });
    assert_eq!(claimed(&mut client, 10), [""; 0]);
    until("its state says so", SOON, || {
        claimed(&mut client, 1);
        state(&mut client, id) == "expired"
    });
    let kinds: Vec<String> = all(
        &mut client,
        "SELECT kind FROM mail.events WHERE message_id = $1",
        &[&id],
    );
    assert_eq!(kinds, ["expired"]);
}

#[test]
fn transactions_that_commit_out_of_order_lose_nothing() {
    let database = database();
    work(&database);
    let mut early = database.connect();
    let mut late = database.connect();
    let mut claimer = database.connect();
    let mut first = early.transaction().unwrap();
    let enqueue = "SELECT mail.enqueue('a@example.test', $1, 'x', queue => 'work')";
    first.execute(enqueue, &[&"began first"]).unwrap();
    late.execute(enqueue, &[&"committed first"]).unwrap();
    assert_eq!(claimed(&mut claimer, 10), ["committed first"]);
    let begin = Instant::now();
    first.commit().unwrap();
    assert_eq!(claimed(&mut claimer, 10), ["began first"]);
    assert!(begin.elapsed() < Duration::from_secs(5));
}
