//! Messages that the caller wrote himself.

mod common;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use common::{DATE, QUEUE, assert_legal, bytes_of, json};
use mail_message::{Context, Extras, File, Invalid, InvalidKind, Prepared, compose, prepare_json};
use proptest::prelude::*;
use serde_json::{Value, json as j};

fn raw(message: &str, beside: Value) -> Result<Prepared, Invalid> {
    let mut mail = beside;
    mail["raw"] = j!(STANDARD.encode(message));
    json(&mail)
}

fn sent(prepared: &Prepared) -> String {
    let bytes = bytes_of(prepared);
    assert_legal(&bytes);
    String::from_utf8(bytes).unwrap()
}

/// What of [`FULL`] is not sent.
const ENVELOPE: [&str; 2] = [
    "Bcc: secret@example.org,\r\n other@example.org\r\n",
    "RETURN-PATH:\r\n <bounce@example.net>\r\n",
];

const FULL: &str = "Received: x\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\nFrom: =?utf-8?q?J=C3=B6rg?= <J@Example.COM>\r\n\
    To: a@example.org,\r\n \"B, b\" <b@example.org>\r\nX-Odd:   kept \r\n as it is\r\nBcc: secret@example.org,\r\n other@example.org\r\n\
    Subject: =?utf-8?b?R3LDvMOfZQ==?= aus\r\n =?utf-8?q?K=C3=B6ln?=\r\nMessage-Id: <own@example.com>\r\nRETURN-PATH:\r\n <bounce@example.net>\r\n\r\nBcc: body\r\nReturn-Path: body\r\n.\r\nEnd\r\n";

#[test]
fn it_is_sent_byte_for_byte_but_for_its_envelope() {
    let prepared = raw(FULL, j!({})).unwrap();
    let left = ENVELOPE.iter().fold(FULL.to_owned(), |text, field| {
        assert!(text.contains(field));
        text.replace(field, "")
    });
    assert_eq!(sent(&prepared), left);
    let everybody = [
        "a@example.org",
        "b@example.org",
        "secret@example.org",
        "other@example.org",
    ];
    assert_eq!(prepared.recipients, everybody);
    assert_eq!(prepared.envelope_from, "J@Example.COM");
    assert_eq!(prepared.subject.as_deref(), Some("Grüße aus Köln"));
    assert_eq!(prepared.message_id, "<own@example.com>");
    assert_eq!(prepared.files, [File::Bytes(FULL.into())]);
    assert_eq!(
        prepared.content,
        r#"{"from":"J@Example.COM","to":[],"subject":"Grüße aus Köln","message_id":"<own@example.com>","raw":true}"#
    );
    assert_eq!(prepared.size, prepared.content.len() + FULL.len());
    let composed = compose(&prepared.content, DATE, common::extras(&prepared, None)).unwrap();
    assert_eq!(composed.from_domain.as_deref(), Some("example.com"));
}

#[test]
fn the_fields_beside_it_are_its_envelope() {
    let prepared = raw(
        FULL,
        j!({"to": "x@example.org", "cc": "y@example.org", "return_path": "bounce@example.com", "tags": "t", "metadata": {"k": 1}, "dsn": {"notify": "never"}}),
    )
    .unwrap();
    assert_eq!(prepared.recipients, ["x@example.org", "y@example.org"]);
    assert_eq!(prepared.envelope_from, "bounce@example.com");
    assert_eq!(prepared.tags, ["t"]);
    assert!(
        compose(&prepared.content, DATE, common::extras(&prepared, None))
            .unwrap()
            .dsn
            .is_some()
    );
    for field in [
        "from",
        "sender",
        "reply_to",
        "subject",
        "text",
        "html",
        "in_reply_to",
        "references",
        "message_id",
        "template",
        "locale",
        "render",
    ] {
        let error = raw(FULL, j!({field: "x"})).expect_err(field);
        assert_eq!(error.field, field);
        assert_eq!(
            error.message,
            format!("\"{field}\" cannot be given beside \"raw\"")
        );
    }
    for (field, value) in [
        ("attachments", j!([])),
        ("headers", j!({"X": "y"})),
        ("list_unsubscribe", j!({})),
        ("params", j!({})),
    ] {
        assert_eq!(raw(FULL, j!({field: value})).unwrap_err().field, field);
    }
    let sender = FULL.replace("Received: x", "Sender: s@example.com");
    assert_eq!(raw(&sender, j!({})).unwrap().envelope_from, "s@example.com");
    let queue = Context {
        return_path: Some("<>"),
        ..QUEUE
    };
    let mail = j!({"raw": STANDARD.encode(FULL)}).to_string();
    assert_eq!(prepare_json(&mail, &queue).unwrap().envelope_from, "");
}

