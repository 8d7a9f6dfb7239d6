//! Exchanges of challenges and responses that do not go as they should.

use base64::{Engine, engine::general_purpose::STANDARD};
use mail_smtp::{AuthMechanism, Credentials, Endpoint, Phase, RelayFault, Session};

use crate::{
    endpoint,
    support::{Act, Script, Server, say},
};

/// What comes of a login against a relay that says these in turn, and what it hears behind EHLO.
async fn login(
    mechanism: AuthMechanism,
    says: &[&str],
) -> (Result<Session, RelayFault>, Vec<String>) {
    let offer = "AUTH PLAIN LOGIN XOAUTH2 OAUTHBEARER";
    let script = says
        .iter()
        .fold(Script::new(true).offer(&[offer]), |script, line| {
            let act = match *line {
                "" => Act::Close,
                line => say(line),
            };
            script.on(Phase::Auth, act)
        });
    let server = Server::start(script).await;
    let endpoint = Endpoint {
        credentials: Some(Credentials {
            username: "bob".to_owned(),
            secret: "correct horse".to_owned(),
            mechanism,
        }),
        ..endpoint(&server)
    };
    match Session::connect(&endpoint).await {
        Ok(session) => {
            session.quit().await;
            (
                Session::connect(&endpoint).await,
                server.ended().await.commands.split_off(1),
            )
        }
        Err(fault) => (Err(fault), server.ended().await.commands.split_off(1)),
    }
}

const PLAIN: &str = "AGJvYgBjb3JyZWN0IGhvcnNl";
const USER: &str = "Ym9i";
const SECRET: &str = "Y29ycmVjdCBob3JzZQ==";

#[tokio::test]
async fn a_relay_that_asks_for_more_than_there_is_hears_that_it_is_cancelled() {
    use AuthMechanism::{Login, OAuthBearer, Plain, XOAuth2};
    let plain = format!("AUTH PLAIN {PLAIN}");
    let bearer = STANDARD.encode("user=bob\x01auth=Bearer correct horse\x01\x01");
    let xoauth2 = format!("AUTH XOAUTH2 {bearer}");
    for (mechanism, says, heard) in [
        (
            Plain,
            vec!["334 AAAA", "501 cancelled"],
            vec![&*plain, "*", "QUIT"],
        ),
        (
            Plain,
            vec!["334", "334 ", "501 cancelled"],
            vec![&*plain, PLAIN, "*", "QUIT"],
        ),
        (
            Login,
            vec![
                "334 VXNlcm5hbWU6",
                "334 UGFzc3dvcmQ6",
                "334 AAAA",
                "501 cancelled",
            ],
            vec!["AUTH LOGIN", USER, SECRET, "*", "QUIT"],
        ),
        (
            XOAuth2,
            vec!["334 e30=", "334 e30=", "501 cancelled"],
            vec![&*xoauth2, "", "*", "QUIT"],
        ),
        // One that asks on and on is left without a word, since none would be heard.
        (Plain, vec!["334 AAAA", "334 AAAA"], vec![&*plain, "*"]),
        (Plain, vec!["334 AAAA", ""], vec![&*plain, "*"]),
        (Plain, vec!["334 AAAA", "421 bye"], vec![&*plain, "*"]),
    ] {
        let (session, commands) = login(mechanism, &says).await;
        let fault = session.expect_err("a fault");
        assert_eq!(commands, heard, "{says:?}");
        assert_eq!(fault.phase, Phase::Auth);
        assert_eq!(fault.reply.as_ref().map(|reply| reply.code), Some(334));
        assert!(fault.detail.contains("did not authenticate us"), "{fault}");
    }
    let (session, commands) = login(OAuthBearer, &["334 e30=", "334 e30=", "501 no"]).await;
    assert!(session.is_err());
    assert_eq!(commands[1..], ["AQ==", "*", "QUIT"]);
}

#[tokio::test]
async fn a_relay_that_does_not_know_initial_responses_gets_them_when_it_asks() {
    let plain = format!("AUTH PLAIN {PLAIN}");
    for empty in ["334", "334 "] {
        let (session, commands) = login(AuthMechanism::Plain, &[empty, "235 ok"]).await;
        session.expect("a session");
        assert_eq!(commands, [&*plain, PLAIN, "QUIT"]);
    }
    let (session, commands) = login(AuthMechanism::OAuthBearer, &["334", "235 ok"]).await;
    session.expect("a session");
    assert_eq!(commands[0], format!("AUTH OAUTHBEARER {}", commands[1]));
    let (session, commands) = login(AuthMechanism::Plain, &["334", "535 5.7.8 no"]).await;
    assert!(
        session
            .expect_err("a fault")
            .detail
            .contains("535 5.7.8 no")
    );
    assert_eq!(commands, [&*plain, PLAIN, "QUIT"]);
}

#[tokio::test]
async fn a_token_that_is_taken_after_a_challenge_is_taken() {
    for (says, taken) in [
        (["334", "235 ok"], true),
        (["334 ", "235 ok"], true),
        (["334 e30=", "235 ok"], true),
        (["334", "535 no"], false),
    ] {
        let (session, commands) = login(AuthMechanism::XOAuth2, &says).await;
        assert_eq!(session.is_ok(), taken, "{says:?}");
        assert_eq!(commands[1..], ["", "QUIT"]);
        if let Err(fault) = session {
            assert_eq!(fault.detail, "the relay refused to authenticate: 535 no");
        }
    }
}
