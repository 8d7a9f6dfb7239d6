//! Templates as a message uses them. What they are and how they are rendered is the caller's.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    check,
    content::{RenderedFrom, Template, Text},
    error::{Invalid, quoted},
    fields::{Draft, Form},
    limit::Budget,
    prepare::Context,
};

/// The longest name of a template, in bytes.
const MAX_NAME: usize = 255;
/// Longer than any language tag in use (RFC 5646 §4.4.1 counts 35).
const MAX_LOCALE: usize = 63;

/// Which template is to be rendered, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateUse<'a> {
    /// The template's name.
    pub name: Cow<'a, str>,
    /// The language asked for, as given (BCP 47).
    pub locale: Option<Cow<'a, str>>,
    /// The text of a JSON object, as given; `{}` where none is.
    pub params: &'a str,
}

/// What a template renders into; at least one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// One line.
    pub subject: Option<String>,
    /// The plain text.
    pub text: Option<String>,
    /// The HTML.
    pub html: Option<String>,
}

impl Rendered {
    /// The first field that no message can hold, and why.
    pub(crate) fn problem(&self) -> Option<(&'static str, &'static str)> {
        if self.subject.is_none() && self.text.is_none() && self.html.is_none() {
            return Some(("template", "renders into nothing"));
        }
        if self.subject.as_deref().is_some_and(check::has_control) {
            return Some(("subject", "renders into a subject with a control character"));
        }
        if self
            .subject
            .as_ref()
            .is_some_and(|s| s.len() > check::MAX_SUBJECT)
        {
            return Some(("subject", "renders into a subject that is too long"));
        }
        let null = |text: &Option<String>| text.as_ref().is_some_and(|t| t.contains('\0'));
        if null(&self.text) {
            return Some(("text", "renders into a text with a null character"));
        }
        null(&self.html).then_some(("html", "renders into HTML with a null character"))
    }

    fn size(&self) -> usize {
        let all = [&self.subject, &self.text, &self.html];
        all.into_iter().flatten().map(String::len).sum()
    }
}

/// A template rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateResult {
    /// What came out.
    pub rendered: Rendered,
    /// The language that was found for the one asked for.
    pub locale: String,
    /// The template's version.
    pub version: i32,
}

/// When a message's template is rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Each time it is composed, as the template then is.
    Send,
    /// Once, as the template is now.
    Enqueue,
}

/// A template's part of the canonical content.
#[derive(Debug, Default)]
pub(crate) struct Resolved<'a> {
    pub template: Option<Template<'a>>,
    pub from: Option<RenderedFrom<'a>>,
    /// Only where it is stored.
    pub rendered: Rendered,
    /// The subject that it has, or will probably have.
    pub subject: Option<String>,
}

/// Checks the fields of a template and renders it, so that what it lacks is said now. An external consumer renders
/// it by itself.
pub(crate) fn resolve<'a>(
    draft: &'a Draft<'a>,
    form: Form,
    context: &Context<'_>,
    budget: &mut Budget,
) -> Result<Resolved<'a>, Invalid> {
    let Some(name) = &draft.template else {
        return refuse_alone(draft).map_or_else(|| Ok(Resolved::default()), Err);
    };
    check_name(name)?;
    for (field, given) in [("text", &draft.text), ("html", &draft.html)] {
        if given.is_some() {
            let label = form.label(field);
            let message = format!("\"{label}\" cannot be given beside \"template\"");
            return Err(Invalid::bad(label, message).with_hint(
                "The template says what the message says; \"subject\" alone may differ.",
            ));
        }
    }
    if let Some(locale) = &draft.locale {
        check_locale(locale)?;
    }
    let when = when(draft)?;
    let template = Template {
        name: Text::from(&**name),
        locale: Text::from(draft.locale.as_deref().unwrap_or_default()),
        params: draft.params,
    };
    if context.external {
        return Ok(Resolved {
            template: Some(template),
            ..Resolved::default()
        });
    }
    let result = (context.render)(&template_use(&template))?;
    if let Some((_, problem)) = result.rendered.problem() {
        let message = format!("template {} {problem}", quoted(name));
        return Err(Invalid::bad("template", message));
    }
    budget.add(result.rendered.size())?;
    let subject = result.rendered.subject.clone();
    Ok(match when {
        When::Send => Resolved {
            template: Some(template),
            subject,
            ..Resolved::default()
        },
        When::Enqueue => Resolved {
            from: Some(RenderedFrom {
                template: template.name,
                locale: Text(result.locale.into()),
                version: result.version,
            }),
            rendered: result.rendered,
            subject,
            template: None,
        },
    })
}

fn template_use<'a>(template: &'a Template<'a>) -> TemplateUse<'a> {
    TemplateUse {
        name: Cow::Borrowed(&template.name),
        locale: (!template.locale.is_empty()).then(|| Cow::Borrowed(&*template.locale)),
        params: template.params.map_or("{}", RawValue::get),
    }
}

/// The fields that only go with a template.
fn refuse_alone(draft: &Draft<'_>) -> Option<Invalid> {
    let given = [
        ("params", draft.params.is_some()),
        ("locale", draft.locale.is_some()),
        ("render", draft.render.is_some()),
    ];
    let (field, _) = given.into_iter().find(|(_, given)| *given)?;
    let message = format!("\"{field}\" is given without \"template\"");
    Some(Invalid::bad(field, message))
}

fn check_name(name: &str) -> Result<(), Invalid> {
    check::header_text("template", name)?;
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Invalid::unknown_template(name));
    }
    Ok(())
}

/// Loosely: subtags of letters and digits, joined by hyphens or, as systems write it, underscores.
fn check_locale(locale: &str) -> Result<(), Invalid> {
    check::header_text("locale", locale)?;
    let subtag =
        |s: &str| (1..=8).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric());
    let letters = locale.starts_with(|c: char| c.is_ascii_alphabetic());
    if letters && locale.len() <= MAX_LOCALE && locale.split(['-', '_']).all(subtag) {
        return Ok(());
    }
    let message = format!("\"locale\" is not a language tag: {}", quoted(locale));
    Err(Invalid::bad("locale", message)
        .with_hint("A language tag (BCP 47) looks like de, pt-BR or zh-Hant-TW."))
}

fn when(draft: &Draft<'_>) -> Result<When, Invalid> {
    match draft.render.as_deref() {
        None | Some("send") => Ok(When::Send),
        Some("enqueue") => Ok(When::Enqueue),
        Some(other) => {
            let message = format!("\"render\" cannot be {}", quoted(other));
            Err(Invalid::bad("render", message).with_hint("It is \"send\" or \"enqueue\"."))
        }
    }
}

/// The template that content is to be rendered from before it is composed; `None` for content that needs none.
pub fn template_of(content: &str) -> Option<TemplateUse<'_>> {
    #[derive(Deserialize)]
    struct Only<'a> {
        #[serde(borrow, default)]
        template: Option<Template<'a>>,
    }
    // Nearly no content has one, and a search is faster than reading it all.
    if !content.contains("\"template\"") {
        return None;
    }
    let template = serde_json::from_str::<Only<'_>>(content).ok()?.template?;
    Some(TemplateUse {
        name: template.name.0,
        locale: (!template.locale.is_empty()).then_some(template.locale.0),
        params: template.params.map_or("{}", RawValue::get),
    })
}
