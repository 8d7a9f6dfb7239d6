//! Checks a message as it is enqueued and writes its canonical content.

use std::borrow::Cow;

use serde_json::json;

use crate::{
    address::{self, Mailbox},
    attachment::{self, File, StoredFile},
    check,
    content::{Content, Text},
    dsn,
    error::Invalid,
    fields::{self, Draft, Form},
    limit::{self, Budget},
    list_unsubscribe, own, raw,
    template::{self, TemplateResult, TemplateUse},
};

/// A message that can be stored and, later, composed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The reverse path (RFC 5321 §4.1.1.2) without angle brackets; empty for the null sender.
    pub envelope_from: String,
    /// The forward paths: the addresses of `to`, `cc` and `bcc` in order, each once, domains in ASCII.
    pub recipients: Vec<String>,
    /// The subject as given, as rendered from the template, or as the raw message has it, decoded.
    pub subject: Option<String>,
    /// The `Message-ID` with its angle brackets; empty if none is known.
    pub message_id: String,
    /// The caller's tags, each once.
    pub tags: Vec<String>,
    /// The caller's metadata: the text of a JSON object, as given, however large its numbers.
    pub metadata: Option<String>,
    /// Canonical JSON, for [`crate::compose`].
    pub content: String,
    /// The text of a JSON object, where it has a template: its `name`, the `locale` asked for or found, and the `version`
    /// if it is rendered already.
    pub template: Option<String>,
    /// The bytes of the attachments in their order, or of the one raw message; to be given back to
    /// [`crate::compose`].
    pub files: Vec<File>,
    /// About how many bytes will be sent.
    pub size: usize,
}

/// Whether the caller may send as an address, the second argument, which stands in the field that is the first.
pub type MaySendAs<'a> = dyn Fn(&str, &str) -> Result<(), Invalid> + 'a;

/// What the queue and the moment add to a message.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The queue's default sender: a mailbox, display name allowed.
    pub default_sender: Option<&'a str>,
    /// The queue's return path: an address, or `<>` or nothing at all for the null sender.
    pub return_path: Option<&'a str>,
    /// The message's id, part of the `Message-ID`.
    pub id: i64,
    /// Randomness for the `Message-ID`.
    pub nonce: u64,
    /// The largest message in bytes: all fields before any encoding, and the files decoded.
    pub max_size: usize,
    /// The message is for a consumer that is not ours, which may need no sender.
    pub external: bool,
    /// Renders a template; called for every message that has one, so that what it lacks is refused at once. Its
    /// refusals are made by [`Invalid::unknown_template`] and those beside it.
    pub render: &'a dyn Fn(&TemplateUse<'_>) -> Result<TemplateResult, Invalid>,
    /// Tells of an attachment that is stored already, by its id; refuses with [`Invalid::unknown_attachment`].
    pub stored: &'a dyn Fn(i64) -> Result<StoredFile, Invalid>,
    /// Where not everybody may send as anybody: whether the caller may send as an address, which stands in the field of
    /// that name; refuses with [`Invalid::sender_not_granted`]. Not asked about the queue's default sender and return path,
    /// and the null sender. A message for a consumer that is not ours, which says itself who its sender is, is not asked
    /// about either.
    pub may_send_as: Option<&'a MaySendAs<'a>>,
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
    /// The name of a template, instead of text and HTML.
    pub template: Option<&'a str>,
    /// The template's parameters: the text of a JSON object.
    pub params: Option<&'a str>,
    /// The language of the template (BCP 47); an empty one is none.
    pub locale: Option<&'a str>,
    /// When the template is rendered: `send` or `enqueue`.
    pub render: Option<&'a str>,
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
        template: simple.template.map(Text::from),
        locale: simple.locale.filter(|l| !l.is_empty()).map(Text::from),
        render: simple.render.map(Text::from),
        ..Draft::default()
    };
    if let Some(params) = simple.params {
        draft.params = Some(fields::object_argument("params", params)?);
    }
    if let Some(options) = simple.options {
        draft.read(options, Form::Text)?;
    }
    prepare(&draft, Form::Text, context)
}

