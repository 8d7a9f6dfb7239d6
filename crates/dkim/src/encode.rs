//! Base64, PEM and the few DER structures that keys and DNS records are written in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The base64 of `data`, padded, on one line.
pub(crate) fn base64(data: &[u8]) -> String {
    STANDARD.encode(data)
}

/// What `text` is the base64 of; white space anywhere in it is passed over.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let text: Vec<u8> = text.bytes().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(text).ok()
}

/// An unencrypted PKCS #8 key in PEM (RFC 7468 §10): lines of 64 characters.
pub(crate) fn private_key_pem(pkcs8: &[u8]) -> String {
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = &base64(pkcs8)[..];
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    pem
}

/// The PKCS #8 form (version 1, RFC 8410 §7) of an Ed25519 seed, as OpenSSL writes it.
pub(crate) fn ed25519_pkcs8(seed: &[u8; 32]) -> Vec<u8> {
    let algorithm = sequence(&[0x06, 0x03, 0x2b, 0x65, 0x70]); // 1.3.101.112
    let key = element(0x04, &element(0x04, seed));
    sequence(&[&[0x02, 0x01, 0x00][..], &algorithm, &key].concat())
}

/// The `SubjectPublicKeyInfo` (RFC 5280 §4.1) around an `RSAPublicKey` (RFC 8017 §A.1.1).
pub(crate) fn rsa_public_key_info(rsa_public_key: &[u8]) -> Vec<u8> {
    const RSA_ENCRYPTION: [u8; 13] = [
        0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
    ];
    let bits = element(0x03, &[&[0x00][..], rsa_public_key].concat());
    sequence(&[sequence(&RSA_ENCRYPTION), bits].concat())
}

fn sequence(content: &[u8]) -> Vec<u8> {
    element(0x30, content)
}

/// A DER element: tag, definite length in its shortest form (X.690 §10.1), content.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    if content.len() < 0x80 {
        out.push(content.len() as u8);
    } else {
        let octets = &length[length.iter().take_while(|&&octet| octet == 0).count()..];
        out.push(0x80 | octets.len() as u8);
        out.extend_from_slice(octets);
    }
    out.extend_from_slice(content);
    out
}
