//! Checks a message as it is enqueued and writes its canonical content.

use std::borrow::Cow;

use crate::{
    address::{self, Mailbox},
    check,
    content::{Content, Members, Text},
    dsn,
    error::{Invalid, InvalidKind, quoted},
    fields::{self, Draft, Form},
};

/// The longest tag, in bytes.
const MAX_TAG: usize = 255;
/// RFC 5322 sets no limit; no reader shows more.
const MAX_SUBJECT: usize = 10_000;

/// A message that can be stored and, later, composed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The reverse path (RFC 5321 §4.1.1.2) without angle brackets; empty for the null sender.
    pub envelope_from: String,
    /// The forward paths: the addresses of `to`, `cc` and `bcc` in order, each once, domains in ASCII.
    pub recipients: Vec<String>,
    /// The subject as given.
    pub subject: Option<String>,
    /// The `Message-ID` with its angle brackets; empty if none is known.
    pub message_id: String,
    /// The caller's tags, each once.
    pub tags: Vec<String>,
    /// The caller's metadata: the text of a JSON object, as given, however large its numbers or deep its nesting.
    pub metadata: Option<String>,
    /// Canonical JSON, for [`crate::compose`].
    pub content: String,
}

/// What the queue and the moment add to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context<'a> {
    /// The queue's default sender: a mailbox, display name allowed.
    pub default_sender: Option<&'a str>,
    /// The queue's return path: an address, or `<>` or nothing at all for the null sender.
    pub return_path: Option<&'a str>,
    /// The message's id, part of the `Message-ID`.
    pub id: i64,
    /// Randomness for the `Message-ID`.
    pub nonce: u64,
    /// The largest message in bytes: all fields before any encoding.
    pub max_size: usize,
    /// The message is for a consumer that is not ours, which may need no sender.
    pub external: bool,
}

/// The text form of `mail.enqueue`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Simple<'a> {
    /// A comma-separated list of mailboxes.
    pub recipient: &'a str,
    /// The subject.
    pub subject: Option<&'a str>,
    /// The plain text.
    pub text_body: Option<&'a str>,
    /// The HTML.
    pub html_body: Option<&'a str>,
    /// The `From` mailbox.
    pub sender: Option<&'a str>,
    /// The text of a JSON object with further fields of the JSON form.
    pub options: Option<&'a str>,
}

/// Prepares a message given by arguments. This is the hot path: without `options` no JSON is read.
///
/// # Errors
/// [`Invalid`] names the first field that is wrong, by the arguments' names.
pub fn prepare_simple(simple: &Simple<'_>, context: &Context<'_>) -> Result<Prepared, Invalid> {
    let mut draft = Draft {
        from: simple.sender.map(Text::from),
        to: vec![simple.recipient.into()],
        subject: simple.subject.map(Text::from),
        text: simple.text_body.map(Text::from),
        html: simple.html_body.map(Text::from),
        ..Draft::default()
    };
    if let Some(options) = simple.options {
        draft.read(options, Form::Text)?;
    }
    prepare(&draft, Form::Text, context)
}

/// Prepares a message given as one JSON object.
///
/// # Errors
/// [`Invalid`] names the first field that is wrong, unknown or not supported yet.
pub fn prepare_json(json: &str, context: &Context<'_>) -> Result<Prepared, Invalid> {
    let mut draft = Draft::default();
    draft.read(json, Form::Json)?;
    prepare(&draft, Form::Json, context)
}

/// Takes a message given as JSON for an external queue: whatever it says, as it is.
pub fn prepare_external(json: &str) -> Prepared {
    Prepared {
        envelope_from: String::new(),
        recipients: Vec::new(),
        subject: fields::subject_of(json),
        message_id: String::new(),
        tags: Vec::new(),
        metadata: None,
        content: json.to_owned(),
    }
}

