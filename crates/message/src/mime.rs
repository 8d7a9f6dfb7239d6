//! How the parts of a message are put together (RFC 2045, RFC 2046): texts, files and multiparts of them.

use std::fmt::Write as _;

use bytes::Bytes;
use email_encoding::headers::{rfc2047, rfc2231, writer::EmailWriter};

use crate::{
    attachment::Attachment,
    body::Part,
    error::ComposeError,
    media_type,
    transfer::{Base64Lines, Crlf, is_seven_bit},
};

/// A block of this size is passed on, so that the file's own blocks can go.
const BLOCK: usize = 256 * 1024;

/// The message so far.
#[derive(Debug, Default)]
pub(crate) struct Output {
    done: Vec<Bytes>,
    /// What comes behind `done`.
    pub open: Vec<u8>,
}

impl Output {
    fn put(&mut self, pieces: &[&str]) {
        for piece in pieces {
            self.open.extend_from_slice(piece.as_bytes());
        }
    }

    fn flush(&mut self) {
        if !self.open.is_empty() {
            self.done.push(std::mem::take(&mut self.open).into());
        }
    }

    /// All blocks; the message ends with a line end.
    pub fn finish(mut self) -> Vec<Bytes> {
        if !self.open.ends_with(b"\r\n") {
            self.open.extend_from_slice(b"\r\n");
        }
        self.flush();
        self.done
    }
}

/// A file to be sent.
pub(crate) struct FilePart {
    /// Its header fields and the empty line.
    head: String,
    data: FileData,
}

enum FileData {
    /// In base64.
    Blocks(Vec<Bytes>),
    /// As it is.
    SevenBit(Vec<u8>),
}

impl FilePart {
    /// Takes the file's bytes in blocks of any size.
    pub fn new(attachment: &Attachment<'_>, blocks: Vec<Bytes>) -> Result<Self, ComposeError> {
        let mut media_type: &str = &attachment.content_type;
        let mut data = FileData::Blocks(blocks);
        // A message must not be encoded (RFC 2046 §5.2.1), and not every one can go as it is.
        if media_type.starts_with("message/")
            && let FileData::Blocks(blocks) = &data
        {
            let whole = blocks.concat();
            if is_seven_bit(&whole) {
                data = FileData::SevenBit(Crlf::default().push(whole.into()).into());
            } else {
                media_type = media_type::UNKNOWN;
            }
        }
        let encoding = match &data {
            FileData::Blocks(_) => "base64",
            FileData::SevenBit(_) => "7bit",
        };
        let head = file_head(attachment, media_type, encoding)
            .map_err(|_| ComposeError::Field("attachments"))?;
        Ok(Self { head, data })
    }

    fn write(self, out: &mut Output) {
        out.put(&[&self.head]);
        match self.data {
            FileData::SevenBit(bytes) => out.open.extend_from_slice(&bytes),
            FileData::Blocks(blocks) => {
                let mut lines = Base64Lines::default();
                for block in blocks {
                    // One huge block must not make one of four thirds.
                    for piece in block.chunks(4 * BLOCK) {
                        lines.push(piece, &mut out.open);
                        if out.open.len() >= BLOCK {
                            out.flush();
                        }
                    }
                }
                lines.finish(&mut out.open);
            }
        }
    }
}

/// The file's name stands twice, so that every reader finds it: as RFC 2231 has it in `Content-Disposition`, and as
/// encoded words (RFC 2047) in the older `name` of `Content-Type`, which RFC 2047 §5 does not allow and which many
/// read and most senders write. A name in ASCII stands in plain quotes in both.
fn file_head(
    attachment: &Attachment<'_>,
    media_type: &str,
    encoding: &str,
) -> Result<String, std::fmt::Error> {
    let name = &*attachment.filename;
    let mut out = format!("Content-Type: {media_type}");
    // What looks like an encoded word would be decoded, even within quotes.
    let plain = name.is_ascii() && !name.contains("=?");
    if !name.is_empty() {
        out.push_str(";\r\n name=\"");
        if plain {
            push_escaped(&mut out, name);
        } else {
            rfc2047::encode(name, &mut EmailWriter::new(&mut out, 7, 0, false))?;
        }
        out.push('"');
    }
    out.push_str("\r\nContent-Transfer-Encoding: ");
    out.push_str(encoding);
    out.push_str("\r\nContent-Disposition: ");
    out.push_str(attachment.disposition.as_str());
    if plain && !name.is_empty() {
        out.push_str(";\r\n filename=\"");
        push_escaped(&mut out, name);
        out.push('"');
    } else if name.is_ascii() && !name.is_empty() {
        // The encoder takes only other characters for a reason to encode.
        out.push_str(";\r\n filename*=utf-8''");
        for b in name.bytes() {
            if b.is_ascii_alphanumeric() || b"-._".contains(&b) {
                out.push(char::from(b));
            } else {
                write!(out, "%{b:02X}")?;
            }
        }
    } else if !name.is_empty() {
        out.push(';');
        let mut encoded = String::new();
        rfc2231::encode(
            "filename",
            name,
            &mut EmailWriter::new(&mut encoded, 0, 0, false),
        )?;
        // One piece needs no number (RFC 2231 §3), and more readers know it without.
        if !encoded.contains("filename*1*=") {
            encoded = encoded.replacen("filename*0*=", "filename*=", 1);
        }
        out.push_str(&encoded);
    }
    out.push_str("\r\n");
    if !attachment.content_id.is_empty() {
        out.push_str("Content-ID: <");
        out.push_str(&attachment.content_id);
        out.push_str(">\r\n");
    }
    out.push_str("\r\n");
    Ok(out)
}

