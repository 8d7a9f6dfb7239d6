//! What a reviewer of deliverability would say about a message before it is sent.

use crate::{
    attachment::File,
    compose,
    content::Content,
    error::ComposeError,
    html::{Scanner, Tag, Token},
    raw_head::{self, Field, Head},
    template::Rendered,
};

/// Gmail shows no more of a message's HTML.
const CLIPPED: usize = 102 * 1024;
/// RFC 5322 §2.1.1; readers show less.
const LONG_SUBJECT: usize = 78;

/// File names that large receivers refuse by their extension.
const BLOCKED: &[&str] = &[
    "ade", "adp", "apk", "appx", "bat", "cab", "chm", "cmd", "com", "cpl", "dll", "dmg", "exe",
    "hta", "ins", "iso", "isp", "jar", "js", "jse", "lib", "lnk", "mde", "msc", "msi", "msp",
    "mst", "pif", "ps1", "reg", "scr", "sct", "shb", "sys", "vb", "vbe", "vbs", "vhd", "vxd",
    "wsc", "wsf", "wsh",
];

/// Something that may keep a message from being read or delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Stable: `image_without_alt`, …
    pub code: &'static str,
    /// One line, lower case.
    pub text: String,
}

/// What a recipient would see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// Decoded.
    pub subject: Option<String>,
    /// The plain text, given or made from the HTML; unknown of a raw message.
    pub text: Option<String>,
    /// The HTML; unknown of a raw message.
    pub html: Option<String>,
    /// In the order of the message's parts, each code once.
    pub warnings: Vec<Warning>,
}

/// Shows canonical content and judges it; `bulk` if it goes to many. A template must be rendered. Of `files`, as they
/// were prepared, only a raw message is looked at.
///
/// # Errors
/// As [`crate::compose`].
pub fn preview(
    content: &str,
    files: &[File],
    rendered: Option<Rendered>,
    bulk: bool,
) -> Result<Preview, ComposeError> {
    let mut message: Content<'_> = serde_json::from_str(content)?;
    compose::take_rendered(&mut message, rendered)?;
    let mut found = Findings::default();
    found.subject(&message.subject);
    let text = compose::plain_text(&message);
    if message.raw {
        let Some(File::Bytes(data)) = files.first() else {
            return Err(ComposeError::Files {
                needed: 1,
                given: files.len(),
            });
        };
        let head = raw_head::read(data).map_err(|_| ComposeError::Field("raw"))?;
        found.raw_list(&head, bulk);
    } else {
        found.bodies(&message, text.is_empty());
        found.list(&message, bulk);
    }
    for attachment in &message.attachments {
        found.filename(&attachment.filename);
    }
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ok(Preview {
        subject: given(&message.subject),
        text: given(&text),
        html: given(&message.html),
        warnings: found.0,
    })
}

#[derive(Default)]
struct Findings(Vec<Warning>);

impl Findings {
    fn add(&mut self, code: &'static str, text: impl Into<String>) {
        if self.0.iter().all(|known| known.code != code) {
            let text = text.into();
            self.0.push(Warning { code, text });
        }
    }

    fn subject(&mut self, subject: &str) {
        let length = subject.chars().count();
        if subject.trim().is_empty() {
            self.add("subject_missing", "the message has no subject");
        } else if length > LONG_SUBJECT {
            let text = format!("the subject has {length} characters; readers show about 70");
            self.add("subject_too_long", text);
        }
        let letters = || subject.chars().filter(|c| c.is_alphabetic());
        if letters().count() > 8
            && letters().any(char::is_uppercase)
            && !letters().any(char::is_lowercase)
        {
            self.add("subject_in_capitals", "the subject is all in capitals");
        }
        if subject.matches('!').count() > 2 {
            self.add("subject_shouts", "the subject has many exclamation marks");
        }
    }

