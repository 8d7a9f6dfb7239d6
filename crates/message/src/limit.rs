//! The size of a message: all fields before any encoding, and the files decoded; and that of its header.

use crate::{error::Invalid, fields::Draft, raw_head::MAX_HEAD};

/// What is counted so far, and how far it may go.
#[derive(Debug)]
pub(crate) struct Budget {
    used: usize,
    /// What of it is files.
    files: usize,
    max: usize,
}

impl Budget {
    /// Nothing counted yet.
    pub fn empty(max: usize) -> Self {
        Self {
            used: 0,
            files: 0,
            max,
        }
    }

    /// Counts all fields but the files.
    pub fn of(draft: &Draft<'_>, max: usize) -> Result<Self, Invalid> {
        let mut budget = Self::empty(max);
        budget.add(size(draft))?;
        Ok(budget)
    }

    /// Counts a file, before it is decoded.
    pub fn add_file(&mut self, size: usize) -> Result<(), Invalid> {
        self.files = self.files.saturating_add(size);
        self.add(size)
    }

    /// The files' bytes so far.
    pub fn files(&self) -> usize {
        self.files
    }

    /// Counts a text.
    pub fn add(&mut self, size: usize) -> Result<(), Invalid> {
        self.used = self.used.saturating_add(size);
        if self.used <= self.max {
            return Ok(());
        }
        Err(Invalid::too_large("message", self.used, self.max))
    }
}

/// How deep JSON that is kept as it is may be nested: whoever reads it again may have less of a stack than who gave it.
const MAX_NESTING: usize = 1000;

/// Refuses JSON that is nested deeper.
pub(crate) fn check_nesting(field: &str, json: &str) -> Result<(), Invalid> {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(inner) = bytes.next() {
                    match inner {
                        b'"' => break,
                        b'\\' => drop(bytes.next()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if deepest <= MAX_NESTING {
        return Ok(());
    }
    Err(Invalid::too_deep(field, deepest, MAX_NESTING))
}

/// Refuses a message whose header would be longer than one of a raw message may be. Counted are the fields that it is
/// written from, before any encoding; those who get a blind copy do not stand in it.
pub(crate) fn check_header(draft: &Draft<'_>) -> Result<(), Invalid> {
    let texts = [
        &draft.from,
        &draft.sender,
        &draft.subject,
        &draft.message_id,
    ];
    let lists = [
        &draft.to,
        &draft.cc,
        &draft.reply_to,
        &draft.in_reply_to,
        &draft.references,
    ];
    let size = texts.into_iter().flatten().map(|t| t.len()).sum::<usize>()
        + lists.into_iter().flatten().map(|t| t.len()).sum::<usize>()
        + of_headers(draft)
        + draft.list_unsubscribe.map_or(0, |raw| raw.get().len());
    if size > MAX_HEAD {
        return Err(Invalid::too_large("header", size, MAX_HEAD).with_hint(
            "The header holds addresses, subject, references and headers of your own; many recipients get messages of their own.",
        ));
    }
    Ok(())
}

/// The headers of the caller's own, names and values.
fn of_headers(draft: &Draft<'_>) -> usize {
    let headers = draft.headers.0.iter();
    headers.map(|(k, v)| k.len() + v.len()).sum()
}

fn size(draft: &Draft<'_>) -> usize {
    let texts = [
        &draft.from,
        &draft.sender,
        &draft.return_path,
        &draft.subject,
        &draft.text,
        &draft.html,
        &draft.message_id,
        &draft.template,
        &draft.locale,
    ];
    let lists = [
        &draft.to,
        &draft.cc,
        &draft.bcc,
        &draft.reply_to,
        &draft.in_reply_to,
        &draft.references,
        &draft.tags,
    ];
    texts.into_iter().flatten().map(|t| t.len()).sum::<usize>()
        + lists.into_iter().flatten().map(|t| t.len()).sum::<usize>()
        + of_headers(draft)
        + [
            draft.metadata,
            draft.dsn,
            draft.params,
            draft.list_unsubscribe,
        ]
        .into_iter()
        .flatten()
        .map(|raw| raw.get().len())
        .sum::<usize>()
}
