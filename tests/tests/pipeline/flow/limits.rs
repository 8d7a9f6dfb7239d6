//! How much mail goes: limits of relays, queues and recipient domains.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pgmq_mail_tests::{Action, Mail, Phase, Sink};

use super::{all_sent, all_sent_at_once, no_faster_than, put_to};
use crate::{SOON, World};

fn to_domain(mails: &[Mail], domain: &str) -> Vec<Mail> {
    let mails = mails.iter();
    mails
        .filter(|mail| mail.recipients[0].ends_with(domain))
        .cloned()
        .collect()
}

#[test]
fn a_relays_limit_is_kept_and_holds_up_no_other_relay() {
    let [slow, quick] = [Sink::start(), Sink::start()];
    let mut world = World::new();
    world.relay("slow", &slow.url(), &[("rate_limit", "20")]);
    world.relay("quick", &quick.url(), &[]);
    world.queue("default", &[("relays", "{quick}")]);
    world.queue("slow", &[("transport", "smtp"), ("relays", "{slow}")]);
    world.put_many(1500, ", queue => 'slow'");
    slow.wait_for(1, SOON);
    let ids = world.put_many(200, "");
    all_sent_at_once(&mut world, &ids);
    assert!(slow.count() < 1500, "the others are sent while these wait");
    let mails = slow.wait_for(80, SOON);
    no_faster_than(20.0, &mails);
    world.until("SELECT NOT EXISTS (SELECT FROM mail.health())");
}

#[test]
fn a_queues_limit_is_kept_and_holds_up_no_other_queue_of_the_same_relay() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let columns = [
        ("transport", "smtp"),
        ("rate_limit", "200"),
        ("rate_window", "10 seconds"),
    ];
    world.queue("slow", &columns);
    let put = "SELECT mail.enqueue(n || '@slow.test', 'n', 'x', queue => 'slow')
               FROM generate_series(1, 1500) AS n";
    world.all::<i64>(put, &[]);
    sink.wait_for(1, SOON);
    let ids = world.put_many(200, "");
    all_sent_at_once(&mut world, &ids);
    assert!(to_domain(&sink.mails(), "@slow.test").len() < 1500);
    pgmq_mail_tests::until("enough to judge by", SOON, || {
        to_domain(&sink.mails(), "@slow.test").len() >= 80
    });
    no_faster_than(20.0, &to_domain(&sink.mails(), "@slow.test"));
}

#[test]
fn a_domains_limit_is_kept_over_all_relays_and_queues_and_holds_up_no_other_domain() {
    let sinks = [Sink::start(), Sink::start()];
    let mut world = World::new();
    world.relay("one", &sinks[0].url(), &[]);
    world.relay("two", &sinks[1].url(), &[]);
    world.queue("second", &[("transport", "smtp")]);
    world.run("INSERT INTO mail.domain_limit (domain, rate_limit) VALUES ('slow.test', 20)");
    let slow = put_to(&mut world, "slow.test", 700, "");
    put_to(&mut world, "slow.test", 700, ", queue => 'second'");
    let quick = put_to(&mut world, "quick.test", 200, "");
    let mixed = world.put("a@quick.test, b@slow.test, c@else.test", "mixed", "");
    all_sent_at_once(&mut world, &quick);
    // Who need not wait does not, in a mail to several.
    world.until(&format!(
        "SELECT count(*) = 2 FROM mail.events WHERE message_id = {mixed} AND kind = 'sent'"
    ));
    let arrived = || {
        let mut mails = to_domain(&[sinks[0].mails(), sinks[1].mails()].concat(), "@slow.test");
        mails.sort_by_key(|mail| mail.at);
        mails
    };
    assert!(arrived().len() < 1400);
    pgmq_mail_tests::until("enough to judge by", SOON, || arrived().len() >= 80);
    no_faster_than(20.0, &arrived());
    let tried: i64 = world.one(
        "SELECT count(*) FROM mail.messages WHERE id = ANY ($1) AND state = 'queued' AND attempts > 0",
        &[&slow],
    );
    assert_eq!(tried, 0);
}

