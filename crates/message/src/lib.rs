//! From what a caller of `mail.enqueue` gives to the bytes of an RFC 5322 message, in two steps.
//!
//! [`prepare_simple`] and [`prepare_json`] run when a mail is enqueued: they check every field and
//! write the *canonical content*, a small JSON object with the same field names as the JSON form.
//! [`compose`] runs when it is sent: it turns canonical content into the message. What is asked about the delivery
//! ([`Dsn`], RFC 3461) is no part of the message: [`compose_with_dsn`] gives it for the envelope.
//!
//! Invariants:
//! - [`compose`] accepts every content that a `prepare_*` function produced.
//! - [`compose`] is deterministic: the same content and date give the same bytes, so that a repeated
//!   delivery is recognisable as one.
//! - No control character (RFC 5322 §2.2) given by a caller reaches a header or the envelope.
//!
//! This crate knows nothing of Postgres, of SMTP or of queues.

mod address;
mod body;
mod check;
mod compose;
mod content;
mod dsn;
mod error;
mod fields;
mod header;
mod local_part;
mod prepare;

pub use compose::{Composed, compose, compose_with_dsn};
pub use dsn::{Dsn, DsnNotify, DsnReturn};
pub use error::{ComposeError, Invalid, InvalidKind};
pub use prepare::{Context, Prepared, Simple, prepare_external, prepare_json, prepare_simple};

/// Checks that `address` is one mailbox without a display name, as an envelope sender is (RFC 5321 §4.1.2).
pub fn check_address(address: &str, field: &str) -> Result<(), Invalid> {
    check::header_text(field, address)?;
    address::parse_one(field, address).map(|_| ())
}

/// The refusal of a template: this version has none, so none of that name.
pub fn no_template(name: &str) -> Invalid {
    Invalid::no_template(name)
}
