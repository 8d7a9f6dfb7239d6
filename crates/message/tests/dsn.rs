//! What a message asks about its delivery: the field `dsn`, from the JSON form to the envelope.

mod common;

use common::{DATE, QUEUE, json, simple, to};
use mail_message::{
    ComposeError, Dsn, DsnNotify, DsnReturn, Extras, InvalidKind, Simple, compose, prepare_json,
};
use serde_json::{Value, json as j};

/// What comes out of the stored content.
#[track_caller]
fn asked(dsn: &Value) -> Option<Dsn> {
    let prepared = json(&j!({"to": "a@example.org", "dsn": dsn})).expect("it is accepted");
    let again = prepare_json(&prepared.content, &QUEUE).expect("its canonical form is, too");
    assert_eq!(prepared, again);
    let composed = compose(&prepared.content, DATE, Extras::default()).expect("it composes");
    assert!(!String::from_utf8_lossy(&composed.to_vec()).contains("dsn"));
    composed.dsn
}

#[test]
fn what_is_asked_comes_out_for_the_envelope() {
    let all = j!({"notify": ["delay", "Failure", "success", "failure"], "return": "headers", "envelope_id": "order-1+2=3"});
    let expected = Dsn {
        notify: vec![DsnNotify::Success, DsnNotify::Failure, DsnNotify::Delay],
        ret: Some(DsnReturn::Headers),
        envelope_id: Some("order-1+2=3".to_owned()),
    };
    assert_eq!(asked(&all), Some(expected));
    let never = Dsn {
        notify: vec![DsnNotify::Never],
        ret: Some(DsnReturn::Full),
        envelope_id: None,
    };
    let given = j!({"notify": "never", "return": "FULL", "envelope_id": null});
    assert_eq!(asked(&given), Some(never));
    for nothing in [j!({}), j!(null), j!({"notify": null, "return": null})] {
        assert_eq!(asked(&nothing), None);
    }
    let longest = "x".repeat(100);
    let dsn = asked(&j!({"envelope_id": longest})).unwrap();
    assert_eq!(dsn.envelope_id, Some(longest));
}

#[test]
fn options_may_ask_too() {
    let given = Simple {
        options: Some(r#"{"dsn": {"notify": ["failure"]}}"#),
        ..to("a@example.org")
    };
    let prepared = simple(&given).unwrap();
    assert!(prepared.content.contains(r#""dsn":{"notify":["failure"]}"#));
}

#[test]
fn what_nobody_can_ask_is_refused_by_the_name_of_the_field() {
    let table = [
        (
            j!("failure"),
            "dsn",
            "\"dsn\" must be an object, not a string",
        ),
        (
            j!({"notify": 1}),
            "dsn.notify",
            "\"dsn.notify\" must be a string or an array of strings, not a number",
        ),
        (j!({"notify": []}), "dsn.notify", "\"dsn.notify\" is empty"),
        (
            j!({"notify": ["often"]}),
            "dsn.notify",
            "\"dsn.notify\" cannot be \"often\"",
        ),
        (
            j!({"notify": "success,failure"}),
            "dsn.notify",
            "\"dsn.notify\" cannot be \"success,failure\"",
        ),
        (
            j!({"notify": ["failure\r\nRSET"]}),
            "dsn.notify",
            "\"dsn.notify\" cannot be \"failure\\r\\nRSET\"",
        ),
        (
            j!({"notify": ["never", "delay"]}),
            "dsn.notify",
            "\"dsn.notify\" says \"never\" beside others",
        ),
        (
            j!({"return": "hdrs"}),
            "dsn.return",
            "\"dsn.return\" cannot be \"hdrs\"",
        ),
        (
            j!({"return": ["full"]}),
            "dsn.return",
            "\"dsn.return\" must be a string, not an array",
        ),
        (j!({"id": "x"}), "dsn.id", "unknown field \"id\" in \"dsn\""),
        (
            j!({"recipient": "x"}),
            "dsn.recipient",
            "unknown field \"recipient\" in \"dsn\"",
        ),
    ];
    for (value, field, message) in table {
        let error = json(&j!({"to": "a@example.org", "dsn": value})).unwrap_err();
        assert_eq!(
            (error.field.as_str(), error.message.as_str()),
            (field, message)
        );
        assert_eq!(error.kind, InvalidKind::BadValue);
    }
    let error = json(&j!({"to": "a@example.org", "dsn": {"ENVID": "x"}})).unwrap_err();
    assert_eq!(error.hint.as_deref(), Some("Did you mean \"envelope_id\"?"));
}

#[test]
fn an_envelope_identifier_that_could_be_more_than_one_word_is_refused() {
    let (long, encoded) = ("x".repeat(101), "+".repeat(34));
    for id in [
        "",
        " ",
        "a b",
        "a\tb",
        "a\r\nRSET",
        "a\nb",
        "a\0",
        "ü",
        "a\u{7f}",
        "x NOTIFY=NEVER",
        &long,
        &encoded,
    ] {
        let error = json(&j!({"to": "a@example.org", "dsn": {"envelope_id": id}})).expect_err(id);
        assert_eq!(error.field, "dsn.envelope_id");
        assert!(!error.message.contains(['\r', '\n', '\0']), "{error}");
    }
}

#[test]
fn content_from_elsewhere_cannot_ask_what_nobody_can() {
    let with = |dsn: Value| {
        let content = j!({"from": "a@b", "to": ["a@b"], "message_id": "<a@b>", "dsn": dsn});
        compose(&content.to_string(), DATE, Extras::default())
    };
    assert!(with(j!({"envelope_id": "x"})).is_ok());
    for dsn in [
        j!({"envelope_id": "x y"}),
        j!({"notify": ["never", "delay"]}),
    ] {
        assert!(matches!(with(dsn), Err(ComposeError::Field("dsn"))));
    }
    assert!(matches!(
        with(j!({"return": "all"})),
        Err(ComposeError::Json(_))
    ));
}
