//! Messages that the caller wrote himself (RFC 5322), the field `raw`. Checked and given an envelope when they are
//! enqueued; sent byte for byte but for their line ends, what belongs to the envelope, and what they must have and lack.

use bytes::Bytes;
use mail_parser::{Address, HeaderName, MessageParser};

use crate::{
    address,
    attachment::{self, File},
    body::MAX_LINE,
    check,
    compose::{ids as write_ids, write_date},
    content::{Content, Text},
    dsn,
    error::{ComposeError, Invalid, quoted},
    fields::{Draft, Form},
    limit::Budget,
    own, prepare,
    prepare::{Context, Prepared},
    raw_address,
    raw_head::{self, Fault, Field, Head, MAX_HEAD},
    transfer::{self, Crlf},
};

const FIELD: &str = "raw";

/// The fields that addresses are taken from.
const ADDRESSES: &[&str] = &["From", "Sender", "To", "Cc", "Bcc"];

/// Checks the message and takes from its header what the fields beside it do not say.
pub(crate) fn prepare(
    draft: &Draft<'_>,
    message: &str,
    form: Form,
    context: &Context<'_>,
    budget: &mut Budget,
) -> Result<Prepared, Invalid> {
    refuse_others(draft, form)?;
    let data = attachment::decode(FIELD, message, budget)?;
    let head = check_data(&data)?;
    prepare::check_resent(
        FIELD,
        |name| head.fields.iter().any(|field| field.is(name)),
        context,
    )?;
    let known = Known::read(&head)?;
    let [to, cc, bcc] = [
        (form.label("to"), &draft.to),
        ("cc", &draft.cc),
        ("bcc", &draft.bcc),
    ]
    .map(|(label, texts)| prepare::mailboxes(label, texts));
    let (to, cc, bcc) = (to?, cc?, bcc?);
    let mut recipients = address::deduplicated(to.iter().chain(&cc).chain(&bcc));
    if recipients.is_empty() {
        recipients = known.recipients()?;
    }
    if recipients.is_empty() {
        return Err(prepare::no_recipient(form));
    }
    let author = known.sender.as_deref().unwrap_or(&known.from);
    let envelope_from = prepare::envelope_from(draft, Some(author), context)?;
    let header = [
        ("From of raw", Some(&*known.from)),
        ("Sender of raw", known.sender.as_deref()),
    ];
    prepare::check_senders(draft, &header, &envelope_from, context)?;
    let domain = known.from.rsplit_once('@').map_or("", |(_, domain)| domain);
    let message_id = match known.message_id {
        Some(id) => id,
        None => prepare::new_message_id(context, domain),
    };
    let record = Content {
        from: Text::from(&*known.from),
        to: prepare::canonical(to),
        cc: prepare::canonical(cc),
        bcc: prepare::canonical(bcc),
        return_path: draft
            .return_path
            .as_ref()
            .map(|_| Text::from(&*envelope_from)),
        dsn: draft.dsn.map(dsn::read).transpose()?.flatten(),
        subject: Text::from(known.subject.as_deref().unwrap_or_default()),
        message_id: Text::from(&*message_id),
        raw: true,
        ..Content::default()
    };
    let json = prepare::store(&record)?;
    Ok(Prepared {
        tags: own::tags(draft)?,
        metadata: own::metadata(draft)?,
        subject: known.subject,
        size: json.len() + data.len(),
        template: None,
        files: vec![File::Bytes(data)],
        envelope_from,
        recipients,
        message_id,
        content: json,
    })
}

