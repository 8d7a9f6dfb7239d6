//! `idempotency_key` and `supersede_key` between two transactions at once.

use std::thread::JoinHandle;

use pgmq_mail_tests::{Database, blocks, one, pid, run_sql, state};

use crate::{external, put, put_claimed};

/// Enqueues in a session of its own, which must wait for another transaction.
fn waiting_enqueue(
    database: &Database<'_>,
    subject: &'static str,
    more: &'static str,
) -> JoinHandle<i64> {
    let mut client = database.connect();
    let process = pid(&mut client);
    let thread = std::thread::spawn(move || put(&mut client, subject, more));
    blocks(&mut database.connect(), process);
    thread
}

const ONCE: &str = ", queue => 'work', idempotency_key => 'k'";
const LATEST: &str = ", queue => 'work', supersede_key => 'k'";

#[test]
fn an_idempotency_key_waits_for_the_transaction_that_has_it_and_gives_its_id() {
    let (database, mut client) = external();
    let mut first = client.transaction().unwrap();
    let id = put(&mut first, "first", ONCE);
    let second = waiting_enqueue(&database, "second", ONCE);
    first.commit().unwrap();
    assert_eq!(second.join().unwrap(), id);
    assert_eq!(
        one::<i64>(
            &mut client,
            "SELECT count(*) FROM mail.messages WHERE queue = 'work'",
            &[]
        ),
        1
    );
}

#[test]
fn an_idempotency_key_is_free_when_the_transaction_that_had_it_rolls_back() {
    let (database, mut client) = external();
    let mut first = client.transaction().unwrap();
    let id = put(&mut first, "first", ONCE);
    let second = waiting_enqueue(&database, "second", ONCE);
    first.rollback().unwrap();
    assert_ne!(second.join().unwrap(), id);
    let subjects: Vec<String> = pgmq_mail_tests::all(
        &mut client,
        "SELECT subject FROM mail.messages WHERE queue = 'work'",
        &[],
    );
    assert_eq!(subjects, ["second"]);
}

#[test]
fn other_keys_wait_for_nobody() {
    let (database, mut client) = external();
    let mut first = client.transaction().unwrap();
    put(&mut first, "first", ONCE);
    put(&mut first, "first", LATEST);
    let mut other = database.connect();
    run_sql(&mut other, "SET lock_timeout = '2s'");
    put(
        &mut other,
        "other",
        ", queue => 'work', idempotency_key => 'k2'",
    );
    put(
        &mut other,
        "other",
        ", queue => 'work', supersede_key => 'k2'",
    );
    put(
        &mut other,
        "other",
        ", idempotency_key => 'k', supersede_key => 'k'",
    );
    first.commit().unwrap();
}

#[test]
fn of_two_superseding_transactions_the_later_one_wins() {
    let (database, mut client) = external();
    let oldest = put(&mut client, "oldest", LATEST);
    let mut first = client.transaction().unwrap();
    let old = put(&mut first, "old", LATEST);
    let new = waiting_enqueue(&database, "new", LATEST);
    first.commit().unwrap();
    let new = new.join().unwrap();
    let states = [oldest, old, new].map(|id| state(&mut client, id));
    assert_eq!(states, ["cancelled", "cancelled", "queued"]);
}

#[test]
fn a_superseding_transaction_that_rolls_back_leaves_what_was_there_to_the_next() {
    let (database, mut client) = external();
    let oldest = put(&mut client, "oldest", LATEST);
    let mut first = client.transaction().unwrap();
    put(&mut first, "gone", LATEST);
    let new = waiting_enqueue(&database, "new", LATEST);
    first.rollback().unwrap();
    let new = new.join().unwrap();
    let text: String = one(
        &mut client,
        "SELECT text FROM mail.events WHERE message_id = $1 AND kind = 'cancelled'",
        &[&oldest],
    );
    assert_eq!(text, format!("superseded by message {new}"));
    assert_eq!(
        one::<i64>(
            &mut client,
            "SELECT count(*) FROM mail.messages WHERE queue = 'work'",
            &[]
        ),
        2
    );
}

#[test]
fn a_message_in_flight_is_not_superseded() {
    let (_database, mut client) = external();
    let (old, token) = put_claimed(&mut client, "work", "1 minute", ", supersede_key => 'k'");
    let new = put(&mut client, "new", LATEST);
    assert_eq!(
        [old, new].map(|id| state(&mut client, id)),
        ["sending", "queued"]
    );
    assert!(one::<bool>(
        &mut client,
        "SELECT mail.ack($1::bigint, $2)",
        &[&old, &token]
    ));
    assert_eq!(
        one::<i64>(&mut client, "SELECT id FROM mail.claim('work')", &[]),
        new
    );
}

#[test]
fn a_superseding_enqueue_waits_for_a_claim_and_leaves_what_it_took() {
    let (database, mut client) = external();
    let old = put(&mut client, "old", LATEST);
    let mut claim = client.transaction().unwrap();
    assert_eq!(
        one::<i64>(&mut claim, "SELECT id FROM mail.claim('work')", &[]),
        old
    );
    let new = waiting_enqueue(&database, "new", LATEST);
    claim.commit().unwrap();
    let new = new.join().unwrap();
    assert_eq!(
        [old, new].map(|id| state(&mut client, id)),
        ["sending", "queued"]
    );
}
