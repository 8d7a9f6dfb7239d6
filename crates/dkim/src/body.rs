//! The body hash: SHA-256 over the body in relaxed form (RFC 6376 §3.4.4), block by block.
//!
//! The body is first what it is on the wire: a bare CR or LF is CRLF. White space at a line's end goes, other runs of
//! it become one space, then empty lines at the end go, and the last line is ended. A body of nothing else hashes as
//! empty.

use ring::digest::{Context, SHA256};

/// How much is looked at in one go: one irregular octet sends so much the slow way.
const PIECE: usize = 1024;

/// The canonical octets of the slow way are gathered up to about here before they are hashed.
const BUFFERED: usize = 4096;

/// The hash of a body under way.
pub(crate) struct BodyHash {
    hash: Context,
    buffer: Vec<u8>,
    /// The last octet was a CR: an LF after it belongs to the same line end.
    after_cr: bool,
    /// White space that becomes a space if its line goes on.
    space: bool,
    /// Line ends that count if a further line with content comes.
    line_ends: usize,
    /// Whether there is content at all.
    content: bool,
}

impl BodyHash {
    /// Begins a body; `after_cr` when the octet before it was a CR, whose LF may come yet.
    pub(crate) fn new(after_cr: bool) -> Self {
        Self {
            hash: Context::new(&SHA256),
            buffer: Vec::new(),
            after_cr,
            space: false,
            line_ends: 0,
            content: false,
        }
    }

    /// Takes the next block of the body.
    pub(crate) fn update(&mut self, block: &[u8]) {
        for piece in block.chunks(PIECE) {
            let begin = piece
                .iter()
                .copied()
                .position(is_content)
                .unwrap_or(piece.len());
            let end = piece
                .iter()
                .rposition(|&octet| is_content(octet))
                .map_or(begin, |last| last + 1);
            self.slow(&piece[..begin]);
            if is_canonical(&piece[begin..end]) {
                self.write_held_back();
                self.flush();
                self.hash.update(&piece[begin..end]);
            } else {
                self.slow(&piece[begin..end]);
            }
            self.slow(&piece[end..]);
        }
    }

    fn slow(&mut self, octets: &[u8]) {
        for &octet in octets {
            match octet {
                b'\n' if self.after_cr => {} // its CR has counted for both
                b'\r' | b'\n' => {
                    self.line_ends += 1;
                    self.space = false;
                }
                b' ' | b'\t' => self.space = true,
                _ => {
                    self.write_held_back();
                    self.buffer.push(octet);
                }
            }
            self.after_cr = octet == b'\r';
        }
    }

    /// Writes what stands before content: line ends and a space. The next octet is content.
    fn write_held_back(&mut self) {
        for _ in 0..std::mem::take(&mut self.line_ends) {
            self.buffer.extend_from_slice(b"\r\n");
            self.flush_if_full();
        }
        if std::mem::take(&mut self.space) {
            self.buffer.push(b' ');
        }
        self.after_cr = false;
        self.content = true;
        self.flush_if_full();
    }