/// Beside a raw message only the envelope can be given, and what stays in the house.
fn refuse_others(draft: &Draft<'_>, form: Form) -> Result<(), Invalid> {
    let given = [
        ("from", draft.from.is_some()),
        ("sender", draft.sender.is_some()),
        ("reply_to", !draft.reply_to.is_empty()),
        ("subject", draft.subject.is_some()),
        ("text", draft.text.is_some()),
        ("html", draft.html.is_some()),
        ("attachments", draft.attachments.is_some()),
        ("headers", !draft.headers.is_empty()),
        ("in_reply_to", !draft.in_reply_to.is_empty()),
        ("references", !draft.references.is_empty()),
        ("message_id", draft.message_id.is_some()),
        ("list_unsubscribe", draft.list_unsubscribe.is_some()),
        ("template", draft.template.is_some()),
        ("params", draft.params.is_some()),
        ("locale", draft.locale.is_some()),
        ("render", draft.render.is_some()),
    ];
    let Some((field, _)) = given.into_iter().find(|(_, given)| *given) else {
        return Ok(());
    };
    let label = form.label(field);
    let message = format!("\"{label}\" cannot be given beside \"{FIELD}\"");
    Err(Invalid::bad(label, message).with_hint(
        "A raw message says it all; beside it stand to, cc, bcc, return_path, dsn, metadata and tags.",
    ))
}

fn refuse(problem: &str) -> Invalid {
    Invalid::bad(FIELD, format!("\"{FIELD}\" {problem}"))
}

/// What every relay takes: no NUL, lines of legal length, and a header of fields in ASCII or UTF-8. A body of eight
/// bits is accepted.
fn check_data(data: &[u8]) -> Result<Head<'_>, Invalid> {
    if data.contains(&0) {
        return Err(refuse("contains a null character"));
    }
    let longest = transfer::longest_line(data);
    if longest > MAX_LINE {
        let problem = format!("has a line of {longest} bytes");
        return Err(
            refuse(&problem).with_hint("A line of a message has at most 998 bytes (RFC 5322).")
        );
    }
    let head = raw_head::read(data).map_err(|(line, fault)| wrong_line(line, fault))?;
    if head.body > MAX_HEAD {
        return Err(refuse(&format!(
            "has a header of more than {MAX_HEAD} bytes"
        )));
    }
    let lines = head.fields.iter().flat_map(|field| &field.lines);
    for line in lines {
        if line.trim_ascii().is_empty() {
            // Some readers would take it for the end of the header (RFC 5322 §3.2.2).
            return Err(refuse("has a line of white space in its header"));
        }
        match std::str::from_utf8(line) {
            Ok(text) if !check::has_control(text) => {}
            Ok(_) => return Err(refuse("has a control character in its header")),
            Err(_) => return Err(refuse("has a header that is not UTF-8")),
        }
    }
    Ok(head)
}

fn wrong_line(line: usize, fault: Fault) -> Invalid {
    let (problem, hint) = match fault {
        Fault::NoField => (
            format!("is no message: its line {line} is not a header field"),
            "A message begins with its header; an empty line ends it.",
        ),
        Fault::SpaceBeforeColon => (
            format!("has white space before the colon in line {line} of its header"),
            "Relays and verifiers of signatures disagree on such a field.",
        ),
        Fault::BareCr => (
            format!("has a CR without LF in line {line} of its header"),
            "Lines end with CR LF or with LF.",
        ),
    };
    refuse(&problem).with_hint(hint)
}

/// What a header says of the envelope.
struct Known {
    from: String,
    sender: Option<String>,
    subject: Option<String>,
    message_id: Option<String>,
    /// Of `To`, `Cc` and `Bcc`: as written, unchecked.
    others: Vec<String>,
}

