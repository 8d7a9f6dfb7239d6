//! DROP EXTENSION and CREATE EXTENSION.

use pgmq_mail_tests::{SOON, database, reaches, run_sql, until, worker_of};

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
        pgmq_mail_tests::one(
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
