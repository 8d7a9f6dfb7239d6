//! A tolerant scanner for HTML as mail has it: tags with their attributes, and the text between. It takes anything,
//! builds no tree, and works in linear time and constant memory besides what it lends, however hostile its input.

use std::borrow::Cow;

/// What stands in the HTML, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// Text with its references (`&amp;`), still to be decoded with [`decode`].
    Text(&'a str),
    /// `<name …>`; a `/` before the `>` means nothing.
    Open(Tag<'a>),
    /// `</name>`.
    Close(&'a str),
}

/// An opening tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag<'a> {
    /// As written: compare without regard to case.
    pub name: &'a str,
    attributes: &'a str,
}

impl<'a> Tag<'a> {
    /// Whether it is an element of this name.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// The value of an attribute, decoded; empty where it has none.
    pub fn attribute(&self, name: &str) -> Option<Cow<'a, str>> {
        let mut rest = self.attributes;
        while let Some((found, value, tail)) = next_attribute(rest) {
            if found.eq_ignore_ascii_case(name) {
                return Some(decode(value));
            }
            rest = tail;
        }
        None
    }
}

/// Whether an element of this name has no content, hence no end.
pub(crate) fn is_void(name: &str) -> bool {
    const VOID: &[&str] = &[
        "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source",
        "track", "wbr",
    ];
    VOID.iter().any(|void| void.eq_ignore_ascii_case(name))
}

/// Decodes references; control characters among them become spaces.
pub(crate) fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let decoded = html_escape::decode_html_entities(text);
    if decoded.contains(|c: char| c.is_control() && !c.is_ascii_whitespace()) {
        let safe = |c: char| if c.is_control() { ' ' } else { c };
        return Cow::Owned(decoded.chars().map(safe).collect());
    }
    decoded
}

/// `name`, `name=value`, `name="value"`…: name, value, and what follows.
fn next_attribute(text: &str) -> Option<(&str, &str, &str)> {
    let text = text.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/');
    if text.is_empty() {
        return None;
    }
    // A "=" at the begin belongs to the name, so that there is always progress.
    let end = text
        .char_indices()
        .skip(1)
        .find(|(_, c)| c.is_ascii_whitespace() || matches!(c, '=' | '/'))
        .map_or(text.len(), |(at, _)| at);
    let (name, rest) = text.split_at(end);
    let Some(value) = rest.trim_ascii_start().strip_prefix('=') else {
        return Some((name, "", rest));
    };
    let value = value.trim_ascii_start();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    if let Some(quote) = quote {
        let inner = &value[1..];
        let end = inner.find(quote).unwrap_or(inner.len());
        return Some((name, &inner[..end], inner.get(end + 1..).unwrap_or("")));
    }
    let end = value.find(|c: char| c.is_ascii_whitespace());
    let (value, rest) = value.split_at(end.unwrap_or(value.len()));
    Some((name, value, rest))
}

/// Reads a document token by token.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    rest: &'a str,
    /// The element whose text is no HTML (`script` and the like), until its end tag.
    raw: Option<&'a str>,
    /// No such end tag follows any more: not to be looked for again, lest the time become quadratic.
    ends_missing: Vec<&'a str>,
}

/// Elements whose text holds no tags.
const RAW: &[&str] = &["script", "style", "textarea", "title", "xmp", "iframe"];

impl<'a> Scanner<'a> {
    pub fn new(html: &'a str) -> Self {
        Self {
            rest: html,
            raw: None,
            ends_missing: Vec::new(),
        }
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }

