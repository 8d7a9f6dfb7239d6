//! Keeps secrets out of what a server says: some echo the command they did not like. Pure.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{Credentials, Reply};

/// How many characters in common with a secret make a piece of text suspicious; an echo may be cut off.
const PREFIX: usize = 8;

/// What must never appear in a reply's text.
#[derive(Default)]
pub(crate) struct Mask {
    needles: Vec<String>,
}

impl Mask {
    /// Masks the secret and all that goes out in its name: `responses` are in base64. A relay that takes
    /// them apart may repeat the secret's base64 as it stands in the middle of theirs.
    pub(crate) fn new(credentials: &Credentials, responses: &[String]) -> Self {
        let secret = &credentials.secret;
        if secret.is_empty() {
            return Self::default();
        }
        let user = STANDARD.encode(&credentials.username);
        let whole = responses.iter().filter(|response| **response != user);
        let mut needles: Vec<String> = whole.cloned().collect();
        needles.extend([secret.clone(), STANDARD.encode(secret)]);
        if secret.len() >= PREFIX {
            needles.extend((1..3).map(|before| embedded(secret, before)));
        }
        for needle in &mut needles {
            needle.truncate(needle.trim_end_matches('=').len());
        }
        needles.sort_by_key(|needle| std::cmp::Reverse(needle.len()));
        needles.dedup();
        Self { needles }
    }

    /// `reply` without secrets. The enhanced code stays: it was read before.
    pub(crate) fn reply(&self, mut reply: Reply) -> Reply {
        if !self.needles.is_empty() {
            reply.text = self.text(&reply.text);
        }
        reply
    }

    /// `text` with every secret, and everything that begins like one, replaced by asterisks.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for needle in &self.needles {
            let prefix: String = needle.chars().take(PREFIX).collect();
            let mut clean = String::with_capacity(text.len());
            let mut rest = text.as_str();
            while let Some(at) = rest.find(&prefix) {
                let (before, echo) = rest.split_at(at);
                let same = echo.chars().zip(needle.chars()).take_while(|(a, b)| a == b);
                clean.push_str(before);
                clean.push_str("***");
                rest = &echo[same.map(|(c, _)| c.len_utf8()).sum()..];
            }
            clean.push_str(rest);
            text = clean;
        }
        text
    }
}

/// The base64 of a secret that stands `before` octets (modulo three) into something longer, without the
/// digits that it shares with what surrounds it.
fn embedded(secret: &str, before: usize) -> String {
    let mut octets = vec![0; before];
    octets.extend_from_slice(secret.as_bytes());
    octets.truncate(octets.len() / 3 * 3);
    STANDARD.encode(octets).split_off(before + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AuthMechanism;

    fn mask(secret: &str) -> Mask {
        let credentials = Credentials {
            username: "bob".into(),
            secret: secret.into(),
            mechanism: AuthMechanism::Auto,
        };
        Mask::new(&credentials, &[STANDARD.encode(format!("\0bob\0{secret}"))])
    }

    #[test]
    fn secrets_are_masked_in_every_form_we_send_and_when_cut_off() {
        let mask = mask("correct horse");
        let plain = STANDARD.encode("\0bob\0correct horse");
        let login = STANDARD.encode("correct horse");
        for echo in ["correct horse", &plain, &login, &plain[..20], &login[..12]] {
            let text = mask.text(&format!("what is <{echo}>, {echo}"));
            assert!(text.starts_with("what is <***"), "{text}");
            for secret in ["correct", &plain[..12], &login[..10]] {
                assert!(!text.contains(secret), "{text}");
            }
        }
    }

    #[test]
    fn short_and_foreign_secrets_are_masked_and_an_empty_one_masks_nothing() {
        assert_eq!(mask("a").text("banana"), "b***n***n***");
        assert_eq!(mask("pässwörter-ß").text("no pässwörter-ß!"), "no ***!");
        assert_eq!(mask("").text("no such thing"), "no such thing");
    }

    #[test]
    fn a_token_is_masked_wherever_it_stands_in_base64() {
        let mask = mask("ya29.A0ARrdaM-token");
        for before in ["", "x", "xx", "user=bob\u{1}auth=Bearer "] {
            let echo = STANDARD.encode(format!("{before}ya29.A0ARrdaM-token and more"));
            let text = mask.text(&echo);
            // At most the digits that the token shares with its neighbours are left.
            let kept: usize = text.split("***").map(str::len).sum();
            let own = STANDARD.encode("ya29.A0ARrdaM-token").len();
            assert!(
                text.contains("***") && echo.len() - kept + 6 >= own,
                "{echo} {text}"
            );
        }
        assert_eq!(mask.text("dXNlcj1ib2I="), "dXNlcj1ib2I=");
    }
}
