//! Keeps secrets out of what a server says: some echo the command they did not like, whole, cut off or broken
//! into lines. Pure.
//!
//! What is known of a secret are its pieces: every eight octets in a row of every form in which it may come
//! back. A text is read in several ways at once (`view`), in each as one row of octets, and what is a piece in
//! any of them is covered (`cover`), with the words it stands in. Case does not matter, nor which alphabet
//! base64 is written in.
//!
//! Cost: without a secret none; with one, a text is read once (of several lines: four times), and nothing
//! is allocated unless something is found.

mod cover;
#[cfg(test)]
mod tests;
mod view;

use std::{borrow::Cow, ops::ControlFlow};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::Reply;
use cover::Cover;
use view::{Join, Octet, decoded, octets};

/// How many octets in common with a secret are a part of it and no chance. A secret, or a form of it, that is
/// shorter is looked for as a whole.
const PIECE: usize = 8;

/// What must never appear in a text.
#[derive(Default)]
pub(crate) struct Mask {
    /// Each eight octets of each form, folded; sorted.
    pieces: Vec<u64>,
    /// The pieces that a form begins and ends with, and that do not stand elsewhere in it.
    begins: Vec<u64>,
    ends: Vec<u64>,
    /// A bit for each piece, at its hash: most of what is no piece shows by that.
    bits: Vec<u64>,
    /// Forms of fewer than eight octets, as they are, and their lengths.
    short: Vec<(u64, usize)>,
}

/// Something found.
struct Hit<'a> {
    row: &'a Row,
    length: usize,
    /// It is all of a form that is short: nothing else is to be covered.
    whole: bool,
    /// It is where a form begins, or ends.
    begins: bool,
    ends: bool,
}

