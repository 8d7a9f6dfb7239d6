//! The JSON form: from its text to a [`Draft`], field by field, with errors that name the field.

use serde_json::value::RawValue;

use crate::{
    content::{Members, Text},
    error::{Invalid, quoted},
};

/// The fields of the form.
const KNOWN: &[&str] = &[
    "from",
    "sender",
    "to",
    "cc",
    "bcc",
    "reply_to",
    "return_path",
    "subject",
    "text",
    "html",
    "attachments",
    "headers",
    "in_reply_to",
    "references",
    "message_id",
    "list_unsubscribe",
    "template",
    "params",
    "locale",
    "render",
    "dsn",
    "metadata",
    "tags",
    "raw",
];

/// What stands beside the message.
const ARGUMENTS: &[&str] = &[
    "queue",
    "send_at",
    "expires_at",
    "priority",
    "idempotency_key",
    "ordering_key",
    "supersede_key",
];

/// What other mail libraries call our fields.
const ALIASES: &[(&str, &str)] = &[
    ("recipient", "to"),
    ("recipients", "to"),
    ("body", "text"),
    ("text_body", "text"),
    ("plain", "text"),
    ("html_body", "html"),
    ("replyto", "reply_to"),
    ("in-reply-to", "in_reply_to"),
    ("inreplyto", "in_reply_to"),
    ("messageid", "message_id"),
    ("message-id", "message_id"),
    ("returnpath", "return_path"),
    ("envelope_from", "return_path"),
    ("tag", "tags"),
    ("header", "headers"),
    ("files", "attachments"),
    ("unsubscribe", "list_unsubscribe"),
    ("template_name", "template"),
    ("parameters", "params"),
    ("variables", "params"),
    ("language", "locale"),
    ("lang", "locale"),
    ("mime", "raw"),
];

/// Which form of `mail.enqueue` the fields came by: it decides what the caller calls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Positional text arguments.
    Text,
    /// One JSON object.
    Json,
}

impl Form {
    /// The caller's name of a field.
    pub fn label(self, field: &'static str) -> &'static str {
        match (self, field) {
            (Self::Text, "to") => "recipient",
            (Self::Text, "from") => "sender",
            (Self::Text, "text") => "text_body",
            (Self::Text, "html") => "html_body",
            _ => field,
        }
    }
}

/// A message as given: nothing checked but the JSON types.
#[derive(Debug, Default)]
pub(crate) struct Draft<'a> {
    pub from: Option<Text<'a>>,
    pub sender: Option<Text<'a>>,
    pub to: Vec<Text<'a>>,
    pub cc: Vec<Text<'a>>,
    pub bcc: Vec<Text<'a>>,
    pub reply_to: Vec<Text<'a>>,
    pub return_path: Option<Text<'a>>,
    pub subject: Option<Text<'a>>,
    pub text: Option<Text<'a>>,
    pub html: Option<Text<'a>>,
    pub headers: Members<'a, Text<'a>>,
    pub in_reply_to: Vec<Text<'a>>,
    pub references: Vec<Text<'a>>,
    pub message_id: Option<Text<'a>>,
    pub dsn: Option<&'a RawValue>,
    pub metadata: Option<&'a RawValue>,
    pub tags: Vec<Text<'a>>,
    pub attachments: Option<&'a RawValue>,
    pub list_unsubscribe: Option<&'a RawValue>,
    pub template: Option<Text<'a>>,
    pub params: Option<&'a RawValue>,
    pub locale: Option<Text<'a>>,
    pub render: Option<Text<'a>>,
    pub raw: Option<Text<'a>>,
}

