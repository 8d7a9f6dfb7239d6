//! From connecting to a session that takes mail, without TLS.

use mail_smtp::{
    AuthMechanism, Credentials, Endpoint, Extensions, Phase, Protocol, RelayFault, Session,
    Timeouts,
};

use crate::{
    SHORT, brief, endpoint, message, patient, send, session,
    support::{Act, Script, Server, say, say_and_close},
};

const SECRET: &str = "correct horse battery";
/// The secret alone, and with the name, in base64.
const LOGIN: &str = "Y29ycmVjdCBob3JzZSBiYXR0ZXJ5";
const PLAIN: &str = "AGJvYgBjb3JyZWN0IGhvcnNlIGJhdHRlcnk=";

fn credentials(mechanism: AuthMechanism) -> Credentials {
    Credentials {
        username: "bob".to_owned(),
        secret: SECRET.to_owned(),
        mechanism,
    }
}

async fn refused(script: Script, change: impl FnOnce(&mut Endpoint)) -> (Server, RelayFault) {
    let server = Server::start(script).await;
    let mut endpoint = endpoint(&server);
    change(&mut endpoint);
    let fault = Session::connect(&endpoint).await.expect_err("a fault");
    (server, fault)
}

#[tokio::test]
async fn extensions_are_known_in_any_case() {
    let offered = [
        "pipelining",
        "Size 1000",
        "8BitMime",
        "auth=login",
        "CHUNKING",
    ];
    let (_server, session) = session(Script::new(false).offer(&offered)).await;
    let expected = Extensions {
        pipelining: true,
        size: true,
        size_limit: Some(1000),
        eight_bit_mime: true,
        auth: vec!["LOGIN".to_owned()],
        ..Extensions::default()
    };
    assert_eq!(session.extensions(), &expected);
    assert!(session.tls().is_none());
}

#[tokio::test]
async fn an_old_server_is_greeted_with_helo() {
    for refusal in ["500 what", "502 5.5.1 no", "550 no"] {
        let (server, mut session) = session(Script::new(true).on(Phase::Ehlo, say(refusal))).await;
        assert_eq!(session.extensions(), &Extensions::default());
        assert_eq!(
            brief(&send(&mut session, &message(1)).await),
            ["Delivered Dot 250"]
        );
        assert_eq!(
            server.first().commands[..2],
            ["EHLO client.example", "HELO client.example"]
        );
    }
}

#[tokio::test]
async fn a_code_only_reply_to_ehlo_offers_nothing() {
    let (_server, session) = session(Script::new(true).on(Phase::Ehlo, say("250"))).await;
    assert_eq!(session.extensions(), &Extensions::default());
}

#[tokio::test]
async fn without_a_name_the_address_is_given() {
    let server = Server::start(Script::new(true)).await;
    let mut endpoint = endpoint(&server);
    endpoint.helo_name = String::new();
    Session::connect(&endpoint).await.unwrap();
    assert_eq!(server.first().commands[0], "EHLO [127.0.0.1]");
    endpoint.protocol = Protocol::Lmtp;
    Session::connect(&endpoint).await.unwrap();
    assert_eq!(server.connections()[1].commands[0], "LHLO [127.0.0.1]");
    endpoint.protocol = Protocol::Smtp;
    endpoint.helo_name = "vm".to_owned(); // as it was configured
    Session::connect(&endpoint).await.unwrap();
    assert_eq!(server.connections()[2].commands[0], "EHLO vm");
    endpoint.helo_name = "a\r\nb".to_owned();
    assert_eq!(
        Session::connect(&endpoint).await.unwrap_err().phase,
        Phase::Ehlo
    );
}

#[tokio::test]
async fn a_relay_that_does_not_want_us_is_a_fault_with_its_reply() {
    for (phase, act, code) in [
        (
            Phase::Greeting,
            say_and_close("421 4.3.2 too many connections"),
            421,
        ),
        (Phase::Greeting, say("450 later"), 450),
        (Phase::Greeting, say("554 5.7.1 go away"), 554),
        (Phase::Ehlo, say("421 bye"), 421),
        (Phase::Ehlo, say("450 later"), 450),
    ] {
        let (_server, fault) = refused(Script::new(true).on(phase, act), |_| ()).await;
        assert_eq!(
            (fault.phase, fault.reply.map(|r| r.code)),
            (phase, Some(code))
        );
        assert!(fault.detail.contains(&code.to_string()), "{}", fault.detail);
    }
}

#[tokio::test]
async fn silence_and_hanging_up_at_the_start_are_faults() {
    let timeouts = Timeouts {
        greeting: SHORT,
        command: SHORT,
        ..patient()
    };
    for phase in [Phase::Greeting, Phase::Ehlo] {
        for (act, says) in [
            (Act::Silence, "timed out after 0.1 s"),
            (Act::Close, "connection"),
        ] {
            let script = Script::new(true).on(phase, act);
            let (_server, fault) = refused(script, |e| e.timeouts = timeouts).await;
            assert_eq!((fault.phase, fault.reply.is_none()), (phase, true));
            assert!(fault.detail.contains(says), "{}", fault.detail);
        }
    }
}

#[tokio::test]
async fn what_is_no_mail_server_is_named() {
    let script = Script::new(true).on(Phase::Greeting, say("HTTP/1.1 400 Bad Request"));
    let (_server, fault) = refused(script, |_| ()).await;
    assert_eq!(fault.phase, Phase::Greeting);
    assert!(
        fault.detail.contains("not an SMTP reply: \"HTTP/1.1 400"),
        "{}",
        fault.detail
    );
}

