//! What is in a mail, byte by byte, and mails that cannot be composed.

use pgmq_mail_tests::{Action, Phase, Sink};

use crate::servers::parsed;
use crate::{SOON, World};

/// Sends one mail with this text and gives back what the relay got.
#[track_caller]
fn sent(world: &mut World<'_>, sink: &Sink, text: &str) -> String {
    let before = sink.count();
    let id: i64 = world.one(
        "SELECT mail.enqueue('alice@example.test', 'bytes', $1)",
        &[&text],
    );
    world.reaches(id, "sent");
    sink.wait_for(before + 1, SOON)[before].text()
}

#[test]
fn dots_and_every_kind_of_line_end_arrive_as_lines() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    for (text, body) in [
        ("one", "one\r\n"),
        ("", ""),
        (".", ".\r\n"),
        ("..\n.\n...x\n", "..\r\n.\r\n...x\r\n"),
        (
            "bare\nlines\n\n.\n\nend",
            "bare\r\nlines\r\n\r\n.\r\n\r\nend\r\n",
        ),
        (
            "dos\r\nlines\r\n.\r\nQUIT\r\n",
            "dos\r\nlines\r\n.\r\nQUIT\r\n",
        ),
        ("mac\rlines\r.\r", "mac\r\nlines\r\n.\r\n"),
        (
            "mixed\n.\r\n.\r\r\n.\n\r.",
            "mixed\r\n.\r\n.\r\n\r\n.\r\n\r\n.\r\n",
        ),
    ] {
        let mail = sent(&mut world, &sink, text);
        let (_, got) = mail.split_once("\r\n\r\n").expect("a body");
        assert_eq!(got, body, "{text:?}");
        assert!(!got.replace("\r\n", "").contains(['\r', '\n']));
    }
    assert_eq!(sink.connections(), 1, "no body broke out of its mail");
}

#[test]
fn texts_of_every_kind_arrive_as_they_were_written() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let long = "x".repeat(5000);
    let texts = [
        "schön".to_owned(),
        "日本語の本文\n".repeat(200),
        "🎉".repeat(500),
        format!("{long}\nshort\n{long}"),
        "trailing spaces   \nand tabs\t\t\n-- \nsignature".to_owned(),
        "From the beginning of a line\n>From quoted".to_owned(),
        "=?utf-8?q?not_encoded?= = =3D =\n=".to_owned(),
        (1..=0x7f)
            .filter_map(char::from_u32)
            .filter(|c| !matches!(c, '\r' | '\n'))
            .collect(),
        "c1 \u{85} \u{9b} \u{ad} \u{200b} \u{feff} \u{2028} ".to_owned(),
    ];
    for text in texts {
        let mail = sent(&mut world, &sink, &text);
        let got = parsed(&mail)
            .body_text(0)
            .expect("a text")
            .replace("\r\n", "\n");
        assert_eq!(got.trim_end_matches('\n'), text.trim_end_matches('\n'));
        assert!(mail.is_ascii());
        assert!(mail.split("\r\n").all(|line| line.len() <= 998));
    }
}

#[test]
fn subjects_of_every_kind_arrive_as_they_were_written() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let subjects = [
        "plain".to_owned(),
        "Ümlaut".to_owned(),
        "long words ".repeat(40).trim_end().to_owned(),
        "日本語".repeat(60),
        "=?utf-8?q?looks_encoded?=".to_owned(),
        "x".repeat(900),
        "Fwd: \"quoted\" <not@an.address>, (comment); = ? _".to_owned(),
        "tab\tinside".to_owned(),
    ];
    for (n, subject) in subjects.iter().enumerate() {
        let id = world.put("alice@example.test", subject, "");
        world.reaches(id, "sent");
        let mail = sink.wait_for(n + 1, SOON)[n].text();
        let got = parsed(&mail)
            .subject()
            .expect("a subject")
            .replace('\t', " ");
        assert_eq!(got, subject.replace('\t', " "));
        assert!(mail.split("\r\n").all(|line| line.len() <= 998));
    }
}

#[test]
fn a_mail_to_blind_recipients_only_names_nobody() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let message = serde_json::json!({"bcc": ["blind-one@example.test", "blind-two@example.test"], "subject": "x", "text": "x"});
    let id: i64 = world.one("SELECT mail.enqueue(message => $1::jsonb)", &[&message]);
    world.reaches(id, "sent");
    let mails = sink.mails();
    assert_eq!(
        mails[0].recipients,
        ["blind-one@example.test", "blind-two@example.test"]
    );
    let text = mails[0].text();
    assert!(!text.contains("blind"), "{text}");
}

#[test]
fn eight_bit_addresses_need_a_relay_that_knows_them() {
    let able = Sink::start();
    let unable = Sink::builder()
        .extensions(&["PIPELINING", "8BITMIME"])
        .start();
    for (sink, state) in [(&able, "sent"), (&unable, "failed")] {
        let mut world = World::with(sink);
        let id = world.put("grüße@example.test", "address", "");
        world.reaches(id, state);
        if state == "sent" {
            assert_eq!(sink.mails()[0].recipients, ["grüße@example.test"]);
            assert!(sink.mails()[0].parameters.contains("SMTPUTF8"));
        } else {
            let story = world.story(id);
            assert!(
                story.contains(" mail 5.6.7 ") || story.contains(" rcpt 5.6.7 "),
                "{story}"
            );
            assert!(story.contains("SMTPUTF8"), "{story}");
        }
    }
}

