//! Only who holds the lease changes anything, also while others are at it.

use pgmq_mail_tests::{SOON, all, blocks, eventually, one, pid, reaches, state};
use postgres::{Client, Transaction};

use crate::{external, put_claimed, served};

const ACK: &str = "SELECT mail.ack($1::bigint, $2)";
const CLAIM: &str = "SELECT id, attempt FROM mail.claim('work', lease => '1 minute')";

#[test]
fn of_two_acks_at_once_one_is_true() {
    let (database, mut client) = external();
    let (id, token) = put_claimed(&mut client, "work", "1 minute", "");
    let mut first = client.transaction().unwrap();
    assert!(one::<bool>(&mut first, ACK, &[&id, &token]));
    let mut second = database.connect();
    let second_pid = pid(&mut second);
    let second = std::thread::spawn(move || one::<bool>(&mut second, ACK, &[&id, &token]));
    blocks(&mut database.connect(), second_pid);
    first.commit().unwrap();
    assert!(!second.join().unwrap());
}

#[test]
fn an_ack_that_was_rolled_back_can_be_repeated() {
    let (_database, mut client) = external();
    let (id, token) = put_claimed(&mut client, "work", "1 minute", "");
    let mut first = client.transaction().unwrap();
    assert!(one::<bool>(&mut first, ACK, &[&id, &token]));
    first.rollback().unwrap();
    assert_eq!(state(&mut client, id), "sending");
    assert!(one::<bool>(&mut client, ACK, &[&id, &token]));
}

/// Claims and acknowledges a message in a transaction that stays open until its lease is over, and checks that
/// meanwhile nobody else gets it.
fn outlives_its_lease<'a>(
    client: &'a mut Client,
    other: &mut Client,
) -> (Transaction<'a>, i64, i64) {
    let (id, token) = put_claimed(client, "work", "300 milliseconds", "");
    let mut ack = client.transaction().unwrap();
    assert!(one::<bool>(&mut ack, ACK, &[&id, &token]));
    let claim = "SELECT id FROM mail.claim('work', wait => '600 milliseconds')";
    assert!(other.query(claim, &[]).unwrap().is_empty());
    (ack, id, token)
}

#[test]
fn a_lease_that_ends_while_its_ack_commits_passes_to_nobody() {
    let (database, mut client) = external();
    let mut other = database.connect();
    let (ack, id, _) = outlives_its_lease(&mut client, &mut other);
    ack.commit().unwrap();
    assert_eq!(state(&mut client, id), "sent");
    assert!(other.query(CLAIM, &[]).unwrap().is_empty());
}

#[test]
fn a_lease_that_ends_while_its_ack_rolls_back_passes_to_the_next_claimer() {
    let (database, mut client) = external();
    let mut other = database.connect();
    let (ack, id, token) = outlives_its_lease(&mut client, &mut other);
    ack.rollback().unwrap();
    let row = eventually("it is claimable", SOON, || {
        other.query_opt(CLAIM, &[]).unwrap()
    });
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i32>(1)), (id, 2));
    assert!(!one::<bool>(&mut client, ACK, &[&id, &token]));
}

#[test]
fn what_the_worker_took_over_after_the_lease_is_no_longer_the_claimers() {
    let (_database, mut client) = served();
    let (id, token) = put_claimed(&mut client, "default", "200 milliseconds", "");
    reaches(&mut client, id, "sent");
    assert!(!one::<bool>(&mut client, ACK, &[&id, &token]));
    let events: Vec<String> = all(
        &mut client,
        "SELECT kind FROM mail.events WHERE message_id = $1 ORDER BY id",
        &[&id],
    );
    assert_eq!(events, ["lease_ended", "sent"]);
}

#[test]
fn of_two_claimers_that_find_an_ended_lease_one_takes_the_message() {
    let (database, mut client) = external();
    let (id, _) = put_claimed(&mut client, "work", "50 milliseconds", "");
    let got: Vec<i64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| {
                let mut client = database.connect();
                let claim =
                    "SELECT id FROM mail.claim('work', lease => '1 minute', wait => '1 second')";
                scope.spawn(move || all::<i64>(&mut client, claim, &[]))
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(got, [id]);
}
