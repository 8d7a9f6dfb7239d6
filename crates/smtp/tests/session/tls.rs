//! TLS: whom it trusts, what it says when it does not, and what never goes out without it.

use std::{path::PathBuf, time::Duration};

use mail_smtp::{AuthMechanism, Credentials, Endpoint, Phase, RelayFault, Session, TlsMode};
use rustls::version;
use tokio::time::timeout;

use crate::{
    brief, endpoint, message, message_saying, send,
    support::{
        Act, Script, Server, say,
        tls::{Authority, Flaw},
    },
};

const MODES: [TlsMode; 3] = [
    TlsMode::Implicit,
    TlsMode::StartTlsRequired,
    TlsMode::StartTlsOpportunistic,
];

fn login() -> Credentials {
    Credentials {
        username: "bob".to_owned(),
        secret: "correct horse".to_owned(),
        mechanism: AuthMechanism::Auto,
    }
}

async fn connect(
    script: Script,
    tls: TlsMode,
    ca_file: Option<PathBuf>,
    credentials: Option<Credentials>,
) -> (Server, Result<Session, RelayFault>) {
    let server = Server::start(script).await;
    let endpoint = Endpoint {
        tls,
        ca_file,
        credentials,
        ..endpoint(&server)
    };
    let session = Session::connect(&endpoint).await;
    (server, session)
}

/// A server that offers STARTTLS before, and AUTH.
fn script(authority: &Authority, flaw: Flaw, mode: TlsMode) -> Script {
    Script::new(true)
        .offer(&["STARTTLS", "AUTH PLAIN"])
        .tls(authority.server(flaw), mode == TlsMode::Implicit)
}

#[tokio::test]
async fn mail_and_login_go_through_tls_and_nothing_secret_before() {
    let authority = Authority::new();
    for mode in MODES {
        let (server, session) = connect(
            script(&authority, Flaw::None, mode),
            mode,
            Some(authority.file.clone()),
            Some(login()),
        )
        .await;
        let mut session = session.unwrap();
        let tls = session.tls().expect("TLS");
        assert_eq!(tls.version, "TLSv1.3");
        assert!(tls.cipher.starts_with("TLS13_"), "{}", tls.cipher);
        for _ in 0..3 {
            assert_eq!(
                brief(&send(&mut session, &message(1)).await),
                ["Delivered Dot 250"]
            );
        }
        let plain = String::from_utf8_lossy(&server.first().plain).into_owned();
        let expected = match mode {
            TlsMode::Implicit => "",
            _ => "EHLO client.example\r\nSTARTTLS\r\n",
        };
        assert_eq!(plain, expected);
        session.quit().await;
    }
}

#[tokio::test]
async fn tls_1_2_is_spoken_and_named() {
    let authority = Authority::new();
    let config = authority.server_with(Flaw::None, &[&version::TLS12]);
    let script = Script::new(true).tls(config, true);
    let (_server, session) = connect(
        script,
        TlsMode::Implicit,
        Some(authority.file.clone()),
        None,
    )
    .await;
    assert_eq!(
        session.unwrap().tls().map(|tls| tls.version),
        Some("TLSv1.2")
    );
}

#[tokio::test]
async fn a_large_message_and_a_cut_one_are_told_apart_within_tls() {
    let authority = Authority::new();
    let big = crate::message_saying(1, &"0123456789\r\n".repeat(500_000));
    let base = || script(&authority, Flaw::None, TlsMode::Implicit);
    for (script, result) in [
        (base(), "Delivered Dot 250"),
        (
            base().on(Phase::Body, Act::CutBody(1000, vec![])),
            "Transient Body -",
        ),
        (base().on(Phase::Dot, Act::Close), "Uncertain Dot -"),
    ] {
        let file = Some(authority.file.clone());
        let (server, session) = connect(script, TlsMode::Implicit, file, None).await;
        let outcome = send(&mut session.unwrap(), &big).await;
        assert_eq!(brief(&outcome), [result], "{outcome:?}");
        if result.starts_with("Delivered") {
            assert!(server.first().messages[0] == big.data.to_vec());
        }
    }
}

