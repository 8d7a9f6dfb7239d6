//! The header of a message that the caller wrote: cut into fields (RFC 5322 §2.2), nothing of it changed.
//!
//! LF and CRLF end a line. A CR alone is refused, and so is white space before a colon: one reader would see another
//! field there than the next one, and a signature would cover what nobody sees.

use std::ops::Range;

/// The longest header, in bytes; relays take less.
pub(crate) const MAX_HEAD: usize = 256 * 1024;

/// One header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    pub name: &'a [u8],
    /// Its lines: the first from its name on, without line ends.
    pub lines: Vec<&'a [u8]>,
}

impl Field<'_> {
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The value, unfolded and trimmed.
    pub fn value(&self) -> String {
        let text: Vec<_> = self
            .lines
            .iter()
            .map(|l| String::from_utf8_lossy(l))
            .collect();
        let text = text.concat();
        let value = text.split_once(':').map_or("", |(_, value)| value);
        value.trim_matches([' ', '\t']).to_owned()
    }

    /// Whether it belongs to the envelope and is not sent: who gets a blind copy, and where bounces go, which the last
    /// server writes (RFC 5321 §4.4).
    pub fn is_envelope(&self) -> bool {
        ["Bcc", "Resent-Bcc", "Return-Path"]
            .iter()
            .any(|name| self.is(name))
    }
}

/// A header, read.
#[derive(Debug, Default)]
pub(crate) struct Head<'a> {
    pub fields: Vec<Field<'a>>,
    /// Where the body begins: behind the empty line, or at the end of the data if there is none.
    pub body: usize,
}

/// What is wrong with a line of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It belongs to no field.
    NoField,
    /// White space before the colon, as the obsolete syntax had it (RFC 5322 §4.5).
    SpaceBeforeColon,
    /// A CR that no LF follows.
    BareCr,
}

/// Reads the header at the begin of `data`; `Err` holds the number of the first line that is wrong, and how.
pub(crate) fn read(data: &[u8]) -> Result<Head<'_>, (usize, Fault)> {
    let mut head = Head::default();
    for (i, (line, next)) in (Lines { data, at: 0 }).enumerate() {
        head.body = next;
        if data[line.end..next] == *b"\r" {
            return Err((i + 1, Fault::BareCr));
        }
        let line = &data[line];
        match line.first() {
            None => break,
            Some(b' ' | b'\t') => {
                let field = head.fields.last_mut().ok_or((i + 1, Fault::NoField))?;
                field.lines.push(line);
            }
            Some(_) => {
                let name = name(line).map_err(|fault| (i + 1, fault))?;
                let lines = vec![line];
                head.fields.push(Field { name, lines });
            }
        }
    }
    Ok(head)
}

/// Whether `data` holds the whole header, or more than a header may have.
pub(crate) fn is_whole(data: &[u8]) -> bool {
    // A CR at the end may be half of a line end.
    let data = data.strip_suffix(b"\r").unwrap_or(data);
    data.len() > MAX_HEAD
        || Lines { data, at: 0 }.any(|(line, next)| line.is_empty() && next <= data.len())
}

fn name(line: &[u8]) -> Result<&[u8], Fault> {
    let colon = line.iter().position(|b| *b == b':');
    let written = &line[..colon.ok_or(Fault::NoField)?];
    let name = written.trim_ascii_end();
    if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
        return Err(Fault::NoField);
    }
    if name.len() < written.len() {
        return Err(Fault::SpaceBeforeColon);
    }
    Ok(name)
}

/// Each line without its end, and where the next one begins.
struct Lines<'a> {
    data: &'a [u8],
    at: usize,
}

impl Iterator for Lines<'_> {
    type Item = (Range<usize>, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.data.get(self.at..).filter(|rest| !rest.is_empty())?;
        let length = rest.iter().position(|b| matches!(b, b'\r' | b'\n'));
        let end = self.at + length.unwrap_or(rest.len());
        let width = match &self.data[end..] {
            [b'\r', b'\n', ..] => 2,
            [] => 0,
            _ => 1,
        };
        let line = self.at..end;
        self.at = end + width;
        Some((line, self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, is_whole, read};

    #[test]
    fn fields_are_found_behind_every_kind_of_line_end() {
        for end in ["\r\n", "\n"] {
            let text = ["A: 1", " 2", "b: 3", "C:", "", "D: 4"].join(end);
            let head = read(text.as_bytes()).unwrap();
            let names: Vec<_> = head.fields.iter().map(|f| f.name).collect();
            assert_eq!(names, [b"A", b"b", b"C"], "{end:?}");
            assert_eq!(head.fields[0].value(), "1 2");
            assert_eq!(&text[head.body..], "D: 4");
        }
        assert_eq!(read(b"").unwrap().fields.len(), 0);
        assert_eq!(read(b"A: 1").unwrap().body, 4);
        assert_eq!(read(b"\r\nx").unwrap().body, 2);
    }

    #[test]
    fn what_readers_disagree_on_is_a_fault() {
        for (data, line, fault) in [
            (&b" A: 1"[..], 1, Fault::NoField),
            (b"A: 1\nFrom x\n", 2, Fault::NoField),
            (b"A: 1\n: x\n", 2, Fault::NoField),
            (b"A: 1\nB C: x\n", 2, Fault::NoField),
            (b"A : 1\n", 1, Fault::SpaceBeforeColon),
            (b"A: 1\n 2\nB\t: 1\n\n", 3, Fault::SpaceBeforeColon),
            (b"A: 1\rB: 2\n\n", 1, Fault::BareCr),
            (b"A: 1\r\nB: 2\r\r\n\r\n", 2, Fault::BareCr),
            (b"A: 1\r\n\r\r\nx", 2, Fault::BareCr),
            (b"A: 1\n\rx", 2, Fault::BareCr),
            (b"A: 1\r", 1, Fault::BareCr),
        ] {
            let found = read(data).unwrap_err();
            assert_eq!(found, (line, fault), "{}", data.escape_ascii());
        }
        assert!(read(b"A: 1\n\nx\r\r\ny : z\r").is_ok(), "it is the body's");
    }

    #[test]
    fn a_header_is_whole_once_its_empty_line_is_there() {
        for (data, whole) in [
            (&b"A: 1\r\n"[..], false),
            (b"A: 1\r\n\r", false),
            (b"A: 1\r\n\r\n", true),
            (b"A: 1\n\n", true),
            (b"\r\n", true),
            (b"", false),
        ] {
            assert_eq!(is_whole(data), whole, "{}", data.escape_ascii());
        }
    }
}
