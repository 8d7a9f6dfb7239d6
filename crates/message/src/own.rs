//! What a caller adds to a message: headers, and tags, which never leave the house.

use crate::{
    check,
    content::{Members, Text},
    error::{Invalid, quoted},
    fields::Draft,
    limit::check_nesting,
};

/// The longest tag, in bytes.
const MAX_TAG: usize = 255;

/// The headers that the caller adds: each name once, none that another field or the system writes.
pub(crate) fn headers<'a>(draft: &'a Draft<'_>) -> Result<Members<'a, Text<'a>>, Invalid> {
    let mut seen = std::collections::HashSet::new();
    let mut out = Vec::with_capacity(draft.headers.0.len());
    for (name, value) in &draft.headers.0 {
        let field = || format!("headers.{}", name.chars().take(76).collect::<String>());
        let shown = quoted(name);
        if check::has_control(name) {
            let message = format!("header name {shown} contains a control character");
            return Err(Invalid::bad("headers", message));
        }
        if !check::is_header_name(name) {
            return Err(Invalid::bad(field(), format!("invalid header name {shown}")).with_hint(
                "A header name consists of at most 76 printable ASCII characters without spaces and colons.",
            ));
        }
        if let Some(hint) = check::reserved_header_hint(name) {
            let message = format!("header {shown} cannot be set");
            return Err(Invalid::bad(field(), message).with_hint(hint));
        }
        if !seen.insert(name.to_ascii_lowercase()) {
            return Err(Invalid::bad(
                field(),
                format!("header {shown} is given twice"),
            ));
        }
        if check::has_control(value) {
            let message = format!("header {shown} contains a control character");
            return Err(Invalid::bad(field(), message));
        }
        if !check::is_header_value(name, value) {
            let message = format!("header {shown} cannot be {}", quoted(value));
            return Err(Invalid::bad(field(), message)
                .with_hint("It is \"no\", \"auto-generated\" or \"auto-replied\"."));
        }
        out.push((Text::from(&**name), Text::from(&**value)));
    }
    Ok(Members(out))
}

/// What is kept for the caller, as given.
pub(crate) fn metadata(draft: &Draft<'_>) -> Result<Option<String>, Invalid> {
    let Some(metadata) = draft.metadata else {
        return Ok(None);
    };
    check_nesting("metadata", metadata.get())?;
    Ok(Some(metadata.get().to_owned()))
}

/// The tags, each once, in order.
pub(crate) fn tags(draft: &Draft<'_>) -> Result<Vec<String>, Invalid> {
    let mut seen = std::collections::HashSet::new();
    let mut out: Vec<String> = Vec::with_capacity(draft.tags.len());
    for tag in &draft.tags {
        check::header_text("tags", tag)?;
        let problem = match tag.len() {
            0 => "is empty".to_owned(),
            length if length > MAX_TAG => format!("is longer than {MAX_TAG} bytes"),
            _ => {
                if seen.insert(&**tag) {
                    out.push((**tag).to_owned());
                }
                continue;
            }
        };
        let message = format!("tag {} {problem}", quoted(tag));
        return Err(Invalid::bad("tags", message));
    }
    Ok(out)
}
