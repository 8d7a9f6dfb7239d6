//! What a message asks about its delivery (RFC 3461), as the relay hears it.

use pgmq_mail_tests::{Action, Phase, Sink, code};
use postgres::error::SqlState;

use crate::World;

const OFFERED: [&str; 3] = ["PIPELINING", "SIZE 1000000", "DSN"];
const ASKED: &str = r#", options => '{"dsn": {"notify": ["success", "failure"], "return": "headers", "envelope_id": "order+7=x"}}'"#;

/// The commands of the envelope, each once, in order.
fn envelopes(sink: &Sink) -> Vec<String> {
    let commands = sink.commands().into_iter().map(|(_, line)| line);
    let mut all: Vec<String> = commands
        .filter(|line| line.starts_with("MAIL") || line.starts_with("RCPT"))
        .collect();
    all.dedup();
    all
}

#[test]
fn a_relay_that_offers_it_is_asked_for_reports_on_every_attempt() {
    let sink = Sink::builder().extensions(&OFFERED).start();
    sink.set_script(|event| match event.phase {
        Phase::Dot => Action::reply("450 Later"),
        _ => Action::Accept,
    });
    let mut world = World::with(&sink);
    let id = world.put("a+b@example.test, c@example.test", "asks", ASKED);
    world.until(&format!(
        "SELECT attempts > 0 FROM mail.messages WHERE id = {id}"
    ));
    sink.clear_script();
    world.reaches(id, "sent");
    let heard = envelopes(&sink);
    assert_eq!(heard.len() % 3, 0, "{heard:?}");
    for attempt in heard.chunks(3) {
        assert!(
            attempt[0].ends_with(" RET=HDRS ENVID=order+2B7+3Dx"),
            "{attempt:?}"
        );
        let expected = [
            "RCPT TO:<a+b@example.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bb@example.test",
            "RCPT TO:<c@example.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;c@example.test",
        ];
        assert_eq!(attempt[1..], expected);
    }
    assert!(!sink.mails()[0].text().contains("order+7"));

    sink.forget();
    let plain = world.put("d@example.test", "asks nothing", "");
    let message = r#"{"to": "e@example.test", "text": "x", "dsn": {"notify": ["never"]}}"#;
    let never: i64 = world.one(&format!("SELECT mail.enqueue(message => '{message}')"), &[]);
    world.reaches(plain, "sent");
    world.reaches(never, "sent");
    let mut heard = envelopes(&sink);
    heard.retain(|line| line.starts_with("RCPT"));
    heard.sort();
    let expected = [
        "RCPT TO:<d@example.test>",
        "RCPT TO:<e@example.test> NOTIFY=NEVER ORCPT=rfc822;e@example.test",
    ];
    assert_eq!(heard, expected);
}

#[test]
fn a_relay_that_does_not_offer_it_gets_the_mail_without() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let id = world.put("a@example.test", "asks", ASKED);
    world.reaches(id, "sent");
    for line in envelopes(&sink) {
        for parameter in ["RET", "ENVID", "NOTIFY", "ORCPT"] {
            assert!(!line.contains(parameter), "{line}");
        }
    }
}

#[test]
fn nothing_that_is_asked_can_become_a_command_or_a_parameter() {
    let sink = Sink::builder().extensions(&OFFERED).start();
    let mut world = World::with(&sink);
    for more in [
        "\r\nRSET",
        "\nRSET",
        "\r",
        " NOTIFY=NEVER",
        " ",
        "\t",
        "\u{85}",
        "ü",
        "\u{2028}",
    ] {
        let attack = format!("x{more}");
        for (field, dsn) in [
            (
                "dsn.envelope_id",
                serde_json::json!({ "envelope_id": attack }),
            ),
            (
                "dsn.return",
                serde_json::json!({ "return": format!("full{more}") }),
            ),
            (
                "dsn.notify",
                serde_json::json!({ "notify": [format!("delay{more}")] }),
            ),
            ("dsn.", serde_json::json!({ attack.as_str(): "x" })),
        ] {
            let message = serde_json::json!({"to": "a@example.test", "text": "x", "dsn": dsn});
            let result = world
                .client
                .query_one("SELECT mail.enqueue(message => $1)", &[&message]);
            let error = result.expect_err("it is refused");
            let told = error
                .as_db_error()
                .expect("by the server")
                .message()
                .to_owned();
            assert_eq!(code::<()>(Err(error)), SqlState::INVALID_PARAMETER_VALUE);
            let named = told.contains(field) || told.contains("in \"dsn\"");
            assert!(named && !told.contains(['\r', '\n']), "{told}");
        }
    }
    let left: i64 = world.one("SELECT count(*) FROM mail.messages", &[]);
    assert_eq!((left, sink.connections()), (0, 0));
}
