//! In which order mails arrive.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pgmq_mail_tests::{Action, Mail, Phase, Sink};

use crate::{SOON, World};

fn subjects(mails: &[Mail]) -> Vec<String> {
    mails
        .iter()
        .filter_map(|mail| mail.header("Subject"))
        .collect()
}

#[test]
fn mails_that_wait_go_by_priority_and_then_by_age() {
    let sink = Sink::start();
    let mut world = World::new();
    world.relay("main", &sink.url(), &[("max_connections", "1")]);
    world.run("SELECT mail.pause('default')");
    for n in 0..300 {
        let priority = (n * 7) % 5 - 2;
        world.put(
            "alice@example.test",
            &format!("{n}"),
            &format!(", priority => {priority}"),
        );
    }
    let expected: Vec<String> = world.all(
        "SELECT subject FROM mail.messages ORDER BY priority DESC, enqueued_at, id",
        &[],
    );
    world.run("SELECT mail.resume('default')");
    let mails = sink.wait_for(300, SOON);
    assert_eq!(subjects(&mails), expected);
    assert_eq!(sink.connections(), 1);
}

#[test]
fn an_urgent_mail_overtakes_a_backlog() {
    let sink = Sink::scripted(|event| match event.phase {
        Phase::Dot => Action::Accept.after(Duration::from_millis(2)),
        _ => Action::Accept,
    });
    let mut world = World::new();
    world.relay("main", &sink.url(), &[("max_connections", "1")]);
    world.queue("default", &[("concurrency", "20")]);
    world.put_many(1000, ", priority => -5");
    pgmq_mail_tests::until("delivery has begun", SOON, || sink.count() > 0);
    let urgent = world.put("alice@example.test", "urgent", ", priority => 5");
    world.reaches(urgent, "sent");
    let order = subjects(&sink.wait_for(1000, SOON));
    let place = order
        .iter()
        .position(|subject| subject == "urgent")
        .expect("it was sent");
    assert!(place < 900, "it came as number {place}");
}

/// Arrivals by key, from subjects of the form `key-number`.
fn by_key(mails: &[Mail]) -> HashMap<String, Vec<u32>> {
    let mut keys: HashMap<String, Vec<u32>> = HashMap::new();
    for subject in subjects(mails) {
        let (key, number) = subject.split_once('-').expect("key-number");
        keys.entry(key.to_owned())
            .or_default()
            .push(number.parse().expect("a number"));
    }
    keys
}

#[test]
fn mails_with_one_key_arrive_in_order_over_many_connections() {
    let random = AtomicU64::new(1);
    let sink = Sink::scripted(move |event| {
        if event.phase != Phase::Dot {
            return Action::Accept;
        }
        let n = random
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Action::Accept.after(Duration::from_micros(n >> 52))
    });
    let mut world = World::new();
    world.relay("main", &sink.url(), &[("max_connections", "10")]);
    for n in 0..30 {
        world.run(&format!(
            "SELECT mail.enqueue('a@example.test', k || '-' || {n}, 'x', ordering_key => 'key ' || k)
             FROM generate_series(1, 10) AS k"
        ));
    }
    let keys = by_key(&sink.wait_for(300, SOON));
    world.idle("default");
    assert_eq!(keys.len(), 10);
    for (key, numbers) in keys {
        assert_eq!(numbers, (0..30).collect::<Vec<_>>(), "key {key}");
    }
    assert!(sink.most_open() > 1, "keys go side by side");
    assert_eq!(sink.count(), 300);
}

