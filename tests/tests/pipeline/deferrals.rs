//! Replies that put a mail off or end it, at each step of the session.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use pgmq_mail_tests::{Action, Phase, Sink};

use crate::{SOON, World};

const STEPS: [Phase; 4] = [Phase::Mail, Phase::Rcpt, Phase::Data, Phase::Dot];

#[test]
fn a_mail_that_is_put_off_at_any_step_is_sent_later_as_it_was() {
    for step in STEPS {
        let tries = AtomicUsize::new(0);
        let sink = Sink::scripted(move |event| {
            if event.phase == step && tries.fetch_add(1, Ordering::Relaxed) < 2 {
                Action::reply("451 4.3.0 Try again later")
            } else {
                Action::Accept
            }
        });
        let mut world = World::with(&sink);
        let id = world.put("alice@example.test", "put off", "");
        world.reaches(id, "sent");
        assert_eq!(
            world.kinds(id),
            ["deferred", "deferred", "sent"],
            "{}",
            world.story(id)
        );
        assert_eq!(world.attempts(id), 3);
        let events: i64 = world.one(
            "SELECT count(*) FROM mail.events WHERE message_id = $1 AND kind = 'deferred' AND code = 451
               AND status = '4.3.0' AND relay = 'main' AND recipient = 'alice@example.test'
               AND text LIKE '%Try again later' AND state IS NULL AND phase = $2",
            &[&id, &format!("{step:?}").to_lowercase()],
        );
        assert_eq!(events, 2, "{}", world.story(id));
        assert_eq!(sink.wait_for(1, SOON).len(), 1);
        assert_eq!(world.health(), [""; 0]);
    }
}

#[test]
fn every_attempt_sends_the_same_bytes() {
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&attempts);
    let sink = Sink::scripted(move |event| {
        if event.phase != Phase::Dot {
            return Action::Accept;
        }
        let mut seen = seen.lock().expect("nobody panics");
        seen.push(event.data.to_vec());
        match seen.len() {
            1 => Action::reply("452 4.3.1 No room"),
            2 => Action::Drop,
            3 => Action::AcceptAndDrop,
            _ => Action::Accept,
        }
    });
    let mut world = World::with(&sink);
    let id: i64 = world.one(
        "SELECT mail.enqueue('alice@example.test', 'both', 'plain', '<p>HTML äöü</p>')",
        &[],
    );
    world.reaches(id, "sent");
    assert_eq!(
        world.kinds(id),
        ["deferred", "uncertain", "uncertain", "sent"],
        "{}",
        world.story(id)
    );
    let attempts = attempts.lock().expect("nobody panics");
    assert_eq!(attempts.len(), 4);
    assert!(attempts.windows(2).all(|pair| pair[0] == pair[1]));
    let text = String::from_utf8_lossy(&attempts[0]);
    let message_id: String =
        world.one("SELECT message_id FROM mail.messages WHERE id = $1", &[&id]);
    assert!(
        text.contains(&format!("\r\nMessage-ID: {message_id}\r\n")),
        "{text}"
    );
}

#[test]
fn pauses_between_attempts_double_from_the_queues_base() {
    let sink = Sink::scripted(|event| match event.phase {
        Phase::Dot => Action::reply("451 4.3.0 Later"),
        _ => Action::Accept,
    });
    let mut world = World::with(&sink);
    world.queue(
        "default",
        &[("retry_base", "20 seconds"), ("retry_max", "1 minute")],
    );
    let id = world.put("alice@example.test", "later", "");
    for (attempt, longest) in [(1, 20.0), (2, 40.0), (3, 60.0), (4, 60.0)] {
        world.until(&format!(
            "SELECT state = 'deferred' AND attempts = {attempt} FROM mail.messages WHERE id = {id}"
        ));
        let pause: f64 = world.one(
            "SELECT extract(epoch FROM m.next_attempt_at - e.at)::float8 FROM mail.messages m
             JOIN mail.events e ON e.message_id = m.id WHERE m.id = $1 ORDER BY e.id DESC LIMIT 1",
            &[&id],
        );
        assert!(
            (longest * 0.89..longest * 1.11).contains(&pause),
            "attempt {attempt}: {pause} s"
        );
        assert_eq!(
            world.one::<i32>("SELECT last_code FROM mail.messages WHERE id = $1", &[&id]),
            451
        );
        if attempt == 4 {
            sink.clear_script();
        }
        // The clock is the test's.
        world.run(&format!(
            "UPDATE mail.pending SET due_at = clock_timestamp() WHERE id = {id}"
        ));
    }
    world.reaches(id, "sent");
    assert_eq!(world.attempts(id), 5);
}

#[test]
fn a_mail_that_is_refused_at_any_step_is_a_dead_letter_with_the_reason() {
    for step in STEPS {
        let sink = Sink::scripted(move |event| {
            if event.phase == step {
                Action::reply("554-5.7.1 We do not\r\n554 5.7.1 want this")
            } else {
                Action::Accept
            }
        });
        let mut world = World::with(&sink);
        let id = world.put("alice@example.test", "refused", "");
        world.reaches(id, "failed");
        assert_eq!(world.kinds(id), ["failed"], "{}", world.story(id));
        let letter: bool = world.one(
            "SELECT attempts = 1 AND last_code = 554 AND last_status = '5.7.1' AND retryable
                    AND last_error LIKE '%We do not%want this' FROM mail.dead_letters WHERE id = $1",
            &[&id],
        );
        assert!(letter, "{}", world.story(id));
        assert_eq!(sink.count(), 0);
        sink.clear_script();
        assert!(world.one::<bool>("SELECT mail.retry($1)", &[&id]));
        world.reaches(id, "sent");
        assert_eq!(
            world.one::<i64>("SELECT count(*) FROM mail.dead_letters", &[]),
            0
        );
    }
}

#[test]
fn a_mail_whose_connection_breaks_before_the_final_dot_is_put_off() {
    for step in [Phase::Mail, Phase::Rcpt, Phase::Data] {
        let tries = AtomicUsize::new(0);
        let sink = Sink::scripted(move |event| {
            if event.phase == step && tries.fetch_add(1, Ordering::Relaxed) == 0 {
                Action::Drop
            } else {
                Action::Accept
            }
        });
        let mut world = World::with(&sink);
        let id = world.put("alice@example.test", "broken off", "");
        world.reaches(id, "sent");
        assert_eq!(world.kinds(id), ["deferred", "sent"], "{}", world.story(id));
        assert_eq!(sink.wait_for(1, SOON).len(), 1);
    }
}
