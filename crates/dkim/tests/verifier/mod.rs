//! A verifier of `c=relaxed/relaxed` signatures, slow and by the book (RFC 6376 §6), that shares no code with the crate.
//! It works on text in which each character is one octet.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, UnparsedPublicKey};

/// What is on the wire for `raw`: every line ended by CRLF.
pub fn wire(raw: &[u8]) -> Vec<u8> {
    let text = latin1(raw).replace("\r\n", "\n").replace('\r', "\n");
    let lines = text.split_terminator('\n');
    octets(&lines.flat_map(|line| [line, "\r\n"]).collect::<String>())
}

/// Verifies every signature of `message` (CRLF line ends), top down. `dns` gives the TXT record of a name.
pub fn verify(message: &[u8], dns: impl Fn(&str) -> Option<String>) -> Vec<Result<(), String>> {
    let message = latin1(message);
    let (header, body) = match message.split_once("\r\n\r\n") {
        Some((header, body)) => (header, body),
        None => (message.trim_end_matches("\r\n"), ""),
    };
    let unfolded = header.replace("\r\n ", " ").replace("\r\n\t", " ");
    let fields: Vec<(String, &str)> = unfolded
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim_matches([' ', '\t']).to_ascii_lowercase(), value))
        .collect();
    let signatures = fields.iter().filter(|(name, _)| name == "dkim-signature");
    signatures
        .map(|(_, value)| verify_one(value, &fields, body, &dns))
        .collect()
}

fn verify_one(
    signature: &str,
    fields: &[(String, &str)],
    body: &str,
    dns: impl Fn(&str) -> Option<String>,
) -> Result<(), String> {
    let tag = |name: &str| tag(signature, name).ok_or(format!("no {name}="));
    if tag("v")? != "1" || tag("c")? != "relaxed/relaxed" {
        return Err("v= or c=".into());
    }
    if tag("bh")? != STANDARD.encode(digest(&SHA256, &octets(&relaxed_body(body)))) {
        return Err("bh=".into());
    }

    let mut unused: Vec<&(String, &str)> = fields.iter().collect();
    let mut data = String::new();
    for name in tag("h")?.to_ascii_lowercase().split(':') {
        if let Some(at) = unused.iter().rposition(|(field, _)| field == name) {
            let (_, value) = unused.remove(at);
            data += &[name, ":", &relaxed(value), "\r\n"].concat();
        }
    }
    let without_b: Vec<&str> = signature
        .split(';')
        .map(|tag| {
            if tag.trim_start().starts_with("b=") {
                " b="
            } else {
                tag
            }
        })
        .collect();
    data += &["dkim-signature:", &relaxed(&without_b.join(";"))].concat();

    let record = dns(&format!("{}._domainkey.{}", tag("s")?, tag("d")?)).ok_or("no record")?;
    let public = decode(&self::tag(&record, "p").ok_or("no p=")?)?;
    let signed = decode(&tag("b")?)?;
    let data = octets(&data);
    let verified = match (&*tag("a")?, &*self::tag(&record, "k").ok_or("no k=")?) {
        ("ed25519-sha256", "ed25519") => UnparsedPublicKey::new(&ED25519, public)
            .verify(digest(&SHA256, &data).as_ref(), &signed),
        ("rsa-sha256", "rsa") => {
            // The RSAPublicKey stands in a BIT STRING after the NULL of its algorithm, after the count of unused bits.
            let length = public
                .windows(3)
                .position(|octets| octets == [0x05, 0x00, 0x03])
                .ok_or("p=")?
                + 3;
            let begin = length + 1 + usize::from(public[length] & 0x7f) + 1;
            UnparsedPublicKey::new(
                &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
                &public[begin..],
            )
            .verify(&data, &signed)
        }
        (a, k) => return Err(format!("a={a} with k={k}")),
    };
    verified.map_err(|_| "b=".into())
}

/// The value of a tag, without any white space.
fn tag(list: &str, name: &str) -> Option<String> {
    let mut pairs = list.split(';').filter_map(|tag| tag.split_once('='));
    let (_, value) = pairs.find(|(key, _)| key.trim() == name)?;
    Some(value.split_whitespace().collect())
}

fn relaxed(line: &str) -> String {
    let words: Vec<&str> = line
        .split([' ', '\t'])
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ")
}

fn relaxed_body(body: &str) -> String {
    let mut lines: Vec<String> = body
        .split("\r\n")
        .map(|line| {
            let indent = if line.starts_with([' ', '\t']) {
                " "
            } else {
                ""
            };
            let line = format!("{indent}{}", relaxed(line));
            line.trim_end_matches(' ').to_owned()
        })
        .collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines.iter().flat_map(|line| [line, "\r\n"]).collect()
}

fn decode(base64: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(base64).map_err(|error| error.to_string())
}

fn latin1(octets: &[u8]) -> String {
    octets.iter().map(|&octet| char::from(octet)).collect()
}

fn octets(latin1: &str) -> Vec<u8> {
    latin1
        .chars()
        .map(|c| u8::try_from(c).expect("one octet"))
        .collect()
}
