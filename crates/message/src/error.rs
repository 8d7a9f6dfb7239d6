//! What can be wrong with a message, said in Postgres' style: one line, lower case, no full stop,
//! names in double quotes. A value is quoted only in part, and never with its control characters.

use std::fmt::Write as _;

/// What kind of refusal it is; the shell maps each to its SQLSTATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InvalidKind {
    /// A field has a value that it cannot have (22023).
    BadValue,
    /// It names something that does not exist (42704).
    Missing,
    /// The message is larger than the limit (54000).
    TooLarge,
    /// The caller may not do that (42501).
    Denied,
}

/// Why a message was refused. `Display` is [`Invalid::message`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// The kind of refusal.
    pub kind: InvalidKind,
    /// The field as the caller knows it: `recipient`, `to`, `headers.X-Foo`, …
    pub field: String,
    /// One line that names the field.
    pub message: String,
    /// A full sentence on what to do instead, where there is something to say.
    pub hint: Option<String>,
}

impl Invalid {
    pub(crate) fn bad(field: impl AsRef<str>, message: impl Into<String>) -> Self {
        // The caller's own names of fields and headers are among them.
        let named = field.as_ref().chars().filter(|c| !c.is_control());
        Self {
            kind: InvalidKind::BadValue,
            field: named.take(FIELD_LIMIT).collect(),
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn too_many(field: &str, count: usize, limit: usize) -> Self {
        let message = format!("{count} {field} exceed the limit of {limit}");
        Self {
            kind: InvalidKind::TooLarge,
            ..Self::bad(field, message)
        }
    }

    pub(crate) fn too_deep(field: &str, depth: usize, limit: usize) -> Self {
        let message = format!("{field} is nested {depth} deep, which exceeds the limit of {limit}");
        Self {
            kind: InvalidKind::TooLarge,
            ..Self::bad(field, message)
        }
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// There is no template of that name, or none in that locale.
    pub fn unknown_template(name: &str) -> Self {
        Self {
            kind: InvalidKind::Missing,
            ..Self::bad(
                "template",
                format!("template {} does not exist", quoted(name)),
            )
        }
    }

    /// The template needs parameters that `params` does not give.
    pub fn missing_parameters(template: &str, names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().take(10).map(|name| quoted(name)).collect();
        let message = format!(
            "template {} needs {} in \"params\"",
            quoted(template),
            names.join(", ")
        );
        Self::bad("params", message)
    }

    /// The template could not be rendered; `reason` is one line, lower case, without a full stop.
    pub fn rendering_failed(template: &str, reason: &str) -> Self {
        let reason: String = reason
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(500)
            .collect();
        let message = format!("template {} cannot be rendered: {reason}", quoted(template));
        Self::bad("template", message)
    }

    /// The role may not send as that address; `field` is where it stands: `from`, or From of a raw message.
    pub fn sender_not_granted(role: &str, field: &str, address: &str) -> Self {
        let message = format!(
            "role {} may not send as {} ({field})",
            quoted(role),
            quoted(address)
        );
        Self {
            kind: InvalidKind::Denied,
            ..Self::bad(field, message)
        }
        .with_hint(
            "mail.sender_grant says who may send as whom; the queue's default_sender needs no grant.",
        )
    }

    /// A field that names a sender which no grant is asked about.
    pub(crate) fn resent(field: &str, header: &str) -> Self {
        let message = format!("{header} cannot be given where senders are restricted ({field})");
        Self {
            kind: InvalidKind::Denied,
            ..Self::bad(field, message)
        }
        .with_hint(
            "mail.sender_grant says who may send as whom, in From, Sender and the return path.",
        )
    }

    /// There is no stored attachment of that id, or none that the caller may use.
    pub fn unknown_attachment(id: i64) -> Self {
        Self {
            kind: InvalidKind::Missing,
            ..Self::bad("attachment", format!("attachment {id} does not exist"))
        }
    }

    /// What `field` holds or becomes is larger than allowed; both figures in bytes.
    pub fn too_large(field: &str, size: usize, limit: usize) -> Self {
        Self {
            kind: InvalidKind::TooLarge,
            ..Self::bad(
                field,
                format!("{field} of {size} bytes exceeds the limit of {limit} bytes"),
            )
        }
    }

    pub(crate) fn control_character(field: &str) -> Self {
        Self::bad(field, format!("\"{field}\" contains a control character")).with_hint(
            "Line breaks and other control characters are allowed in message bodies only.",
        )
    }
}

/// Why content cannot be composed. Never the case for content that a `prepare_*` function produced, given with its files
/// and what its template renders into.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// It is not a JSON object of the canonical form.
    #[error("content is not canonical JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A field holds what must not reach a header.
    #[error("content field \"{0}\" is not canonical")]
    Field(&'static str),
    /// The content has a template, and no rendered text was given with it.
    #[error("the template of the content is not rendered")]
    NotRendered,
    /// The template rendered into what no message can hold: the field that is wrong.
    #[error("the rendered template has an invalid \"{0}\"")]
    Rendered(&'static str),
    /// Not as many files as the content names.
    #[error("content needs {needed} files, {given} are given")]
    Files {
        /// How many the content names.
        needed: usize,
        /// How many were given.
        given: usize,
    },
}

/// At most this many characters of a field's name are kept.
const FIELD_LIMIT: usize = 120;
/// At most this many characters of a value stand in an error.
const QUOTE_LIMIT: usize = 60;

/// `value` in double quotes, shortened, with control characters and quotes escaped.
pub(crate) fn quoted(value: &str) -> String {
    let mut out = String::with_capacity(value.len().min(QUOTE_LIMIT) + 4);
    out.push('"');
    for (i, c) in value.chars().enumerate() {
        if i == QUOTE_LIMIT {
            out.push('…');
            break;
        }
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Line and paragraph separators would break the line in a log viewer.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::{FIELD_LIMIT, Invalid, quoted};

    #[test]
    fn a_field_that_the_caller_named_is_shortened_and_has_no_control_character() {
        let field = format!("headers.X\r\n{}", "ä".repeat(1000));
        let invalid = Invalid::bad(&field, "x");
        assert!(invalid.field.starts_with("headers.Xää"));
        assert_eq!(invalid.field.chars().count(), FIELD_LIMIT);
    }

    #[test]
    fn values_are_shortened_and_escaped() {
        assert_eq!(quoted("a\r\nb\0"), "\"a\\r\\nb\\u{0}\"");
        let long = quoted(&"ä".repeat(100));
        assert_eq!(long.chars().count(), 63);
        assert!(long.ends_with("…\""));
    }
}
