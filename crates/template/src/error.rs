//! Why a mail could not be rendered.

use std::error::Error as _;

use minijinja::{Error, ErrorKind};

use crate::fault::{Fault, Part, describe};
use crate::meter;

/// The error of one rendering.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// No template of that name, in no locale that the requested one falls back to.
    #[error("template \"{0}\" does not exist")]
    NoTemplate(String),
    /// The parameters are no JSON object; the text says why.
    #[error("{0}")]
    Params(String),
    /// All parameters that this rendering needs and has not, named as the template writes them, in order of use.
    #[error("parameters are missing: {}", .0.join(", "))]
    Missing(Vec<String>),
    /// The template cannot be rendered with these parameters.
    #[error("template \"{template}\", {part}, line {line}, column {column}: {message}")]
    Failed {
        /// The template that the error is in: an included one, where it is there.
        template: String,
        /// The part that was rendered.
        part: Part,
        /// The line, from 1; 0 when it is not known.
        line: u32,
        /// The column in characters, from 1; 0 when it is not known.
        column: u32,
        /// One line, lower case, no full stop.
        message: String,
    },
    /// The rendering took more than it may.
    #[error("rendering the template takes too much: {what}")]
    TooMuch {
        /// `instructions`, `memory`, `nesting`, `recursion`, `output` or `time`.
        what: &'static str,
    },
}

/// The error and its causes, the outermost first.
fn chain(error: &Error) -> impl Iterator<Item = &Error> {
    std::iter::successors(Some(error), |error| cause(error))
}

fn cause(error: &Error) -> Option<&Error> {
    error.source()?.downcast_ref()
}

/// The bound that the rendering went over, if that is what ended it.
pub(crate) fn bound(error: &Error) -> Option<&'static str> {
    chain(error).find_map(|error| match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, Some(meter::MEMORY)) => Some(meter::MEMORY),
        (ErrorKind::OutOfFuel, Some(meter::TIME)) => Some(meter::TIME),
        (ErrorKind::OutOfFuel, Some(meter::NESTING)) => Some(meter::NESTING),
        (ErrorKind::OutOfFuel, _) => Some("instructions"),
        (ErrorKind::WriteFailure, _) => Some("output"),
        (_, Some("recursion limit exceeded")) => Some("recursion"),
        _ => None,
    })
}

/// Something undefined was used, with its name where the engine knows it.
pub(crate) struct Undefined {
    /// As the template writes it: `customer.name`.
    pub name: Option<String>,
}

/// Whether something undefined ended the rendering.
pub(crate) fn undefined(error: &Error) -> Option<Undefined> {
    let error = chain(error).find(|error| {
        error.kind() == ErrorKind::UndefinedError
            || error
                .detail()
                .is_some_and(|detail| detail.contains(UNDEFINED))
    })?;
    let name = error.detail().and_then(|detail| {
        let before = &detail[..detail.find(UNDEFINED)?];
        before
            .rfind('`')
            .map(|quote| before[quote + 1..].to_owned())
    });
    Some(Undefined { name })
}

const UNDEFINED: &str = "` is undefined";

/// The innermost place that the engine knows: the full name of the template and the byte its fault starts at.
pub(crate) fn place(error: &Error) -> (Option<&str>, Option<usize>, String) {
    let inner = chain(error).filter(|error| error.name().is_some()).last();
    let message = chain(error).last().map_or_else(String::new, describe);
    (
        inner.and_then(Error::name),
        inner.and_then(Error::range).map(|range| range.start),
        message,
    )
}

/// The fault that a template could not be loaded for.
pub(crate) fn loading_fault(error: &Error) -> Option<&Fault> {
    chain(error).find_map(|error| error.source()?.downcast_ref::<Fault>())
}

/// The name of the template that another one refers to in vain, as the engine knows it.
pub(crate) fn missing_template(error: &Error) -> Option<&str> {
    let error = chain(error)
        .filter(|error| error.kind() == ErrorKind::TemplateNotFound)
        .last()?;
    let detail = error.detail()?;
    let from = detail.find(['"', '\''])? + 1;
    let to = from + detail[from..].find(['"', '\''])?;
    Some(&detail[from..to])
}
