//! Checks of single values: control characters, message identifiers, header names.

use std::borrow::Cow;

use crate::error::{Invalid, quoted};

/// The longest message identifier: it must fit into one line with its header's name.
const MAX_MESSAGE_ID: usize = 250;
/// In bytes. RFC 5322 sets no limit; no reader shows more.
pub(crate) const MAX_SUBJECT: usize = 10_000;
/// The longest name of a header of one's own.
const MAX_HEADER_NAME: usize = 76;

/// Whether there is a control character other than a tab: C0, DEL or C1.
pub(crate) fn has_control(text: &str) -> bool {
    if text.is_ascii() {
        text.bytes().any(|b| (b < b' ' && b != b'\t') || b == 0x7f)
    } else {
        text.chars().any(|c| c.is_control() && c != '\t')
    }
}

/// Refuses control characters in a value bound for a header.
pub(crate) fn header_text(field: &str, text: &str) -> Result<(), Invalid> {
    if has_control(text) {
        return Err(Invalid::control_character(field));
    }
    Ok(())
}

/// Refuses NUL in a body.
pub(crate) fn body_text(field: &str, text: &str) -> Result<(), Invalid> {
    if text.as_bytes().contains(&0) {
        return Err(Invalid::bad(
            field,
            format!("\"{field}\" contains a null character"),
        ));
    }
    Ok(())
}

/// A `msg-id` (RFC 5322 §3.6.4); angle brackets are added where they lack.
pub(crate) fn message_id<'a>(field: &str, text: &'a str) -> Result<Cow<'a, str>, Invalid> {
    header_text(field, text)?;
    let text = text.trim();
    let inner = text
        .strip_prefix('<')
        .and_then(|rest| rest.strip_suffix('>'))
        .unwrap_or(text);
    if !is_id(inner) {
        return Err(Invalid::bad(
            field,
            format!(
                "invalid message identifier in \"{field}\": {}",
                quoted(text)
            ),
        )
        .with_hint(
            "A message identifier has the form <left@right>, in ASCII and without spaces.",
        ));
    }
    Ok(if inner.len() == text.len() {
        Cow::Owned(format!("<{inner}>"))
    } else {
        Cow::Borrowed(text)
    })
}

/// Whether `text` is `<left@right>`, as [`message_id`] leaves it.
pub(crate) fn is_message_id(text: &str) -> bool {
    text.strip_prefix('<')
        .and_then(|rest| rest.strip_suffix('>'))
        .is_some_and(is_id)
}

/// Laxer than the grammar on the characters, as identifiers in the wild are: printable ASCII.
fn is_id(inner: &str) -> bool {
    inner.len() <= MAX_MESSAGE_ID
        && inner
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>'))
        && inner
            .split_once('@')
            .is_some_and(|(left, right)| !left.is_empty() && !right.is_empty())
}

/// Whether `name` consists of `ftext` (RFC 5322 §3.6.8).
pub(crate) fn is_header_name(name: &str) -> bool {
    (1..=MAX_HEADER_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_graphic() && b != b':')
}

/// Whether a header may have this value, if what it may say is known.
pub(crate) fn is_header_value(name: &str, value: &str) -> bool {
    !name.eq_ignore_ascii_case(AUTO_SUBMITTED)
        || ["no", "auto-generated", "auto-replied"]
            .iter()
            .any(|known| value.trim().eq_ignore_ascii_case(known))
}

/// RFC 3834 §5: written on every message that is composed, unless the caller says otherwise.
pub(crate) const AUTO_SUBMITTED: &str = "Auto-Submitted";

/// Headers with a field of their own in the JSON form.
const BY_FIELD: &[(&str, &str)] = &[
    ("From", "from"),
    ("Sender", "sender"),
    ("To", "to"),
    ("Cc", "cc"),
    ("Bcc", "bcc"),
    ("Reply-To", "reply_to"),
    ("Subject", "subject"),
    ("Message-ID", "message_id"),
    ("In-Reply-To", "in_reply_to"),
    ("References", "references"),
    ("Return-Path", "return_path"),
    ("List-Unsubscribe", "list_unsubscribe"),
    ("List-Unsubscribe-Post", "list_unsubscribe"),
];

/// Headers that are written by this crate or on the way.
const BY_SYSTEM: &[&str] = &[
    "Date",
    "Received",
    "Received-SPF",
    "MIME-Version",
    "DKIM-Signature",
    "DomainKey-Signature",
    "Authentication-Results",
    "Delivered-To",
    "X-Original-To",
    "Envelope-To",
    "Resent-Bcc",
];

/// The same, by the beginning of their names.
const BY_SYSTEM_PREFIX: &[&str] = &["Content-", "ARC-"];

/// The hint for a header that may not be set by hand, `None` if it may.
pub(crate) fn reserved_header_hint(name: &str) -> Option<String> {
    if let Some((_, field)) = BY_FIELD.iter().find(|(h, _)| h.eq_ignore_ascii_case(name)) {
        return Some(format!("Use the field \"{field}\" instead."));
    }
    let prefixed = |prefix: &&str| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    let system = BY_SYSTEM.iter().any(|h| h.eq_ignore_ascii_case(name))
        || BY_SYSTEM_PREFIX.iter().any(prefixed);
    system.then(|| "This header is written when the message is composed or on its way.".to_owned())
}
