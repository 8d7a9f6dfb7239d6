//! What stands before the `@` (RFC 5321 §4.1.2 `Local-part`, with the characters of RFC 6531 §3.3).
//!
//! Canonical form: a dot-atom wherever that says the same, else a quoted string in which only `"` and `\`
//! are escaped. So the same mailbox has one spelling, and a recipient given in two gets one mail.

use std::borrow::Cow;

/// The canonical form; `None` for what is no local part or must not reach an envelope.
pub(crate) fn canonical(local: &str) -> Option<Cow<'_, str>> {
    if is_dot_atom(local) {
        return Some(Cow::Borrowed(local));
    }
    let content = unquoted(local)?;
    if is_dot_atom(&content) {
        return Some(Cow::Owned(content));
    }
    let mut out = String::with_capacity(local.len());
    push_quoted(&mut out, &content);
    Some(Cow::Owned(out))
}

/// Appends `text` as a quoted string (RFC 5322 §3.2.4).
pub(crate) fn push_quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

/// RFC 5322 §3.2.3.
pub(crate) const fn is_atext(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(
            b,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'/'
                | b'='
                | b'?'
                | b'^'
                | b'_'
                | b'`'
                | b'{'
                | b'|'
                | b'}'
                | b'~'
        )
}

fn is_dot_atom(local: &str) -> bool {
    let mut after_dot = true;
    for b in local.bytes() {
        if b == b'.' {
            if after_dot {
                return false;
            }
            after_dot = true;
        } else if is_atext(b) || !b.is_ascii() {
            after_dot = false;
        } else {
            return false;
        }
    }
    !after_dot && (local.is_ascii() || local.chars().all(|c| c.is_ascii() || is_visible(c)))
}

/// What a quoted string says, not empty; `None` if it is none.
fn unquoted(local: &str) -> Option<String> {
    let inner = local.strip_prefix('"')?.strip_suffix('"')?;
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => chars.next()?,
            '"' => return None,
            c => c,
        };
        // Angle brackets are legal here (RFC 5321 §4.1.2), but no mailbox has them, and a relay that looks for the
        // first ">" would take what follows for parameters of RCPT. A tab is not legal, quoted or not.
        if matches!(c, '<' | '>') || !(c == ' ' || is_visible(c)) {
            return None;
        }
        out.push(c);
    }
    (!out.is_empty()).then_some(out)
}

/// Neither a control character nor white space of any kind.
fn is_visible(c: char) -> bool {
    !c.is_control() && !c.is_whitespace()
}

/// Whether there is a `=?charset?encoding?text?=`: some readers decode it, so that they see another address than relays do.
pub(crate) fn has_encoded_word(text: &str) -> bool {
    text.match_indices("=?").any(|(at, start)| {
        let mut parts = text[at + start.len()..].splitn(4, '?').skip(1);
        let encoding = parts.next().unwrap_or_default();
        let end = parts.nth(1).unwrap_or_default();
        ["b", "q"].iter().any(|e| e.eq_ignore_ascii_case(encoding)) && end.starts_with('=')
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{canonical, has_encoded_word, push_quoted};

    #[test]
    fn quotes_stay_only_where_they_are_needed() {
        let table = [
            ("a", Some("a")),
            ("a.b+c", Some("a.b+c")),
            ("grün", Some("grün")),
            (r#""abc""#, Some("abc")),
            (r#""a.b""#, Some("a.b")),
            (r#""a\bc""#, Some("abc")),
            (r#""grün""#, Some("grün")),
            (r#""a b""#, Some(r#""a b""#)),
            (r#"" a""#, Some(r#"" a""#)),
            (r#""a\ b""#, Some(r#""a b""#)),
            (r#""a@b""#, Some(r#""a@b""#)),
            (r#""a,b""#, Some(r#""a,b""#)),
            (r#""a..b""#, Some(r#""a..b""#)),
            (r#""a.""#, Some(r#""a.""#)),
            (r#""a\"b\\c""#, Some(r#""a\"b\\c""#)),
            ("", None),
            ("a b", None),
            ("a..b", None),
            ("a@b", None),
            (r#"""#, None),
            (r#""""#, None),
            (r#""a"#, None),
            (r#"a""#, None),
            (r#""a"b""#, None),
            (r#""a" "b""#, None),
            (r#""a"."b""#, None),
            (r#""a\""#, None),
            (r#""a<b""#, None),
            (r#""a\>b""#, None),
            ("\"a\tb\"", None),
            ("\"a\\\tb\"", None),
            ("\"a\r\nb\"", None),
            ("\"a\\\nb\"", None),
            ("\"a\0b\"", None),
            ("\"a\u{85}b\"", None),
            ("\"a\u{2028}b\"", None),
            ("a\u{a0}b", None),
            ("a\u{85}b", None),
        ];
        for (given, expected) in table {
            assert_eq!(canonical(given).as_deref(), expected, "{given:?}");
        }
    }

    #[test]
    fn encoded_words_are_told_from_other_question_marks() {
        for word in ["=?utf-8?q?a?=", "x=?utf-8?B?YQ==?=y", "=?=?x?Q??="] {
            assert!(has_encoded_word(word), "{word}");
        }
        for text in ["=?", "=?x?q?y", "=?x?y?z?=", "?=x?q?y?=", "=?x?q?y?z="] {
            assert!(!has_encoded_word(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_safe_and_a_fixed_point(local in "(\\PC|[a-z.\"\\\\ <>@]{0,4}|\r|\n|\t|\0){0,12}") {
            for given in [local.clone(), format!("\"{local}\"")] {
                let Some(form) = canonical(&given) else { continue };
                prop_assert!(!form.contains(|c: char| c.is_control() || matches!(c, '<' | '>')), "{form:?}");
                prop_assert!(!form.contains(' ') || form.starts_with('"'), "{form:?}");
                prop_assert_eq!(canonical(&form), Some(form.clone()));
            }
        }

        #[test]
        fn every_quoted_text_is_accepted_and_says_the_same(text in "[ -;=?-~]{1,40}") {
            let mut given = String::new();
            push_quoted(&mut given, &text);
            let form = canonical(&given).expect("legal");
            prop_assert!(form == given || form == text.as_str());
            let escaped: String = text.chars().flat_map(|c| ['\\', c]).collect();
            let escaped = format!("\"{escaped}\"");
            prop_assert_eq!(canonical(&escaped), Some(form.clone()), "however it is spelt");
        }
    }
}
