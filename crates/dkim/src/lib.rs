//! DKIM signatures (RFC 6376) for messages at the time they are sent: `rsa-sha256` with keys of 2048 bits and more
//! (RFC 8301) and `ed25519-sha256` (RFC 8463), always `c=relaxed/relaxed`.
//!
//! A [`PrivateKey`] is read by [`PrivateKey::from_pem`] or made by [`generate()`]; with a domain and a selector it is a
//! [`Signer`]; [`sign`] writes one `DKIM-Signature:` field for each signer, to be put before the message.
//!
//! Invariants:
//! - What is signed is what goes over the wire: a bare CR or LF counts as CRLF, and the last line as ended.
//! - How the message is cut into blocks does not matter, and its body is never copied as a whole.
//! - The same signers, message and time give the same fields: both algorithms are deterministic.
//! - No error and no `Debug` output holds key material.
//!
//! This crate knows nothing of Postgres, of queues, of SMTP or of DNS.

mod body;
mod encode;
mod generate;
mod header;
mod key;
mod sign;
mod signed_fields;
mod signer;

pub use generate::{GenerateError, Generated, generate};
pub use key::{Algorithm, KeyError, PrivateKey};
pub use sign::{SignError, sign};
pub use signer::{Signer, SignerError};

#[cfg(test)]
mod rfc8463;