/// Prepares a message given as one JSON object.
///
/// # Errors
/// [`Invalid`] names the first field that is wrong or unknown.
pub fn prepare_json(json: &str, context: &Context<'_>) -> Result<Prepared, Invalid> {
    let mut draft = Draft::default();
    draft.read(json, Form::Json)?;
    prepare(&draft, Form::Json, context)
}

fn prepare(draft: &Draft<'_>, form: Form, context: &Context<'_>) -> Result<Prepared, Invalid> {
    let mut budget = Budget::of(draft, context.max_size)?;
    if let Some(message) = &draft.raw {
        return raw::prepare(draft, message, form, context, &mut budget);
    }
    limit::check_header(draft)?;
    check_texts(draft, form)?;
    let mut template = template::resolve(draft, form, context, &mut budget)?;
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
        return Err(no_recipient(form));
    }
    let author = sender.as_ref().or(from.as_ref());
    let author = author.map(|mailbox| &*mailbox.address);
    let envelope_from = envelope_from(draft, author, context)?;
    check_senders(
        draft,
        &[
            (form.label("from"), from.as_ref()),
            ("sender", sender.as_ref()),
        ]
        .map(|(field, mailbox)| (field, mailbox.map(|mailbox| &*mailbox.address))),
        &envelope_from,
        context,
    )?;
    let message_id = match (&draft.message_id, &from) {
        (Some(text), _) => check::message_id("message_id", text)?,
        (None, Some(from)) => Cow::Owned(new_message_id(context, from.domain())),
        // Without a domain of ours there is none to make it unique in; whoever sends the mail makes one.
        (None, None) => Cow::Borrowed(""),
    };
    let (attachments, files) = match draft.attachments {
        Some(value) => attachment::read(value, &mut budget, context.stored)?,
        None => Default::default(),
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
        subject: match &draft.subject {
            Some(subject) => Text::from(&**subject),
            None => rendered(&mut template.rendered.subject),
        },
        message_id: Cow::Borrowed(&*message_id).into(),
        in_reply_to: message_ids("in_reply_to", &draft.in_reply_to)?,
        references: message_ids("references", &draft.references)?,
        headers: own::headers(draft)?,
        text: match &draft.text {
            Some(text) => Text::from(&**text),
            None => rendered(&mut template.rendered.text),
        },
        html: match &draft.html {
            Some(html) => Text::from(&**html),
            None => rendered(&mut template.rendered.html),
        },
        list_unsubscribe: draft
            .list_unsubscribe
            .map(list_unsubscribe::read)
            .transpose()?,
        attachments,
        template: template.template,
        rendered: template.from,
        raw: false,
    };
    let json = store(&record)?;
    let used = match (&record.template, &record.rendered) {
        (Some(template), _) => Some(json!({"name": template.name, "locale": template.locale})),
        (None, Some(from)) => {
            Some(json!({"name": from.template, "locale": from.locale, "version": from.version}))
        }
        (None, None) => None,
    };
    let subject = draft.subject.as_deref().map(str::to_owned);
    Ok(Prepared {
        recipients,
        subject: subject.or(template.subject),
        tags: own::tags(draft)?,
        metadata: own::metadata(draft)?,
        // Base64 makes four of three.
        size: json.len() + budget.files() / 3 * 4,
        content: json,
        message_id: message_id.into_owned(),
        envelope_from,
        template: used.map(|template| template.to_string()),
        files,
    })
}

/// The canonical content's text.
pub(crate) fn store(record: &Content<'_>) -> Result<String, Invalid> {
    serde_json::to_string(record)
        .map_err(|error| Invalid::bad("message", format!("message cannot be stored: {error}")))
}

