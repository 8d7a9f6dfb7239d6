//! From canonical content to an RFC 5322 message.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use lettre::message::header::{Date, Header, Headers};

use crate::{
    address::Mailbox,
    attachment::Disposition,
    body::Part,
    check,
    content::{Content, Text},
    dsn::Dsn,
    error::ComposeError,
    header, html_text,
    mime::{FilePart, Node, Output},
    raw,
    template::Rendered,
};

/// The last second of the year 9999, the largest date that the header can hold.
const LAST_SECOND: i64 = 253_402_300_799;

/// A message for a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composed {
    /// The message itself, in blocks of any size: RFC 5322 with MIME (RFC 2045), every line ended by CRLF, no `Bcc`.
    /// A message without files is one block.
    pub data: Vec<Bytes>,
    /// What is asked about its delivery, if anything.
    pub dsn: Option<Dsn>,
    /// The domain of `From`, in ASCII and lower case.
    pub from_domain: Option<String>,
}

impl Composed {
    /// The message's size in bytes.
    pub fn size(&self) -> usize {
        self.data.iter().map(Bytes::len).sum()
    }

    /// The message in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        self.data.concat()
    }
}

/// What stands beside the content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// What the template renders into, where [`crate::template_of`] finds one.
    pub rendered: Option<Rendered>,
    /// The files in their order, each in blocks of any size. A block is dropped once it is encoded: blocks of about
    /// 1 MB that nobody else holds keep the peak of memory near the size of the result.
    pub files: Vec<Vec<Bytes>>,
}

/// Composes the message. `date` in Unix seconds becomes the `Date` header. The same input gives the same bytes.
///
/// # Errors
/// [`ComposeError`] for content that no `prepare_*` function produced, and for extras that do not go with it.
pub fn compose(content: &str, date: i64, extras: Extras) -> Result<Composed, ComposeError> {
    let mut message: Content<'_> = serde_json::from_str(content)?;
    if message.dsn.as_ref().is_some_and(|dsn| !dsn.is_canonical()) {
        return Err(ComposeError::Field("dsn"));
    }
    let needed = if message.raw {
        1
    } else {
        message.attachments.len()
    };
    let given = extras.files.len();
    if needed != given {
        return Err(ComposeError::Files { needed, given });
    }
    let from = Mailbox::from_canonical(&message.from).ok_or(ComposeError::Field("From"))?;
    let from_domain = Some(from.domain().to_ascii_lowercase());
    let blocks = if message.raw {
        let file = extras.files.into_iter().next().unwrap_or_default();
        raw::compose(&message, date, file)?
    } else {
        take_rendered(&mut message, extras.rendered)?;
        let mut head = String::with_capacity(content.len() + content.len() / 16 + 512);
        write_head(&mut head, &message, date)?;
        head.push_str("MIME-Version: 1.0\r\n");
        let mut out = Output::default();
        out.open = head.into_bytes();
        structure(&message, extras.files)?.write(&message.message_id, &mut out);
        out.finish()
    };
    Ok(Composed {
        data: blocks,
        dsn: message.dsn,
        from_domain,
    })
}

/// Puts what the template rendered into the content's fields.
pub(crate) fn take_rendered(
    message: &mut Content<'_>,
    rendered: Option<Rendered>,
) -> Result<(), ComposeError> {
    if message.template.is_none() {
        return Ok(());
    }
    let rendered = rendered.ok_or(ComposeError::NotRendered)?;
    if let Some((field, _)) = rendered.problem() {
        return Err(ComposeError::Rendered(field));
    }
    let text = |given: Option<String>| Text(given.unwrap_or_default().into());
    if message.subject.is_empty() {
        message.subject = text(rendered.subject);
    }
    message.text = text(rendered.text);
    message.html = text(rendered.html);
    Ok(())
}

/// The text that goes beside the HTML: the one given, else one made from it.
pub(crate) fn plain_text<'a>(message: &'a Content<'_>) -> std::borrow::Cow<'a, str> {
    if message.text.is_empty() && !message.html.is_empty() {
        return html_text::from_html(&message.html).into();
    }
    (&*message.text).into()
}

/// The parts of the message: texts, around them what the HTML shows, around these the attachments, each level only
/// where it is needed.
fn structure(message: &Content<'_>, files: Vec<Vec<Bytes>>) -> Result<Node, ComposeError> {
    let (plain, html) = (plain_text(message), &*message.html);
    let mut texts = Vec::with_capacity(2);
    if !plain.is_empty() || html.is_empty() {
        texts.push(Node::Text(Part::new("plain", &plain)));
    }
    if !html.is_empty() {
        texts.push(Node::Text(Part::new("html", html)));
    }
    let texts = Node::of("alternative", texts);
    if files.is_empty() {
        return Ok(texts);
    }
    let (mut shown, mut beside) = (vec![texts], Vec::new());
    for (attachment, blocks) in message.attachments.iter().zip(files) {
        if !attachment.is_canonical() {
            return Err(ComposeError::Field("attachments"));
        }
        let file = Node::File(FilePart::new(attachment, blocks)?);
        let within =
            attachment.disposition == Disposition::Inline && !attachment.content_id.is_empty();
        if within && !html.is_empty() {
            shown.push(file);
        } else {
            beside.push(file);
        }
    }
    let mut all = vec![Node::of("related", shown)];
    all.append(&mut beside);
    Ok(Node::of("mixed", all))
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
        if check::has_control(value) || !check::is_header_value(name, value) {
            return Err(ComposeError::Field("headers"));
        }
        header::text(out, name, value).map_err(|_| ComposeError::Field("headers"))?;
    }
    if let Some(list) = &message.list_unsubscribe {
        if !list.is_canonical() {
            return Err(ComposeError::Field("list_unsubscribe"));
        }
        list.write(out);
    }
    let mut names = message.headers.0.iter().map(|(name, _)| name);
    if !names.any(|name| name.eq_ignore_ascii_case(check::AUTO_SUBMITTED)) {
        out.push_str("Auto-Submitted: auto-generated\r\n");
    }
    Ok(())
}

/// Writes the `Date` header.
pub(crate) fn write_date(out: &mut String, date: i64) {
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

/// Writes message identifiers separated by spaces.
pub(crate) fn ids(out: &mut String, name: &'static str, value: &str) -> Result<(), ComposeError> {
    if !value.split(' ').all(check::is_message_id) {
        return Err(ComposeError::Field(name));
    }
    header::words(out, name, value).map_err(|_| ComposeError::Field(name))
}
