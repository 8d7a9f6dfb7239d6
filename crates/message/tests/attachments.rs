//! Attachments: what is accepted, and how two independent parsers read what is composed.

mod common;

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use common::{DATE, QUEUE, assert_legal, bytes_of, composed, extras, json};
use mail_message::{
    ComposeError, Context, Extras, File, InvalidKind, StoredFile, compose, prepare_json,
};
use mail_parser::{MessageParser, MimeHeaders};
use proptest::prelude::*;
use serde_json::{Value, json as j};

fn with(attachments: &Value) -> Result<mail_message::Prepared, mail_message::Invalid> {
    json(&j!({"to": "a@example.org", "text": "t", "attachments": attachments}))
}

/// As Python's email package reads it.
fn python(message: &[u8]) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parse.py");
    let mut child = Command::new("python3")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut input = child.stdin.take().expect("its input");
    input.write_all(message).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(message)
    );
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

#[test]
fn python_reads_the_same() {
    let names = [
        "report.pdf",
        "Rechnung März 2024.pdf",
        "счёт-фактура.xlsx",
        "請求書.docx",
        "فاتورة.csv",
        "חשבון.txt",
        "🎉 party 🎂.png",
        "a\"b;c=d,e'f%41.txt",
        "100%*'.bin",
        "no-extension",
        "ein sehr langer Name mit Umlauten äöüß und noch viel mehr Wörtern dahinter.tar.gz",
        "a-long-ascii-name-that-does-not-fit-into-one-line-of-a-header-because-it-goes-on-and-on-and-on.tar.gz",
    ];
    let attachments: Vec<Value> = names
        .iter()
        .enumerate()
        .map(|(i, name)| j!({"filename": name, "content": STANDARD.encode(vec![i as u8; i * 31]), "content_type": "application/x-test"}))
        .collect();
    let html = "<p>Grüße<img src='cid:logo' alt='Logo'>";
    let mut all = attachments.clone();
    all.push(j!({"filename": "logo.png", "content": "iVBORw==", "content_id": "<logo>"}));
    let prepared = json(&j!({
        "to": "Jörg Größe <a@example.org>", "bcc": "secret@example.net", "subject": "Grüße 🎉 مرحبا שלום 你好 ".repeat(8), "text": "Zeile 1\n你好\n",
        "html": html, "attachments": all,
        "list_unsubscribe": {"url": "https://example.com/u?a=1,2&b=3", "mailto": "leave@example.com"}
    }))
    .unwrap();
    let bytes = bytes_of(&prepared);
    assert_legal(&bytes);
    let text = String::from_utf8_lossy(&bytes);
    assert!(!text.contains("secret") && !text.to_ascii_lowercase().contains("bcc:"));
    let read = python(&bytes);
    assert_eq!(read["defects"], j!([]), "{text}");
    let files = read["files"].as_array().unwrap();
    assert_eq!(files.len(), all.len());
    let logo = &files[0];
    assert_eq!(logo["content_id"], "<logo>");
    assert_eq!(logo["disposition"], "inline");
    for (found, given) in files[1..].iter().zip(&attachments) {
        for field in ["filename", "content", "content_type"] {
            assert_eq!(found[field], given[field], "{text}");
        }
        assert_eq!(found["disposition"], "attachment");
    }
    assert_eq!(read["texts"]["plain"], "Zeile 1\r\n你好\r\n");
    assert_eq!(read["texts"]["html"].as_str().unwrap().trim_end(), html);
    let types: Vec<&str> = read["structure"]
        .as_array()
        .unwrap()
        .iter()
        .take(6)
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(
        types,
        [
            "multipart/mixed",
            "multipart/related",
            "multipart/alternative",
            "text/plain",
            "text/html",
            "image/png"
        ]
    );
    let header = |name: &str| {
        let all = read["headers"].as_array().unwrap();
        all.iter()
            .find(|h| h[0] == name)
            .map(|h| h[1].as_str().unwrap().to_owned())
    };
    assert_eq!(
        header("Subject").unwrap(),
        "Grüße 🎉 مرحبا שלום 你好 ".repeat(8).trim()
    );
    assert_eq!(header("To").unwrap(), "Jörg Größe <a@example.org>");
    assert_eq!(header("Auto-Submitted").unwrap(), "auto-generated");
    assert_eq!(
        header("List-Unsubscribe-Post").unwrap(),
        "List-Unsubscribe=One-Click"
    );
    assert!(text.contains(
        "List-Unsubscribe: <https://example.com/u?a=1,2&b=3>,\r\n <mailto:leave@example.com>\r\n"
    ));
}

