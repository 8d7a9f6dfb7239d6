//! An MJML document whose template tags are replaced by what MJML keeps.

use std::ops::Range;

use crate::tags::{Tag, placeholder};

/// The document with a placeholder for each tag: a word in attribute values and in text, an attribute inside a tag, a
/// comment between elements.
pub(crate) struct Marked {
    pub(crate) text: String,
    /// Where pieces that are taken over begin: in the text, and in the source.
    pieces: Vec<(usize, usize)>,
}

impl Marked {
    pub(crate) fn new(source: &str, tags: &[Tag], document: Range<usize>) -> Self {
        let mut marked = Self {
            text: String::with_capacity(document.len() * 2),
            pieces: Vec::new(),
        };
        let (mut at, mut place) = (document.start, Place::Content);
        for (number, tag) in tags.iter().enumerate() {
            if tag.range.start < at || tag.range.end > document.end {
                continue;
            }
            let piece = &source[at..tag.range.start];
            place = place.after(piece);
            marked.take(piece, at);
            // Whatever the placeholder is blamed for is the tag's.
            marked.pieces.push((marked.text.len(), tag.range.start));
            let word = placeholder(number);
            match place {
                Place::Content if !tag.prints => marked.text.extend(["<!--", &word, "-->"]),
                Place::Tag => marked.text.extend([" ", &word, "=\"\" "]),
                _ => marked.text.push_str(&word),
            }
            at = tag.range.end;
        }
        marked.take(&source[at.min(document.end)..document.end], at);
        marked
    }

    fn take(&mut self, piece: &str, at: usize) {
        self.pieces.push((self.text.len(), at));
        self.text.push_str(piece);
    }

    /// Where in the source that stands which is at `at` in the text: in a placeholder, at most where its tag ends.
    pub(crate) fn in_source(&self, at: usize) -> usize {
        let next = self.pieces.partition_point(|(start, _)| *start <= at);
        let Some((start, source)) = next.checked_sub(1).map(|piece| self.pieces[piece]) else {
            return 0;
        };
        let end = self
            .pieces
            .get(next)
            .map_or(usize::MAX, |(_, source)| *source);
        (source + (at - start)).min(end)
    }

    /// The place in the text of a line and a column, both from 1, the column in characters.
    pub(crate) fn offset(&self, line: u32, column: u32) -> usize {
        let lines = self.text.split_inclusive('\n');
        let before: usize = lines.clone().take(line as usize - 1).map(str::len).sum();
        let within: usize = self.text[before..]
            .chars()
            .take(column as usize - 1)
            .map(char::len_utf8)
            .sum();
        before + within
    }
}

/// Where in the XML a byte stands.
#[derive(Clone, Copy)]
enum Place {
    Content,
    Tag,
    Value(u8),
    Comment,
    /// In an element whose content is not markup.
    Raw,
}

impl Place {
    fn after(self, text: &str) -> Self {
        let mut place = self;
        for (at, byte) in text.bytes().enumerate() {
            let rest = &text.as_bytes()[at..];
            place = match (place, byte) {
                (Self::Content, b'<') if rest.starts_with(b"<!--") => Self::Comment,
                (Self::Comment, b'>') if text.as_bytes()[..at].ends_with(b"--") => Self::Content,
                (Self::Content | Self::Raw, b'<') => Self::Tag,
                (Self::Tag, b'"' | b'\'') => Self::Value(byte),
                (Self::Value(quote), _) if quote == byte => Self::Tag,
                (Self::Tag, b'>') if opens_raw(&text[..at]) => Self::Raw,
                (Self::Tag, b'>') => Self::Content,
                (kept, _) => kept,
            };
        }
        place
    }
}

fn opens_raw(before: &str) -> bool {
    let tag = before.rfind('<').map_or("", |at| &before[at..]);
    ["<mj-style", "<mj-title", "<mj-preview", "<style", "<title"]
        .iter()
        .any(|name| tag.starts_with(name))
}
