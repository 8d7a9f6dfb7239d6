//! A text as one row of octets, so that what a line break or an escape takes apart stands together again.

use crate::reply::enhanced_code;

/// One octet, and the first and the last place of the text that it comes from.
#[derive(Clone, Copy)]
pub(super) struct Octet {
    pub(super) value: u8,
    pub(super) from: usize,
    pub(super) to: usize,
}

/// What is left out at the beginning of every line but the first, besides the break before it.
#[derive(Clone, Copy)]
pub(super) enum Join {
    AsIs,
    /// An enhanced status code and the space behind it.
    Coded,
    /// The same, and all spaces.
    Trimmed,
    /// What the line before or the next one begins with, too, up to the last sign that is neither letter
    /// nor digit.
    Common,
}

impl Join {
    /// How much of `line` is left out between these two; no line is the one before the first.
    fn skips(self, before: Option<&str>, line: &str, next: &str) -> usize {
        let Some(before) = before else {
            return 0;
        };
        match self {
            Self::AsIs => 0,
            Self::Coded => line.len() - uncoded(line).len(),
            Self::Trimmed => line.len() - uncoded(line.trim_start()).trim_start().len(),
            Self::Common => common(before, line).max(common(line, next)),
        }
    }
}

/// A line behind its enhanced status code, if it has one.
fn uncoded(line: &str) -> &str {
    if enhanced_code(line).is_none() {
        return line;
    }
    line.split_once([' ', '\t']).map_or("", |(_, rest)| rest)
}

/// How much two lines have in common at their beginning, up to the last sign.
fn common(one: &str, other: &str) -> usize {
    let pairs = one.bytes().zip(other.bytes());
    let same = pairs.take_while(|(a, b)| a == b).count();
    let begin = &one.as_bytes()[..same];
    let last = begin.iter().rposition(|b| !b.is_ascii_alphanumeric());
    last.map_or(0, |at| at + 1)
}

/// All octets of `text` but its line breaks and what `join` leaves out.
pub(super) fn octets(text: &str, join: Join) -> impl Iterator<Item = Octet> {
    let (mut before, mut at) = (None, 0);
    text.split('\n').flat_map(move |line| {
        let start = at;
        at += line.len() + 1;
        let next = text.get(at..).unwrap_or_default();
        let skipped = join.skips(before, line, next.split('\n').next().unwrap_or_default());
        before = Some(line);
        let kept = line.bytes().enumerate().skip(skipped);
        kept.map(move |(n, value)| Octet {
            value,
            from: start + n,
            to: start + n,
        })
    })
}

/// The same with `%41` for `A` undone (RFC 3986 §2.1).
pub(super) fn decoded(octets: impl Iterator<Item = Octet>) -> impl Iterator<Item = Octet> {
    Decoded {
        octets,
        ahead: [None; 2],
    }
}

struct Decoded<I> {
    octets: I,
    /// Taken from `octets` already; if there is a second, there is a first.
    ahead: [Option<Octet>; 2],
}

impl<I: Iterator<Item = Octet>> Iterator for Decoded<I> {
    type Item = Octet;

    fn next(&mut self) -> Option<Octet> {
        let [first, second] = std::mem::take(&mut self.ahead);
        let octet = first.or_else(|| self.octets.next())?;
        if octet.value != b'%' {
            self.ahead = [second, None];
            return Some(octet);
        }
        let high = second.or_else(|| self.octets.next());
        let low = self.octets.next();
        let digit = |octet: Option<Octet>| char::from(octet?.value).to_digit(16);
        if let (Some(h), Some(l), Some(last)) = (digit(high), digit(low), low) {
            return Some(Octet {
                value: (h * 16 + l) as u8,
                from: octet.from,
                to: last.to,
            });
        }
        self.ahead = [high, low];
        Some(octet)
    }
}
