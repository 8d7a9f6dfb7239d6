//! What is accepted, and what is stored of it.

mod common;

use common::{QUEUE, json, simple, to};
use std::cell::RefCell;

use mail_message::{Context, Invalid, InvalidKind, Simple, prepare_json};
use serde_json::json as j;

#[test]
fn a_plain_mail_is_stored_in_its_canonical_form() {
    let prepared = simple(&Simple {
        subject: Some("Hi"),
        text_body: Some("Hello\n"),
        ..to("a@example.org")
    })
    .unwrap();
    assert_eq!(
        prepared.content,
        r#"{"from":"Shop <shop@example.com>","to":["a@example.org"],"subject":"Hi","message_id":"<100.abc@example.com>","text":"Hello\n"}"#
    );
    assert_eq!(prepared.recipients, ["a@example.org"]);
    assert_eq!(prepared.envelope_from, "shop@example.com");
    assert_eq!(prepared.message_id, "<100.abc@example.com>");
    assert_eq!(prepared.subject.as_deref(), Some("Hi"));
}

#[test]
fn the_text_form_and_the_json_form_agree() {
    let text = simple(&Simple {
        subject: Some("S"),
        text_body: Some("T"),
        html_body: Some("<p>H"),
        sender: Some("me@example.com"),
        options: Some(r#"{"cc": "c@example.org", "tags": ["x"], "metadata": {"k": 1}}"#),
        ..to("A <a@example.org>, b@example.org")
    });
    let json = json(&j!({
        "to": ["A <a@example.org>", "b@example.org"], "subject": "S", "text": "T", "html": "<p>H",
        "from": "me@example.com", "cc": ["c@example.org"], "tags": "x", "metadata": {"k": 1}
    }));
    let (text, json) = (text.unwrap(), json.unwrap());
    assert_eq!(text.content, json.content);
    assert_eq!(text.recipients, json.recipients);
    assert_eq!(json.tags, ["x"]);
    assert_eq!(json.metadata.as_deref(), Some(r#"{"k":1}"#));
}

#[test]
fn canonical_content_is_a_fixed_point() {
    let first = json(&j!({
        "from": "\"Doe, \\\"J\\\"\" <j@müller.example>", "sender": "s@example.com",
        "to": "Ä Ö <a@example.org>, \"x, y\" <b@example.org>", "bcc": "z@example.org",
        "reply_to": "r@example.com", "return_path": "", "subject": "Ü", "text": "t",
        "headers": {"X-B": "1", "X-A": "2"}, "in_reply_to": "a@b", "references": "<a@b> <c@d>"
    }))
    .unwrap();
    let again = prepare_json(&first.content, &QUEUE).unwrap();
    assert_eq!(first, again);
    assert!(
        first
            .content
            .contains(r#""from":"\"Doe, \\\"J\\\"\" <j@xn--mller-kva.example>""#)
    );
    assert_eq!(first.envelope_from, "");
}

#[test]
fn recipients_are_parsed_converted_and_deduplicated() {
    let table: &[(&str, &[&str])] = &[
        ("a@example.org", &["a@example.org"]),
        (
            " a@example.org ,, b@example.org, ",
            &["a@example.org", "b@example.org"],
        ),
        ("Ann <a@example.org>", &["a@example.org"]),
        ("Ann<a@example.org>", &["a@example.org"]),
        ("<a@example.org>", &["a@example.org"]),
        ("\"Doe, Ann\" <a@example.org>", &["a@example.org"]),
        ("\"a \\\" < b\" <a@example.org>", &["a@example.org"]),
        ("O'Neil J. R. <a@example.org>", &["a@example.org"]),
        (
            "Müller & Söhne <a@müller.example>",
            &["a@xn--mller-kva.example"],
        ),
        (
            "a@EXAMPLE.org, a@example.org, A@example.org",
            &["a@EXAMPLE.org", "A@example.org"],
        ),
        ("a@localhost", &["a@localhost"]),
        ("a@[192.0.2.1]", &["a@[192.0.2.1]"]),
        ("a@[IPv6:2001:db8::1]", &["a@[IPv6:2001:db8::1]"]),
        ("ä@example.org", &["ä@example.org"]),
        ("\"a@b\"@example.org", &["\"a@b\"@example.org"]),
        ("\"a b\"@example.org", &["\"a b\"@example.org"]),
        ("A B <\"a b\"@example.org>", &["\"a b\"@example.org"]),
        (
            "\"x, y\"@example.org, \"D, A\" <\"p, q\"@example.org>",
            &["\"x, y\"@example.org", "\"p, q\"@example.org"],
        ),
        (
            "abc@example.org, \"abc\"@example.org, \"a\\bc\"@EXAMPLE.org",
            &["abc@example.org"],
        ),
        ("\"a b\"@müller.example", &["\"a b\"@xn--mller-kva.example"]),
        ("a+tag=x@sub.example.org", &["a+tag=x@sub.example.org"]),
    ];
    for (given, expected) in table {
        let prepared = simple(&to(given)).unwrap_or_else(|error| panic!("{given}: {error}"));
        assert_eq!(prepared.recipients, *expected, "{given}");
    }
}

#[test]
fn a_long_list_is_deduplicated_too() {
    let list: Vec<String> = (0..100)
        .map(|i| format!("u{}@EXAMPLE{}.org", i % 40, i % 40))
        .collect();
    let mut again = list.clone();
    again.extend(
        list.iter()
            .map(|address| address.replace("EXAMPLE", "example")),
    );
    let prepared = json(&j!({ "to": again })).unwrap();
    assert_eq!(prepared.recipients, list[..40]);
}

#[test]
fn the_reverse_path_is_the_messages_the_queues_or_the_senders() {
    let queue = Context {
        return_path: Some("bounce@example.com"),
        ..QUEUE
    };
    let table = [
        (j!({"to": "a@b.example"}), QUEUE, "shop@example.com"),
        (
            j!({"to": "a@b.example", "sender": "S <s@example.com>"}),
            QUEUE,
            "s@example.com",
        ),
        (j!({"to": "a@b.example"}), queue, "bounce@example.com"),
        (
            j!({"to": "a@b.example", "return_path": "<r@example.com>"}),
            queue,
            "r@example.com",
        ),
        (j!({"to": "a@b.example", "return_path": "<>"}), queue, ""),
        (
            j!({"to": "a@b.example"}),
            Context {
                return_path: Some("<>"),
                ..QUEUE
            },
            "",
        ),
        (
            j!({"to": "a@b.example"}),
            Context {
                return_path: Some("Bounces <b@example.com>"),
                ..QUEUE
            },
            "b@example.com",
        ),
    ];
    for (message, context, expected) in table {
        let prepared = prepare_json(&message.to_string(), &context).unwrap();
        assert_eq!(prepared.envelope_from, expected, "{message}");
    }
}

#[test]
fn senders_that_the_caller_gives_are_asked_about() {
    let asked = RefCell::new(Vec::new());
    let may_send_as = |field: &str, address: &str| {
        asked.borrow_mut().push(format!("{field} {address}"));
        Ok(())
    };
    let queue = Context {
        may_send_as: Some(&may_send_as),
        return_path: Some("bounce@example.com"),
        ..QUEUE
    };
    let external = Context {
        external: true,
        ..queue
    };
    let table: [(_, _, &[&str]); 6] = [
        (j!({"to": "a@b.example"}), queue, &[]),
        (
            j!({"to": "a@b.example", "from": "A <a@c.example>", "sender": "s@c.example", "return_path": "<r@c.example>"}),
            queue,
            &[
                "from a@c.example",
                "sender s@c.example",
                "return_path r@c.example",
            ],
        ),
        (
            j!({"to": "a@b.example", "from": "Other name <SHOP@example.com>", "return_path": "shop@example.com"}),
            queue,
            &[],
        ),
        (j!({"to": "a@b.example", "return_path": ""}), queue, &[]),
        (
            j!({"to": "a@b.example", "raw": "RnJvbTogYUBjLmV4YW1wbGUKU2VuZGVyOiBzQGMuZXhhbXBsZQoKeA=="}),
            queue,
            &["From of raw a@c.example", "Sender of raw s@c.example"],
        ),
        (
            j!({"to": "a@b.example", "from": "a@c.example"}),
            external,
            &[],
        ),
    ];
    for (message, context, expected) in table {
        prepare_json(&message.to_string(), &context).unwrap();
        assert_eq!(asked.take(), expected, "{message}");
    }
    let refuse = |field: &str, address: &str| Err(Invalid::sender_not_granted("r", field, address));
    let queue = Context {
        may_send_as: Some(&refuse),
        ..QUEUE
    };
    let message = j!({"to": "a@b.example", "from": "a@c.example"}).to_string();
    let error = prepare_json(&message, &queue).unwrap_err();
    assert_eq!(
        (error.kind, error.field.as_str(), error.message.as_str()),
        (
            InvalidKind::Denied,
            "from",
            "role \"r\" may not send as \"a@c.example\" (from)"
        )
    );
}

#[test]
fn metadata_that_is_nested_too_deep_is_refused() {
    let (open, close) = ("[".repeat(1000), "]".repeat(1000));
    let mail = format!(r#"{{"to": "a@example.org", "metadata": {{"deep": {open}{close}}}}}"#);
    let refused = prepare_json(&mail, &QUEUE).unwrap_err();
    assert_eq!(
        (refused.kind, refused.field.as_str()),
        (InvalidKind::TooLarge, "metadata")
    );
}

#[test]
fn metadata_stays_as_it_was_written() {
    let deep = format!("{}1{}", "[".repeat(999), "]".repeat(999));
    let metadata = [
        r#"{"n": 123456789012345678901234567890, "d": 0.10, "i": 9007199254740993.5}"#.to_owned(),
        r#"{"e": 1e400}"#.to_owned(),
        format!(r#"{{"deep": {deep}}}"#),
    ];
    for metadata in metadata {
        let mail = format!(r#"{{"to": "a@example.org", "metadata": {metadata}}}"#);
        let prepared = prepare_json(&mail, &QUEUE).unwrap();
        assert_eq!(prepared.metadata.as_deref(), Some(metadata.as_str()));
    }
}

#[test]
fn many_tags_are_told_apart_at_once() {
    let tags: Vec<String> = (0..100_000).map(|i| format!("t{}", i % 50_000)).collect();
    let prepared = json(&j!({"to": "a@example.org", "tags": tags})).unwrap();
    assert_eq!(prepared.tags, tags[..50_000]);
}

#[test]
fn a_mail_for_an_external_consumer_needs_no_sender() {
    let queue = Context {
        default_sender: None,
        external: true,
        ..QUEUE
    };
    let given = Simple {
        subject: Some("hi"),
        ..to("a@example.org")
    };
    let prepared = mail_message::prepare_simple(&given, &queue).unwrap();
    assert_eq!(
        prepared.content,
        r#"{"to":["a@example.org"],"subject":"hi"}"#
    );
    assert_eq!(prepared.recipients, ["a@example.org"]);
    assert_eq!(
        (
            prepared.envelope_from.as_str(),
            prepared.message_id.as_str()
        ),
        ("", "")
    );
    assert!(
        common::plain(&prepared.content, common::DATE).is_err(),
        "not one of ours to send"
    );

    let options = r#"{"message_id": "x@y", "return_path": "r@example.com"}"#;
    let given = Simple {
        options: Some(options),
        ..given
    };
    let prepared = mail_message::prepare_simple(&given, &queue).unwrap();
    assert_eq!(
        (
            prepared.envelope_from.as_str(),
            prepared.message_id.as_str()
        ),
        ("r@example.com", "<x@y>")
    );
    let given = Simple {
        sender: Some("me@example.com"),
        ..to("a@example.org")
    };
    let prepared = mail_message::prepare_simple(&given, &queue).unwrap();
    assert!(prepared.content.starts_with(r#"{"from":"me@example.com","#));
    assert_eq!(prepared.message_id, "<100.abc@example.com>");
}
