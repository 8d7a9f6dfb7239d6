//! TLS as an opportunity: where it fails, mail goes on without it, unless a secret is at stake.

use mail_smtp::{
    AuthMechanism, Credentials, Endpoint, Phase, Session, Timeouts, TlsMode, Transcript,
};

use crate::{
    SHORT, brief, endpoint, message, patient, send,
    support::{Act, Script, Server, say, say_and_close},
};

/// How STARTTLS can go wrong, where, and what is said about it.
fn failures() -> [(Act, Phase, &'static str); 6] {
    let closed = "closed the connection";
    [
        // It promises TLS and hangs up.
        (say("220 go"), Phase::Tls, closed),
        (Act::Close, Phase::StartTls, closed),
        (say_and_close("421 bye"), Phase::StartTls, "421 bye"),
        (say("354 hm"), Phase::StartTls, "refused STARTTLS: 354 hm"),
        (
            say("what?"),
            Phase::StartTls,
            "not an SMTP reply: \"what?\"",
        ),
        (Act::Silence, Phase::StartTls, "the reply to STARTTLS"),
    ]
}

fn script(act: Act) -> Script {
    Script::new(true)
        .offer(&["STARTTLS", "AUTH PLAIN"])
        .on(Phase::StartTls, act)
}

fn endpoint_with(server: &Server, tls: TlsMode) -> Endpoint {
    Endpoint {
        tls,
        timeouts: Timeouts {
            command: SHORT,
            ..patient()
        },
        ..endpoint(server)
    }
}

#[tokio::test]
async fn where_starttls_fails_a_second_connection_does_without() {
    for (act, _, says) in failures() {
        let server = Server::start(script(act)).await;
        let endpoint = endpoint_with(&server, TlsMode::StartTlsOpportunistic);
        let transcript = Transcript::new();
        let session = Session::connect_recorded(&endpoint, transcript.clone()).await;
        let mut session = session.unwrap();
        assert!(session.tls().is_none());
        let outcome = send(&mut session, &message(1)).await;
        assert_eq!(brief(&outcome), ["Delivered Dot 250"]);
        session.quit().await;
        server.until(|all| all.iter().all(|c| c.closed)).await;
        let heard = server.connections();
        assert_eq!(heard.len(), 2);
        assert_eq!(heard[0].commands[..2], ["EHLO client.example", "STARTTLS"]);
        assert_eq!(heard[1].verbs(), "MAIL RCPT DATA . QUIT");
        assert!(heard[1].commands.iter().all(|c| c != "STARTTLS"));
        let lines = transcript.lines();
        let at = lines.iter().position(|l| l.text == "once more without TLS");
        let before = &lines[..at.expect("a note")];
        assert!(before.iter().any(|l| l.text.contains(says)), "{before:#?}");
    }
}

#[tokio::test]
async fn a_secret_or_required_tls_allows_no_second_connection() {
    for (secret, tls) in [
        (true, TlsMode::StartTlsOpportunistic),
        (true, TlsMode::StartTlsRequired),
        (false, TlsMode::StartTlsRequired),
    ] {
        for (act, phase, says) in failures() {
            let server = Server::start(script(act)).await;
            let mut endpoint = endpoint_with(&server, tls);
            endpoint.credentials = secret.then(|| Credentials {
                username: "bob".to_owned(),
                secret: "correct horse".to_owned(),
                mechanism: AuthMechanism::Auto,
            });
            let fault = Session::connect(&endpoint).await.expect_err("a fault");
            assert_eq!(fault.phase, phase);
            assert!(fault.detail.contains(says), "{}", fault.detail);
            server.ended().await;
            let heard = server.connections();
            assert_eq!(heard.len(), 1);
            assert!(heard[0].commands.iter().all(|c| !c.starts_with("AUTH")));
        }
    }
}

#[tokio::test]
async fn when_the_second_connection_fails_too_both_reasons_are_told() {
    let script = script(say("220 go"))
        .on(Phase::Greeting, say("220 hi"))
        .on(Phase::Greeting, say("554 5.7.1 no"));
    let server = Server::start(script).await;
    let endpoint = endpoint_with(&server, TlsMode::StartTlsOpportunistic);
    let fault = Session::connect(&endpoint).await.expect_err("a fault");
    assert_eq!(
        (fault.phase, fault.reply.map(|r| r.code)),
        (Phase::Greeting, Some(554))
    );
    assert_eq!(
        fault.detail,
        "the relay does not welcome us: 554 5.7.1 no; before, with TLS: \
         TLS handshake with \"localhost\" failed: the relay closed the connection"
    );
}

#[tokio::test]
async fn what_fails_before_starttls_is_not_tried_again() {
    let script = Script::new(true)
        .offer(&["STARTTLS"])
        .on(Phase::Greeting, say("450 later"));
    let server = Server::start(script).await;
    let endpoint = endpoint_with(&server, TlsMode::StartTlsOpportunistic);
    let fault = Session::connect(&endpoint).await.expect_err("a fault");
    assert_eq!(fault.phase, Phase::Greeting);
    server.ended().await;
    assert_eq!(server.connections().len(), 1);
}
