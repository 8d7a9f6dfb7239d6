//! Retries by the worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use pgmq_mail_tests::{Action, Phase, Sink, all, one, reaches, run_sql};

use crate::{delivering, put, served};

/// A sink that answers the first final dots for subject `x` like this, and then accepts.
fn refusing(times: usize, reply: &'static str) -> (Sink, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let sink = Sink::scripted(move |event| {
        let ours = event.phase == Phase::Dot
            && event.data.windows(12).any(|text| text == b"Subject: x\r\n");
        if ours && counter.fetch_add(1, SeqCst) < times {
            return Action::reply(reply);
        }
        Action::Accept
    });
    (sink, seen)
}

#[test]
fn a_message_is_tried_again_until_it_is_accepted() {
    let (sink, seen) = refusing(3, "451 4.3.0 try again");
    let (_database, mut client) = served();
    delivering(&mut client, &sink);
    run_sql(
        &mut client,
        "UPDATE mail.queue SET retry_base = '50 milliseconds', retry_max = '200 milliseconds' WHERE name = 'out'",
    );
    let id = put(&mut client, "x", ", queue => 'out'");
    reaches(&mut client, id, "sent");
    assert_eq!(seen.load(SeqCst), 4);
    let events: Vec<String> = all(
        &mut client,
        "SELECT concat_ws(' ', kind, attempt, code) FROM mail.events WHERE message_id = $1 ORDER BY id",
        &[&id],
    );
    assert_eq!(
        events,
        [
            "deferred 1 451",
            "deferred 2 451",
            "deferred 3 451",
            "sent 4 250"
        ]
    );
    let pauses: Vec<f64> = all(
        &mut client,
        "SELECT extract(epoch FROM at - lag(at) OVER (ORDER BY id))::float8 FROM mail.events WHERE message_id = $1
         ORDER BY id OFFSET 1",
        &[&id],
    );
    for (pause, least) in pauses.iter().zip([0.045, 0.09, 0.18]) {
        assert!(*pause >= least, "{pauses:?}");
    }
}

#[test]
fn a_message_is_given_up_after_its_last_attempt_and_can_be_put_back() {
    let (sink, seen) = refusing(2, "451 4.3.0 try again");
    let (_database, mut client) = served();
    delivering(&mut client, &sink);
    run_sql(
        &mut client,
        "UPDATE mail.queue SET retry_base = '20 milliseconds', retry_max = '20 milliseconds', max_attempts = 2 WHERE name = 'out'",
    );
    let id = put(&mut client, "x", ", queue => 'out'");
    reaches(&mut client, id, "failed");
    assert_eq!(seen.load(SeqCst), 2);
    let letter: String = one(
        &mut client,
        "SELECT last_error FROM mail.dead_letters WHERE id = $1",
        &[&id],
    );
    assert!(letter.contains("try again"), "{letter}");
    assert!(one::<bool>(&mut client, "SELECT mail.retry($1)", &[&id]));
    reaches(&mut client, id, "sent");
    assert_eq!(
        one::<i64>(&mut client, "SELECT count(*) FROM mail.dead_letters", &[]),
        0
    );
}

#[test]
fn a_permanent_refusal_is_a_dead_letter_at_once() {
    let (sink, seen) = refusing(1, "554 5.7.1 no");
    let (_database, mut client) = served();
    delivering(&mut client, &sink);
    let id = put(&mut client, "x", ", queue => 'out'");
    reaches(&mut client, id, "failed");
    assert_eq!(seen.load(SeqCst), 1);
}

#[test]
fn a_message_expires_while_it_waits_for_its_retry() {
    let (sink, seen) = refusing(100, "451 4.3.0 try again");
    let (_database, mut client) = served();
    delivering(&mut client, &sink);
    let id = put(
        &mut client,
        "x",
        ", queue => 'out', expires_at => clock_timestamp() + interval '1 second'",
    );
    reaches(&mut client, id, "expired");
    assert_eq!(
        seen.load(SeqCst),
        1,
        "the next attempt would have come after it"
    );
}
