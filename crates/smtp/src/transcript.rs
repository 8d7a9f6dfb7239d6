//! A conversation with a relay, line by line, for a person to read. Secrets are masked before they come here.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Lines beyond this are not kept.
const MAX_LINES: usize = 10_000;
/// What a line holds beyond so many characters is not kept.
const MAX_CHARS: usize = 1_000;

/// Whose words a line holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// Ours.
    Us,
    /// The relay's.
    Relay,
    /// Nobody's: what happened in between.
    Note,
}

/// One line of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranscriptLine {
    /// The time since the transcript was made.
    pub elapsed: Duration,
    /// Who said it.
    pub who: Who,
    /// What was said, without its line end and without control characters; of what is longer than 1,000
    /// characters the beginning.
    pub text: String,
}

/// `C: `, `S: ` or `-- `, and the text.
impl fmt::Display for TranscriptLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.who {
            Who::Us => "C:",
            Who::Relay => "S:",
            Who::Note => "--",
        };
        write!(f, "{mark} {}", self.text)
    }
}

/// A handle to a conversation that is being written down; clones write and read the same one. It never
/// holds a secret.
#[derive(Clone, Debug)]
pub struct Transcript {
    began: Instant,
    lines: Arc<Mutex<Vec<TranscriptLine>>>,
}

impl Default for Transcript {
    fn default() -> Self {
        Self::new()
    }
}

impl Transcript {
    /// An empty one, whose time begins now.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            lines: Arc::default(),
        }
    }

    /// What was said so far.
    pub fn lines(&self) -> Vec<TranscriptLine> {
        self.lock().clone()
    }

    /// Adds a line.
    pub(crate) fn add(&self, who: Who, text: &str) {
        let elapsed = self.began.elapsed();
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let text: String = text.trim_end().chars().take(MAX_CHARS).map(clean).collect();
        let mut lines = self.lock();
        if lines.len() < MAX_LINES {
            lines.push(TranscriptLine { elapsed, who, text });
        }
    }

    /// Adds a note, unless it is the last line already.
    pub(crate) fn note(&self, text: &str) {
        let known = |line: &TranscriptLine| line.who == Who::Note && line.text == text;
        let said = self.lock().last().is_some_and(known);
        if !said {
            self.add(Who::Note, text);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<TranscriptLine>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_their_lines_and_lines_are_clean_and_bounded() {
        let transcript = Transcript::new();
        let clone = transcript.clone();
        clone.add(Who::Us, "EHLO a\tb\r\n");
        transcript.note("hm");
        clone.note("hm");
        transcript.add(Who::Relay, &"é".repeat(5000));
        let lines = clone.lines();
        let text: Vec<String> = lines[..2].iter().map(ToString::to_string).collect();
        assert_eq!(text, ["C: EHLO a b", "-- hm"]);
        assert_eq!((lines.len(), lines[2].text.chars().count()), (3, MAX_CHARS));
        assert!(lines.is_sorted_by_key(|line| line.elapsed));
        for _ in 0..2 * MAX_LINES {
            clone.add(Who::Us, "x");
        }
        assert_eq!(transcript.lines().len(), MAX_LINES);
    }
}
