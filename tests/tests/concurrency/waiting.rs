//! `mail.claim` with `wait` returns as soon as something is claimable.

use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use pgmq_mail_tests::{Database, SOON, all, eventually, one, pid, run_sql, sleeps, until};

use crate::{external, put, put_claimed};

/// A waiting claim looks by itself after five seconds: what comes within three was announced.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A session that waits in `mail.claim`.
struct Waiter(Receiver<Vec<i64>>);

impl Waiter {
    /// Starts one; it sleeps when this returns.
    fn start(database: &Database<'_>, queue: &str, wait: &str) -> Self {
        let mut client = database.connect();
        let process = pid(&mut client);
        let (sender, receiver) = mpsc::channel();
        let claim = format!("SELECT id FROM mail.claim('{queue}', wait => '{wait}')");
        std::thread::spawn(move || sender.send(all::<i64>(&mut client, &claim, &[])));
        sleeps(&mut database.connect(), process);
        Self(receiver)
    }

    #[track_caller]
    fn gets(&self, within: Duration) -> Vec<i64> {
        self.0
            .recv_timeout(within)
            .expect("the claim returns in time")
    }

    fn still_waits(&self) -> bool {
        self.0.try_recv().is_err()
    }
}

#[test]
fn a_waiting_claim_returns_at_the_commit_and_not_before() {
    let (database, mut client) = external();
    let waiter = Waiter::start(&database, "work", "30 seconds");
    let mut transaction = client.transaction().unwrap();
    let id = put(&mut transaction, "x", ", queue => 'work'");
    assert!(waiter.still_waits());
    transaction.commit().unwrap();
    assert_eq!(waiter.gets(AT_ONCE), [id]);
}

#[test]
fn a_waiting_claim_is_not_woken_by_a_rollback() {
    let (database, mut client) = external();
    let waiter = Waiter::start(&database, "work", "30 seconds");
    let mut transaction = client.transaction().unwrap();
    let gone = put(&mut transaction, "gone", ", queue => 'work'");
    transaction.rollback().unwrap();
    assert!(waiter.still_waits());
    let id = put(&mut client, "x", ", queue => 'work'");
    assert_eq!(waiter.gets(AT_ONCE), [id]);
    assert_ne!(id, gone);
}

#[test]
fn each_of_several_waiting_claims_gets_its_own_message() {
    let (database, mut client) = external();
    let waiters: Vec<_> = (0..4)
        .map(|_| Waiter::start(&database, "work", "30 seconds"))
        .collect();
    let ids: Vec<i64> = (0..4)
        .map(|n| put(&mut client, &n.to_string(), ", queue => 'work'"))
        .collect();
    let mut got: Vec<i64> = waiters
        .iter()
        .flat_map(|waiter| waiter.gets(AT_ONCE))
        .collect();
    got.sort_unstable();
    assert_eq!(got, ids);
}

#[test]
fn a_waiting_claim_returns_when_a_scheduled_message_falls_due() {
    let (database, mut client) = external();
    let waiter = Waiter::start(&database, "work", "30 seconds");
    let begin = Instant::now();
    let id = put(
        &mut client,
        "x",
        ", queue => 'work', send_at => clock_timestamp() + interval '700 milliseconds'",
    );
    assert_eq!(waiter.gets(AT_ONCE), [id]);
    assert!(begin.elapsed() >= Duration::from_millis(600));
}

#[test]
fn a_waiting_claim_returns_when_a_message_is_released() {
    let (database, mut client) = external();
    let (id, token) = put_claimed(&mut client, "work", "1 hour", "");
    let waiter = Waiter::start(&database, "work", "30 seconds");
    assert!(one::<bool>(
        &mut client,
        "SELECT mail.release($1, $2)",
        &[&id, &token]
    ));
    assert_eq!(waiter.gets(AT_ONCE), [id]);
}

#[test]
fn a_waiting_claim_returns_when_a_lease_ends() {
    let (database, mut client) = external();
    let (id, _) = put_claimed(&mut client, "work", "500 milliseconds", "");
    let waiter = Waiter::start(&database, "work", "30 seconds");
    assert_eq!(waiter.gets(AT_ONCE), [id]);
}

#[test]
fn a_waiting_claim_returns_when_a_lease_ends_that_began_while_it_waited() {
    let (database, mut client) = external();
    let waiter = Waiter::start(&database, "work", "30 seconds");
    let (id, _) = put_claimed(&mut client, "work", "500 milliseconds", "");
    assert_eq!(waiter.gets(AT_ONCE), [id]);
}

#[test]
fn a_waiting_claim_returns_when_the_claim_of_another_rolls_back() {
    let (database, mut client) = external();
    let id = put(&mut client, "x", ", queue => 'work'");
    let mut other = client.transaction().unwrap();
    assert_eq!(
        one::<i64>(&mut other, "SELECT id FROM mail.claim('work')", &[]),
        id
    );
    let waiter = Waiter::start(&database, "work", "30 seconds");
    other.rollback().unwrap();
    assert_eq!(waiter.gets(AT_ONCE), [id]);
}

