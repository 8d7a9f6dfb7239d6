//! A message's text: the octets of an RFC 5322 message, in consecutive blocks.

use bytes::Bytes;

/// The text of a message with CRLF line ends, not yet dot-stuffed, cut into blocks anywhere, so that a large one need
/// never stand in one piece. Cloning it copies no text.
#[derive(Clone, Debug, Default)]
pub struct Text {
    blocks: Vec<Bytes>,
    size: usize,
    ascii: bool,
}

impl Text {
    /// The blocks in order.
    pub fn blocks(&self) -> &[Bytes] {
        &self.blocks
    }

    /// All blocks in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        self.blocks.concat()
    }

    /// Its size in octets.
    pub fn len(&self) -> usize {
        self.size
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Whether all of it is ASCII (else it needs 8BITMIME, RFC 6152).
    pub(crate) fn is_ascii(&self) -> bool {
        self.ascii
    }

    /// Whether what stands before the first empty line is ASCII (else it needs SMTPUTF8, RFC 6531).
    pub(crate) fn has_ascii_header(&self) -> bool {
        if self.ascii {
            return true;
        }
        // Whether a line has begun that holds nothing but CR so far.
        let mut empty = true;
        for octet in self.blocks.iter().flatten() {
            match octet {
                b'\n' if empty => return true,
                b'\n' => empty = true,
                b'\r' => {}
                octet if octet.is_ascii() => empty = false,
                _ => return false,
            }
        }
        true
    }
}

impl From<Vec<Bytes>> for Text {
    fn from(blocks: Vec<Bytes>) -> Self {
        Self {
            size: blocks.iter().map(Bytes::len).sum(),
            ascii: blocks.iter().all(|block| block.is_ascii()),
            blocks,
        }
    }
}

impl From<Bytes> for Text {
    fn from(block: Bytes) -> Self {
        Self::from(vec![block])
    }
}

impl From<Vec<u8>> for Text {
    fn from(text: Vec<u8>) -> Self {
        Self::from(Bytes::from(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_what_is_beyond_ascii_and_where() {
        let known = |text: &str| {
            let text = text.as_bytes();
            let whole = Text::from(text.to_vec());
            let cut: Vec<Bytes> = text.chunks(1).map(Bytes::copy_from_slice).collect();
            let cut = Text::from(cut);
            let facts = |text: &Text| (text.len(), text.is_ascii(), text.has_ascii_header());
            assert_eq!(facts(&whole), facts(&cut));
            assert_eq!(whole.to_vec(), cut.to_vec());
            (whole.is_ascii(), whole.has_ascii_header())
        };
        assert_eq!(known(""), (true, true));
        assert_eq!(known("a: b\r\n\r\nc"), (true, true));
        assert_eq!(known("a: b\r\n\r\nä"), (false, true));
        assert_eq!(known("a: b\n\nä"), (false, true));
        assert_eq!(known("a: b\r\nä: b\r\n\r\nä"), (false, false));
        assert_eq!(known("\r\nä"), (false, true));
        assert_eq!(known("ä"), (false, false));
    }
}
