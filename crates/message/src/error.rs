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
    /// The field is known, but not supported yet (0A000).
    Unsupported,
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
    pub(crate) fn bad(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: InvalidKind::BadValue,
            field: field.into(),
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn no_template(name: &str) -> Self {
        Self {
            kind: InvalidKind::Missing,
            field: "template".to_owned(),
            message: format!("template {} does not exist", quoted(name)),
            hint: None,
        }
    }

    pub(crate) fn control_character(field: &str) -> Self {
        Self::bad(field, format!("\"{field}\" contains a control character")).with_hint(
            "Line breaks and other control characters are allowed in message bodies only.",
        )
    }
}

/// Why content cannot be composed. Never the case for content that a `prepare_*` function produced.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// It is not a JSON object of the canonical form.
    #[error("content is not canonical JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A field holds what must not reach a header.
    #[error("content field \"{0}\" is not canonical")]
    Field(&'static str),
}

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
    use super::quoted;

    #[test]
    fn values_are_shortened_and_escaped() {
        assert_eq!(quoted("a\r\nb\0"), "\"a\\r\\nb\\u{0}\"");
        let long = quoted(&"ä".repeat(100));
        assert_eq!(long.chars().count(), 63);
        assert!(long.ends_with("…\""));
    }
}
