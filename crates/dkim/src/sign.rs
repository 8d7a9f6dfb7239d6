//! Signing: the `DKIM-Signature:` fields of a message (RFC 6376 §3.5, §3.7, §5).

use thiserror::Error;

use crate::body::BodyHash;
use crate::encode::base64;
use crate::header;
use crate::signed_fields;
use crate::signer::Signer;

/// The longest line written where there is a place to fold (RFC 5322 §2.1.1 has 78).
const LINE_MAX: usize = 76;

const NAME: &str = "DKIM-Signature";

/// Why a message cannot be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SignError {
    /// There is no `From:`, which every signature must cover (RFC 6376 §5.4).
    #[error("the message has no From field")]
    NoFrom,
    /// A line of the header is neither a field nor the continuation of one.
    #[error("line {line} of the message is not a header field")]
    Header {
        /// The line, counted from 1.
        line: usize,
    },
    /// The key makes no signature: its parts do not fit together.
    #[error("the private key cannot sign")]
    Key,
}

/// Signs `message`, given as consecutive blocks cut anywhere, once for each of `signers`, at `time` (seconds since 1970,
/// `t=`). Gives the complete fields, folded, each with its CRLF, in the order of `signers`: to be put before the message.
///
/// The body is hashed once for all signers. The fields that are covered are chosen in `signed_fields`; `c=` is
/// `relaxed/relaxed`; there is no `l=` (it lets text be added), no `x=`, `q=` or `i=` (their defaults are meant).
pub fn sign(
    signers: &[&Signer],
    message: &[impl AsRef<[u8]>],
    time: i64,
) -> Result<String, SignError> {
    let split = header::split(message);
    let fields = header::fields(&split.header)?;
    if !fields.iter().any(|field| field.is("From")) {
        return Err(SignError::NoFrom);
    }
    if signers.is_empty() {
        return Ok(String::new());
    }
    let signed = signed_fields::choose(&fields);
    let body_hash = base64(&body_hash(message, &split));

    let mut out = String::new();
    let mut data = signed.data;
    let header_end = data.len();
    for signer in signers {
        let mut field = Folded::new(NAME);
        write_tags(&mut field, signer, &signed.names, &body_hash, time);
        data.truncate(header_end);
        header::write_relaxed(NAME.as_bytes(), field.value().as_bytes(), &mut data);
        let signature = signer.key().sign(&data).map_err(|_| SignError::Key)?;
        field.breakable(&base64(&signature));
        out.push_str(&field.finish());
    }
    Ok(out)
}

fn body_hash(message: &[impl AsRef<[u8]>], split: &header::Split) -> [u8; 32] {
    let (index, offset) = split.body;
    let mut hash = BodyHash::new(split.after_cr);
    for (block, begin) in message[index..]
        .iter()
        .zip([offset].into_iter().chain(std::iter::repeat(0)))
    {
        hash.update(&block.as_ref()[begin..]);
    }
    hash.finish()
}

/// Writes all tags, the last one `b=` without its value: so the field is signed (RFC 6376 §3.7).
fn write_tags(field: &mut Folded, signer: &Signer, names: &[&str], body_hash: &str, time: i64) {
    field.word("v=1;");
    field.word(&format!("a={};", signer.algorithm().name()));
    field.word("c=relaxed/relaxed;");
    field.word(&format!("d={};", signer.domain()));
    field.word(&format!("s={};", signer.selector()));
    field.word(&format!("t={};", time.max(0)));
    for (index, name) in names.iter().enumerate() {
        let end = if index + 1 == names.len() { ';' } else { ':' };
        if index == 0 {
            field.word(&format!("h={name}{end}"));
        } else {
            field.part(&format!("{name}{end}"));
        }
    }
    field.word(&format!("bh={body_hash};"));
    field.word("b=");
}

/// A header field that is folded while it is written (RFC 5322 §2.2.3).
struct Folded {
    text: String,
    /// Where the value begins in `text`.
    value: usize,
    /// Where the line under way begins in `text`.
    line: usize,
}

impl Folded {
    fn new(name: &str) -> Self {
        let text = format!("{name}:");
        let value = text.len();
        Self {
            text,
            value,
            line: 0,
        }
    }

    /// Adds a word after a space or after a fold.
    fn word(&mut self, word: &str) {
        if self.room() > word.len() {
            self.text.push(' ');
        } else {
            self.fold();
        }
        self.text.push_str(word);
    }

    /// Adds what belongs to the word before, but may stand on a line of its own.
    fn part(&mut self, part: &str) {
        if self.room() < part.len() {
            self.fold();
        }
        self.text.push_str(part);
    }

    /// Adds what may be folded anywhere.
    fn breakable(&mut self, mut text: &str) {
        while !text.is_empty() {
            if self.room() == 0 {
                self.fold();
            }
            let (line, rest) = text.split_at(text.len().min(self.room()));
            self.text.push_str(line);
            text = rest;
        }
    }

    fn fold(&mut self) {
        self.text.push_str("\r\n");
        self.line = self.text.len();
        self.text.push(' ');
    }

    fn room(&self) -> usize {
        (self.line + LINE_MAX).saturating_sub(self.text.len())
    }

    fn value(&self) -> &str {
        &self.text[self.value..]
    }

    fn finish(mut self) -> String {
        self.text.push_str("\r\n");
        self.text
    }
}
