//! Attachments: the field `attachments` of the JSON form, and what of it stands in the canonical content. The bytes
//! are [`File`]s beside it, the n-th attachment's being the n-th.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    check,
    content::{Members, Text, is_empty},
    error::{Invalid, quoted},
    fields,
    limit::Budget,
    media_type, transfer,
};

/// More files than any reader shows.
pub(crate) const MAX_ATTACHMENTS: usize = 1000;
/// What file systems allow.
const MAX_FILENAME: usize = 255;
/// It must fit into one line with its header's name.
const MAX_CONTENT_ID: usize = 250;

const MEMBERS: &str =
    "filename, content_type, content, text, attachment, disposition and content_id";

/// What other mail libraries call our members.
const ALIASES: &[(&str, &str)] = &[
    ("name", "filename"),
    ("file_name", "filename"),
    ("type", "content_type"),
    ("contenttype", "content_type"),
    ("mime_type", "content_type"),
    ("data", "content"),
    ("base64", "content"),
    ("cid", "content_id"),
    ("contentid", "content_id"),
    ("contentdisposition", "disposition"),
    ("id", "attachment"),
];

/// The bytes of an attachment, or of a whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum File {
    /// The bytes themselves.
    Bytes(Vec<u8>),
    /// The id of an attachment that is stored already.
    Stored(i64),
}

/// What is known of a stored attachment; a message may say otherwise of all but the size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredFile {
    /// As the field of that name.
    pub filename: Option<String>,
    /// As the field of that name.
    pub content_type: Option<String>,
    /// `attachment` or `inline`.
    pub disposition: Option<String>,
    /// As the field of that name.
    pub content_id: Option<String>,
    /// In bytes.
    pub size: usize,
}

/// Where a reader shows a file (RFC 2183 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Disposition {
    /// Beside the text.
    Attachment,
    /// Within the text.
    Inline,
}

impl Disposition {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attachment => "attachment",
            Self::Inline => "inline",
        }
    }
}

/// What stands in the canonical content.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Attachment<'a> {
    #[serde(borrow, default, skip_serializing_if = "is_empty")]
    pub filename: Text<'a>,
    #[serde(borrow)]
    pub content_type: Text<'a>,
    pub disposition: Disposition,
    /// Without angle brackets.
    #[serde(borrow, default, skip_serializing_if = "is_empty")]
    pub content_id: Text<'a>,
}

impl Attachment<'_> {
    /// Whether it is as [`read`] leaves it.
    pub fn is_canonical(&self) -> bool {
        (self.filename.is_empty() || filename_problem(&self.filename).is_none())
            && media_type::is_canonical(&self.content_type)
            && (self.content_id.is_empty() || is_content_id(&self.content_id))
    }
}

/// A member as given, with the attachment's place for errors.
struct Given<'a> {
    place: String,
    filename: Option<Text<'a>>,
    content_type: Option<Text<'a>>,
    disposition: Option<Text<'a>>,
    content_id: Option<Text<'a>>,
    content: Option<Text<'a>>,
    text: Option<Text<'a>>,
    stored: Option<i64>,
}

