//! A queue that is deleted, or made, while others enqueue: no message ends up where nobody looks for it.

use std::thread::JoinHandle;

use pgmq_mail_tests::{Database, SOON, blocks, code, one, pid, run_sql, state, until};
use postgres::error::SqlState;
use postgres::{Client, IsolationLevel};

use crate::{external, put};

const WORK: &str = ", queue => 'work'";
const DELETE: &str = "DELETE FROM mail.queue WHERE name = 'work'";
const ENQUEUE: &str = "SELECT mail.enqueue('a@example.test', 'x', 'x', queue => 'work')";

/// Enqueues into `work` in this session, which must wait for another transaction.
fn waiting_enqueue(
    database: &Database<'_>,
    mut client: Client,
) -> JoinHandle<Result<i64, SqlState>> {
    let process = pid(&mut client);
    let thread = std::thread::spawn(move || match client.query_one(ENQUEUE, &[]) {
        Ok(row) => Ok(row.get(0)),
        Err(error) => Err(code(Err::<(), _>(error))),
    });
    blocks(&mut database.connect(), process);
    thread
}

#[test]
fn a_queue_is_not_deleted_while_a_transaction_that_enqueued_is_open() {
    let (database, mut client) = external();
    let mut other = database.connect();
    let mut open = client.transaction().unwrap();
    let id = put(&mut open, "x", WORK);
    assert_eq!(code(other.execute(DELETE, &[])).code(), "55P03");
    open.commit().unwrap();
    assert_eq!(state(&mut client, id), "queued");
    assert_eq!(code(other.execute(DELETE, &[])).code(), "55006");
    assert_eq!(
        one::<i64>(&mut other, "SELECT id FROM mail.claim('work')", &[]),
        id
    );
}

#[test]
fn a_queue_is_deleted_after_a_transaction_that_enqueued_has_rolled_back() {
    let (database, mut client) = external();
    let mut other = database.connect();
    let mut open = client.transaction().unwrap();
    put(&mut open, "x", WORK);
    let process = pid(&mut other);
    let delete = std::thread::spawn(move || other.execute(DELETE, &[]).map_err(|e| e.to_string()));
    let mut observer = database.connect();
    // The wait lasts half a second at most: on a loaded machine it may be over before it is seen.
    until("the delete waits", SOON, || {
        let query = "SELECT coalesce(bool_or(wait_event_type = 'Lock'), false) FROM pg_stat_activity WHERE pid = $1";
        delete.is_finished() || one(&mut observer, query, &[&process])
    });
    open.rollback().unwrap();
    if delete.join().unwrap() != Ok(1) {
        assert_eq!(client.execute(DELETE, &[]).unwrap(), 1);
    }
    assert_eq!(code(client.execute(ENQUEUE, &[])).code(), "42704");
}

#[test]
fn an_enqueue_waits_for_the_delete_of_its_queue_and_fails_when_it_commits() {
    let (database, mut client) = external();
    for knows_the_queue in [false, true] {
        let mut other = database.connect();
        if knows_the_queue {
            run_sql(&mut other, &format!("BEGIN; {ENQUEUE}; ROLLBACK"));
        }
        let mut open = client.transaction().unwrap();
        assert_eq!(open.execute(DELETE, &[]).unwrap(), 1);
        let enqueue = waiting_enqueue(&database, other);
        open.commit().unwrap();
        assert_eq!(
            enqueue.join().unwrap(),
            Err(SqlState::UNDEFINED_OBJECT),
            "knows_the_queue: {knows_the_queue}"
        );
        run_sql(
            &mut client,
            "INSERT INTO mail.queue (name, transport, default_sender) VALUES ('work', 'external', 'app@example.test')",
        );
    }
    let left: i64 = one(
        &mut client,
        "SELECT count(*) FROM mail.messages WHERE queue <> 'default'",
        &[],
    );
    assert_eq!(left, 0);
}

#[test]
fn an_enqueue_waits_for_the_delete_of_its_queue_and_goes_on_when_it_rolls_back() {
    let (database, mut client) = external();
    let other = database.connect();
    let mut open = client.transaction().unwrap();
    assert_eq!(open.execute(DELETE, &[]).unwrap(), 1);
    let enqueue = waiting_enqueue(&database, other);
    open.rollback().unwrap();
    let id = enqueue.join().unwrap().unwrap();
    assert_eq!(state(&mut client, id), "queued");
}

#[test]
fn an_older_snapshot_does_not_enqueue_into_a_queue_that_was_deleted_meanwhile() {
    let (database, mut client) = external();
    for level in [IsolationLevel::RepeatableRead, IsolationLevel::Serializable] {
        for knows_the_queue in [false, true] {
            let mut other = database.connect();
            if knows_the_queue {
                run_sql(&mut other, &format!("BEGIN; {ENQUEUE}; ROLLBACK"));
            }
            let mut old = other
                .build_transaction()
                .isolation_level(level)
                .start()
                .unwrap();
            assert_eq!(
                one::<i64>(&mut old, "SELECT count(*) FROM mail.queue", &[]),
                2
            );
            assert_eq!(client.execute(DELETE, &[]).unwrap(), 1);
            assert_eq!(
                code(old.execute(ENQUEUE, &[])).code(),
                "40001",
                "knows_the_queue: {knows_the_queue}"
            );
            old.rollback().unwrap();
            assert_eq!(code(other.execute(ENQUEUE, &[])).code(), "42704");
            run_sql(
                &mut client,
                "INSERT INTO mail.queue (name, transport, default_sender) VALUES ('work', 'external', 'app@example.test')",
            );
        }
    }
}

#[test]
fn a_queue_is_deleted_in_read_committed_only() {
    let (_database, mut client) = external();
    for level in [IsolationLevel::RepeatableRead, IsolationLevel::Serializable] {
        let mut old = client
            .build_transaction()
            .isolation_level(level)
            .start()
            .unwrap();
        assert_eq!(code(old.execute(DELETE, &[])).code(), "25001");
    }
    assert_eq!(client.execute(DELETE, &[]).unwrap(), 1);
}

#[test]
fn a_queue_made_during_a_transaction_with_an_older_snapshot_is_known_right_after_it() {
    let (database, mut client) = external();
    for level in [IsolationLevel::RepeatableRead, IsolationLevel::Serializable] {
        let mut old = client
            .build_transaction()
            .isolation_level(level)
            .start()
            .unwrap();
        put(&mut old, "before", WORK);
        run_sql(
            &mut database.connect(),
            "INSERT INTO mail.queue (name, transport, default_sender) VALUES ('new', 'external', 'app@example.test')",
        );
        // It reads the queues again, with its old snapshot.
        let mut within = old.savepoint("within").unwrap();
        let new = ENQUEUE.replace("'work'", "'new'");
        assert_eq!(code(within.execute(&new, &[])).code(), "42704");
        within.rollback().unwrap();
        put(&mut old, "after", WORK);
        old.commit().unwrap();
        let id = put(&mut client, "new", ", queue => 'new'");
        assert_eq!(state(&mut client, id), "queued");
        run_sql(
            &mut client,
            "SELECT mail.purge('new', finished => true); DELETE FROM mail.queue WHERE name = 'new'",
        );
    }
}
