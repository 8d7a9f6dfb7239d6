//! Transactions that keep an older snapshot: what another session did since then is respected, or the call says that it
//! cannot.

use pgmq_mail_tests::{Database, code, one, run_sql, state};
use postgres::{Client, IsolationLevel, Transaction};

use crate::{external, put, put_claimed};

const LEVELS: [IsolationLevel; 2] = [IsolationLevel::RepeatableRead, IsolationLevel::Serializable];
const CANCEL: &str = "SELECT mail.cancel($1)";
const LATEST: &str = ", queue => 'work', supersede_key => 'k'";
const SUPERSEDE: &str =
    "SELECT mail.enqueue('a@example.test', 'new', 'x', queue => 'work', supersede_key => 'k')";

/// A transaction with a snapshot of now.
#[track_caller]
fn snapshot(client: &mut Client, level: IsolationLevel) -> Transaction<'_> {
    let mut transaction = client
        .build_transaction()
        .isolation_level(level)
        .start()
        .expect("a transaction");
    one::<i64>(&mut transaction, "SELECT count(*) FROM mail.messages", &[]);
    transaction
}

/// Claims the only message of `work` in a session of its own.
#[track_caller]
fn claim(database: &Database<'_>) -> (Client, i64, i64) {
    let mut client = database.connect();
    let row = client
        .query_one("SELECT id, token FROM mail.claim('work')", &[])
        .expect("a message");
    let (id, token) = (row.get(0), row.get(1));
    (client, id, token)
}

#[track_caller]
fn ack(client: &mut Client, id: i64, token: i64) -> bool {
    one(client, "SELECT mail.ack($1::bigint, $2)", &[&id, &token])
}

#[track_caller]
fn nack(client: &mut Client, id: i64, token: i64) -> String {
    one(
        client,
        "SELECT mail.nack($1, $2, retry_after => '0')",
        &[&id, &token],
    )
}

#[test]
fn a_cancel_with_an_older_snapshot_is_false_for_what_was_claimed_since() {
    let (database, mut client) = external();
    for level in LEVELS {
        let id = put(&mut client, "x", ", queue => 'work'");
        let mut old = snapshot(&mut client, level);
        let (mut holder, claimed, token) = claim(&database);
        assert_eq!(claimed, id);
        assert!(!one::<bool>(&mut old, CANCEL, &[&id]), "{level:?}");
        old.commit().unwrap();
        assert_eq!(state(&mut client, id), "sending");
        assert!(ack(&mut holder, id, token), "{level:?}");
        assert_eq!(state(&mut client, id), "sent");
    }
}

#[test]
fn a_cancel_with_an_older_snapshot_does_not_decide_about_what_was_tried_since() {
    let (database, mut client) = external();
    for level in LEVELS {
        let id = put(&mut client, "x", ", queue => 'work'");
        let mut old = snapshot(&mut client, level);
        let (mut holder, _, token) = claim(&database);
        assert_eq!(nack(&mut holder, id, token), "deferred");
        assert_eq!(code(old.query_one(CANCEL, &[&id])).code(), "40001");
        old.rollback().unwrap();

        let mut old = snapshot(&mut client, level);
        let (mut holder, _, token) = claim(&database);
        assert!(ack(&mut holder, id, token));
        assert_eq!(code(old.query_one(CANCEL, &[&id])).code(), "40001");
        old.rollback().unwrap();
        assert!(!one::<bool>(&mut client, CANCEL, &[&id]), "{level:?}");
        assert_eq!(state(&mut client, id), "sent");
    }
}

#[test]
fn a_cancel_with_a_snapshot_that_is_up_to_date_cancels() {
    let (_database, mut client) = external();
    for level in LEVELS {
        let id = put(&mut client, "x", ", queue => 'work'");
        let mut old = snapshot(&mut client, level);
        assert!(one::<bool>(&mut old, CANCEL, &[&id]), "{level:?}");
        old.commit().unwrap();
        assert_eq!(state(&mut client, id), "cancelled");
    }
}

#[test]
fn what_needs_the_latest_state_refuses_an_older_snapshot() {
    let (_database, mut client) = external();
    let id = put(&mut client, "x", ", queue => 'work'");
    for level in LEVELS {
        for call in [
            "SELECT mail.purge('work')",
            "SELECT mail.purge('work', finished => true)",
            "SELECT mail.wait_idle('work', '1 minute')",
            "SELECT mail.claim('work')",
        ] {
            let mut old = snapshot(&mut client, level);
            assert_eq!(code(old.execute(call, &[])).code(), "25001", "{call}");
        }
    }
    assert_eq!(state(&mut client, id), "queued");
}