/// What [`read`] yields: the descriptions and, in the same order, the bytes.
pub(crate) type Attachments = (Vec<Attachment<'static>>, Vec<File>);

/// Reads the field. `stored` tells of an attachment that is stored already.
pub(crate) fn read(
    value: &RawValue,
    budget: &mut Budget,
    stored: &dyn Fn(i64) -> Result<StoredFile, Invalid>,
) -> Result<Attachments, Invalid> {
    const FIELD: &str = "attachments";
    let elements: Vec<&RawValue> = serde_json::from_str(value.get())
        .map_err(|_| fields::wrong_type(FIELD, "an array of objects", value))?;
    if elements.len() > MAX_ATTACHMENTS {
        return Err(Invalid::too_many(FIELD, elements.len(), MAX_ATTACHMENTS));
    }
    let (mut all, mut files) = (Vec::with_capacity(elements.len()), Vec::new());
    let mut ids = std::collections::HashSet::new();
    for (i, element) in elements.into_iter().enumerate() {
        let given = Given::read(i, element)?;
        let (attachment, file) = given.check(budget, stored)?;
        if !attachment.content_id.is_empty() && !ids.insert(attachment.content_id.clone().0) {
            let field = format!("{FIELD}[{i}].content_id");
            let message = format!(
                "content identifier {} is given twice",
                quoted(&attachment.content_id)
            );
            return Err(Invalid::bad(field, message));
        }
        all.push(attachment);
        files.push(file);
    }
    Ok((all, files))
}

/// Checks what is to be said of a file that is stored before any message refers to it; the fields are named alone.
///
/// # Errors
/// As in `attachments`.
pub fn check_attachment(
    filename: Option<&str>,
    content_type: Option<&str>,
    disposition: Option<&str>,
    content_id: Option<&str>,
) -> Result<(), Invalid> {
    let given = Given {
        place: String::new(),
        filename: filename.map(Text::from),
        content_type: content_type.map(Text::from),
        disposition: disposition.map(Text::from),
        content_id: content_id.map(Text::from),
        content: None,
        text: None,
        stored: None,
    };
    let filename = given.filename(None)?;
    let content_id = given.content_id(None)?;
    given.disposition(None, content_id.is_empty())?;
    given
        .content_type(None, &filename, &File::Stored(0))
        .map(|_| ())
}

impl<'a> Given<'a> {
    fn read(index: usize, value: &'a RawValue) -> Result<Self, Invalid> {
        let place = format!("attachments[{index}]");
        let members: Members<'_, &RawValue> =
            serde_json::from_str(fields::object(&place, value)?.get())
                .map_err(|_| fields::wrong_type(&place, "an object", value))?;
        let mut given = Self {
            place,
            filename: None,
            content_type: None,
            disposition: None,
            content_id: None,
            content: None,
            text: None,
            stored: None,
        };
        let mut seen: Vec<String> = Vec::new();
        for (name, value) in members.0 {
            let field = given.field(&name);
            if seen.contains(&field) {
                let message = format!("field \"{field}\" is given twice");
                return Err(Invalid::bad(field, message));
            }
            let string = || fields::string(&field, value).map(Some);
            let null = value.get() == "null";
            match &*name {
                "filename" | "content_type" | "disposition" | "content_id" | "content" | "text"
                | "attachment"
                    if null => {}
                "filename" => given.filename = string()?,
                "content_type" => given.content_type = string()?,
                "disposition" => given.disposition = string()?,
                "content_id" => given.content_id = string()?,
                "content" => given.content = string()?,
                "text" => given.text = string()?,
                "attachment" => given.stored = Some(stored_id(&field, value)?),
                _ => {
                    return Err(fields::unknown_member(
                        &given.place,
                        &name,
                        MEMBERS,
                        ALIASES,
                    ));
                }
            }
            seen.push(field);
        }
        Ok(given)
    }

    fn field(&self, member: &str) -> String {
        let member: String = member.chars().take(60).collect();
        if self.place.is_empty() {
            return member;
        }
        format!("{}.{member}", self.place)
    }

    fn check(
        self,
        budget: &mut Budget,
        stored: &dyn Fn(i64) -> Result<StoredFile, Invalid>,
    ) -> Result<(Attachment<'static>, File), Invalid> {
        let mut known = StoredFile::default();
        let file = match (&self.content, &self.text, self.stored) {
            (Some(content), None, None) => {
                File::Bytes(decode(&self.field("content"), content, budget)?)
            }
            (None, Some(text), None) => {
                budget.add_file(text.len())?;
                File::Bytes(text.as_bytes().to_vec())
            }
            (None, None, Some(id)) => {
                known = stored(id).map_err(|invalid| Invalid {
                    field: self.field("attachment"),
                    ..invalid
                })?;
                budget.add_file(known.size)?;
                File::Stored(id)
            }
            (content, text, id) => {
                let none = content.is_none() && text.is_none() && id.is_none();
                let problem = if none {
                    "no content"
                } else {
                    "more than one content"
                };
                let message = format!("\"{}\" has {problem}", self.place);
                return Err(Invalid::bad(self.place, message).with_hint(
                    "Give one of \"content\" (base64), \"text\" and \"attachment\" (what mail.attach returned).",
                ));
            }
        };
        let filename = self.filename(known.filename)?;
        let content_id = self.content_id(known.content_id)?;
        let disposition = self.disposition(known.disposition, content_id.is_empty())?;
        let content_type = self.content_type(known.content_type, &filename, &file)?;
        let attachment = Attachment {
            filename: Text(filename.into()),
            content_type: Text(content_type.into()),
            disposition,
            content_id: Text(content_id.into()),
        };
        Ok((attachment, file))
    }

    fn filename(&self, stored: Option<String>) -> Result<String, Invalid> {
        let given = self.filename.as_deref().map(str::to_owned);
        let Some(filename) = given.or(stored) else {
            return Ok(String::new());
        };
        let Some(problem) = filename_problem(&filename) else {
            return Ok(filename);
        };
        let field = self.field("filename");
        let message = format!("\"{field}\" {problem}: {}", quoted(&filename));
        Err(Invalid::bad(field, message)
            .with_hint("A file name has no path and no control characters, and at most 255 bytes."))
    }

    fn content_id(&self, stored: Option<String>) -> Result<String, Invalid> {
        let given = self.content_id.as_deref().map(str::to_owned);
        let Some(text) = given.or(stored) else {
            return Ok(String::new());
        };
        let trimmed = text.trim_matches(' ');
        let inner = trimmed
            .strip_prefix('<')
            .and_then(|rest| rest.strip_suffix('>'))
            .unwrap_or(trimmed);
        if is_content_id(inner) {
            return Ok(inner.to_owned());
        }
        let field = self.field("content_id");
        let message = format!(
            "invalid content identifier in \"{field}\": {}",
            quoted(&text)
        );
        Err(Invalid::bad(field, message).with_hint(
            "It looks like logo or logo@example.com, in ASCII and without spaces; the HTML names it as cid:logo.",
        ))
    }

    fn disposition(&self, stored: Option<String>, no_id: bool) -> Result<Disposition, Invalid> {
        let given = self.disposition.as_deref().map(str::to_owned);
        match given.or(stored).as_deref().map(str::to_ascii_lowercase) {
            None if no_id => Ok(Disposition::Attachment),
            None => Ok(Disposition::Inline),
            Some(text) if text == "attachment" => Ok(Disposition::Attachment),
            Some(text) if text == "inline" => Ok(Disposition::Inline),
            Some(text) => {
                let field = self.field("disposition");
                let message = format!("\"{field}\" cannot be {}", quoted(&text));
                Err(Invalid::bad(field, message).with_hint("It is \"attachment\" or \"inline\"."))
            }
        }
    }

    fn content_type(
        &self,
        stored: Option<String>,
        filename: &str,
        file: &File,
    ) -> Result<String, Invalid> {
        let field = self.field("content_type");
        let given = self.content_type.as_deref().map(str::to_owned).or(stored);
        let Some(given) = given else {
            let guess = media_type::guess(filename);
            return Ok(match &self.text {
                Some(_) if guess == media_type::UNKNOWN => "text/plain; charset=utf-8".to_owned(),
                Some(_) => media_type::with_utf8(guess.to_owned()),
                None => guess.to_owned(),
            });
        };
        let parsed = media_type::parse(&field, &given)?;
        // RFC 2046 §5.2.1: messages go without base64. A stored one is looked at when it is sent.
        if parsed.starts_with("message/")
            && let File::Bytes(bytes) = file
            && !transfer::is_seven_bit(bytes)
        {
            let message = format!(
                "\"{field}\" is {}, but the file is not plain ASCII",
                quoted(&parsed)
            );
            return Err(Invalid::bad(field, message).with_hint(
                "A message can be attached as such only in ASCII with lines of at most 998 bytes; otherwise give application/octet-stream.",
            ));
        }
        if let Some(text) = &self.text
            && let Some(charset) = media_type::wrong_charset(&parsed, text)
        {
            let message = format!(
                "\"{field}\" cannot have the charset {} for a file given as \"text\"",
                quoted(charset)
            );
            return Err(Invalid::bad(field, message).with_hint(
                "The text goes out in UTF-8; for another charset, give the file in \"content\".",
            ));
        }
        Ok(match &self.text {
            Some(_) => media_type::with_utf8(parsed),
            None => parsed,
        })
    }
}

/// Decodes base64 once its size is known to be allowed.
pub(crate) fn decode(field: &str, text: &str, budget: &mut Budget) -> Result<Vec<u8>, Invalid> {
    budget.add_file(transfer::decoded_len(text))?;
    transfer::decode(text).ok_or_else(|| {
        let hint = if text.contains(['-', '_']) {
            "Use the standard alphabet, with \"+\" and \"/\"."
        } else {
            "In SQL, encode(data, 'base64') makes it."
        };
        Invalid::bad(field, format!("\"{field}\" is not valid base64")).with_hint(hint)
    })
}

fn stored_id(field: &str, value: &RawValue) -> Result<i64, Invalid> {
    reference(value).ok_or_else(|| {
        Invalid::bad(field, format!("\"{field}\" is not an attachment's id"))
            .with_hint("It is the number that mail.attach returned.")
    })
}

/// The id of a stored attachment, as a number or a string of digits.
pub(crate) fn reference(value: &RawValue) -> Option<i64> {
    let text = value.get();
    let digits = if text.starts_with('"') {
        fields::string("attachment", value).ok()?.0
    } else {
        text.into()
    };
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|id: &i64| plain && *id > 0)
}

fn filename_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is empty")
    } else if name.len() > MAX_FILENAME {
        Some("is too long")
    } else if check::has_control(name) || name.contains('\t') {
        Some("contains a control character")
    } else if name.contains(['/', '\\']) || matches!(name, "." | "..") {
        Some("holds a path")
    } else if name.trim() != name {
        Some("begins or ends with a space")
    } else {
        None
    }
}

fn is_content_id(text: &str) -> bool {
    (1..=MAX_CONTENT_ID).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>' | b'"' | b'\\'))
}