#[test]
fn a_mail_that_is_put_off_holds_back_its_key_and_no_other() {
    let seen = Mutex::new(Vec::<String>::new());
    let sink = Sink::scripted(move |event| {
        if event.phase != Phase::Dot {
            return Action::Accept;
        }
        let text = String::from_utf8_lossy(event.data);
        let first = text
            .lines()
            .find(|line| line.starts_with("Subject: 1-3"))
            .is_some_and(|line| {
                let mut seen = seen.lock().expect("nobody panics");
                seen.push(line.to_owned());
                seen.len() == 1
            });
        if first {
            Action::reply("451 4.3.0 Later")
        } else {
            Action::Accept
        }
    });
    let mut world = World::new();
    world.relay("main", &sink.url(), &[("max_connections", "10")]);
    world.queue(
        "default",
        &[("retry_base", "2 seconds"), ("retry_max", "2 seconds")],
    );
    let ids: Vec<i64> = world.all(
        "SELECT mail.enqueue('a@example.test', k || '-' || n, 'x', ordering_key => 'key ' || k)
         FROM generate_series(1, 10) AS n, generate_series(1, 3) AS k ORDER BY n, k",
        &[],
    );
    let mails = sink.wait_for(30, SOON);
    for id in ids {
        world.reaches(id, "sent");
    }
    for numbers in by_key(&mails).values() {
        assert_eq!(*numbers, (1..=10).collect::<Vec<_>>());
    }
    let late: Vec<String> = subjects(&mails)[22..].to_vec();
    assert!(
        late.iter().all(|subject| subject.starts_with("1-")),
        "{late:?}"
    );
}

#[test]
fn the_next_of_a_key_goes_when_one_has_failed_or_was_cancelled() {
    let sink = Sink::scripted(|event| match (event.phase, event.address()) {
        (Phase::Rcpt, "gone@example.test") => Action::reply("550 5.1.1 No"),
        _ => Action::Accept,
    });
    let mut world = World::with(&sink);
    world.run("SELECT mail.pause('default')");
    let key = ", ordering_key => 'k'";
    let first = world.put("gone@example.test", "first", key);
    let second = world.put("alice@example.test", "second", key);
    let third = world.put("alice@example.test", "third", key);
    let fourth = world.put(
        "alice@example.test",
        "fourth",
        &format!("{key}, send_at => clock_timestamp() + interval '1 hour'"),
    );
    let fifth = world.put("alice@example.test", "fifth", key);
    assert!(world.one::<bool>("SELECT mail.cancel($1)", &[&second]));
    world.run("SELECT mail.resume('default')");
    world.reaches(first, "failed");
    world.reaches(third, "sent");
    assert_eq!(
        (world.state(fourth).as_str(), world.state(fifth).as_str()),
        ("queued", "queued")
    );
    assert!(world.one::<bool>("SELECT mail.cancel($1)", &[&fourth]));
    world.reaches(fifth, "sent");
    assert_eq!(subjects(&sink.mails()), ["third", "fifth"]);
}

#[test]
fn only_the_last_of_a_supersede_key_arrives() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let more =
        ", supersede_key => 'cart 7', send_at => clock_timestamp() + interval '700 milliseconds'";
    let ids: Vec<i64> = (1..=4)
        .map(|n| world.put("alice@example.test", &format!("version {n}"), more))
        .collect();
    let other = world.put("alice@example.test", "other", ", supersede_key => 'cart 8'");
    world.reaches(ids[3], "sent");
    world.reaches(other, "sent");
    for id in &ids[..3] {
        assert_eq!(world.state(*id), "cancelled");
    }
    let mut arrived = subjects(&sink.mails());
    arrived.sort_unstable();
    assert_eq!(arrived, ["other", "version 4"]);
    // What was sent cannot be superseded.
    let next = world.put(
        "alice@example.test",
        "version 5",
        ", supersede_key => 'cart 7'",
    );
    world.reaches(next, "sent");
    assert_eq!(world.state(ids[3]), "sent");
}

#[test]
fn an_idempotency_key_makes_one_mail_of_many_calls() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let database = &world.database;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let mut client = database.connect();
            scope.spawn(move || {
                for n in 0..25 {
                    client
                        .execute(
                            "SELECT mail.enqueue('a@example.test', 'once', 'x', idempotency_key => $1)",
                            &[&format!("key {n}")],
                        )
                        .expect("it can be enqueued");
                }
            });
        }
    });
    world.idle("default");
    sink.wait_for(25, SOON);
    let last = world.put("alice@example.test", "last", "");
    world.reaches(last, "sent");
    assert_eq!(sink.count(), 26);
}