#[test]
fn what_it_must_have_is_added_and_line_ends_are_made_whole() {
    for end in ["\n", "\r\n"] {
        let message = [
            "From: a@example.com",
            "To: b@example.org",
            "bCC: c@example.org",
            "\tx@example.org",
            "",
            "Hi",
            ".",
            "x",
        ]
        .join(end);
        let prepared = raw(&message, j!({"to": "b@example.org"})).unwrap();
        assert_eq!(prepared.message_id, "<100.abc@example.com>");
        let expected = "From: a@example.com\r\nTo: b@example.org\r\nDate: Tue, 14 Nov 2023 22:13:20 +0000\r\n\
            Message-ID: <100.abc@example.com>\r\n\r\nHi\r\n.\r\nx\r\n";
        assert_eq!(sent(&prepared), expected, "{end:?}");
    }
    let bare = raw("From: a@b.example", j!({"to": "b@example.org"})).unwrap();
    assert!(sent(&bare).ends_with("\r\n\r\n"));
}

#[test]
fn the_recipients_are_those_of_the_header_if_none_is_given() {
    for (head, expected) in [
        (
            "To: A <a@x.example>, b@x.example\nCc: a@X.example, c@x.example",
            vec!["a@x.example", "b@x.example", "c@x.example"],
        ),
        (
            "To: friends: a@x.example, B <b@x.example>;\nBcc: c@x.example",
            vec!["a@x.example", "b@x.example", "c@x.example"],
        ),
        (
            "To: undisclosed-recipients:;\nBcc: c@x.example",
            vec!["c@x.example"],
        ),
        (
            "To: a@x.example\nTo: b@x.example",
            vec!["a@x.example", "b@x.example"],
        ),
        ("To: a@müller.example", vec!["a@xn--mller-kva.example"]),
        ("To: a@x.example (a comment)", vec!["a@x.example"]),
    ] {
        let prepared = raw(&format!("From: a@b.example\n{head}\n\nx"), j!({}));
        assert_eq!(prepared.expect(head).recipients, expected, "{head}");
    }
    for head in [
        "X: y",
        "To: ",
        "To: nobody",
        "To: a@x.example, nobody",
        "To: undisclosed-recipients:;",
    ] {
        assert!(
            raw(&format!("From: a@b.example\n{head}\n\nx"), j!({})).is_err(),
            "{head}"
        );
    }
}

#[test]
fn the_author_is_the_address_in_angle_brackets() {
    for from in [
        "a@x.example <c@b.example>",
        "\"<a@x.example>\" <c@b.example>",
        "=?utf-8?q?=3Ca@x.example=3E?= <c@b.example>",
        "(a@x.example) c@b.example",
        "c@b.example (a@x.example)",
        "Ann\n\t<c@b.example>",
    ] {
        let prepared = raw(&format!("From: {from}\n\nx"), j!({"to": "a@b.example"}));
        let prepared = prepared.unwrap_or_else(|error| panic!("{from}: {error}"));
        assert_eq!(prepared.envelope_from, "c@b.example", "{from}");
    }
}

