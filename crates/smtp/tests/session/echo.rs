//! A relay that repeats what it was told: whatever of a secret it says, in whatever phase, none of it is told.

use base64::{Engine, engine::general_purpose::STANDARD};
use mail_smtp::{AuthMechanism, Credentials, Endpoint, Phase, RelayFault, Session, Transcript};

use crate::{
    endpoint, message, send,
    support::{Act, Script, Server, say},
};

const SECRET: &str = "Tr0ub4dor&3-hunter2-SEKRET-abcdefghijklmnopqrstuvwxyz0123456789-ABCDEFGHIJKLMNOPQRSTUVWXYZ\
                      -longtokenlongtokenlongtokenEND";

const OFFER: &str = "AUTH PLAIN LOGIN XOAUTH2 OAUTHBEARER";

async fn login(
    script: Script,
    mechanism: AuthMechanism,
) -> (Result<Session, RelayFault>, Transcript) {
    let server = Server::start(script).await;
    let endpoint = Endpoint {
        credentials: Some(Credentials {
            username: "bob@example.com".to_owned(),
            secret: SECRET.to_owned(),
            mechanism,
        }),
        ..endpoint(&server)
    };
    let transcript = Transcript::new();
    let session = Session::connect_recorded(&endpoint, transcript.clone()).await;
    (session, transcript)
}

/// What was said. Not when: a time might look like a part of the secret.
fn texts(transcript: &Transcript) -> Vec<String> {
    transcript
        .lines()
        .into_iter()
        .map(|line| line.text)
        .collect()
}

/// All that is told must hold none of the secret, in any of its forms.
#[track_caller]
fn holds_nothing(told: &str) {
    let mut forms = vec![SECRET.to_owned()];
    forms.extend((0..3).map(|before| STANDARD.encode(format!("{}{SECRET}", &"xxx"[..before]))));
    for form in forms {
        // The first digits are those of what stands before it.
        for piece in form.as_bytes()[4..].windows(6) {
            let piece = String::from_utf8_lossy(piece);
            assert!(!told.contains(&*piece), "{piece} in {told}");
        }
    }
    assert!(told.contains("***"), "{told}");
}

/// Lines of so many characters, each behind `535-5.7.8 `, and a last one.
fn wrapped(text: &str, width: usize) -> Act {
    let lines = text.as_bytes().chunks(width);
    let lines = lines.map(|line| format!("535-5.7.8 {}\r\n", String::from_utf8_lossy(line)));
    let lines = lines.collect::<Vec<_>>().concat();
    say(&format!("{lines}535 5.7.8 that is all"))
}

#[tokio::test]
async fn a_secret_that_is_wrapped_or_cut_is_masked_to_its_last_character() {
    let messages = [
        (AuthMechanism::Plain, format!("\0bob@example.com\0{SECRET}")),
        (
            AuthMechanism::XOAuth2,
            format!("user=bob@example.com\x01auth=Bearer {SECRET}\x01\x01"),
        ),
        (
            AuthMechanism::OAuthBearer,
            format!(
                "n,a=bob@example.com,\x01host=localhost\x01port=1\x01auth=Bearer {SECRET}\x01\x01"
            ),
        ),
        (AuthMechanism::Plain, SECRET.to_owned()),
    ];
    for (mechanism, message) in messages {
        let sent = STANDARD.encode(&message);
        for act in [
            wrapped(&sent, 60),
            wrapped(&sent, 76),
            wrapped(&sent, 7),
            wrapped(SECRET, 20),
            wrapped(SECRET, 3),
            say(&format!(
                "535 5.7.8 bad token …{}",
                &sent[sent.len() - 60..]
            )),
            say(&format!("535 5.7.8 bad token …{}", &SECRET[110..])),
            say(&format!(
                "535-5.7.8 pw was {}\r\n535-{}\r\n535 x",
                &SECRET[..30],
                &SECRET[30..]
            )),
            say(&format!(
                "535-5.7.8 pw was {}\r\n535-> {}\r\n535 x",
                &SECRET[..115],
                &SECRET[115..]
            )),
            // What follows is no reply, and goes on with it.
            say(&format!(
                "535-5.7.8 pw was {}\r\n{}",
                &SECRET[..115],
                &SECRET[115..]
            )),
        ] {
            let script = Script::new(true).offer(&[OFFER]).on(Phase::Auth, act);
            let (session, transcript) = login(script, mechanism).await;
            let fault = session.expect_err("a fault");
            let lines = texts(&transcript);
            holds_nothing(&format!("{fault:?} {fault} {lines:?}"));
        }
    }
}

#[tokio::test]
async fn a_secret_is_masked_in_every_phase_and_what_a_relay_offers_is_understood_all_the_same() {
    let part = &SECRET[20..60];
    for phase in [
        Phase::Greeting,
        Phase::Mail,
        Phase::Rcpt,
        Phase::Data,
        Phase::Dot,
        Phase::Rset,
        Phase::Quit,
    ] {
        let code = match phase {
            Phase::Greeting => "220",
            Phase::Quit => "221",
            Phase::Dot | Phase::Data => "554",
            _ => "550",
        };
        let mut script = Script::new(true)
            .offer(&[OFFER])
            .on(phase, say(&format!("{code}-no\r\n{code} {part}")));
        if phase == Phase::Rset {
            script = script.on(Phase::Data, say("554 no"));
        }
        let (session, transcript) = login(script, AuthMechanism::Plain).await;
        let mut session = session.expect("a session");
        let outcome = send(&mut session, &message(2)).await;
        session.quit().await;
        holds_nothing(&format!("{outcome:?} {:?}", texts(&transcript)));
    }
    let script = Script::new(true).offer(&["XSECRET", part, OFFER, "SIZE 1000"]);
    let (session, transcript) = login(script, AuthMechanism::Plain).await;
    let session = session.expect("a session");
    assert_eq!(session.extensions().size_limit, Some(1000));
    assert!(session.extensions().pipelining);
    holds_nothing(&format!("{:?}", texts(&transcript)));
}

#[tokio::test]
async fn a_secret_that_looks_like_an_extension_hides_none() {
    for secret in ["PIPELINING", "SIZE", "1"] {
        let server = Server::start(Script::new(true).offer(&["AUTH PLAIN", "SIZE 1001"])).await;
        let endpoint = Endpoint {
            credentials: Some(Credentials {
                username: "bob".to_owned(),
                secret: secret.to_owned(),
                mechanism: AuthMechanism::Plain,
            }),
            ..endpoint(&server)
        };
        let session = Session::connect(&endpoint).await.expect("a session");
        let offered = session.extensions();
        assert_eq!((offered.pipelining, offered.size_limit), (true, Some(1001)));
    }
}
