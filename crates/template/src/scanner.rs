//! The start tags of an HTML source, and a copy of it for the inliner.
//!
//! The copy is written so that the inliner's parser finds exactly the tags in it that are found here: attribute names
//! are plain, values quoted, and what changes the reading of the rest (comments, frames, scripts, SVG) is left out.

use std::ops::Range;

use crate::fault::{Fault, Part};
use crate::nesting::Nesting;
use crate::tags::{Tag, placeholder};

/// The attribute that numbers the elements in the copy.
pub(crate) const NUMBER: &str = "data-tplq";

/// Elements whose tags are left out of the copy: inside them tags are read in another way. None has a style in a mail.
const LEFT_OUT: &[&str] = &[
    "svg",
    "math",
    "template",
    "select",
    "iframe",
    "frameset",
    "frame",
    "noembed",
    "noframes",
    "noscript",
    "plaintext",
    "xmp",
    "listing",
];
/// How many attributes of an element the copy has: its parser compares each name with all before it.
const ATTRIBUTES: usize = 100;
/// Elements whose content is text alone.
const TEXT_ALONE: &[&str] = &["style", "title", "script", "textarea"];

/// A source as the inliner is to see it.
pub(crate) struct Scanned {
    pub copy: String,
    /// The elements that are numbered in the copy.
    pub elements: Vec<Element>,
}

/// A start tag whose `style` may be changed.
pub(crate) struct Element {
    /// The end of its name, where a new attribute goes.
    pub name_end: usize,
    /// Its `style`'s value, without the quotes.
    pub style: Option<Range<usize>>,
    /// The numbers of the template tags in that value.
    pub style_tags: Vec<usize>,
}

/// Goes through the source once. A fault where too much of it is open at once.
pub(crate) fn scan(source: &str, tags: &[Tag]) -> Result<Scanned, Fault> {
    let mut scanner = Scanner {
        source,
        tags,
        nesting: Nesting::default(),
        scanned: Scanned {
            copy: String::with_capacity(source.len() * 2),
            elements: Vec::new(),
        },
    };
    let mut at = 0;
    while at < source.len() {
        at = scanner.step(at)?;
    }
    Ok(scanner.scanned)
}

struct Scanner<'a> {
    source: &'a str,
    tags: &'a [Tag],
    nesting: Nesting,
    scanned: Scanned,
}

impl<'a> Scanner<'a> {
    /// Copies what stands at `at`. Says where it went on to.
    fn step(&mut self, at: usize) -> Result<usize, Fault> {
        let rest = &self.source[at..];
        let letter = |from: usize| {
            rest.as_bytes()
                .get(from)
                .is_some_and(u8::is_ascii_alphabetic)
        };
        if let Some(tag) = self.tag_at(at) {
            return Ok(tag.range.end);
        }
        if rest.starts_with("<!--") {
            // Nothing in a comment is styled.
            return Ok(rest
                .find("-->")
                .map_or(self.source.len(), |length| at + length + 3));
        }
        if rest.starts_with("<!") || rest.starts_with("<?") || rest.starts_with("</") && !letter(2)
        {
            let end = rest.find('>').map_or(rest.len(), |length| length + 1);
            // It says whether class names are compared in any case.
            if rest[..end].eq_ignore_ascii_case("<!doctype html>") {
                self.scanned.copy.push_str(&rest[..end]);
            }
            return Ok(at + end);
        }
        if rest.starts_with("</") {
            return Ok(self.end_tag(at));
        }
        if rest.starts_with('<') && letter(1) {
            return self.start_tag(at);
        }
        let next = rest.chars().next().unwrap_or_default();
        match next {
            '<' => self.scanned.copy.push_str("&lt;"),
            other => self.scanned.copy.push(other),
        }
        Ok(at + next.len_utf8())
    }

