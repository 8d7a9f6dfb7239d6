//! From what a caller of `mail.enqueue` gives to the bytes of an RFC 5322 message, in two steps.
//!
//! [`prepare_simple`] and [`prepare_json`] run when a mail is enqueued: they check every field and
//! write the *canonical content*, a small JSON object with the same field names as the JSON form; the bytes of
//! attachments, and a message given raw, are [`File`]s beside it.
//! [`compose`] runs when it is sent: it turns canonical content, its files and what its template renders into
//! ([`template_of`]) into the message. What is asked about the delivery ([`Dsn`], RFC 3461) is no part of the
//! message: it stands beside it in [`Composed`]. [`preview`] shows and judges what would be sent.
//!
//! Invariants:
//! - [`compose`] accepts every content that a `prepare_*` function produced, with its files and what its template
//!   renders into.
//! - [`compose`] is deterministic: the same content, date and extras give the same bytes, so that a repeated
//!   delivery is recognisable as one.
//! - No control character (RFC 5322 §2.2) given by a caller reaches a header or the envelope.
//!
//! This crate knows nothing of Postgres, of SMTP or of queues.

mod address;
mod attachment;
mod body;
mod check;
mod compose;
mod content;
mod dsn;
mod error;
mod external;
mod fields;
mod header;
mod html;
mod html_style;
mod html_text;
mod limit;
mod list_unsubscribe;
mod local_part;
mod media_type;
mod mime;
mod own;
mod prepare;
mod raw;
mod raw_address;
mod raw_head;
mod review;
mod sender;
mod template;
mod transfer;

pub use attachment::{File, StoredFile, check_attachment};
pub use compose::{Composed, Extras, compose};
pub use dsn::{Dsn, DsnNotify, DsnReturn};
pub use error::{ComposeError, Invalid, InvalidKind};
pub use external::prepare_external;
pub use prepare::{Context, MaySendAs, Prepared, Simple, prepare_json, prepare_simple};
pub use review::{Preview, Warning, preview};
pub use sender::SenderPattern;
pub use template::{Rendered, TemplateResult, TemplateUse, template_of};

/// Checks that `address` is one mailbox, with or without a display name, as a queue has its sender and return path.
pub fn check_address(address: &str, field: &str) -> Result<(), Invalid> {
    envelope_address(address, field).map(|_| ())
}

/// [`check_address`], and the address as an envelope has it: its domain in ASCII.
pub fn envelope_address(address: &str, field: &str) -> Result<String, Invalid> {
    check::header_text(field, address)?;
    address::parse_one(field, address).map(|mailbox| mailbox.address.into_owned())
}
