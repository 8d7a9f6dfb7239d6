//! The next message of an ordering key, which the worker has passed over, goes as soon as nothing is before it.

use pgmq_mail_tests::{Action, Gate, Phase, SOON, Sink, one, reaches, run_sql, state, until};
use postgres::Client;

use crate::{delivering, pass, put, put_claimed, served};

const KEY: &str = ", ordering_key => 'k'";

/// A head in the hands of an outside claimer, and two successors, in other lanes, that the worker has passed over.
fn held(client: &mut Client, lease: &str) -> (i64, i64, [i64; 2]) {
    let (head, token) = put_claimed(client, "default", lease, KEY);
    let next =
        [3, -3].map(|priority| put(client, "next", &format!("{KEY}, priority => {priority}")));
    pass(client, "");
    assert_eq!(next.map(|id| state(client, id)), ["queued", "queued"]);
    (head, token, next)
}

fn all_go(client: &mut Client, next: [i64; 2]) {
    for id in next {
        reaches(client, id, "sent");
    }
    let ordered: bool = one(
        client,
        "SELECT (SELECT id FROM mail.captured WHERE message_id = $1) < (SELECT id FROM mail.captured WHERE message_id = $2)",
        &[&next[0], &next[1]],
    );
    assert!(ordered);
}

#[test]
fn after_the_head_was_sent() {
    let (_database, mut client) = served();
    let (head, token, next) = held(&mut client, "1 hour");
    assert!(one::<bool>(
        &mut client,
        "SELECT mail.ack($1::bigint, $2)",
        &[&head, &token]
    ));
    all_go(&mut client, next);
}

#[test]
fn after_the_head_has_failed() {
    let (_database, mut client) = served();
    let (head, token, next) = held(&mut client, "1 hour");
    run_sql(
        &mut client,
        &format!("SELECT mail.nack({head}, {token}, permanent => true)"),
    );
    all_go(&mut client, next);
}

#[test]
fn after_the_head_was_cancelled() {
    let (_database, mut client) = served();
    let (head, token, next) = held(&mut client, "1 hour");
    run_sql(
        &mut client,
        &format!("SELECT mail.nack({head}, {token}, retry_after => '1 hour')"),
    );
    pass(&mut client, "");
    assert_eq!(state(&mut client, next[0]), "queued");
    assert!(one::<bool>(&mut client, "SELECT mail.cancel($1)", &[&head]));
    all_go(&mut client, next);
}

#[test]
fn after_the_head_has_expired() {
    let (_database, mut client) = served();
    let (head, token) = put_claimed(
        &mut client,
        "default",
        "1 hour",
        ", ordering_key => 'k', expires_at => clock_timestamp() + interval '1 second'",
    );
    let next = [3, -3].map(|priority| {
        put(
            &mut client,
            "next",
            &format!("{KEY}, priority => {priority}"),
        )
    });
    run_sql(
        &mut client,
        &format!("SELECT mail.nack({head}, {token}, retry_after => '1 hour')"),
    );
    reaches(&mut client, head, "expired");
    all_go(&mut client, next);
}

#[test]
fn after_the_heads_lease_has_ended() {
    let (_database, mut client) = served();
    let (head, _, next) = held(&mut client, "1 second");
    reaches(&mut client, head, "sent");
    all_go(&mut client, next);
}

#[test]
fn after_the_head_was_released() {
    let (_database, mut client) = served();
    let (head, token, next) = held(&mut client, "1 hour");
    assert!(one::<bool>(
        &mut client,
        "SELECT mail.release($1, $2)",
        &[&head, &token]
    ));
    reaches(&mut client, head, "sent");
    all_go(&mut client, next);
}

#[test]
fn after_the_head_was_superseded() {
    let (_database, mut client) = served();
    let head = put(
        &mut client,
        "head",
        ", ordering_key => 'k', supersede_key => 's', send_at => clock_timestamp() + interval '1 hour'",
    );
    let next = [3, -3].map(|priority| {
        put(
            &mut client,
            "next",
            &format!("{KEY}, priority => {priority}"),
        )
    });
    pass(&mut client, "");
    assert_eq!(state(&mut client, next[0]), "queued");
    put(&mut client, "newer", ", supersede_key => 's'");
    assert_eq!(state(&mut client, head), "cancelled");
    all_go(&mut client, next);
}

#[test]
fn after_the_worker_has_sent_the_head() {
    let (_database, mut client) = served();
    let mut transaction = client.transaction().unwrap();
    let ids: Vec<i64> = [0, 5, -5, 5]
        .map(|priority| {
            put(
                &mut transaction,
                "x",
                &format!("{KEY}, priority => {priority}"),
            )
        })
        .into();
    transaction.commit().unwrap();
    for id in &ids {
        reaches(&mut client, *id, "sent");
    }
    let order: Vec<i64> = pgmq_mail_tests::all(
        &mut client,
        "SELECT message_id FROM mail.captured WHERE message_id = ANY ($1) ORDER BY id",
        &[&ids],
    );
    assert_eq!(order, ids);
}

