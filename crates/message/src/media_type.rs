//! Media types (RFC 2045 §5.1, RFC 6838 §4.2): what a caller gives, and what a file's name says.

use crate::error::{Invalid, quoted};

/// With parameters; names and subtypes are much shorter.
const MAX_LENGTH: usize = 255;
/// RFC 6838 §4.2.
const MAX_NAME: usize = 127;

/// What nothing is known of (RFC 2046 §4.5.1).
pub(crate) const UNKNOWN: &str = "application/octet-stream";

/// Checks `type/subtype; name=value…` and writes it canonically: the type in lower case, one space before each
/// parameter. `multipart/*` is refused, since a file is one part.
pub(crate) fn parse(field: &str, text: &str) -> Result<String, Invalid> {
    let canonical = canonical(text.trim_matches([' ', '\t'])).ok_or_else(|| {
        let message = format!("invalid media type in \"{field}\": {}", quoted(text));
        Invalid::bad(field, message)
            .with_hint("A media type looks like application/pdf or text/csv; charset=utf-8.")
    })?;
    if canonical.starts_with("multipart/") {
        let message = format!("\"{field}\" cannot be a multipart type");
        return Err(
            Invalid::bad(field, message).with_hint("Give each part as an attachment of its own.")
        );
    }
    Ok(canonical)
}

/// Whether `text` is as [`parse`] leaves it.
pub(crate) fn is_canonical(text: &str) -> bool {
    !text.starts_with("multipart/") && canonical(text).is_some_and(|form| form == text)
}

/// The type by the file name's extension.
pub(crate) fn guess(filename: &str) -> &'static str {
    mime_guess::from_path(filename)
        .first_raw()
        .unwrap_or(UNKNOWN)
}

/// Adds the charset of a text that was given as a string.
pub(crate) fn with_utf8(mut media_type: String) -> String {
    if media_type.starts_with("text/") && !has_parameter(&media_type, "charset") {
        media_type.push_str("; charset=utf-8");
    }
    media_type
}

/// The charset that a text given as a string, which goes out in UTF-8, cannot be said to have.
pub(crate) fn wrong_charset<'a>(canonical: &'a str, text: &str) -> Option<&'a str> {
    let charset = parameter(canonical, "charset")?.trim_matches('"');
    let right = ["utf-8", "utf8"]
        .iter()
        .any(|name| charset.eq_ignore_ascii_case(name))
        || (charset.eq_ignore_ascii_case("us-ascii") && text.is_ascii());
    (!right).then_some(charset)
}

fn has_parameter(canonical: &str, name: &str) -> bool {
    parameter(canonical, name).is_some()
}

/// The value of a parameter, quotes included.
fn parameter<'a>(canonical: &'a str, name: &str) -> Option<&'a str> {
    let mut parameters = canonical.split("; ").skip(1);
    parameters.find_map(|p| {
        p.split_once('=')
            .filter(|(n, _)| *n == name)
            .map(|(_, v)| v)
    })
}

fn canonical(text: &str) -> Option<String> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    let (essence, mut rest) = text.split_at(text.find(';').unwrap_or(text.len()));
    let (kind, subtype) = essence.trim_end_matches([' ', '\t']).split_once('/')?;
    if !is_restricted_name(kind) || !is_restricted_name(subtype) {
        return None;
    }
    let mut out = format!("{kind}/{subtype}").to_ascii_lowercase();
    while let Some(parameter) = rest.strip_prefix(';') {
        let (name, value, tail) = split_parameter(parameter)?;
        let name = name.to_ascii_lowercase();
        // These are ours to write.
        if matches!(name.as_str(), "name" | "boundary") || has_parameter(&out, &name) {
            return None;
        }
        out.push_str("; ");
        out.push_str(&name);
        out.push('=');
        out.push_str(value);
        rest = tail;
    }
    (out.len() <= MAX_LENGTH).then_some(out)
}

