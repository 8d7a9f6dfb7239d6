//! Texts: line ends and transfer encoding (RFC 2045 §6).

use std::borrow::Cow;

use lettre::message::Body;

/// RFC 5322 §2.1.1: the longest line without its CRLF.
pub(crate) const MAX_LINE: usize = 998;

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