#[test]
fn a_mail_larger_than_the_relay_takes_fails_without_being_sent() {
    let sink = Sink::builder()
        .extensions(&["PIPELINING", "SIZE 20000"])
        .start();
    let mut world = World::with(&sink);
    let id: i64 = world.one(
        "SELECT mail.enqueue('alice@example.test', 'large', repeat('0123456789', 3000))",
        &[],
    );
    let small = world.put("alice@example.test", "small", "");
    world.reaches(id, "failed");
    world.reaches(small, "sent");
    assert!(world.story(id).contains("20000"), "{}", world.story(id));
    let status: String = world.one(
        "SELECT last_status FROM mail.messages WHERE id = $1",
        &[&id],
    );
    assert_eq!(status, "5.3.4");
    assert_eq!(sink.count(), 1);
}

#[test]
fn the_date_is_the_second_in_which_a_mail_was_due_and_never_later() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let id = world.put(
        "alice@example.test",
        "date",
        ", send_at => date_trunc('second', clock_timestamp()) + interval '1.9 seconds'",
    );
    world.reaches(id, "sent");
    let due: i64 = world.one(
        "SELECT floor(extract(epoch FROM send_at))::int8 FROM mail.messages WHERE id = $1",
        &[&id],
    );
    let mail = sink.mails()[0].text();
    let date = parsed(&mail).date().expect("Date").to_timestamp();
    assert_eq!(date - due, 0, "seconds late");
}

#[test]
fn what_cannot_be_composed_is_a_dead_letter_and_the_queue_goes_on() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    world.queue("kept", &[("transport", "capture")]);
    for queue in ["default", "kept"] {
        world.run(&format!("SELECT mail.pause('{queue}')"));
        let broken = [
            "{\"from\":",
            "null",
            "{}",
            "garbage",
            "",
            "{\"from\": \"x\", \"to\": [\"y\"], \"message_id\": \"z\"}",
            "{\"from\": \"a@b.test\", \"to\": [\"c@d.test\"], \"message_id\": \"<1@b.test>\", \"subject\": \"a\\r\\nBcc: x@y.test\"}",
        ];
        let mut ids = Vec::new();
        for content in broken {
            let id = world.put(
                "alice@example.test",
                "broken",
                &format!(", queue => '{queue}'"),
            );
            world
                .client
                .execute(
                    "UPDATE mail.message SET content = $2 WHERE id = $1",
                    &[&id, &content],
                )
                .expect("the superuser may");
            ids.push(id);
        }
        let good = world.put(
            "alice@example.test",
            "good",
            &format!(", queue => '{queue}'"),
        );
        world.run(&format!("SELECT mail.resume('{queue}')"));
        world.reaches(good, "sent");
        for id in ids {
            world.reaches(id, "failed");
            let error: String = world.one(
                "SELECT last_error FROM mail.dead_letters WHERE id = $1",
                &[&id],
            );
            assert!(error.contains("cannot be composed"), "{error}");
            assert_eq!(world.kinds(id), ["failed"]);
        }
    }
    assert_eq!(sink.count(), 1);
}

#[test]
fn a_body_that_is_gone_is_a_dead_letter_too() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    world.run("SELECT mail.pause('default')");
    let id = world.put("alice@example.test", "gone", "");
    world.run("UPDATE mail.message SET content = NULL");
    world.run("SELECT mail.resume('default')");
    world.reaches(id, "failed");
    assert_eq!(sink.count(), 0);
}

#[test]
fn messages_of_an_external_queue_that_becomes_an_smtp_queue_do_not_vanish() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    world.queue("outside", &[("transport", "external")]);
    let message = serde_json::json!({
        "from": "a@example.test", "to": ["b@example.test"], "message_id": "<1@example.test>",
    });
    let query = "SELECT mail.enqueue(message => $1::jsonb, queue => 'outside')";
    let mail: i64 = world.one(query, &[&message]);
    let other: i64 = world.one(query, &[&serde_json::json!({"task": 1})]);
    world.queue("outside", &[("transport", "smtp")]);
    world.reaches(other, "failed");
    world.until(&format!(
        "SELECT state NOT IN ('queued', 'sending') FROM mail.messages WHERE id = {mail}"
    ));
    // Sent to those whom it names, or a dead letter that says why not: but not sent to nobody.
    let state = world.state(mail);
    assert_eq!(sink.count(), usize::from(state == "sent"), "{state}");
    assert!(["sent", "failed"].contains(&&*state), "{state}");
}

#[test]
fn a_relay_that_repeats_the_password_is_not_quoted() {
    let certificates = pgmq_mail_tests::Certificates::new();
    let sink = Sink::builder()
        .starttls(&certificates)
        .auth("app", "correct horse")
        .script(|event| match event.phase {
            Phase::Auth => Action::Reply(format!(
                "535 5.7.8 You said {} which is correct horse, and not right",
                event.command
            )),
            _ => Action::Accept,
        })
        .start();
    let mut world = World::new();
    world.relay_with_login("main", &sink.url(), &certificates, "correct horse");
    let id = world.put("alice@example.test", "guarded", "");
    world.ails("relay", "535");
    let shown = format!("{}{:?}", world.story(id), world.health());
    for secret in [
        "correct horse",
        "Y29ycmVjdCBob3JzZ",
        "AGFwcABjb3JyZWN0IGhvcnNl",
    ] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
