//! What the tests of this crate share.
#![allow(dead_code, reason = "each test binary uses a part")]

use bytes::Bytes;
use mail_message::{
    ComposeError, Context, Extras, File, Invalid, Prepared, Rendered, Simple, compose,
    prepare_json, prepare_simple,
};

pub const DATE: i64 = 1_700_000_000;

pub const QUEUE: Context<'static> = Context {
    default_sender: Some("Shop <shop@example.com>"),
    return_path: None,
    id: 36 * 36,
    nonce: 0xabc,
    max_size: 1_000_000,
    external: false,
    render: &|template| Err(Invalid::unknown_template(&template.name)),
    stored: &|id| Err(Invalid::unknown_attachment(id)),
    may_send_as: None,
};

pub fn to(recipient: &str) -> Simple<'_> {
    Simple {
        recipient,
        ..Simple::default()
    }
}

pub fn simple(simple: &Simple<'_>) -> Result<Prepared, Invalid> {
    prepare_simple(simple, &QUEUE)
}

pub fn json(value: &serde_json::Value) -> Result<Prepared, Invalid> {
    prepare_json(&value.to_string(), &QUEUE)
}

/// What a caller gives back when the message is composed, each file in one block.
pub fn extras(prepared: &Prepared, rendered: Option<Rendered>) -> Extras {
    let files = prepared.files.iter().map(|file| match file {
        File::Bytes(bytes) => vec![Bytes::from(bytes.clone())],
        File::Stored(id) => panic!("attachment {id} is stored elsewhere"),
    });
    Extras {
        rendered,
        files: files.collect(),
    }
}

/// Composes content that has neither files nor a template.
pub fn plain(content: &str, date: i64) -> Result<Vec<u8>, ComposeError> {
    compose(content, date, Extras::default()).map(|composed| composed.to_vec())
}

/// The composed message.
pub fn bytes_of(prepared: &Prepared) -> Vec<u8> {
    compose(&prepared.content, DATE, extras(prepared, None))
        .expect("prepared content composes")
        .to_vec()
}

/// The composed message as text; every line must be legal.
pub fn composed(prepared: &Prepared) -> String {
    let bytes = bytes_of(prepared);
    assert_legal(&bytes);
    String::from_utf8(bytes).expect("composed mail is text")
}

/// RFC 5322 §2.1 and §2.3: CR and LF only together, lines of at most 998 bytes, an end of line at the end.
pub fn assert_legal(bytes: &[u8]) {
    assert!(bytes.ends_with(b"\r\n"), "ends with CRLF");
    let text = String::from_utf8_lossy(bytes);
    assert!(!text.contains('\0'));
    for line in text.split("\r\n") {
        assert!(!line.contains(['\r', '\n']), "bare CR or LF in {line:?}");
        assert!(line.len() <= 998, "line of {} bytes", line.len());
    }
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    for line in head.split("\r\n") {
        assert!(!line.trim().is_empty(), "blank folded line in {head:?}");
    }
}
