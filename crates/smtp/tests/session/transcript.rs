//! A conversation written down: every line, and no secret.

use std::sync::Arc;

use mail_smtp::{
    AuthMechanism, Credentials, Endpoint, Phase, Protocol, Session, TlsMode, Transcript, Who,
};

use crate::{
    endpoint, message, send,
    support::{
        Act, Script, Server, say,
        tls::{Authority, Flaw},
    },
};

const SECRET: &str = "correct horse battery";

fn text(transcript: &Transcript) -> Vec<String> {
    transcript.lines().iter().map(ToString::to_string).collect()
}

async fn recorded(endpoint: &Endpoint) -> (Session, Transcript) {
    let transcript = Transcript::new();
    let session = Session::connect_recorded(endpoint, transcript.clone()).await;
    (session.expect("a session"), transcript)
}

#[tokio::test]
async fn a_whole_session_is_written_down_without_its_secrets() {
    let authority = Authority::new();
    for (mechanism, name, auth) in [
        (
            AuthMechanism::Plain,
            "AUTH PLAIN",
            &["C: AUTH PLAIN ***", "S: 235 welcome"][..],
        ),
        (
            AuthMechanism::Login,
            "AUTH LOGIN",
            &[
                "C: AUTH LOGIN",
                "S: 334 VXNlcm5hbWU6",
                "C: ***",
                "S: 334 UGFzc3dvcmQ6",
                "C: ***",
                "S: 235 welcome",
            ],
        ),
    ] {
        let mut script = Script::new(true)
            .offer(&["STARTTLS", name])
            .tls(authority.server(Flaw::None), false);
        if mechanism == AuthMechanism::Login {
            script = script
                .on(Phase::Auth, say("334 VXNlcm5hbWU6"))
                .on(Phase::Auth, say("334 UGFzc3dvcmQ6"));
        }
        let server = Server::start(script).await;
        let endpoint = Endpoint {
            host: "localhost".to_owned(),
            tls: TlsMode::StartTlsRequired,
            ca_file: Some(authority.file.clone()),
            credentials: Some(Credentials {
                username: "bob".to_owned(),
                secret: SECRET.to_owned(),
                mechanism,
            }),
            ..endpoint(&server)
        };
        let (mut session, transcript) = recorded(&endpoint).await;
        let cipher = session.tls().unwrap().cipher.clone();
        send(&mut session, &message(1)).await;
        session.quit().await;
        let hello = [
            "C: EHLO client.example".to_owned(),
            "S: 250-test greets you".to_owned(),
            "S: 250-PIPELINING".to_owned(),
            "S: 250-STARTTLS".to_owned(),
            format!("S: 250 {name}"),
        ];
        let mut expected = vec![
            format!("-- 127.0.0.1:{}: connected", server.port),
            "S: 220 test ESMTP".to_owned(),
        ];
        expected.extend(hello.clone());
        expected.extend(["C: STARTTLS".to_owned(), "S: 220 go".to_owned()]);
        expected.push(format!("-- TLSv1.3 with {cipher}"));
        expected.extend(hello);
        expected.extend(auth.iter().map(|&line| line.to_owned()));
        let rest = [
            "C: MAIL FROM:<from@example.com>",
            "C: RCPT TO:<to0@example.com>",
            "C: DATA",
            "S: 250 2.1.0 ok",
            "S: 250 2.1.5 ok",
            "S: 354 go",
            "-- message text, 18 octets",
            "S: 250 2.0.0 queued",
            "C: QUIT",
            "S: 221 bye",
        ];
        expected.extend(rest.map(str::to_owned));
        // The name may have another address, which is tried before.
        let mut said = text(&transcript);
        said.drain(..said.len() - expected.len());
        assert_eq!(said, expected);
        assert!(transcript.lines().is_sorted_by_key(|line| line.elapsed));
    }
}