#[test]
fn only_the_levels_that_are_needed_are_there() {
    let logo = j!({"filename": "l.png", "content": "AAAA", "content_id": "l"});
    let pdf = j!({"filename": "x.pdf", "content": "AAAA"});
    let html = "<p>x";
    let table = [
        (j!({"text": "t"}), vec!["text/plain"]),
        (
            j!({"text": "t", "attachments": [pdf]}),
            vec!["multipart/mixed", "text/plain", "application/pdf"],
        ),
        (
            j!({"attachments": [pdf]}),
            vec!["multipart/mixed", "text/plain", "application/pdf"],
        ),
        (
            j!({"html": html}),
            vec!["multipart/alternative", "text/plain", "text/html"],
        ),
        (
            j!({"html": "<img src=cid:l>", "attachments": [logo]}),
            vec!["multipart/related", "text/html", "image/png"],
        ),
        (
            j!({"html": html, "attachments": [logo]}),
            vec![
                "multipart/related",
                "multipart/alternative",
                "text/plain",
                "text/html",
                "image/png",
            ],
        ),
        (
            j!({"text": "t", "attachments": [logo]}),
            vec!["multipart/mixed", "text/plain", "image/png"],
        ),
        (
            j!({"html": html, "text": "t", "attachments": [pdf, logo]}),
            vec![
                "multipart/mixed",
                "multipart/related",
                "multipart/alternative",
                "text/plain",
                "text/html",
                "image/png",
                "application/pdf",
            ],
        ),
    ];
    for (mut mail, expected) in table {
        mail["to"] = j!("a@example.org");
        let read = python(&bytes_of(&json(&mail).unwrap()));
        assert_eq!(read["structure"], j!(expected), "{mail}");
        assert_eq!(read["defects"], j!([]));
    }
}

#[test]
fn what_is_given_becomes_metadata_and_files() {
    let prepared = with(&j!([
        {"filename": "a.csv", "text": "ä;b"}, {"content": " YW\nI ", "content_type": "Image/PNG", "content_id": " <x@y> "},
        {"text": "x", "disposition": "inline", "filename": null}
    ]))
    .unwrap();
    let ab = b"ab".to_vec();
    assert_eq!(
        prepared.files,
        [
            File::Bytes("ä;b".into()),
            File::Bytes(ab),
            File::Bytes(b"x".to_vec())
        ]
    );
    let content: Value = serde_json::from_str(&prepared.content).unwrap();
    assert_eq!(
        content["attachments"],
        j!([
            {"filename": "a.csv", "content_type": "text/csv; charset=utf-8", "disposition": "attachment"},
            {"content_type": "image/png", "disposition": "inline", "content_id": "x@y"},
            {"content_type": "text/plain; charset=utf-8", "disposition": "inline"}
        ])
    );
    assert_eq!(prepared.size, prepared.content.len() + 7 / 3 * 4);
}

#[test]
fn a_stored_attachment_is_a_reference() {
    let stored = |id| {
        assert_eq!(id, 12);
        Ok(StoredFile {
            filename: Some("doc.pdf".to_owned()),
            content_type: Some("application/pdf".to_owned()),
            size: 3000,
            ..StoredFile::default()
        })
    };
    let context = Context {
        stored: &stored,
        ..QUEUE
    };
    for id in [j!("12"), j!(12)] {
        let mail = j!({"to": "a@example.org", "attachments": [{"attachment": id}, {"attachment": id, "filename": "x.txt", "content_id": "y"}]});
        let prepared = prepare_json(&mail.to_string(), &context).unwrap();
        assert_eq!(prepared.files, [File::Stored(12), File::Stored(12)]);
        assert_eq!(prepared.size, prepared.content.len() + 8000);
        let stored: Value = serde_json::from_str(&prepared.content).unwrap();
        assert_eq!(stored["attachments"][0]["filename"], "doc.pdf");
        assert_eq!(
            stored["attachments"][1],
            j!({"filename": "x.txt", "content_type": "application/pdf", "disposition": "inline", "content_id": "y"})
        );
        let small = Context {
            max_size: 3000,
            ..context
        };
        let error = prepare_json(&mail.to_string(), &small).unwrap_err();
        assert_eq!(error.kind, InvalidKind::TooLarge);
    }
    let error = with(&j!([{"text": "x"}, {"attachment": "7"}])).unwrap_err();
    assert_eq!(
        (error.kind, error.field.as_str()),
        (InvalidKind::Missing, "attachments[1].attachment")
    );
    assert_eq!(error.message, "attachment 7 does not exist");
}