#[test]
fn a_superseding_enqueue_with_an_older_snapshot_fails_instead_of_sending_both() {
    let (database, mut client) = external();
    let mut other = database.connect();
    for level in LEVELS {
        // The key is new, and then it is known to the snapshot.
        for known in [false, true] {
            let mut old = snapshot(&mut client, level);
            let first = put(&mut other, "first", LATEST);
            let error = code(old.query_one(SUPERSEDE, &[]));
            assert_eq!(error.code(), "40001", "{level:?}, known: {known}");
            old.rollback().unwrap();
            let again = put(&mut client, "again", LATEST);
            let states = [first, again].map(|id| state(&mut client, id));
            assert_eq!(states, ["cancelled", "queued"]);
        }
        let waiting: i64 = one(
            &mut client,
            "SELECT count(*) FROM mail.messages WHERE queue = 'work' AND state = 'queued'",
            &[],
        );
        assert_eq!(waiting, 1);
        run_sql(&mut client, "SELECT mail.purge('work', finished => true)");
    }
}

#[test]
fn a_superseding_enqueue_with_an_older_snapshot_leaves_what_was_claimed_since() {
    let (database, mut client) = external();
    for level in LEVELS {
        let old = put(&mut client, "old", LATEST);
        let mut transaction = snapshot(&mut client, level);
        let (mut holder, claimed, token) = claim(&database);
        assert_eq!(claimed, old);
        let new = put(&mut transaction, "new", LATEST);
        transaction.commit().unwrap();
        let states = [old, new].map(|id| state(&mut client, id));
        assert_eq!(states, ["sending", "queued"]);
        assert!(ack(&mut holder, old, token), "{level:?}");
        assert!(one::<bool>(&mut client, CANCEL, &[&new]));
    }
}

#[test]
fn what_was_in_flight_and_comes_back_is_superseded_by_the_next_of_its_key() {
    let (database, mut client) = external();
    let (first, token) = put_claimed(&mut client, "work", "1 minute", ", supersede_key => 'k'");
    let second = put(&mut client, "second", LATEST);
    let (mut holder, claimed, second_token) = claim(&database);
    assert_eq!(claimed, second);
    // The key now has two in flight, and one that waits.
    let third = put(&mut client, "third", LATEST);
    let states = [first, second, third].map(|id| state(&mut client, id));
    assert_eq!(states, ["sending", "sending", "queued"]);
    assert_eq!(nack(&mut client, first, token), "deferred");
    let fourth = put(&mut client, "fourth", LATEST);
    let states = [first, second, third, fourth].map(|id| state(&mut client, id));
    assert_eq!(states, ["cancelled", "sending", "cancelled", "queued"]);
    assert_eq!(nack(&mut holder, second, second_token), "deferred");
    let fifth = put(&mut client, "fifth", LATEST);
    let states = [second, fourth, fifth].map(|id| state(&mut client, id));
    assert_eq!(states, ["cancelled", "cancelled", "queued"]);
    let (_, claimed, _) = claim(&database);
    assert_eq!(claimed, fifth);
}

#[test]
fn an_idempotency_key_taken_since_an_older_snapshot_is_not_taken_twice() {
    let (database, mut client) = external();
    for (n, level) in LEVELS.into_iter().enumerate() {
        let more = format!(", queue => 'work', idempotency_key => 'k{n}'");
        let mut old = snapshot(&mut client, level);
        let first = put(&mut database.connect(), "first", &more);
        let query = format!("SELECT mail.enqueue('a@example.test', 'x', 'x'{more})");
        assert_eq!(
            code(old.query_one(&query, &[])).code(),
            "40001",
            "{level:?}"
        );
        old.rollback().unwrap();
        assert_eq!(put(&mut client, "again", &more), first);
    }
}

#[test]
fn what_comes_back_is_superseded_even_when_the_last_of_its_key_is_no_longer_kept() {
    let (_database, mut client) = external();
    let (first, token) = put_claimed(&mut client, "work", "1 minute", ", supersede_key => 'k'");
    put(&mut client, "second", LATEST);
    run_sql(&mut client, "SELECT mail.purge('work', finished => true)");
    assert_eq!(nack(&mut client, first, token), "deferred");
    let third = put(&mut client, "third", LATEST);
    let states = [first, third].map(|id| state(&mut client, id));
    assert_eq!(states, ["cancelled", "queued"]);
}
