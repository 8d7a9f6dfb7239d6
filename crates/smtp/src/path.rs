//! A forward or reverse path as it is written to a relay. Pure.

use std::borrow::Cow;

use idna::AsciiDenyList;

use crate::{EnhancedCode, Extensions};

/// Whose path it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    Sender,
    Recipient,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Recipient => "recipient",
        }
    }

    /// The status of an address that is none (RFC 3463 §3.2).
    fn bad_syntax(self) -> EnhancedCode {
        match self {
            Self::Sender => EnhancedCode::permanent(1, 7),
            Self::Recipient => EnhancedCode::permanent(1, 3),
        }
    }
}

/// Why something is refused without asking the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: EnhancedCode,
    pub(crate) detail: String,
}

/// An address as it is written to this relay, or why it cannot be. Where only the domain is beyond ASCII, it
/// is written in A-labels (RFC 5890), so that no relay on the way needs SMTPUTF8 (RFC 6531 §3.2).
pub(crate) fn wire_form<'a>(
    role: Role,
    address: &'a str,
    offered: &Extensions,
) -> Result<Cow<'a, str>, Refusal> {
    let name = role.name();
    let refused = |status: EnhancedCode, detail: String| Refusal { status, detail };
    let bad = |detail: String| refused(role.bad_syntax(), detail);
    if address.is_empty() {
        return Err(bad(format!("{name} address is empty")));
    }
    if address.contains(|c: char| c.is_control() || matches!(c, '<' | '>')) {
        let holds = "holds a control character or an angle bracket";
        return Err(bad(format!("{name} address {holds}")));
    }
    if address.is_ascii() {
        return Ok(Cow::Borrowed(address));
    }
    let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
    if local.is_ascii() {
        let labels = idna::domain_to_ascii_cow(domain.as_bytes(), AsciiDenyList::URL);
        return labels
            .map(|labels| Cow::Owned(format!("{local}@{labels}")))
            .map_err(|_| {
                bad(format!(
                    "the domain of the {name} address is not a valid name"
                ))
            });
    }
    if offered.smtputf8 {
        return Ok(Cow::Borrowed(address));
    }
    // RFC 6531 §3.7.4.2.
    let detail =
        format!("{name} address is not ASCII before its @, and the relay does not offer SMTPUTF8");
    Err(refused(EnhancedCode::permanent(6, 7), detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(address: &str, offered: &str) -> Result<String, String> {
        wire_form(Role::Sender, address, &Extensions::parse(offered))
            .map(Cow::into_owned)
            .map_err(|Refusal { status, detail }| format!("{status} {detail}"))
    }

    #[test]
    fn a_domain_beyond_ascii_is_written_in_a_labels_and_needs_no_smtputf8() {
        for offered in ["", "x\nSMTPUTF8"] {
            let ascii = "a@xn--bcher-kva.example";
            assert_eq!(form("a@bücher.example", offered).as_deref(), Ok(ascii));
            assert_eq!(form("a@BÜCHER.example", offered).as_deref(), Ok(ascii));
            assert_eq!(form("\"a@é\"@b", "x\nSMTPUTF8").as_deref(), Ok("\"a@é\"@b"));
            let error = form("a@\u{fffd}.example", offered).unwrap_err();
            assert_eq!(
                error,
                "5.1.7 the domain of the sender address is not a valid name"
            );
        }
    }

    #[test]
    fn what_stands_before_the_at_sign_needs_smtputf8() {
        for address in ["é@b", "é@bücher.example", "é"] {
            assert_eq!(form(address, "x\nSMTPUTF8").as_deref(), Ok(address));
            let error = form(address, "x").unwrap_err();
            assert!(
                error.starts_with("5.6.7 ") && error.ends_with("does not offer SMTPUTF8"),
                "{error}"
            );
        }
    }
}
