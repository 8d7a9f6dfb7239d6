//! `ack`, `nack`, `extend` and `release`: only who holds the lease changes anything.

use pgmq_mail_tests::{database, eventually, until};
use serde_json::json;

use crate::{SOON, all, claimed, one, put, state, take, work};

const ACK: &str = "SELECT mail.ack($1::bigint, $2)";
const NACK: &str = "SELECT mail.nack($1, $2)";
const RELEASE: &str = "SELECT mail.release($1, $2)";

#[test]
fn an_acknowledged_message_is_sent_with_a_record_of_it() {
    let database = database();
    let mut client = work(&database);
    let id = put(&mut client, "x", "");
    let (_, token) = take(&mut client, "1 minute").unwrap();
    let response = json!({"code": "250", "status": "2.0.0", "text": "taken", "provider": "p-1"});
    assert!(one::<bool>(
        &mut client,
        "SELECT mail.ack($1::bigint, $2, $3)",
        &[&id, &token, &response]
    ));
    assert_eq!(state(&mut client, id), "sent");
    let row = client
        .query_one(
            "SELECT m.attempts, m.finished_at IS NOT NULL, e.kind, e.code, e.status, e.text
             FROM mail.messages m JOIN mail.events e ON e.message_id = m.id WHERE m.id = $1",
            &[&id],
        )
        .unwrap();
    assert_eq!(row.get::<_, i32>(0), 1);
    assert!(row.get::<_, bool>(1));
    assert_eq!(row.get::<_, &str>(2), "sent");
    assert_eq!(row.get::<_, i32>(3), 250);
    assert_eq!(
        (row.get::<_, &str>(4), row.get::<_, &str>(5)),
        ("2.0.0", "taken")
    );
    assert!(!one::<bool>(&mut client, ACK, &[&id, &token]), "only once");
}

#[test]
fn a_lease_that_has_passed_to_another_changes_nothing() {
    let database = database();
    let mut client = work(&database);
    let id = put(&mut client, "x", "");
    let (_, old) = take(&mut client, "100 milliseconds").unwrap();
    let (_, new) = eventually("the lease ends", SOON, || take(&mut client, "1 minute"));
    assert_ne!(new, old);
    assert!(!one::<bool>(&mut client, ACK, &[&id, &old]));
    assert_eq!(one::<Option<String>>(&mut client, NACK, &[&id, &old]), None);
    assert!(!one::<bool>(&mut client, RELEASE, &[&id, &old]));
    let extended: Option<bool> = one(
        &mut client,
        "SELECT mail.extend($1, $2, '1 hour') > now()",
        &[&id, &old],
    );
    assert_eq!(extended, None);
    assert_eq!(state(&mut client, id), "sending");
    assert!(one::<bool>(&mut client, ACK, &[&id, &new]));
}

#[test]
fn a_lease_that_has_ended_changes_nothing_even_before_another_claims() {
    let database = database();
    let mut client = work(&database);
    let id = put(&mut client, "x", "");
    let row = client
        .query_one(
            "SELECT token, lease_until::text FROM mail.claim('work', lease => '50 milliseconds')",
            &[],
        )
        .unwrap();
    let (token, end): (i64, String) = (row.get(0), row.get(1));
    until("the lease ends", SOON, || {
        one(
            &mut client,
            "SELECT clock_timestamp() > $1::text::timestamptz",
            &[&end],
        )
    });
    assert!(!one::<bool>(&mut client, ACK, &[&id, &token]));
    let attempt: i32 = eventually("it comes back", SOON, || {
        client
            .query_opt("SELECT attempt FROM mail.claim('work')", &[])
            .unwrap()
            .map(|row| row.get(0))
    });
    assert_eq!(attempt, 2, "an attempt that nobody ended counts");
}

