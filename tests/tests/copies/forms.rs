//! The forms in which a secret may come back.

use std::fmt::Write as _;

/// Every form of these secrets: as they are, in base64 (of either alphabet, at each of the three offsets within other
/// octets), percent-encoded, in hexadecimal, and cut in pieces. A private key in PEM is looked for by its key alone.
pub struct Forms(Vec<String>);

impl Forms {
    pub fn of(secrets: &[&str]) -> Self {
        let mut forms = Vec::new();
        for secret in secrets {
            let secret = secret.trim();
            if secret.starts_with("-----") {
                // The end of the key: what stands before it says only what kind of key it is.
                let lines: Vec<&str> = secret.lines().filter(|l| !l.starts_with('-')).collect();
                let base64 = lines.concat();
                let last = &base64[base64.len() - 40..];
                forms.push(last.to_owned());
                forms.push(last.replace('+', "-").replace('/', "_"));
                add(&mut forms, &decode(last));
                add(&mut forms, last.as_bytes());
            } else {
                forms.push(secret.to_owned());
                add(&mut forms, secret.as_bytes());
            }
        }
        Self(forms)
    }

    /// Checks that none of them is there.
    #[track_caller]
    pub fn are_not_in(&self, place: &str, text: &str) {
        let text = text.to_lowercase();
        for form in &self.0 {
            if let Some(at) = text.find(&form.to_lowercase()) {
                let line = text[..at].rsplit('\n').next().unwrap_or_default();
                panic!("{place} holds a secret as {form} after: {line}");
            }
        }
    }

    /// Checks that there is at least one of them: that they would be found.
    #[track_caller]
    pub fn would_be_found_in(&self, text: &str) {
        let text = text.to_lowercase();
        let found = self
            .0
            .iter()
            .any(|form| text.contains(&form.to_lowercase()));
        assert!(found, "{text}");
    }
}

fn add(forms: &mut Vec<String>, octets: &[u8]) {
    for offset in 0..3_usize {
        let padded = [&b"\0\0"[..offset], octets].concat();
        let base64 = base64(&padded);
        // What depends on the octets beside it goes.
        let (begin, end) = ([0, 2, 3][offset], padded.len() / 3 * 4);
        let form = &base64[begin..end];
        forms.push(form.to_owned());
        forms.push(form.replace('+', "-").replace('/', "_"));
    }
    let mut percent = String::new();
    for octet in octets {
        if octet.is_ascii_alphanumeric() || b"-._~".contains(octet) {
            percent.push(char::from(*octet));
        } else {
            write!(percent, "%{octet:02X}").expect("a string grows");
        }
    }
    forms.extend([hexadecimal(octets), percent]);
}

/// In lower case.
pub fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut text, octet| {
        write!(text, "{octet:02x}").expect("a string grows");
        text
    })
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648, without padding.
pub fn base64(octets: &[u8]) -> String {
    let mut text = String::new();
    for chunk in octets.chunks(3) {
        let octet = |n: usize| u32::from(*chunk.get(n).unwrap_or(&0));
        let word = octet(0) << 16 | octet(1) << 8 | octet(2);
        for place in 0..=chunk.len() {
            text.push(char::from(
                ALPHABET[(word >> (18 - 6 * place)) as usize & 63],
            ));
        }
    }
    text
}

fn decode(base64: &str) -> Vec<u8> {
    let digits = base64
        .bytes()
        .filter_map(|c| ALPHABET.iter().position(|a| *a == c));
    let digits: Vec<usize> = digits.collect();
    let mut octets = Vec::new();
    for group in digits.chunks(4) {
        let word = group
            .iter()
            .enumerate()
            .fold(0, |word, (n, digit)| word | digit << (18 - 6 * n));
        for n in 1..group.len() {
            octets.push((word >> (24 - 8 * n)) as u8);
        }
    }
    octets
}

#[test]
fn a_secret_is_found_in_every_form() {
    let forms = Forms::of(&["pass/word+&?"]);
    for text in [
        "x pass/word+&? x",
        "PASS%2FWORD%2B%26%3F",
        "706173732f776f72642b263f",
        &base64(b"\0app\0pass/word+&?"),
        &base64(b"\0a\0pass/word+&?")
            .replace('/', "_")
            .replace('+', "-"),
        &base64(b"user=a\x01auth=Bearer pass/word+&?\x01\x01"),
    ] {
        forms.would_be_found_in(text);
    }
    assert_eq!(decode(&base64(b"\xff\x00abc")), b"\xff\x00abc");
    forms.are_not_in("nothing", "pass word");
}
