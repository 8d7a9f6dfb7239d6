//! Logging in with a token, and what a relay says when it does not take it.

use base64::{Engine, engine::general_purpose::STANDARD};
use mail_smtp::{AuthMechanism, Credentials, Endpoint, Phase, RelayFault, Session, Transcript};

use crate::{
    endpoint,
    support::{Act, Script, Server, say},
};

const TOKEN: &str = "ya29.A0ARrdaM-token~1/2+3";
const BOTH: &str = "AUTH PLAIN XOAUTH2 OAUTHBEARER";
const JSON: &str = r#"{"status":"invalid_token","scope":"mail.send"}"#;

async fn login(
    script: Script,
    mechanism: AuthMechanism,
    secret: &str,
) -> (Server, Result<Session, RelayFault>, Transcript) {
    let server = Server::start(script).await;
    let endpoint = Endpoint {
        credentials: Some(Credentials {
            username: "bob@example.com".to_owned(),
            secret: secret.to_owned(),
            mechanism,
        }),
        ..endpoint(&server)
    };
    let transcript = Transcript::new();
    let session = Session::connect_recorded(&endpoint, transcript.clone()).await;
    (server, session, transcript)
}

fn response(server: &Server, mechanism: AuthMechanism, secret: &str) -> String {
    STANDARD.encode(match mechanism {
        AuthMechanism::XOAuth2 => {
            format!("user=bob@example.com\x01auth=Bearer {secret}\x01\x01")
        }
        _ => format!(
            "n,a=bob@example.com,\x01host=localhost\x01port={}\x01auth=Bearer {secret}\x01\x01",
            server.port
        ),
    })
}

const MECHANISMS: [(AuthMechanism, &str, &str); 2] = [
    (AuthMechanism::XOAuth2, "XOAUTH2", ""),
    (AuthMechanism::OAuthBearer, "OAUTHBEARER", "AQ=="),
];

#[tokio::test]
async fn a_token_goes_out_with_the_command_and_a_long_one_after_its_challenge() {
    let long = TOKEN.repeat(30);
    for (mechanism, name, _) in MECHANISMS {
        let (server, session, _) = login(Script::new(true).offer(&[BOTH]), mechanism, TOKEN).await;
        session.unwrap();
        let expected = format!("AUTH {name} {}", response(&server, mechanism, TOKEN));
        assert_eq!(server.first().commands[1..], [expected]);

        let script = Script::new(true).offer(&[BOTH]).on(Phase::Auth, say("334"));
        let (server, session, _) = login(script, mechanism, &long).await;
        session.unwrap();
        let expected = [format!("AUTH {name}"), response(&server, mechanism, &long)];
        assert_eq!(server.first().commands[1..], expected);
    }
}

#[tokio::test]
async fn a_refused_token_is_acknowledged_and_the_reason_told_with_the_reply() {
    for (mechanism, _, acknowledgement) in MECHANISMS {
        for long in [false, true] {
            let mut script = Script::new(true).offer(&[BOTH]);
            if long {
                script = script.on(Phase::Auth, say("334 "));
            }
            let script = script
                .on(Phase::Auth, say(&format!("334 {}", STANDARD.encode(JSON))))
                .on(Phase::Auth, say("535 5.7.8 not accepted"));
            let secret = if long {
                TOKEN.repeat(30)
            } else {
                TOKEN.to_owned()
            };
            let (server, session, transcript) = login(script, mechanism, &secret).await;
            let fault = session.expect_err("a fault");
            let reply = fault.reply.as_ref().expect("the final reply");
            assert_eq!((fault.phase, reply.code), (Phase::Auth, 535));
            assert_eq!(
                fault.detail,
                "the relay refused to authenticate: 535 5.7.8 not accepted \
                 (status \"invalid_token\", scope \"mail.send\")"
            );
            let heard = server.ended().await.commands;
            let last = &heard[heard.len() - 2..];
            assert_eq!(last, [acknowledgement, "QUIT"]);
            let said = transcript.lines();
            assert!(said.iter().any(|l| l.text.contains("invalid_token")));
            assert!(said.iter().all(|l| !l.text.contains(&TOKEN[..8])));
        }
    }
}

