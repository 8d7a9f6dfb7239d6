//! A forward or reverse path as it is written to a relay. Pure.

use std::borrow::Cow;

use idna::AsciiDenyList;

use crate::Extensions;

/// An address as it is written to this relay, or why it cannot be. Where only the domain is beyond ASCII, it
/// is written in A-labels (RFC 5890), so that no relay on the way needs SMTPUTF8 (RFC 6531 §3.2).
pub(crate) fn wire_form<'a>(
    role: &str,
    address: &'a str,
    offered: &Extensions,
) -> Result<Cow<'a, str>, String> {
    if address.is_empty() {
        return Err(format!("{role} address is empty"));
    }
    if address.contains(|c: char| c.is_control() || matches!(c, '<' | '>')) {
        return Err(format!(
            "{role} address holds a control character or an angle bracket"
        ));
    }
    if address.is_ascii() {
        return Ok(Cow::Borrowed(address));
    }
    let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
    if local.is_ascii() {
        let labels = idna::domain_to_ascii_cow(domain.as_bytes(), AsciiDenyList::URL);
        return labels
            .map(|labels| Cow::Owned(format!("{local}@{labels}")))
            .map_err(|_| format!("the domain of the {role} address is not a valid name"));
    }
    if offered.smtputf8 {
        return Ok(Cow::Borrowed(address));
    }
    Err(format!(
        "{role} address is not ASCII before its @, and the relay does not offer SMTPUTF8 (5.6.7)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(address: &str, offered: &str) -> Result<String, String> {
        wire_form("sender", address, &Extensions::parse(offered)).map(Cow::into_owned)
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
                "the domain of the sender address is not a valid name"
            );
        }
    }

    #[test]
    fn what_stands_before_the_at_sign_needs_smtputf8() {
        for address in ["é@b", "é@bücher.example", "é"] {
            assert_eq!(form(address, "x\nSMTPUTF8").as_deref(), Ok(address));
            let error = form(address, "x").unwrap_err();
            assert!(
                error.ends_with("does not offer SMTPUTF8 (5.6.7)"),
                "{error}"
            );
        }
    }
}