#[test]
fn what_only_some_readers_take_for_an_address_is_none() {
    for (written, problem) in [
        ("=?utf-8?q?a=40evil.org?=", "has an encoded word"),
        ("=?utf-8?b?YUBldmlsLm9yZw==?=", "has an encoded word"),
        ("<=?utf-8?q?a=40evil.org?=>", "has an encoded word"),
        ("Ann <=?utf-8?q?a=40evil.org?=>", "has an encoded word"),
        ("=?utf-8?q?a?=@evil.org", "has an encoded word"),
        ("<=?utf-8?q?a?=@evil.org>", "has an encoded word"),
        ("a@=?utf-8?q?evil?=.org", "has an encoded word"),
        ("a=?utf-8?q?b?=@evil.org", "has an encoded word"),
        ("=?utf-8?q?a=40evil.org?= (Ann)", "has an encoded word"),
        ("x: =?utf-8?q?a=40evil.org?=;", "has an encoded word"),
        ("\"a@evil.org\"", "is a name without an address"),
        ("\"a\\@evil.org\"", "is a name without an address"),
        ("\"a@evil.org\" (Ann)", "is a name without an address"),
        ("(a@evil.org)", "is a name without an address"),
        ("\r\n (a@evil.org\r\n )", "is a name without an address"),
    ] {
        for name in ["To", "Cc", "Bcc"] {
            let head = format!("From: a@b.example\r\n{name}: b@b.example, {written}\r\n\r\nx");
            let error = raw(&head, j!({})).expect_err(&head);
            assert_eq!(
                (error.kind, error.field.as_str()),
                (InvalidKind::BadValue, "raw")
            );
            assert!(error.message.contains(problem), "{head}: {error}");
        }
        for head in [
            format!("From: {written}\r\n\r\nx"),
            format!("From: a@b.example\r\nSender: {written}\r\n\r\nx"),
        ] {
            let prepared = raw(&head, j!({"to": "b@b.example"}));
            let sender = prepared.map(|prepared| prepared.envelope_from);
            assert!(
                sender.is_err() || sender.as_deref() == Ok("a@b.example"),
                "{head}"
            );
        }
    }
    for (written, address) in [
        ("=?utf-8?q?a=40evil.org?= <b@b.example>", "b@b.example"),
        (
            "=?utf-8?q?J=C3=B6rg?=\r\n =?utf-8?q?_B?= <b@b.example>",
            "b@b.example",
        ),
        ("\"=?utf-8?q?a=40evil.org?=\" <b@b.example>", "b@b.example"),
        ("\"a@evil.org\" <b@b.example>", "b@b.example"),
        ("b@b.example (=?utf-8?q?a=40evil.org?=)", "b@b.example"),
        ("b=?x@b.example", "b=?x@b.example"),
        ("<\"b@c\"@b.example>", "\"b@c\"@b.example"),
    ] {
        let head = format!("From: {written}\r\nTo: {written}\r\n\r\nx");
        let prepared = raw(&head, j!({})).unwrap_or_else(|error| panic!("{head}: {error}"));
        assert_eq!(prepared.recipients, [address], "{head}");
        assert_eq!(prepared.envelope_from, address, "{head}");
    }
}

