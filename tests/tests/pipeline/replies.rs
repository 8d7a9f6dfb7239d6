//! Replies that are legal, common, or neither: none may turn an accepted mail into a failure, or a refused
//! one into a success.

use pgmq_mail_tests::{Action, Phase, Sink};

use crate::{SOON, World};

#[test]
fn unusual_words_of_acceptance_are_acceptance() {
    let replies: [&[u8]; 12] = [
        b"250\r\n",
        b"250 \r\n",
        b"250\n",
        b"250-2.0.0 Queued\r\n250-as\r\n250 1234\r\n",
        b"250-\r\n250\r\n",
        b"250-one\r\n250 \r\n",
        b"250 2.0.0 caf\xe9 \xff\xfe queued\r\n",
        b"250 2.0.0 nul \0 within\r\n",
        "250 2.0.0 Größe 🎉 日本\r\n".as_bytes(),
        b"251 Will forward\r\n",
        b"250 5.0.0 says one thing and means another\r\n",
        b"250 2.0.0 quotes ' \" and \\ $1 %s {}\r\n",
    ];
    let sink = Sink::start();
    let mut world = World::with(&sink);
    for (n, reply) in replies.into_iter().enumerate() {
        sink.set_script(move |event| match event.phase {
            Phase::Dot => Action::Bytes(reply.to_vec()),
            _ => Action::Accept,
        });
        let id = world.put("alice@example.test", &format!("reply {n}"), "");
        world.reaches(id, "sent");
        assert_eq!(
            world.kinds(id),
            ["sent"],
            "{}: {}",
            reply.escape_ascii(),
            world.story(id)
        );
        assert_eq!(sink.wait_for(n + 1, SOON).len(), n + 1);
    }
    assert_eq!(world.health(), [""; 0]);
    assert_eq!(sink.connections(), 1);
}

#[test]
fn a_long_reply_is_accepted_and_recorded_within_bounds() {
    let long = format!("250-a line of it {}\r\n", "x".repeat(60)).repeat(400);
    let sink = Sink::scripted(move |event| match event.phase {
        Phase::Dot => Action::Reply(format!("{long}250 done")),
        _ => Action::Accept,
    });
    let mut world = World::with(&sink);
    let id = world.put("alice@example.test", "long reply", "");
    world.reaches(id, "sent");
    let length: i32 = world.one(
        "SELECT length(text) FROM mail.events WHERE message_id = $1",
        &[&id],
    );
    assert!((100..=4000).contains(&length), "{length}");
}

#[test]
fn code_only_replies_and_lower_case_keywords_carry_a_whole_session() {
    let sink = Sink::scripted(|event| match event.phase {
        Phase::Connect => Action::Reply("220-sink.test\r\n220-has\r\n220 more to say".to_owned()),
        Phase::Ehlo => {
            Action::Reply("250-sink\r\n250-pipelining\r\n250-8bitmime\r\n250 size".to_owned())
        }
        Phase::Data => Action::Reply("354".to_owned()),
        Phase::Mail | Phase::Rcpt | Phase::Dot => Action::Reply("250".to_owned()),
        _ => Action::Accept,
    });
    let mut world = World::with(&sink);
    world.put_many(20, "");
    sink.wait_for(20, SOON);
    world.idle("default");
    let sent: i64 = world.one(
        "SELECT count(*) FROM mail.messages WHERE state = 'sent' AND attempts = 1",
        &[],
    );
    assert_eq!(sent, 20);
    assert!(
        sink.mails()
            .iter()
            .all(|mail| mail.parameters.starts_with("SIZE="))
    );
}

#[test]
fn a_server_that_knows_neither_ehlo_nor_pipelining_is_served_step_by_step() {
    let sink = Sink::scripted(|event| match event.phase {
        Phase::Ehlo if event.command.starts_with("EHLO") => Action::reply("502 5.5.1 What?"),
        _ => Action::Accept,
    });
    let mut world = World::with(&sink);
    let ids = world.put_many(5, "");
    for id in ids {
        world.reaches(id, "sent");
    }
    assert!(sink.mails().iter().all(|mail| mail.parameters.is_empty()));
    assert!(
        sink.commands()
            .iter()
            .any(|(_, command)| command.starts_with("HELO "))
    );
}

#[test]
fn a_reply_after_the_dot_that_means_nothing_leaves_the_mail_uncertain() {
    for reply in [
        "354 Still waiting",
        "What a nice day",
        "999 Beyond",
        "250-one\r\n550 other",
    ] {
        let sink = Sink::scripted(move |event| match event.phase {
            Phase::Dot => Action::reply(reply),
            _ => Action::Accept,
        });
        let mut world = World::with(&sink);
        world.queue("default", &[("on_uncertain", "hold")]);
        let id = world.put("alice@example.test", "odd", "");
        world.reaches(id, "uncertain");
        assert_eq!(world.kinds(id), ["held"], "{reply}: {}", world.story(id));
    }
}

#[test]
fn no_text_goes_out_when_data_is_not_answered_by_354() {
    for reply in ["250 2.0.0 Ok", "350 Go on", "What a nice day"] {
        let sink = Sink::scripted(move |event| match event.phase {
            Phase::Data => Action::reply(reply),
            _ => Action::Accept,
        });
        let mut world = World::with(&sink);
        let id = world.put("alice@example.test", "odd", "");
        world.reaches(id, "deferred");
        let sent = sink.commands();
        assert!(
            sent.iter()
                .all(|(_, line)| !line.contains("hello") && !line.starts_with("Message-ID")),
            "{sent:?}"
        );
        sink.clear_script();
        world.reaches(id, "sent");
        assert_eq!(sink.count(), 1);
    }
}

#[test]
fn every_recipient_refused_but_data_accepted_sends_nothing() {
    let sink = Sink::scripted(|event| match event.phase {
        Phase::Rcpt => Action::reply("550 5.1.1 No"),
        Phase::Data => Action::reply("354 Go ahead nevertheless"),
        _ => Action::Accept,
    });
    let mut world = World::with(&sink);
    let id = world.put("a@example.test, b@example.test", "odd", "");
    world.reaches(id, "failed");
    assert_eq!(world.kinds(id), ["failed", "failed"], "{}", world.story(id));
    assert!(sink.mails().iter().all(|mail| mail.data.is_empty()));
}

#[test]
fn a_server_that_is_none_is_relay_trouble() {
    for greeting in [
        "HTTP/1.1 400 Bad Request",
        "554 5.3.2 Not today",
        "550",
        "220-never\r\n599 ends",
    ] {
        let sink = Sink::scripted(move |event| match event.phase {
            Phase::Connect => Action::reply(greeting),
            _ => Action::Accept,
        });
        let mut world = World::with(&sink);
        let id = world.put("alice@example.test", "odd", "");
        world.ails("relay", "main");
        world.waits(id);
        sink.clear_script();
        world.reaches(id, "sent");
    }
}