    fn tag_at(&self, at: usize) -> Option<&'a Tag> {
        let index = self
            .tags
            .binary_search_by_key(&at, |tag| tag.range.start)
            .ok()?;
        self.tags.get(index)
    }

    /// The end of the name that begins at `at`, and the name; `None` for one that is not plain.
    fn name(&self, at: usize) -> (usize, Option<String>) {
        let length = self.source[at..]
            .bytes()
            .take_while(|byte| !byte.is_ascii_whitespace() && !b"/>{".contains(byte))
            .count();
        let name = &self.source[at..at + length];
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-:_".contains(&byte);
        let name = name.bytes().all(plain).then(|| name.to_ascii_lowercase());
        (at + length, name)
    }

    fn end_tag(&mut self, at: usize) -> usize {
        let (name_end, name) = self.name(at + 2);
        let end = self.attributes(name_end).end;
        if let Some(name) = name.filter(|name| copied(name)) {
            self.scanned.copy.extend(["</", &name, ">"]);
            self.nesting.end(&name);
        }
        end
    }

    /// Copies a start tag, and the content of one that has only text.
    fn start_tag(&mut self, at: usize) -> Result<usize, Fault> {
        let (name_end, name) = self.name(at + 1);
        let attributes = self.attributes(name_end);
        let Some(name) = name.filter(|name| copied(name)) else {
            return Ok(attributes.end);
        };
        self.scanned.copy.extend(["<", &name]);
        if attributes.open {
            // Tags between the attributes: which of them the element will have is not known.
            self.scanned.copy.push_str(" data-css-inline=\"ignore\"");
        } else {
            let number = self.scanned.elements.len().to_string();
            self.scanned
                .copy
                .extend([" ", NUMBER, "=\"", &number, "\"", &attributes.text]);
            self.scanned.elements.push(Element {
                name_end,
                style: attributes.style,
                style_tags: attributes.style_tags,
            });
        }
        self.scanned.copy.push('>');
        if TEXT_ALONE.contains(&name.as_str()) {
            return Ok(self.text_alone(&name, attributes.end));
        }
        self.nesting
            .start(&name)
            .map_err(|message| Fault::at(Part::Html, self.source, at, message))?;
        Ok(attributes.end)
    }

    /// The content of an element that has no elements, and its end tag. Only that of `<style>` is for the inliner,
    /// and only without template tags.
    fn text_alone(&mut self, name: &str, from: usize) -> usize {
        let end = end_of_text(self.source, from, name);
        let next = self.tags.partition_point(|tag| tag.range.end <= from);
        let tagged = self.tags.get(next).is_some_and(|tag| tag.range.start < end);
        if name == "style" && !tagged {
            self.scanned.copy.push_str(&self.source[from..end]);
        }
        self.scanned.copy.extend(["</", name, ">"]);
        let behind = (end + 2 + name.len()).min(self.source.len());
        self.attributes(behind).end
    }

    /// What stands between the name of a tag and its `>`.
    fn attributes(&self, from: usize) -> Attributes {
        let mut found = Attributes {
            text: String::new(),
            end: from,
            count: 0,
            open: false,
            style: None,
            style_tags: Vec::new(),
        };
        let bytes = self.source.as_bytes();
        let mut at = from;
        while at < bytes.len() && bytes[at] != b'>' {
            if let Some(tag) = self.tag_at(at) {
                found.open = true;
                at = tag.range.end;
            } else if bytes[at].is_ascii_whitespace() || bytes[at] == b'/' {
                at += 1;
            } else {
                at = self.attribute(at, &mut found);
            }
        }
        found.end = (at + 1).min(bytes.len());
        found
    }

    /// One attribute. Says where it ends.
    fn attribute(&self, from: usize, found: &mut Attributes) -> usize {
        let bytes = self.source.as_bytes();
        let ends_name = |at: usize| {
            bytes[at].is_ascii_whitespace()
                || b"/>".contains(&bytes[at])
                || bytes[at] == b'=' && at > from
        };
        let skip_space = |mut at: usize| {
            while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
                at += 1;
            }
            at
        };
        let mut at = from;
        while at < bytes.len() && !ends_name(at) {
            if self.tag_at(at).is_some() {
                // A name that a template tag has a part in.
                found.open = true;
                return at;
            }
            at += 1;
        }
        let name = &bytes[from..at];
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_:.@".contains(byte);
        let name = std::str::from_utf8(name)
            .ok()
            .filter(|name| found.count < ATTRIBUTES && name.bytes().all(|byte| plain(&byte)))
            .map(str::to_ascii_lowercase);
        found.count += 1;
        let equals = skip_space(at);
        if bytes.get(equals) != Some(&b'=') {
            if let Some(name) = name {
                found.text.extend([" ", &name]);
            }
            return at;
        }
        let start = skip_space(equals + 1);
        let quote = bytes
            .get(start)
            .copied()
            .filter(|byte| matches!(byte, b'"' | b'\''));
        let start = start + usize::from(quote.is_some());
        let (end, value, tags) = self.value(start, quote);
        if let Some(name) = name {
            found
                .text
                .extend([" ", &name, "=\"", &value.replace('"', "&quot;"), "\""]);
            if name == "style" {
                // Only a value in double quotes can be written anew.
                found.open |= quote != Some(b'"') || found.style.is_some();
                found.style = Some(start..end);
                found.style_tags = tags;
            }
        }
        end + usize::from(quote.is_some())
    }

    /// The value from `start` to its quote (or to white space or `>`), its tags as words.
    fn value(&self, start: usize, quote: Option<u8>) -> (usize, String, Vec<usize>) {
        let bytes = self.source.as_bytes();
        let (mut at, mut from, mut value, mut numbers) = (start, start, String::new(), Vec::new());
        while at < bytes.len() {
            if let Ok(number) = self.tags.binary_search_by_key(&at, |tag| tag.range.start) {
                value.push_str(&self.source[from..at]);
                value.push_str(&placeholder(number));
                numbers.push(number);
                at = self.tags[number].range.end;
                from = at;
                continue;
            }
            let ends = match quote {
                Some(quote) => bytes[at] == quote,
                None => bytes[at].is_ascii_whitespace() || bytes[at] == b'>',
            };
            if ends {
                break;
            }
            at += 1;
        }
        value.push_str(&self.source[from..at]);
        (at, value, numbers)
    }
}

fn copied(name: &str) -> bool {
    !LEFT_OUT.contains(&name)
}

struct Attributes {
    /// As the copy has them.
    text: String,
    /// Behind the `>`.
    end: usize,
    count: usize,
    /// Whether it is open what attributes there will be.
    open: bool,
    style: Option<Range<usize>>,
    style_tags: Vec<usize>,
}

/// Where the content of an element that holds only text ends: at its end tag, or with the source.
fn end_of_text(source: &str, from: usize, name: &str) -> usize {
    let bytes = source.as_bytes();
    let is_end = |at: &usize| {
        let behind = at + 2 + name.len();
        bytes
            .get(at + 2..behind)
            .is_some_and(|found| found.eq_ignore_ascii_case(name.as_bytes()))
            && bytes
                .get(behind)
                .is_none_or(|byte| byte.is_ascii_whitespace() || b"/>".contains(byte))
    };
    source[from..]
        .match_indices("</")
        .map(|(at, _)| from + at)
        .find(is_end)
        .unwrap_or(source.len())
}
