//! LMTP: a reply for each accepted recipient, and Unix sockets.

use std::{path::PathBuf, sync::Arc};

use mail_smtp::{Endpoint, Message, Outcome, Phase, Protocol, Session, Timeouts, Transcript};

use crate::{
    SHORT, brief, detail, endpoint, message, message_saying, patient, send,
    support::{Act, Script, Server, defer, say, say_and_close},
};

async fn session(script: Script) -> (Server, Session) {
    session_with(script, patient()).await
}

async fn session_with(script: Script, timeouts: Timeouts) -> (Server, Session) {
    let server = Server::start(script.lmtp()).await;
    let endpoint = Endpoint {
        protocol: Protocol::Lmtp,
        timeouts,
        ..endpoint(&server)
    };
    let session = Session::connect(&endpoint).await.expect("a session");
    (server, session)
}

/// What replies after the dot come to, and whether the session lives on.
#[tokio::test]
async fn each_recipient_has_its_own_reply() {
    for (says, results, usable) in [
        (vec![], ["Delivered Dot 250"; 3], true),
        (
            vec![say("250 ok"), say("452 4.2.2 full"), say("550 5.2.1 no")],
            [
                "Delivered Dot 250",
                "Transient Dot 452",
                "Permanent Dot 550",
            ],
            true,
        ),
        (
            vec![defer("250"), defer("250-2.1.5 a\r\n250 b"), say("250 ok")],
            ["Delivered Dot 250"; 3],
            true,
        ),
        (
            vec![say("250 ok"), say("354 what"), say("250 ok")],
            [
                "Delivered Dot 250",
                "Uncertain Dot 354",
                "Delivered Dot 250",
            ],
            false,
        ),
        (
            vec![say("250 ok"), say_and_close("421 4.3.2 bye")],
            ["Delivered Dot 250", "Untried Dot 421", "Uncertain Dot -"],
            false,
        ),
        (
            vec![say_and_close("421 4.3.2 bye")],
            ["Untried Dot 421", "Uncertain Dot -", "Uncertain Dot -"],
            false,
        ),
        (
            vec![say("250 ok"), Act::Close],
            ["Delivered Dot 250", "Uncertain Dot -", "Uncertain Dot -"],
            false,
        ),
        (
            vec![say("550 no"), say("hm")],
            ["Permanent Dot 550", "Uncertain Dot -", "Uncertain Dot -"],
            false,
        ),
    ] {
        for pipelining in [true, false] {
            let script = says
                .iter()
                .cloned()
                .fold(Script::new(pipelining), |s, act| s.on(Phase::Dot, act));
            let (_server, mut session) = session(script).await;
            let outcome = send(&mut session, &message(3)).await;
            assert_eq!(brief(&outcome), results, "{outcome:?}");
            assert_eq!(session.is_usable(), usable, "{outcome:?}");
            assert_eq!(session.maybe_accepted(), !usable);
        }
    }
}

#[tokio::test]
async fn silence_in_the_midst_leaves_the_rest_uncertain() {
    let timeouts = Timeouts {
        data_done: SHORT,
        ..patient()
    };
    for pipelining in [true, false] {
        let script = Script::new(pipelining)
            .on(Phase::Dot, say("250 ok"))
            .on(Phase::Dot, Act::Silence);
        let (server, mut session) = session_with(script, timeouts).await;
        let outcome = send(&mut session, &message(2)).await;
        assert_eq!(brief(&outcome), ["Delivered Dot 250", "Uncertain Dot -"]);
        let Outcome::Judged(results) = outcome else {
            panic!()
        };
        let detail = results[1].detail.as_deref().unwrap();
        assert!(detail.contains("waiting for the reply to the final dot"));
        server.ended().await;
    }
}

#[tokio::test]
async fn only_the_accepted_recipients_are_answered() {
    for pipelining in [true, false] {
        let script = Script::new(pipelining)
            .on(Phase::Rcpt, say("550 5.1.1 no"))
            .on(Phase::Rcpt, say("250 ok"))
            .on(Phase::Rcpt, say("450 later"))
            .on(Phase::Rcpt, say("250 ok"))
            .on(Phase::Dot, say("250 ok"))
            .on(Phase::Dot, say("452 full"));
        let (server, mut session) = session(script).await;
        assert_eq!(
            brief(&send(&mut session, &message(4)).await),
            [
                "Permanent Rcpt 550",
                "Delivered Dot 250",
                "Transient Rcpt 450",
                "Transient Dot 452"
            ]
        );
        assert_eq!(
            brief(&send(&mut session, &message(1)).await),
            ["Delivered Dot 250"]
        );
        assert_eq!(server.first().accepted.len(), 2);
    }
}

