//! Headers about how a mail came to be and how to get no more: `List-Unsubscribe` and `Auto-Submitted`.

mod common;

use common::{composed, json};
use serde_json::{Value, json as j};

fn headers(list: &Value) -> String {
    let prepared = json(&j!({"to": "a@example.org", "list_unsubscribe": list}));
    let text = composed(&prepared.unwrap_or_else(|error| panic!("{list}: {error}")));
    let start = text.find("List-Unsubscribe").expect("the header");
    let end = text.find("Auto-Submitted").expect("behind it");
    text[start..end].to_owned()
}

#[test]
fn it_becomes_its_headers() {
    let click = "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n";
    let long = format!("https://example.com/{}", "x".repeat(880));
    for (list, expected) in [
        (
            j!({"url": "https://x.example/u"}),
            format!("<https://x.example/u>\r\n{click}"),
        ),
        (
            j!({"url": "https://x.example/u", "one_click": false}),
            "<https://x.example/u>\r\n".to_owned(),
        ),
        (
            j!({"url": "http://x.example/u"}),
            "<http://x.example/u>\r\n".to_owned(),
        ),
        (
            j!({"mailto": "a+b@x.example"}),
            "<mailto:a+b@x.example>\r\n".to_owned(),
        ),
        (
            j!({"mailto": "grün&x@müller.example"}),
            "<mailto:gr%C3%BCn%26x@xn--mller-kva.example>\r\n".to_owned(),
        ),
        (
            j!({"mailto": "MAILTO:a@x.example?subject=no%20more"}),
            "<mailto:a@x.example?subject=no%20more>\r\n".to_owned(),
        ),
        (
            j!({"url": long, "mailto": "a@x.example", "one_click": true}),
            format!("<{long}>,\r\n <mailto:a@x.example>\r\n{click}"),
        ),
    ] {
        assert_eq!(headers(&list), format!("List-Unsubscribe: {expected}"));
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (list, field) in [
        (j!("x"), ""),
        (j!({}), ""),
        (j!({"url": null}), ""),
        (j!({"link": "https://x.example"}), ".link"),
        (j!({"url": "ftp://x.example"}), ".url"),
        (j!({"url": "https://"}), ".url"),
        (j!({"url": "https:///x"}), ".url"),
        (j!({"url": "https://x.example/ä"}), ".url"),
        (
            j!({"url": "https://x.example/>,<https://y.example"}),
            ".url",
        ),
        (
            j!({"url": "https://x.example/\r\nBcc: v@example.org"}),
            ".url",
        ),
        (j!({"url": "https://x.example/ x"}), ".url"),
        (
            j!({"url": format!("https://x.example/{}", "x".repeat(900))}),
            ".url",
        ),
        (j!({"mailto": "nobody"}), ".mailto"),
        (
            j!({"mailto": "a@x.example\r\nBcc: v@example.org"}),
            ".mailto",
        ),
        (j!({"mailto": "mailto:a@x.example>\r\nBcc: v"}), ".mailto"),
        (j!({"mailto": "mailto:nobody"}), ".mailto"),
        (
            j!({"mailto": "a@x.example", "one_click": true}),
            ".one_click",
        ),
        (
            j!({"url": "http://x.example", "one_click": true}),
            ".one_click",
        ),
        (
            j!({"url": "https://x.example", "one_click": "yes"}),
            ".one_click",
        ),
    ] {
        let error = json(&j!({"to": "a@example.org", "list_unsubscribe": list}))
            .expect_err(&list.to_string());
        assert_eq!(
            error.field,
            format!("list_unsubscribe{field}"),
            "{list}: {error}"
        );
        assert!(!error.message.contains(|c: char| c.is_control()));
    }
    for name in ["List-Unsubscribe", "list-unsubscribe-post"] {
        let error = json(&j!({"to": "a@b.example", "headers": {name: "x"}})).unwrap_err();
        assert_eq!(
            error.hint.unwrap(),
            "Use the field \"list_unsubscribe\" instead."
        );
    }
}

#[test]
fn what_is_canonical_stays_as_it_is() {
    let mail = j!({"to": "a@example.org", "list_unsubscribe": {"url": "https://x.example/u", "mailto": "a@x.example"}});
    let first = json(&mail).unwrap();
    let again = mail_message::prepare_json(&first.content, &common::QUEUE).unwrap();
    assert_eq!(first.content, again.content);
}

#[test]
fn a_mail_says_that_a_program_made_it_unless_told_otherwise() {
    let given =
        |value: &str| json(&j!({"to": "a@b.example", "headers": {"auto-submitted": value}}));
    for value in ["no", "auto-replied", "Auto-Generated"] {
        let text = composed(&given(value).unwrap());
        assert!(text.contains(&format!("auto-submitted: {value}\r\n")));
        assert!(!text.contains("Auto-Submitted"));
    }
    for value in ["", "yes", "auto-generated; x"] {
        assert_eq!(
            given(value).expect_err(value).field,
            "headers.auto-submitted"
        );
    }
}
