//! What must hold for any bytes. The fuzz targets and the tests on stable share it.

use bytes::BytesMut;
use mail_smtp::{
    Extensions, Reply,
    encode::BodyEncoder,
    reply::{Garbage, MAX_REPLY, ReplyParser},
};

/// The first octet says how `data` is cut into pieces.
fn cut(data: &[u8]) -> (usize, &[u8]) {
    data.split_first()
        .map_or((1, data), |(first, rest)| (usize::from(*first) + 1, rest))
}

/// All replies of a stream that comes in pieces of so many octets, and how it ended.
fn parse(stream: &[u8], piece: usize) -> (Vec<Reply>, Option<Garbage>) {
    let (mut parser, mut buffer, mut replies) = (ReplyParser::default(), BytesMut::new(), vec![]);
    for piece in stream.chunks(piece.max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match parser.next(&mut buffer) {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => break,
                Err(garbage) => return (replies, Some(garbage)),
            }
        }
        assert!(buffer.len() <= MAX_REPLY, "more than is kept of a reply");
    }
    (replies, None)
}

/// Replies: no panic, bounded memory, the same however the stream is cut and however long they are.
pub fn reply(data: &[u8]) {
    let (piece, stream) = cut(data);
    let whole = parse(stream, stream.len());
    assert_eq!(parse(stream, piece), whole);
    for reply in whole.0 {
        assert!((200..600).contains(&reply.code));
        // An octet that is not UTF-8 becomes three.
        assert!(reply.text.len() <= 3 * MAX_REPLY);
        assert!(!reply.text.split('\n').any(|line| line.ends_with('\r')));
        if let Some(enhanced) = reply.enhanced {
            assert!(matches!(enhanced.class, 2 | 4 | 5));
            assert!(enhanced.subject < 1000 && enhanced.detail < 1000);
        }
    }
}

/// EHLO: no panic, bounded memory; neither case nor repetition matters.
pub fn ehlo(data: &[u8]) {
    let text = String::from_utf8_lossy(data).replace('\r', " ");
    let found = Extensions::parse(&text);
    assert_eq!(Extensions::parse(&text.to_ascii_uppercase()), found);
    let again: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(
        Extensions::parse(&format!("{text}\n{}", again.join("\n"))),
        found
    );
    assert!(found.auth.len() <= 64);
    for (i, mechanism) in found.auth.iter().enumerate() {
        assert_eq!(*mechanism, mechanism.to_ascii_uppercase());
        assert!(!found.auth[..i].contains(mechanism));
    }
    assert!(found.size || found.size_limit.is_none());
    assert_ne!(found.size_limit, Some(0));
}

/// Wire form: a strict server reads the same lines, and nothing after the final dot.
pub fn encode(data: &[u8]) {
    let (piece, text) = cut(data);
    let wire = encoded(text, piece);
    assert_eq!(encoded(text, text.len()), wire, "cutting matters");
    let (lines, rest) = decoded(&wire);
    assert!(rest.is_empty(), "something follows the final dot");
    assert_eq!(lines, expected(text));
}

fn encoded(text: &[u8], piece: usize) -> Vec<u8> {
    let (mut encoder, mut out) = (BodyEncoder::default(), vec![]);
    for block in text.chunks(piece.max(1)) {
        encoder.encode(block, &mut out);
    }
    encoder.finish(&mut out);
    out
}

/// What a server reads that takes nothing but CRLF for a line end.
fn decoded(wire: &[u8]) -> (Vec<Vec<u8>>, &[u8]) {
    let (mut lines, mut rest) = (vec![], wire);
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n");
        let end = end.expect("a line end before the stream does");
        let (line, tail) = (&rest[..end], &rest[end + 2..]);
        assert!(!line.contains(&b'\r') && !line.contains(&b'\n'));
        rest = tail;
        if line == b"." {
            return (lines, rest);
        }
        lines.push(line.strip_prefix(b".").unwrap_or(line).to_vec());
    }
}

/// The lines of a text in which CR, LF and CRLF each end one.
fn expected(text: &[u8]) -> Vec<Vec<u8>> {
    let (mut lines, mut line, mut before) = (vec![], vec![], b'\n');
    for &octet in text {
        match octet {
            b'\n' if before == b'\r' => {}
            b'\r' | b'\n' => lines.push(std::mem::take(&mut line)),
            _ => line.push(octet),
        }
        before = octet;
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}
