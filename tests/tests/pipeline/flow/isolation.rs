//! One relay's or one domain's trouble is nobody else's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgmq_mail_tests::{Action, Phase, Sink, free_port};

use super::{all_sent, all_sent_at_once, put_to};
use crate::{SOON, World};

/// Falls silent when it is asked about a domain.
fn silent_about(domain: &'static str, at: Phase) -> Sink {
    Sink::scripted(move |event| {
        let hit = event.phase == at
            && (event.address().ends_with(domain)
                || event.recipients.iter().any(|to| to.ends_with(domain)));
        if hit { Action::Silence } else { Action::Accept }
    })
}

/// Checks that mail for others goes while so many wait for a domain that gives no answer.
fn a_silent_domain_is_passed_by(at: Phase, silent: i32) {
    let sink = silent_about("@silent.test", at);
    let mut world = World::with(&sink);
    let silent = put_to(&mut world, "silent.test", silent, "");
    pgmq_mail_tests::until("somebody has fallen silent", SOON, || sink.open() > 0);
    let good = put_to(&mut world, "good.test", 50, "");
    all_sent_at_once(&mut world, &good);
    assert_eq!(sink.count(), 50);
    let tried: i64 = world.one(
        "SELECT count(*) FROM mail.messages WHERE id = ANY ($1) AND attempts > 0",
        &[&silent],
    );
    assert_eq!(tried, 0);
}

#[test]
fn a_domain_that_never_answers_rcpt_holds_up_no_other_domain_of_its_queue() {
    a_silent_domain_is_passed_by(Phase::Rcpt, 100);
}

#[test]
fn a_domain_that_never_answers_the_dot_holds_up_no_other_domain_of_its_queue() {
    a_silent_domain_is_passed_by(Phase::Dot, 100);
}

#[test]
fn a_long_backlog_of_a_domain_that_never_answers_holds_up_no_other_domain_of_its_queue() {
    a_silent_domain_is_passed_by(Phase::Rcpt, 3000);
}

#[test]
fn mail_goes_by_the_next_tier_while_a_relay_hangs_and_no_attempt_is_counted() {
    for at in [Phase::Connect, Phase::Mail] {
        let hanging = Sink::scripted(move |event| {
            if event.phase == at {
                Action::Silence
            } else {
                Action::Accept
            }
        });
        let spare = Sink::start();
        let mut world = World::new();
        let columns = [("tier", "1"), ("max_connections", "2")];
        world.relay("hanging", &hanging.url(), &columns);
        world.relay("spare", &spare.url(), &[("tier", "2")]);
        let ids = world.put_many(50, "");
        // Those that are already in the hands of a connection share its fate.
        let held = if at == Phase::Connect { 0 } else { 2 };
        spare.wait_for(50 - held, SOON);
        world.ails("relay", "it has said nothing for 1");
        let told: Vec<String> = world.all(
            "SELECT concat_ws(' ', relay, state, last_error) FROM mail.relay_stats ORDER BY relay",
            &[],
        );
        assert!(
            told[0].starts_with("hanging probing it has said nothing for 1"),
            "{told:?}"
        );
        assert_eq!(told[1], "spare up");
        world.until(&format!(
            "SELECT count(*) >= {} AND bool_and(attempts = 1) FROM mail.messages WHERE state = 'sent'",
            50 - held
        ));
        let tried: i64 = world.one(
            "SELECT count(*) FROM mail.messages WHERE id = ANY ($1) AND state <> 'sent' AND attempts > 0",
            &[&ids],
        );
        assert_eq!(tried, 0);
        // What comes now does not wait for it again.
        let more = world.put_many(50, "");
        all_sent_at_once(&mut world, &more);
        let (sent, sure) = (spare.count(), 100 - held);
        assert!((sure..=100).contains(&sent), "{sent} at {at:?}");
    }
}

#[test]
fn a_relay_that_hangs_is_still_told_of_when_the_configuration_was_read_again() {
    let hanging = Sink::scripted(|_| Action::Silence);
    let mut world = World::with(&hanging);
    let id = world.put("alice@example.test", "waits", "");
    world.ails("relay", "it has said nothing for 1");
    world.queue("kept", &[("transport", "capture")]);
    // What is captured shows that the worker knows the queue.
    let kept = world.put("alice@example.test", "kept", ", queue => 'kept'");
    world.reaches(kept, "sent");
    let health = world.health();
    let is_told = |line: &String| line.contains("it has said nothing for 1");
    assert!(health.iter().any(is_told), "{health:?}");
    world.waits(id);
}