#[test]
fn what_is_wrong_is_named() {
    let table = vec![
        (j!({}), "attachments"),
        (j!("x"), "attachments"),
        (j!(["x"]), "attachments[0]"),
        (j!([{}]), "attachments[0]"),
        (j!([{"filename": "x"}]), "attachments[0]"),
        (j!([{"text": "x", "content": "AAAA"}]), "attachments[0]"),
        (
            j!([{"text": "x"}, {"text": "x", "name": "y"}]),
            "attachments[1].name",
        ),
        (j!([{"text": 1}]), "attachments[0].text"),
        (j!([{"content": "A"}]), "attachments[0].content"),
        (j!([{"content": "ä"}]), "attachments[0].content"),
        (j!([{"content": "AA-_"}]), "attachments[0].content"),
        (
            j!([{"text": "x"}, {"text": "x"}, {"content": "!"}]),
            "attachments[2].content",
        ),
        (
            j!([{"text": "x", "filename": ""}]),
            "attachments[0].filename",
        ),
        (
            j!([{"text": "x", "filename": "a/b"}]),
            "attachments[0].filename",
        ),
        (
            j!([{"text": "x", "filename": "..\\b"}]),
            "attachments[0].filename",
        ),
        (
            j!([{"text": "x", "filename": ".."}]),
            "attachments[0].filename",
        ),
        (
            j!([{"text": "x", "filename": "a\tb"}]),
            "attachments[0].filename",
        ),
        (
            j!([{"text": "x", "filename": "ä".repeat(128)}]),
            "attachments[0].filename",
        ),
        (
            j!([{"text": "x", "content_type": "multipart/mixed"}]),
            "attachments[0].content_type",
        ),
        (
            j!([{"text": "x", "content_type": "png"}]),
            "attachments[0].content_type",
        ),
        (
            j!([{"text": "ä", "content_type": "message/rfc822"}]),
            "attachments[0].content_type",
        ),
        (
            j!([{"text": "x", "disposition": "hidden"}]),
            "attachments[0].disposition",
        ),
        (
            j!([{"text": "x", "content_id": ""}]),
            "attachments[0].content_id",
        ),
        (
            j!([{"text": "x", "content_id": "a b"}]),
            "attachments[0].content_id",
        ),
        (
            j!([{"text": "x", "content_id": "a".repeat(251)}]),
            "attachments[0].content_id",
        ),
        (
            j!([{"text": "x", "content_id": "a"}, {"text": "x", "content_id": "<a>"}]),
            "attachments[1].content_id",
        ),
        (j!([{"attachment": "x"}]), "attachments[0].attachment"),
        (j!([{"attachment": -1}]), "attachments[0].attachment"),
        (j!([{"attachment": 1.5}]), "attachments[0].attachment"),
        (
            j!([{"attachment": "99999999999999999999"}]),
            "attachments[0].attachment",
        ),
        (j!(vec![j!({"text": ""}); 1001]), "attachments"),
    ];
    for (given, field) in table {
        let error = with(&given).expect_err(&given.to_string());
        assert_eq!(error.field, field, "{given}: {error}");
        assert!(
            error.message.contains("attachment") || error.message.contains("content"),
            "{error}"
        );
        assert!(
            !error.message.contains(|c: char| c.is_control()),
            "{error:?}"
        );
    }
    assert!(with(&j!(vec![j!({"text": ""}); 1000])).is_ok());
}

#[test]
fn a_text_says_no_other_charset_than_its_own() {
    for charset in ["iso-8859-1", "windows-1252", "\"utf-16\"", "us-ascii"] {
        let media_type = format!("text/csv; charset={charset}");
        let error = with(&j!([{"text": "ä", "content_type": media_type}])).expect_err(charset);
        assert_eq!(
            (error.kind, error.field.as_str()),
            (InvalidKind::BadValue, "attachments[0].content_type")
        );
        assert_eq!(
            error.message,
            format!(
                "\"attachments[0].content_type\" cannot have the charset \"{}\" for a file given as \"text\"",
                charset.trim_matches('"')
            )
        );
        assert!(error.hint.unwrap().contains("UTF-8"), "{charset}");
        let bytes = j!([{"content": "5A==", "content_type": media_type}]);
        assert!(with(&bytes).is_ok(), "{charset}: bytes are in any charset");
    }
    for (text, charset) in [("ä", "utf-8"), ("ä", "\"UTF-8\""), ("a", "us-ascii")] {
        let media_type = format!("text/csv; charset={charset}");
        let prepared = with(&j!([{"text": text, "content_type": media_type}])).unwrap();
        let content: Value = serde_json::from_str(&prepared.content).unwrap();
        assert_eq!(content["attachments"][0]["content_type"], media_type);
    }
}