impl Known {
    fn read(head: &Head<'_>) -> Result<Self, Invalid> {
        let count = |name| head.fields.iter().filter(|f| f.is(name)).count();
        match count("From") {
            1 => {}
            0 => return Err(refuse("has no From field")),
            _ => return Err(refuse("has more than one From field")),
        }
        if count("Sender") > 1 {
            return Err(refuse("has more than one Sender field"));
        }
        let mut text = Vec::new();
        for field in &head.fields {
            if ADDRESSES.iter().any(|name| field.is(name)) {
                raw_address::write_plain(field, &mut text);
            } else {
                write_field(field, &mut text);
            }
        }
        text.extend_from_slice(b"\r\n");
        let message = MessageParser::default()
            .parse_headers(&text)
            .ok_or_else(|| refuse("has a header that cannot be read"))?;
        // One reader would show the first of several, another one all: who sent it must not depend on that.
        let one = |field: Option<&Address<'_>>, name: &str| {
            let mut all = field.into_iter().flat_map(Address::iter);
            let first = all.next().and_then(|one| one.address());
            if all.next().is_some() {
                return Err(refuse(&format!("has more than one address in {name}")));
            }
            first
                .map(|address| raw_address::check(FIELD, address))
                .transpose()
        };
        let mut others = Vec::new();
        for header in message.headers() {
            if matches!(
                header.name,
                HeaderName::To | HeaderName::Cc | HeaderName::Bcc
            ) {
                let Some(all) = header.value.as_address() else {
                    continue;
                };
                for one in all.iter() {
                    others.push(match (one.address(), one.name()) {
                        (Some(address), _) => address.to_owned(),
                        (None, name) => raw_address::of_name(name.unwrap_or_default()),
                    });
                }
            }
        }
        Ok(Self {
            from: one(message.from(), "From")?
                .ok_or_else(|| refuse("has a From field without an address"))?,
            sender: one(message.sender(), "Sender")?,
            subject: message.subject().map(|subject| {
                let plain = |c: char| if c.is_control() { ' ' } else { c };
                subject
                    .chars()
                    .map(plain)
                    .take(check::MAX_SUBJECT)
                    .collect()
            }),
            message_id: message_id(head)?,
            others,
        })
    }

    fn recipients(&self) -> Result<Vec<String>, Invalid> {
        let mut all = Vec::with_capacity(self.others.len());
        for written in &self.others {
            let address = raw_address::check(FIELD, written)?.into();
            let name = None;
            all.push(address::Mailbox { name, address });
        }
        Ok(address::deduplicated(all.iter()))
    }
}

/// The identifier that the message has. Laxer than the grammar, as in the wild: printable ASCII in angle brackets.
fn message_id(head: &Head<'_>) -> Result<Option<String>, Invalid> {
    let mut all = head.fields.iter().filter(|field| field.is("Message-ID"));
    let Some(field) = all.next() else {
        return Ok(None);
    };
    if all.next().is_some() {
        return Err(refuse("has more than one Message-ID field"));
    }
    let value = field.value();
    let inner = value
        .strip_prefix('<')
        .and_then(|rest| rest.strip_suffix('>'));
    let legal = |id: &str| {
        !id.is_empty()
            && id
                .bytes()
                .all(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>'))
    };
    if inner.is_some_and(legal) {
        return Ok(Some(value));
    }
    Err(refuse(&format!(
        "has an invalid Message-ID: {}",
        quoted(&value)
    )))
}

/// Appends the field, each line ended by CRLF.
fn write_field(field: &Field<'_>, out: &mut Vec<u8>) {
    for line in &field.lines {
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }
}

/// The message as it is sent. Blocks without a bare CR or LF are passed on as they are, not copied.
pub(crate) fn compose(
    message: &Content<'_>,
    date: i64,
    blocks: Vec<Bytes>,
) -> Result<Vec<Bytes>, ComposeError> {
    let mut blocks = blocks.into_iter();
    let mut first = blocks.next().unwrap_or_default();
    while !raw_head::is_whole(&first) {
        let Some(block) = blocks.next() else { break };
        first = [first, block].concat().into();
    }
    let head = raw_head::read(&first).map_err(|_| ComposeError::Field(FIELD))?;
    let mut out = Vec::with_capacity(head.body + 256);
    for field in head.fields.iter().filter(|field| !field.is_envelope()) {
        write_field(field, &mut out);
    }
    let has = |name: &str| head.fields.iter().any(|field| field.is(name));
    let mut added = String::new();
    if !has("Date") {
        write_date(&mut added, date);
    }
    if !has("Message-ID") {
        write_ids(&mut added, "Message-ID", &message.message_id)?;
    }
    added.push_str("\r\n");
    out.extend_from_slice(added.as_bytes());
    let body = first.slice(head.body..);
    let mut crlf = Crlf::default();
    let mut sent = vec![Bytes::from(out)];
    for block in std::iter::once(body).chain(blocks) {
        let block = crlf.push(block);
        if !block.is_empty() {
            sent.push(block);
        }
    }
    if crlf.is_open() {
        sent.push(Bytes::from_static(b"\r\n"));
    }
    Ok(sent)
}
