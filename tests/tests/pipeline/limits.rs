//! When to give up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgmq_mail_tests::{Action, Gate, Phase, Sink, free_port};

use crate::{SOON, World};

fn never() -> Sink {
    Sink::scripted(|event| match event.phase {
        Phase::Dot => Action::reply("451 4.3.0 Later"),
        _ => Action::Accept,
    })
}

#[test]
fn a_mail_fails_after_the_queues_number_of_attempts() {
    let sink = never();
    let mut world = World::with(&sink);
    world.queue(
        "default",
        &[("max_attempts", "3"), ("retry_max", "200 milliseconds")],
    );
    let id = world.put("alice@example.test", "later", "");
    world.reaches(id, "failed");
    assert_eq!(
        world.kinds(id),
        ["deferred", "deferred", "failed"],
        "{}",
        world.story(id)
    );
    let letter: bool = world.one(
        "SELECT attempts = 3 AND last_code = 451 AND state = 'failed' FROM mail.dead_letters WHERE id = $1",
        &[&id],
    );
    assert!(letter, "{}", world.story(id));
    // By hand it has as many again.
    assert!(world.one::<bool>("SELECT mail.retry($1)", &[&id]));
    world.until(&format!(
        "SELECT count(*) = 6 AND count(*) FILTER (WHERE kind = 'failed') = 2 FROM mail.events
         WHERE message_id = {id} AND kind <> 'retried'"
    ));
    assert_eq!(sink.count(), 0);
}

#[test]
fn a_mail_fails_when_it_is_as_old_as_the_queue_allows() {
    let sink = never();
    let mut world = World::with(&sink);
    let columns = [
        ("give_up_after", "1 second"),
        ("retry_max", "300 milliseconds"),
    ];
    world.queue("default", &columns);
    let id = world.put("alice@example.test", "later", "");
    world.reaches(id, "failed");
    let age: f64 = world.one(
        "SELECT extract(epoch FROM finished_at - enqueued_at)::float8 FROM mail.messages WHERE id = $1",
        &[&id],
    );
    assert!(age >= 1.0, "{age} s: {}", world.story(id));
    assert!(world.attempts(id) >= 3, "{}", world.story(id));
    assert_eq!(world.kinds(id).last().map(String::as_str), Some("failed"));
}

#[test]
fn a_mail_that_its_relay_cannot_stand_does_not_stop_others_and_fails_when_it_is_too_old() {
    let sink = Sink::scripted(|event| match event.phase {
        Phase::Mail if event.address().starts_with("bad") => {
            Action::ReplyAndDrop("421 4.3.2 Not you\r\n".to_owned())
        }
        _ => Action::Accept,
    });
    let mut world = World::with(&sink);
    world.queue("default", &[("give_up_after", "5 seconds")]);
    let bad = world.put(
        "alice@example.test",
        "bad",
        ", sender => 'bad@example.test'",
    );
    world.until(&format!(
        "SELECT EXISTS (SELECT FROM mail.events WHERE message_id = {bad} AND kind = 'released')"
    ));
    for id in world.put_many(20, "") {
        world.reaches(id, "sent");
        assert_eq!(world.attempts(id), 1, "{}", world.story(id));
    }
    world.reaches(bad, "failed");
    let letter: bool = world.one(
        "SELECT last_error LIKE '%Not you%' FROM mail.dead_letters WHERE id = $1",
        &[&bad],
    );
    assert!(letter, "{}", world.story(bad));
    assert_eq!(sink.count(), 20);
}

#[test]
fn large_mails_of_one_queue_leave_room_for_those_of_another() {
    let gate = Gate::new();
    let closed = gate.clone();
    let stuck = Sink::scripted(|event| match event.phase {
        Phase::Mail => Action::Silence,
        _ => Action::Accept,
    });
    let sink = Sink::scripted(move |event| {
        if event.phase == Phase::Dot {
            closed.pass();
        }
        Action::Accept
    });
    let mut world = World::new();
    world.relay("stuck", &stuck.url(), &[]);
    world.relay("main", &sink.url(), &[]);
    for (queue, relay) in [("large", "{stuck}"), ("small", "{main}")] {
        world.queue(queue, &[("transport", "smtp"), ("relays", relay)]);
    }
    world.run(
        "SELECT mail.enqueue('a@example.test', 'large', repeat('x', 1000000), queue => 'large')
         FROM generate_series(1, 30)",
    );
    world.until("SELECT EXISTS (SELECT FROM mail.workers WHERE in_flight > 0)");
    let ids = world.put_many(10, ", queue => 'small'");
    // Not one after the other.
    pgmq_mail_tests::until("some are sent at once", SOON, || gate.waiting() > 2);
    gate.open();
    for id in ids {
        world.reaches(id, "sent");
    }
}

#[test]
fn a_mail_larger_than_all_room_leaves_room_for_those_behind_it() {
    let stuck = Sink::scripted(|event| match event.phase {
        Phase::Mail => Action::Silence,
        _ => Action::Accept,
    });
    let sink = Sink::start();
    let mut world = World::new();
    world.relay(
        "stuck",
        &stuck.url(),
        &[("recipient_domains", "{slow.test}")],
    );
    world.relay("main", &sink.url(), &[]);
    world.queue("default", &[("transport", "smtp")]);
    world.run(
        "SELECT mail.enqueue(jsonb_build_object('to', 'a@slow.test', 'attachments', jsonb_build_array(
             mail.attach(convert_to(repeat('x', 25000000), 'UTF8'), 'x.txt'))))",
    );
    world.until("SELECT EXISTS (SELECT FROM mail.workers WHERE in_flight > 0)");
    for id in world.put_many(10, "") {
        world.reaches(id, "sent");
    }
}