#[test]
fn a_wrong_token_is_no_lease() {
    let database = database();
    let mut client = work(&database);
    let id = put(&mut client, "x", "");
    let other = put(&mut client, "y", "");
    let rows = client
        .query("SELECT id, token FROM mail.claim('work', batch => 2)", &[])
        .unwrap();
    let token_of_other: i64 = rows
        .iter()
        .find(|row| row.get::<_, i64>(0) == other)
        .unwrap()
        .get(1);
    for token in [token_of_other, 0, -1, i64::MAX] {
        assert!(!one::<bool>(&mut client, ACK, &[&id, &token]), "{token}");
    }
    assert!(!one::<bool>(
        &mut client,
        "SELECT mail.ack(NULL::bigint, 1)",
        &[]
    ));
    assert_eq!(state(&mut client, id), "sending");
}

#[test]
fn many_are_acknowledged_at_once_and_those_that_were_not_are_missing_from_the_answer() {
    let database = database();
    let mut client = work(&database);
    let ids: Vec<i64> = (0..5)
        .map(|n| put(&mut client, &n.to_string(), ""))
        .collect();
    let rows = client
        .query("SELECT id, token FROM mail.claim('work', batch => 5)", &[])
        .unwrap();
    let claimed: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    let mut tokens: Vec<i64> = rows.iter().map(|row| row.get(1)).collect();
    tokens[2] += 1_000_000;
    let mut acked: Vec<i64> = all(
        &mut client,
        "SELECT * FROM mail.ack($1::bigint[], $2::bigint[])",
        &[&claimed, &tokens],
    );
    acked.sort_unstable();
    let mut expected: Vec<i64> = claimed
        .iter()
        .copied()
        .filter(|id| *id != claimed[2])
        .collect();
    expected.sort_unstable();
    assert_eq!(acked, expected);
    assert_eq!(ids.len(), 5);
}

#[test]
fn a_refused_message_is_deferred_by_the_backoff_or_the_pause_given() {
    let database = database();
    let mut client = work(&database);
    let id = put(&mut client, "x", "");
    let (_, token) = take(&mut client, "1 minute").unwrap();
    let answer: String = one(
        &mut client,
        "SELECT mail.nack($1, $2, 'mailbox full')",
        &[&id, &token],
    );
    assert_eq!(answer, "deferred");
    let row = client
        .query_one(
            "SELECT state, attempts, last_error, next_attempt_at - clock_timestamp()
                    BETWEEN '45 seconds' AND '75 seconds' FROM mail.messages WHERE id = $1",
            &[&id],
        )
        .unwrap();
    assert_eq!(
        (row.get::<_, &str>(0), row.get::<_, i32>(1)),
        ("deferred", 1)
    );
    assert_eq!(row.get::<_, &str>(2), "mailbox full");
    assert!(
        row.get::<_, bool>(3),
        "the first retry comes after a minute or so"
    );
    assert_eq!(claimed(&mut client, 1), [""; 0]);

    let second = put(&mut client, "y", "");
    let (_, token) = take(&mut client, "1 minute").unwrap();
    let _: String = one(
        &mut client,
        "SELECT mail.nack($1, $2, retry_after => '50 milliseconds')",
        &[&second, &token],
    );
    let attempt: i32 = one(
        &mut client,
        "SELECT attempt FROM mail.claim('work', wait => '10 seconds')",
        &[],
    );
    assert_eq!(attempt, 2);
}

#[test]
fn the_pauses_between_attempts_grow_up_to_the_longest() {
    let database = database();
    let mut client = work(&database);
    client
        .batch_execute(
            "UPDATE mail.queue SET retry_base = '10 milliseconds', retry_max = '40 milliseconds'
             WHERE name = 'work'",
        )
        .unwrap();
    let id = put(&mut client, "x", "");
    let mut pauses = Vec::new();
    for _ in 0..5 {
        let (_, token) = eventually("it is due again", SOON, || take(&mut client, "1 minute"));
        let _: String = one(&mut client, NACK, &[&id, &token]);
        let pause: f64 = one(
            &mut client,
            "SELECT extract(epoch FROM m.next_attempt_at - max(e.at))::float8
             FROM mail.messages m JOIN mail.events e ON e.message_id = m.id
             WHERE m.id = $1 GROUP BY m.next_attempt_at",
            &[&id],
        );
        pauses.push(pause * 1000.0);
    }
    for (pause, expected) in pauses.iter().zip([10.0, 20.0, 40.0, 40.0, 40.0]) {
        assert!((pause / expected - 1.0).abs() <= 0.25, "{pauses:?}");
    }
}

