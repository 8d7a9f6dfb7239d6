//! A message's way onto the wire: CRLF line ends and dot-stuffing (RFC 5321 §2.3.8, §4.5.2). Pure.
//!
//! A bare CR or a bare LF becomes CRLF, so that no receiver can see a line end, and thereby a final dot,
//! where another sees none ("SMTP smuggling"). How the message is cut into blocks does not matter.

/// Turns one message into wire form, block by block.
#[derive(Debug)]
pub struct BodyEncoder {
    /// The last octet seen; a message begins as if after a line end.
    last: u8,
}

impl Default for BodyEncoder {
    fn default() -> Self {
        Self { last: b'\n' }
    }
}

impl BodyEncoder {
    /// Appends the wire form of `block` to `out`.
    pub fn encode(&mut self, block: &[u8], out: &mut Vec<u8>) {
        let Some(&last) = block.last() else { return };
        if is_clean(self.last, block) {
            out.extend_from_slice(block);
        } else {
            self.encode_slowly(block, out);
        }
        self.last = last;
    }

    fn encode_slowly(&self, block: &[u8], out: &mut Vec<u8>) {
        out.reserve(block.len() + block.len() / 16);
        let mut before = self.last;
        for &octet in block {
            match octet {
                b'\n' if before == b'\r' => {} // its CR has written both
                b'\r' | b'\n' => out.extend_from_slice(b"\r\n"),
                b'.' if matches!(before, b'\r' | b'\n') => out.extend_from_slice(b".."),
                _ => out.push(octet),
            }
            before = octet;
        }
    }

    /// Ends the last line if it is open, and appends the final dot.
    pub fn finish(self, out: &mut Vec<u8>) {
        if !matches!(self.last, b'\r' | b'\n') {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }
}

/// Whether `block` can be sent as it is after the octet `before`: every CR with its LF, every LF with its
/// CR, no dot at a line's begin. Without branches, so that the compiler makes it wide.
fn is_clean(before: u8, block: &[u8]) -> bool {
    let [first, .., last] = block else {
        return false;
    };
    if before == b'\r' || *first == b'\n' || *last == b'\r' || (before == b'\n' && *first == b'.') {
        return false;
    }
    let unclean = block.iter().zip(&block[1..]).fold(0u8, |bad, (&a, &b)| {
        let split = (a == b'\r') != (b == b'\n');
        let dot = u8::from(a == b'\n') & u8::from(b == b'.');
        bad | u8::from(split) | dot
    });
    unclean == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(blocks: &[&[u8]]) -> Vec<u8> {
        let (mut encoder, mut out) = (BodyEncoder::default(), Vec::new());
        for block in blocks {
            encoder.encode(block, &mut out);
        }
        encoder.finish(&mut out);
        out
    }

    /// What a strict server reads: lines split at CRLF alone, up to the lone dot.
    fn decode(wire: &[u8]) -> (Vec<Vec<u8>>, usize) {
        let (mut lines, mut rest) = (vec![], wire);
        loop {
            let end = rest
                .windows(2)
                .position(|w| w == b"\r\n")
                .expect("a line end");
            let (line, tail) = (&rest[..end], &rest[end + 2..]);
            rest = tail;
            if line == b"." {
                return (lines, rest.len());
            }
            lines.push(line.strip_prefix(b".").unwrap_or(line).to_vec());
        }
    }

    #[test]
    fn lines_are_ended_and_dots_doubled() {
        for (data, wire) in [
            (&b""[..], &b".\r\n"[..]),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b"a\nb\rc\r\nd\r", b"a\r\nb\r\nc\r\nd\r\n.\r\n"),
            (b".", b"..\r\n.\r\n"),
            (b"a\r\n.\r\nb", b"a\r\n..\r\nb\r\n.\r\n"),
            (b"a\n.\nb\r.\r", b"a\r\n..\r\nb\r\n..\r\n.\r\n"),
            (b"\r\n\r\n", b"\r\n\r\n.\r\n"),
            (b"\n\n", b"\r\n\r\n.\r\n"),
            (b"\r\r\n", b"\r\n\r\n.\r\n"),
            (b"a.b\r\nc..\r\n", b"a.b\r\nc..\r\n.\r\n"),
        ] {
            assert_eq!(
                encode(&[data]).escape_ascii().to_string(),
                wire.escape_ascii().to_string()
            );
        }
    }

    proptest! {
        #[test]
        fn a_strict_server_reads_the_same_lines_and_nothing_after_the_dot(
            data in "([a-z.]|\r|\n|\r\n|\r\n\\.){0,60}",
            cut in 0usize..60,
        ) {
            let data = data.as_bytes();
            let wire = encode(&[data]);
            let (lines, rest) = decode(&wire);
            prop_assert_eq!(rest, 0);
            let text = String::from_utf8_lossy(data).replace("\r\n", "\n").replace('\r', "\n");
            let expected: Vec<Vec<u8>> = text.split_terminator('\n').map(Into::into).collect();
            prop_assert_eq!(lines, expected);
            prop_assert!(!wire.windows(2).any(|w| (w[0] == b'\r') != (w[1] == b'\n')));

            let cut = cut.min(data.len());
            prop_assert_eq!(encode(&[&data[..cut], &data[cut..]]), wire.clone());
            prop_assert_eq!(encode(&data.chunks(1).collect::<Vec<_>>()), wire);
        }
    }
}
