//! A message's header: found in its blocks, cut into fields, and written in relaxed form (RFC 6376 §3.4.2).

use crate::sign::SignError;

/// A message cut at the empty line between header and body.
pub(crate) struct Split {
    /// The header's lines, each ended by LF alone whatever it was ended by.
    pub(crate) header: Vec<u8>,
    /// Where the body begins: a block's index, and an offset in that block.
    pub(crate) body: (usize, usize),
    /// The empty line was ended by a CR; if the body begins with an LF, it belongs to that line end.
    pub(crate) after_cr: bool,
}

/// Finds the end of the header. A message without an empty line is all header, and its body is empty.
pub(crate) fn split(message: &[impl AsRef<[u8]>]) -> Split {
    let mut header = Vec::with_capacity(2048);
    let mut after_cr = false;
    for (index, block) in message.iter().enumerate() {
        for (offset, &octet) in block.as_ref().iter().enumerate() {
            match octet {
                b'\n' if after_cr => {} // its CR has ended the line
                b'\r' | b'\n' if is_ended(&header) => {
                    let body = (index, offset + 1);
                    let after_cr = octet == b'\r';
                    return Split {
                        header,
                        body,
                        after_cr,
                    };
                }
                b'\r' | b'\n' => header.push(b'\n'),
                _ => header.push(octet),
            }
            after_cr = octet == b'\r';
        }
    }
    if !is_ended(&header) {
        header.push(b'\n');
    }
    let body = (message.len(), 0);
    Split {
        header,
        body,
        after_cr,
    }
}

/// Whether `header` is empty or its last line is ended.
fn is_ended(header: &[u8]) -> bool {
    header.last().is_none_or(|&last| last == b'\n')
}

/// One header field: its name without white space around it, and all that stands after the colon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
}

impl Field<'_> {
    /// Whether the field has this name (in any case).
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// Cuts a header with LF line ends into its fields, in their order.
///
/// A line that is neither a field nor the continuation of one is an error: receivers and relays disagree where such a
/// header ends, so that a signature over it would be good for some and bad for others.
pub(crate) fn fields(header: &[u8]) -> Result<Vec<Field<'_>>, SignError> {
    let mut fields = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < header.len() {
        let end = field_end(&header[at..]);
        fields.push(field(&header[at..at + end]).ok_or(SignError::Header { line })?);
        line += header[at..at + end].split(|&octet| octet == b'\n').count() - 1;
        at += end;
    }
    Ok(fields)
}

/// How far the first field goes: up to the first line end that no white space follows (RFC 5322 §2.2.3).
fn field_end(header: &[u8]) -> usize {
    header
        .windows(2)
        .position(|pair| pair[0] == b'\n' && !matches!(pair[1], b' ' | b'\t'))
        .map_or(header.len(), |at| at + 1)
}

fn field(text: &[u8]) -> Option<Field<'_>> {
    let colon = text.iter().position(|&octet| octet == b':')?;
    let name = text[..colon].trim_ascii_end();
    let value = &text[colon + 1..];
    let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    is_name.then_some(Field { name, value })
}

/// Appends a field in relaxed form, without the line end: name in lower case, lines unfolded, each run of white space
/// one space, none around the colon and at the end. A line end counts as white space, as it stands in folds alone.
pub(crate) fn write_relaxed(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend(name.iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let words = value.split(|octet| matches!(octet, b' ' | b'\t' | b'\r' | b'\n'));
    for (index, word) in words.filter(|word| !word.is_empty()).enumerate() {
        if index > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_text(blocks: &[&str]) -> (String, (usize, usize), bool) {
        let split = split(blocks);
        let header = String::from_utf8(split.header).expect("text");
        (header, split.body, split.after_cr)
    }

    #[test]
    fn the_header_ends_at_the_first_empty_line_whatever_ends_the_lines() {
        for (blocks, header, body, after_cr) in [
            (&["a: b\r\n\r\nc"][..], "a: b\n", (0, 7), true),
            (&["a: b\n\nc"], "a: b\n", (0, 6), false),
            (&["a: b\r\rc"], "a: b\n", (0, 6), true),
            (&["a: b\n\r\nc"], "a: b\n", (0, 6), true),
            (&["a: b\r", "\n", "", "\r", "\nc"], "a: b\n", (3, 1), true),
            (&["a: b\r\n c\r\nd:\r\n"], "a: b\n c\nd:\n", (1, 0), false),
            (&["a: b"], "a: b\n", (1, 0), false),
            (&["a: b\r"], "a: b\n", (1, 0), true),
            (&["\r\na: b"], "", (0, 1), true),
            (&[], "", (0, 0), false),
        ] {
            assert_eq!(
                split_text(blocks),
                (header.to_owned(), body, after_cr),
                "{blocks:?}"
            );
        }
    }

    #[test]
    fn fields_are_cut_with_their_continuations() {
        let header = b"A: b\nC :d\n\te\n \nF:\n";
        let names_and_values: Vec<(&[u8], &[u8])> = fields(header)
            .expect("fields")
            .iter()
            .map(|field| (field.name, field.value))
            .collect();
        let expected: [(&[u8], &[u8]); 3] =
            [(b"A", b" b\n"), (b"C", b"d\n\te\n \n"), (b"F", b"\n")];
        assert_eq!(names_and_values, expected);
    }

    #[test]
    fn a_line_that_is_no_field_is_an_error_with_its_number() {
        for (header, line) in [
            (&b" a: b\n"[..], 1),
            (b"a: b\n c\nd\n", 3),
            (b"a: b\n: c\n", 2),
            (b"a b: c\n", 1),
            (
                b"From anna Mon Jan  1 00:00:00\nFrom: anna@example.com\n",
                1,
            ),
            (b"\xc3\xa9: b\n", 1),
        ] {
            let text = header.escape_ascii();
            assert_eq!(fields(header), Err(SignError::Header { line }), "{text}");
        }
    }

    #[test]
    fn the_relaxed_form_is_unfolded_and_has_single_spaces() {
        for (name, value, relaxed) in [
            ("A", " X\n", "a:X"),            // RFC 6376 §3.4.5
            ("B", " Y\t\n\tZ  \n", "b:Y Z"), // as well
            ("Subject", "\n", "subject:"),
            ("sUBJECT", "a\n \n  b \t c", "subject:a b c"),
            ("Subject", " caf\u{e9}\u{a0}\n", "subject:caf\u{e9}\u{a0}"),
        ] {
            let mut out = Vec::new();
            write_relaxed(name.as_bytes(), value.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).expect("text"), relaxed);
        }
    }
}