/// ` name=value` up to the next `;`: name, value (quotes included), and what follows.
fn split_parameter(text: &str) -> Option<(&str, &str, &str)> {
    let text = text.trim_start_matches([' ', '\t']);
    let (name, value) = text.split_once('=')?;
    let end = match value.strip_prefix('"') {
        Some(inner) => inner.find('"')? + 2,
        None => value.find([';', ' ', '\t']).unwrap_or(value.len()),
    };
    let (value, tail) = value.split_at(end);
    let tail = tail.trim_start_matches([' ', '\t']);
    let value_ok = match value.strip_prefix('"') {
        // Without escapes and the characters that break out of the header or the parameter list.
        Some(inner) => inner[..inner.len() - 1]
            .bytes()
            .all(|b| matches!(b, b' '..=b'~') && !matches!(b, b'\\' | b'"' | b';')),
        None => is_token(value),
    };
    (is_token(name) && value_ok && (tail.is_empty() || tail.starts_with(';')))
        .then_some((name, value, tail))
}

/// RFC 6838 §4.2.
fn is_restricted_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
}

/// RFC 2045 §5.1, without the marks of RFC 2231 and RFC 2047.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=*'%".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::{guess, is_canonical, parse, with_utf8, wrong_charset};

    #[test]
    fn media_types_are_made_canonical_or_refused() {
        for (given, expected) in [
            ("image/png", Some("image/png")),
            ("Image/PNG", Some("image/png")),
            (
                "text/calendar ;  Method=REQUEST;charset=utf-8",
                Some("text/calendar; method=REQUEST; charset=utf-8"),
            ),
            ("text/x; a=\"b c\"", Some("text/x; a=\"b c\"")),
            (
                "application/vnd.ms-excel.sheet+x",
                Some("application/vnd.ms-excel.sheet+x"),
            ),
            ("", None),
            ("text", None),
            ("/x", None),
            ("text/", None),
            ("text/a b", None),
            ("text/x;", None),
            ("text/x; a", None),
            ("text/x; a=", None),
            ("text/x; a=\"b", None),
            ("text/x; a=\"b\\\"c\"", None),
            ("text/x; a=b c", None),
            ("text/x; name=b", None),
            ("text/x; boundary=b", None),
            ("text/x; a=b; A=c", None),
            ("text/x\r\nX: y", None),
            ("text/x; a=\"\r\n\"", None),
            ("text/ä", None),
            ("multipart/mixed", None),
            ("MULTIPART/x; a=b", None),
        ] {
            let found = parse("t", given).ok();
            assert_eq!(found.as_deref(), expected, "{given:?}");
            assert!(found.is_none_or(|form| is_canonical(&form)), "{given:?}");
        }
    }

    #[test]
    fn a_text_is_in_utf8() {
        for (given, text, wrong) in [
            ("text/csv", "ä", None),
            ("text/csv; charset=UTF-8", "ä", None),
            ("text/csv; charset=\"utf-8\"", "ä", None),
            ("text/csv; charset=utf8; header=present", "ä", None),
            ("text/csv; charset=us-ascii", "a", None),
            ("text/csv; charset=US-ASCII", "ä", Some("US-ASCII")),
            ("text/csv; charset=iso-8859-1", "a", Some("iso-8859-1")),
            ("application/xml; charset=\"utf-16\"", "a", Some("utf-16")),
        ] {
            let media_type = parse("t", given).unwrap();
            assert_eq!(wrong_charset(&media_type, text), wrong, "{given}");
        }
    }

    #[test]
    fn a_file_name_says_its_type() {
        assert_eq!(guess("a.PDF"), "application/pdf");
        assert_eq!(guess("logo.png"), "image/png");
        assert_eq!(guess("noext"), "application/octet-stream");
        assert_eq!(guess(""), "application/octet-stream");
        let text = with_utf8("text/csv".to_owned());
        assert_eq!(text, "text/csv; charset=utf-8");
        assert_eq!(with_utf8(text.clone()), text);
    }
}