#[test]
fn an_urgent_mail_goes_before_most_of_the_backlog_of_a_limited_relay() {
    let sink = Sink::start();
    let mut world = World::new();
    world.relay("main", &sink.url(), &[("rate_limit", "20")]);
    world.put_many(400, "");
    sink.wait_for(5, SOON);
    let urgent = world.put("urgent@example.test", "urgent", ", priority => 10");
    let before = sink.count();
    world.reaches(urgent, "sent");
    let mails = sink.mails();
    let place = mails
        .iter()
        .position(|mail| mail.recipients[0] == "urgent@example.test")
        .expect("it has arrived");
    // Two seconds' worth is on its way already.
    assert!(place <= before + 45, "{place}, of which {before} before");
    assert!(mails.len() < 200, "{} are sent", mails.len());
}

#[test]
fn an_urgent_mail_goes_before_most_of_the_backlog_of_a_limited_queue() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    world.queue("default", &[("rate_limit", "20")]);
    world.put_many(400, "");
    sink.wait_for(5, SOON);
    let urgent = world.put("urgent@example.test", "urgent", ", priority => 10");
    let before = sink.count();
    world.reaches(urgent, "sent");
    let mails = sink.mails();
    let place = mails
        .iter()
        .position(|mail| mail.recipients[0] == "urgent@example.test")
        .expect("it has arrived");
    assert!(place <= before + 45, "{place}, of which {before} before");
}

#[test]
fn a_limit_that_is_changed_takes_effect_at_once() {
    for (insert, lift, lower) in [
        (
            "UPDATE mail.relay SET rate_limit = 2, rate_window = '1 day'",
            "UPDATE mail.relay SET rate_limit = NULL",
            "UPDATE mail.relay SET rate_limit = 20, rate_window = '1 second'",
        ),
        (
            "UPDATE mail.queue SET rate_limit = 2, rate_window = '1 day'",
            "UPDATE mail.queue SET rate_limit = 1000000",
            "UPDATE mail.queue SET rate_limit = 20, rate_window = '1 second'",
        ),
        (
            "INSERT INTO mail.domain_limit VALUES ('example.test', NULL, 2, '1 day')",
            "UPDATE mail.domain_limit SET rate_limit = 1000000",
            "UPDATE mail.domain_limit SET rate_limit = 20, rate_window = '1 second'",
        ),
    ] {
        let sink = Sink::start();
        let mut world = World::with(&sink);
        world.run(insert);
        let ids = world.put_many(2, "");
        all_sent_at_once(&mut world, &ids);
        let third = world.put("third@example.test", "third", "");
        // What is captured shows that the worker has seen it.
        world.run("INSERT INTO mail.queue (name, transport, default_sender) VALUES ('kept', 'capture', 'a@example.test')");
        let kept = world.put("alice@example.test", "kept", ", queue => 'kept'");
        world.reaches(kept, "sent");
        assert_eq!(sink.count(), 2, "{insert}");
        assert_eq!(world.attempts(third), 0);
        world.run(lift);
        let ids = world.put_many(20, "");
        all_sent_at_once(&mut world, &ids);
        sink.forget();
        world.run(lower);
        world.put_many(200, "");
        pgmq_mail_tests::until("enough to judge by", SOON, || sink.mails().len() >= 30);
        no_faster_than(20.0, &sink.mails());
    }
}

#[test]
fn what_a_relays_or_queues_limit_held_back_goes_when_the_limit_is_lifted() {
    for (table, lift) in [("relay", "NULL"), ("queue", "NULL"), ("relay", "10000")] {
        let sink = Sink::start();
        let mut world = World::with(&sink);
        world.run(&format!(
            "UPDATE mail.{table} SET rate_limit = 2, rate_window = '1 day'"
        ));
        let ids = world.put_many(100, "");
        sink.wait_for(2, SOON);
        world.run(&format!("UPDATE mail.{table} SET rate_limit = {lift}"));
        all_sent_at_once(&mut world, &ids);
        assert_eq!(sink.count(), 100);
    }
}

#[test]
fn what_a_domains_limit_put_off_goes_when_the_limit_is_lifted() {
    for lift in [
        "UPDATE mail.domain_limit SET rate_limit = NULL",
        "DELETE FROM mail.domain_limit",
    ] {
        let sink = Sink::start();
        let mut world = World::with(&sink);
        world.run("INSERT INTO mail.domain_limit VALUES ('example.test', NULL, 2, '1 day')");
        let ids = world.put_many(100, "");
        sink.wait_for(2, SOON);
        // Some of them for months.
        world.until(
            "SELECT count(*) >= 90 FROM mail.messages
             WHERE state = 'queued' AND next_attempt_at > clock_timestamp() + interval '1 hour'",
        );
        world.run(lift);
        all_sent_at_once(&mut world, &ids);
    }
}

