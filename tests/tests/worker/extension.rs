//! DROP EXTENSION and CREATE EXTENSION.

use pgmq_mail_tests::{SOON, database, one, pid, reaches, run_sql, until, worker_of};

use crate::{attached, put};

#[test]
fn it_leaves_when_the_extension_is_dropped_and_comes_with_a_new_one() {
    let database = database();
    let mut client = database.connect();
    worker_of(&mut client);
    for _ in 0..2 {
        run_sql(&mut client, "DROP EXTENSION pgmq_mail");
        until("it leaves", SOON, || {
            !attached(&mut client, database.name())
        });
        run_sql(&mut client, "CREATE EXTENSION pgmq_mail");
        worker_of(&mut client);
        let id = put(&mut client, "x", "");
        reaches(&mut client, id, "sent");
    }
}

#[test]
fn it_is_there_by_itself_when_the_extension_is_replaced_in_one_transaction() {
    let database = database();
    let mut client = database.connect();
    let worker = worker_of(&mut client);
    run_sql(
        &mut client,
        "BEGIN; DROP EXTENSION pgmq_mail; CREATE EXTENSION pgmq_mail; COMMIT",
    );
    until("the old one leaves", SOON, || {
        one(
            &mut client,
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)",
            &[&worker],
        )
    });
    assert_ne!(
        worker_of(&mut client),
        worker,
        "without a commit that asks for it"
    );
    let id = put(&mut client, "x", "");
    reaches(&mut client, id, "sent");
}

#[test]
fn it_delivers_for_an_extension_that_was_replaced_at_once() {
    let database = database();
    let mut client = database.connect();
    worker_of(&mut client);
    run_sql(&mut client, "DROP EXTENSION pgmq_mail");
    run_sql(&mut client, "CREATE EXTENSION pgmq_mail");
    let id = put(&mut client, "x", "");
    reaches(&mut client, id, "sent");
}

#[test]
fn a_rolled_back_create_extension_keeps_no_worker() {
    let database = pgmq_mail_tests::Database::empty(pgmq_mail_tests::shared());
    let mut client = database.connect();
    run_sql(&mut client, "BEGIN; CREATE EXTENSION pgmq_mail; ROLLBACK");
    until("nobody is attached", SOON, || {
        !attached(&mut client, database.name())
    });
    run_sql(&mut client, "CREATE EXTENSION pgmq_mail");
    let id = put(&mut client, "x", "");
    reaches(&mut client, id, "sent");
}

#[test]
fn it_waits_for_a_drop_that_is_under_way_without_a_lock_that_the_drop_could_need() {
    let database = database();
    let mut client = database.connect();
    let worker = worker_of(&mut client);
    let mut other = database.connect();
    let dropping = pid(&mut other);
    for end in ["ROLLBACK", "COMMIT"] {
        // It takes all its locks, and keeps them.
        run_sql(&mut other, "BEGIN; DROP EXTENSION pgmq_mail");
        run_sql(
            &mut client,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND backend_type = 'pgmq_mail worker'",
        );
        until("a worker waits for the extension itself", SOON, || {
            one(
                &mut client,
                "SELECT EXISTS (
                     SELECT FROM pg_locks k JOIN pg_stat_activity a USING (pid)
                     WHERE a.backend_type = 'pgmq_mail worker' AND a.datname = current_database() AND a.pid <> $2
                       AND NOT k.granted AND k.classid = 'pg_extension'::regclass AND $1 = ANY (pg_blocking_pids(k.pid)))",
                &[&dropping, &worker],
            )
        });
        let held: Vec<String> = pgmq_mail_tests::all(
            &mut client,
            "SELECT k.relation::regclass || ' ' || k.mode
             FROM pg_locks k JOIN pg_stat_activity a USING (pid)
             WHERE a.backend_type = 'pgmq_mail worker' AND a.datname = current_database()
               AND k.locktype = 'relation' AND k.granted AND k.relation >= 16384",
            &[],
        );
        assert_eq!(held, [""; 0]);
        run_sql(&mut other, end);
        if end == "ROLLBACK" {
            assert_ne!(worker_of(&mut client), worker);
            let id = put(&mut client, "x", "");
            reaches(&mut client, id, "sent");
        }
    }
    until("it leaves", SOON, || {
        !attached(&mut client, database.name())
    });
}