#[test]
fn what_no_relay_takes_is_refused() {
    let long = format!("From: a@b.example\n\n{}", "x".repeat(999));
    let head = format!("From: a@b.example\n{}\n", "X: y\n".repeat(60_000));
    for (message, problem) in [
        ("", "no From"),
        ("\r\nFrom: a@b.example", "no From"),
        ("To: a@b.example\n\nx", "no From"),
        (
            "From: a@b.example\nFrom: c@b.example\n\n",
            "more than one From",
        ),
        (
            "From: a@b.example\nFROM: c@b.example\n\n",
            "more than one From",
        ),
        (
            "From: a@b.example, c@b.example\n\n",
            "more than one address in From",
        ),
        (
            "From: x: a@b.example, c@b.example;\n\n",
            "more than one address in From",
        ),
        (
            "From: a@b.example\nSender: a@b.example, c@b.example\n\n",
            "more than one address in Sender",
        ),
        (
            "From: a@b.example\nSender: a@b.example\nsender: c@b.example\n\n",
            "more than one Sender",
        ),
        ("From: \n\n", "without an address"),
        ("From: Ann\n\n", "raw"),
        ("From: a@-.example\n\n", "raw"),
        ("From x Mon Jan 1\nFrom: a@b.example\n\n", "line 1"),
        (" x\nFrom: a@b.example\n\n", "line 1"),
        ("From: a@b.example\nnonsense\n\n", "line 2"),
        ("From : a@b.example\n\n", "colon in line 1"),
        (
            "From: a@b.example\nX: y\n z\nBcc\t: a@b.example\n\n",
            "colon in line 4",
        ),
        ("From: a@b.example\r\r\n\r\nx", "CR without LF in line 1"),
        (
            "From: a@b.example\nX: y\rBcc: z\n\nx",
            "CR without LF in line 2",
        ),
        ("From: a@b.example\rX: y\r\rx", "CR without LF in line 1"),
        ("From: a@b.example\r\n\rx", "CR without LF in line 2"),
        ("From: a@b.example\nX: a\0b\n\n", "null character"),
        ("From: a@b.example\n\na\0b", "null character"),
        ("From: a@b.example\nX: a\x0bb\n\n", "control character"),
        ("From: a@b.example\nX: a\u{85}b\n\n", "control character"),
        ("From: a@b.example\nMessage-ID: x\n\n", "Message-ID"),
        (
            "From: a@b.example\nMessage-ID: <a@b>\nMessage-ID: <c@d>\n\n",
            "Message-ID",
        ),
        ("From: a@b.example\nX: a\n \t\n b\n\n", "white space"),
        (&long, "line of 999 bytes"),
        (&head, "header of more than"),
    ] {
        let error = raw(message, j!({"to": "a@example.org"})).expect_err(message);
        assert_eq!(
            (error.field.as_str(), error.kind),
            ("raw", InvalidKind::BadValue),
            "{error}"
        );
        assert!(error.message.contains(problem), "{error}");
    }
    assert_eq!(
        json(&j!({"raw": "!"})).unwrap_err().message,
        "\"raw\" is not valid base64"
    );
    let latin = STANDARD.encode(b"From: a@b.example\nX: \xe4\n\n");
    assert!(
        json(&j!({"raw": latin, "to": "a@b.example"}))
            .unwrap_err()
            .message
            .contains("UTF-8")
    );
    let eight = STANDARD.encode(b"From: a@b.example\n\n\xe4\n");
    assert!(json(&j!({"raw": eight, "to": "a@b.example"})).is_ok());
    let context = Context {
        max_size: 100,
        ..QUEUE
    };
    let mail = j!({"raw": STANDARD.encode("x".repeat(101))}).to_string();
    assert_eq!(
        prepare_json(&mail, &context).unwrap_err().kind,
        InvalidKind::TooLarge
    );
}

proptest! {
    #[test]
    fn no_blind_copy_gets_out_however_it_is_written_and_cut(
        lines in proptest::collection::vec("(X: y|Bcc: secret|BCC:secret|Bcc :secret|return-path: <secret>| folded|\tsecret|x: |)", 0..8),
        end in "(\r|\n|\r\n)",
        size in 1usize..40,
    ) {
        let message = format!("From: a@b.example{end}{}{end}{end}body{end}", lines.join(&end));
        let Ok(prepared) = raw(&message, j!({"to": "a@b.example"})) else {
            return Ok(());
        };
        let whole = sent(&prepared);
        let head = whole.split("\r\n\r\n").next().unwrap_or_default();
        let head = head.to_ascii_lowercase();
        prop_assert!(!head.contains("\r\nbcc") && !head.contains("\r\nreturn-path"), "{}", whole);
        let File::Bytes(bytes) = &prepared.files[0] else { panic!() };
        let blocks = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
        let extras = Extras { rendered: None, files: vec![blocks] };
        let cut = compose(&prepared.content, DATE, extras).unwrap();
        prop_assert_eq!(cut.to_vec(), whole.into_bytes());
    }

    #[test]
    fn anything_is_refused_or_composes(message in "(From: a@b.example\n|\\PC|[a-z:@<>, ]{0,9}|\r|\n|\n |To: |Bcc: |=\\?utf-8\\?q\\?|\\(){0,40}") {
        if let Ok(prepared) = raw(&message, j!({"to": "a@b.example"})) {
            sent(&prepared);
        }
    }
}