#[test]
fn a_mail_put_off_for_its_domain_is_queued_for_a_later_time_and_can_be_cancelled() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    world.run("INSERT INTO mail.domain_limit VALUES ('slow.test', NULL, 1, '1 hour')");
    let ids = put_to(&mut world, "slow.test", 3, "");
    sink.wait_for(1, SOON);
    world.until(
        "SELECT count(*) = 2 FROM mail.messages
         WHERE state = 'queued' AND attempts = 0 AND next_attempt_at > clock_timestamp() + interval '1 second'",
    );
    let mut waiting = ids.clone();
    waiting.retain(|id| world.state(*id) == "queued");
    assert_eq!(waiting.len(), 2);
    for id in &waiting {
        assert!(
            !world.kinds(*id).contains(&"deferred".to_owned()),
            "{}",
            world.story(*id)
        );
    }
    assert!(world.one::<bool>("SELECT mail.cancel($1)", &[&waiting[0]]));
    assert_eq!(world.state(waiting[0]), "cancelled");
    assert_eq!(world.state(waiting[1]), "queued");
    assert_eq!(sink.count(), 1);
}

#[test]
fn mails_that_wait_for_a_domain_keep_their_order_and_are_not_taken_up_before_they_can_go() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    world.run("INSERT INTO mail.domain_limit VALUES ('slow.test', NULL, 1, '1 hour')");
    let ids: Vec<i64> = (0..5)
        .map(|n| world.put(&format!("{n}@slow.test"), "x", ""))
        .collect();
    sink.wait_for(1, SOON);
    world.until(
        "SELECT count(*) = 4 FROM mail.messages
         WHERE state = 'queued' AND next_attempt_at > clock_timestamp() + interval '10 minutes'",
    );
    let order: Vec<i64> = world.all(
        "SELECT id FROM mail.messages WHERE state = 'queued' ORDER BY next_attempt_at",
        &[],
    );
    assert_eq!(order, ids[1..]);
}

/// Counts the transactions that are open at a sink, from MAIL to the answer to the dot.
fn counting(now: Arc<AtomicUsize>, most: Arc<AtomicUsize>, domain: &'static str) -> Sink {
    Sink::scripted(move |event| {
        match event.phase {
            Phase::Rcpt if event.address().ends_with(domain) => {
                let open = now.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(open, Ordering::SeqCst);
            }
            Phase::Dot if event.recipients.iter().any(|to| to.ends_with(domain)) => {
                std::thread::sleep(Duration::from_millis(30));
                now.fetch_sub(1, Ordering::SeqCst);
            }
            _ => {}
        }
        Action::Accept
    })
}

#[test]
fn no_more_mails_than_allowed_are_on_their_way_to_a_domain_at_once() {
    let (now, most) = (Arc::default(), Arc::default());
    let sinks = [(); 2].map(|()| counting(Arc::clone(&now), Arc::clone(&most), "@narrow.test"));
    let mut world = World::new();
    world.relay("one", &sinks[0].url(), &[]);
    world.relay("two", &sinks[1].url(), &[]);
    world.run("INSERT INTO mail.domain_limit (domain, concurrency) VALUES ('narrow.test', 2)");
    let narrow = put_to(&mut world, "narrow.test", 60, "");
    let wide = put_to(&mut world, "wide.test", 60, "");
    all_sent_at_once(&mut world, &wide);
    all_sent(&mut world, &narrow);
    assert_eq!(sinks.each_ref().map(Sink::count).iter().sum::<usize>(), 120);
    let seen = most.load(Ordering::SeqCst);
    assert!((1..=2).contains(&seen), "{seen} at once");
    for id in narrow {
        assert_eq!(world.attempts(id), 1, "{}", world.story(id));
    }
    world.run("UPDATE mail.domain_limit SET concurrency = 1");
    most.store(0, Ordering::SeqCst);
    let narrow = put_to(&mut world, "narrow.test", 20, "");
    all_sent(&mut world, &narrow);
    assert_eq!(most.load(Ordering::SeqCst), 1);
}