#[tokio::test]
async fn a_certificate_that_cannot_be_trusted_is_a_fault_that_says_why() {
    let authority = Authority::new();
    let file = authority.file.display();
    for (flaw, says) in [
        (Flaw::Expired, "has expired, ".to_owned()),
        (
            Flaw::NotYetValid,
            "is not yet valid, it will be in ".to_owned(),
        ),
        (
            Flaw::SelfSigned,
            format!("is self-signed and not in \"{file}\""),
        ),
        (
            Flaw::SelfSignedAuthority,
            "is self-signed and says CA:TRUE, which a server's must not".to_owned(),
        ),
        (
            Flaw::OtherName,
            "is for another name: \"other.example\", not \"localhost\"".to_owned(),
        ),
        (
            Flaw::OtherAuthority,
            format!("was issued by \"Another\", which is not in \"{file}\""),
        ),
        (
            Flaw::OtherKey,
            format!(
                "says it was issued by \"Test Authority\", but the key of that name in \"{file}\" is another"
            ),
        ),
    ] {
        let says = format!("the certificate of \"localhost\" {says}");
        for mode in MODES {
            // With a secret to send, opportunistic TLS verifies, too.
            let script = script(&authority, flaw, mode);
            let (server, session) =
                connect(script, mode, Some(authority.file.clone()), Some(login())).await;
            let fault = session.expect_err("a fault");
            assert_eq!(fault.phase, Phase::Tls);
            assert!(
                fault.detail.starts_with(&says),
                "{flaw:?}: {}",
                fault.detail
            );
            assert!(
                server
                    .first()
                    .commands
                    .iter()
                    .all(|line| !line.starts_with("AUTH"))
            );
        }
    }
}

#[tokio::test]
async fn an_authority_the_system_does_not_know_is_a_fault() {
    let authority = Authority::new();
    let script = script(&authority, Flaw::None, TlsMode::Implicit);
    let (_server, session) = connect(script, TlsMode::Implicit, None, None).await;
    let fault = session.expect_err("a fault");
    assert_eq!(fault.phase, Phase::Tls);
    // A machine without any anchors says so instead.
    let known = ["not among this system's authorities", "no trust anchors"];
    assert!(
        known.iter().any(|says| fault.detail.contains(says)),
        "{}",
        fault.detail
    );
}

#[tokio::test]
async fn a_missing_or_empty_file_of_anchors_is_named() {
    let authority = Authority::new();
    let empty = authority.file.with_extension("empty");
    std::fs::write(&empty, "nothing").unwrap();
    for (path, says) in [
        ("/no/such.pem".into(), "No such file"),
        (empty.clone(), "no certificate"),
    ] {
        let script = script(&authority, Flaw::None, TlsMode::Implicit);
        let (_server, session) = connect(script, TlsMode::Implicit, Some(path), None).await;
        let fault = session.expect_err("a fault");
        assert!(
            fault.phase == Phase::Tls && fault.detail.contains(says),
            "{}",
            fault.detail
        );
    }
    std::fs::remove_file(empty).unwrap();
}

#[tokio::test]
async fn opportunistic_tls_without_a_secret_takes_any_certificate() {
    let authority = Authority::new();
    let mode = TlsMode::StartTlsOpportunistic;
    for flaw in [
        Flaw::None,
        Flaw::Expired,
        Flaw::SelfSigned,
        Flaw::OtherName,
        Flaw::OtherKey,
    ] {
        let (_server, session) = connect(script(&authority, flaw, mode), mode, None, None).await;
        let mut session = session.unwrap();
        assert!(session.tls().is_some());
        assert_eq!(
            brief(&send(&mut session, &message(1)).await),
            ["Delivered Dot 250"]
        );
    }
}

#[tokio::test]
async fn without_starttls_required_fails_and_opportunistic_goes_on_unless_it_has_a_secret() {
    let mode = TlsMode::StartTlsOpportunistic;
    for refusal in [false, true] {
        let script = || {
            let script = Script::new(true).offer(&["AUTH PLAIN"]);
            if refusal {
                script
                    .offer(&["STARTTLS"])
                    .on(Phase::StartTls, say("454 4.7.0 not now"))
            } else {
                script
            }
        };
        let (_server, session) = connect(script(), mode, None, None).await;
        let mut session = session.unwrap();
        assert!(session.tls().is_none());
        assert_eq!(
            brief(&send(&mut session, &message(1)).await),
            ["Delivered Dot 250"]
        );

        let (server, session) = connect(script(), mode, None, Some(login())).await;
        let fault = session.expect_err("a fault");
        assert_eq!(fault.phase, Phase::Auth);
        assert!(
            fault
                .detail
                .contains("credentials are not sent without TLS"),
            "{}",
            fault.detail
        );
        assert!(!String::from_utf8_lossy(&server.first().plain).contains("AUTH"));

        let (_server, session) = connect(script(), TlsMode::StartTlsRequired, None, None).await;
        let fault = session.expect_err("a fault");
        assert_eq!(fault.phase, Phase::StartTls);
        assert_eq!(fault.reply.map(|reply| reply.code), refusal.then_some(454));
    }
}

