//! Several recipients: each has an outcome of its own.

use std::collections::HashSet;
use std::sync::Mutex;

use pgmq_mail_tests::{Action, Phase, Sink};

use crate::{SOON, World};

/// What happened to whom, in order.
fn outcomes(world: &mut World<'_>, id: i64) -> Vec<String> {
    world.all(
        "SELECT concat_ws(' ', attempt, split_part(recipient, '@', 1), kind, code) FROM mail.events
         WHERE message_id = $1 ORDER BY attempt, recipient",
        &[&id],
    )
}

#[test]
fn a_retry_goes_only_to_those_who_were_put_off() {
    let put_off = Mutex::new(HashSet::new());
    let sink = Sink::scripted(move |event| {
        let first = || {
            put_off
                .lock()
                .expect("nobody panics")
                .insert(event.address().to_owned())
        };
        match (event.phase, event.address()) {
            (Phase::Rcpt, "b-gone@example.test") => Action::reply("550 5.1.1 No such user"),
            (Phase::Rcpt, "c-later@example.test" | "e-later@example.test") if first() => {
                Action::reply("450 4.2.1 Mailbox busy")
            }
            _ => Action::Accept,
        }
    });
    let mut world = World::with(&sink);
    let names = ["a", "b-gone", "c-later", "d", "e-later"];
    let list = names.map(|name| format!("{name}@example.test")).join(", ");
    let id = world.put(&list, "to five", "");
    world.reaches(id, "failed");
    assert_eq!(
        outcomes(&mut world, id),
        [
            "1 a sent 250",
            "1 b-gone failed 550",
            "1 c-later deferred 450",
            "1 d sent 250",
            "1 e-later deferred 450",
            "2 c-later sent 250",
            "2 e-later sent 250",
        ]
    );
    let mails = sink.mails();
    let recipients: Vec<_> = mails.iter().map(|mail| mail.recipients.join(" ")).collect();
    assert_eq!(
        recipients,
        [
            "a@example.test d@example.test",
            "c-later@example.test e-later@example.test"
        ]
    );
    assert_eq!(mails[0].data, mails[1].data);
    assert_eq!(world.attempts(id), 2);
    // Dead for one recipient only: he alone gets the repeat, and then it is sent.
    sink.clear_script();
    assert!(world.one::<bool>("SELECT mail.retry($1)", &[&id]));
    world.reaches(id, "sent");
    let mails = sink.wait_for(3, SOON);
    assert_eq!(mails[2].recipients, ["b-gone@example.test"]);
}

#[test]
fn the_order_of_refusals_does_not_matter() {
    for (first, second) in [
        ("450 4.2.0 Later", "550 5.1.1 No"),
        ("550 5.1.1 No", "450 4.2.0 Later"),
    ] {
        let (early, late) = (first.to_owned(), second.to_owned());
        let sink = Sink::scripted(move |event| match (event.phase, event.address()) {
            (Phase::Rcpt, "a@example.test") => Action::Reply(early.clone()),
            (Phase::Rcpt, "b@example.test") => Action::Reply(late.clone()),
            _ => Action::Accept,
        });
        let mut world = World::with(&sink);
        world.queue("default", &[("max_attempts", "3")]);
        let id = world.put("a@example.test, b@example.test", "to two", "");
        world.reaches(id, "failed");
        assert_eq!(world.attempts(id), 3);
        assert_eq!(sink.count(), 0);
        let kinds = world.kinds(id);
        assert_eq!(
            kinds.iter().filter(|kind| *kind == "failed").count(),
            2,
            "{kinds:?}"
        );
        assert_eq!(
            kinds.iter().filter(|kind| *kind == "deferred").count(),
            2,
            "{kinds:?}"
        );
    }
}

/// Takes that many recipients in one transaction.
fn takes_only(limit: usize, reply: &'static str) -> Sink {
    Sink::scripted(move |event| {
        if event.phase == Phase::Rcpt && event.recipients.len() >= limit {
            Action::reply(reply)
        } else {
            Action::Accept
        }
    })
}

fn list(count: usize) -> String {
    let names: Vec<String> = (1..=count).map(|n| format!("u{n}@example.test")).collect();
    names.join(", ")
}

#[test]
fn recipients_beyond_a_relays_limit_follow_at_once() {
    for reply in [
        "452 4.5.3 Too many recipients",
        "552 5.5.3 Too many recipients",
        "452",
    ] {
        let sink = takes_only(3, reply);
        let mut world = World::with(&sink);
        world.queue(
            "default",
            &[("retry_base", "1 hour"), ("retry_max", "1 hour")],
        );
        let id = world.put(&list(7), "to seven", "");
        world.reaches(id, "sent");
        let mails = sink.mails();
        let sizes: Vec<usize> = mails.iter().map(|mail| mail.recipients.len()).collect();
        assert_eq!(sizes, [3, 3, 1]);
        let reached: HashSet<&String> = mails.iter().flat_map(|mail| &mail.recipients).collect();
        assert_eq!(reached.len(), 7);
        assert!(mails.windows(2).all(|pair| pair[0].data == pair[1].data));
    }
}

#[test]
fn a_relays_limit_on_recipients_does_not_use_up_attempts() {
    let sink = takes_only(2, "452 4.5.3 Too many recipients");
    let mut world = World::with(&sink);
    world.queue(
        "default",
        &[
            ("retry_base", "1 hour"),
            ("retry_max", "1 hour"),
            ("max_attempts", "2"),
        ],
    );
    let id = world.put(&list(9), "to nine", "");
    world.until(&format!(
        "SELECT state NOT IN ('sending', 'deferred', 'queued') FROM mail.messages WHERE id = {id}"
    ));
    assert_eq!(world.state(id), "sent", "{}", world.story(id));
    assert_eq!(
        sink.mails()
            .iter()
            .map(|mail| mail.recipients.len())
            .sum::<usize>(),
        9
    );
}

#[test]
fn three_hundred_recipients_get_one_mail() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let id = world.put(&list(300), "to many", "");
    world.reaches(id, "sent");
    let mails = sink.mails();
    assert_eq!(
        mails
            .iter()
            .map(|mail| mail.recipients.len())
            .sum::<usize>(),
        300
    );
    assert_eq!(
        world.one::<i64>("SELECT count(*) FROM mail.events WHERE kind = 'sent'", &[]),
        300
    );
}

#[test]
fn the_same_recipient_twice_gets_it_once() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let message = serde_json::json!({
        "to": ["A <a@example.test>", "b@example.test"], "cc": ["a@EXAMPLE.test"],
        "bcc": ["b@example.test"], "subject": "twice", "text": "x",
    });
    let id: i64 = world.one("SELECT mail.enqueue(message => $1::jsonb)", &[&message]);
    world.reaches(id, "sent");
    assert_eq!(
        sink.mails()[0].recipients,
        ["a@example.test", "b@example.test"]
    );
}
