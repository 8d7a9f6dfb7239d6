//! How a recipient leaves a list: the field `list_unsubscribe`, and the headers of RFC 2369 §3.2 and RFC 8058.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    address,
    content::{Members, Text, is_empty},
    error::{Invalid, quoted},
    fields,
};

/// It must fit into one line: a folded one is no address any more for some readers.
const MAX_URL: usize = 900;

const MEMBERS: &str = "url, mailto and one_click";

const ALIASES: &[(&str, &str)] = &[
    ("uri", "url"),
    ("link", "url"),
    ("http", "url"),
    ("https", "url"),
    ("mail", "mailto"),
    ("email", "mailto"),
    ("address", "mailto"),
    ("oneclick", "one_click"),
    ("one-click", "one_click"),
    ("post", "one_click"),
];

/// What stands in the canonical content; at least one of the two addresses.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListUnsubscribe<'a> {
    #[serde(borrow, default, skip_serializing_if = "is_empty")]
    pub url: Text<'a>,
    /// A `mailto:` URI (RFC 6068).
    #[serde(borrow, default, skip_serializing_if = "is_empty")]
    pub mailto: Text<'a>,
    pub one_click: bool,
}

impl ListUnsubscribe<'_> {
    /// Whether it is as [`read`] leaves it.
    pub fn is_canonical(&self) -> bool {
        !(self.url.is_empty() && self.mailto.is_empty())
            && (self.url.is_empty() || is_web_url(&self.url))
            && (self.mailto.is_empty() || is_mailto(&self.mailto))
            && (!self.one_click || is_https(&self.url))
    }

    /// Writes the headers, each address on a line of its own.
    pub fn write(&self, out: &mut String) {
        let addresses = [&self.url, &self.mailto];
        let given: Vec<String> = addresses
            .into_iter()
            .filter(|address| !address.is_empty())
            .map(|address| format!("<{}>", &**address))
            .collect();
        out.push_str("List-Unsubscribe: ");
        out.push_str(&given.join(",\r\n "));
        out.push_str("\r\n");
        if self.one_click {
            out.push_str("List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n");
        }
    }
}

/// Reads the field as given.
pub(crate) fn read(value: &RawValue) -> Result<ListUnsubscribe<'static>, Invalid> {
    const FIELD: &str = "list_unsubscribe";
    let members: Members<'_, &RawValue> = serde_json::from_str(fields::object(FIELD, value)?.get())
        .map_err(|_| fields::wrong_type(FIELD, "an object", value))?;
    let (mut url, mut mailto, mut one_click) = (String::new(), String::new(), None);
    for (name, value) in &members.0 {
        match &**name {
            "url" | "mailto" | "one_click" if value.get() == "null" => {}
            "url" => url = web_url(&fields::string("list_unsubscribe.url", value)?)?,
            "mailto" => mailto = mailto_uri(&fields::string("list_unsubscribe.mailto", value)?)?,
            "one_click" => {
                one_click = Some(fields::boolean("list_unsubscribe.one_click", value)?);
            }
            _ => return Err(fields::unknown_member(FIELD, name, MEMBERS, ALIASES)),
        }
    }
    if url.is_empty() && mailto.is_empty() {
        return Err(Invalid::bad(FIELD, format!("\"{FIELD}\" names no address"))
            .with_hint("Give \"url\", \"mailto\" or both."));
    }
    let https = is_https(&url);
    if one_click == Some(true) && !https {
        let field = "list_unsubscribe.one_click";
        return Err(
            Invalid::bad(field, format!("\"{field}\" needs an https \"url\""))
                .with_hint("RFC 8058 allows one-click unsubscribing over https only."),
        );
    }
    Ok(ListUnsubscribe {
        url: Text(url.into()),
        mailto: Text(mailto.into()),
        one_click: one_click.unwrap_or(https),
    })
}

fn web_url(text: &str) -> Result<String, Invalid> {
    let field = "list_unsubscribe.url";
    if is_web_url(text) {
        return Ok(text.to_owned());
    }
    let message = format!("invalid address in \"{field}\": {}", quoted(text));
    Err(Invalid::bad(field, message).with_hint(
        "It begins with https:// or http://, in ASCII (other characters percent-encoded), with at most 900 bytes.",
    ))
}

/// From a mailbox's address or a `mailto:` URI.
fn mailto_uri(text: &str) -> Result<String, Invalid> {
    let field = "list_unsubscribe.mailto";
    let text = text.trim_matches(' ');
    if text
        .get(..7)
        .is_some_and(|s| s.eq_ignore_ascii_case("mailto:"))
    {
        let uri = format!("mailto:{}", &text[7..]);
        if is_mailto(&uri) {
            return Ok(uri);
        }
        let message = format!("invalid address in \"{field}\": {}", quoted(text));
        return Err(Invalid::bad(field, message)
            .with_hint("It looks like mailto:leave@example.com?subject=leave, percent-encoded."));
    }
    crate::check::header_text(field, text)?;
    let address = address::parse_address(field, text)?;
    let mut uri = "mailto:".to_owned();
    for b in address.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~@+!$'*[]:".contains(&b) {
            uri.push(char::from(b));
        } else {
            let _ = write!(uri, "%{b:02X}");
        }
    }
    Ok(uri)
}

/// Printable ASCII without what ends a URI in a header (RFC 2369 §2) or stands in none (RFC 3986 §2).
fn is_uri_text(text: &str) -> bool {
    text.len() <= MAX_URL
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"<>\"\\^`{|}".contains(&b))
}

fn is_web_url(text: &str) -> bool {
    let host = text.split_once("://").and_then(|(scheme, rest)| {
        let web = ["http", "https"]
            .iter()
            .any(|s| scheme.eq_ignore_ascii_case(s));
        web.then(|| rest.split(['/', '?', '#']).next().unwrap_or_default())
    });
    host.is_some_and(|host| !host.is_empty() && !host.starts_with(':')) && is_uri_text(text)
}

fn is_https(url: &str) -> bool {
    url.get(..8)
        .is_some_and(|s| s.eq_ignore_ascii_case("https://"))
}

fn is_mailto(uri: &str) -> bool {
    let address = uri
        .strip_prefix("mailto:")
        .and_then(|rest| rest.split('?').next());
    let two = address.and_then(|address| address.rsplit_once('@'));
    two.is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty()) && is_uri_text(uri)
}
