//! The checks of the fuzz targets, on stable: over their corpora, and over arbitrary bytes. `PROPTEST_CASES` asks for
//! more of these.

#[path = "../fuzz/checks.rs"]
mod checks;

use std::path::Path;

use proptest::{collection::vec, prelude::*, sample::Index, sample::select};

/// All files of a directory of the crate.
fn files(directory: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let entries = std::fs::read_dir(directory).unwrap();
    let files: Vec<Vec<u8>> = entries
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert!(files.len() > 4, "the corpus is there");
    files
}

#[test]
fn every_key_of_the_corpus_holds() {
    for key in [files("fuzz/corpus/key"), files("tests/keys")].concat() {
        checks::key(&key);
    }
}

#[test]
fn every_message_of_the_corpus_holds() {
    for message in files("fuzz/corpus/sign") {
        checks::sign_any(&message);
    }
}

#[test]
fn endless_input_is_read_in_linear_time() {
    for piece in [
        "-----BEGIN PRIVATE KEY-----\n",
        "-----BEGIN ",
        "-----END x-----\n",
        "AAAA\n",
        "A",
        " ",
        "\n",
        "-",
    ] {
        checks::key(piece.repeat((1 << 18) / piece.len()).as_bytes());
        let key = format!("-----BEGIN PRIVATE KEY-----\n{}", piece.repeat(100_000));
        checks::key(key.as_bytes());
    }
    for piece in [
        "X:\n",
        "From:\n",
        "To: x\n y\n",
        " ",
        "\n",
        "\r",
        "\t\r\n",
        "a \n",
        "x",
    ] {
        let many = piece.repeat((1 << 18) / piece.len());
        for (before, after) in [("\u{fe}From: a\n", ""), ("\u{fe}From: a\n\n", "x")] {
            // Pieces of a block are long: the first octet is that of the two of the character.
            checks::sign_any(format!("{before}{many}{after}").as_bytes());
        }
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
fn bytes(tokens: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        5 => select(tokens).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..6),
    ];
    prop_oneof![
        1 => vec(any::<u8>(), 0..200),
        4 => vec(piece, 0..50).prop_map(|pieces| pieces.concat()),
    ]
}

/// A key with some octets changed or taken out.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let keys = select(files("tests/keys"));
    let damage = vec(
        (
            any::<Index>(),
            prop_oneof![
                any::<u8>().prop_map(Some),
                Just(None),
                select(vec![b'A', b'-', b'\n']).prop_map(Some)
            ],
        ),
        1..4,
    );
    (keys, damage).prop_map(|(mut key, damage)| {
        for (at, octet) in damage {
            let at = at.index(key.len());
            match octet {
                Some(octet) => key[at] = octet,
                None => drop(key.remove(at)),
            }
        }
        key
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_text_is_a_key_or_refused(
        data in bytes(&[
            b"-----BEGIN PRIVATE KEY-----", b"-----BEGIN RSA PRIVATE KEY-----\n", b"-----END PRIVATE KEY-----", b"-----BEGIN ", b"-----", b"\n", b"\r\n",
            b"MC4CAQAwBQYDK2VwBCIEIA", b"nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=", b"AAAAAAAAAAAAAAAA", b"=", b" ", b"Proc-Type: 4,ENCRYPTED\n",
            b"PUBLIC KEY-----", b"MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ",
        ]),
    ) {
        checks::key(&data);
    }

    #[test]
    fn any_damaged_key_is_refused_or_signs(data in damaged()) {
        checks::key(&data);
    }

    #[test]
    fn any_message_is_signed_well_or_refused(
        data in bytes(&[
            b"\0From: a@example.com\r\n", b"\xffFrom: a\n", b"From: ", b"from :", b"To: b\r\n", b"Subject:", b"DKIM-Signature: v=1; b=x; h=From", b"\r\n",
            b"\n", b"\r", b"\r\n\r\n", b"\n\n", b" ", b"\t", b"\r\n ", b":", b";", b"b=", b".", b"a", b"\xe9", b"\0", b"\x0b", b"List-Unsubscribe: <x>\n",
        ]),
    ) {
        checks::sign_any(&data);
        checks::sign_any(&[b"\x07From: a@example.com\n", &data[..]].concat());
    }
}