    fn bodies(&mut self, message: &Content<'_>, no_text: bool) {
        let (text, html) = (&*message.text, &*message.html);
        match (text.trim().is_empty(), html.trim().is_empty()) {
            (true, true) => self.add("empty_body", "the message has neither text nor HTML"),
            (true, false) if no_text => {
                self.add(
                    "html_without_text",
                    "the HTML shows no text at all, only images perhaps",
                );
            }
            (true, false) => {
                self.add(
                    "text_made_from_html",
                    "no text is given; it is made from the HTML",
                );
            }
            _ => {}
        }
        if html.len() > CLIPPED {
            let text = format!(
                "the HTML has {} bytes; Gmail clips it at 102 KB",
                html.len()
            );
            self.add("html_too_large", text);
        }
        if text.contains("http://") {
            self.add(
                "insecure_link",
                "the text links to http: rather than https:",
            );
        }
        for token in Scanner::new(html) {
            if let Token::Open(tag) = token {
                self.tag(&tag, message);
            }
        }
    }

    fn tag(&mut self, tag: &Tag<'_>, message: &Content<'_>) {
        if tag.is("img") {
            if tag.attribute("alt").is_none() {
                self.add(
                    "image_without_alt",
                    "an image has no alternative text (alt)",
                );
            }
            self.image(&tag.attribute("src").unwrap_or_default(), message);
        } else if tag.is("a") {
            let href = tag.attribute("href").unwrap_or_default();
            if href
                .trim()
                .get(..5)
                .is_some_and(|s| s.eq_ignore_ascii_case("http:"))
            {
                self.add("insecure_link", "a link goes to http: rather than https:");
            }
        } else if tag.is("script") || tag.is("form") || tag.is("iframe") {
            let name = tag.name.to_ascii_lowercase();
            self.add(
                "active_html",
                format!("readers remove <{name}> or warn of it"),
            );
        }
    }

    fn image(&mut self, source: &str, message: &Content<'_>) {
        let scheme = source.split_once(':').map_or("", |(scheme, _)| scheme);
        if scheme.eq_ignore_ascii_case("http") {
            self.add(
                "insecure_image",
                "an image is loaded over http: rather than https:",
            );
        } else if scheme.eq_ignore_ascii_case("data") {
            self.add(
                "image_as_data",
                "many readers do not show images given as data: URLs",
            );
        } else if scheme.eq_ignore_ascii_case("cid") {
            let id = &source[4..];
            if message.attachments.iter().all(|a| &*a.content_id != id) {
                let text =
                    format!("an image names the content_id \"{id}\", which no attachment has");
                self.add("image_missing", text);
            }
        }
    }

    fn list(&mut self, message: &Content<'_>, bulk: bool) {
        match &message.list_unsubscribe {
            _ if !bulk => {}
            None => self.add(
                "no_list_unsubscribe",
                "mail to many needs list_unsubscribe, or large receivers refuse it",
            ),
            Some(list) if !list.one_click => self.add(
                "no_one_click_unsubscribe",
                "mail to many needs an https url in list_unsubscribe with one_click (RFC 8058)",
            ),
            Some(_) => {}
        }
    }

    /// The same, by the header that a raw message has.
    fn raw_list(&mut self, head: &Head<'_>, bulk: bool) {
        if !bulk {
            return;
        }
        let value = |name: &str| {
            let field = head.fields.iter().find(|field| field.is(name));
            field.map(Field::value).unwrap_or_default()
        };
        let list = value("List-Unsubscribe").to_ascii_lowercase();
        if !list.contains('<') {
            self.add(
                "no_list_unsubscribe",
                "mail to many needs the header List-Unsubscribe, or large receivers refuse it",
            );
        } else if !list.contains("<https://")
            || !value("List-Unsubscribe-Post").eq_ignore_ascii_case("List-Unsubscribe=One-Click")
        {
            self.add(
                "no_one_click_unsubscribe",
                "mail to many needs an https address in List-Unsubscribe, and the header List-Unsubscribe-Post (RFC 8058)",
            );
        }
    }

    fn filename(&mut self, name: &str) {
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        if BLOCKED
            .iter()
            .any(|blocked| blocked.eq_ignore_ascii_case(extension))
        {
            let text = format!(
                "large receivers refuse attached .{} files",
                extension.to_ascii_lowercase()
            );
            self.add("blocked_attachment", text);
        }
        let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if name.contains(turns) {
            let text =
                "a file name turns the direction of writing, as frauds do to hide its extension";
            self.add("misleading_filename", text);
        }
    }
}
