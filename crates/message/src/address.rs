//! Mailboxes: the lists that callers write, and the canonical form that is stored.
//!
//! Plain addresses and plain display names take a fast path; quoted names go to lettre's parser.
//! Domains are stored in their ASCII form (RFC 5890), so that they need no SMTPUTF8.
//!
//! Canonical form: `user@domain`, `Name <user@domain>` or `"Na\"me" <user@domain>`; no address holds
//! `<`, `>` or a control character, nor white space but for spaces in a quoted local part.

use std::{borrow::Cow, net::Ipv4Addr, net::Ipv6Addr};

use idna::AsciiDenyList;

use crate::{
    check::has_control,
    error::{Invalid, quoted},
    local_part::{self, is_atext, push_quoted},
};

/// RFC 5321 §4.5.3.1.3: 256 octets with the angle brackets.
const MAX_ADDRESS: usize = 254;
/// RFC 5321 §4.5.3.1.1.
const MAX_LOCAL_PART: usize = 64;
/// A display name doubles at most when it is quoted, and then still fits into a line (RFC 5322 §2.1.1).
const MAX_NAME: usize = 320;

/// A checked mailbox (RFC 5322 §3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mailbox<'a> {
    /// The display name, trimmed, not empty.
    pub name: Option<Cow<'a, str>>,
    /// `local@domain`, the domain in ASCII.
    pub address: Cow<'a, str>,
}

impl<'a> Mailbox<'a> {
    /// The address's domain.
    pub fn domain(&self) -> &str {
        split(&self.address).map_or("", |(_, domain)| domain)
    }

    /// The canonical text form.
    pub fn into_canonical(self) -> Cow<'a, str> {
        let Some(name) = &self.name else {
            return self.address;
        };
        let mut out = String::with_capacity(name.len() + self.address.len() + 6);
        if is_plain_name(name) {
            out.push_str(name);
        } else {
            push_quoted(&mut out, name);
        }
        out.push_str(" <");
        out.push_str(&self.address);
        out.push('>');
        Cow::Owned(out)
    }

    /// Reads the canonical text form back; `None` for anything that could not have come from it.
    pub fn from_canonical(text: &'a str) -> Option<Self> {
        if has_control(text) {
            return None;
        }
        let (name, address) = match text.strip_suffix('>') {
            Some(rest) => {
                let (name, address) = rest.rsplit_once(" <")?;
                (Some(unquote(name)?), address)
            }
            None => (None, text),
        };
        let (local, domain) = split(address)?;
        if domain.is_empty() || domain.contains(['<', '>', ' ', '\t', '"']) {
            return None;
        }
        local_part::canonical(local)?;
        Some(Self {
            name,
            address: Cow::Borrowed(address),
        })
    }
}

/// Splits at the last `@`: a quoted local part may hold others.
fn split(address: &str) -> Option<(&str, &str)> {
    address.rsplit_once('@')
}

fn unquote(name: &str) -> Option<Cow<'_, str>> {
    let Some(rest) = name.strip_prefix('"') else {
        return Some(Cow::Borrowed(name));
    };
    let inner = rest.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next()? } else { c });
    }
    Some(Cow::Owned(out))
}

/// Whether a name can stand without quotes: atoms and dots, single spaces between (RFC 5322 §3.2.3,
/// with the dots of the obsolete syntax and RFC 6532's characters).
fn is_plain_name(name: &str) -> bool {
    !name.starts_with(' ')
        && !name.ends_with(' ')
        && !name.contains("  ")
        && name
            .bytes()
            .all(|b| is_atext(b) || matches!(b, b' ' | b'.') || !b.is_ascii())
}

/// Appends the mailboxes of a comma-separated list. Empty elements are skipped (RFC 5322 §4.4), an
/// empty list is refused.
pub(crate) fn parse_list<'a>(
    field: &str,
    text: &'a str,
    out: &mut Vec<Mailbox<'a>>,
) -> Result<(), Invalid> {
    if has_control(text) {
        return Err(Invalid::control_character(field));
    }
    let before = out.len();
    let mut rest = text;
    while let Some((element, tail)) = next_element(rest) {
        rest = tail;
        let element = element.trim();
        if !element.is_empty() {
            // The first half of "Doe, Jane <jane@example.org>".
            let half = !element.contains('@') && rest.contains('<');
            let mailbox = parse_one(field, element).map_err(|error| {
                if half {
                    error.with_hint("Put a display name with a comma into double quotes.")
                } else {
                    error
                }
            })?;
            out.push(mailbox);
        }
    }
    if out.len() == before {
        return Err(Invalid::bad(field, format!("\"{field}\" holds no address")));
    }
    Ok(())
}

/// The text up to the next comma outside quotes, and what follows; `None` at the end.
fn next_element(text: &str) -> Option<(&str, &str)> {
    if text.is_empty() {
        return None;
    }
    let (mut in_quotes, mut escaped) = (false, false);
    for (i, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' if in_quotes => escaped = true,
            b'"' => in_quotes = !in_quotes,
            b',' if !in_quotes => return Some((&text[..i], &text[i + 1..])),
            _ => {}
        }
    }
    Some((text, ""))
}