fn prepare(draft: &Draft<'_>, form: Form, context: &Context<'_>) -> Result<Prepared, Invalid> {
    check_size(draft, context.max_size)?;
    check_texts(draft, form)?;
    let from = from(draft, form, context)?;
    let sender = match &draft.sender {
        Some(text) => Some(single("sender", text)?),
        None => None,
    };
    let to = mailboxes(form.label("to"), &draft.to)?;
    let cc = mailboxes("cc", &draft.cc)?;
    let bcc = mailboxes("bcc", &draft.bcc)?;
    let reply_to = mailboxes("reply_to", &draft.reply_to)?;
    let recipients = address::deduplicated(to.iter().chain(&cc).chain(&bcc));
    if recipients.is_empty() {
        let label = form.label("to");
        return Err(Invalid::bad(label, "message has no recipient")
            .with_hint("Give at least one address in \"to\", \"cc\" or \"bcc\"."));
    }
    let envelope_from = envelope_from(draft, sender.as_ref().or(from.as_ref()), context)?;
    let message_id = match (&draft.message_id, &from) {
        (Some(text), _) => check::message_id("message_id", text)?,
        (None, Some(from)) => Cow::Owned(new_message_id(context, from.domain())),
        // Without a domain of ours there is none to make it unique in; whoever sends the mail makes one.
        (None, None) => Cow::Borrowed(""),
    };
    let record = Content {
        from: from.map_or_else(Text::default, |from| from.into_canonical().into()),
        sender: sender.map_or_else(Text::default, |sender| sender.into_canonical().into()),
        to: canonical(to),
        cc: canonical(cc),
        bcc: canonical(bcc),
        reply_to: canonical(reply_to),
        return_path: draft
            .return_path
            .as_ref()
            .map(|_| envelope_from.as_str().into()),
        dsn: draft.dsn.map(dsn::read).transpose()?.flatten(),
        subject: borrowed(draft.subject.as_ref()),
        message_id: Cow::Borrowed(&*message_id).into(),
        in_reply_to: message_ids("in_reply_to", &draft.in_reply_to)?,
        references: message_ids("references", &draft.references)?,
        headers: headers(draft)?,
        text: borrowed(draft.text.as_ref()),
        html: borrowed(draft.html.as_ref()),
    };
    let json = serde_json::to_string(&record)
        .map_err(|error| Invalid::bad("message", format!("message cannot be stored: {error}")))?;
    Ok(Prepared {
        recipients,
        subject: draft.subject.as_deref().map(str::to_owned),
        tags: tags(draft)?,
        metadata: draft.metadata.map(|raw| raw.get().to_owned()),
        content: json,
        message_id: message_id.into_owned(),
        envelope_from,
    })
}

fn borrowed<'a>(text: Option<&'a Text<'_>>) -> Text<'a> {
    text.map_or_else(Text::default, |text| Text::from(&**text))
}

fn check_size(draft: &Draft<'_>, max_size: usize) -> Result<(), Invalid> {
    let texts = [
        &draft.from,
        &draft.sender,
        &draft.return_path,
        &draft.subject,
        &draft.text,
        &draft.html,
        &draft.message_id,
    ];
    let lists = [
        &draft.to,
        &draft.cc,
        &draft.bcc,
        &draft.reply_to,
        &draft.in_reply_to,
        &draft.references,
        &draft.tags,
    ];
    let headers = draft.headers.0.iter();
    let size = texts.into_iter().flatten().map(|t| t.len()).sum::<usize>()
        + lists.into_iter().flatten().map(|t| t.len()).sum::<usize>()
        + headers.map(|(k, v)| k.len() + v.len()).sum::<usize>()
        + [draft.metadata, draft.dsn]
            .into_iter()
            .flatten()
            .map(|raw| raw.get().len())
            .sum::<usize>();
    if size <= max_size {
        return Ok(());
    }
    Err(Invalid {
        kind: InvalidKind::TooLarge,
        field: "message".to_owned(),
        message: format!("message of {size} bytes exceeds the limit of {max_size} bytes"),
        hint: None,
    })
}

fn check_texts(draft: &Draft<'_>, form: Form) -> Result<(), Invalid> {
    if let Some(subject) = &draft.subject {
        check::header_text("subject", subject)?;
        if subject.len() > MAX_SUBJECT {
            let message = format!("\"subject\" is longer than {MAX_SUBJECT} bytes");
            return Err(Invalid::bad("subject", message));
        }
    }
    if let Some(text) = &draft.text {
        check::body_text(form.label("text"), text)?;
    }
    if let Some(html) = &draft.html {
        check::body_text(form.label("html"), html)?;
    }
    Ok(())
}

/// The sender given or the queue's; `None` only where none is needed.
fn from<'a>(
    draft: &'a Draft<'_>,
    form: Form,
    context: &Context<'a>,
) -> Result<Option<Mailbox<'a>>, Invalid> {
    let label = form.label("from");
    if let Some(text) = &draft.from {
        return single(label, text).map(Some);
    }
    match context.default_sender {
        Some(text) => single("default_sender", text).map(Some),
        None if context.external => Ok(None),
        None => Err(
            Invalid::bad(label, format!("\"{label}\" is missing")).with_hint(format!(
                "Give \"{label}\", or set the queue's default_sender."
            )),
        ),
    }
}

/// Exactly one mailbox.
fn single<'a>(field: &str, text: &'a str) -> Result<Mailbox<'a>, Invalid> {
    let mut list = Vec::with_capacity(1);
    address::parse_list(field, text, &mut list)?;
    match list.pop() {
        Some(mailbox) if list.is_empty() => Ok(mailbox),
        _ => Err(Invalid::bad(
            field,
            format!("\"{field}\" must be a single address"),
        )),
    }
}