#[tokio::test]
async fn plain_text_smuggled_in_behind_starttls_is_a_fault() {
    let authority = Authority::new();
    for mode in [TlsMode::StartTlsRequired, TlsMode::StartTlsOpportunistic] {
        let script = script(&authority, Flaw::None, mode).on(
            Phase::StartTls,
            say("220 go\r\n250-injected\r\n250 AUTH PLAIN"),
        );
        let (_server, session) = connect(script, mode, Some(authority.file.clone()), None).await;
        let fault = session.expect_err("a fault");
        assert_eq!(fault.phase, Phase::StartTls);
        assert!(
            fault
                .detail
                .contains("in plain text after its reply to STARTTLS"),
            "{}",
            fault.detail
        );
    }
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_a_fault_of_the_handshake() {
    let (_server, session) = connect(Script::new(true), TlsMode::Implicit, None, None).await;
    let fault = session.expect_err("a fault");
    assert_eq!(fault.phase, Phase::Tls);
    assert_eq!(
        fault.detail,
        "TLS handshake with \"localhost\" failed: what the relay sends is not TLS; does this port want \
         STARTTLS?"
    );
}

#[tokio::test]
async fn what_is_offered_within_tls_counts_and_starttls_only_once() {
    let authority = Authority::new();
    for (inner, pipelining, auth) in [
        (
            "250-x\r\n250-STARTTLS\r\n250-SIZE 10\r\n250 AUTH PLAIN",
            false,
            true,
        ),
        (
            "250-x\r\n250-PIPELINING\r\n250-STARTTLS\r\n250 AUTH PLAIN",
            true,
            true,
        ),
        ("250-x\r\n250 STARTTLS", false, false),
        ("250 x", false, false),
    ] {
        let mode = TlsMode::StartTlsRequired;
        let outer = "250-x\r\n250-STARTTLS\r\n250-PIPELINING\r\n250-SIZE 5\r\n250 AUTH PLAIN";
        let script = script(&authority, Flaw::None, mode)
            .on(Phase::Ehlo, say(outer))
            .on(Phase::Ehlo, say(inner));
        let file = Some(authority.file.clone());
        let (server, session) = connect(script, mode, file, auth.then(login)).await;
        let mut session = session.unwrap();
        assert!(!session.extensions().starttls);
        assert_eq!(session.extensions().pipelining, pipelining);
        assert_ne!(session.extensions().size_limit, Some(5));
        let heard = server.first().commands;
        assert_eq!(heard.iter().filter(|c| *c == "STARTTLS").count(), 1);
        let outcome = send(&mut session, &crate::message_saying(1, "")).await;
        let verdict = if session.extensions().size_limit == Some(10) {
            "Permanent Mail -"
        } else {
            "Delivered Dot 250"
        };
        assert_eq!(brief(&outcome), [verdict]);
    }
}

#[tokio::test]
async fn a_login_that_only_plain_text_offered_is_not_sent() {
    let authority = Authority::new();
    let mode = TlsMode::StartTlsRequired;
    let script = script(&authority, Flaw::None, mode)
        .on(Phase::Ehlo, say("250-x\r\n250-STARTTLS\r\n250 AUTH PLAIN"))
        .on(Phase::Ehlo, say("250 x"));
    let file = Some(authority.file.clone());
    let (_server, session) = connect(script, mode, file, Some(login())).await;
    let fault = session.expect_err("a fault");
    assert_eq!(
        fault.detail,
        "the relay does not offer AUTH, PLAIN or LOGIN is needed"
    );
}

#[tokio::test]
async fn a_relay_that_answers_within_the_text_and_stops_reading_is_heard_within_tls_too() {
    let authority = Authority::new();
    let mode = TlsMode::Implicit;
    let words = b"552 5.3.4 too big\r\n".to_vec();
    let script =
        script(&authority, Flaw::None, mode).on(Phase::Body, Act::BalkAt(1_000_000, words));
    let (_server, session) = connect(script, mode, Some(authority.file.clone()), None).await;
    let mut session = session.unwrap();
    let big = message_saying(1, &"0123456789\r\n".repeat(2_000_000));
    // The patience for a block is ten seconds.
    let outcome = timeout(Duration::from_secs(5), send(&mut session, &big)).await;
    assert_eq!(brief(&outcome.expect("at once")), ["Permanent Body 552"]);
    assert!(!session.is_usable() && !session.maybe_accepted());
}
