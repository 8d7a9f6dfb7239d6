//! Whole messages as they go out, compared with the files in `golden/`. Boundaries come from the `Message-ID` and
//! the date is given, so nothing varies. With `UPDATE_GOLDEN=1` the files are written anew; read the difference.

mod common;

use std::{fs, path::Path};

use common::{assert_legal, bytes_of, json};
use serde_json::{Value, json as j};

fn check(name: &str, mail: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let bytes = bytes_of(&json(mail).unwrap());
    assert_legal(&bytes);
    let text = String::from_utf8(bytes).unwrap().replace("\r\n", "\n");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).expect("it can be written");
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "{name}");
}

#[test]
fn messages_look_as_they_did() {
    let logo = j!({"filename": "logo.png", "content": "iVBORw0KGgo=", "content_id": "logo"});
    let html = "<html><head><title>x</title></head><body><h1>Hallo</h1><p>Grüße aus <a href=\"https://example.com\">Köln</a></p>\
        <ul><li>eins</li><li>zwei</li></ul><img src=\"cid:logo\" alt=\"Logo\"></body></html>";
    check(
        "text.eml",
        &j!({"to": "Ann <a@example.org>", "subject": "Hi", "text": "Hello\n"}),
    );
    check(
        "html.eml",
        &j!({"to": "a@example.org", "subject": "Grüße 👋", "html": html}),
    );
    check(
        "related.eml",
        &j!({"to": "a@example.org", "subject": "Logo", "html": html, "text": "Hallo\n", "attachments": [logo]}),
    );
    check(
        "mixed.eml",
        &j!({
            "to": ["\"Doe, Ann\" <a@example.org>", "Jörg <j@example.org>"], "cc": "c@example.org", "bcc": "secret@example.org",
            "subject": "Ihre Rechnung für den Monat März und alles, was sonst noch zu sagen wäre", "html": html, "text": "Hallo\n",
            "attachments": [
                logo,
                {"filename": "Rechnung März.csv", "text": "Posten;Betrag\nMiete;500\n"},
                {"filename": "alt.eml", "text": "From: x@example.org\nSubject: alt\n\nHallo\n", "content_type": "message/rfc822"},
                {"filename": "empty.bin", "content": ""}
            ],
            "list_unsubscribe": {"url": "https://example.com/leave?id=7", "mailto": "leave@example.com"},
            "headers": {"X-Campaign": "march"}
        }),
    );
}