#[test]
fn after_the_worker_has_failed_to_send_the_head() {
    let sink = Sink::scripted(|event| {
        if event.phase == Phase::Rcpt && event.address().starts_with("nobody") {
            return Action::reply("550 5.1.1 no such user");
        }
        Action::Accept
    });
    let (_database, mut client) = served();
    delivering(&mut client, &sink);
    let mut transaction = client.transaction().unwrap();
    let head: i64 = one(
        &mut transaction,
        "SELECT mail.enqueue('nobody@example.test', 'x', 'x', queue => 'out', ordering_key => 'k')",
        &[],
    );
    let next = put(
        &mut transaction,
        "next",
        ", queue => 'out', ordering_key => 'k', priority => 2",
    );
    transaction.commit().unwrap();
    reaches(&mut client, head, "failed");
    reaches(&mut client, next, "sent");
}

/// The successor commits while the transaction that ends its predecessor is open: each sees nothing of the other.
fn ends_while_the_next_one_comes(end: &str) {
    let (database, mut client) = served();
    let (head, token) = put_claimed(&mut client, "default", "1 hour", KEY);
    let mut other = database.connect();
    let mut open = other.transaction().unwrap();
    run_sql(
        &mut open,
        &end.replace("{head}", &head.to_string())
            .replace("{token}", &token.to_string()),
    );
    let next = put(&mut client, "next", KEY);
    pass(&mut client, "");
    assert_eq!(state(&mut client, next), "queued");
    open.commit().unwrap();
    reaches(&mut client, next, "sent");
}

#[test]
fn after_an_ack_that_commits_after_the_next_one_came() {
    ends_while_the_next_one_comes("SELECT mail.ack({head}::bigint, {token})");
}

#[test]
fn after_a_failure_that_commits_after_the_next_one_came() {
    ends_while_the_next_one_comes("SELECT mail.nack({head}, {token}, permanent => true)");
}

#[test]
fn after_a_cancel_that_commits_after_the_next_one_came() {
    ends_while_the_next_one_comes(
        "SELECT mail.release({head}, {token}); SELECT mail.cancel({head})",
    );
}

/// A later message of the key is in flight when an earlier one commits; then it goes back and the earlier one is the
/// head.
fn goes_back_behind_an_earlier_one(end: &str) -> (Client, i64, i64) {
    let (database, mut client) = served();
    let mut slow = database.connect();
    let mut late = slow.transaction().unwrap();
    let first = put(&mut late, "first", KEY);
    let (second, token) = put_claimed(&mut client, "default", "1 hour", KEY);
    late.commit().unwrap();
    pass(&mut client, "");
    assert_eq!(state(&mut client, first), "queued");
    run_sql(
        &mut client,
        &end.replace("{id}", &second.to_string())
            .replace("{token}", &token.to_string()),
    );
    reaches(&mut client, first, "sent");
    std::mem::forget(database); // the session that is returned is still on it
    (client, first, second)
}

#[test]
fn after_a_later_one_was_deferred() {
    let (mut client, _, second) =
        goes_back_behind_an_earlier_one("SELECT mail.nack({id}, {token}, retry_after => '1 hour')");
    assert_eq!(state(&mut client, second), "deferred");
}

#[test]
fn after_a_later_one_was_released() {
    let (mut client, _, second) =
        goes_back_behind_an_earlier_one("SELECT mail.release({id}, {token})");
    reaches(&mut client, second, "sent");
}

#[test]
fn after_the_lease_of_a_later_one_has_ended() {
    let (mut client, _, second) =
        goes_back_behind_an_earlier_one("SELECT mail.extend({id}, {token}, '300 milliseconds')");
    reaches(&mut client, second, "sent");
}

#[test]
fn after_the_relay_deferred_a_later_one() {
    let gate = Gate::new();
    let hold = gate.clone();
    let sink = Sink::scripted(move |event| {
        if event.phase == Phase::Dot && event.data.windows(9).any(|text| text == b"held here") {
            hold.pass();
            return Action::reply("451 4.2.0 later");
        }
        Action::Accept
    });
    let (database, mut client) = served();
    delivering(&mut client, &sink);
    let more = ", queue => 'out', ordering_key => 'k'";
    let mut slow = database.connect();
    let mut late = slow.transaction().unwrap();
    let first = put(&mut late, "first", more);
    let second = put(&mut client, "held here", more);
    until("it is in flight", SOON, || gate.waiting() == 1);
    late.commit().unwrap();
    pass(&mut client, ", queue => 'out'");
    gate.open();
    reaches(&mut client, first, "sent");
    assert_eq!(state(&mut client, second), "deferred");
}
