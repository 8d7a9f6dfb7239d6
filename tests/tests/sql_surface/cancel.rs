//! `mail.cancel`: true means not sent, and never will be.

use pgmq_mail_tests::database;

use crate::{claimed, one, put, state, take, work};

const CANCEL: &str = "SELECT mail.cancel($1)";

#[test]
fn a_waiting_mail_is_cancelled_for_good() {
    let database = database();
    let mut client = work(&database);
    let id = put(&mut client, "x", "");
    assert!(one::<bool>(&mut client, CANCEL, &[&id]));
    assert_eq!(state(&mut client, id), "cancelled");
    assert_eq!(claimed(&mut client, 10), [""; 0]);
    assert!(one::<bool>(&mut client, CANCEL, &[&id]), "still not sent");
}

#[test]
fn a_scheduled_and_a_deferred_mail_can_be_cancelled() {
    let database = database();
    let mut client = work(&database);
    let scheduled = put(
        &mut client,
        "scheduled",
        ", send_at => now() + interval '1 hour'",
    );
    let deferred = put(&mut client, "deferred", "");
    let (id, token) = take(&mut client, "1 minute").unwrap();
    let _: String = one(&mut client, "SELECT mail.nack($1, $2)", &[&id, &token]);
    for id in [scheduled, deferred] {
        assert!(one::<bool>(&mut client, CANCEL, &[&id]));
        assert_eq!(state(&mut client, id), "cancelled");
    }
}

#[test]
fn what_was_sent_is_in_flight_or_never_was_cannot_be_cancelled() {
    let database = database();
    let mut client = work(&database);
    let id = put(&mut client, "x", "");
    let (_, token) = take(&mut client, "1 minute").unwrap();
    assert!(!one::<bool>(&mut client, CANCEL, &[&id]), "it is in flight");
    assert_eq!(state(&mut client, id), "sending");
    assert!(one::<bool>(
        &mut client,
        "SELECT mail.ack($1::bigint, $2)",
        &[&id, &token]
    ));
    assert!(!one::<bool>(&mut client, CANCEL, &[&id]), "it was sent");
    assert_eq!(state(&mut client, id), "sent");
    assert!(!one::<bool>(&mut client, CANCEL, &[&4711_i64]));
}

#[test]
fn a_cancel_that_is_rolled_back_cancels_nothing() {
    let database = database();
    let mut client = work(&database);
    let id = put(&mut client, "kept", "");
    let mut transaction = client.transaction().unwrap();
    assert!(
        transaction
            .query_one(CANCEL, &[&id])
            .unwrap()
            .get::<_, bool>(0)
    );
    transaction.rollback().unwrap();
    assert_eq!(claimed(&mut client, 10), ["kept"]);
}
