//! The escaping of values in HTML: the five characters that mean something there. The engine's own escapes `/` too,
//! which nothing needs and which makes links unreadable in the source of a mail.

use std::fmt;

use minijinja::value::Value;
use minijinja::{AutoEscape, Error, Output, State, escape_formatter};

use crate::filters::{defined, printed};
use crate::meter::{pay, pay_text};

/// Writes text escaped for HTML content and quoted attribute values.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut done = 0;
        for (at, byte) in self.0.bytes().enumerate() {
            let entity = match byte {
                b'&' => "&amp;",
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'"' => "&quot;",
                b'\'' => "&#39;",
                _ => continue,
            };
            f.write_str(&self.0[done..at])?;
            f.write_str(entity)?;
            done = at + 1;
        }
        f.write_str(&self.0[done..])
    }
}

/// The text, escaped.
pub(crate) fn html(text: &str) -> String {
    Escaped(text).to_string()
}

/// Writes a value that a template prints, and pays for it. Null is nothing.
pub(crate) fn formatter(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    pay_text(value)?;
    match value.as_str() {
        // As SQL's concat() and format() write NULL.
        None if value.is_none() => Ok(()),
        Some(text) if !value.is_safe() && matches!(state.auto_escape(), AutoEscape::Html) => {
            write!(out, "{}", Escaped(text)).map_err(Error::from)
        }
        _ => escape_formatter(out, state, value),
    }
}

/// `{{ x|escape }}` and `{{ x|e }}`: escaped for HTML in every part, once.
pub(crate) fn filter(value: &Value) -> Result<Value, Error> {
    defined("escape", value)?;
    if value.is_safe() {
        return Ok(value.clone());
    }
    pay_text(value)?;
    let text = printed(value).to_string();
    pay(text.len().saturating_mul(6))?;
    Ok(Value::from_safe_string(html(&text)))
}