fn push_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
}

/// A part, or a multipart of such.
pub(crate) enum Node {
    /// A text.
    Text(Part),
    /// A file.
    File(FilePart),
    /// `alternative`, `related` or `mixed`, at least two parts.
    Multi(&'static str, Vec<Node>),
}

impl Node {
    /// A multipart, or the one part itself.
    pub fn of(kind: &'static str, mut parts: Vec<Node>) -> Self {
        match parts.pop() {
            Some(only) if parts.is_empty() => only,
            Some(last) => {
                parts.push(last);
                Self::Multi(kind, parts)
            }
            None => Self::Text(Part::new("plain", "")),
        }
    }

    /// Writes it with its header. The boundaries are derived from `seed`, so that they are the same each time.
    pub fn write(self, seed: &str, out: &mut Output) {
        let (kind, parts) = match self {
            Self::Text(part) => return part.write(&mut out.open),
            Self::File(file) => return file.write(out),
            Self::Multi(kind, parts) => (kind, parts),
        };
        let boundary = boundary(kind, seed, &parts);
        out.put(&[
            "Content-Type: multipart/",
            kind,
            ";\r\n boundary=\"",
            &boundary,
            "\"",
        ]);
        if kind == "related" {
            // RFC 2387 §3.1.
            let root = parts.first().map_or("text/plain", Self::media_type);
            out.put(&[";\r\n type=\"", root, "\""]);
        }
        out.put(&["\r\n\r\n"]);
        for part in parts {
            out.put(&["--", &boundary, "\r\n"]);
            part.write(seed, out);
            out.put(&["\r\n"]);
        }
        out.put(&["--", &boundary, "--\r\n"]);
    }

    fn media_type(&self) -> &'static str {
        match self {
            Self::Text(part) if part.subtype == "html" => "text/html",
            Self::Multi("alternative", _) => "multipart/alternative",
            _ => "text/plain",
        }
    }

    /// Whether a part that goes as it is holds this text. Nor can the boundary of an inner multipart be it, since
    /// each kind has its own.
    fn holds(&self, boundary: &str) -> bool {
        // What goes as it is is ASCII.
        let found = |bytes| std::str::from_utf8(bytes).is_ok_and(|text| text.contains(boundary));
        match self {
            Self::Text(part) => part.encoding == "7bit" && found(&part.bytes),
            Self::File(file) => match &file.data {
                FileData::SevenBit(bytes) => found(bytes),
                FileData::Blocks(_) => false,
            },
            Self::Multi(_, parts) => parts.iter().any(|part| part.holds(boundary)),
        }
    }
}

/// `=_` occurs neither in base64 nor in quoted-printable (RFC 2045 §6.7); for 7bit parts the search makes sure.
fn boundary(kind: &str, seed: &str, parts: &[Node]) -> String {
    // The kind's letter tells the multiparts of one message apart.
    let letter = &kind[..1];
    let mut salt = 0u64;
    loop {
        let (a, b) = (fnv(seed, salt), fnv(seed, !salt));
        let boundary = format!("=_{letter}{a:016x}{b:016x}");
        if !parts.iter().any(|part| part.holds(&boundary)) {
            return boundary;
        }
        salt += 1;
    }
}

/// FNV-1a: small, and unlike the standard library's hashes the same in every version.
fn fnv(text: &str, salt: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for b in salt.to_le_bytes().into_iter().chain(text.bytes()) {
        hash = (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}
