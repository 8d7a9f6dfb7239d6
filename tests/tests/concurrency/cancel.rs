//! `mail.cancel` racing with those that deliver.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use pgmq_mail_tests::{
    Action, Cluster, Gate, Phase, SOON, Sink, blocks, one, pid, reaches, run_sql, state, until,
};

use crate::{delivering, external, put, served};

const CANCEL: &str = "SELECT mail.cancel($1)";
const CLAIM: &str = "SELECT id FROM mail.claim('work')";

#[test]
fn a_cancel_waits_for_a_claim_and_is_false_when_it_commits() {
    let (database, mut client) = external();
    let id = put(&mut client, "x", ", queue => 'work'");
    let mut claim = client.transaction().unwrap();
    assert_eq!(one::<i64>(&mut claim, CLAIM, &[]), id);
    let mut other = database.connect();
    let process = pid(&mut other);
    let cancel = std::thread::spawn(move || one::<bool>(&mut other, CANCEL, &[&id]));
    blocks(&mut database.connect(), process);
    claim.commit().unwrap();
    assert!(!cancel.join().unwrap());
    assert_eq!(state(&mut client, id), "sending");
}

#[test]
fn a_cancel_waits_for_a_claim_and_is_true_when_it_rolls_back() {
    let (database, mut client) = external();
    let id = put(&mut client, "x", ", queue => 'work'");
    let mut claim = client.transaction().unwrap();
    assert_eq!(one::<i64>(&mut claim, CLAIM, &[]), id);
    let mut other = database.connect();
    let process = pid(&mut other);
    let cancel = std::thread::spawn(move || one::<bool>(&mut other, CANCEL, &[&id]));
    blocks(&mut database.connect(), process);
    claim.rollback().unwrap();
    assert!(cancel.join().unwrap());
    assert_eq!(state(&mut client, id), "cancelled");
}

#[test]
fn a_claim_passes_over_what_is_being_cancelled() {
    let (database, mut client) = external();
    let id = put(&mut client, "x", ", queue => 'work'");
    let mut cancel = client.transaction().unwrap();
    assert!(one::<bool>(&mut cancel, CANCEL, &[&id]));
    let mut other = database.connect();
    assert!(other.query(CLAIM, &[]).unwrap().is_empty());
    cancel.rollback().unwrap();
    assert_eq!(one::<i64>(&mut other, CLAIM, &[]), id);
}

#[test]
fn every_message_is_either_cancelled_or_delivered() {
    const TOTAL: usize = 300;
    let (database, mut client) = external();
    let ids: Vec<i64> = (0..TOTAL)
        .map(|n| put(&mut client, &n.to_string(), ", queue => 'work'"))
        .collect();
    let (cancelled, acked) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let (cancelled, acked, ids) = (&cancelled, &acked, &ids);
        for start in 0..2 {
            let mut client = database.connect();
            scope.spawn(move || {
                until("somebody delivers", SOON, || acked.load(SeqCst) > 0);
                for id in ids.iter().rev().skip(start).step_by(2) {
                    cancelled
                        .fetch_add(usize::from(one::<bool>(&mut client, CANCEL, &[id])), SeqCst);
                }
            });
        }
        for _ in 0..3 {
            let mut client = database.connect();
            scope.spawn(move || {
                let begin = Instant::now();
                while cancelled.load(SeqCst) + acked.load(SeqCst) < TOTAL {
                    assert!(begin.elapsed() < Cluster::PATIENCE);
                    for row in client
                        .query("SELECT id, token FROM mail.claim('work', batch => 2)", &[])
                        .unwrap()
                    {
                        let (id, token): (i64, i64) = (row.get(0), row.get(1));
                        assert!(one::<bool>(
                            &mut client,
                            "SELECT mail.ack($1::bigint, $2)",
                            &[&id, &token]
                        ));
                        acked.fetch_add(1, SeqCst);
                    }
                }
            });
        }
    });
    let counts = ["sent", "cancelled"].map(|state| {
        let query = "SELECT count(*) FROM mail.messages WHERE queue = 'work' AND state = $1";
        one::<i64>(&mut client, query, &[&state])
    });
    assert_eq!(
        counts,
        [acked.into_inner() as i64, cancelled.into_inner() as i64]
    );
    assert_eq!(counts.iter().sum::<i64>(), TOTAL as i64);
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

/// A mail in flight at a gate, and a session in which it is known as `first`.
fn while_a_transaction_holds(statement: impl FnOnce(&mut postgres::Transaction<'_>, i64)) {
    let gate = Gate::new();
    let hold = gate.clone();
    let sink = Sink::scripted(move |event| {
        if event.phase == Phase::Dot && event.data.windows(9).any(|text| text == b"held here") {
            hold.pass();
        }
        Action::Accept
    });
    let (database, mut client) = served();
    delivering(&mut client, &sink);
    let first = put(
        &mut client,
        "held here",
        ", queue => 'out', supersede_key => 'k'",
    );
    until("it is in flight", SOON, || gate.waiting() == 1);
    let mut other = database.connect();
    let mut open = other.transaction().unwrap();
    statement(&mut open, first);
    gate.open();
    let second = put(&mut client, "second", ", queue => 'out'");
    reaches(&mut client, second, "sent");
    reaches(&mut client, first, "sent");
    open.rollback().unwrap();
}

#[test]
fn a_transaction_that_tried_to_cancel_what_is_in_flight_holds_up_no_delivery() {
    while_a_transaction_holds(|open, first| assert!(!one::<bool>(open, CANCEL, &[&first])));
}

#[test]
fn a_transaction_that_tried_to_supersede_what_is_in_flight_holds_up_no_delivery() {
    while_a_transaction_holds(|open, _| {
        put(open, "newer", ", queue => 'out', supersede_key => 'k'");
    });
}

#[test]
fn a_purge_takes_what_waits_and_leaves_what_is_in_flight() {
    let (_database, mut client) = external();
    let flying = put(&mut client, "flying", ", queue => 'work'");
    let row = client
        .query_one("SELECT id, token FROM mail.claim('work')", &[])
        .unwrap();
    let waiting = put(&mut client, "waiting", ", queue => 'work'");
    assert_eq!(one::<i64>(&mut client, "SELECT mail.purge('work')", &[]), 1);
    assert_eq!(
        [flying, waiting].map(|id| state(&mut client, id)),
        ["sending", "cancelled"]
    );
    run_sql(
        &mut client,
        &format!(
            "SELECT mail.ack({flying}::bigint, {})",
            row.get::<_, i64>(1)
        ),
    );
    assert_eq!(state(&mut client, flying), "sent");
}