fn mailboxes<'a>(field: &str, texts: &'a [Text<'_>]) -> Result<Vec<Mailbox<'a>>, Invalid> {
    let mut out = Vec::with_capacity(texts.len());
    for text in texts {
        address::parse_list(field, text, &mut out)?;
    }
    Ok(out)
}

fn canonical(mailboxes: Vec<Mailbox<'_>>) -> Vec<Text<'_>> {
    mailboxes
        .into_iter()
        .map(|mailbox| mailbox.into_canonical().into())
        .collect()
}

/// The message's own return path, else the queue's, else the address of `Sender` or `From`, else the null sender.
fn envelope_from(
    draft: &Draft<'_>,
    author: Option<&Mailbox<'_>>,
    context: &Context<'_>,
) -> Result<String, Invalid> {
    let Some(text) = draft.return_path.as_deref().or(context.return_path) else {
        return Ok(author.map_or_else(String::new, |author| author.address.to_string()));
    };
    check::header_text("return_path", text)?;
    let trimmed = text.trim();
    let address = trimmed
        .strip_prefix('<')
        .and_then(|rest| rest.strip_suffix('>'))
        .unwrap_or(trimmed);
    if address.is_empty() {
        return Ok(String::new());
    }
    address::parse_address("return_path", address).map(Cow::into_owned)
}

/// Unique by the id, unguessable by the nonce, and the same on every attempt (RFC 5322 §3.6.4).
fn new_message_id(context: &Context<'_>, domain: &str) -> String {
    let mut digits = [0u8; 13];
    let mut start = digits.len();
    let mut rest = context.id.cast_unsigned();
    loop {
        start -= 1;
        digits[start] = b"0123456789abcdefghijklmnopqrstuvwxyz"[(rest % 36) as usize];
        rest /= 36;
        if rest == 0 {
            break;
        }
    }
    let id: String = digits[start..].iter().copied().map(char::from).collect();
    format!("<{id}.{:x}@{domain}>", context.nonce)
}

/// Message identifiers separated by white space or commas, as one canonical string.
fn message_ids<'a>(field: &str, texts: &[Text<'_>]) -> Result<Text<'a>, Invalid> {
    let mut out = String::new();
    for text in texts {
        check::header_text(field, text)?;
        for id in text.split([' ', '\t', ',']).filter(|id| !id.is_empty()) {
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(&check::message_id(field, id)?);
        }
    }
    Ok(Cow::<str>::Owned(out).into())
}

fn headers<'a>(draft: &'a Draft<'_>) -> Result<Members<'a, Text<'a>>, Invalid> {
    let mut seen = std::collections::HashSet::new();
    let mut out = Vec::with_capacity(draft.headers.0.len());
    for (name, value) in &draft.headers.0 {
        let field = || format!("headers.{}", name.chars().take(76).collect::<String>());
        let shown = quoted(name);
        if check::has_control(name) {
            let message = format!("header name {shown} contains a control character");
            return Err(Invalid::bad("headers", message));
        }
        if !check::is_header_name(name) {
            return Err(Invalid::bad(field(), format!("invalid header name {shown}")).with_hint(
                "A header name consists of at most 76 printable ASCII characters without spaces and colons.",
            ));
        }
        if let Some(hint) = check::reserved_header_hint(name) {
            let message = format!("header {shown} cannot be set");
            return Err(Invalid::bad(field(), message).with_hint(hint));
        }
        if !seen.insert(name.to_ascii_lowercase()) {
            return Err(Invalid::bad(
                field(),
                format!("header {shown} is given twice"),
            ));
        }
        if check::has_control(value) {
            let message = format!("header {shown} contains a control character");
            return Err(Invalid::bad(field(), message));
        }
        out.push((Text::from(&**name), Text::from(&**value)));
    }
    Ok(Members(out))
}

fn tags(draft: &Draft<'_>) -> Result<Vec<String>, Invalid> {
    let mut seen = std::collections::HashSet::new();
    let mut out: Vec<String> = Vec::with_capacity(draft.tags.len());
    for tag in &draft.tags {
        check::header_text("tags", tag)?;
        let problem = match tag.len() {
            0 => "is empty".to_owned(),
            length if length > MAX_TAG => format!("is longer than {MAX_TAG} bytes"),
            _ => {
                if seen.insert(&**tag) {
                    out.push((**tag).to_owned());
                }
                continue;
            }
        };
        let message = format!("tag {} {problem}", quoted(tag));
        return Err(Invalid::bad("tags", message));
    }
    Ok(out)
}