#[test]
fn a_message_fails_for_good_when_told_so_or_after_its_last_attempt() {
    let database = database();
    let mut client = work(&database);
    client
        .batch_execute(
            "UPDATE mail.queue SET max_attempts = 2, retry_base = '1 millisecond',
                    retry_max = '1 millisecond' WHERE name = 'work'",
        )
        .unwrap();
    let told = put(&mut client, "told", "");
    let (_, token) = take(&mut client, "1 minute").unwrap();
    let answer: String = one(
        &mut client,
        "SELECT mail.nack($1, $2, 'no such mailbox', permanent => true)",
        &[&told, &token],
    );
    assert_eq!(answer, "failed");

    let tried = put(&mut client, "tried", "");
    let (_, token) = take(&mut client, "1 minute").unwrap();
    assert_eq!(
        one::<String>(&mut client, NACK, &[&tried, &token]),
        "deferred"
    );
    let (_, token) = eventually("it is due again", SOON, || take(&mut client, "1 minute"));
    assert_eq!(
        one::<String>(&mut client, NACK, &[&tried, &token]),
        "failed"
    );

    let letters: Vec<i64> = all(
        &mut client,
        "SELECT id FROM mail.dead_letters WHERE queue = 'work' ORDER BY id",
        &[],
    );
    assert_eq!(letters, [told, tried]);
    let error: String = one(
        &mut client,
        "SELECT last_error FROM mail.dead_letters WHERE id = $1",
        &[&told],
    );
    assert_eq!(error, "no such mailbox");
}

#[test]
fn a_message_that_is_too_old_fails_at_its_next_refusal() {
    let database = database();
    let mut client = work(&database);
    client
        .batch_execute("UPDATE mail.queue SET give_up_after = '1 millisecond' WHERE name = 'work'")
        .unwrap();
    let id = put(&mut client, "x", "");
    until("it is old", SOON, || {
        one(
            &mut client,
            "SELECT enqueued_at + '2 milliseconds' < clock_timestamp() FROM mail.messages",
            &[],
        )
    });
    let (_, token) = take(&mut client, "1 minute").unwrap();
    assert_eq!(one::<String>(&mut client, NACK, &[&id, &token]), "failed");
}

#[test]
fn a_released_message_is_claimable_at_once_and_no_attempt_is_counted() {
    let database = database();
    let mut client = work(&database);
    let id = put(&mut client, "x", "");
    let (_, token) = take(&mut client, "1 hour").unwrap();
    assert!(one::<bool>(&mut client, RELEASE, &[&id, &token]));
    assert!(!one::<bool>(&mut client, RELEASE, &[&id, &token]));
    assert_eq!(state(&mut client, id), "queued");
    let attempt: i32 = one(&mut client, "SELECT attempt FROM mail.claim('work')", &[]);
    assert_eq!(attempt, 1);
}

#[test]
fn an_extended_lease_holds_longer() {
    let database = database();
    let mut client = work(&database);
    let id = put(&mut client, "x", "");
    let (_, token) = take(&mut client, "300 milliseconds").unwrap();
    let extended: bool = one(
        &mut client,
        "SELECT mail.extend($1, $2, '1 hour') - clock_timestamp()
                BETWEEN '59 minutes' AND '61 minutes'",
        &[&id, &token],
    );
    assert!(extended);
    let rows = client
        .query(
            "SELECT * FROM mail.claim('work', wait => '500 milliseconds')",
            &[],
        )
        .unwrap();
    assert!(
        rows.is_empty(),
        "the first lease's end has passed and nobody else got it"
    );
    assert!(one::<bool>(&mut client, ACK, &[&id, &token]));
}
