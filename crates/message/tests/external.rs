//! Messages given as JSON for consumers that are not ours.

mod common;

use std::cell::RefCell;

use common::QUEUE;
use mail_message::{Context, File, Invalid, InvalidKind, Prepared, StoredFile, prepare_external};
use serde_json::{Value, json as j};

/// With the files 1 to 99, each of 300 bytes, of which `asked` tells.
fn with_files(json: &str, max_size: usize, asked: &RefCell<Vec<i64>>) -> Result<Prepared, Invalid> {
    let stored = |id| {
        asked.borrow_mut().push(id);
        match id {
            1..100 => Ok(StoredFile {
                size: 300,
                ..StoredFile::default()
            }),
            _ => Err(Invalid::unknown_attachment(id)),
        }
    };
    let context = Context {
        external: true,
        max_size,
        stored: &stored,
        ..QUEUE
    };
    prepare_external(json, &context)
}

fn files(json: &str) -> Vec<i64> {
    let prepared = with_files(json, 1_000_000, &RefCell::default()).expect(json);
    assert_eq!(prepared.content, json);
    let ids = prepared.files.iter().map(|file| match file {
        File::Stored(id) => *id,
        File::Bytes(_) => panic!("{json}"),
    });
    ids.collect()
}

#[test]
fn json_stays_as_it_is() {
    let deep = format!(
        r#"{{"subject": "s\"", "x": {}{}}}"#,
        "[".repeat(999),
        "]".repeat(999)
    );
    let table = [
        (deep.as_str(), Some("s\"")),
        (r#"{"subject": 7, "n": 1e400}"#, None),
        (r#"{"\ud800": 1, "\u0073ubject": "s"}"#, Some("s")),
        (r#"{"subject": "\ud800"}"#, None),
        ("[1]", None),
        ("null", None),
    ];
    for (json, subject) in table {
        let prepared = prepare_external(json, &QUEUE).unwrap();
        assert_eq!(prepared.content, json);
        assert_eq!(prepared.subject.as_deref(), subject);
        assert_eq!(prepared.size, json.len());
        assert!(prepared.files.is_empty());
    }
}

#[test]
fn the_stored_files_that_it_names_are_found() {
    for (json, expected) in [
        (
            r#"{"attachments": [{"attachment": "17"}, {"attachment": 4}]}"#,
            &[17, 4][..],
        ),
        (
            r#"{"attachments": [{"filename": "x", "attachment": "7", "mine": [{}]}, {"attachment": "7"}]}"#,
            &[7, 7],
        ),
        (
            r#"{"attachments": [{"content": "AAAA"}, {"attachment": "5"}, "x", 8, null, [{"attachment": "6"}]]}"#,
            &[5],
        ),
        (
            r#"{"\ud800": 1, "\u0061ttachments": [{"\ud800": 2, "attachm\u0065nt": "\u0031"}]}"#,
            &[1],
        ),
        (
            r#"{"attachments": [{"attachment": 1}], "attachments": [{"attachment": 2, "attachment": 3}]}"#,
            &[3],
        ),
    ] {
        assert_eq!(files(json), expected, "{json}");
    }
    let prepared = with_files(
        r#"{"attachments": [{"attachment": 1}]}"#,
        1000,
        &RefCell::default(),
    );
    assert_eq!(prepared.unwrap().size, 36 + 400);
}

#[test]
fn what_has_another_shape_is_left_alone() {
    for attachments in [
        j!(null),
        j!(17),
        j!("17"),
        j!({"attachment": "17"}),
        j!([17, "17", null, [], [{"attachment": "17"}]]),
        j!([{"attachment": null}, {"attachment": "x"}, {"attachment": ""}, {"attachment": {"attachment": 17}}]),
        j!([{"attachment": -1}, {"attachment": 0}, {"attachment": 1.5}, {"attachment": "99999999999999999999"}]),
        j!([{"file": {"attachment": 17}}]),
    ] {
        let json = j!({"attachments": attachments, "other": [{"attachment": 17}]}).to_string();
        let asked = RefCell::default();
        let prepared = with_files(&json, 1_000_000, &asked).expect(&json);
        assert!(prepared.files.is_empty(), "{json}");
        assert!(asked.borrow().is_empty(), "{json}");
    }
    assert!(files(r#"[{"attachments": [{"attachment": 17}]}]"#).is_empty());
}

#[test]
fn a_file_that_may_not_be_used_is_refused() {
    let json =
        r#"{"attachments": [{"attachment": "1"}, {}, {"attachment": 170}, {"attachment": "2"}]}"#;
    let asked = RefCell::default();
    let error = with_files(json, 1_000_000, &asked).unwrap_err();
    assert_eq!(error.kind, InvalidKind::Missing);
    assert_eq!(error.field, "attachments[2].attachment");
    assert_eq!(error.message, "attachment 170 does not exist");
    assert_eq!(*asked.borrow(), [1, 170]);
}

#[test]
fn its_size_is_bounded() {
    let json = j!({"attachments": vec![j!({"attachment": 1}); 3]}).to_string();
    let limits = [
        (json.len() + 900, true),
        (json.len() + 899, false),
        (json.len() - 1, false),
    ];
    for (max_size, fits) in limits {
        let prepared = with_files(&json, max_size, &RefCell::default());
        assert_eq!(prepared.is_ok(), fits);
        if let Err(error) = prepared {
            assert_eq!(error.kind, InvalidKind::TooLarge);
        }
    }
    let many = |count: usize| -> Value { j!({"attachments": vec![j!({"attachment": 1}); count]}) };
    let asked = RefCell::default();
    let error = with_files(&many(1001).to_string(), 1_000_000, &asked).unwrap_err();
    assert_eq!(error.kind, InvalidKind::TooLarge);
    assert_eq!(error.message, "1001 attachments exceed the limit of 1000");
    assert!(asked.borrow().is_empty());
    assert_eq!(files(&many(1000).to_string()).len(), 1000);
    let others = j!({"attachments": vec![j!({}); 5000]}).to_string();
    assert!(files(&others).is_empty());
}

#[test]
fn what_is_nested_too_deep_is_refused() {
    let deep = |depth: usize| {
        let (open, close) = ("{\"a\\\"[\": [".repeat(depth / 2), "]}".repeat(depth / 2));
        format!("{open}\"[[[\"{close}")
    };
    with_files(&deep(1000), 1_000_000, &RefCell::default()).unwrap();
    let refused = with_files(&deep(1002), 1_000_000, &RefCell::default()).unwrap_err();
    assert_eq!(refused.kind, InvalidKind::TooLarge);
    assert_eq!(
        refused.message,
        "message is nested 1002 deep, which exceeds the limit of 1000"
    );
}
