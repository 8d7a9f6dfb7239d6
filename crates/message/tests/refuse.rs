//! What is refused, and how it is said.

mod common;

use common::{QUEUE, json, simple, to};
use mail_message::{Context, InvalidKind, Simple, check_address, prepare_json, prepare_simple};
use serde_json::{Value, json as j};

#[test]
fn half_a_name_is_told_from_half_an_address() {
    let hint = |given| simple(&to(given)).expect_err(given).hint;
    let half = hint("Doe, Ann <a@example.org>").expect("a hint");
    assert!(half.contains("double quotes"), "{half}");
    assert_eq!(hint("postmaster, a@example.org"), None);
    assert!(simple(&to("\"Doe, Ann \\\"x\\\" \\\\\" <a@example.org>")).is_ok());
}

#[test]
fn bad_addresses_are_refused_by_name() {
    let long_local = format!("{}@example.org", "a".repeat(65));
    let long = format!("a@{}.org", "a.".repeat(130).trim_end_matches('.'));
    let table = [
        ("", "holds no address"),
        (" , ", "holds no address"),
        ("postmaster", "has no domain"),
        ("Ann <postmaster>", "has no domain"),
        ("@example.org", "nothing before"),
        ("a@", "valid domain"),
        ("a@-x.org", "valid domain"),
        ("a@x..org", "valid domain"),
        ("a@example.org.", "valid domain"),
        ("a@1.2.3.4", "valid domain"),
        ("a@[1.2.3]", "valid domain"),
        ("a@exa mple.org", "valid domain"),
        ("a@<b@example.org>", "display name"),
        ("a@foo_bar.org", "valid domain"),
        (".a@example.org", "before the \"@\""),
        ("a..b@example.org", "before the \"@\""),
        ("a b@example.org", "before the \"@\""),
        ("a@b@example.org", "before the \"@\""),
        ("Doe, Ann <a@example.org>", "has no domain"),
        ("=?utf-8?q?a=40b?=@example.org", "encoded word"),
        ("\"=?utf-8?b?YQ==?=\"@example.org", "encoded word"),
        ("Ann (x) <a@example.org>", "display name"),
        ("\"Ann <a@example.org>", "display name"),
        ("Ann <a@example.org", "before the \"@\""),
        ("a@example.org>", "valid domain"),
        ("\"a<b\"@example.org", "before the \"@\""),
        ("\"a>b\"@example.org", "before the \"@\""),
        ("\"a\tb\"@example.org", "before the \"@\""),
        ("\"\"@example.org", "before the \"@\""),
        ("\"a\"b@example.org", "before the \"@\""),
        ("\"a\" \"b\"@example.org", "before the \"@\""),
        ("\"a\"@b\"@example.org", "before the \"@\""),
        ("Ann \"a b\"@example.org", "before the \"@\""),
        (long_local.as_str(), "more than 64"),
        (long.as_str(), "longer than 254"),
    ];
    for (given, expected) in table {
        let error = simple(&to(given)).expect_err(given);
        assert_eq!(error.field, "recipient", "{given}");
        assert_eq!(error.kind, InvalidKind::BadValue);
        assert!(error.message.contains(expected), "{given}: {error}");
        assert!(error.message.contains("\"recipient\""), "{given}: {error}");
    }
    let address = format!(
        "{}@{}.org",
        "a".repeat(64),
        ["b".repeat(63), "c".repeat(63), "d".repeat(60)].join(".")
    );
    assert!(
        simple(&to(&address))
            .unwrap_err()
            .message
            .contains("longer than 254")
    );
}