    fn flush_if_full(&mut self) {
        if self.buffer.len() >= BUFFERED {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.hash.update(&self.buffer);
        self.buffer.clear();
    }

    /// The hash of the whole body.
    pub(crate) fn finish(mut self) -> [u8; 32] {
        if self.content {
            self.buffer.extend_from_slice(b"\r\n");
        }
        self.flush();
        let digest = self.hash.finish();
        digest.as_ref().try_into().expect("SHA-256 has 32 octets")
    }
}

fn is_content(octet: u8) -> bool {
    !matches!(octet, b' ' | b'\t' | b'\r' | b'\n')
}

/// Whether `octets`, which begin and end with content, stand as they are in the relaxed form, and are not empty.
/// Without branches, so that the compiler makes it wide.
fn is_canonical(octets: &[u8]) -> bool {
    let [_, after @ ..] = octets else {
        return false;
    };
    let irregular = octets.iter().zip(after).fold(0u8, |irregular, (&a, &b)| {
        let bare = (a == b'\r') != (b == b'\n');
        let white = u8::from(a == b' ') & u8::from(matches!(b, b' ' | b'\r' | b'\n'));
        irregular | u8::from(bare) | white | u8::from(b == b'\t')
    });
    irregular == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::digest::digest;

    use super::*;

    fn hash(blocks: &[&[u8]]) -> [u8; 32] {
        let mut hash = BodyHash::new(false);
        for block in blocks {
            hash.update(block);
        }
        hash.finish()
    }

    fn sha256(canonical: &[u8]) -> [u8; 32] {
        digest(&SHA256, canonical)
            .as_ref()
            .try_into()
            .expect("32 octets")
    }

    /// The relaxed form, by the book and slowly.
    fn relaxed(body: &str) -> String {
        let body = body.replace("\r\n", "\n").replace('\r', "\n");
        let reduce = |line: &str| {
            let is_indented = line.starts_with([' ', '\t']);
            let words: Vec<&str> = line
                .split([' ', '\t'])
                .filter(|word| !word.is_empty())
                .collect();
            let indent = if is_indented && !words.is_empty() {
                " "
            } else {
                ""
            };
            format!("{indent}{}", words.join(" "))
        };
        let mut lines: Vec<String> = body.split('\n').map(reduce).collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines.iter().flat_map(|line| [line, "\r\n"]).collect()
    }

    #[test]
    fn white_space_is_reduced_and_empty_lines_at_the_end_go() {
        for (body, canonical) in [
            ("", ""),
            ("\r\n", ""),
            (" \t\r\n\r\n \r\n", ""),
            (" ", ""),
            ("a", "a\r\n"),
            ("a\r\n", "a\r\n"),
            (" C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n"), // RFC 6376 §3.4.5
            ("\r\n\r\na", "\r\n\r\na\r\n"),
            ("a\nb\rc\r\r\nd\n\r", "a\r\nb\r\nc\r\n\r\nd\r\n"),
            ("a \n \n\tb", "a\r\n\r\n b\r\n"),
            ("\u{e9}\t\u{a0} \n", "\u{e9} \u{a0}\r\n"),
        ] {
            assert_eq!(relaxed(body), canonical, "the model for {body:?}");
            assert_eq!(
                hash(&[body.as_bytes()]),
                sha256(canonical.as_bytes()),
                "{body:?}"
            );
        }
    }

    #[test]
    fn a_line_feed_after_the_header_s_carriage_return_is_no_line_of_the_body() {
        let mut hash = BodyHash::new(true);
        hash.update(b"");
        hash.update(b"\na");
        assert_eq!(hash.finish(), sha256(b"a\r\n"));
        let mut hash = BodyHash::new(true);
        hash.update(b"a\n\nb");
        assert_eq!(hash.finish(), sha256(b"a\r\n\r\nb\r\n"));
    }

    #[test]
    fn a_million_empty_lines_before_content_are_kept() {
        let lines = 1_000_000;
        let canonical = format!("{}a\r\n", "\r\n".repeat(lines));
        assert_eq!(
            hash(&["\n".repeat(lines).as_bytes(), b"a"]),
            sha256(canonical.as_bytes())
        );
    }

    proptest! {
        #[test]
        fn the_hash_is_that_of_the_relaxed_form_however_the_body_is_cut(
            body in "([a-z.\u{e9}]{1,9}|[a-z]{1,3} [a-z]{500,900}|\r\n|\r\n|\r|\n| |\t){0,40}",
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let expected = sha256(relaxed(&body).as_bytes());
            let body = body.as_bytes();
            prop_assert_eq!(hash(&[body]), expected);

            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
            cuts.sort_unstable();
            let begins = std::iter::once(0).chain(cuts.iter().copied());
            let ends = cuts.iter().copied().chain(std::iter::once(body.len()));
            let blocks: Vec<&[u8]> = begins.zip(ends).map(|(begin, end)| &body[begin..end]).collect();
            prop_assert_eq!(hash(&blocks), expected);
            prop_assert_eq!(hash(&body.chunks(1).collect::<Vec<_>>()), expected);
        }
    }
}