impl<'a> Draft<'a> {
    /// Adds the fields of a JSON object. In the text form `json` holds the `options`, which may not
    /// repeat what an argument gave. A field that is `null` counts as absent, and so does an empty locale.
    pub fn read(&mut self, json: &'a str, form: Form) -> Result<(), Invalid> {
        let whole = match form {
            Form::Text => "options",
            Form::Json => "message",
        };
        let members: Members<'a, &'a RawValue> = serde_json::from_str(json).map_err(|error| {
            if error.is_data() {
                Invalid::bad(whole, format!("\"{whole}\" must be a JSON object"))
            } else {
                Invalid::bad(whole, format!("\"{whole}\" is not valid JSON: {error}"))
            }
        })?;
        let mut seen = Vec::with_capacity(KNOWN.len());
        for (name, value) in members.0 {
            let null = value.get() == "null";
            let Some(field) = KNOWN.iter().find(|known| **known == &*name) else {
                return Err(unknown(&name));
            };
            if seen.contains(field) {
                let message = format!("field \"{field}\" is given twice");
                return Err(Invalid::bad(*field, message));
            }
            seen.push(*field);
            if !null {
                if form == Form::Text && self.has(field) {
                    return Err(given_twice(field, form));
                }
                self.set(field, value)?;
            }
        }
        Ok(())
    }

    /// Whether an argument of the text form gave this field.
    fn has(&self, field: &str) -> bool {
        match field {
            "from" => self.from.is_some(),
            "to" => !self.to.is_empty(),
            "subject" => self.subject.is_some(),
            "text" => self.text.is_some(),
            "html" => self.html.is_some(),
            "template" => self.template.is_some(),
            "params" => self.params.is_some(),
            "locale" => self.locale.is_some(),
            "render" => self.render.is_some(),
            _ => false,
        }
    }

    fn set(&mut self, field: &'static str, value: &'a RawValue) -> Result<(), Invalid> {
        match field {
            "from" => self.from = Some(string(field, value)?),
            "sender" => self.sender = Some(string(field, value)?),
            "to" => self.to = list(field, value)?,
            "cc" => self.cc = list(field, value)?,
            "bcc" => self.bcc = list(field, value)?,
            "reply_to" => self.reply_to = list(field, value)?,
            "return_path" => self.return_path = Some(string(field, value)?),
            "subject" => self.subject = Some(string(field, value)?),
            "text" => self.text = Some(string(field, value)?),
            "html" => self.html = Some(string(field, value)?),
            "headers" => self.headers = headers(value)?,
            "in_reply_to" => self.in_reply_to = list(field, value)?,
            "references" => self.references = list(field, value)?,
            "message_id" => self.message_id = Some(string(field, value)?),
            "dsn" => self.dsn = Some(object(field, value)?),
            "metadata" => self.metadata = Some(object(field, value)?),
            "tags" => self.tags = list(field, value)?,
            "attachments" => self.attachments = Some(value),
            "list_unsubscribe" => self.list_unsubscribe = Some(value),
            "template" => self.template = Some(string(field, value)?),
            "params" => self.params = Some(object(field, value)?),
            "locale" => self.locale = Some(string(field, value)?).filter(|l| !l.is_empty()),
            "render" => self.render = Some(string(field, value)?),
            "raw" => self.raw = Some(string(field, value)?),
            _ => return Err(unknown(field)),
        }
        Ok(())
    }
}

/// The refusal of a member that a field which is an object does not know.
pub(crate) fn unknown_member(
    field: &str,
    name: &str,
    members: &str,
    aliases: &[(&str, &str)],
) -> Invalid {
    let known = aliases
        .iter()
        .find(|(alias, _)| alias.eq_ignore_ascii_case(name));
    let hint = known.map_or_else(
        || format!("Known fields of \"{field}\" are {members}."),
        |(_, member)| format!("Did you mean \"{member}\"?"),
    );
    let message = format!("unknown field {} in \"{field}\"", quoted(name));
    let name = name.chars().take(60).filter(|c| !c.is_control());
    Invalid::bad(format!("{field}.{}", name.collect::<String>()), message).with_hint(hint)
}

fn given_twice(field: &'static str, form: Form) -> Invalid {
    let label = form.label(field);
    Invalid::bad(
        field,
        format!("field \"{field}\" in \"options\" is already given as argument \"{label}\""),
    )
}