/// A relay that serves one domain alone has trouble while there is another for the rest, in the same queue.
fn a_relay_of_one_domain_is_passed_by(url: &str, waiting: i32) {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let columns = [("recipient_domains", "{theirs.test}")];
    world.relay("theirs", url, &columns);
    let theirs = put_to(&mut world, "theirs.test", waiting, "");
    world.until("SELECT EXISTS (SELECT FROM mail.relay_stats WHERE failures > 0)");
    let ids = world.put_many(50, "");
    all_sent_at_once(&mut world, &ids);
    assert_eq!(sink.count(), 50);
    let tried: i64 = world.one(
        "SELECT count(*) FROM mail.messages WHERE id = ANY ($1) AND attempts > 0",
        &[&theirs],
    );
    assert_eq!(tried, 0);
}

#[test]
fn a_relay_that_is_down_holds_up_nothing_of_its_queue_that_goes_by_another() {
    a_relay_of_one_domain_is_passed_by(&format!("smtp://127.0.0.1:{}", free_port()), 100);
}

#[test]
fn a_long_backlog_of_a_relay_that_is_down_holds_up_nothing_of_its_queue_that_goes_by_another() {
    a_relay_of_one_domain_is_passed_by(&format!("smtp://127.0.0.1:{}", free_port()), 3000);
}

#[test]
fn a_long_backlog_of_a_relay_that_hangs_holds_up_nothing_of_its_queue_that_goes_by_another() {
    let hanging = Sink::scripted(|_| Action::Silence);
    a_relay_of_one_domain_is_passed_by(&hanging.url(), 3000);
}

#[test]
fn a_long_backlog_of_a_relay_with_a_limit_holds_up_nothing_of_its_queue_that_goes_by_another() {
    let [sink, limited] = [Sink::start(), Sink::start()];
    let mut world = World::with(&sink);
    let columns = [
        ("recipient_domains", "{theirs.test}"),
        ("rate_limit", "1"),
        ("rate_window", "1 hour"),
    ];
    world.relay("theirs", &limited.url(), &columns);
    put_to(&mut world, "theirs.test", 3000, "");
    limited.wait_for(1, SOON);
    let ids = world.put_many(50, "");
    all_sent_at_once(&mut world, &ids);
}

/// The worker must not take up and put down the same messages as fast as it can.
#[test]
fn mail_that_waits_for_a_relay_that_is_down_costs_nothing_while_the_queue_has_another() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let columns = [("recipient_domains", "{theirs.test}")];
    let down = format!("smtp://127.0.0.1:{}", free_port());
    world.relay("theirs", &down, &columns);
    put_to(&mut world, "theirs.test", 20, "");
    // A pause of four seconds or more has begun.
    world.until("SELECT EXISTS (SELECT FROM mail.relay_stats WHERE failures >= 3)");
    let claims = "SELECT last_value FROM mail.lease_seq";
    let before: i64 = world.one(claims, &[]);
    std::thread::sleep(std::time::Duration::from_secs(2));
    let after: i64 = world.one(claims, &[]);
    assert!(
        after - before <= 20,
        "{} claims in two seconds",
        after - before
    );
}

#[test]
fn a_relay_that_hangs_delays_no_mail_of_another_queue() {
    let hangs = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&hangs);
    let hanging = Sink::scripted(move |_| {
        if asked.load(Ordering::Relaxed) {
            Action::Silence
        } else {
            Action::Accept
        }
    });
    let sink = Sink::start();
    let mut world = World::new();
    world.relay("hanging", &hanging.url(), &[]);
    world.relay("main", &sink.url(), &[]);
    world.queue("default", &[("relays", "{main}")]);
    world.queue("stuck", &[("transport", "smtp"), ("relays", "{hanging}")]);
    let stuck = world.put_many(3000, ", queue => 'stuck'");
    pgmq_mail_tests::until("the relay is busy", SOON, || hanging.open() > 0);
    // Far more than could be, one after the other, if each waited for anything but its own relay; before and
    // after the relay is known to be silent.
    for _ in 0..300 {
        let id = world.put("alice@example.test", "at once", "");
        world.reaches(id, "sent");
    }
    world.ails("relay", "it has said nothing for 1");
    for _ in 0..100 {
        let id = world.put("alice@example.test", "at once", "");
        world.reaches(id, "sent");
    }
    assert_eq!(sink.count(), 400);
    hangs.store(false, Ordering::Relaxed);
    // Connections that hang are not given up so soon: the operator may.
    world.run("UPDATE mail.relay SET max_connections = 11 WHERE name = 'hanging'");
    all_sent(&mut world, &stuck);
    assert_eq!(hanging.count(), 3000);
}
