//! The example of RFC 8463, appendix A: the same key, header and body give the same hash and the same signature.

use crate::body::BodyHash;
use crate::encode::base64;
use crate::header;
use crate::key::PrivateKey;

const MESSAGE: &str = include_str!("../tests/messages/rfc8463.eml");

const SEED: &str = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";

/// The fields that the example's `h=` names and the message has, in its order.
const NAMES: [&str; 5] = ["from", "to", "subject", "date", "message-id"];

#[test]
fn the_ed25519_signature_is_the_one_of_the_rfc() {
    let split = header::split(&[MESSAGE]);
    let fields = header::fields(&split.header).expect("fields");

    let mut hash = BodyHash::new(split.after_cr);
    hash.update(&MESSAGE.as_bytes()[split.body.1..]);
    let body_hash = base64(&hash.finish());
    assert_eq!(body_hash, "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=");

    let signature = fields[0];
    assert!(signature.is("DKIM-Signature"));
    let value = String::from_utf8(signature.value.to_vec()).expect("text");
    let (tags, expected) = value
        .split_once("b=/")
        .map(|(tags, b)| (format!("{tags}b="), format!("/{b}")))
        .expect("b=");

    let mut data = Vec::new();
    for name in NAMES {
        let field = fields
            .iter()
            .rfind(|field| field.is(name))
            .expect("a field");
        header::write_relaxed(field.name, field.value, &mut data);
        data.extend_from_slice(b"\r\n");
    }
    header::write_relaxed(signature.name, tags.as_bytes(), &mut data);
    let made = PrivateKey::from_pem(SEED)
        .expect("a key")
        .sign(&data)
        .expect("a signature");
    assert_eq!(
        base64(&made),
        expected.split_whitespace().collect::<String>()
    );
}
