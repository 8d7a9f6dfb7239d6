//! Writes header fields: folded (RFC 5322 §2.2.3), encoded where they are not ASCII (RFC 2047).
//!
//! lettre's own header values let three things through: an ASCII value that looks like an encoded
//! word, a word longer than a line may be, and a list of addresses in one endless line. So its
//! encoders are used one level below.

use std::fmt::{self, Write as _};

use email_encoding::headers::{quoted_string, rfc2047, writer::EmailWriter};

use crate::{address::Mailbox, content::Text, error::ComposeError};

/// RFC 5322 §2.1.1 recommends 78; the encoders count to 76.
const LINE: usize = 76;
/// A word of this length still fits into a line of 998 after the longest header name.
const MAX_WORD: usize = 900;

/// Writes `name: value` for unstructured text without control characters.
pub(crate) fn text(out: &mut String, name: &str, value: &str) -> fmt::Result {
    let value = value.trim_matches([' ', '\t']);
    out.push_str(name);
    out.push_str(": ");
    let column = name.len() + 2;
    let encode = !value.is_ascii() || value.contains("=?") || longest_word(value) > MAX_WORD;
    if !encode && column + value.len() <= LINE {
        out.push_str(value);
    } else {
        let mut writer = EmailWriter::new(out, column, 0, false);
        if encode {
            rfc2047::encode(value, &mut writer)?;
        } else {
            writer.folding().write_str(value)?;
        }
    }
    out.push_str("\r\n");
    Ok(())
}

/// Writes `name: word word…`, folded and never encoded: for what readers take literally, as message identifiers. No word
/// is longer than a line may be.
pub(crate) fn words(out: &mut String, name: &str, value: &str) -> fmt::Result {
    out.push_str(name);
    out.push_str(": ");
    let column = name.len() + 2;
    if column + value.len() <= LINE {
        out.push_str(value);
    } else {
        let mut writer = EmailWriter::new(out, column, 0, false);
        writer.folding().write_str(value)?;
    }
    out.push_str("\r\n");
    Ok(())
}

/// The longest piece that folding cannot break: a word with the spaces before it.
fn longest_word(value: &str) -> usize {
    if value.len() <= MAX_WORD {
        return value.len();
    }
    let (mut longest, mut current, mut in_word) = (0, 0, true);
    for b in value.bytes() {
        if b == b' ' && in_word {
            longest = longest.max(current);
            current = 0;
        }
        in_word = b != b' ';
        current += 1;
    }
    longest.max(current)
}

/// Writes `name: mailbox, mailbox…` (RFC 5322 §3.4), nothing for an empty list.
pub(crate) fn mailboxes(
    out: &mut String,
    name: &'static str,
    entries: &[Text<'_>],
) -> Result<(), ComposeError> {
    if entries.is_empty() {
        return Ok(());
    }
    out.push_str(name);
    out.push_str(": ");
    let mut writer = EmailWriter::new(out, name.len() + 2, 0, false);
    for (i, text) in entries.iter().enumerate() {
        let mailbox = Mailbox::from_canonical(text).ok_or(ComposeError::Field(name))?;
        let last = i + 1 == entries.len();
        one_mailbox(&mut writer, &mailbox, last).map_err(|_| ComposeError::Field(name))?;
    }
    drop(writer);
    out.push_str("\r\n");
    Ok(())
}

fn one_mailbox(writer: &mut EmailWriter<'_>, mailbox: &Mailbox<'_>, last: bool) -> fmt::Result {
    let comma = if last { "" } else { "," };
    if let Some(name) = &mailbox.name {
        // The encoders do not fold before a name, so begin a new line for one that would not fit.
        if writer.projected_line_len() + name.len() > LINE && writer.line_len() > 10 {
            writer.new_line()?;
        }
        quoted_string::encode(name, writer)?;
        writer.space();
        address(writer, &format!("<{}>{comma}", mailbox.address))?;
    } else if last {
        address(writer, &mailbox.address)?;
    } else {
        address(writer, &format!("{},", mailbox.address))?;
    }
    if !last {
        writer.space();
    }
    Ok(())
}

/// Writes an address in one piece: the encoder would also fold at a space within a quoted local part, and not
/// every reader takes such a fold out again.
fn address(writer: &mut EmailWriter<'_>, text: &str) -> fmt::Result {
    if !text.contains(' ') {
        return writer.folding().write_str(text);
    }
    // After the header's name there is no space yet, hence no place for a fold.
    if writer.projected_line_len() + text.len() > LINE && writer.line_len() > 10 {
        writer.new_line()?;
    }
    writer.write_str(text)
}
