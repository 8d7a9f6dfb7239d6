//! Which parts of a text are covered. What stands beside a piece of a secret may be the rest of it: the whole
//! word is covered, and beyond a line break, where the secret does not end there, the next line, or where it
//! does not begin there, the last word of the line before.

/// What goes in place of something covered.
const ASTERISKS: &str = "***";

/// A text, and what of it is covered.
pub(super) struct Cover<'a> {
    text: &'a str,
    /// For each octet: a part of a piece, or just to be covered.
    pieces: Vec<bool>,
    parts: Vec<bool>,
    /// Where a form begins or ends with a piece.
    begins: Vec<bool>,
    ends: Vec<bool>,
}

impl<'a> Cover<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let none = || vec![false; text.len()];
        Self {
            text,
            pieces: none(),
            parts: none(),
            begins: none(),
            ends: none(),
        }
    }

    /// Covers so much, and no more.
    pub(super) fn part(&mut self, from: usize, to: usize) {
        self.parts[from..=to].fill(true);
    }

    /// Covers a piece of something longer, which it may begin or end.
    pub(super) fn piece(&mut self, from: usize, to: usize, begins: bool, ends: bool) {
        self.pieces[from..=to].fill(true);
        self.begins[from] |= begins;
        self.ends[to] |= ends;
    }

    /// The text with asterisks, of as many lines as it has.
    pub(super) fn covered(mut self) -> String {
        let (mut start, mut before, mut goes_on) = (0, None, false);
        for line in self.text.split('\n') {
            let end = start + line.len();
            if goes_on {
                self.parts[start..end].fill(true);
            }
            goes_on = false;
            let found = |pieces: &[bool]| {
                let first = pieces.iter().position(|&piece| piece)?;
                Some((first, pieces.iter().rposition(|&piece| piece)?))
            };
            if let Some((first, last)) = found(&self.pieces[start..end]) {
                if !self.begins[start + first]
                    && let Some((from, to)) = before
                {
                    let line = self.text[from..to].trim_end();
                    let word = line.rsplit(char::is_whitespace).next().map_or(0, str::len);
                    let to = from + line.len();
                    self.parts[to - word..to].fill(true);
                }
                let rest = line.get(last + 1..).unwrap_or_default();
                let behind = rest.find(char::is_whitespace).map_or("", |at| &rest[at..]);
                goes_on = !self.ends[start + last] && !behind.contains(char::is_alphanumeric);
                self.widen(start, line);
            }
            before = Some((start, end));
            start = end + 1;
        }
        self.written()
    }

    /// Covers the whole of each word of a line that holds a piece.
    fn widen(&mut self, start: usize, line: &str) {
        let mut from = start;
        for word in line.split(char::is_whitespace) {
            let to = from + word.len();
            if self.pieces[from..to].contains(&true) {
                self.parts[from..to].fill(true);
            }
            // What separates them may have more than one octet.
            from = to + self.text[to..].chars().next().map_or(0, char::len_utf8);
        }
    }

    fn written(&self) -> String {
        let mut written = String::with_capacity(self.text.len());
        let mut covering = false;
        for (at, c) in self.text.char_indices() {
            let covered = c != '\n' && (self.parts[at] || self.pieces[at]);
            if !covered {
                written.push(c);
            } else if !covering {
                written.push_str(ASTERISKS);
            }
            covering = covered;
        }
        written
    }
}