#[test]
fn control_characters_are_refused_in_every_member() {
    let evil = [
        "x\r\nBcc: v@example.org",
        "x\ny",
        "x\0y",
        "x\x7f",
        "x\u{85}y",
    ];
    for bad in evil {
        for field in [
            "filename",
            "content_type",
            "disposition",
            "content_id",
            "content",
        ] {
            let mut one = j!({"text": "x"});
            if field == "content" {
                one = j!({});
            }
            one[field] = j!(bad);
            let error = with(&j!([{"text": "x"}, one])).expect_err(bad);
            assert_eq!(error.field, format!("attachments[1].{field}"));
            assert!(
                !error.message.contains(|c: char| c.is_control()),
                "{error:?}"
            );
        }
    }
    let half = r#"{"to": "a@b.example", "attachments": [{"text": "x", "filename": "\ud800"}]}"#;
    assert_eq!(
        prepare_json(half, &QUEUE).unwrap_err().field,
        "attachments[0].filename"
    );
}

#[test]
fn deep_json_neither_overflows_nor_passes() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    for field in [
        "attachments",
        "raw",
        "template",
        "params",
        "locale",
        "render",
        "list_unsubscribe",
        "dsn",
        "headers",
    ] {
        for value in [
            deep.clone(),
            format!("[{deep}]"),
            format!("{{\"x\": {deep}}}"),
            format!("[{{\"text\": {deep}}}]"),
        ] {
            let mail = format!("{{\"to\": \"a@example.org\", \"{field}\": {value}}}");
            let error = prepare_json(&mail, &QUEUE).expect_err(field);
            assert!(error.field.starts_with(field), "{error}");
        }
    }
}

#[test]
fn files_count_decoded_and_before_they_are_decoded() {
    let context = Context {
        max_size: 100,
        ..QUEUE
    };
    let mail = |n: usize| {
        let base64 = STANDARD.encode(vec![0u8; n]);
        j!({"to": "a@example.org", "attachments": [{"content": base64}]}).to_string()
    };
    assert!(prepare_json(&mail(87), &context).is_ok());
    let error = prepare_json(&mail(88), &context).unwrap_err();
    assert_eq!(error.kind, InvalidKind::TooLarge);
    assert_eq!(
        error.message,
        "message of 101 bytes exceeds the limit of 100 bytes"
    );
    let nonsense = j!({"to": "a@example.org", "attachments": [{"content": "!".repeat(1000)}]});
    let error = prepare_json(&nonsense.to_string(), &context).unwrap_err();
    assert_eq!(error.kind, InvalidKind::TooLarge, "not even looked at");
}