#[test]
fn a_waiting_claim_returns_when_the_next_of_an_ordering_key_may_go() {
    let (database, mut client) = external();
    let (head, token) = put_claimed(&mut client, "work", "1 hour", ", ordering_key => 'k'");
    let next = put(
        &mut client,
        "next",
        ", queue => 'work', ordering_key => 'k'",
    );
    let waiter = Waiter::start(&database, "work", "30 seconds");
    assert!(one::<bool>(
        &mut client,
        "SELECT mail.ack($1::bigint, $2)",
        &[&head, &token]
    ));
    assert_eq!(waiter.gets(AT_ONCE), [next]);
}

#[test]
fn a_waiting_claim_returns_when_its_queue_is_resumed() {
    let (database, mut client) = external();
    run_sql(&mut client, "SELECT mail.pause('work')");
    let id = put(&mut client, "x", ", queue => 'work'");
    let waiter = Waiter::start(&database, "work", "30 seconds");
    run_sql(&mut client, "SELECT mail.resume('work')");
    assert_eq!(waiter.gets(AT_ONCE), [id]);
}

#[test]
fn a_wait_that_is_over_returns_nothing() {
    let (database, mut client) = external();
    let begin = Instant::now();
    let rows = client
        .query(
            "SELECT id FROM mail.claim('work', wait => '400 milliseconds')",
            &[],
        )
        .unwrap();
    assert!(rows.is_empty());
    assert!(begin.elapsed() >= Duration::from_millis(390));
    let waiter = Waiter::start(&database, "work", "500 milliseconds");
    assert!(waiter.gets(SOON).is_empty());
}

#[test]
fn a_waiting_claim_is_cancelled_like_any_statement() {
    let (database, mut client) = external();
    let mut waiting = database.connect();
    let process = pid(&mut waiting);
    let thread = std::thread::spawn(move || {
        pgmq_mail_tests::code(
            waiting.query("SELECT id FROM mail.claim('work', wait => '1 hour')", &[]),
        )
    });
    sleeps(&mut client, process);
    assert!(one::<bool>(
        &mut client,
        "SELECT pg_cancel_backend($1)",
        &[&process]
    ));
    assert_eq!(
        thread.join().unwrap(),
        postgres::error::SqlState::QUERY_CANCELED
    );
}

/// What a claim that waits in one queue does on the way must not stay hidden until its wait is over.
#[test]
fn a_claim_that_waits_in_one_queue_holds_up_no_other() {
    let (database, mut client) = external();
    run_sql(
        &mut client,
        "INSERT INTO mail.queue (name, transport) VALUES ('quiet', 'external')",
    );
    let (id, _) = put_claimed(&mut client, "work", "700 milliseconds", "");
    let _quiet = Waiter::start(&database, "quiet", "20 seconds");
    until(
        "the lease is over, and whoever looked has looked",
        SOON,
        || {
            one(
                &mut client,
                "SELECT coalesce(clock_timestamp() > max(lease_until) + interval '300 milliseconds', true) FROM mail.lease",
                &[],
            )
        },
    );
    let claim = format!(
        "SELECT id FROM mail.claim('work', wait => '{} milliseconds')",
        AT_ONCE.as_millis()
    );
    assert_eq!(all::<i64>(&mut client, &claim, &[]), [id]);
}

/// A head that a waiting claim has looked at and may not take: its row must be free for whoever lets it go.
#[test]
fn an_ack_does_not_wait_for_a_claim_that_waits() {
    let (database, mut client) = external();
    let key = ", queue => 'work', ordering_key => 'k'";
    let mut slow = database.connect();
    let mut late = slow.transaction().unwrap();
    let first = put(&mut late, "commits late", key);
    let (second, token) = put_claimed(&mut client, "work", "1 hour", ", ordering_key => 'k'");
    late.commit().unwrap();
    let waiter = Waiter::start(&database, "work", "20 seconds");
    run_sql(&mut client, "SET lock_timeout = '3s'");
    assert!(one::<bool>(
        &mut client,
        "SELECT mail.ack($1::bigint, $2)",
        &[&second, &token]
    ));
    assert_eq!(waiter.gets(AT_ONCE), [first]);
}

#[test]
fn a_client_that_is_gone_claims_nothing() {
    let (database, mut client) = external();
    let mut consumer = database
        .cluster()
        .program("psql")
        .env("PGDATABASE", database.name())
        .env("PGAPPNAME", "consumer")
        .args([
            "-X",
            "-c",
            "SELECT mail.claim('work', wait => '10 minutes')",
        ])
        .spawn()
        .expect("psql starts");
    let find = "SELECT pid FROM pg_stat_activity WHERE application_name = 'consumer' AND wait_event_type = 'Extension'";
    let sleeper = eventually("the consumer waits", SOON, || {
        all::<i32>(&mut client, find, &[]).pop()
    });
    consumer.kill().expect("it is killed");
    consumer.wait().expect("it is gone");
    let id = put(&mut client, "x", ", queue => 'work'");
    until("its session is gone", SOON, || {
        let there = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)";
        one(&mut client, there, &[&sleeper])
    });
    let claim = "SELECT id FROM mail.claim('work')";
    assert_eq!(all::<i64>(&mut client, claim, &[]), [id]);
}