fn unknown(name: &str) -> Invalid {
    let mut arguments = ARGUMENTS.iter();
    let argument = arguments.find(|argument| argument.eq_ignore_ascii_case(name));
    let hint = match (argument, nearest(name)) {
        (Some(argument), _) => {
            format!("\"{argument}\" is an argument of mail.enqueue, not a field of the message.")
        }
        (None, Some(near)) => format!("Did you mean \"{near}\"?"),
        (None, None) => format!("Known fields are {}.", KNOWN.join(", ")),
    };
    Invalid::bad(name, format!("unknown field {}", quoted(name))).with_hint(hint)
}

/// The field that was probably meant.
fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    if let Some((_, field)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return Some(field);
    }
    let (distance, field) = KNOWN
        .iter()
        .map(|known| (distance(&name, known), *known))
        .min()?;
    // One slip in a short name, two in a long one.
    (distance <= 1 + usize::from(field.len() > 5) && distance < field.len()).then_some(field)
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn kind_of(value: &RawValue) -> &'static str {
    match value.get().as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

pub(crate) fn wrong_type(field: &str, wanted: &str, value: &RawValue) -> Invalid {
    let found = kind_of(value);
    Invalid::bad(field, format!("\"{field}\" must be {wanted}, not {found}"))
}

pub(crate) fn string<'a>(field: &str, value: &'a RawValue) -> Result<Text<'a>, Invalid> {
    if kind_of(value) != "a string" {
        return Err(wrong_type(field, "a string", value));
    }
    // A string that is JSON but not Unicode: an escape for half a surrogate pair.
    serde_json::from_str(value.get()).map_err(|_| {
        Invalid::bad(
            field,
            format!("\"{field}\" contains an invalid escape sequence"),
        )
    })
}

/// The text of a JSON object, from an argument of its own.
pub(crate) fn object_argument<'a>(field: &str, json: &'a str) -> Result<&'a RawValue, Invalid> {
    let value = serde_json::from_str(json)
        .map_err(|error| Invalid::bad(field, format!("\"{field}\" is not valid JSON: {error}")))?;
    object(field, value)
}

pub(crate) fn boolean(field: &str, value: &RawValue) -> Result<bool, Invalid> {
    match value.get() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(wrong_type(field, "a boolean", value)),
    }
}

/// A string, or an array of strings.
pub(crate) fn list<'a>(field: &str, value: &'a RawValue) -> Result<Vec<Text<'a>>, Invalid> {
    match kind_of(value) {
        "a string" => Ok(vec![string(field, value)?]),
        "an array" => {
            let elements: Vec<&RawValue> = serde_json::from_str(value.get())
                .map_err(|_| wrong_type(field, "an array of strings", value))?;
            elements
                .into_iter()
                .map(|element| match kind_of(element) {
                    "a string" => string(field, element),
                    found => Err(Invalid::bad(
                        field,
                        format!("\"{field}\" must be an array of strings, but holds {found}"),
                    )),
                })
                .collect()
        }
        _ => Err(wrong_type(field, "a string or an array of strings", value)),
    }
}

pub(crate) fn object<'a>(field: &str, value: &'a RawValue) -> Result<&'a RawValue, Invalid> {
    if kind_of(value) == "an object" {
        Ok(value)
    } else {
        Err(wrong_type(field, "an object", value))
    }
}

fn headers(value: &RawValue) -> Result<Members<'_, Text<'_>>, Invalid> {
    object("headers", value)?;
    let members: Members<'_, &RawValue> = serde_json::from_str(value.get())
        .map_err(|_| wrong_type("headers", "an object with strings", value))?;
    members
        .0
        .into_iter()
        .filter(|(_, value)| value.get() != "null")
        .map(|(name, value)| {
            if kind_of(value) != "a string" {
                let message = format!("header {} must be a string", quoted(&name));
                return Err(Invalid::bad(format!("headers.{}", &*name), message));
            }
            let text = string("headers", value)?;
            Ok((name, text))
        })
        .collect::<Result<_, _>>()
        .map(Members)
}
