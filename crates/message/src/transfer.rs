//! Transfer encodings of files, block by block (RFC 2045 §6): base64 in lines of 76, and line ends as CRLF for what
//! goes as it is. How a file is cut into blocks does not matter.

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;

/// RFC 2045 §6.8: 57 octets fill a line of 76.
const LINE_OCTETS: usize = 57;
const LINE: usize = 76;

/// Padding may lack.
const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | b'\n')
}

/// How many octets base64 text holds, to a few, without decoding it.
pub(crate) fn decoded_len(text: &str) -> usize {
    let digits = text.bytes().filter(|b| !is_space(*b) && *b != b'=').count();
    digits / 4 * 3 + (digits % 4).saturating_sub(1)
}

/// Decodes base64 (RFC 4648 §4); white space is skipped, padding may lack.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    if !text.bytes().any(is_space) {
        return ENGINE.decode(text).ok();
    }
    let digits: Vec<u8> = text.bytes().filter(|b| !is_space(*b)).collect();
    ENGINE.decode(digits).ok()
}

/// Encodes a file into lines, the last one without an end.
#[derive(Debug, Default)]
pub(crate) struct Base64Lines {
    /// The begin of a line that is not full yet.
    rest: Vec<u8>,
    /// A line stands already: the next one ends it.
    begun: bool,
}

impl Base64Lines {
    /// Appends the lines that `block` completes.
    pub fn push(&mut self, mut block: &[u8], out: &mut Vec<u8>) {
        out.reserve((self.rest.len() + block.len()) / LINE_OCTETS * (LINE + 2));
        if !self.rest.is_empty() {
            let (start, rest) = block.split_at(block.len().min(LINE_OCTETS - self.rest.len()));
            self.rest.extend_from_slice(start);
            block = rest;
            if self.rest.len() < LINE_OCTETS {
                return;
            }
            let full = std::mem::take(&mut self.rest);
            self.line(&full, out);
        }
        let mut lines = block.chunks_exact(LINE_OCTETS);
        for octets in &mut lines {
            self.line(octets, out);
        }
        self.rest.extend_from_slice(lines.remainder());
    }

    /// Appends the last line.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            self.line(&rest, out);
        }
    }

    fn line(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        if self.begun {
            out.extend_from_slice(b"\r\n");
        }
        self.begun = true;
        let start = out.len();
        out.resize(start + LINE, 0);
        let written = ENGINE
            .encode_slice(octets, &mut out[start..])
            .expect("57 octets fit into a line");
        out.truncate(start + written);
    }
}

/// Whether a file can go as `7bit` (RFC 2045 §2.7) once its line ends are CRLF.
pub(crate) fn is_seven_bit(data: &[u8]) -> bool {
    data.is_ascii() && !data.contains(&0) && longest_line(data) <= crate::body::MAX_LINE
}

/// The longest line, without its end; a CR or LF alone is one too.
pub(crate) fn longest_line(data: &[u8]) -> usize {
    let lines = data.split(|b| matches!(b, b'\r' | b'\n'));
    lines.map(<[u8]>::len).max().unwrap_or(0)
}

/// Turns every bare CR and bare LF into CRLF; a block that is clean is passed on as it is.
#[derive(Debug, Default)]
pub(crate) struct Crlf {
    /// The octet before the block.
    last: Option<u8>,
}

impl Crlf {
    /// The block with CRLF line ends. A CR at its end counts as a line end at once, its LF is then skipped.
    pub fn push(&mut self, block: Bytes) -> Bytes {
        let Some(&last) = block.last() else {
            return block;
        };
        let clean = self.last != Some(b'\r') && is_clean(&block);
        let out = if clean { block } else { self.slowly(&block) };
        self.last = Some(last);
        out
    }

    fn slowly(&self, block: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(block.len() + block.len() / 16 + 2);
        let mut before = self.last;
        for &b in block {
            match b {
                b'\n' if before == Some(b'\r') => {} // its CR has written both
                b'\r' | b'\n' => out.extend_from_slice(b"\r\n"),
                _ => out.push(b),
            }
            before = Some(b);
        }
        out.into()
    }

    /// Whether the last line has no end.
    pub fn is_open(&self) -> bool {
        self.last.is_some_and(|b| !matches!(b, b'\r' | b'\n'))
    }
}

/// Whether every CR has its LF and every LF its CR within the block.
fn is_clean(block: &[u8]) -> bool {
    if block.first() == Some(&b'\n') || block.last() == Some(&b'\r') {
        return false;
    }
    let pairs = block.iter().zip(block.iter().skip(1));
    // Without branches, so that the compiler makes it wide.
    let unclean = pairs.fold(0, |bad, (&a, &b)| {
        bad | u8::from((a == b'\r') != (b == b'\n'))
    });
    unclean == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(blocks: &[&[u8]]) -> String {
        let (mut encoder, mut out) = (Base64Lines::default(), Vec::new());
        for block in blocks {
            encoder.push(block, &mut out);
        }
        encoder.finish(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    fn crlf(blocks: &[&[u8]]) -> Vec<u8> {
        let mut state = Crlf::default();
        let blocks = blocks.iter().map(|b| Bytes::copy_from_slice(b));
        blocks.flat_map(|b| state.push(b)).collect()
    }

    #[test]
    fn base64_is_read_tolerantly_and_nothing_else_is() {
        for (text, data) in [
            ("", Some(&b""[..])),
            ("YQ==", Some(b"a")),
            ("YQ", Some(b"a")),
            (" Y\r\nW\tI ", Some(b"ab")),
            ("Y", None),
            ("YQ=", Some(b"a")),
            ("YQ===", None),
            ("Y-_=", None),
            ("YQ==YQ==", None),
        ] {
            assert_eq!(decode(text).as_deref(), data, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_the_file_is_cut(
            data in proptest::collection::vec(any::<u8>(), 0..400), cut in 0usize..400, size in 1usize..130,
        ) {
            let whole = lines(&[&data]);
            prop_assert!(whole.split("\r\n").all(|line| line.len() <= 76) && !whole.ends_with('\n'));
            prop_assert_eq!(decode(&whole), Some(data.clone()));
            prop_assert_eq!(decoded_len(&whole), data.len());
            let cut = cut.min(data.len());
            prop_assert_eq!(&lines(&[&data[..cut], &data[cut..]]), &whole);
            prop_assert_eq!(&lines(&data.chunks(size).collect::<Vec<_>>()), &whole);
        }

        #[test]
        fn line_ends_are_the_same_however_the_file_is_cut(data in "([a-z]|\r|\n|\r\n){0,60}", size in 1usize..30) {
            let whole = crlf(&[data.as_bytes()]);
            let expected = data.replace("\r\n", "\n").replace('\r', "\n").replace('\n', "\r\n");
            prop_assert_eq!(&whole, expected.as_bytes());
            prop_assert_eq!(crlf(&data.as_bytes().chunks(size).collect::<Vec<_>>()), whole);
        }
    }
}