pub(crate) fn no_recipient(form: Form) -> Invalid {
    Invalid::bad(form.label("to"), "message has no recipient")
        .with_hint("Give at least one address in \"to\", \"cc\" or \"bcc\".")
}

/// A rendered text, to be stored.
fn rendered(text: &mut Option<String>) -> Text<'static> {
    Text(text.take().unwrap_or_default().into())
}

fn check_texts(draft: &Draft<'_>, form: Form) -> Result<(), Invalid> {
    if let Some(subject) = &draft.subject {
        check::header_text("subject", subject)?;
        if subject.len() > check::MAX_SUBJECT {
            let message = format!("\"subject\" is longer than {} bytes", check::MAX_SUBJECT);
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

/// Whether the caller may send as those in the header, and as the envelope sender that it gave.
pub(crate) fn check_senders(
    draft: &Draft<'_>,
    header: &[(&str, Option<&str>)],
    envelope_from: &str,
    context: &Context<'_>,
) -> Result<(), Invalid> {
    let Some(may_send_as) = context.may_send_as.filter(|_| !context.external) else {
        return Ok(());
    };
    let headers = &draft.headers.0;
    let given = |name: &str| {
        headers
            .iter()
            .any(|(header, _)| header.eq_ignore_ascii_case(name))
    };
    check_resent("headers", given, context)?;
    let default = match context.default_sender {
        Some(text) => Some(single("default_sender", text)?.address),
        None => None,
    };
    let envelope = draft.return_path.is_some() && !envelope_from.is_empty();
    let envelope = envelope.then_some(("return_path", envelope_from));
    let header = header
        .iter()
        .filter_map(|(field, address)| Some((*field, (*address)?)));
    for (field, address) in header.chain(envelope) {
        let is_default = |default: &Cow<'_, str>| default.eq_ignore_ascii_case(address);
        if !default.as_ref().is_some_and(is_default) {
            may_send_as(field, address)?;
        }
    }
    Ok(())
}

/// Refuses fields that show another sender, where that matters (RFC 5322 section 3.6.6).
pub(crate) fn check_resent(
    field: &str,
    has: impl Fn(&str) -> bool,
    context: &Context<'_>,
) -> Result<(), Invalid> {
    if context.may_send_as.is_none() || context.external {
        return Ok(());
    }
    let mut resent = ["Resent-From", "Resent-Sender"].into_iter();
    match resent.find(|name| has(name)) {
        Some(name) => Err(Invalid::resent(field, name)),
        None => Ok(()),
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

pub(crate) fn mailboxes<'a>(
    field: &str,
    texts: &'a [Text<'_>],
) -> Result<Vec<Mailbox<'a>>, Invalid> {
    let mut out = Vec::with_capacity(texts.len());
    for text in texts {
        address::parse_list(field, text, &mut out)?;
    }
    Ok(out)
}

pub(crate) fn canonical(mailboxes: Vec<Mailbox<'_>>) -> Vec<Text<'_>> {
    mailboxes
        .into_iter()
        .map(|mailbox| mailbox.into_canonical().into())
        .collect()
}

/// The message's own return path, else the queue's, else the address of `Sender` or `From`, else the null sender.
pub(crate) fn envelope_from(
    draft: &Draft<'_>,
    author: Option<&str>,
    context: &Context<'_>,
) -> Result<String, Invalid> {
    let Some(text) = draft.return_path.as_deref().or(context.return_path) else {
        return Ok(author.unwrap_or_default().to_owned());
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
    // A queue's return path may be written as a mailbox, as its default sender is.
    let mailbox = address::parse_one("return_path", trimmed)?;
    Ok(mailbox.address.into_owned())
}

/// Unique by the id, unguessable by the nonce, and the same on every attempt (RFC 5322 §3.6.4).
pub(crate) fn new_message_id(context: &Context<'_>, domain: &str) -> String {
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