#[test]
fn an_attached_message_goes_as_it_is_or_as_octets() {
    let inner = "From: a@b.example\nSubject: inner\n\nHello\n";
    let prepared =
        with(&j!([{"text": inner, "content_type": "message/rfc822", "filename": "m.eml"}]))
            .unwrap();
    let text = composed(&prepared);
    assert!(text.contains(
        "Content-Type: message/rfc822;\r\n name=\"m.eml\"\r\nContent-Transfer-Encoding: 7bit\r\n"
    ));
    assert!(text.contains("\r\n\r\nFrom: a@b.example\r\nSubject: inner\r\n\r\nHello\r\n"));
    let guessed = with(&j!([{"text": "Subject: ä\n\n", "filename": "m.eml"}])).unwrap();
    assert!(composed(&guessed).contains(
        "application/octet-stream;\r\n name=\"m.eml\"\r\nContent-Transfer-Encoding: base64\r\n"
    ));
    let mail = MessageParser::new()
        .parse(text.as_bytes())
        .unwrap()
        .into_owned();
    let boundary = text
        .split("boundary=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned();
    assert_eq!(mail.attachment_count(), 1);
    let sly = with(
        &j!([{"text": format!("A: b\n\n--{boundary}--\n"), "content_type": "message/rfc822"}]),
    )
    .unwrap();
    assert!(!composed(&sly).contains(&format!("boundary=\"{boundary}\"")));
}

#[test]
fn a_large_file_is_the_same_in_blocks_and_keeps_to_them() {
    let data: Vec<u8> = (0..25_000_000u32).map(|i| (i ^ (i >> 7)) as u8).collect();
    let content = r#"{"from":"a@b.example","to":["c@d.example"],"message_id":"<x@y>","attachments":[{"filename":"x","content_type":"a/b","disposition":"attachment"}]}"#;
    let whole = Bytes::from(data);
    let compose = |files| {
        compose(
            content,
            DATE,
            Extras {
                rendered: None,
                files,
            },
        )
        .unwrap()
    };
    let one = compose(vec![vec![whole.clone()]]);
    let blocks = (0..whole.len())
        .step_by(1_000_003)
        .map(|at| whole.slice(at..(at + 1_000_003).min(whole.len())));
    let many = compose(vec![blocks.collect()]);
    assert!(one.to_vec() == many.to_vec());
    assert_eq!(one.from_domain.as_deref(), Some("b.example"));
    assert!(many.data.len() > 20);
    let size = 25_000_000usize.div_ceil(57) * 78;
    assert!((size..size + 1200).contains(&one.size()), "{}", one.size());
}

#[test]
fn as_many_files_are_needed_as_the_content_names() {
    let prepared = with(&j!([{"text": "x"}])).unwrap();
    let error = compose(&prepared.content, DATE, Extras::default()).unwrap_err();
    assert!(matches!(
        error,
        ComposeError::Files {
            needed: 1,
            given: 0
        }
    ));
    let mut extras = extras(&prepared, None);
    extras.files.push(vec![]);
    assert!(compose(&prepared.content, DATE, extras).is_err());
}

#[test]
fn content_from_elsewhere_cannot_inject_into_a_part() {
    let ok = j!({"filename": "x", "content_type": "a/b", "disposition": "attachment", "content_id": "y"});
    for (field, value) in [
        ("filename", "x\r\ny"),
        ("filename", "x\"\n"),
        ("content_type", "a/b\r\nX: y"),
        ("content_type", "multipart/mixed"),
        ("content_id", "x>\r\nX: y"),
        ("content_id", "x y"),
    ] {
        let mut attachment = ok.clone();
        attachment[field] = j!(value);
        let content =
            j!({"from": "a@b", "to": ["a@b"], "message_id": "<a@b>", "attachments": [attachment]});
        let extras = Extras {
            rendered: None,
            files: vec![vec![]],
        };
        let error = compose(&content.to_string(), DATE, extras).expect_err(value);
        assert!(
            matches!(error, ComposeError::Field("attachments")),
            "{error}"
        );
    }
}

#[test]
fn a_file_name_that_looks_encoded_is_read_as_it_is() {
    for name in ["=?utf-8?q?a=0ab?=", "=?utf-8?b?Li4vYQ==?=.pdf", "a =? b"] {
        let mail = j!({"to": "a@example.org", "attachments": [{"filename": name, "text": "x"}]});
        let bytes = bytes_of(&json(&mail).unwrap());
        assert_legal(&bytes);
        let read = MessageParser::new().parse(&bytes).unwrap();
        let part = read.attachments().next().unwrap();
        assert_eq!(part.attachment_name(), Some(name));
    }
}

proptest! {
    #[test]
    fn files_come_out_as_they_went_in(
        names in proptest::collection::vec("[^\\p{C}/\\\\\\s][^\\p{C}/\\\\\\s]{0,30}( [^\\p{C}/\\\\\\s]{1,20})?", 1..4),
        data in proptest::collection::vec(any::<u8>(), 0..300),
        html in prop::bool::ANY,
        inline in prop::bool::ANY,
    ) {
        let attachments: Vec<Value> = names
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let mut one = j!({"filename": name, "content": STANDARD.encode(&data), "content_type": "application/x"});
                if inline {
                    one["content_id"] = j!(format!("id{i}"));
                }
                one
            })
            .collect();
        let mut mail = j!({"to": "a@example.org", "text": "t", "attachments": attachments});
        if html {
            mail["html"] = j!("<p>h");
        }
        prop_assume!(names.iter().all(|name| name.len() <= 255 && name != "." && name != ".."));
        let prepared = json(&mail).unwrap();
        let bytes = bytes_of(&prepared);
        assert_legal(&bytes);
        let read = MessageParser::new().parse(&bytes).unwrap();
        let found: Vec<_> = read.attachments().collect();
        prop_assert_eq!(found.len(), names.len());
        for (i, (part, name)) in found.iter().zip(&names).enumerate() {
            prop_assert_eq!(part.attachment_name(), Some(name.as_str()));
            prop_assert_eq!(part.contents(), &data[..]);
            let id = inline.then(|| format!("id{i}"));
            prop_assert_eq!(part.content_id(), id.as_deref());
        }
    }
}