#[tokio::test]
async fn what_goes_out_in_one_write_or_line_by_line_is_written_down_as_it_goes() {
    for (pipelining, expected) in [
        (
            true,
            "Us Us Us Relay Relay Relay Note Us Us Us Relay Relay Relay Relay Note Relay",
        ),
        (
            false,
            "Us Relay Us Relay Us Relay Note Relay Us Relay Us Relay Us Relay Note Relay",
        ),
    ] {
        let server = Server::start(Script::new(pipelining)).await;
        let (mut session, transcript) = recorded(&endpoint(&server)).await;
        let before = transcript.lines().len();
        let second = Arc::new(message(1));
        let (_, next) = session.send(&second, || Some(Arc::clone(&second))).await;
        session.send(&next.unwrap_or(second), || None).await;
        let lines = transcript.lines().split_off(before);
        let who: Vec<String> = lines.iter().map(|l| format!("{:?}", l.who)).collect();
        assert_eq!(who.join(" "), expected, "{lines:#?}");
    }
}

#[tokio::test]
async fn what_went_wrong_is_written_down_once() {
    let words = "250-a\r\n250 b\r\n421 bye";
    let script = Script::new(true).on(Phase::Dot, say(words));
    let server = Server::start(script).await;
    let (mut session, transcript) = recorded(&endpoint(&server)).await;
    send(&mut session, &message(1)).await;
    send(&mut session, &message(1)).await;
    let lines = text(&transcript);
    let end = [
        "S: 250-a",
        "S: 250 b",
        "S: 421 bye",
        "-- the relay spoke out of turn",
    ];
    assert_eq!(lines[lines.len() - 4..], end);

    let script = Script::new(true).on(Phase::Rcpt, Act::Close);
    let server = Server::start(script).await;
    let (mut session, transcript) = recorded(&endpoint(&server)).await;
    send(&mut session, &message(1)).await;
    session.quit().await;
    let lines = transcript.lines();
    let last = lines.last().unwrap();
    assert_eq!(last.who, Who::Note);
    assert!(last.text.contains("connection"), "{}", last.text);
}

#[tokio::test]
async fn a_session_that_does_not_come_about_is_written_down_to_its_end() {
    let script = Script::new(true).on(Phase::Greeting, say("554-5.7.1 we do\r\n554 not know you"));
    let server = Server::start(script).await;
    let endpoint = Endpoint {
        host: "127.0.0.1".to_owned(),
        ..endpoint(&server)
    };
    let transcript = Transcript::new();
    let session = Session::connect_recorded(&endpoint, transcript.clone()).await;
    session.expect_err("a fault");
    let expected = [
        format!("-- 127.0.0.1:{}: connected", server.port),
        "S: 554-5.7.1 we do".to_owned(),
        "S: 554 not know you".to_owned(),
        "-- the relay does not welcome us: 554 5.7.1 we do".to_owned(),
        "C: QUIT".to_owned(),
    ];
    assert_eq!(text(&transcript), expected);

    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = gone.local_addr().unwrap().port();
    drop(gone);
    let endpoint = Endpoint { port, ..endpoint };
    let transcript = Transcript::new();
    let fault = Session::connect_recorded(&endpoint, transcript.clone())
        .await
        .expect_err("a fault");
    let refused = "Connection refused (os error 111)";
    assert_eq!(
        fault.detail,
        format!("could not connect to 127.0.0.1:{port}: {refused}")
    );
    assert_eq!(
        text(&transcript),
        [
            format!("-- 127.0.0.1:{port}: {refused}"),
            format!("-- {}", fault.detail)
        ]
    );
}

#[tokio::test]
async fn lmtp_is_written_down_with_each_recipient_s_reply() {
    let script = Script::new(true)
        .lmtp()
        .on(Phase::Dot, say("250 one"))
        .on(Phase::Dot, say("452 two"));
    let server = Server::start(script).await;
    let endpoint = Endpoint {
        protocol: Protocol::Lmtp,
        ..endpoint(&server)
    };
    let (mut session, transcript) = recorded(&endpoint).await;
    send(&mut session, &message(2)).await;
    session.quit().await;
    let lines = text(&transcript);
    let end = [
        "-- message text, 18 octets",
        "S: 250 one",
        "S: 452 two",
        "C: QUIT",
        "S: 221 bye",
    ];
    assert_eq!(lines[lines.len() - 5..], end);
}