#[test]
fn a_mail_that_could_not_be_sent_in_its_time_expires() {
    let sink = never();
    let mut world = World::with(&sink);
    world.queue(
        "default",
        &[("retry_base", "1 hour"), ("retry_max", "1 hour")],
    );
    let id = world.put(
        "alice@example.test",
        "soon or never",
        ", expires_at => clock_timestamp() + interval '1500 milliseconds'",
    );
    world.reaches(id, "deferred");
    world.reaches(id, "expired");
    assert_eq!(
        world.kinds(id),
        ["deferred", "expired"],
        "{}",
        world.story(id)
    );
    let in_time: bool = world.one(
        "SELECT finished_at BETWEEN expires_at AND expires_at + interval '20 seconds'
         FROM mail.messages WHERE id = $1",
        &[&id],
    );
    assert!(in_time, "{}", world.story(id));
    assert_eq!(
        (
            sink.count(),
            world.one::<i64>("SELECT count(*) FROM mail.dead_letters", &[])
        ),
        (0, 0)
    );
}

#[test]
fn a_mail_expires_while_its_relay_is_down() {
    let port = free_port();
    let mut world = World::new();
    world.relay("main", &format!("smtp://127.0.0.1:{port}"), &[]);
    let id = world.put(
        "alice@example.test",
        "soon or never",
        ", expires_at => clock_timestamp() + interval '1 second'",
    );
    let other = world.put("alice@example.test", "whenever", "");
    world.reaches(id, "expired");
    let sink = Sink::builder().port(port).start();
    world.reaches(other, "sent");
    let mails = sink.wait_for(1, SOON);
    assert_eq!(
        (mails.len(), mails[0].header("Subject").as_deref()),
        (1, Some("whenever"))
    );
}

#[test]
fn a_mail_in_a_paused_queue_is_not_sent_after_its_time() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    world.run("SELECT mail.pause('default')");
    let id = world.put(
        "alice@example.test",
        "soon or never",
        ", expires_at => clock_timestamp() + interval '300 milliseconds'",
    );
    let other = world.put("alice@example.test", "whenever", "");
    world.until(&format!(
        "SELECT expires_at < clock_timestamp() FROM mail.messages WHERE id = {id}"
    ));
    world.run("SELECT mail.resume('default')");
    world.reaches(other, "sent");
    world.reaches(id, "expired");
    assert_eq!(sink.count(), 1);
}

#[test]
fn a_scheduled_mail_goes_at_its_time_and_not_before() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let late = world.put(
        "alice@example.test",
        "late",
        ", send_at => clock_timestamp() + interval '1500 milliseconds'",
    );
    let early = world.put(
        "alice@example.test",
        "early",
        ", send_at => clock_timestamp() + interval '700 milliseconds'",
    );
    let past = world.put(
        "alice@example.test",
        "past",
        ", send_at => clock_timestamp() - interval '1 day'",
    );
    let now = world.put("alice@example.test", "now", "");
    for id in [past, now, early, late] {
        world.reaches(id, "sent");
    }
    let subjects: Vec<_> = sink
        .mails()
        .iter()
        .filter_map(|mail| mail.header("Subject"))
        .collect();
    let mut first_two = subjects[..2].to_vec();
    first_two.sort_unstable();
    assert_eq!(first_two, ["now", "past"]);
    assert_eq!(subjects[2..], ["early", "late"]);
    let delays: Vec<f64> = world.all(
        "SELECT extract(epoch FROM finished_at - send_at)::float8 FROM mail.messages
         WHERE send_at > enqueued_at",
        &[],
    );
    // Exact timers, not a polling interval; the bound is for a loaded machine.
    assert!(
        delays.iter().all(|delay| (0.0..2.0).contains(delay)),
        "{delays:?}"
    );
}

#[test]
fn a_cancelled_mail_is_never_sent() {
    let held = Arc::new(AtomicBool::new(true));
    let gate = Arc::clone(&held);
    let sink = Sink::scripted(move |event| {
        while event.phase == Phase::Dot && gate.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Action::Accept
    });
    let mut world = World::with(&sink);
    let scheduled = world.put(
        "alice@example.test",
        "cancelled",
        ", send_at => clock_timestamp() + interval '300 milliseconds'",
    );
    assert!(world.one::<bool>("SELECT mail.cancel($1)", &[&scheduled]));
    assert_eq!(world.state(scheduled), "cancelled");
    let in_flight = world.put("alice@example.test", "in flight", "");
    world.reaches(in_flight, "sending");
    assert!(!world.one::<bool>("SELECT mail.cancel($1)", &[&in_flight]));
    held.store(false, Ordering::Relaxed);
    world.reaches(in_flight, "sent");
    assert!(!world.one::<bool>("SELECT mail.cancel($1)", &[&in_flight]));
    world.until(&format!(
        "SELECT send_at < clock_timestamp() FROM mail.messages WHERE id = {scheduled}"
    ));
    let last = world.put("alice@example.test", "last", "");
    world.reaches(last, "sent");
    let subjects: Vec<_> = sink
        .mails()
        .iter()
        .filter_map(|mail| mail.header("Subject"))
        .collect();
    assert_eq!(subjects, ["in flight", "last"]);
    assert_eq!(world.kinds(scheduled), ["cancelled"]);
}
