//! Where the template's tags stand in a source, without understanding them.

use std::ops::Range;

/// A tag, or a whole `{% raw %}…{% endraw %}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag {
    /// Its bytes in the source.
    pub range: Range<usize>,
    /// Whether it is `{{ … }}`, which prints a value and steers nothing.
    pub prints: bool,
}

/// The tags of a source that [`crate::check`] accepts, in order.
pub(crate) fn tags(source: &str) -> Vec<Tag> {
    let mut tags = Vec::new();
    let mut at = 0;
    while let Some(start) = next_open(source, at) {
        let kind = source.as_bytes()[start + 1];
        let mut end = match kind {
            b'#' => source[start..]
                .find("#}")
                .map_or(source.len(), |length| start + length + 2),
            _ => close(source, start + 2, if kind == b'%' { "%}" } else { "}}" }),
        };
        if kind == b'%' && word(&source[start..end]) == "raw" {
            end = end_of_raw(source, end);
        }
        tags.push(Tag {
            range: start..end,
            prints: kind == b'{',
        });
        at = end;
    }
    tags
}

fn next_open(source: &str, from: usize) -> Option<usize> {
    let pairs = source.as_bytes().get(from..)?.windows(2);
    pairs
        .into_iter()
        .position(|pair| pair[0] == b'{' && matches!(pair[1], b'{' | b'%' | b'#'))
        .map(|at| from + at)
}

/// The end of a tag: behind `closing`, which does not count inside of strings nor, for `}}`, inside of braces.
fn close(source: &str, from: usize, closing: &str) -> usize {
    let bytes = source.as_bytes();
    let (mut at, mut quote, mut braces) = (from, None, 0usize);
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if byte == open => quote = None,
            (None, b'\'' | b'"') => quote = Some(bytes[at]),
            (None, b'{') => braces += 1,
            (None, b'}') if braces > 0 => braces -= 1,
            (None, _) if source.as_bytes()[at..].starts_with(closing.as_bytes()) => {
                return at + closing.len();
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// The first word of a `{% … %}`.
fn word(tag: &str) -> &str {
    let inner = tag.trim_start_matches("{%").trim_end_matches("%}");
    inner
        .trim_matches(['-', '+'])
        .split_whitespace()
        .next()
        .unwrap_or("")
}

fn end_of_raw(source: &str, from: usize) -> usize {
    let mut at = from;
    while let Some(start) = source[at..].find("{%").map(|found| at + found) {
        let end = source[start..]
            .find("%}")
            .map_or(source.len(), |length| start + length + 2);
        if word(&source[start..end]) == "endraw" {
            return end;
        }
        at = start + 2;
    }
    source.len()
}

/// The word that stands for the tag of that number; nobody writes it by chance.
pub(crate) fn placeholder(number: usize) -> String {
    format!("tplq{number}z")
}

/// `text` with each placeholder as the tag that it stands for, and the numbers of the tags in the order found.
pub(crate) fn restore(
    text: &str,
    source: &str,
    tags: &[Tag],
    prefix: &str,
    suffix: &str,
) -> (String, Vec<usize>) {
    let (mut restored, mut found) = (String::with_capacity(text.len()), Vec::new());
    let mut rest = text;
    let open = format!("{prefix}tplq");
    let close = format!("z{suffix}");
    while let Some(at) = rest.find(&open) {
        let behind = &rest[at + open.len()..];
        let digits = behind.bytes().take_while(u8::is_ascii_digit).count();
        let number = behind[..digits]
            .parse::<usize>()
            .ok()
            .filter(|number| *number < tags.len());
        let (kept, next) = match number.zip(behind[digits..].strip_prefix(close.as_str())) {
            Some((number, next)) => {
                restored.push_str(&rest[..at]);
                restored.push_str(&source[tags[number].range.clone()]);
                found.push(number);
                (0, next)
            }
            None => (at + open.len(), behind),
        };
        restored.push_str(&rest[..kept]);
        rest = next;
    }
    restored.push_str(rest);
    (restored, found)
}
