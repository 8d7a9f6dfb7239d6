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
    pub(crate) fn new(credentials: &Credentials) -> Self {
        if credentials.secret.is_empty() {
            return Self::default();
        }
        let plain = format!("\0{}\0{}", credentials.username, credentials.secret);
        let mut needles = vec![
            STANDARD.encode(plain).trim_end_matches('=').to_owned(),
            STANDARD
                .encode(&credentials.secret)
                .trim_end_matches('=')
                .to_owned(),
            credentials.secret.clone(),
        ];
        needles.sort_by_key(|needle| std::cmp::Reverse(needle.len()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AuthMechanism;

    fn mask(secret: &str) -> Mask {
        Mask::new(&Credentials {
            username: "bob".into(),
            secret: secret.into(),
            mechanism: AuthMechanism::Auto,
        })
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
}
