//! From canonical content to an RFC 5322 message.

use std::time::{Duration, SystemTime};

use lettre::message::header::{Date, Header, Headers};

use crate::{
    body::{self, Part},
    check,
    content::{Content, Text},
    dsn::Dsn,
    error::ComposeError,
    header,
};

/// The last second of the year 9999, the largest date that the header can hold.
const LAST_SECOND: i64 = 253_402_300_799;

/// A message for a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composed {
    /// The message itself: RFC 5322 with MIME (RFC 2045), every line ended by CRLF, no `Bcc`.
    pub data: Vec<u8>,
    /// What is asked about its delivery, if anything.
    pub dsn: Option<Dsn>,
}

/// Composes the message. `date_unix_seconds` becomes the `Date` header. The same input gives the same bytes.
///
/// # Errors
/// [`ComposeError`] for content that no `prepare_*` function produced.
pub fn compose(content: &str, date_unix_seconds: i64) -> Result<Vec<u8>, ComposeError> {
    compose_with_dsn(content, date_unix_seconds).map(|composed| composed.data)
}

/// [`compose`], with what is asked about the delivery.
///
/// # Errors
/// As [`compose`].
pub fn compose_with_dsn(content: &str, date_unix_seconds: i64) -> Result<Composed, ComposeError> {
    let message: Content<'_> = serde_json::from_str(content)?;
    if message.dsn.as_ref().is_some_and(|dsn| !dsn.is_canonical()) {
        return Err(ComposeError::Field("dsn"));
    }
    let mut head = String::with_capacity(content.len() + content.len() / 16 + 512);
    write_head(&mut head, &message, date_unix_seconds)?;
    head.push_str("MIME-Version: 1.0\r\n");
    let mut out = head.into_bytes();
    let part = |subtype, text: &Text<'_>| Part::new(subtype, text);
    match (message.text.is_empty(), message.html.is_empty()) {
        (false, false) => {
            let parts = [part("plain", &message.text), part("html", &message.html)];
            body::alternative(&mut out, &message.message_id, &parts);
        }
        (true, false) => part("html", &message.html).write(&mut out),
        (_, true) => part("plain", &message.text).write(&mut out),
    }
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    Ok(Composed {
        data: out,
        dsn: message.dsn,
    })
}

fn write_head(out: &mut String, message: &Content<'_>, date: i64) -> Result<(), ComposeError> {
    write_date(out, date);
    header::mailboxes(out, "From", std::slice::from_ref(&message.from))?;
    if !message.sender.is_empty() {
        header::mailboxes(out, "Sender", std::slice::from_ref(&message.sender))?;
    }
    header::mailboxes(out, "Reply-To", &message.reply_to)?;
    header::mailboxes(out, "To", &message.to)?;
    header::mailboxes(out, "Cc", &message.cc)?;
    if message.to.is_empty() && message.cc.is_empty() {
        // An empty group (RFC 5322 §3.4): all recipients are blind ones.
        out.push_str("To: undisclosed-recipients:;\r\n");
    }
    if !message.subject.is_empty() {
        unstructured(out, "Subject", &message.subject)?;
    }
    ids(out, "Message-ID", &message.message_id)?;
    if !message.in_reply_to.is_empty() {
        ids(out, "In-Reply-To", &message.in_reply_to)?;
    }
    if !message.references.is_empty() {
        ids(out, "References", &message.references)?;
    }
    for (name, value) in &message.headers.0 {
        if !check::is_header_name(name) || check::reserved_header_hint(name).is_some() {
            return Err(ComposeError::Field("headers"));
        }
        if check::has_control(value) {
            return Err(ComposeError::Field("headers"));
        }
        header::text(out, name, value).map_err(|_| ComposeError::Field("headers"))?;
    }
    Ok(())
}

fn write_date(out: &mut String, date: i64) {
    let seconds = date.clamp(0, LAST_SECOND).cast_unsigned();
    let mut headers = Headers::with_capacity(1);
    headers.insert_raw(Date::new(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).display());
    out.push_str(&headers.to_string());
}

fn unstructured(out: &mut String, name: &'static str, value: &str) -> Result<(), ComposeError> {
    if check::has_control(value) {
        return Err(ComposeError::Field(name));
    }
    header::text(out, name, value).map_err(|_| ComposeError::Field(name))
}

fn ids(out: &mut String, name: &'static str, value: &str) -> Result<(), ComposeError> {
    if !value.split(' ').all(check::is_message_id) {
        return Err(ComposeError::Field(name));
    }
    header::text(out, name, value).map_err(|_| ComposeError::Field(name))
}
