//! The addresses in the header of a message that the caller wrote. They decide who gets it, so only what every reader
//! takes for an address is one: nothing that quotes, comments or encoded words hide.

use std::borrow::Cow;

use crate::{
    address,
    error::{Invalid, quoted},
    raw_head::Field,
};

/// Put into `=?` so that it begins no encoded word. No header has this character: control characters are refused.
const BROKEN: u8 = 1;
/// Instead of an `@` that belongs to no address, but perhaps to a quoted local part.
const NO_AT: u8 = 2;

/// Appends the field for the parser, which would decode encoded words and take quotes for addresses.
pub(crate) fn write_plain(field: &Field<'_>, out: &mut Vec<u8>) {
    let (mut quotes, mut escaped, mut comments) = (false, false, 0_usize);
    for line in &field.lines {
        let mut before = 0;
        for &b in *line {
            let hidden = quotes || comments > 0;
            match b {
                b'@' if hidden => out.push(NO_AT),
                b'?' if before == b'=' => out.extend_from_slice(&[BROKEN, b]),
                _ => out.push(b),
            }
            before = b;
            if escaped {
                escaped = false;
                continue;
            }
            match b {
                b'\\' if hidden => escaped = true,
                b'"' if comments == 0 => quotes = !quotes,
                b'(' if !quotes => comments += 1,
                b')' if !quotes => comments = comments.saturating_sub(1),
                _ => {}
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// What the parser found no address in: a name, whatever it holds.
pub(crate) fn of_name(name: &str) -> String {
    name.replace('@', char::from(NO_AT).encode_utf8(&mut [0; 1]))
}

/// Checks what the parser found.
pub(crate) fn check(field: &str, written: &str) -> Result<String, Invalid> {
    let shown: String = written
        .chars()
        .filter(|c| *c != char::from(BROKEN))
        .map(|c| if c == char::from(NO_AT) { '@' } else { c })
        .collect();
    let refuse = |problem: &str| {
        let shown = quoted(&shown);
        Invalid::bad(
            field,
            format!("invalid address in \"{field}\": {shown} {problem}"),
        )
    };
    if shown.contains('@') && !written.contains('@') {
        return Err(refuse("is a name without an address"));
    }
    address::parse_address(field, &shown).map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::{check, of_name, write_plain};
    use crate::raw_head::Field;

    #[test]
    fn what_is_hidden_is_made_plain_and_shown_as_it_was() {
        for (line, expected) in [
            ("To: a@b.example", "To: a@b.example"),
            ("To: \"a@b\" <c@d>", "To: \"a\u{2}b\" <c@d>"),
            ("To: \"a\\\"@b\" <c@d>", "To: \"a\\\"\u{2}b\" <c@d>"),
            ("To: \"a\\@b\" <c@d>", "To: \"a\\\u{2}b\" <c@d>"),
            ("To: \"a\\\\\" c@d", "To: \"a\\\\\" c@d"),
            ("To: c@d (a (x) @b) e@f", "To: c@d (a (x) \u{2}b) e@f"),
            ("To: c@d (\"a) e@f", "To: c@d (\"a) e@f"),
            ("To: \"(\" e@f", "To: \"(\" e@f"),
            ("To: =?utf-8?q?a?=", "To: =\u{1}?utf-8?q?a?="),
        ] {
            let field = Field {
                name: b"To",
                lines: vec![line.as_bytes()],
            };
            let mut out = Vec::new();
            write_plain(&field, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{expected}\r\n"));
        }
        assert_eq!(
            check("raw", "\"a\u{2}b\"@c.example").unwrap(),
            "\"a@b\"@c.example"
        );
        assert!(check("raw", &of_name("a@b.example")).is_err());
        assert_eq!(check("raw", "=\u{1}?x@c.example").unwrap(), "=?x@c.example");
        assert!(check("raw", "=\u{1}?x?q?y?=@c.example").is_err());
    }
}
