//! Replies (RFC 5321 §4.2) from a stream of bytes. Pure: it knows no sockets and no clocks.
//!
//! Lenient where servers differ without doubt about the meaning: code-only lines, text right behind the
//! code (`250OK`), bare LF, more than one CR before it, text in any encoding, lines longer than 512 octets,
//! replies of any length. Strict where the meaning would be in doubt (a fourth digit, lines that contradict
//! each other): then the stream is garbage and whoever reads it must let go of the connection. The result
//! does not depend on how the bytes were cut into reads.
//!
//! Memory is bounded, patience is not: of a long reply only the beginning is kept, but it is read to its
//! end, since it decides however long it is. Whoever reads has a deadline for the whole of it, which also
//! ends a line that never ends.

use bytes::{Buf, BytesMut};

use crate::{EnhancedCode, Reply};

/// How much of a reply is kept, all lines together, in octets; text beyond is read and dropped.
pub const MAX_REPLY: usize = 64 * 1024;

/// The stream does not hold replies: a line is none, or the lines of one contradict each other. The octets
/// that showed it are still in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an SMTP reply")]
pub struct Garbage;

/// Takes replies off the front of a buffer, keeping the lines of an unfinished one.
#[derive(Debug, Default)]
pub struct ReplyParser {
    /// The first line's code, once there is one.
    first: Option<u16>,
    text: String,
    enhanced: Option<EnhancedCode>,
    /// Octets of this reply already taken, none of them beyond [`MAX_REPLY`] counted.
    taken: usize,
    /// Octets at the buffer's front known to hold no line end.
    scanned: usize,
    /// The rest of an over-long line is being dropped: its code, and whether more lines follow.
    dropping: Option<(u16, bool)>,
}

impl ReplyParser {
    /// The next complete reply, or `None` until more bytes come. What follows it stays in `buffer`, and of
    /// what is unfinished at most [`MAX_REPLY`] octets.
    ///
    /// # Errors
    /// [`Garbage`]; nothing sensible can be read from this stream any more.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Reply>, Garbage> {
        loop {
            let Some(at) = buffer[self.scanned..].iter().position(|&b| b == b'\n') else {
                if self.dropping.is_some() {
                    buffer.clear();
                } else if buffer.len() > MAX_REPLY {
                    self.dropping = Some(self.take_line(buffer)?);
                    buffer.clear();
                }
                self.scanned = buffer.len();
                return Ok(None);
            };
            let length = self.scanned + at + 1;
            let (code, more) = match self.dropping.take() {
                Some(begun) => begun,
                None => self.take_line(&buffer[..length])?,
            };
            buffer.advance(length);
            self.scanned = 0;
            if !more {
                let done = std::mem::take(self);
                return Ok(Some(Reply {
                    code,
                    enhanced: done.enhanced,
                    text: done.text,
                }));
            }
        }
    }

    /// Keeps what there is room for of a line, or of the beginning of one that is longer than that. Gives
    /// its code and whether more lines follow.
    fn take_line(&mut self, octets: &[u8]) -> Result<(u16, bool), Garbage> {
        let (code, more, text) = split(octets.strip_suffix(b"\n").unwrap_or(octets))?;
        if self.first.is_some_and(|first| first / 100 != code / 100) {
            return Err(Garbage);
        }
        // A line's code and separator are four octets.
        let room = MAX_REPLY.saturating_sub(self.taken + 4);
        let kept = &text[..text.len().min(room)];
        // Only of what is kept, so that it does not matter how much of an over-long line has come.
        let end = kept
            .iter()
            .rposition(|&b| b != b'\r')
            .map_or(0, |at| at + 1);
        let text = String::from_utf8_lossy(&kept[..end]);
        if self.first.is_none() {
            self.first = Some(code);
            self.enhanced = enhanced_code(&text);
        } else if room > 0 {
            self.text.push('\n');
        }
        self.text.push_str(&text);
        self.taken = MAX_REPLY.min(self.taken + octets.len());
        Ok((code, more))
    }

    /// What has been taken of an unfinished reply's text.
    pub(crate) fn unfinished(&self) -> &str {
        &self.text
    }

    /// Whether a part of a reply has been taken, but not its end.
    pub fn is_midway(&self) -> bool {
        self.first.is_some()
    }
}