#[tokio::test]
async fn an_outright_refusal_needs_no_acknowledgement() {
    for (mechanism, ..) in MECHANISMS {
        let script = Script::new(true)
            .offer(&[BOTH])
            .on(Phase::Auth, say("535 5.7.3 unsuccessful"));
        let (server, session, _) = login(script, mechanism, TOKEN).await;
        let fault = session.expect_err("a fault");
        assert_eq!(fault.reply.map(|reply| reply.code), Some(535));
        assert_eq!(server.ended().await.commands.len(), 3);
    }
}

#[tokio::test]
async fn a_challenge_without_an_end_is_a_fault_that_still_says_why() {
    for act in [Act::Close, say("421 bye"), say("334 again"), say("oops")] {
        let script = Script::new(true)
            .offer(&[BOTH])
            .on(Phase::Auth, say(&format!("334 {}", STANDARD.encode(JSON))))
            .on(Phase::Auth, act);
        let (_server, session, _) = login(script, AuthMechanism::XOAuth2, TOKEN).await;
        let fault = session.expect_err("a fault");
        assert_eq!(fault.phase, Phase::Auth);
        assert!(fault.detail.contains("invalid_token"), "{}", fault.detail);
    }
}

#[tokio::test]
async fn a_token_that_is_repeated_is_masked_everywhere() {
    for (mechanism, ..) in MECHANISMS {
        let probe = Server::start(Script::new(true)).await;
        let whole = response(&probe, mechanism, TOKEN);
        let told = format!(r#"{{"status":"bad {TOKEN}","scope":"{}"}}"#, &TOKEN[..12]);
        let script = Script::new(true)
            .offer(&[BOTH])
            .on(Phase::Auth, say(&format!("334 {}", STANDARD.encode(told))))
            .on(
                Phase::Auth,
                say(&format!(
                    "535-{TOKEN}\r\n535-{whole}\r\n535 {}",
                    STANDARD.encode(TOKEN)
                )),
            );
        let (_server, session, transcript) = login(script, mechanism, TOKEN).await;
        let fault = session.expect_err("a fault");
        let all = format!("{fault:?} {fault} {:?}", transcript.lines());
        assert!(all.contains("***"), "{all}");
        let bearer = STANDARD.encode("auth=Bearer ");
        for secret in [&TOKEN[..8], &STANDARD.encode(TOKEN)[..8], &bearer[..12]] {
            assert!(!all.contains(secret), "{secret} in {all}");
        }
    }
}

#[tokio::test]
async fn tokens_are_used_only_where_asked_for_and_offered() {
    let script = Script::new(true).offer(&["AUTH PLAIN"]);
    let (_server, session, _) = login(script, AuthMechanism::XOAuth2, TOKEN).await;
    let fault = session.expect_err("a fault");
    assert_eq!(
        fault.detail,
        "the relay offers AUTH PLAIN, XOAUTH2 is needed"
    );
    let script = Script::new(true).offer(&["AUTH XOAUTH2 OAUTHBEARER"]);
    let (_server, session, _) = login(script, AuthMechanism::Auto, TOKEN).await;
    let fault = session.expect_err("a fault");
    assert!(fault.detail.ends_with("PLAIN or LOGIN is needed"));
    let script = Script::new(true).offer(&[BOTH]);
    let (server, session, _) = login(script, AuthMechanism::OAuthBearer, "a\u{1}b").await;
    let fault = session.expect_err("a fault");
    assert!(fault.detail.contains("control character"));
    assert!(
        server
            .ended()
            .await
            .commands
            .iter()
            .all(|c| !c.starts_with("AUTH"))
    );
}
