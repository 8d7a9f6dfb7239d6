//! 421: the relay's state, and not the message's.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pgmq_mail_tests::{Action, Phase, Sink};

use crate::{SOON, World};

#[test]
fn a_relay_that_closes_at_any_step_costs_no_attempt() {
    let steps = [
        Phase::Connect,
        Phase::Ehlo,
        Phase::Mail,
        Phase::Rcpt,
        Phase::Data,
        Phase::Dot,
    ];
    for step in steps {
        let tries = AtomicUsize::new(0);
        let sink = Sink::scripted(move |event| {
            if event.phase == step && tries.fetch_add(1, Ordering::Relaxed) == 0 {
                Action::ReplyAndDrop("421 4.3.2 Going down".to_owned())
            } else {
                Action::Accept
            }
        });
        let mut world = World::with(&sink);
        let id = world.put("alice@example.test", "closing", "");
        world.reaches(id, "sent");
        assert_eq!(world.attempts(id), 1, "at {step:?}: {}", world.story(id));
        assert_eq!(
            world.kinds(id),
            ["released", "sent"],
            "at {step:?}: {}",
            world.story(id)
        );
        let told: String = world.one(
            "SELECT relay || ': ' || text FROM mail.events WHERE message_id = $1 AND kind = 'released'",
            &[&id],
        );
        assert!(told.starts_with("main: ") && told.contains("421"), "{told}");
        assert_eq!(sink.wait_for(1, SOON).len(), 1);
        world.until("SELECT NOT EXISTS (SELECT FROM mail.health())");
    }
}

#[test]
fn while_a_relay_keeps_closing_its_mails_wait_and_health_says_so() {
    let sink = Sink::scripted(|event| match event.phase {
        Phase::Connect => Action::ReplyAndDrop("421 4.7.0 Too many connections".to_owned()),
        _ => Action::Accept,
    });
    let mut world = World::with(&sink);
    let ids = world.put_many(20, "");
    world.ails("relay", "421");
    world.until(
        "SELECT EXISTS (SELECT FROM mail.relay_stats WHERE failures >= 2 AND relay = 'main')",
    );
    for id in &ids {
        assert_eq!(world.attempts(*id), 0);
    }
    sink.clear_script();
    sink.wait_for(20, SOON);
    world.idle("default");
    assert_eq!(
        world.one::<i64>(
            "SELECT count(*) FROM mail.messages WHERE state = 'sent' AND attempts = 1",
            &[]
        ),
        20
    );
    world.until("SELECT NOT EXISTS (SELECT FROM mail.health())");
}

#[test]
fn a_relay_that_takes_only_some_connections_gets_everything_through_those() {
    let refused = AtomicUsize::new(0);
    let sink = Sink::scripted(move |event| {
        let crowded = event.phase == Phase::Connect && event.connection % 3 == 2;
        if crowded && refused.fetch_add(1, Ordering::Relaxed) < 30 {
            Action::ReplyAndDrop("421 4.7.0 Too many connections from you".to_owned())
        } else {
            Action::Accept
        }
    });
    let mut world = World::with(&sink);
    world.put_many(500, "");
    sink.wait_for(500, SOON);
    world.idle("default");
    assert_eq!(sink.count(), 500);
    assert_eq!(
        world.one::<i64>(
            "SELECT count(*) FROM mail.messages WHERE state = 'sent' AND attempts = 1",
            &[]
        ),
        500
    );
}

#[test]
fn a_kept_connection_that_the_relay_closed_is_replaced_without_a_trace() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    for (n, id) in (1..=4)
        .map(|n| (n, world.put("alice@example.test", "kept", "")))
        .collect::<Vec<_>>()
    {
        world.reaches(id, "sent");
        if n == 4 {
            sink.drop_connections();
        }
    }
    for n in 5..=8 {
        let id = world.put("alice@example.test", "fresh", "");
        world.reaches(id, "sent");
        assert_eq!(world.kinds(id), ["sent"], "{}", world.story(id));
        assert_eq!(sink.wait_for(n, SOON).len(), n);
        sink.drop_connections();
    }
    assert_eq!(world.health(), [""; 0]);
}

#[test]
fn a_relay_that_says_goodbye_to_idle_connections_is_not_in_trouble() {
    // 421 to the second mail of each connection, as after an idle timeout.
    let sink = Sink::scripted(|event| {
        if event.phase == Phase::Mail && event.mails == 1 {
            Action::ReplyAndDrop("421 4.4.2 Idle for too long".to_owned())
        } else {
            Action::Accept
        }
    });
    let mut world = World::with(&sink);
    for n in 1..=6 {
        let id = world.put("alice@example.test", "one by one", "");
        world.reaches(id, "sent");
        assert_eq!(world.attempts(id), 1);
        assert_eq!(world.kinds(id), ["sent"], "{}", world.story(id));
        assert_eq!(sink.wait_for(n, SOON).len(), n);
    }
    assert_eq!(world.health(), [""; 0]);
}

#[test]
fn a_relay_that_was_restarted_while_many_connections_were_idle_is_not_in_trouble() {
    let sink = Sink::scripted(|event| match event.phase {
        Phase::Dot => Action::Accept.after(Duration::from_millis(150)),
        _ => Action::Accept,
    });
    let mut world = World::with(&sink);
    world.put_many(40, "");
    sink.wait_for(40, SOON);
    world.idle("default");
    assert!(sink.open() >= 5, "{} connections", sink.open());
    sink.clear_script();
    sink.drop_connections();
    for n in 41..=60 {
        let id = world.put("alice@example.test", "after the restart", "");
        world.reaches(id, "sent");
        assert_eq!(world.kinds(id), ["sent"], "mail {n}: {}", world.story(id));
    }
    assert_eq!((world.health(), sink.count()), (vec![], 60));
}

#[test]
fn many_mails_at_once_after_a_restart_of_the_relay_go_out_without_a_trace() {
    let sink = Sink::scripted(|event| match event.phase {
        Phase::Dot => Action::Accept.after(Duration::from_millis(150)),
        _ => Action::Accept,
    });
    let mut world = World::with(&sink);
    world.put_many(40, "");
    sink.wait_for(40, SOON);
    world.idle("default");
    sink.clear_script();
    sink.drop_connections();
    world.put_many(60, "");
    sink.wait_for(100, SOON);
    world.idle("default");
    let kinds: Vec<String> = world.all("SELECT DISTINCT kind FROM mail.events", &[]);
    assert_eq!(kinds, ["sent"]);
    assert_eq!((world.health(), sink.count()), (vec![], 100));
}

#[test]
fn a_connection_that_was_closed_before_it_was_ever_used_is_no_trouble() {
    // The second connection is greeted when the first has done all the work and left.
    let sink = Sink::scripted(|event| match (event.phase, event.connection) {
        (Phase::Connect, 1) => Action::Accept.after(Duration::from_millis(300)),
        _ => Action::Accept,
    });
    let mut world = World::new();
    world.relay("main", &sink.url(), &[("max_messages_per_connection", "2")]);
    world.put_many(2, "");
    sink.wait_for(2, SOON);
    pgmq_mail_tests::until("one connection is left, unused", SOON, || {
        let commands = sink.commands();
        sink.open() == 1
            && commands
                .iter()
                .any(|(n, line)| *n == 1 && line.starts_with("EHLO"))
    });
    sink.drop_connections();
    let id = world.put("alice@example.test", "fresh", "");
    world.reaches(id, "sent");
    assert_eq!(world.kinds(id), ["sent"], "{}", world.story(id));
    assert_eq!(world.health(), [""; 0]);
}