impl Mask {
    /// Masks the secret and all that goes out in its name: `messages` are in base64, as they are sent. A
    /// relay that takes them apart may repeat the secret's base64 as it stands in the middle of theirs.
    pub(crate) fn new<'a>(secret: &str, messages: impl IntoIterator<Item = &'a str>) -> Self {
        let mut mask = Self::default();
        if secret.is_empty() {
            return mask;
        }
        mask.add(secret, true);
        mask.add(STANDARD.encode(secret).trim_end_matches('='), true);
        let digits = secret.bytes().map(|octet| format!("{octet:02x}"));
        let hex = digits.collect::<Vec<_>>().concat();
        for (form, complete) in [
            (hex, true),
            (percent(secret), true),
            (embedded(secret, 1), false),
            (embedded(secret, 2), false),
        ] {
            if form.len() >= PIECE {
                mask.add(&form, complete);
            }
        }
        for message in messages {
            mask.add(message.trim_end_matches('='), true);
        }
        mask.close();
        mask
    }

    /// One more form; of one that is not complete, nothing says where it begins and ends.
    fn add(&mut self, form: &str, complete: bool) {
        let form: Vec<u8> = form.bytes().filter(|&octet| octet != b'\n').collect();
        if form.len() < PIECE {
            let value = form.iter().fold(0, |row, &octet| shifted(row, octet));
            self.short.push((value, form.len()));
            return;
        }
        let folded: Vec<u8> = form.iter().copied().map(folded).collect();
        let words: Vec<u8> = folded
            .iter()
            .copied()
            .filter(|&octet| is_word(octet))
            .collect();
        for form in [folded, words] {
            let pieces: Vec<u64> = form
                .windows(PIECE)
                .map(|piece| piece.iter().fold(0, |row, &octet| shifted(row, octet)))
                .collect();
            let once = |piece: &&u64| pieces.iter().filter(|other| other == piece).count() == 1;
            if complete {
                self.begins.extend(pieces.first().filter(once));
                self.ends.extend(pieces.last().filter(once));
            }
            self.pieces.extend(pieces);
        }
    }

    /// All forms are known.
    fn close(&mut self) {
        for pieces in [&mut self.pieces, &mut self.begins, &mut self.ends] {
            pieces.sort_unstable();
            pieces.dedup();
            pieces.shrink_to_fit();
        }
        self.short.sort_unstable();
        self.short.dedup();
        // Sixteen bits for each piece.
        self.bits = vec![0; (self.pieces.len() / 4 + 1).next_power_of_two()];
        for &piece in &self.pieces {
            let (word, bit) = place(piece, self.bits.len());
            self.bits[word] |= bit;
        }
    }

    fn knows(&self, piece: u64) -> bool {
        let (word, bit) = place(piece, self.bits.len());
        self.bits[word] & bit != 0 && self.pieces.binary_search(&piece).is_ok()
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.short.is_empty()
    }

    /// `reply` without secrets. The enhanced code stays: it was read before.
    pub(crate) fn reply(&self, mut reply: Reply) -> Reply {
        if let Cow::Owned(text) = self.text(&reply.text) {
            reply.text = text;
        }
        reply
    }

    /// `text` with asterisks for everything that holds a piece of a secret; as many lines as before.
    pub(crate) fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut stop = |_: &Hit<'_>| ControlFlow::Break(());
        if self.is_empty() || self.read(text, &mut stop).is_continue() {
            return Cow::Borrowed(text);
        }
        let mut cover = Cover::new(text);
        let mut add = |hit: &Hit<'_>| {
            let (from, to) = hit.row.span(hit.length);
            if hit.whole {
                cover.part(from, to);
            } else {
                cover.piece(from, to, hit.begins, hit.ends);
            }
            ControlFlow::Continue(())
        };
        // It is read to its end.
        let _ = self.read(text, &mut add);
        Cow::Owned(cover.covered())
    }

    /// Tells what is found in `text` in each way of reading it.
    fn read(
        &self,
        text: &str,
        tell: &mut impl FnMut(&Hit<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let joins: &[Join] = if text.contains('\n') {
            &[Join::AsIs, Join::Coded, Join::Trimmed, Join::Common]
        } else {
            &[Join::AsIs]
        };
        let coded = text.contains('%');
        for &join in joins {
            self.scan(octets(text, join), tell)?;
            if coded {
                self.scan(decoded(octets(text, join)), tell)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Tells what is found in a row of octets, and in that of its letters and digits alone: there, quotes,
    /// spaces and escapes do not matter.
    fn scan(
        &self,
        octets: impl Iterator<Item = Octet>,
        tell: &mut impl FnMut(&Hit<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (mut all, mut words, mut exact) = (Row::default(), Row::default(), Row::default());
        for octet in octets {
            let value = folded(octet.value);
            all.push(value, octet);
            self.look(&all, tell)?;
            if is_word(value) {
                words.push(value, octet);
                if words.value != all.value {
                    self.look(&words, tell)?;
                }
            }
            if self.short.is_empty() {
                continue;
            }
            exact.push(octet.value, octet);
            for &(form, length) in &self.short {
                if exact.count >= length && exact.last(length) == form {
                    tell(&Hit {
                        row: &exact,
                        length,
                        whole: true,
                        begins: true,
                        ends: true,
                    })?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn look(
        &self,
        row: &Row,
        tell: &mut impl FnMut(&Hit<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if row.count < PIECE || !self.knows(row.value) {
            return ControlFlow::Continue(());
        }
        let among = |pieces: &[u64]| pieces.binary_search(&row.value).is_ok();
        tell(&Hit {
            row,
            length: PIECE,
            whole: false,
            begins: among(&self.begins),
            ends: among(&self.ends),
        })
    }
}

/// The last eight octets of a row, and where they stand in the text.
#[derive(Default)]
struct Row {
    value: u64,
    count: usize,
    places: [(usize, usize); PIECE],
}

impl Row {
    fn push(&mut self, value: u8, octet: Octet) {
        self.value = shifted(self.value, value);
        self.places[self.count % PIECE] = (octet.from, octet.to);
        self.count += 1;
    }

    /// The last so many octets, fewer than eight.
    fn last(&self, length: usize) -> u64 {
        self.value & ((1 << (8 * length)) - 1)
    }

    /// From where to where in the text the last so many octets reach.
    fn span(&self, length: usize) -> (usize, usize) {
        let place = |back: usize| self.places[(self.count - back) % PIECE];
        (place(length).0, place(1).1)
    }
}

fn shifted(row: u64, octet: u8) -> u64 {
    (row << 8) | u64::from(octet)
}

/// Without case, and base64 without its two alphabets.
fn folded(octet: u8) -> u8 {
    match octet {
        b'-' => b'+',
        b'_' => b'/',
        _ => octet.to_ascii_lowercase(),
    }
}

fn is_word(octet: u8) -> bool {
    octet.is_ascii_alphanumeric()
}

/// Where a piece's bit is, in so many words: a power of two.
fn place(piece: u64, words: usize) -> (usize, u64) {
    let hash = piece.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    ((hash as usize / 64) & (words - 1), 1 << (hash % 64))
}

/// With all but RFC 3986's unreserved characters (§2.3) as `%41`. Others are undone where they are read.
fn percent(secret: &str) -> String {
    let code = |octet: u8| match octet {
        b'-' | b'.' | b'_' | b'~' => char::from(octet).to_string(),
        octet if is_word(octet) => char::from(octet).to_string(),
        octet => format!("%{octet:02X}"),
    };
    secret.bytes().map(code).collect()
}

/// The base64 of a secret that stands `before` octets (modulo three) into something longer, without the
/// digits that it shares with what stands before it. Its last digit is as if nothing stood behind it.
fn embedded(secret: &str, before: usize) -> String {
    let mut octets = vec![0; before];
    octets.extend_from_slice(secret.as_bytes());
    let digits = STANDARD.encode(octets);
    let own = digits.trim_end_matches('=').get(before + 1..);
    own.unwrap_or_default().to_owned()
}
