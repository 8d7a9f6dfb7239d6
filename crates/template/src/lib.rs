//! Mail templates: from a named template and parameters to subject, text and HTML of a mail.
//!
//! [`check`], [`compile_html`] and [`compile_mjml`] run when a template is saved, [`Templates::render`] when a mail is
//! enqueued (to check it) and when it is sent. The syntax is Jinja's; nothing undefined is printed; the HTML part
//! escapes what it is given, subject and text do not.
//!
//! Invariants:
//! - Rendering ends, whatever the template: instructions, output, memory, recursion and nesting are bounded
//!   ([`RenderError::TooMuch`]), and a panic of the engine is an error.
//! - A rendered subject is one line without control characters.
//! - The compilers keep every template tag, in order and byte for byte.
//!
//! This crate knows nothing of Postgres, of SMTP or of the making of messages, and reads no file and no environment.

mod engine;
mod error;
mod escape;
mod fault;
mod filters;
mod formats;
mod guard;
mod html;
mod marked;
mod meter;
mod mjml;
mod nesting;
mod params;
mod scanner;
mod subject;
mod tags;
mod templates;

pub use engine::check;
pub use error::RenderError;
pub use fault::{Fault, Part};
pub use html::compile_html;
pub use mjml::compile_mjml;
pub use templates::{Rendered, Source, Templates};