#[test]
fn a_message_needs_a_sender_and_a_recipient() {
    let context = Context {
        default_sender: None,
        ..QUEUE
    };
    let error = prepare_simple(&to("a@example.org"), &context).unwrap_err();
    assert_eq!(
        (error.field.as_str(), error.message.as_str()),
        ("sender", "\"sender\" is missing")
    );
    assert!(error.hint.unwrap().contains("default_sender"));
    let error = prepare_json(r#"{"to": "a@example.org"}"#, &context).unwrap_err();
    assert_eq!(error.field, "from");
    let error = json(&j!({"subject": "x"})).unwrap_err();
    assert_eq!(
        (error.field.as_str(), error.message.as_str()),
        ("to", "message has no recipient")
    );
    assert!(json(&j!({"to": []})).is_err());
    assert!(json(&j!({"bcc": "a@example.org"})).is_ok());
    let error =
        json(&j!({"to": "a@example.org", "from": "a@example.org, b@example.org"})).unwrap_err();
    assert_eq!(error.message, "\"from\" must be a single address");
    let context = Context {
        default_sender: Some("nobody"),
        ..QUEUE
    };
    assert_eq!(
        prepare_simple(&to("a@example.org"), &context)
            .unwrap_err()
            .field,
        "default_sender"
    );
}

#[test]
fn unknown_fields_are_named_with_a_hint() {
    let table = [
        ("foo", "Known fields are from, sender, to,"),
        ("subjct", "Did you mean \"subject\"?"),
        ("body", "Did you mean \"text\"?"),
        ("replyTo", "Did you mean \"reply_to\"?"),
        ("attachment", "Did you mean \"attachments\"?"),
    ];
    for (field, hint) in table {
        let error = json(&j!({"to": "a@example.org", field: "x"})).unwrap_err();
        assert_eq!(error.message, format!("unknown field \"{field}\""));
        assert_eq!(
            (error.kind, error.field.as_str()),
            (InvalidKind::BadValue, field)
        );
        assert!(error.hint.unwrap().starts_with(hint), "{field}");
    }
    for field in [
        "queue",
        "send_at",
        "expires_at",
        "priority",
        "idempotency_key",
        "ordering_key",
        "supersede_key",
    ] {
        let hint =
            format!("\"{field}\" is an argument of mail.enqueue, not a field of the message.");
        let error = json(&j!({"to": "a@example.org", field: null})).unwrap_err();
        assert_eq!(error.message, format!("unknown field \"{field}\""));
        assert_eq!(error.hint.as_deref(), Some(hint.as_str()));
        let options = j!({field: 1}).to_string();
        let given = Simple {
            options: Some(&options),
            ..to("a@example.org")
        };
        assert_eq!(simple(&given).unwrap_err().hint, Some(hint));
    }
    for field in [
        "attachments",
        "list_unsubscribe",
        "template",
        "params",
        "raw",
    ] {
        assert!(json(&j!({"to": "a@example.org", field: null})).is_ok());
    }
}

#[test]
fn wrong_types_are_named() {
    let table = [
        (
            "subject",
            j!(1),
            "\"subject\" must be a string, not a number",
        ),
        ("text", j!({}), "\"text\" must be a string, not an object"),
        (
            "to",
            j!({}),
            "\"to\" must be a string or an array of strings, not an object",
        ),
        (
            "cc",
            j!([1]),
            "\"cc\" must be an array of strings, but holds a number",
        ),
        (
            "headers",
            j!([]),
            "\"headers\" must be an object, not an array",
        ),
        ("headers", j!({"X": 1}), "header \"X\" must be a string"),
        (
            "metadata",
            j!("x"),
            "\"metadata\" must be an object, not a string",
        ),
        (
            "tags",
            j!(true),
            "\"tags\" must be a string or an array of strings, not a boolean",
        ),
        ("tags", j!([""]), "tag \"\" is empty"),
    ];
    for (field, value, message) in table {
        let mut mail = j!({"bcc": "a@example.org"});
        mail[field] = value;
        assert_eq!(json(&mail).unwrap_err().message, message);
    }
    for text in ["[]", "\"x\"", "1", "null"] {
        assert_eq!(
            prepare_json(text, &QUEUE).unwrap_err().message,
            "\"message\" must be a JSON object"
        );
    }
    assert!(
        prepare_json("{", &QUEUE)
            .unwrap_err()
            .message
            .starts_with("\"message\" is not valid JSON")
    );
    let twice = r#"{"to": "a@b.example", "to": "c@d.example"}"#;
    assert_eq!(
        prepare_json(twice, &QUEUE).unwrap_err().message,
        "field \"to\" is given twice"
    );
    let half = r#"{"to": "a@b.example", "subject": "\ud800"}"#;
    assert!(
        prepare_json(half, &QUEUE)
            .unwrap_err()
            .message
            .contains("\"subject\"")
    );
}

#[test]
fn options_add_to_the_arguments_and_never_replace_them() {
    let given = Simple {
        subject: Some("x"),
        options: Some(r#"{"subject": "y"}"#),
        ..to("a@example.org")
    };
    let error = simple(&given).unwrap_err();
    assert_eq!(
        error.message,
        "field \"subject\" in \"options\" is already given as argument \"subject\""
    );
    let given = Simple {
        options: Some(r#"{"to": "b@example.org"}"#),
        ..to("a@example.org")
    };
    assert!(
        simple(&given)
            .unwrap_err()
            .message
            .contains("\"recipient\"")
    );
    let given = Simple {
        options: Some(r#"{"subject": "y", "from": "f@example.org"}"#),
        ..to("a@example.org")
    };
    assert_eq!(simple(&given).unwrap().envelope_from, "f@example.org");
    let given = Simple {
        options: Some("[]"),
        ..to("a@example.org")
    };
    assert_eq!(
        simple(&given).unwrap_err().message,
        "\"options\" must be a JSON object"
    );
}

#[test]
fn control_characters_are_refused_in_every_field_bound_for_a_header() {
    let evil = [
        "x\r\nBcc: v@example.org",
        "x\ny",
        "x\ry",
        "x\0y",
        "x\x0by",
        "x\x7fy",
        "x\u{85}y",
    ];
    for bad in evil {
        let name = format!("\"{bad}\" <a@example.org>");
        let address = format!("{bad}@example.org");
        let local = format!("\"{bad}\"@example.org");
        assert_eq!(check_address(&name, "x").unwrap_err().field, "x");
        assert_eq!(check_address(&local, "x").unwrap_err().field, "x");
        let mut mails: Vec<(&str, Value)> = Vec::new();
        for field in ["from", "sender", "to", "cc", "bcc", "reply_to"] {
            mails.push((field, j!(name)));
            mails.push((field, j!(address)));
            mails.push((field, j!(local)));
        }
        mails.push(("return_path", j!(address)));
        for field in ["subject", "in_reply_to", "references", "message_id", "tags"] {
            mails.push((field, j!(bad)));
            mails.push((field, j!(format!("<{bad}@x>"))));
        }
        mails.push(("headers", j!({"X-Foo": bad})));
        mails.push(("headers", j!({bad: "x"})));
        for (field, value) in mails {
            let mut mail = j!({"to": "a@example.org"});
            mail[field] = value;
            let error = json(&mail).expect_err(field);
            assert!(error.field.starts_with(field), "{mail}: {error}");
            assert!(
                !error.message.contains(|c: char| c.is_control()),
                "{error:?}"
            );
        }
    }
    for (text, html) in [(Some("a\0"), None), (None, Some("a\0"))] {
        let given = Simple {
            text_body: text,
            html_body: html,
            ..to("a@example.org")
        };
        assert!(
            simple(&given)
                .unwrap_err()
                .message
                .contains("null character")
        );
    }
}

#[test]
fn headers_that_have_a_field_or_belong_to_the_system_are_refused() {
    for name in [
        "From",
        "to",
        "BCC",
        "Reply-to",
        "subject",
        "message-id",
        "References",
        "Return-Path",
    ] {
        let error = json(&j!({"to": "a@b.example", "headers": {name: "x"}})).unwrap_err();
        assert_eq!(error.field, format!("headers.{name}"));
        assert!(error.hint.unwrap().starts_with("Use the field"), "{name}");
    }
    for name in [
        "Date",
        "Received",
        "Content-Type",
        "content-x",
        "DKIM-Signature",
        "ARC-Seal",
        "MIME-Version",
    ] {
        assert!(
            json(&j!({"to": "a@b.example", "headers": {name: "x"}})).is_err(),
            "{name}"
        );
    }
    for name in ["", "X Y", "X:", "Xä", &"x".repeat(77)] {
        let error = json(&j!({"to": "a@b.example", "headers": {name: "x"}})).unwrap_err();
        assert!(error.message.starts_with("invalid header name"), "{error}");
    }
    let error = json(&j!({"to": "a@b.example", "headers": {"X-A": "x", "x-a": "y"}})).unwrap_err();
    assert_eq!(error.message, "header \"x-a\" is given twice");
    assert!(json(&j!({"to": "a@b.example", "headers": {"List-Id": "x", "Auto-Submitted": "auto-generated"}})).is_ok());
}

#[test]
fn message_identifiers_are_completed_or_refused() {
    let given = |id: &str| json(&j!({"to": "a@b.example", "message_id": id}));
    assert_eq!(given("x@y").unwrap().message_id, "<x@y>");
    assert_eq!(given(" <x@y> ").unwrap().message_id, "<x@y>");
    for bad in [
        "",
        "x",
        "<x>",
        "<@y>",
        "<x@>",
        "<x y@z>",
        "<x@y> <z@w>",
        "ä@y",
        "<<x@y>>",
    ] {
        assert_eq!(given(bad).expect_err(bad).field, "message_id");
    }
    let prepared = json(&j!({"to": "a@b.example", "references": ["a@b <c@d>", "e@f"]})).unwrap();
    assert!(
        prepared
            .content
            .contains(r#""references":"<a@b> <c@d> <e@f>""#)
    );
    let context = Context {
        id: i64::MAX,
        nonce: u64::MAX,
        ..QUEUE
    };
    let prepared = prepare_simple(&to("a@b.example"), &context).unwrap();
    assert_eq!(
        prepared.message_id,
        "<1y2p0ij32e8e7.ffffffffffffffff@example.com>"
    );
}

#[test]
fn a_message_above_the_limit_is_too_large() {
    let body = "x".repeat(1000);
    let given = Simple {
        text_body: Some(&body),
        ..to("a@example.org")
    };
    let small = Context {
        max_size: 1000,
        ..QUEUE
    };
    let error = prepare_simple(&given, &small).unwrap_err();
    assert_eq!(error.kind, InvalidKind::TooLarge);
    assert_eq!(
        error.message,
        "message of 1013 bytes exceeds the limit of 1000 bytes"
    );
    assert!(
        prepare_simple(
            &given,
            &Context {
                max_size: 1013,
                ..QUEUE
            }
        )
        .is_ok()
    );
}

#[test]
fn every_field_counts_towards_the_limit() {
    let long = "x".repeat(200);
    let cases = [
        ("from", j!(format!("{long} <a@example.org>"))),
        ("sender", j!(format!("{long} <a@example.org>"))),
        ("cc", j!([format!("{long} <a@example.org>")])),
        ("bcc", j!(format!("{long} <a@example.org>"))),
        ("reply_to", j!(format!("{long} <a@example.org>"))),
        ("return_path", j!(format!("a@{}.org", "b.".repeat(100)))),
        ("subject", j!(long)),
        ("text", j!(long)),
        ("html", j!(long)),
        ("headers", j!({"X-A": long})),
        ("in_reply_to", j!(format!("{long}@x"))),
        ("references", j!(vec!["a@b"; 100])),
        ("message_id", j!(format!("{long}@x"))),
        ("dsn", j!({"notify": vec!["delay"; 100]})),
        ("metadata", j!({"k": [long]})),
        ("tags", j!(vec!["ab"; 100])),
    ];
    let small = Context {
        max_size: 200,
        ..QUEUE
    };
    for (field, value) in cases {
        let mail = j!({"to": "a@example.org", field: value});
        let error = prepare_json(&mail.to_string(), &small).expect_err(field);
        assert_eq!(error.kind, InvalidKind::TooLarge, "{field}: {error}");
    }
}

#[test]
fn a_header_has_a_limit_of_its_own() {
    const LIMIT: usize = 256 * 1024;
    let half = "x".repeat(LIMIT / 2);
    let addresses = |count: usize| vec!["someone@recipients.example"; count];
    let cases = [
        j!({"to": addresses(LIMIT / 26 + 1)}),
        j!({"to": addresses(LIMIT / 52), "cc": addresses(LIMIT / 52 + 1)}),
        j!({"reply_to": addresses(LIMIT / 26)}),
        j!({"references": vec!["12345678@90"; LIMIT / 11]}),
        j!({"in_reply_to": vec!["12345678@90"; LIMIT / 11]}),
        j!({"headers": {"X-A": half, "X-B": half}}),
        j!({"subject": "x".repeat(10_000), "headers": {"X-A": half, "X-B": "x".repeat(LIMIT / 2 - 9_000)}}),
        j!({"list_unsubscribe": {"url": half, "mailto": half}}),
    ];
    for mut mail in cases {
        if mail.get("to").is_none() {
            mail["to"] = j!("someone@recipients.example");
        }
        let Err(error) = json(&mail) else {
            panic!("it is too large")
        };
        assert_eq!(error.kind, InvalidKind::TooLarge, "{error}");
        assert_eq!(error.field, "header");
        assert!(error.message.starts_with("header of "), "{error}");
        assert!(
            error.message.ends_with("exceeds the limit of 262144 bytes"),
            "{error}"
        );
    }
    let list = addresses(LIMIT / 26 + 1).join(",");
    assert_eq!(simple(&to(&list)).unwrap_err().field, "header");
    let mut mail = j!({"to": addresses(5_100), "headers": {"X-A": half}});
    assert!(json(&mail).is_err());
    mail["to"] = j!(addresses(4_900));
    assert!(json(&mail).is_ok());
    // What does not stand in it is not counted.
    let mail =
        j!({"bcc": addresses(LIMIT / 26 + 1), "text": half, "html": half, "metadata": {"k": half}});
    assert!(json(&mail).is_ok());
}
