//! What signing costs: CPU time for each message and each algorithm, and for the body hash and new keys.
//!
//! `cargo run --release -p mail-dkim --example cost`

use std::hint::black_box;
use std::time::{Duration, Instant};

use mail_dkim::{Algorithm, PrivateKey, Signer, generate, sign};

const HEADER: &str = "From: Anna <anna@example.com>\r\nTo: Ben <ben@example.org>\r\nSubject: Your order\r\n\
    Date: Fri, 11 Jul 2025 21:00:37 -0700\r\nMessage-ID: <20250712040037.46341@example.com>\r\nMIME-Version: 1.0\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\r\n";

fn main() {
    let rsa = new_signer(Algorithm::RsaSha256);
    let ed25519 = new_signer(Algorithm::Ed25519Sha256);

    let small = message(
        "We lost the game. Are you hungry yet? See you at home, Anna.\r\n",
        2 << 10,
    );
    for (name, signers, rounds) in [
        ("2 KB, Ed25519", &[&ed25519][..], 20_000),
        ("2 KB, RSA-2048", &[&rsa][..], 1_000),
        ("2 KB, both", &[&rsa, &ed25519][..], 1_000),
    ] {
        report(name, rounds, || {
            sign(signers, &small, 0).expect("a signature")
        });
    }

    for (name, line) in [
        (
            "25 MB of base64, Ed25519",
            &*format!("{}\r\n", "QUJD".repeat(19)),
        ),
        (
            "25 MB of text, Ed25519",
            "We lost the game. Are you hungry yet? See you at home.\r\n",
        ),
        (
            "25 MB of indented text, Ed25519",
            "    if (a  ==  b) {  \r\n\treturn 1; \r\n",
        ),
    ] {
        let large = message(line, 25 << 20);
        report(name, 4, || {
            sign(&[&ed25519], &large, 0).expect("a signature")
        });
    }

    report("new Ed25519 key", 1_000, || {
        generate(Algorithm::Ed25519Sha256).expect("a key")
    });
    for _ in 0..8 {
        report("new RSA-2048 key", 1, || {
            generate(Algorithm::RsaSha256).expect("a key")
        });
    }
}

fn new_signer(algorithm: Algorithm) -> Signer {
    let pem = generate(algorithm).expect("a key").private_pem;
    let key = PrivateKey::from_pem(&pem).expect("what was generated can be read");
    Signer::new("example.com", "test", key).expect("a domain and a selector")
}

/// A message of `size` octets in blocks of 64 KiB.
fn message(line: &str, size: usize) -> Vec<Vec<u8>> {
    let text = format!("{HEADER}{}", line.repeat(size / line.len()));
    text.as_bytes()
        .chunks(64 << 10)
        .map(<[u8]>::to_vec)
        .collect()
}

fn report<T>(name: &str, rounds: u32, mut round: impl FnMut() -> T) {
    let begin = Instant::now();
    for _ in 0..rounds {
        black_box(round());
    }
    let each: Duration = begin.elapsed() / rounds;
    println!("{name:>32}: {each:?}");
}