#[tokio::test]
async fn words_out_of_turn_before_ehlo_are_a_fault() {
    let script = Script::new(true).on(Phase::Greeting, say("220 hi\r\n250 hi"));
    let (_server, fault) = refused(script, |_| ()).await;
    assert_eq!(fault.phase, Phase::Ehlo);
    assert!(fault.detail.contains("out of turn"), "{}", fault.detail);
}

#[tokio::test]
async fn an_unreachable_relay_is_named_with_what_was_tried() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = listener.local_addr().unwrap().port();
    drop(listener);
    let (_server, fault) = refused(Script::new(true), |e| e.port = free).await;
    assert_eq!(fault.phase, Phase::Connect);
    assert!(
        fault
            .detail
            .contains(&format!("127.0.0.1:{free}: Connection refused")),
        "{}",
        fault.detail
    );
    let (_server, fault) =
        refused(Script::new(true), |e| e.host = "no.such.invalid".to_owned()).await;
    assert_eq!(fault.phase, Phase::Connect);
    assert!(
        fault.detail.contains("could not resolve"),
        "{}",
        fault.detail
    );
}

#[tokio::test]
async fn plain_is_preferred_and_login_known() {
    use AuthMechanism::{Auto, Login, Plain};
    let plain = format!("AUTH PLAIN {PLAIN}");
    for (offered, mechanism, heard) in [
        ("AUTH LOGIN PLAIN", Auto, vec![&*plain]),
        ("AUTH LOGIN PLAIN", Plain, vec![&*plain]),
        ("AUTH LOGIN PLAIN", Login, vec!["AUTH LOGIN", "Ym9i", LOGIN]),
        ("AUTH=LOGIN", Auto, vec!["AUTH LOGIN", "Ym9i", LOGIN]),
    ] {
        let mut script = Script::new(true).offer(&[offered]);
        if heard.len() == 3 {
            script = script
                .on(Phase::Auth, say("334 VXNlcm5hbWU6"))
                .on(Phase::Auth, say("334 UGFzc3dvcmQ6"));
        }
        let server = Server::start(script).await;
        let endpoint = Endpoint {
            credentials: Some(credentials(mechanism)),
            ..endpoint(&server)
        };
        Session::connect(&endpoint).await.unwrap();
        assert_eq!(server.first().commands[1..], heard);
    }
}

#[tokio::test]
async fn a_long_secret_waits_for_its_challenge() {
    let script = Script::new(true)
        .offer(&["AUTH PLAIN"])
        .on(Phase::Auth, say("334"));
    let server = Server::start(script).await;
    let mut endpoint = Endpoint {
        credentials: Some(credentials(AuthMechanism::Auto)),
        ..endpoint(&server)
    };
    endpoint.credentials.as_mut().unwrap().secret = "x".repeat(600);
    Session::connect(&endpoint).await.unwrap();
    let heard = server.first().commands;
    assert_eq!((heard[1].as_str(), heard[2].len()), ("AUTH PLAIN", 808));
}

#[tokio::test]
async fn a_login_that_cannot_be_is_explained() {
    use AuthMechanism::{Auto, Plain};
    for (offered, mechanism, says) in [
        (
            &[][..],
            Auto,
            "does not offer AUTH, PLAIN or LOGIN is needed",
        ),
        (
            &["AUTH NTLM GSSAPI"][..],
            Auto,
            "offers AUTH NTLM GSSAPI, PLAIN or LOGIN is needed",
        ),
        (
            &["AUTH LOGIN"][..],
            Plain,
            "offers AUTH LOGIN, PLAIN is needed",
        ),
    ] {
        let script = Script::new(true).offer(offered);
        let (server, fault) =
            refused(script, |e| e.credentials = Some(credentials(mechanism))).await;
        assert_eq!((fault.phase, fault.reply.is_none()), (Phase::Auth, true));
        assert!(fault.detail.contains(says), "{}", fault.detail);
        assert!(
            server
                .first()
                .commands
                .iter()
                .all(|line| !line.starts_with("AUTH"))
        );
    }
}

#[tokio::test]
async fn a_refused_login_is_a_fault_that_never_holds_the_secret() {
    let plain = format!("AUTH PLAIN {PLAIN}");
    for (code, echo) in [
        (535, SECRET),
        (534, &*plain),
        (454, LOGIN),
        (421, PLAIN),
        (535, &PLAIN[..24]),
    ] {
        let script = Script::new(true).offer(&["AUTH PLAIN"]).on(
            Phase::Auth,
            say(&format!("{code}-5.7.8 no: {echo}\r\n{code} 5.7.8 ({echo})")),
        );
        let (_server, fault) = refused(script, |e| {
            e.credentials = Some(credentials(AuthMechanism::Auto));
        })
        .await;
        assert_eq!(fault.phase, Phase::Auth);
        assert_eq!(fault.reply.as_ref().map(|reply| reply.code), Some(code));
        let all = format!("{fault:?} {fault}");
        assert!(all.contains("***"), "{all}");
        for secret in [SECRET, LOGIN, &PLAIN[..16], "battery"] {
            assert!(!all.contains(secret), "{all}");
        }
    }
}

#[tokio::test]
async fn garbage_that_repeats_the_secret_does_not_betray_it() {
    let script = Script::new(true).offer(&["AUTH PLAIN"]).on(
        Phase::Auth,
        say(&format!("bad command: AUTH PLAIN {PLAIN}")),
    );
    let (_server, fault) = refused(script, |e| {
        e.credentials = Some(credentials(AuthMechanism::Auto));
    })
    .await;
    let all = format!("{fault:?} {fault}");
    assert!(
        all.contains("bad command") && !all.contains(&PLAIN[..16]),
        "{all}"
    );
}
