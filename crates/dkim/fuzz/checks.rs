//! What must hold for any bytes. The fuzz targets and the tests on stable share it.

#[path = "../tests/verifier/mod.rs"]
mod verifier;

use std::sync::LazyLock;

use mail_dkim::{PrivateKey, SignError, Signer, sign};

const TIME: i64 = 1_752_292_837;
/// So much of a key in an error or a record would be no chance.
const PIECE: usize = 12;

fn signer(selector: &str, pem: &str) -> Signer {
    let key = PrivateKey::from_pem(pem).expect("a key");
    Signer::new("example.com", selector, key).expect("a signer")
}

static RSA: LazyLock<Signer> =
    LazyLock::new(|| signer("rsa", include_str!("../tests/keys/rsa-2048.pem")));
static ED25519: LazyLock<Signer> =
    LazyLock::new(|| signer("ed", include_str!("../tests/keys/ed25519.pem")));

/// What receivers make of the signatures that `signers` put before `message`, one after the other.
fn verified(signers: &[&Signer], fields: &str, message: &[u8]) -> Vec<Result<(), String>> {
    let message = verifier::wire(&[fields.as_bytes(), message].concat());
    let mut results = verifier::verify(&message, |name| {
        let signer = signers.iter().find(|signer| signer.dns_name() == name)?;
        Some(signer.dns_record())
    });
    // The message may bring others along.
    results.truncate(signers.len());
    results
}

/// Whether `text` holds a piece of `secret`, which is longer than that.
fn tells(text: &str, secret: &str) -> bool {
    let mut pieces = secret.as_bytes().windows(PIECE);
    pieces.any(|piece| text.as_bytes().windows(PIECE).any(|found| found == piece))
}

/// Private keys: no part of one is shown; what is taken for one signs, and its record verifies that.
pub fn key(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    let key = match PrivateKey::from_pem(text) {
        Ok(key) => key,
        Err(error) => {
            // The words of an error are ours; a text that repeats one of them is no secret.
            let ours = ["private key", "Ed25519", "PKCS", "RSA", "passphrase"];
            let shown = format!("{error} {error:?}");
            assert!(!tells(&shown, text) || ours.iter().any(|word| text.contains(word)));
            return;
        }
    };
    let shown = format!("{key:?}");
    assert_eq!(shown, format!("PrivateKey({})", key.algorithm().name()));
    let signer = Signer::new("example.com", "s", key).expect("a signer");
    let message = b"From: a@example.com\r\n\r\nHello\r\n";
    let fields = sign(&[&signer], &[message], TIME).expect("a signature");
    assert_eq!(verified(&[&signer], &fields, message), [Ok(())]);
}

/// Signatures: good for a verifier that is not ours, whatever the message and however it is cut.
pub fn sign_any(data: &[u8]) {
    let (&first, message) = data.split_first().unwrap_or((&0, data));
    let piece = usize::from(first / 2) + 1;
    let signers: &[&Signer] = if first % 2 == 0 {
        &[&ED25519]
    } else {
        &[&RSA, &ED25519]
    };
    let signed = sign(signers, &[message], TIME);
    let blocks: Vec<&[u8]> = message.chunks(piece).collect();
    assert_eq!(sign(signers, &blocks, TIME), signed, "cutting matters");
    let fields = match signed {
        Ok(fields) => fields,
        Err(SignError::Key) => panic!("the keys are good"),
        Err(SignError::Header { line }) => {
            assert!(line > 0);
            return;
        }
        Err(SignError::NoFrom) => return,
    };
    assert!(fields.is_ascii() && fields.ends_with("\r\n"));
    for line in fields.split_terminator("\r\n") {
        assert!(line.len() <= 78 && !line.contains(['\r', '\n']), "{line}");
        assert!(line.starts_with("DKIM-Signature: ") || line.starts_with(' '));
    }
    let results = verified(signers, &fields, message);
    assert!(
        results.len() == signers.len() && results.iter().all(Result::is_ok),
        "{results:?}"
    );
}