/// One line's code, whether more lines follow, and its text. What is no hyphen ends the reply, whether the
/// text is set off from the code or not; a fourth digit leaves open what the code is.
fn split(line: &[u8]) -> Result<(u16, bool, &[u8]), Garbage> {
    let (code, rest) = line.split_first_chunk::<3>().ok_or(Garbage)?;
    if !matches!(code[0], b'2'..=b'5') || !code.iter().all(u8::is_ascii_digit) {
        return Err(Garbage);
    }
    let code = code.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'));
    match rest.split_first() {
        Some((b'-', text)) => Ok((code, true, text)),
        Some((b' ' | b'\t', text)) => Ok((code, false, text)),
        Some((b'0'..=b'9', _)) => Err(Garbage),
        Some(_) | None => Ok((code, false, rest)),
    }
}

/// The enhanced status code that `text` begins with (RFC 2034 §4, RFC 3463 §2).
pub fn enhanced_code(text: &str) -> Option<EnhancedCode> {
    let word = text.split([' ', '\t', '\n']).next()?;
    let mut parts = word.split('.').map(|part| {
        let fits = (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        fits.then(|| part.parse::<u16>().ok()).flatten()
    });
    let (class, subject, detail) = (parts.next()??, parts.next()??, parts.next()??);
    let known = matches!(class, 2 | 4 | 5) && word.as_bytes()[1] == b'.' && parts.next().is_none();
    known.then_some(EnhancedCode {
        class: class as u8,
        subject,
        detail,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All replies of a stream that comes in `pieces`, and how it ended.
    fn parse(pieces: &[&[u8]]) -> (Vec<Reply>, Option<Garbage>) {
        let (mut parser, mut buffer, mut replies) =
            (ReplyParser::default(), BytesMut::new(), vec![]);
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match parser.next(&mut buffer) {
                    Ok(Some(reply)) => replies.push(reply),
                    Ok(None) => break,
                    Err(garbage) => return (replies, Some(garbage)),
                }
            }
        }
        (replies, None)
    }

    fn one(bytes: &[u8]) -> Reply {
        let (mut replies, garbage) = parse(&[bytes]);
        assert_eq!(
            (replies.len(), garbage),
            (1, None),
            "{}",
            bytes.escape_ascii()
        );
        replies.remove(0)
    }

    #[test]
    fn legal_and_common_replies_are_understood() {
        for (bytes, code, enhanced, text) in [
            (&b"250 ok\r\n"[..], 250, None, "ok"),
            (b"250\r\n", 250, None, ""),
            (b"250 \r\n", 250, None, ""),
            (b"250\n", 250, None, ""),
            (b"250-a\r\n250-\r\n250 b\r\n", 250, None, "a\n\nb"),
            (b"250-\r\n250\r\n", 250, None, "\n"),
            (b"250-a\n250 b\n", 250, None, "a\nb"),
            (b"250-a\r\n251 b\r\n", 251, None, "a\nb"),
            (b"250OK\r\n", 250, None, "OK"),
            (b"250.\n", 250, None, "."),
            (b"250-a\r\n250b\r\n", 250, None, "a\nb"),
            (b"250\xe9\r\n", 250, None, "\u{fffd}"),
            (b"250\r\r\n", 250, None, ""),
            (b"250 \r\r\r\n", 250, None, ""),
            (b"250-a\r\r\n250 b\rc\r\r\n", 250, None, "a\nb\rc"),
            (b"550#5.1.1 no\r\n", 550, None, "#5.1.1 no"),
            (b"550 5.1.1 no\r\n", 550, Some((5, 1, 1)), "5.1.1 no"),
            (b"250 2.0.0\r\n", 250, Some((2, 0, 0)), "2.0.0"),
            (
                b"452-4.5.3 a\r\n452 5.1.1 b\r\n",
                452,
                Some((4, 5, 3)),
                "4.5.3 a\n5.1.1 b",
            ),
            (b"550 5.7.606-x\r\n", 550, None, "5.7.606-x"),
            (b"550 5.7.606 x\r\n", 550, Some((5, 7, 606)), "5.7.606 x"),
            (b"550 05.1.1 x\r\n", 550, None, "05.1.1 x"),
            (b"550 3.1.1 x\r\n", 550, None, "3.1.1 x"),
            (b"250 caf\xe9 \xff\r\n", 250, None, "caf\u{fffd} \u{fffd}"),
        ] {
            let enhanced = enhanced.map(|(class, subject, detail)| EnhancedCode {
                class,
                subject,
                detail,
            });
            assert_eq!(
                one(bytes),
                Reply {
                    code,
                    enhanced,
                    text: text.to_owned()
                }
            );
        }
    }

    #[test]
    fn what_is_no_reply_is_garbage() {
        for bytes in [
            &b"hello\r\n"[..],
            b"\r\n",
            b"25\r\n",
            b"2500 x\r\n",
            b"2500\r\n",
            b"25OK\r\n",
            b"25\r\r\n",
            b"250-a\r\n2500\r\n",
            b"650 x\r\n",
            b"150 x\r\n",
            b"250-a\r\n550 b\r\n",
            b"250-a\r\nb\r\n",
            b" 250 a\r\n",
        ] {
            assert_eq!(parse(&[bytes]).1, Some(Garbage), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn long_replies_are_read_to_their_end_and_their_beginning_kept() {
        let mut line = b"250 ".to_vec();
        line.resize(MAX_REPLY - 2, b'x');
        line.extend_from_slice(b"\r\n");
        assert_eq!(one(&line).text.len(), MAX_REPLY - 6);
        for more in [1, 2, 3, 200_000] {
            let long = [b"250 ", &b"x".repeat(MAX_REPLY - 6 + more)[..], b"\r\n"].concat();
            let reply = one(&long);
            assert_eq!(
                (reply.code, reply.text.len()),
                (250, MAX_REPLY - 6 + more.min(2))
            );
        }
        let many = [
            b"550-5.1.1 x\r\n".repeat(MAX_REPLY),
            b"550 end\r\n".to_vec(),
        ]
        .concat();
        let reply = one(&many);
        assert_eq!(reply.enhanced, enhanced_code("5.1.1 x"));
        assert!(reply.code == 550 && reply.text.len() <= MAX_REPLY);
        assert!(!reply.text.ends_with("end"));
    }

    #[test]
    fn what_follows_a_long_reply_is_the_next_one() {
        let long = [b"250 ", &b"x".repeat(3 * MAX_REPLY)[..], b"\r\n"].concat();
        let both = [&long[..], b"550 no\r\n"].concat();
        for piece in [1000, MAX_REPLY, both.len()] {
            let pieces: Vec<&[u8]> = both.chunks(piece).collect();
            let (replies, garbage) = parse(&pieces);
            let codes: Vec<u16> = replies.iter().map(|reply| reply.code).collect();
            assert_eq!((codes, garbage), (vec![250, 550], None));
            assert_eq!(replies[1].text, "no");
        }
    }

    #[test]
    fn the_lines_of_a_long_reply_may_not_contradict_each_other_either() {
        for last in [&b"550 no\r\n"[..], b"who\r\n", b"2500\r\n"] {
            let many = [&b"250-x\r\n".repeat(MAX_REPLY)[..], last].concat();
            assert_eq!(parse(&[&many]), (vec![], Some(Garbage)));
        }
    }

    #[test]
    fn a_line_that_never_ends_takes_no_room_and_one_that_is_none_is_garbage() {
        let (mut parser, mut buffer) = (ReplyParser::default(), BytesMut::from("250 "));
        for _ in 0..1000 {
            buffer.extend_from_slice(&[b'x'; 1000]);
            assert_eq!(parser.next(&mut buffer), Ok(None));
            assert!(buffer.len() <= MAX_REPLY && parser.text.len() <= MAX_REPLY);
        }
        assert!(parser.is_midway());
        let endless = vec![b'2'; MAX_REPLY + 1];
        assert_eq!(parse(&[&endless]).1, Some(Garbage));
    }

    /// Replies about as long as the bound, and something behind them.
    fn long_stream() -> impl Strategy<Value = Vec<u8>> {
        let line = (
            "[2-5][0-9]{2}",
            "[- ]",
            MAX_REPLY - 40..MAX_REPLY + 40,
            "\r{0,3}",
            "\r?\n",
        );
        let line = line.prop_map(|(code, separator, length, tail, end)| {
            format!("{code}{separator}{}{tail}{end}", "é".repeat(length / 2)).into_bytes()
        });
        (proptest::collection::vec(line, 1..4), stream())
            .prop_map(|(lines, rest)| [lines.concat(), rest].concat())
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let line = (
            "[2-5][0-9]{2}",
            "[- ]?",
            proptest::collection::vec(any::<u8>(), 0..12),
            "\r{0,3}\n",
        )
            .prop_map(|(code, sep, text, end)| {
                [code.as_bytes(), sep.as_bytes(), &text, end.as_bytes()].concat()
            });
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            proptest::collection::vec(line, 0..10).prop_map(|lines| lines.concat()),
        ]
    }

    proptest! {
        #[test]
        fn the_way_bytes_are_cut_does_not_matter(
            bytes in stream(),
            cuts in proptest::collection::vec(0usize..200, 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(parse(&pieces), parse(&[&bytes]));
            prop_assert_eq!(parse(&single), parse(&[&bytes]));
        }

        #[test]
        fn the_way_long_replies_are_cut_does_not_matter(
            bytes in long_stream(),
            piece in prop_oneof![1usize..5000, MAX_REPLY - 9..MAX_REPLY + 9],
        ) {
            let pieces: Vec<&[u8]> = bytes.chunks(piece).collect();
            prop_assert_eq!(parse(&pieces), parse(&[&bytes]));
        }

        #[test]
        fn a_written_reply_reads_back_whatever_sets_its_last_line_off(
            code in 200u16..600,
            lines in proptest::collection::vec("[^\r\n]{0,40}", 1..6),
            last in "[^-0-9 \t\r\n][^\r\n]{0,40}",
            set_off in "[ \t]?",
            end in "\r{0,3}\n",
        ) {
            let (mut written, prefix) = (String::new(), code.to_string());
            for line in &lines {
                written.extend([&prefix, "-", line, &end]);
            }
            written.extend([&*prefix, &set_off, &last, &end]);
            let reply = one(written.as_bytes());
            prop_assert_eq!(reply.code, code);
            prop_assert_eq!(reply.text, format!("{}\n{last}", lines.join("\n")));
        }

        #[test]
        fn a_written_reply_reads_back(
            code in 200u16..600,
            lines in proptest::collection::vec("[^\r\n]{0,40}", 1..6),
        ) {
            let (mut written, prefix) = (String::new(), code.to_string());
            for (i, line) in lines.iter().enumerate() {
                let separator = if i + 1 == lines.len() { " " } else { "-" };
                written.extend([&prefix, separator, line, "\r\n"]);
            }
            let reply = one(written.as_bytes());
            prop_assert_eq!(reply.code, code);
            prop_assert_eq!(reply.enhanced, enhanced_code(&lines[0]));
            prop_assert_eq!(reply.text, lines.join("\n"));
        }
    }
}
