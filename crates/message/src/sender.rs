//! Patterns of senders: which addresses somebody may send as.

use crate::{
    address, check,
    error::{Invalid, quoted},
};

/// An address, a domain, the domains below one, or anybody. Compared without regard to the case of ASCII letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderPattern {
    /// `*`
    Anybody,
    /// `user@example.com`
    Address(String),
    /// `example.com`: every address of that domain.
    Domain(String),
    /// `*.example.com`: every address of the domains below it, not of itself.
    Below(String),
}

impl SenderPattern {
    /// Reads a pattern; its domain may be internationalised (RFC 5890).
    ///
    /// # Errors
    /// [`Invalid`] for anything else, as a display name.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        check::header_text("sender", text)?;
        let text = text.trim();
        let refuse = || {
            Invalid::bad("sender", format!("invalid sender: {}", quoted(text)))
                .with_hint("Write an address, a domain, *.domain for all below it, or *.")
        };
        let domain = |domain: &str| {
            let address = format!("a@{domain}");
            let address = address::parse_address("sender", &address).map_err(|_| refuse())?;
            Ok(address["a@".len()..].to_ascii_lowercase())
        };
        if text == "*" {
            Ok(Self::Anybody)
        } else if let Some(below) = text.strip_prefix("*.") {
            domain(below).map(Self::Below)
        } else if text.contains('@') {
            let address = address::parse_address("sender", text).map_err(|_| refuse())?;
            Ok(Self::Address(address.to_ascii_lowercase()))
        } else {
            domain(text).map(Self::Domain)
        }
    }

    /// The canonical form: lower case, the domain in ASCII.
    pub fn canonical(&self) -> String {
        match self {
            Self::Anybody => "*".to_owned(),
            Self::Address(text) | Self::Domain(text) => text.clone(),
            Self::Below(domain) => format!("*.{domain}"),
        }
    }

    /// Whether an address, its domain in ASCII, is one of them.
    pub fn matches(&self, address: &str) -> bool {
        let its = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        match self {
            Self::Anybody => true,
            Self::Address(wanted) => wanted.eq_ignore_ascii_case(address),
            Self::Domain(domain) => domain.eq_ignore_ascii_case(its),
            Self::Below(domain) => its
                .len()
                .checked_sub(domain.len())
                .and_then(|at| its.split_at_checked(at))
                .is_some_and(|(before, end)| {
                    before.len() > 1 && before.ends_with('.') && domain.eq_ignore_ascii_case(end)
                }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SenderPattern;

    #[test]
    fn patterns_are_read_into_their_canonical_form() {
        for (text, canonical) in [
            ("*", "*"),
            (" Sales@Example.COM ", "sales@example.com"),
            ("\"sales\"@example.com", "sales@example.com"),
            ("Example.com", "example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("*.Bücher.example", "*.xn--bcher-kva.example"),
            ("localhost", "localhost"),
            ("[192.0.2.1]", "[192.0.2.1]"),
        ] {
            let pattern = SenderPattern::parse(text).unwrap();
            assert_eq!(pattern.canonical(), canonical);
            assert_eq!(SenderPattern::parse(canonical).unwrap(), pattern);
        }
        for text in [
            "",
            " ",
            "@example.com",
            "a@",
            "*@example.com@",
            "*.",
            "**.example.com",
            "*example.com",
            "a.*.example.com",
            ".example.com",
            "Sales <sales@example.com>",
            "a@example.com, b@example.com",
            "a\n@example.com",
        ] {
            let error = SenderPattern::parse(text).unwrap_err();
            assert_eq!(error.field, "sender", "{text}");
        }
    }

    #[test]
    fn an_address_is_one_of_them_or_not() {
        for (pattern, address, is) in [
            ("*", "anybody@anywhere.test", true),
            ("a@b.test", "A@B.test", true),
            ("a@b.test", "aa@b.test", false),
            ("a@b.test", "a@b.test.test", false),
            ("b.test", "x@B.TEST", true),
            ("b.test", "\"x@c\"@b.test", true),
            ("b.test", "\"x@b.test\"@c.test", false),
            ("b.test", "x@a.b.test", false),
            ("b.test", "x@ab.test", false),
            ("*.b.test", "x@a.b.test", true),
            ("*.b.test", "x@c.a.B.test", true),
            ("*.b.test", "x@b.test", false),
            ("*.b.test", "x@ab.test", false),
            ("*.b.test", "x@test", false),
        ] {
            let read = SenderPattern::parse(pattern).unwrap();
            assert_eq!(read.matches(address), is, "{pattern} {address}");
        }
    }
}
