//! A signer: a key with the domain that it speaks for and the selector that its public part is found by.

use thiserror::Error;

use crate::key::{Algorithm, PrivateKey};

/// The longest name in the DNS, as text (RFC 1035 §2.3.4).
const NAME_MAX: usize = 253;

/// Signs in the name of a domain.
#[derive(Debug)]
pub struct Signer {
    domain: String,
    selector: String,
    key: PrivateKey,
}

/// Why a domain or a selector cannot stand in a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SignerError {
    /// The domain is no name of two or more labels in lower case and in A-label form (RFC 6376 §3.5 "d=", RFC 8616 §5).
    #[error("the domain is not a domain name in lower-case ASCII (A-labels)")]
    Domain,
    /// The selector is no label of letters, digits and inner hyphens, or several with dots between (RFC 6376 §3.1).
    #[error("the selector is not made of letters, digits, inner hyphens and dots")]
    Selector,
    /// `<selector>._domainkey.<domain>` has more than 253 characters.
    #[error("the selector and the domain are too long for a name in the DNS")]
    TooLong,
}

impl Signer {
    /// A signer for `domain` (`d=`), whose public key is published under `selector` (`s=`).
    pub fn new(domain: &str, selector: &str, key: PrivateKey) -> Result<Self, SignerError> {
        Self::check_names(domain, selector)?;
        Ok(Self {
            domain: domain.to_owned(),
            selector: selector.to_owned(),
            key,
        })
    }

    /// Whether there can be a signer of these names.
    ///
    /// # Errors
    /// Why not.
    pub fn check_names(domain: &str, selector: &str) -> Result<(), SignerError> {
        let is_lower = !domain.bytes().any(|octet| octet.is_ascii_uppercase());
        if !(is_lower && domain.contains('.') && domain.split('.').all(is_label)) {
            return Err(SignerError::Domain);
        }
        if !selector.split('.').all(is_label) {
            return Err(SignerError::Selector);
        }
        if dns_name(domain, selector).len() > NAME_MAX {
            return Err(SignerError::TooLong);
        }
        Ok(())
    }

    /// The domain that takes responsibility (`d=`).
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The selector (`s=`).
    pub fn selector(&self) -> &str {
        &self.selector
    }

    /// What this signer signs with (`a=`).
    pub fn algorithm(&self) -> Algorithm {
        self.key.algorithm()
    }

    /// Where receivers look for the public key (RFC 6376 §3.6.2.1): `<selector>._domainkey.<domain>`.
    pub fn dns_name(&self) -> String {
        dns_name(&self.domain, &self.selector)
    }

    /// What they must find there: see [`PrivateKey::dns_record`].
    pub fn dns_record(&self) -> String {
        self.key.dns_record()
    }

    pub(crate) fn key(&self) -> &PrivateKey {
        &self.key
    }
}

fn dns_name(domain: &str, selector: &str) -> String {
    format!("{selector}._domainkey.{domain}")
}

/// Whether `label` is a `sub-domain` (RFC 5321 §4.1.2) of at most 63 characters.
fn is_label(label: &str) -> bool {
    let octets = label.as_bytes();
    let is_edge = |octet: Option<&u8>| octet.is_some_and(u8::is_ascii_alphanumeric);
    octets.len() <= 63
        && is_edge(octets.first())
        && is_edge(octets.last())
        && octets
            .iter()
            .all(|octet| octet.is_ascii_alphanumeric() || *octet == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(domain: &str, selector: &str) -> Result<Signer, SignerError> {
        let seed = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="; // RFC 8463 §A.2
        Signer::new(domain, selector, PrivateKey::from_pem(seed).expect("a key"))
    }

    #[test]
    fn domains_are_lower_case_a_labels() {
        for domain in [
            "example.com",
            "a.b",
            "xn--bcher-kva.example",
            "3.4-5.example",
        ] {
            assert!(signer(domain, "s").is_ok(), "{domain}");
        }
        let long = format!("{}.example", "a".repeat(64));
        for domain in [
            "",
            "localhost",
            "Example.com",
            "example.com.",
            ".example.com",
            "a..b",
            "b\u{fc}cher.example",
            "-a.b",
            "a-.b",
            "a_b.c",
            "a b.c",
            "a;b.c",
            "a.b\r\n",
            "[192.0.2.1]",
            &long,
        ] {
            assert_eq!(
                signer(domain, "s").err(),
                Some(SignerError::Domain),
                "{domain}"
            );
        }
    }

    #[test]
    fn selectors_are_one_or_more_labels() {
        for selector in ["s", "S1", "2025-07", "a.b", "20250711.mail"] {
            assert!(signer("example.com", selector).is_ok(), "{selector}");
        }
        for selector in ["", ".", "a.", "-a", "a_b", "a b", "a;", "\u{fc}", "a=b"] {
            assert_eq!(
                signer("example.com", selector).err(),
                Some(SignerError::Selector),
                "{selector}"
            );
        }
    }

    #[test]
    fn the_name_in_the_dns_has_at_most_253_characters() {
        let label = "a".repeat(59);
        let domain = [&label[..]; 4].join(".");
        assert_eq!(domain.len(), 239);
        assert_eq!(
            signer(&domain, "s").expect("a signer").dns_name().len(),
            252
        );
        assert!(signer(&domain, "s1").is_ok());
        assert_eq!(signer(&domain, "s12").err(), Some(SignerError::TooLong));
    }

    #[test]
    fn a_signer_can_be_shared_by_threads() {
        fn shared<T: Send + Sync + 'static>() {}
        shared::<Signer>();
    }

    #[test]
    fn a_signer_tells_where_its_key_belongs_and_hides_its_secret() {
        let signer = signer("example.com", "s1").expect("a signer");
        assert_eq!(signer.dns_name(), "s1._domainkey.example.com");
        assert_eq!(
            signer.dns_record(),
            "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
        );
        assert_eq!(
            format!("{signer:?}"),
            r#"Signer { domain: "example.com", selector: "s1", key: PrivateKey(ed25519-sha256) }"#
        );
    }
}