#[tokio::test]
async fn a_relay_that_ends_for_everyone_has_tried_nothing() {
    for pipelining in [true, false] {
        let script = Script::new(pipelining)
            .on(Phase::Dot, say("421 4.3.2 bye"))
            .on(Phase::Dot, say("421 4.3.2 bye"));
        let (_server, mut session) = session(script).await;
        let outcome = send(&mut session, &message(2)).await;
        assert_eq!(brief(&outcome), ["NotTried Dot 421"]);
        assert!(!session.is_usable() && !session.maybe_accepted());
    }
}

#[tokio::test]
async fn a_relay_that_ends_for_all_whom_it_has_not_refused_has_not_tried_these() {
    for pipelining in [true, false] {
        let script = Script::new(pipelining)
            .on(Phase::Rcpt, say("550 no"))
            .on(Phase::Dot, say("421 4.3.2 bye"))
            .on(Phase::Dot, say("421 4.3.2 bye"));
        let (_server, mut session) = session(script).await;
        let outcome = send(&mut session, &message(3)).await;
        let results = ["Permanent Rcpt 550", "Untried Dot 421", "Untried Dot 421"];
        assert_eq!(brief(&outcome), results);
        assert!(!session.is_usable() && !session.maybe_accepted());
    }
}

#[tokio::test]
async fn data_opened_for_nobody_ends_the_session_without_a_dot() {
    let script = Script::new(true).on(Phase::Rcpt, say("550 no"));
    let (server, mut session) = session(script).await;
    let outcome = send(&mut session, &message(1)).await;
    assert_eq!(brief(&outcome), ["Permanent Rcpt 550"]);
    assert!(!session.is_usable());
    let heard = server.ended().await;
    assert_eq!(heard.verbs(), "MAIL RCPT DATA");
    assert!(heard.messages.is_empty());
}

#[tokio::test]
async fn messages_are_chained_behind_the_dot() {
    let (server, mut session) = session(Script::new(true)).await;
    let jobs: Vec<Arc<Message>> = (1..4).map(|n| Arc::new(message_saying(n, "x"))).collect();
    let mut waiting = jobs.iter().cloned();
    let mut job = waiting.next();
    while let Some(current) = job {
        let (outcome, next) = session.send(&current, || waiting.next()).await;
        assert_eq!(brief(&outcome), vec!["Delivered Dot 250"; current.to.len()]);
        job = next;
    }
    assert_eq!(server.first().accepted.len(), 6);
}

#[tokio::test]
async fn lmtp_is_greeted_with_lhlo_and_never_with_helo() {
    let (server, _session) = session(Script::new(true)).await;
    assert_eq!(server.first().commands, ["LHLO client.example"]);
    let server = Server::start(Script::new(true).on(Phase::Ehlo, say("502 5.5.2 what"))).await;
    let endpoint = Endpoint {
        protocol: Protocol::Lmtp,
        ..endpoint(&server)
    };
    let fault = Session::connect(&endpoint).await.unwrap_err();
    assert_eq!(fault.phase, Phase::Ehlo);
    assert_eq!(fault.detail, "the relay refused our LHLO: 502 5.5.2 what");
    assert_eq!(
        server.ended().await.commands,
        ["LHLO client.example", "QUIT"]
    );
}

fn socket(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("mail-smtp-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

#[tokio::test]
async fn a_unix_socket_is_spoken_to_and_named_when_it_is_not_there() {
    let path = socket("lmtp");
    let server = Server::start_at(&path, Script::new(true).lmtp());
    let endpoint = Endpoint {
        protocol: Protocol::Lmtp,
        host: "dovecot".to_owned(),
        socket: Some(path.clone()),
        helo_name: String::new(),
        ..endpoint(&server)
    };
    let transcript = Transcript::new();
    let mut session = Session::connect_recorded(&endpoint, transcript.clone())
        .await
        .unwrap();
    assert_eq!(
        brief(&send(&mut session, &message(2)).await),
        ["Delivered Dot 250"; 2]
    );
    session.quit().await;
    assert_eq!(server.ended().await.commands[0], "LHLO localhost");
    let first = transcript.lines()[0].to_string();
    assert_eq!(first, format!("-- \"{}\": connected", path.display()));
    std::fs::remove_file(&path).unwrap();
    let fault = Session::connect(&endpoint).await.unwrap_err();
    let says = format!(
        "could not connect to dovecot at \"{}\": No such",
        path.display()
    );
    assert!(fault.detail.starts_with(&says), "{}", fault.detail);
    assert_eq!(fault.phase, Phase::Connect);
}

#[tokio::test]
async fn a_broken_connection_within_the_text_has_delivered_nothing() {
    let script = Script::new(true).on(Phase::Body, Act::CutBody(1000, vec![]));
    let (_server, mut session) = session(script).await;
    let big = message_saying(2, &"0123456789\r\n".repeat(2_000_000));
    let outcome = send(&mut session, &big).await;
    assert_eq!(brief(&outcome), ["Transient Body -"; 2]);
    assert!(detail(&outcome).contains("connection"), "{outcome:?}");
}