    /// The text of a raw element: up to its end tag, which stays, or nothing if there is none.
    fn raw_text(&mut self, name: &'a str) -> &'a str {
        if self
            .ends_missing
            .iter()
            .any(|n| n.eq_ignore_ascii_case(name))
        {
            return "";
        }
        let mut from = 0;
        while let Some(at) = self.rest[from..].find("</") {
            let at = from + at;
            let candidate = self.rest.as_bytes().get(at + 2..at + 2 + name.len());
            if candidate.is_some_and(|c| c.eq_ignore_ascii_case(name.as_bytes())) {
                return self.take(at);
            }
            from = at + 2;
        }
        self.ends_missing.push(name);
        ""
    }

    /// The length of what begins with `<` at the start of the rest, and the token; `None` for plain text.
    fn markup(&self) -> Option<(usize, Option<Token<'a>>)> {
        let text = self.rest;
        let second = *text.as_bytes().get(1)?;
        if let Some(comment) = text.strip_prefix("<!--") {
            // Without an end the rest is a comment, as browsers have it.
            let end = comment.find("-->").map_or(text.len(), |at| at + 7);
            return Some((end, None));
        }
        if matches!(second, b'!' | b'?') {
            return Some((text.find('>').map_or(text.len(), |at| at + 1), None));
        }
        let closing = second == b'/';
        let from = 1 + usize::from(closing);
        if !text.as_bytes().get(from)?.is_ascii_alphabetic() {
            return None;
        }
        let name_end = text[from..]
            .find(|c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>'))
            .map_or(text.len(), |at| from + at);
        let end = tag_end(text, name_end);
        let name = &text[from..name_end];
        let token = if closing {
            Token::Close(name)
        } else {
            Token::Open(Tag {
                name,
                attributes: text[name_end..end].trim_end_matches('>'),
            })
        };
        Some((end, Some(token)))
    }
}

/// Behind the `>` that ends a tag; one within a quoted value does not.
fn tag_end(text: &str, from: usize) -> usize {
    let mut quote = None;
    let mut before = 0;
    for (at, b) in text.bytes().enumerate().skip(from) {
        match quote {
            Some(q) if q == b => quote = None,
            None if b == b'>' => return at + 1,
            None if matches!(b, b'"' | b'\'') && before == b'=' => quote = Some(b),
            _ => {}
        }
        if !b.is_ascii_whitespace() {
            before = b;
        }
    }
    text.len()
}

impl<'a> Iterator for Scanner<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        if let Some(name) = self.raw.take() {
            let text = self.raw_text(name);
            if !text.is_empty() {
                return Some(Token::Text(text));
            }
        }
        while !self.rest.is_empty() {
            if self.rest.starts_with('<') {
                if let Some((length, token)) = self.markup() {
                    self.take(length);
                    if let Some(Token::Open(tag)) = &token
                        && RAW.iter().any(|raw| tag.is(raw))
                    {
                        self.raw = Some(tag.name);
                    }
                    if token.is_some() {
                        return token;
                    }
                    continue;
                }
                // A "<" that begins no tag is text, with what follows it.
                let end = self.rest[1..]
                    .find('<')
                    .map_or(self.rest.len(), |at| at + 1);
                return Some(Token::Text(self.take(end)));
            }
            let end = self.rest.find('<').unwrap_or(self.rest.len());
            return Some(Token::Text(self.take(end)));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Scanner, Token};

    fn tokens(html: &str) -> String {
        Scanner::new(html)
            .map(|token| match token {
                Token::Text(text) => format!("'{text}'"),
                Token::Open(tag) => format!("<{}>", tag.name),
                Token::Close(name) => format!("</{name}>"),
            })
            .collect()
    }

    #[test]
    fn tags_and_text_are_told_apart() {
        for (html, expected) in [
            ("a<b>c</b >d", "'a'<b>'c'</b>'d'"),
            ("<a title='x>y' href=\">\">z", "<a>'z'"),
            ("1 < 2 <3<br/>", "'1 ''< 2 ''<3'<br>"),
            ("<!-- <p> -->x<!doctype html>y", "'x''y'"),
            ("x<!-- y", "'x'"),
            ("<style>a<b</STYLE>c", "<style>'a<b'</STYLE>'c'"),
            ("<script>a<b>", "<script>'a'<b>"),
            ("<", "'<'"),
            ("<a", "<a>"),
            ("</", "'</'"),
        ] {
            assert_eq!(tokens(html), expected, "{html:?}");
        }
    }

    #[test]
    fn attributes_are_found_however_they_are_written() {
        for (html, expected) in [
            ("<a href=x>", Some("x")),
            ("<a href='x y'>", Some("x y")),
            ("<a b c=\"d\" HREF = \"x&amp;y\">", Some("x&y")),
            ("<a href>", Some("")),
            ("<a/href=x>", Some("x")),
            ("<a =b =href href=x>", Some("x")),
            ("<a xhref=y>", None),
        ] {
            let Some(Token::Open(tag)) = Scanner::new(html).next() else {
                panic!("{html}");
            };
            assert_eq!(tag.attribute("href").as_deref(), expected, "{html:?}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_scanned(html in "(\\PC|[<>/=\"'a-c! -]{0,6}|<style>|</style|<!--|-->){0,40}") {
            for token in Scanner::new(&html) {
                if let Token::Open(tag) = token {
                    let _ = tag.attribute("a");
                    let _ = crate::html_style::Style::of(&tag);
                }
            }
        }
    }
}
