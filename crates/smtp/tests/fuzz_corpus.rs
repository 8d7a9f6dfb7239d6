//! The checks of the fuzz targets, on stable: over their corpora, and over arbitrary bytes. `PROPTEST_CASES` asks for
//! more of these.

#[path = "../fuzz/checks.rs"]
mod checks;

use std::path::Path;

use proptest::{collection::vec, prelude::*};

fn each(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut count = 0;
    for entry in std::fs::read_dir(corpus.join(target)).unwrap() {
        check(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 4, "the corpus of {target} is there");
}

#[test]
fn every_reply_of_the_corpus_holds() {
    each("reply", checks::reply);
}

#[test]
fn every_ehlo_of_the_corpus_holds() {
    each("ehlo", checks::ehlo);
}

#[test]
fn every_message_of_the_corpus_holds() {
    each("encode", checks::encode);
}

#[test]
fn endless_streams_are_read_and_not_kept() {
    for line in [&b"2"[..], b"250-x\r\n", b"x"] {
        for (piece, before, after) in [
            (0, &b"250 "[..], &b""[..]),
            (255, b"", b"250 x\r\n550 y\r\n"),
        ] {
            let endless = line.repeat(200_000 / line.len());
            checks::reply(&[&[piece], before, &endless, after].concat());
        }
    }
}

/// Bytes that look like what is expected, here and there.
fn bytes(tokens: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        3 => prop::sample::select(tokens.to_vec()).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..6),
    ];
    prop_oneof![
        1 => vec(any::<u8>(), 0..400),
        3 => vec(piece, 0..60).prop_map(|pieces| pieces.concat()),
    ]
}

/// At least so many inputs for each target.
fn config() -> ProptestConfig {
    let given = ProptestConfig::default();
    ProptestConfig {
        cases: given.cases.max(2000),
        ..given
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes_are_replies_or_garbage(
        data in bytes(&[b"250", b"550", b"2", b"-", b" ", b"\r\n", b"\n", b"\r", b"5.1.1 ", b"2.0.0", b"\xff"]),
    ) {
        checks::reply(&data);
    }

    #[test]
    fn any_text_is_an_answer_to_ehlo(
        data in bytes(&[
            b"\n", b"\n", b" ", b"=", b"\t", b"SIZE", b"auth", b"Plain", b"LOGIN", b"7", b"DSN", b"\xe9",
            b"99999999999999999999999",
        ]),
    ) {
        checks::ehlo(&data);
    }

    #[test]
    fn any_message_is_read_back(data in bytes(&[b"\r", b"\n", b"\r\n", b".", b"..", b"a", b"\r\n.\r\n"])) {
        checks::encode(&data);
    }
}
