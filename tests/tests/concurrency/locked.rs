//! Messages that the worker passed over because somebody else had locked or leased them, and who then left them.

use pgmq_mail_tests::{SOON, one, reaches, run_sql, state, until};
use postgres::Transaction;

use crate::{Stalled, pass, put, put_claimed, served};

#[test]
fn the_release_of_an_outside_claimer() {
    let (_database, mut client) = served();
    let (id, token) = put_claimed(&mut client, "default", "1 hour", "");
    pass(&mut client, "");
    assert_eq!(state(&mut client, id), "sending");
    assert!(one::<bool>(
        &mut client,
        "SELECT mail.release($1, $2)",
        &[&id, &token]
    ));
    reaches(&mut client, id, "sent");
}

#[test]
fn the_end_of_an_outside_claimers_lease() {
    let (_database, mut client) = served();
    let (id, _) = put_claimed(&mut client, "default", "700 milliseconds", "");
    pass(&mut client, "");
    assert_eq!(state(&mut client, id), "sending");
    reaches(&mut client, id, "sent");
}

#[test]
fn the_ends_of_several_leases_one_after_the_other() {
    let (_database, mut client) = served();
    let mut ids = Vec::new();
    for lease in ["900 milliseconds", "300 milliseconds", "600 milliseconds"] {
        ids.push(put_claimed(&mut client, "default", lease, "").0);
    }
    for id in [ids[1], ids[2], ids[0]] {
        reaches(&mut client, id, "sent");
    }
}

#[test]
fn the_end_of_a_lease_that_was_made_shorter() {
    let (_database, mut client) = served();
    let (id, token) = put_claimed(&mut client, "default", "1 hour", "");
    pass(&mut client, "");
    run_sql(
        &mut client,
        &format!("SELECT mail.extend({id}, {token}, '200 milliseconds')"),
    );
    reaches(&mut client, id, "sent");
}

#[test]
fn the_end_of_a_lease_that_was_made_longer() {
    let (_database, mut client) = served();
    let (id, token) = put_claimed(&mut client, "default", "300 milliseconds", "");
    run_sql(
        &mut client,
        &format!("SELECT mail.extend({id}, {token}, '900 milliseconds')"),
    );
    pass(&mut client, "");
    reaches(&mut client, id, "sent");
}

/// A message that is scheduled and falls due while `work` has it locked: the worker passes over it, and then the
/// transaction ends as `end` says.
fn locked_while_it_falls_due(
    work: impl FnOnce(&mut Transaction<'_>, i64),
    end: impl FnOnce(Transaction<'_>),
) {
    let (database, mut client) = served();
    let more = ", supersede_key => 's', send_at => clock_timestamp() + interval '400 milliseconds'";
    let id = put(&mut client, "x", more);
    let mut other = database.connect();
    let mut transaction = other.transaction().unwrap();
    work(&mut transaction, id);
    until("its time has come", SOON, || {
        one(
            &mut client,
            "SELECT due_at < clock_timestamp() FROM mail.pending WHERE id = $1",
            &[&id],
        )
    });
    pass(&mut client, "");
    assert_eq!(state(&mut client, id), "queued", "it was locked in time");
    end(transaction);
    reaches(&mut client, id, "sent");
}

fn roll_back(transaction: Transaction<'_>) {
    transaction.rollback().unwrap();
}

#[test]
fn the_rollback_of_a_cancel() {
    locked_while_it_falls_due(
        |transaction, id| assert!(one::<bool>(transaction, "SELECT mail.cancel($1)", &[&id])),
        roll_back,
    );
}

#[test]
fn the_rollback_of_a_superseding_message() {
    locked_while_it_falls_due(
        |transaction, _| {
            put(transaction, "newer", ", supersede_key => 's'");
        },
        roll_back,
    );
}

#[test]
fn the_rollback_of_a_purge() {
    locked_while_it_falls_due(
        |transaction, _| {
            assert_eq!(
                one::<i64>(transaction, "SELECT mail.purge('default')", &[]),
                1
            );
        },
        roll_back,
    );
}

#[test]
fn the_rollback_of_a_cancel_to_a_savepoint() {
    locked_while_it_falls_due(
        |transaction, id| {
            let mut inner = transaction.savepoint("here").unwrap();
            assert!(one::<bool>(&mut inner, "SELECT mail.cancel($1)", &[&id]));
            std::mem::forget(inner); // it stays open
        },
        |mut transaction| {
            run_sql(&mut transaction, "ROLLBACK TO SAVEPOINT here");
            transaction.commit().unwrap();
        },
    );
}

/// A message that an outside claimer has claimed, in a transaction that is still open when the worker passes.
fn claimed_before_the_worker_looks(end: impl FnOnce(Transaction<'_>)) {
    let (database, mut client) = served();
    let mut other = database.connect();
    let stalled = Stalled::new(&database, &mut client);
    let id = put(&mut client, "x", "");
    let mut transaction = other.transaction().unwrap();
    run_sql(&mut transaction, "SAVEPOINT here");
    let claimed: i64 = one(
        &mut transaction,
        "SELECT id FROM mail.claim(lease => '1 hour')",
        &[],
    );
    assert_eq!(claimed, id);
    stalled.go_on();
    pass(&mut client, "");
    end(transaction);
    reaches(&mut client, id, "sent");
}

#[test]
fn the_rollback_of_an_outside_claim() {
    claimed_before_the_worker_looks(roll_back);
}

#[test]
fn the_rollback_of_an_outside_claim_to_a_savepoint() {
    claimed_before_the_worker_looks(|mut transaction| {
        run_sql(&mut transaction, "ROLLBACK TO SAVEPOINT here");
        transaction.commit().unwrap();
    });
}

#[test]
fn the_rollback_of_an_outside_claim_to_a_savepoint_in_a_transaction_that_goes_on() {
    claimed_before_the_worker_looks(|mut transaction| {
        run_sql(&mut transaction, "ROLLBACK TO SAVEPOINT here");
        // It ends when the message has been sent, at the latest when the test gives up.
        std::mem::forget(transaction);
    });
}

#[test]
fn the_end_of_a_session_that_has_claimed() {
    let (database, mut client) = served();
    let mut other = database.connect();
    let stalled = Stalled::new(&database, &mut client);
    let id = put(&mut client, "x", "");
    run_sql(&mut other, "BEGIN");
    let claimed: i64 = one(
        &mut other,
        "SELECT id FROM mail.claim(lease => '1 hour')",
        &[],
    );
    assert_eq!(claimed, id);
    stalled.go_on();
    pass(&mut client, "");
    let process = pgmq_mail_tests::pid(&mut other);
    assert!(one::<bool>(
        &mut client,
        "SELECT pg_terminate_backend($1)",
        &[&process]
    ));
    reaches(&mut client, id, "sent");
}
