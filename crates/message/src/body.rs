//! Bodies: line ends, transfer encoding (RFC 2045 §6), and the multipart of text and HTML.

use std::borrow::Cow;

use lettre::message::Body;

/// RFC 5322 §2.1.1: the longest line without its CRLF.
const MAX_LINE: usize = 998;

/// One leaf of the message.
pub(crate) struct Part {
    /// `text/plain` or `text/html`.
    pub subtype: &'static str,
    /// The `Content-Transfer-Encoding`.
    pub encoding: String,
    /// The encoded bytes, lines ended by CRLF, the last one perhaps open.
    pub bytes: Vec<u8>,
}

impl Part {
    /// Encodes a text. Plain ASCII with lines of legal length stays as it is; for the rest lettre
    /// chooses between quoted-printable and base64, whichever is shorter.
    pub fn new(subtype: &'static str, text: &str) -> Self {
        let (text, longest) = with_crlf(text);
        if text.is_ascii() && longest <= MAX_LINE {
            return Self {
                subtype,
                encoding: "7bit".to_owned(),
                bytes: text.into_owned().into_bytes(),
            };
        }
        let body = Body::new(text.into_owned());
        Self {
            subtype,
            encoding: body.encoding().to_string(),
            bytes: body.into_vec(),
        }
    }

    /// Appends the part's headers, the empty line and the body.
    pub fn write(&self, out: &mut Vec<u8>) {
        for piece in [
            "Content-Type: text/",
            self.subtype,
            "; charset=utf-8\r\nContent-Transfer-Encoding: ",
            &self.encoding,
            "\r\n\r\n",
        ] {
            out.extend_from_slice(piece.as_bytes());
        }
        out.extend_from_slice(&self.bytes);
    }
}

/// Every line end as CRLF, and the length of the longest line.
fn with_crlf(text: &str) -> (Cow<'_, str>, usize) {
    if text.contains('\r') {
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let (text, longest) = lf_to_crlf(&text);
        return (Cow::Owned(text.into_owned()), longest);
    }
    lf_to_crlf(text)
}

fn lf_to_crlf(text: &str) -> (Cow<'_, str>, usize) {
    let mut lines = text.split('\n');
    let first = lines.next().unwrap_or_default();
    if first.len() == text.len() {
        return (Cow::Borrowed(text), first.len());
    }
    let mut out = String::with_capacity(text.len() + text.len() / 16 + 16);
    let mut longest = first.len();
    out.push_str(first);
    for line in lines {
        longest = longest.max(line.len());
        out.push_str("\r\n");
        out.push_str(line);
    }
    (Cow::Owned(out), longest)
}

/// Appends a `multipart/alternative` (RFC 2046 §5.1.4) with its header. The boundary is derived from
/// `seed`, so that it is the same each time.
pub(crate) fn alternative(out: &mut Vec<u8>, seed: &str, parts: &[Part]) {
    let boundary = boundary(seed, parts);
    out.extend_from_slice(b"Content-Type: multipart/alternative;\r\n boundary=\"");
    out.extend_from_slice(boundary.as_bytes());
    out.extend_from_slice(b"\"\r\n\r\n");
    for part in parts {
        out.extend_from_slice(b"--");
        out.extend_from_slice(boundary.as_bytes());
        out.extend_from_slice(b"\r\n");
        part.write(out);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"--");
    out.extend_from_slice(boundary.as_bytes());
    out.extend_from_slice(b"--\r\n");
}

/// `=_` occurs neither in base64 nor in quoted-printable (RFC 2045 §6.7); for 7bit parts the search
/// makes sure.
fn boundary(seed: &str, parts: &[Part]) -> String {
    let mut salt = 0u64;
    loop {
        let boundary = format!("=_{:016x}{:016x}", fnv(seed, salt), fnv(seed, !salt));
        let taken = parts.iter().any(|part| {
            part.encoding == "7bit"
                && std::str::from_utf8(&part.bytes).is_ok_and(|text| text.contains(&boundary))
        });
        if !taken {
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
