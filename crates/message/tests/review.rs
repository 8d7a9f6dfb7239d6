//! What is said of a message before it is sent.

mod common;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::{json, simple, to};
use mail_message::{ComposeError, Rendered, Simple, preview};
use serde_json::{Value, json as j};

fn codes(mut mail: Value, bulk: bool) -> Vec<&'static str> {
    mail["to"] = j!("a@example.org");
    let prepared = json(&mail).unwrap_or_else(|error| panic!("{mail}: {error}"));
    let preview = preview(&prepared.content, &prepared.files, None, bulk).expect("it is canonical");
    preview
        .warnings
        .iter()
        .map(|warning| warning.code)
        .collect()
}

#[test]
fn each_finding_has_its_code() {
    let good = j!({"subject": "Your order", "text": "Hello", "html": "<p>Hello <img src=cid:l alt=''>", "attachments": [{"text": "x", "content_id": "l"}]});
    assert!(codes(good.clone(), false).is_empty());
    for (field, value, code) in [
        ("subject", j!(""), "subject_missing"),
        ("subject", j!("x".repeat(79)), "subject_too_long"),
        ("subject", j!("BUY THIS NOW"), "subject_in_capitals"),
        ("subject", j!("Now!!!"), "subject_shouts"),
        ("text", j!(null), "text_made_from_html"),
        ("text", j!("see http://example.com"), "insecure_link"),
        (
            "html",
            j!("<img src='https://x/y.png'>"),
            "image_without_alt",
        ),
        (
            "html",
            j!("<img alt='' src='http://x/y.png'>"),
            "insecure_image",
        ),
        (
            "html",
            j!("<img alt='' src='data:image/png;base64,AAAA'>"),
            "image_as_data",
        ),
        ("html", j!("<img alt='' src='cid:other'>"), "image_missing"),
        ("html", j!("<a href='HTTP://x/y'>z</a>"), "insecure_link"),
        ("html", j!("<script>x</script>"), "active_html"),
        ("html", j!("x".repeat(105_000)), "html_too_large"),
        (
            "attachments",
            j!([{"text": "x", "filename": "a.EXE"}, {"text": "x", "content_id": "l"}]),
            "blocked_attachment",
        ),
        (
            "attachments",
            j!([{"text": "x", "filename": "a\u{202e}fdp.x"}, {"text": "x", "content_id": "l"}]),
            "misleading_filename",
        ),
    ] {
        let mut mail = good.clone();
        mail[field] = value;
        assert_eq!(codes(mail.clone(), false), [code], "{mail}");
    }
    assert_eq!(codes(j!({"subject": "x"}), false), ["empty_body"]);
    assert_eq!(
        codes(
            j!({"subject": "x", "html": "<img alt='' src='https://x/y'>"}),
            false
        ),
        ["html_without_text"]
    );
}

#[test]
fn mail_to_many_can_be_left() {
    let mut mail = j!({"subject": "News", "text": "x"});
    assert_eq!(codes(mail.clone(), true), ["no_list_unsubscribe"]);
    mail["list_unsubscribe"] = j!({"mailto": "a@b.example"});
    assert_eq!(codes(mail.clone(), true), ["no_one_click_unsubscribe"]);
    mail["list_unsubscribe"] = j!({"url": "https://b.example"});
    assert!(codes(mail, true).is_empty());
}

#[test]
fn a_raw_message_to_many_can_be_left_by_its_header() {
    let post = "List-Unsubscribe-Post: List-Unsubscribe=One-Click";
    let table = [
        (String::new(), &["no_list_unsubscribe"][..]),
        (post.to_owned(), &["no_list_unsubscribe"]),
        ("List-Unsubscribe:".to_owned(), &["no_list_unsubscribe"]),
        (
            "list-unsubscribe: <https://b.example>".to_owned(),
            &["no_one_click_unsubscribe"],
        ),
        (
            format!("List-Unsubscribe: <mailto:a@b.example>\n{post}"),
            &["no_one_click_unsubscribe"],
        ),
        (
            format!("List-Unsubscribe: <mailto:a@b.example>,\n <HTTPS://b.example/x>\n{post}"),
            &[],
        ),
    ];
    for (header, expected) in table {
        let lines = ["From: a@b.example", "Subject: News", &header];
        let head: Vec<&str> = lines.into_iter().filter(|line| !line.is_empty()).collect();
        // A body says nothing of it.
        let text = format!(
            "{}\n\nList-Unsubscribe: <https://c.example>\n{post}\n",
            head.join("\n")
        );
        let mail = j!({"raw": STANDARD.encode(text)});
        assert_eq!(codes(mail.clone(), true), expected, "{header}");
        assert!(codes(mail, false).is_empty(), "{header}");
    }
    let content = r#"{"from":"a@b.example","to":[],"subject":"x","message_id":"<x@y>","raw":true}"#;
    assert!(matches!(
        preview(content, &[], None, true),
        Err(ComposeError::Files {
            needed: 1,
            given: 0
        })
    ));
}

#[test]
fn a_preview_shows_what_will_be_read() {
    let html = "<h1>Hi</h1><p>Pay <a href='https://x.example/pay'>here</a>";
    let prepared = simple(&Simple {
        subject: Some("S"),
        html_body: Some(html),
        ..to("a@example.org")
    })
    .unwrap();
    let shown = preview(&prepared.content, &prepared.files, None, false).unwrap();
    assert_eq!(shown.subject.as_deref(), Some("S"));
    assert_eq!(
        shown.text.as_deref(),
        Some("Hi\n\nPay here <https://x.example/pay>\n")
    );
    assert_eq!(shown.html.as_deref(), Some(html));
    let content = r#"{"from":"a@b.example","to":[],"message_id":"<x@y>","template":{"name":"x"}}"#;
    assert!(matches!(
        preview(content, &[], None, false),
        Err(ComposeError::NotRendered)
    ));
    let rendered = Rendered {
        subject: Some("R".to_owned()),
        ..Rendered::default()
    };
    assert_eq!(
        preview(content, &[], Some(rendered), false)
            .unwrap()
            .subject
            .as_deref(),
        Some("R")
    );
}