/// Parses one mailbox, without control characters and already trimmed.
pub(crate) fn parse_one<'a>(field: &str, text: &'a str) -> Result<Mailbox<'a>, Invalid> {
    let Some((name, address)) = text
        .strip_suffix('>')
        .and_then(|rest| rest.rsplit_once('<'))
    else {
        return Ok(Mailbox {
            name: None,
            address: parse_address(field, text)?,
        });
    };
    let name = name.trim();
    Ok(Mailbox {
        name: parse_name(field, name)?,
        address: parse_address(field, address.trim())?,
    })
}

fn parse_name<'a>(field: &str, name: &'a str) -> Result<Option<Cow<'a, str>>, Invalid> {
    if name.is_empty() {
        return Ok(None);
    }
    let parsed = if is_plain_name(name) {
        Cow::Borrowed(name)
    } else {
        // The address is not given to lettre, whose address grammar is narrower than ours.
        format!("{name} <a@example.org>")
            .parse::<lettre::message::Mailbox>()
            .ok()
            .and_then(|mailbox| mailbox.name)
            .map(|name| Cow::Owned(name.replace('\t', " ").trim().to_owned()))
            .ok_or_else(|| {
                refuse(field, name, "is not a valid display name")
                    .with_hint("Put a display name with special characters into double quotes.")
            })?
    };
    if parsed.len() > MAX_NAME {
        return Err(refuse(
            field,
            name,
            &format!("is longer than {MAX_NAME} bytes"),
        ));
    }
    Ok((!parsed.is_empty()).then_some(parsed))
}

/// Checks an addr-spec (RFC 5321 §4.1.2, RFC 6531 §3.3), takes needless quotes off its local part and brings its
/// domain into ASCII.
pub(crate) fn parse_address<'a>(field: &str, text: &'a str) -> Result<Cow<'a, str>, Invalid> {
    if local_part::has_encoded_word(text) {
        return Err(refuse(field, text, "has an encoded word").with_hint(
            "An encoded word is part of a name, never of an address (RFC 2047 section 5).",
        ));
    }
    let Some((local, domain)) = split(text) else {
        return Err(refuse(field, text, "has no domain"));
    };
    if local.is_empty() {
        return Err(refuse(field, text, "has nothing before the \"@\""));
    }
    let Some(local) = local_part::canonical(local) else {
        return Err(refuse(field, text, "is not valid before the \"@\""));
    };
    if local.len() > MAX_LOCAL_PART {
        let problem = format!("has more than {MAX_LOCAL_PART} bytes before the \"@\"");
        return Err(refuse(field, text, &problem));
    }
    let domain = if is_host_name(domain) || is_literal(domain) {
        Cow::Borrowed(domain)
    } else {
        match idna::domain_to_ascii_cow(domain.as_bytes(), AsciiDenyList::URL) {
            Ok(ascii) if !domain.is_ascii() && is_host_name(&ascii) => ascii,
            _ => return Err(refuse(field, text, "does not have a valid domain")),
        }
    };
    let address = match (&local, &domain) {
        (Cow::Borrowed(_), Cow::Borrowed(_)) => Cow::Borrowed(text),
        _ => Cow::Owned(format!("{local}@{domain}")),
    };
    if address.len() > MAX_ADDRESS {
        let problem = format!("is longer than {MAX_ADDRESS} bytes");
        return Err(refuse(field, text, &problem));
    }
    Ok(address)
}

fn refuse(field: &str, text: &str, problem: &str) -> Invalid {
    Invalid::bad(
        field,
        format!("invalid address in \"{field}\": {} {problem}", quoted(text)),
    )
}

/// RFC 5321 `Domain`: letters, digits and hyphens, the last label not a number.
fn is_host_name(domain: &str) -> bool {
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    domain.split('.').all(label_ok)
        && !domain
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
}

/// RFC 5321 §4.1.3.
fn is_literal(domain: &str) -> bool {
    let Some(inner) = domain.strip_prefix('[').and_then(|d| d.strip_suffix(']')) else {
        return false;
    };
    match inner.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => inner[5..].parse::<Ipv6Addr>().is_ok(),
        _ => inner.parse::<Ipv4Addr>().is_ok(),
    }
}

/// Adds addresses in order, leaving out those that differ from an earlier one only in the case of
/// the domain (RFC 5321 §2.4).
pub(crate) fn deduplicated<'m>(mailboxes: impl Iterator<Item = &'m Mailbox<'m>>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    let mut out: Vec<String> = Vec::new();
    for mailbox in mailboxes {
        let address = mailbox.address.as_ref();
        // The set is for long lists only; nearly every mail has one recipient.
        if out.len() < 8 {
            if out.iter().any(|known| same(known, address)) {
                continue;
            }
        } else {
            if seen.is_empty() {
                seen.extend(out.iter().map(|known| key(known)));
            }
            if !seen.insert(key(address)) {
                continue;
            }
        }
        out.push(address.to_owned());
    }
    out
}

fn same(a: &str, b: &str) -> bool {
    match (split(a), split(b)) {
        (Some((l1, d1)), Some((l2, d2))) => l1 == l2 && d1.eq_ignore_ascii_case(d2),
        _ => a == b,
    }
}

fn key(address: &str) -> String {
    split(address).map_or_else(
        || address.to_owned(),
        |(local, domain)| format!("{local}@{}", domain.to_ascii_lowercase()),
    )
}
