//! A connection that breaks after the final dot: the relay may have the mail.

use std::sync::atomic::{AtomicUsize, Ordering};

use pgmq_mail_tests::{Action, Phase, Sink};
use postgres::error::SqlState;

use crate::{SOON, World};

/// Breaks the connection after the first `times` final dots, having accepted the mail or not.
fn breaks(times: usize, accepts: bool) -> Sink {
    let tries = AtomicUsize::new(0);
    Sink::scripted(move |event| {
        let bad = event.phase == Phase::Dot && tries.fetch_add(1, Ordering::Relaxed) < times;
        match (bad, accepts) {
            (false, _) => Action::Accept,
            (true, true) => Action::AcceptAndDrop,
            (true, false) => Action::Drop,
        }
    })
}

#[test]
fn a_queue_that_retries_repeats_what_is_uncertain_with_the_same_identity() {
    let sink = breaks(1, true);
    let mut world = World::with(&sink);
    let id = world.put("alice@example.test", "perhaps", "");
    world.reaches(id, "sent");
    assert_eq!(
        world.kinds(id),
        ["uncertain", "sent"],
        "{}",
        world.story(id)
    );
    assert_eq!(world.attempts(id), 2);
    let mails = sink.wait_for(2, SOON);
    assert_eq!(mails.len(), 2);
    assert_eq!(mails[0].data, mails[1].data);
    let event: bool = world.one(
        "SELECT phase = 'dot' AND code IS NULL AND relay = 'main' AND text <> '' AND state IS NULL
         FROM mail.events WHERE message_id = $1 AND kind = 'uncertain'",
        &[&id],
    );
    assert!(event, "{}", world.story(id));
}

#[test]
fn a_queue_that_holds_leaves_what_is_uncertain_to_a_person() {
    for accepts in [true, false] {
        let sink = breaks(1, accepts);
        let mut world = World::with(&sink);
        world.queue("default", &[("on_uncertain", "hold")]);
        let id = world.put("alice@example.test", "perhaps", "");
        world.reaches(id, "uncertain");
        assert_eq!(world.kinds(id), ["held"], "{}", world.story(id));
        let letter: bool = world.one(
            "SELECT state = 'uncertain' AND attempts = 1 AND retryable AND last_code IS NULL
                    AND last_error <> '' FROM mail.dead_letters WHERE id = $1",
            &[&id],
        );
        assert!(letter, "{}", world.story(id));
        world.ails("uncertain", "1 message");
        // The next one goes on, and nothing repeats the first but a person who names it.
        let next = world.put("alice@example.test", "next", "");
        world.reaches(next, "sent");
        let count: i64 = world.one("SELECT mail.retry_dead_letters('default')", &[]);
        assert_eq!(count, 0);
        assert_eq!(sink.count(), 1 + usize::from(accepts));
        assert_eq!(world.state(id), "uncertain");
        assert!(world.one::<bool>("SELECT mail.retry($1)", &[&id]));
        world.reaches(id, "sent");
        assert_eq!(sink.count(), 2 + usize::from(accepts));
        assert_eq!(world.health(), [""; 0]);
    }
}

#[test]
fn what_is_held_may_not_be_cancelled_as_if_it_had_never_been_sent() {
    let sink = breaks(1, true);
    let mut world = World::with(&sink);
    world.queue("default", &[("on_uncertain", "hold")]);
    let id = world.put("alice@example.test", "perhaps", "");
    world.reaches(id, "uncertain");
    let cancelled = world.client.query_one("SELECT mail.cancel($1)", &[&id]);
    match cancelled {
        Ok(row) => assert!(!row.get::<_, bool>(0), "it may have been delivered"),
        Err(error) => assert_eq!(
            error.code(),
            Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE)
        ),
    }
}

#[test]
fn recipients_that_were_refused_before_stay_so_in_an_uncertain_mail() {
    let tries = AtomicUsize::new(0);
    let sink = Sink::scripted(move |event| match (event.phase, event.address()) {
        (Phase::Rcpt, "gone@example.test") => Action::reply("550 5.1.1 No such user"),
        (Phase::Dot, _) if tries.fetch_add(1, Ordering::Relaxed) == 0 => Action::AcceptAndDrop,
        _ => Action::Accept,
    });
    let mut world = World::with(&sink);
    world.queue("default", &[("on_uncertain", "hold")]);
    let id = world.put(
        "a@example.test, gone@example.test, b@example.test",
        "perhaps",
        "",
    );
    world.reaches(id, "uncertain");
    let kinds: Vec<String> = world.all(
        "SELECT split_part(recipient, '@', 1) || ' ' || kind FROM mail.events WHERE message_id = $1
         ORDER BY recipient",
        &[&id],
    );
    assert_eq!(
        kinds,
        ["a held", "b held", "gone failed"],
        "{}",
        world.story(id)
    );
    assert!(world.one::<bool>("SELECT mail.retry($1)", &[&id]));
    world.reaches(id, "failed");
    let mails = sink.wait_for(2, SOON);
    assert_eq!(mails[1].recipients, ["a@example.test", "b@example.test"]);
}

#[test]
fn a_relay_that_always_breaks_off_after_the_dot_ends_in_a_dead_letter() {
    let sink = breaks(usize::MAX, true);
    let mut world = World::with(&sink);
    world.queue(
        "default",
        &[("max_attempts", "3"), ("retry_max", "200 milliseconds")],
    );
    let id = world.put("alice@example.test", "perhaps", "");
    world.reaches(id, "failed");
    assert_eq!(world.attempts(id), 3, "{}", world.story(id));
    assert_eq!(sink.count(), 3);
    let letters: i64 = world.one(
        "SELECT count(*) FROM mail.dead_letters WHERE id = $1",
        &[&id],
    );
    assert_eq!(letters, 1);
}

#[test]
fn many_in_flight_on_connections_that_break_are_each_accounted_for() {
    let tries = AtomicUsize::new(0);
    let sink = Sink::scripted(move |event| {
        let third = event.phase == Phase::Dot && tries.fetch_add(1, Ordering::Relaxed) % 3 == 2;
        if third { Action::Drop } else { Action::Accept }
    });
    let mut world = World::with(&sink);
    world.queue("default", &[("on_uncertain", "hold")]);
    world.put_many(150, "");
    world.idle("default");
    let sent: i64 = world.one(
        "SELECT count(*) FROM mail.messages WHERE state = 'sent'",
        &[],
    );
    let held: i64 = world.one(
        "SELECT count(*) FROM mail.messages WHERE state = 'uncertain'",
        &[],
    );
    assert_eq!((sent as usize, sent + held), (sink.count(), 150));
    assert_eq!(held, 50);
}
