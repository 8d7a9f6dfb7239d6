//! Where a template is wrong: the part, the line, the column and the reason.

use std::fmt;

use minijinja::Error;

use crate::guard::SOURCE;

/// A part of a template, as its author writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The Subject header's text.
    Subject,
    /// The text/plain body.
    Text,
    /// The text/html body.
    Html,
    /// The source of the text/html body in MJML.
    Mjml,
}

impl Part {
    /// The name of the part, as the column and the error messages have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Text => "text",
            Self::Html => "html",
            Self::Mjml => "mjml",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is wrong in the source of one part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part}, line {line}, column {column}: {message}")]
pub struct Fault {
    /// The part that was checked or compiled.
    pub part: Part,
    /// The line, from 1; 0 when it is not known.
    pub line: u32,
    /// The column in characters, from 1; 0 when it is not known.
    pub column: u32,
    /// One line, lower case, no full stop.
    pub message: String,
}

impl Fault {
    /// A fault at the byte `offset` of `source`.
    pub(crate) fn at(part: Part, source: &str, offset: usize, message: impl Into<String>) -> Self {
        let (line, column) = position(source, offset);
        Self {
            part,
            line,
            column,
            message: message.into(),
        }
    }

    /// The fault that the engine found in `source`, the text that its byte ranges count in.
    pub(crate) fn from_engine(part: Part, source: &str, error: &Error) -> Self {
        match error.range() {
            Some(range) => Self::at(part, source, range.start, describe(error)),
            None => Self {
                part,
                line: error.line().map_or(0, |line| line as u32),
                column: u32::from(error.line().is_some()),
                message: describe(error),
            },
        }
    }
}

/// What a compiler made of `source`, unless it is longer than a template may be.
pub(crate) fn fitting(part: Part, source: &str, compiled: String) -> Result<String, Fault> {
    if compiled.len() <= SOURCE {
        return Ok(compiled);
    }
    let message = "the template becomes HTML of more than 1 MB";
    Err(Fault::at(part, source, 0, message))
}

/// Line and column, both from 1 and the column in characters, of the byte `offset` of `source`.
pub(crate) fn position(source: &str, offset: usize) -> (u32, u32) {
    let before = &source[..source.floor_char_boundary(offset)];
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line as u32, before[start..].chars().count() as u32 + 1)
}

/// The engine's message in one line: its detail, or the kind where it has none.
pub(crate) fn describe(error: &Error) -> String {
    let message = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    message.replace(['\r', '\n'], " ")
}
