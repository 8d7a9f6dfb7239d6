//! The checks of the fuzz targets, on stable: over their corpora, and over arbitrary bytes. `PROPTEST_CASES` asks for
//! more of these.

#[path = "../fuzz/checks.rs"]
mod checks;

use std::path::Path;

use proptest::{collection::vec, prelude::*, sample::select};

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
fn every_input_of_the_corpora_holds() {
    each("rule", checks::rule);
    each("url", checks::url);
}

#[test]
fn endless_input_is_read_in_linear_time() {
    let long = 1 << 14;
    for piece in [
        "(", "a|", "[a-z]", "a{1000}", "(?<n>", "\\w", ".*", "(a*)*", "x",
    ] {
        let many = piece.repeat(long / piece.len());
        checks::rule(many.as_bytes());
        checks::rule(format!("{}\n{many}", piece.repeat(20)).as_bytes());
    }
    for pattern in [
        "(a*)*(a*)*b",
        "(?<n>\\d+)",
        ".*.*.*(?<n>\\d+) x",
        "(\\w+\\s?)+$",
    ] {
        for said in ["a", "1", "a ", "1 "] {
            checks::rule(format!("{pattern}\n{}", said.repeat(1 << 12)).as_bytes());
        }
    }
    for piece in ["smtp:", "/", "a.", "@", ":", "%41", "?", "&a", "[", "é"] {
        let many = piece.repeat(long / piece.len());
        checks::url(many.as_bytes());
        checks::url(format!("smtp://{many}").as_bytes());
        checks::url(format!("smtp://mx.example?{many}=").as_bytes());
    }
}

/// At least so many inputs for each target.
fn config() -> ProptestConfig {
    let given = ProptestConfig::default();
    ProptestConfig {
        cases: given.cases.max(1000),
        ..given
    }
}

/// Bytes that look like what is expected, here and there.
fn bytes(tokens: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => select(tokens).prop_map(|token| token.as_bytes().to_vec()),
        1 => "\\PC{0,6}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..4),
    ];
    prop_oneof![
        1 => vec(any::<u8>(), 0..200),
        4 => vec(piece, 0..14).prop_map(|pieces| pieces.concat()),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_pattern_is_refused_or_decides(
        data in bytes(&[
            "(?<n>\\d+)", "(?P<n>.*)", "(?<unit>[smh])", "(?<unit>.)", "again in ", "\n", "5", "99999999999999999999", " minutes", "h", "(", ")", "[", "]",
            "*", "+", "?", "{9}", "{999}", "|", "^", "$", "\\", "\\w", "\\pL", "(?i)", "(?x)", ".", "0", "é",
        ]),
    ) {
        checks::rule(&data);
        checks::rule(&[b"in (?<n>[^ ]+) ?(?<unit>.*)\nin 18446744073709551615 h", &data[..]].concat());
    }

    #[test]
    fn any_url_leads_somewhere_or_is_refused(
        data in bytes(&[
            "smtp:", "smtps:", "lmtp:", "SMTP:", "http:", "//", "///", "/", "mx.example", "[::1]", "192.0.2.1", ":25", ":0", ":", "?starttls=", "?", "&",
            "required", "never", "=", "user", "secret", "@", "#", "%", "%0a", "%00", "%2F", "..", "/var/run/lmtp", "müller", " ", "\t", "\n", "_",
        ]),
    ) {
        checks::url(&data);
        checks::url(&[b"smtp://mx.example", &data[..]].concat());
        checks::url(&[b"lmtp:", &data[..]].concat());
    }
}
